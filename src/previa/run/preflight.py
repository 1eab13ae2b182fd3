"""Pre-flight checks: what speaks for and against previews of this study, before anything long. Nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from previa.core.params import Flat
from previa.run.evaluate import Evaluation
from previa.run.fit import SQUARES
from previa.run.joint_loss import training_losses
from previa.run.live import live
from previa.run.sweep import Progress
from previa.run.task_vectors import TaskVectors, overlaps, task_vectors
from previa.run.there import There, previewed, there
from previa.run.work import Work
from previa.study.preview import Preview, metric_weights
from previa.study.simplex import find

Level = Literal["ok", "note", "warning"]

FAR = 0.7  # of the base's length: networks of two random starts are 1.4 apart
UNEQUAL = 3.0  # task vectors whose lengths differ by more
ALIKE = 0.95  # overlap of precisions above which weighing by them does little
MOSTLY = 0.5  # share of a precision that is its prior or initial value
FEW, SOME = 100, 400  # test items
LOW = 0.2  # of the experts' own losses: a barrier that is a warning
HALF = 0.5  # of what the experts gained over the base
PAIRED = 50  # weightings whose difference from the pick tells how well items are paired


@dataclass(frozen=True)
class Check:
    """One check: what it means for this study, in a sentence, and the numbers behind it."""

    name: str
    sentence: str
    level: Level
    numbers: Mapping[str, Any] = field(default_factory=dict)


def preflight(work: Work, *, progress: Progress | None = None) -> tuple[Check, ...]:
    """All checks of a study, on what is there of it; also the store's fact "preflight".

    Looked at are parameters and precisions, the loss on [preview] loss_examples training examples of each task at each expert
    and at the middle of each pair, and one scoring unless something was previewed. Raises as `there`.
    """
    have = there(work)
    losses = _losses(work, have, progress)
    checks: Sequence[Callable[[], Check | None]] = (
        lambda: _runs(work, have),
        lambda: _base(work, have),
        lambda: _distance(work, have),
        lambda: _curvature(have),
        lambda: None if losses is None else _barrier(losses),
        lambda: _memory(work, have),
        lambda: _test_sets(work, have),
    )
    found = tuple(one for check in checks if (one := check()) is not None)
    work.store.put("preflight", [_plain(asdict(one)) for one in found])
    return found


def _runs(work: Work, have: There) -> Check:
    if have.problem is not None:
        return Check("runs", have.problem, "warning")
    T, n = len(work.study.tasks), len(work.study.tasks) - len(have.missing)
    numbers = {"tasks": T, "there": n, "missing": list(have.missing)}
    if not have.missing:
        return Check("runs", f"All {T} tasks have their own runs.", "ok", numbers)
    base = "" if have.base is not None else " The base is not pretrained yet, either."
    return Check(
        "runs",
        f"{n} of {T} tasks have all their own runs; missing: {', '.join(have.missing)}.{base} `previa fit` makes them; what rests "
        "on them is not checked yet.",
        "note",
        numbers,
    )


def _base(work: Work, have: There) -> Check | None:
    """How it is known that the experts come from one base."""
    folders = work.ingredients.folders
    brought = [task.name for task in work.study.tasks if task.checkpoint is not None]
    if not brought:
        return Check(
            "base", "All tasks are finetuned here, from one base: it is the same.", "ok", {"brought": []}
        )
    if folders is None:
        how = "names and shapes of all tensors, and the values of the frozen ones"
    elif folders.is_adapter:
        how = "the adapters' settings, shapes and common initial A, and the vocabularies"
    else:
        how = "the classes of the models, their configurations and vocabularies, names and shapes of all tensors"
    numbers: dict[str, Any] = {"brought": brought, "checked": how}
    unknown = folders.no_start[1] if folders is not None else None
    if unknown is not None or have.base is None:
        return Check(
            "base",
            f"The checkpoints agree in {how}; that they started from the study's base cannot be measured: {unknown or 'it is not there yet'}",
            "note",
            numbers,
        )
    v = task_vectors(have.base.vector, [have.means[name].vector for name in brought])
    share = v.norms / v.base if v.base else np.full(len(brought), np.nan)
    numbers |= {
        "distance": dict(zip(brought, share, strict=True)),
        "cosine": dict(zip(brought, v.to_base, strict=True)),
    }
    adapter = folders is not None and folders.is_adapter
    if not adapter and np.nanmax(share) > FAR:
        worst = int(np.nanargmax(share))
        return Check(
            "base",
            f"{brought[worst]} is {share[worst]:.2g} of the base's length away from it, cosine {v.to_base[worst]:.2g}; networks "
            "of different starts are about 1.4 apart. Was it finetuned from this base? Else merging it means nothing.",
            "warning",
            numbers,
        )
    near = (
        ""
        if adapter
        else f", and the parameters are at most {100 * np.nanmax(share):.2g} % of the base's length from it"
    )
    return Check(
        "base",
        f"The checkpoints agree with the base in {how}{near}: nothing speaks against one base.",
        "ok",
        numbers,
    )


def _distance(work: Work, have: There) -> Check | None:
    """How far the experts went, and whether in one direction."""
    names = list(have.means)
    if have.base is None or len(names) < 2:
        return None
    v = task_vectors(have.base.vector, [have.means[name].vector for name in names])
    pairs = list(combinations(range(len(names)), 2))
    numbers = {
        "base": v.base,
        "norms": dict(zip(names, v.norms, strict=True)),
        "cosines": {_pair(names, i, j): v.cosines[i, j] for i, j in pairs},
        "distances": {_pair(names, i, j): v.distances[i, j] for i, j in pairs},
    }
    if not v.norms.all():
        still = names[int(np.argmin(v.norms))]
        return Check(
            "distance", f"{still} is the base itself: its checkpoint was not trained.", "warning", numbers
        )
    return Check("distance", *_of_vectors(names, v, pairs), numbers)


def _of_vectors(names: list[str], v: TaskVectors, pairs: list[tuple[int, int]]) -> tuple[str, Level]:
    far, close = int(np.argmax(v.norms)), int(np.argmin(v.norms))
    cosines = np.array([v.cosines[pair] for pair in pairs])
    low = pairs[int(np.argmin(cosines))]
    moved = (
        f"The experts moved {v.norms[close]:.3g} ({names[close]}) to {v.norms[far]:.3g} ({names[far]}), "
        + (
            f"{_percent(v.norms[close] / v.base)} to {_percent(v.norms[far] / v.base)} of the base's length"
            if v.base
            else "from 0"
        )
        + f", with cosines from {cosines.min():.2f} to {cosines.max():.2f}"
    )
    if v.norms[far] > UNEQUAL * v.norms[close]:
        return (
            f"{moved}: averages are mostly about {names[far]}, which moved {v.norms[far] / v.norms[close]:.1f} times as far as "
            f"{names[close]}. Expect previews to favour it at equal weights.",
            "note",
        )
    if cosines.min() < -0.1:
        return (
            f"{moved}: {names[low[0]]} and {names[low[1]]} pull the parameters against each other, so that averages undo part of "
            "both. Expect low previews between them; an anchor there helps.",
            "note",
        )
    if cosines.max() > 0.5:
        return f"{moved}: they went much the same way, and merges keep most of it.", "ok"
    return (
        f"{moved}: nearly at right angles, so that a merge keeps of each task about its own weight's share. Previews are then low "
        "inside; warped weights were made for this.",
        "ok",
    )


def _curvature(have: There) -> Check | None:
    """Whether precisions differ between tasks, and how much of them is measured."""
    kinds: dict[str, Mapping[str, Flat]] = {"ivon": have.ivon, SQUARES: have.squares}
    numbers: dict[str, Any] = {}
    found: list[tuple[str, Level]] = []
    for kind, precisions in kinds.items():
        names = list(precisions)
        if len(names) < 2:
            continue
        b = overlaps([precisions[name].vector for name in names])
        pairs = list(combinations(range(len(names)), 2))
        low = min(b[pair] for pair in pairs)
        shares = [_share(have, kind, name) for name in names]
        share = (
            float(np.mean([s for s in shares if s is not None]))
            if any(s is not None for s in shares)
            else None
        )
        numbers[kind] = {
            "overlap": {_pair(names, i, j): b[i, j] for i, j in pairs},
            "unmeasured_share": share,
        }
        shown = "IVON's precisions" if kind == "ivon" else "squared gradients"
        what = "initial value" if kind == "ivon" else "prior"
        if share is not None and share > MOSTLY:
            found.append((
                f"{shown} are {_percent(share)} their {what}, so their overlap ({low:.2f} at least) says little, and merging by "
                f"them is close to simple averaging", "note",
            ))  # fmt: skip
        elif low > ALIKE:
            found.append((
                f"{shown} overlap by {low:.2f} or more of 1: the tasks are steep in the same parameters, and merging by them is "
                "close to simple averaging", "note",
            ))  # fmt: skip
        else:
            found.append((
                f"{shown} overlap by {low:.2f} to {max(b[pair] for pair in pairs):.2f} of 1: the tasks need different "
                "parameters, and merging by them differs from simple averaging", "ok",
            ))  # fmt: skip
    if not found:
        return None
    sentence = "; ".join(text for text, _ in found)
    level: Level = "note" if any(one == "note" for _, one in found) else "ok"
    return Check("curvature", sentence[0].upper() + sentence[1:] + ".", level, numbers)


def _share(have: There, kind: str, task: str) -> float | None:
    """The share of a precision that no data made."""
    provenance = have.provenance.get((kind, task))
    if provenance is None:
        return None
    return provenance.memory if kind == "ivon" else provenance.prior_share


@dataclass(frozen=True)
class _Losses:
    """Mean training losses [points, T] of each task: at each expert, at the middle of each pair, last at the base, where it is there."""

    names: list[str]
    at: NDArray[np.float64]
    pairs: list[tuple[int, int]]
    examples: Mapping[str, int]


def _losses(work: Work, have: There, progress: Progress | None) -> _Losses | None:
    names = list(have.means)
    if len(names) < 2:
        return None
    ingredients, every = work.ingredients, work.study.names()
    losses = training_losses(ingredients, work.study.preview.loss_examples)
    pairs = list(combinations(range(len(names)), 2))
    means = [have.means[name].vector for name in names]
    points = [*means, *((means[i] + means[j]) / 2 for i, j in pairs)]
    points += [have.base.vector] if have.base is not None else []
    job = Evaluation(ingredients.model, losses, every, ingredients.recalibrate)
    at = np.full((len(points), len(every)), np.nan)
    with live(ingredients.model, ingredients.layout) as place:
        for number, vector in enumerate(points):
            found, failure, _ = job.run(place, vector)
            if failure is None:
                at[number] = [float(np.mean(found[task])) / losses.scale[task] for task in every]
            if progress is not None:
                progress("training losses", number + 1, len(points))
    return _Losses(names, at[:, [every.index(name) for name in names]], pairs, losses.counts)


def _barrier(losses: _Losses) -> Check:
    """(l_s + l_t)/2 at (theta_s + theta_t)/2, minus its mean at theta_s and theta_t; and how much of what each expert gained over

    the base on its own task is left there, (base - middle) / (base - own).
    """
    names, at, base = losses.names, losses.at, None
    if len(at) > len(names) + len(losses.pairs):
        base = at[-1]
    numbers: dict[str, Any] = {
        "examples": dict(losses.examples),
        "barrier": {},
        "middle": {},
        "own": {},
        "kept": {},
    }
    for number, (i, j) in enumerate(losses.pairs):
        pair, both = _pair(names, i, j), at[:, [i, j]].mean(axis=1)
        middle, own = both[len(names) + number], (at[i, i] + at[j, j]) / 2
        numbers["barrier"][pair] = middle - (both[i] + both[j]) / 2
        numbers["middle"][pair], numbers["own"][pair] = middle, own
        if base is not None and (gained := (base[i] + base[j]) / 2 - own) > 0:
            numbers["kept"][pair] = (own + gained - middle) / gained
    barriers, kept = numbers["barrier"], numbers["kept"]
    if not np.isfinite(list(barriers.values())).all():
        return Check(
            "barrier", "The training loss of an expert or of an average of two is not finite: look at the data's losses.", "warning",
            numbers,
        )  # fmt: skip
    worst = max(barriers, key=lambda pair: float(barriers[pair]))
    rest = f"on {sum(losses.examples.values())} training examples"
    if barriers[worst] > 0:
        level: Level = "warning" if barriers[worst] > LOW * numbers["own"][worst] else "note"
        return Check(
            "barrier",
            f"There is a barrier: halfway between {worst} the mean training loss of both tasks is {barriers[worst]:.3g} above the "
            f"mean of the two experts, {rest}. Averages are worse there than either, and so will be previews; anchors help.",
            level,
            numbers,
        )
    flat = f"No barrier: halfway between any two experts both tasks' mean training loss is {-barriers[worst]:.3g} or more below the mean of the two, {rest}"
    if not kept:
        return Check("barrier", f"{flat}.", "ok", numbers)
    least = min(kept, key=lambda pair: float(kept[pair]))
    if kept[least] < 0:
        return Check(
            "barrier",
            f"{flat}; but halfway between {least} it is above the base's: averaging loses all that finetuning gained. Previews will "
            "be far too low inside; warped weights, or anchors, help.",
            "warning",
            numbers,
        )
    level = "note" if kept[least] < HALF else "ok"
    end = " Expect low previews inside." if level == "note" else ""
    return Check(
        "barrier", f"{flat}; averages of two keep {_percent(kept[least])} ({least}) to {_percent(max(kept.values()))} of what the experts "
        f"gained over the base.{end}", level, numbers,
    )  # fmt: skip


def _memory(work: Work, have: There) -> Check | None:
    """beta2^steps, what is left of hess_init."""
    study = work.study
    left = {
        task.name: study.finetune.betas[1] ** study.finetune.steps
        for task in study.tasks
        if task.checkpoint is None and set(study.families()) - {SQUARES}
    }
    left |= {
        name: provenance.memory
        for (kind, name), provenance in have.provenance.items()
        if kind == "ivon" and provenance.memory is not None
    }
    if not left:
        return None
    name = max(left, key=left.__getitem__)
    most = left[name]
    said = f"{_percent(most)} of hess_init is left in IVON's Hessian" + (
        f" of {name}" if len(set(left.values())) > 1 else ""
    )
    uses = {"ivon_hessian", "mixture"} & set(study.families())
    if most <= MOSTLY or not uses:
        end = (
            "it is measured, not assumed." if most <= MOSTLY else "but no method of this study merges by it."
        )
        return Check(
            "memory", f"{said}: {end}" if most <= MOSTLY else f"{said}, {end}", "ok", {"memory": left}
        )
    return Check(
        "memory",
        f"{said}: {' and '.join(sorted(uses))} will be close to simple averaging. Lower the second of betas in [finetune], or "
        "train longer.",
        "warning",
        {"memory": left},
    )


def _test_sets(work: Work, have: There) -> Check:
    """How many items there are, and which differences they tell; from stored previews, else from one scoring."""
    study = work.study
    seen, seconds = previewed(work), None
    if seen is None:
        seen, seconds = _scored_once(work, have)
    if seen is None:
        return Check(
            "test sets",
            "One scoring failed, so nothing is known of the test sets: `previa preview` says why.",
            "warning",
        )
    sizes = {
        task: None if items is None else items.shape[1]
        for task, items in zip(seen.tasks, seen.items, strict=True)
    }
    numbers: dict[str, Any] = {"items": sizes, "seconds_per_scoring": seconds}
    more = ""
    if seconds is not None:
        previews, rows = len(study.previews()), len(work.alphas(study.preview.steps))
        numbers |= {
            "weightings": rows,
            "previews": previews,
            "seconds_of_previews": seconds * rows * previews,
        }
        more = f" One scoring took {_time(seconds)}: {rows} weightings by {previews} previews about {_time(seconds * rows * previews)} in one process."
    if any(n is None for n in sizes.values()):
        return Check(
            "test sets",
            "The score is one number a task, so that no noise can be told: a function that returns one number per test item makes "
            f"error bars possible.{more}",
            "note",
            numbers,
        )
    errors = {
        t: float(i.std(axis=1).mean() / math.sqrt(i.shape[1]))
        for t, i in zip(seen.tasks, seen.items, strict=True)
        if i is not None
    }
    w = metric_weights(seen.tasks, study.metric_weights())
    smallest, paired = _smallest(seen, w)
    numbers |= {"standard_errors": errors, "smallest_difference": smallest, "paired": paired}
    least = min(sizes, key=lambda task: sizes[task] or 0)
    few = sizes[least] or 0
    kind = (
        "between two weightings"
        if paired
        else "between two weightings, at most (once previewed, pairs of items tell more),"
    )
    sentence = (
        f"{', '.join(f'{task} {n}' for task, n in sizes.items())} test items: standard errors {min(errors.values()):.3f} to "
        f"{max(errors.values()):.3f} a task; differences of the mean score {kind} below {smallest:.3f} cannot be told."
    )
    if few < FEW:
        sentence += f" {least} has few: more test items make every choice surer."
    return Check(
        "test sets", sentence + more, "warning" if few < FEW else "note" if few < SOME else "ok", numbers
    )


def _scored_once(work: Work, have: There) -> tuple[Preview | None, float | None]:
    """The scores of the average of the experts, or of the model as it is built, and their seconds."""
    ingredients = work.ingredients
    means = [mean.vector.double() for mean in have.means.values()]
    base = have.base if have.base is not None else ingredients.base
    vector = (sum(means[1:], means[0]) / len(means)).to(base.vector) if means else base.vector
    names = ingredients.study.names()
    job = Evaluation(ingredients.model, ingredients.scorer, names, ingredients.recalibrate)
    with live(ingredients.model, ingredients.layout) as place:
        found, failure, seconds = job.run(place, vector)
    if failure is not None:
        return None, None
    items = tuple(np.asarray(found[task])[None] if np.ndim(found[task]) else None for task in names)
    scores = [[float(np.mean(found[task], dtype=np.float64)) for task in names]]
    return Preview(names, work.uniform[None], np.array(scores), items), seconds


def _smallest(seen: Preview, w: NDArray[np.float64]) -> tuple[float, bool]:
    """1.96 standard errors of the difference of two weightings: the median over pairs with the best, else as if unpaired."""
    items = [i.astype(np.float64) for i in seen.items if i is not None]
    best = int(np.argmax(seen.scores @ w))
    others = [a for a in np.linspace(0, len(seen) - 1, PAIRED).astype(int).tolist() if a != best]
    if find(seen.alphas[:1], seen.alphas[best]) is not None and len(seen) == 1:
        others = []
    errors = [
        math.sqrt(
            sum(
                weight**2 * float((i[best] - i[a]).var()) / i.shape[1]
                for weight, i in zip(w, items, strict=True)
            )
        )
        for a in dict.fromkeys(others)
    ]
    if errors:
        return 1.96 * float(np.median(errors)), True
    single = math.sqrt(
        sum(weight**2 * float(i[best].var()) / i.shape[1] for weight, i in zip(w, items, strict=True))
    )
    return 1.96 * math.sqrt(2) * single, False


def _pair(names: Sequence[str], i: int, j: int) -> str:
    return f"{names[i]} | {names[j]}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _plain(value: Any) -> Any:
    """As JSON data: what is no number is None."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
