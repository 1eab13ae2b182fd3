"""Train anchors: joint runs at a few weightings, by the study's recipe, short and warm-started from the preview by default."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from previa.core.params import Flat
from previa.errors import AlphaError, InputError, PreviaError
from previa.io.checkpoint import save_checkpoint
from previa.run.anchors import Anchor, anchors_of, exact, is_corner, near
from previa.run.bench import Bench, bench_of
from previa.run.executors import map_processes
from previa.run.fit import Runs
from previa.run.jobs import adopt, bench_here, set_up, state_of
from previa.run.pipeline import families_of, previewed
from previa.run.records import make_folder, write_record
from previa.run.sharpen import best
from previa.run.sweep import Progress
from previa.run.work import Work, joint_recipe
from previa.study.design import propose
from previa.study.simplex import check_alphas, show

SHORT = 3  # a warm-started anchor is trained for this part of the joint steps
Start = Literal["preview", "base"]


@dataclass(frozen=True)
class Plan:
    """The anchors there are, and those to train, each for so many steps from there."""

    there: tuple[Anchor, ...]
    wanted: tuple[tuple[float, ...], ...]
    steps: int
    start: Start
    share: float
    """what one costs, in joint runs"""
    said: tuple[str, ...] = ()
    """sentences on runs that are not used as anchors, and on what costs more than it should"""


def plan_anchors(
    work: Work,
    *,
    budget: int | None = None,
    alphas: ArrayLike | None = None,
    steps: int | None = None,
    start: Start = "preview",
) -> Plan:
    """What `train_anchors` would do; nothing is trained.

    budget: so many anchors in all, those that are there included; the next ones are proposed by `design.propose`.
    alphas [n, T]: these weightings instead; one trained here before is trained again where its steps or start are other ones.
    steps: by default a third of the joint recipe's from the preview, all of them from the base.
    Raises AlphaError for a corner or a weighting that the study brings an anchor for; InputError for a budget beyond what can
    be proposed.
    """
    recipe, T = joint_recipe(work.study), len(work.study.tasks)
    whole = recipe.steps
    steps = steps or (max(1, round(whole / SHORT)) if start == "preview" else whole)
    there, said = anchors_of(work)
    if steps > whole:
        said.append(
            f"{steps} steps are more than the {whole} of a joint run of this study: a joint run costs less."
        )
    if alphas is None:
        wanted = _proposed(T, 4 if budget is None else budget, there)
    else:
        rows = np.atleast_2d(check_alphas(alphas, T, where="anchors"))
        wanted = []
        for row in rows:
            alpha = exact(row.tolist())
            if is_corner(alpha):
                raise AlphaError(
                    f"anchors: {show(alpha)} is a corner of the simplex, where a task's own run is already."
                )
            same = next((one for one in there if near(one.alpha, alpha)), None)
            if same is not None and same.origin not in ("preview", "base"):
                raise AlphaError(
                    f"anchors: the study brings an anchor at {show(alpha)}, {same.origin}. Choose another weighting."
                )
            alpha = alpha if same is None else same.alpha
            known = any(near(one, alpha) for one in wanted)
            if not known and (same is None or (same.steps, same.origin) != (steps, start)):
                wanted.append(alpha)
    return Plan(tuple(there), tuple(wanted), steps, start, steps / whole, tuple(said))


def _proposed(T: int, budget: int, there: Sequence[Anchor]) -> list[tuple[float, ...]]:
    if budget <= len(there):
        return []
    try:
        found = propose(T, budget - len(there), np.array([one.alpha for one in there]))
    except InputError as error:
        raise InputError(f"anchors: a budget of {budget} is too large. {error}") from error
    return [tuple(row.tolist()) for row in found]


def train_anchors(
    work: Work, runs: Runs, plan: Plan, *, workers: int = 1, progress: Progress | None = None
) -> list[Anchor]:
    """Train what the plan wants; each is kept with a record when it is done, so that a kill loses only those in flight.

    From "preview": from the warped preview with the least joint loss. All anchors that are there afterwards.
    Raises PreviaError naming the run that failed, after the others; StudyError where the study trains nothing.
    """
    if plan.wanted and work.ingredients.folders is not None:
        work.ingredients.folders.check_start(from_preview=plan.start == "preview")
    bench = bench_of(work.ingredients, progress)
    begins: list[NDArray[np.float32] | None] = [None] * len(plan.wanted)
    if plan.start == "preview" and plan.wanted:
        method = best(work, families_of(work.study, runs), progress=progress).method
        begins = [previewed(work, method, np.array(alpha)).vector.cpu().numpy() for alpha in plan.wanted]
    items = [_Item(alpha, plan.steps, begin) for alpha, begin in zip(plan.wanted, begins, strict=True)]
    workers = min(workers, max(1, len(items)))
    start, args = (adopt, (bench,)) if workers == 1 else (set_up, (work.study,))
    failures, done = [], 0
    if progress is not None and items:
        progress("anchors", done, len(items))
    with closing(map_processes(_train, items, workers, start, args)) as outcomes:
        for outcome in outcomes:
            if outcome.failure is not None:
                failures.append(f"anchor {show(outcome.item.alpha)}: {outcome.failure}")
            done += 1
            if progress is not None:
                progress("anchors", done, len(items))
    if failures:
        more = f" {len(failures) - 1} more failed." if len(failures) > 1 else ""
        raise PreviaError(f"{failures[0].rstrip('.')}.{more}")
    return anchors_of(work)[0]


@dataclass(frozen=True)
class _Item:
    alpha: tuple[float, ...]
    steps: int
    begin: NDArray[np.float32] | None

    def record(self, bench: Bench) -> Path:
        name = "-".join(f"{weight:.6g}" for weight in self.alpha)
        return bench.study.out / "anchors" / f"{name}.json"


def _train(item: _Item) -> float:
    """One run, its file and then its record; its seconds."""
    bench, started = bench_here(), time.perf_counter()
    begun = bench
    if item.begin is not None:
        begun = bench.start_at(Flat(bench.ingredients.layout, torch.from_numpy(item.begin)))
    recipe = joint_recipe(bench.study)
    found = begun.train(bench.ingredients.train, item.alpha, replace(recipe, steps=item.steps))
    path = item.record(bench)
    make_folder(path.parent)
    path.unlink(missing_ok=True)  # of other facts
    folders = bench.ingredients.folders
    tensors = state_of(bench.ingredients, found) if folders is None else {**found.params, **found.statistics}
    save_checkpoint(path.with_suffix(".safetensors"), tensors)
    write_record(
        path, bench.joint_facts(item.alpha), start=begun.digest, steps=item.steps, share=item.steps / recipe.steps,
        seconds=time.perf_counter() - started, **{"from": "base" if item.begin is None else "preview"},
    )  # fmt: skip
    return found.seconds
