"""Sharpened previews of a study: warped weights, and anchors, with the family and the power that have the least joint loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from previa.core.anchored import anchored
from previa.core.warp import Method, warped
from previa.errors import InputError
from previa.run.anchors import Anchor
from previa.run.bench import bench_of
from previa.run.fit import SQUARES
from previa.run.joint_loss import training_losses
from previa.run.powers import POWERS, choose_power
from previa.run.sweep import Progress
from previa.run.work import Work, joint_recipe
from previa.study.settings import ANCHORED, WARPED
from previa.study.simplex import probes
from previa.study.store import Store

REFINED = "refined"


@dataclass(frozen=True)
class Family:
    """A family of posteriors that is merged: the method, and a name for all numbers that it rests on."""

    method: Method
    digest: str


@dataclass(frozen=True)
class Sharpened:
    """A sharpened preview: the method, what was chosen, and what it rests on."""

    method: Method
    family: str
    p: float
    facts: Mapping[str, Any]
    """for Store.declare"""
    power: Mapping[str, Any]
    """its entry in the store's fact "powers" """


def sharpen(
    work: Work, families: Mapping[str, Family], anchors: Sequence[Anchor], *, progress: Progress | None = None
) -> dict[str, Sharpened]:
    """Every sharpened preview that the study asks for; anchored ones only where there are anchors.

    families: of all those that [preview] names. Losses that were measured already are read from the store. Raises InputError
    where no joint loss is finite.
    """
    found: dict[str, Sharpened] = {}
    for kind in (WARPED, ANCHORED):
        names = [name for name in work.study.sharpened() if name.rpartition("_")[2] == kind]
        if names and (anchors or kind == WARPED):
            used = anchors if kind == ANCHORED else ()
            every = candidates(work, families)
            chosen = every if kind in names else {}
            chosen |= {f: families[f] for name in names if (f := name.rpartition("_")[0])}
            table = joint_losses(work, kind, chosen, used, progress=progress)
            for name in names:
                among = [family] if (family := name.rpartition("_")[0]) else list(every)
                found[name] = _chosen(work, {f: table[f] for f in among}, families, used)
    return found


def candidates(work: Work, families: Mapping[str, Family]) -> dict[str, Family]:
    """The families to choose among: task arithmetic not beside simple averaging, which it is on the simplex.

    And only those whose own runs are by the recipe of the joint runs, where there are such: AdamW fits the training data
    otherwise than IVON, so that losses would compare the optimizers instead of the merges.
    """
    study = work.study
    found = {
        name: families[name]
        for name in study.families()
        if not (name == "task_arithmetic" and "simple" in families)
    }
    if all(task.checkpoint is not None for task in study.tasks):  # they are what they are, in every family
        return found
    by_adamw = study.truth.optimizer == "adamw"
    alike = {name: one for name, one in found.items() if (name == SQUARES) == by_adamw}
    return alike or found


def best(
    work: Work,
    families: Mapping[str, Family],
    anchors: Sequence[Anchor] = (),
    *,
    progress: Progress | None = None,
) -> Sharpened:
    """The sharpened preview with the least joint loss, whether or not the study previews it: what joint runs start from."""
    every, kind = candidates(work, families), ANCHORED if anchors else WARPED
    return _chosen(work, joint_losses(work, kind, every, anchors, progress=progress), families, anchors)


def refined_there(store: Store) -> list[str]:
    """The methods "refined_<k>" that the store has declared."""
    return [
        name
        for name in store.methods()
        if name.rpartition("_")[0] == REFINED and name.rpartition("_")[2].isdecimal() and store.facts(name)
    ]


def declare_refined(work: Work, start: Sharpened, steps: Sequence[int] = ()) -> None:
    """Say what refined previews rest on, of these steps and of all that are there: one curve has one start and one recipe."""
    recipe = asdict(joint_recipe(work.study))
    of_recipe = {name: value for name, value in recipe.items() if name != "steps"}
    facts = {**start.facts, "base": bench_of(work.ingredients).digest, "recipe": of_recipe}
    for name in (*refined_there(work.store), *(f"{REFINED}_{k}" for k in steps)):
        work.store.declare(name, facts)


Losses = dict[str, dict[float, float]]
"""family -> power -> joint loss; NaN where it could not be measured"""


def joint_losses(
    work: Work,
    kind: str,
    families: Mapping[str, Family],
    anchors: Sequence[Anchor],
    *,
    progress: Progress | None = None,
) -> Losses:
    """The mean joint loss of each family at each power over `probes`; measured once, family by family, and kept in the store.

    Raises InputError where a family's losses cannot be measured and so cannot any other's.
    """
    study, store = work.study, work.store
    powers = POWERS if study.preview.power == "loss" else (float(study.preview.power),)
    alphas = probes(len(study.tasks))
    others = [
        [[*a.alpha, a.digest] for a in anchors],
        list(powers),
        study.preview.loss_examples,
        alphas.tolist(),
    ]
    kept: dict[str, Any] = store.get("joint_losses", {}).get(kind, {})
    missing = [
        name for name, one in families.items() if kept.get(name, {}).get("rests_on") != [one.digest, *others]
    ]
    failure: InputError | None = None
    tell = _summed(progress, f"joint loss, {kind}", len(missing) * len(powers) * len(alphas))
    scorer = training_losses(work.ingredients, study.preview.loss_examples) if missing else None
    for name in missing:
        assert scorer is not None
        started, losses = time.perf_counter(), dict.fromkeys(powers, float("nan"))
        try:
            losses |= choose_power(
                work.ingredients.model,
                {name: _at_powers(families[name].method, anchors)},
                scorer,
                alphas,
                tasks=study.names(),
                powers=powers,
                recalibrate=work.ingredients.recalibrate,
                progress=tell,
            ).losses[name]
        except InputError as error:  # none of them is finite: another family's may be
            failure = failure or error
        store.add_seconds("powers", time.perf_counter() - started)
        shown = {str(p): loss if np.isfinite(loss) else None for p, loss in losses.items()}
        kept = {**kept, name: {"rests_on": [families[name].digest, *others], "losses": shown}}
        store.put("joint_losses", {**store.get("joint_losses", {}), kind: kept})
    found = {
        name: {float(p): np.nan if v is None else float(v) for p, v in kept[name]["losses"].items()}
        for name in families
    }
    if not any(np.isfinite(loss) for own in found.values() for loss in own.values()):
        raise failure or InputError(f"joint loss, {kind}: none is finite, of {', '.join(families)}.")
    return found


def _at_powers(method: Method, anchors: Sequence[Anchor]) -> Callable[[float], Method]:
    if not anchors:
        return partial(warped, method)
    runs = [anchor.run for anchor in anchors]
    return lambda p: anchored(method, runs, p=p)


def _chosen(
    work: Work, table: Losses, families: Mapping[str, Family], anchors: Sequence[Anchor]
) -> Sharpened:
    """argmin over families and powers; of equals the first."""
    flat = [
        (loss, family, p) for family, own in table.items() for p, loss in own.items() if np.isfinite(loss)
    ]
    if not flat:
        raise InputError(
            f"joint loss: none of {', '.join(table)} is finite at all weightings, so no power can be chosen. Set power in "
            "[preview] to a number, or leave these families out of its methods."
        )
    _, family, p = min(flat, key=lambda one: one[0])
    study, alphas = work.study, probes(len(work.study.tasks))
    facts = {
        "posteriors": families[family].digest, "blocks": study.mixture.blocks, "family": family, "p": p,
        "anchors": [[*anchor.alpha, anchor.digest] for anchor in anchors],
    }  # fmt: skip
    examples = sum(min(N, study.preview.loss_examples) for N in work.ingredients.sizes.values())
    power = {
        "chosen": {"method": family, "p": p},
        "losses": {f: {str(q): v if np.isfinite(v) else None for q, v in own.items()} for f, own in table.items()},
        "evaluations": len(alphas) * sum(map(len, table.values())),
        "examples": examples,
        "alphas": alphas.tolist(),
    }  # fmt: skip
    return Sharpened(_at_powers(families[family].method, anchors)(p), family, p, facts, power)


def _summed(progress: Progress | None, what: str, total: int) -> Progress | None:
    """A progress that counts all parts of a piece of work as one."""
    if progress is None:
        return None
    parts: dict[str, int] = {}

    def tell(part: str, done: int, _: int) -> None:
        parts[part] = done
        progress(what, sum(parts.values()), total)

    return tell
