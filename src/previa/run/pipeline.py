"""Preview a study: every method, every weighting, resumable; what it cost, and what a reader must know about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import chain, compress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from previa.core.isotropic import Isotropic
from previa.core.kronecker import Kronecker
from previa.core.mixture import Mixture
from previa.core.modes import modes
from previa.core.params import Flat
from previa.core.runs import Run
from previa.run.anchors import anchors_of
from previa.run.centre import facts_of, family_of, from_the_centre
from previa.run.evaluate import PreviewMethod, merged
from previa.run.fit import REGMEAN, SQUARES, Runs
from previa.run.records import digest
from previa.run.resolve import importable
from previa.run.rivals import LEFT_OUT, RIVALS, rivals
from previa.run.sharpen import Family, Sharpened, best, declare_refined, refined_there, sharpen
from previa.run.sweep import BLOCK_BYTES, Progress, sweep
from previa.run.work import Work
from previa.study.file import Study
from previa.study.preview import Preview
from previa.study.settings import ANCHORED, CENTRE, METHODS, SHARPENED
from previa.study.simplex import find

SATURATED = 1.5  # effective components per task, of several: EM picks one instead of blending


def preview(
    work: Work,
    runs: Runs,
    *,
    anchors: Sequence[Run] = (),
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, Preview]:
    """Every method's preview at the study's grid, uniform and size-proportional weights; only what is missing is scored.

    anchors: joint runs beside those of the study file and those trained by `train_anchors`; with any there are anchored
    previews, at the anchors' weightings, too, and their rivals "scores" and "scores_gp".
    What was scored with other posteriors, powers or anchors is forgotten, and so are subsets of the mixture that are gone. A
    family that methods of [preview] no longer names keeps its results, and so does what is built on it while the family is the
    same. The store's fact "warnings" is for the report. Raises as sweep, anchors_of and sharpen.
    """
    store, study = work.store, work.study
    alphas = work.alphas(study.preview.steps)
    _forget_subsets(work)
    families = families_of(study, runs)
    found = {
        name: _swept(work, name, one.method, {"posteriors": one.digest, "blocks": study.mixture.blocks}, alphas, workers, progress)
        for name, one in families.items()
    }  # fmt: skip
    if CENTRE in study.preview.methods:
        found[CENTRE] = _centre(work, families, alphas, workers, progress)
    there, said = anchors_of(work, anchors)
    sharpened = sharpen(work, families, there, progress=progress)
    _forget_sharpened(work, sharpened)
    beside = work.alphas(study.preview.steps, *(np.array(anchor.alpha) for anchor in there))
    for name, one in sharpened.items():
        rows = beside if one.facts["anchors"] else alphas
        found[name] = _swept(work, name, one.method, one.facts, rows, workers, progress)
    kept = _forget_stale(work, found)
    before = {name: one for name, one in (store.get("powers") or {}).items() if name in kept}
    store.put("powers", before | {name: dict(one.power) for name, one in sharpened.items()})
    if not anchors and refined_there(store):  # where anchors come from memory, `refine` does not know them
        declare_refined(work, best(work, families, there, progress=progress))
    found |= rivals(work, runs, there, families, sharpened, beside, progress=progress)
    store.put("method", study.followed(found))
    store.put("warnings", [*runs.warnings, *warnings(work, found), *said])
    return found


def _centre(
    work: Work,
    families: Mapping[str, Family],
    alphas: NDArray[np.float64],
    workers: int,
    progress: Progress | None,
) -> Preview:
    """The preview from the centre; looked at again only where a weighting is missing."""
    family = family_of(work, families, progress=progress)
    facts = facts_of(work, families, family)
    work.store.declare(CENTRE, facts)
    if not len(work.store.missing(CENTRE, alphas)):
        return work.store.preview(CENTRE).at(alphas)
    seen = from_the_centre(work, families[family], progress=progress)
    return _swept(work, CENTRE, seen.method, facts, alphas, workers, progress)


def _swept(
    work: Work,
    name: str,
    method: PreviewMethod,
    facts: Mapping[str, Any],
    alphas: NDArray[np.float64],
    workers: int,
    progress: Progress | None,
) -> Preview:
    ingredients = work.ingredients
    work.store.declare(name, facts)
    with importable(work.study.folder):  # for workers, who inherit the path
        return sweep(
            ingredients.model,
            method,
            ingredients.scorer,
            alphas,
            store=work.store,
            name=name,
            recalibrate=ingredients.recalibrate,
            workers=workers,
            progress=progress,
        )


def methods(study: Study, runs: Runs) -> dict[str, PreviewMethod]:
    """Each family's preview as a function from alphas to parameters, in the order of study.settings.METHODS.

    A subset of the mixture is a method of its own, before the whole (Study.mixtures).
    """
    return {
        name: partial(modes, posteriors=posteriors, **options)
        for name, (posteriors, options) in _posteriors(study, runs).items()
    }


def families_of(study: Study, runs: Runs) -> dict[str, Family]:
    """The same with names for what they rest on."""
    return {
        name: Family(partial(modes, posteriors=posteriors, **options), _digest(posteriors, options))
        for name, (posteriors, options) in _posteriors(study, runs).items()
    }


def all_methods(work: Work, runs: Runs, *, progress: Progress | None = None) -> dict[str, PreviewMethod]:
    """Every preview of the study as a function from alphas to parameters: families, then sharpened ones.

    Joint losses that were not measured yet are. Raises as anchors_of and sharpen.
    """
    families = families_of(work.study, runs)
    there, _ = anchors_of(work)
    sharpened = sharpen(work, families, there, progress=progress)
    found = {name: family.method for name, family in families.items()}
    if CENTRE in work.study.preview.methods:
        family = family_of(work, families, progress=progress)
        found[CENTRE] = from_the_centre(work, families[family], progress=progress).method
    return found | {name: one.method for name, one in sharpened.items()}


def previewed(work: Work, method: PreviewMethod, weights: NDArray[np.float64]) -> Flat:
    """The preview at these weights as a sweep finds it: EM's depends on which weightings are asked for together."""
    rows = work.alphas(work.study.preview.steps)
    at = find(rows, weights)
    if at is None:
        rows, at = np.vstack([rows, weights]), len(rows)
    size = max(1, BLOCK_BYTES // (4 * work.ingredients.layout.size))
    return next(merged(method, rows, [at], size)).params


def warnings(work: Work, previews: Mapping[str, Preview]) -> list[str]:
    """What a reader of the results must know: sentences, none where all is well."""
    found = []
    if np.ptp(work.size_proportional) == 0:
        found.append(
            "all tasks have the same number of training examples: size-proportional weights are uniform."
        )
    for name, one in previews.items():
        failed = int((~one.ok).sum())
        if failed:
            found.append(f"{name}: {failed} of {len(one)} weightings could not be scored.")
        stats = {key: values[one.ok] for key, values in one.stats.items()}
        slow = int((stats["converged"] == 0).sum()) if "converged" in stats else 0
        if slow:
            found.append(f"{name}: its modes had not converged at {slow} of {len(one)} weightings.")
        several = work.study.mixture.seeds * len(work.study.mixtures().get(name, ())) > 1
        if "effective_k" in stats and several and np.median(stats["effective_k"]) < SATURATED:
            found.append(
                f"{name}: EM picks one component per task instead of blending them (its effective number is "
                f"{np.median(stats['effective_k']):.2f}). A higher temperature or blocks = 'module' in [mixture] may blend."
            )
    return found


def _forget_subsets(work: Work) -> None:
    """Remove what was previewed of subsets that are gone; what others recorded under such a name, undeclared, stays."""
    for name in work.store.methods():
        head, _, K = name.rpartition("_")
        gone = head == "mixture" and K.isdecimal() and name not in work.study.mixtures()
        if gone and work.store.facts(name) is not None:
            work.store.declare(name, {})  # rests on nothing any more


def _forget_sharpened(work: Work, sharpened: Mapping[str, Sharpened]) -> None:
    """Remove anchored previews, and what rests on the same runs, when there are no anchors any more."""
    if not any(one.facts["anchors"] for one in sharpened.values()):
        for name in work.store.methods():
            if name in (*RIVALS, LEFT_OUT) or (name in SHARPENED and name.endswith(ANCHORED)):
                work.store.declare(name, {})
        for fact in ("anchors", "band", "left_out"):
            if work.store.get(fact) is not None:
                work.store.put(fact, None)


def _forget_stale(work: Work, found: Collection[str]) -> set[str]:
    """Remove sharpened previews, and that from the centre, that are not of now and whose family changed; those that stay."""
    store, kept = work.store, set()
    for name in store.methods():
        facts = store.facts(name)
        if name in (*SHARPENED, CENTRE) and name not in found and facts:
            family = store.facts(facts.get("family", "")) or {}
            if family.get("posteriors") == facts.get("posteriors"):
                kept.add(name)
            else:
                store.declare(name, {})
    return kept


Posteriors = tuple[list[Any], dict[str, Any]]
"""those of a preview, one a task, and options of `modes`"""


def _posteriors(study: Study, runs: Runs) -> dict[str, Posteriors]:
    """Per preview what is merged, and how."""
    tasks = list(runs.tasks.values())
    found: dict[str, Posteriors] = {}
    for name in (name for name in METHODS if name in study.families()):
        options: dict[str, Any] = {}
        if name in ("simple", "task_arithmetic"):
            posteriors: list[Any] = [Isotropic(task.mean) for task in tasks]
            options = {"prior": Isotropic(runs.base)} if name == "task_arithmetic" else {}
        elif name == "ivon_hessian":
            posteriors = [task.ivon[0][-1] for task in tasks]
        elif name == SQUARES:
            posteriors = [task.squares for task in tasks]
        elif name == REGMEAN:
            posteriors = [task.inputs for task in tasks]
        else:
            found |= _mixtures(study, runs)
            continue
        found[name] = posteriors, options
    return found


def _mixtures(study: Study, runs: Runs) -> dict[str, Posteriors]:
    """The mixture and its subsets: of each finetuned task all seeds' snapshots after these steps, of others what they bring."""
    blocks = runs.base.layout.blocks() if study.mixture.blocks == "module" else None
    found: dict[str, Posteriors] = {}
    for name, steps in study.mixtures().items():
        chosen = [step in steps for step in study.snapshot_steps()]
        posteriors = []
        for settings in study.tasks:
            ivon = runs.tasks[settings.name].ivon
            own = [compress(run, chosen) for run in ivon] if settings.checkpoint is None else ivon
            posteriors.append(Mixture([*chain(*own)], temperature=study.mixture.temperature))
        found[name] = posteriors, {} if blocks is None else {"blocks": blocks}
    return found


def _digest(posteriors: list[Any], options: Mapping[str, Any]) -> str:
    """A name for all that a merge rests on: posteriors, and the options of `modes`."""
    members = [one for q in posteriors for one in (q.components if isinstance(q, Mixture) else [q])]
    temperatures = torch.tensor([q.temperature for q in posteriors if isinstance(q, Mixture)])
    parts = [part for member in members for part in _parts(member)]
    if "prior" in options:
        parts += _parts(options["prior"])
    if "blocks" in options:
        parts.append(torch.tensor(options["blocks"]))
    return digest(temperatures, *parts)


def _parts(q: Any) -> list[torch.Tensor]:
    """All numbers of a posterior."""
    if isinstance(q, Kronecker):
        factors = [A for pair in q.factors.values() for A in pair if A is not None]
        return [q.mode().vector, *factors, torch.tensor(list((q.damping or {}).values()))]
    return list(q.natural())
