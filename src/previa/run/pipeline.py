"""Preview a study: every method, every weighting, resumable; what it cost, and what a reader must know about it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import chain, compress
from typing import Any

import numpy as np
import torch

from previa.core.isotropic import Isotropic
from previa.core.kronecker import Kronecker
from previa.core.mixture import Mixture
from previa.core.modes import modes
from previa.run.evaluate import PreviewMethod
from previa.run.fit import REGMEAN, SQUARES, Runs
from previa.run.records import digest
from previa.run.sweep import Progress, sweep
from previa.run.work import Work
from previa.study.file import Study
from previa.study.preview import Preview
from previa.study.settings import METHODS

SATURATED = 1.5  # effective components per task, of several: EM picks one instead of blending


def preview(
    work: Work, runs: Runs, *, workers: int = 1, progress: Progress | None = None
) -> dict[str, Preview]:
    """Every method's preview at the study's grid, uniform and size-proportional weights; only what is missing is scored.

    What was scored with other posteriors is forgotten first, and so are subsets of the mixture that the study no longer has:
    only while it has them is known what their names mean. The store's fact "warnings" is for the report. Raises as sweep.
    """
    alphas, ingredients = work.alphas(work.study.preview.steps), work.ingredients
    found: dict[str, Preview] = {}
    _forget_subsets(work)
    for name, (posteriors, method) in _posteriors(work.study, runs).items():
        work.store.declare(name, {"posteriors": _digest(posteriors), "blocks": work.study.mixture.blocks})
        found[name] = sweep(
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
    work.store.put("warnings", [*runs.warnings, *warnings(work, found)])
    return found


def methods(study: Study, runs: Runs) -> dict[str, PreviewMethod]:
    """Each preview of the study as a function from alphas to parameters, in the order of study.file.METHODS.

    A subset of the mixture is a method of its own, before the whole (Study.mixtures).
    """
    return {name: method for name, (_, method) in _posteriors(study, runs).items()}


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


def _posteriors(study: Study, runs: Runs) -> dict[str, tuple[list[Any], PreviewMethod]]:
    """Per preview its posteriors, one a task, and the function that merges them."""
    tasks = list(runs.tasks.values())
    found: dict[str, tuple[list[Any], PreviewMethod]] = {}
    for name in (name for name in METHODS if name in study.preview.methods):
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
        found[name] = posteriors, partial(modes, posteriors=posteriors, **options)
    return found


def _mixtures(study: Study, runs: Runs) -> dict[str, tuple[list[Any], PreviewMethod]]:
    """The mixture and its subsets: of each finetuned task all seeds' snapshots after these steps, of others what they bring."""
    blocks = runs.base.layout.blocks() if study.mixture.blocks == "module" else None
    found: dict[str, tuple[list[Any], PreviewMethod]] = {}
    for name, steps in study.mixtures().items():
        chosen = [step in steps for step in study.snapshot_steps()]
        posteriors = []
        for settings in study.tasks:
            ivon = runs.tasks[settings.name].ivon
            own = [compress(run, chosen) for run in ivon] if settings.checkpoint is None else ivon
            posteriors.append(Mixture([*chain(*own)], temperature=study.mixture.temperature))
        found[name] = posteriors, partial(modes, posteriors=posteriors, blocks=blocks)
    return found


def _digest(posteriors: list[Any]) -> str:
    members = [one for q in posteriors for one in (q.components if isinstance(q, Mixture) else [q])]
    temperatures = torch.tensor([q.temperature for q in posteriors if isinstance(q, Mixture)])
    return digest(temperatures, *(part for member in members for part in _parts(member)))


def _parts(q: Any) -> list[torch.Tensor]:
    """All numbers of a posterior."""
    if isinstance(q, Kronecker):
        factors = [A for pair in q.factors.values() for A in pair if A is not None]
        return [q.mode().vector, *factors, torch.tensor(list((q.damping or {}).values()))]
    return list(q.natural())
