"""Validate a preview: train a few true runs, or take their scores from a table, and say what they tell of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from previa.errors import InputError, StoreError, StudyError
from previa.run.anchors import exact
from previa.run.fit import SQUARES
from previa.run.joint import truth
from previa.run.sweep import Progress
from previa.run.work import Work, adamw_recipe, ivon_recipe, joint_recipe
from previa.study.correct import Corrected, corrected
from previa.study.floors import candidates
from previa.study.preference import Preference
from previa.study.preview import Preview
from previa.study.runs_csv import GivenRuns
from previa.study.settings import SHARPENED
from previa.study.simplex import key, show
from previa.study.truth import GIVEN, JOINT, true_runs
from previa.study.validation import Proposal, Validation, proposals, validated

FAR = 3.0  # widths of the previewed range: a score farther from it is on another scale
NARROW = 0.1  # of the largest previewed score: no range counts as narrower, since a preview may hardly move


@dataclass(frozen=True)
class Plan:
    """The true runs to train, each with an estimate of its seconds (None: nothing is known of them); known: how many there are."""

    method: str
    proposed: tuple[Proposal, ...]
    seconds: tuple[float | None, ...]
    known: int


def followed(work: Work, method: str | None = None) -> tuple[str, Preview]:
    """The preview to validate: ``method``, else the study's choice of those that are there. Raises StoreError without any."""
    there = [name for name in work.store.methods() if work.store.preview(name).ok.any()]
    name = method or work.study.followed(there)
    if name not in there:
        known = [one for one in there if one in work.study.previews()] or there
        what = f"only {', '.join(known)}" if known else "nothing"
        raise StoreError(
            f"{work.store.path}: {name} was not previewed, {what}. Run `previa preview` on the study first."
        )
    return name, work.store.preview(name)


def plan_runs(
    work: Work, number: int, *, method: str | None = None, preference: Preference | None = None
) -> Plan:
    """The ``number`` true runs to train next, which `train_runs` does; nothing is trained. Raises as `proposals`, StoreError."""
    name, preview = followed(work, method)
    known = true_runs(work.store)
    wanted = proposals(
        preview,
        number,
        uniform=work.uniform,
        size_proportional=work.size_proportional,
        known=() if known is None else known.alphas[known.ok],
        preference=preference,
    )
    seconds = tuple(seconds_of_run(work, one.alpha) for one in wanted)
    return Plan(name, wanted, seconds, 0 if known is None else int(known.ok.sum()))


def train_runs(work: Work, plan: Plan, *, workers: int = 1, progress: Progress | None = None) -> None:
    """Train and score the plan's runs as `truth` does, under "joint"; the [truth] grid is left alone.

    Raises StudyError for a study that trains nothing, ScoreError where every run failed.
    """
    if not plan.proposed:
        return
    study = replace(work.study, truth=replace(work.study.truth, steps=0))
    alone = Work(replace(work.ingredients, study=study), work.store)
    try:
        truth(alone, more=[one.alpha for one in plan.proposed], workers=workers, progress=progress)
    except StudyError as error:
        raise StudyError(
            f"{error} To validate with runs of your own: `previa validate --template runs.csv` writes the table to fill in, "
            "`--results runs.csv` reads it."
        ) from error


def ingest(work: Work, given: GivenRuns) -> tuple[str, ...]:
    """Keep the scores of a table under GIVEN, each in place of one at the same weighting; sentences on what is not used.

    Raises InputError where a score is on another scale than the task's previews; nothing is kept then.
    """
    _same_scale(work, given)
    here = work.store.preview(JOINT) if JOINT in work.store.methods() else None
    trained = {key(alpha) for alpha in here.alphas[here.ok]} if here is not None else set()
    said = []
    for run in given.runs:
        alpha = exact(run.alpha)
        work.store.record(GIVEN, alpha, run.scores, seconds=0.0)
        if key(alpha) in trained:
            said.append(
                f"line {run.line}: a joint run at {show(alpha)} was trained here, and its scores are used."
            )
    if given.empty:
        lines = ", ".join(map(str, given.empty))
        said.append(f"without scores, so not read: line{'s' if len(given.empty) > 1 else ''} {lines}.")
    return tuple(said)


def report(
    work: Work, plan: Plan, *, preference: Preference | None = None
) -> tuple[Validation, Corrected | None]:
    """What all true runs say of the plan's preview, and the preview corrected by them; both into the store's "validation".

    Corrected: None where no run is at a previewed weighting inside the simplex. Raises InputError without any true run.
    """
    _, preview = followed(work, plan.method)
    known = true_runs(work.store)
    if known is None:
        raise InputError(
            "validate: no true run is known yet. Ask for --runs, or bring scores with --results."
        )
    wish = preference or Preference(weights=work.study.metric_weights())
    found = validated(preview, known, preference=wish)
    exact = exact_corners(work, plan.method)
    try:
        better = corrected(preview, known, exact_corners=exact)
    except InputError:  # no run inside
        better = None
    work.store.put(
        "validation",
        {
            "method": plan.method,
            "proposed": [{"alpha": list(one.alpha), "why": one.why} for one in plan.proposed],
            **found.to_dict(),
            "exact_corners": exact,
            "corrected": None if better is None else _facts(better, wish),
        },
    )
    return found, better


def exact_corners(work: Work, method: str) -> bool:
    """Whether the method's previews at corners are runs by the recipe of the joint ones, as far as that is known."""
    if any(task.checkpoint is not None for task in work.study.tasks):
        return False  # trained elsewhere
    family = method
    if method in SHARPENED:
        chosen = ((work.store.get("powers") or {}).get(method) or {}).get("chosen") or {}
        family = method.rpartition("_")[0] or str(chosen.get("method", ""))
    by_adamw = work.study.truth.optimizer == "adamw"
    return family in ((SQUARES,) if by_adamw else ("simple", "task_arithmetic", "ivon_hessian", "regmean"))


def seconds_of_run(work: Work, alpha: Sequence[float]) -> float | None:
    """About how long a joint run at ``alpha`` takes, by those that were trained; else by the tasks' own, or anchors; or None.

    With sampling = "loss" a step sees a batch of every task that has weight, with "sample" one batch in all.
    """
    store, study = work.store, work.study

    def batches(weights: Sequence[float]) -> int:
        return sum(w > 0 for w in weights) if study.finetune.sampling == "loss" else 1

    if JOINT in store.methods():
        found = store.preview(JOINT)
        each = [
            seconds / batches(row)
            for row, seconds, ok in zip(found.alphas.tolist(), found.stats["seconds"], found.ok, strict=True)
            if ok and seconds > 0
        ]
        if each:
            return float(np.mean(each)) * batches(alpha)
    spent, steps = store.seconds(), joint_recipe(study).steps
    trained = sum(task.checkpoint is None for task in study.tasks)
    for name, recipe in (("finetune/ivon", ivon_recipe(study)), ("finetune/adamw", adamw_recipe(study))):
        if trained and spent.get(name):
            return spent[name] / trained * steps / recipe.steps * batches(alpha)
    anchors = [one for one in store.get("anchors") or [] if one.get("steps")]
    if anchors and spent.get("anchors"):
        done = sum(one["steps"] * batches(one["alpha"]) for one in anchors)
        return float(spent["anchors"] / done * steps * batches(alpha))
    return None


def _same_scale(work: Work, given: GivenRuns) -> None:
    name = work.study.followed(work.store.methods())
    if name not in work.store.methods():
        return
    preview = work.store.preview(name)
    for t, task in enumerate(preview.tasks):
        shown: NDArray[np.float64] = preview.scores[preview.ok, t]
        if not len(shown):
            continue
        low, high = float(shown.min()), float(shown.max())
        if low >= 0 and high <= 1:
            least, most = 0.0, 1.0
        else:
            width = FAR * max(high - low, NARROW * max(abs(low), abs(high)))
            least, most = low - width, high + width
        for run in given.runs:
            if not least <= run.scores[task] <= most:
                percent = " Is it in percent?" if most == 1 < run.scores[task] <= 100 else ""
                raise InputError(
                    f"line {run.line}, column 'score_{task}': found {run.scores[task]:g}, but previews of this task are from "
                    f"{low:.3g} to {high:.3g}, and a true score from {least:.3g} to {most:.3g} was expected.{percent} Give scores "
                    "on the study's own scale, as it scores this task's test data; nothing of the table was kept."
                )


def _facts(better: Corrected, wish: Preference) -> dict[str, object]:
    """The rule, its errors, and where the corrected map has its best."""
    seen = better.preview.rows(better.preview.ok)
    rows = np.flatnonzero(candidates(seen, wish))
    best = int(rows[np.argmax(wish.value(seen.scores[rows], seen.tasks))])
    left = better.left_out_rms
    return {
        "rule": better.rule,
        "runs": better.runs,
        "left_out_rms": None if left is None else dict(left),
        "pick": seen.alphas[best].tolist(),
    }
