"""Pre-flight checks of the recipe and the test sets: what IVON forgets of its start, and which differences can be told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from previa.run.check import Check, duration, percent, span
from previa.run.evaluate import Evaluation
from previa.run.fit import SQUARES
from previa.run.live import live
from previa.run.preflight_merges import MOSTLY
from previa.run.there import There, previewed
from previa.run.work import Work
from previa.study.preview import Preview, metric_weights

FEW, SOME = 100, 400  # test items
PAIRED = 50  # weightings whose difference from the best tells how well items are paired


def memory(work: Work, have: There) -> Check | None:
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
    said = f"{percent(most)} of hess_init is left in IVON's Hessian" + (
        f" of {name}" if len(set(left.values())) > 1 else ""
    )
    uses = {"ivon_hessian", "mixture"} & set(study.families())
    if most <= MOSTLY or not uses:
        if most > MOSTLY:
            return Check(
                "memory", f"{said}, but no method of this study merges by it.", "ok", {"memory": left}
            )
        return Check("memory", f"{said}; the rest is measured.", "ok", {"memory": left})
    return Check(
        "memory",
        f"{said}: {' and '.join(sorted(uses))} will be close to simple averaging. Lower the second of betas in [finetune], or "
        "train longer.",
        "warning",
        {"memory": left},
    )


def test_sets(work: Work, have: There) -> Check:
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
        more = f" One scoring took {duration(seconds)}: {rows} weightings by {previews} previews about {duration(seconds * rows * previews)} in one process."
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
    told = f"cannot be told below {smallest:.3f}" + (
        "" if paired else " at most: pairs of items tell more, once there is a preview"
    )
    sentence = (
        f"{', '.join(f'{task} {n}' for task, n in sizes.items())} test items: standard errors of a task's score "
        f"{span(min(errors.values()), max(errors.values()), 3)}; differences of the mean score between two weightings {told}."
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
