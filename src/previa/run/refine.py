"""Refined previews: k steps of joint training from the preview, at a few weightings: quality against cost, up to the truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import Module

from previa.core.params import Flat
from previa.errors import InputError, ScoreError
from previa.run.anchors import anchors_of
from previa.run.bench import Bench, bench_of
from previa.run.fit import Runs
from previa.run.live import running_statistics, trainable
from previa.run.own_scores import scored_run
from previa.run.pipeline import families_of, previewed
from previa.run.sharpen import REFINED, best, declare_refined
from previa.run.sweep import Progress
from previa.run.work import Work, joint_recipe
from previa.study.simplex import check_alphas, show

STEPS = (10, 25, 50)


@dataclass(frozen=True)
class Refined:
    """The preview at one weighting, step by step of joint training from there."""

    alpha: tuple[float, ...]
    steps: tuple[int, ...]
    """0, the preview itself, and those asked for"""
    scores: NDArray[np.float64]
    """[steps, T]: each task's mean score"""
    shares: tuple[float, ...]
    """the cost of the steps in joint runs"""

    def mean(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean over tasks under these weights [T]: [steps]."""
        return np.asarray(self.scores @ weights)


def refine(
    work: Work,
    runs: Runs,
    alphas: ArrayLike,
    *,
    steps: Sequence[int] = STEPS,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> list[Refined]:
    """Score each weighting of alphas [n, T] after 0 and each of ``steps`` of joint training from its best preview.

    One run a weighting, of the most steps, looked at on its way: the cost is that of the longest. It starts from the
    anchored preview with the least joint loss, the warped one where there are no anchors. The scores after k steps are the
    store's method "refined_<k>", with stats {"steps": k}; what is there is not trained again, and what other previews, anchors
    or recipes began is forgotten, whatever its steps. tell: for sentences on anchors that are not used, and on steps beyond a joint run.
    Raises InputError for steps that are no rising positive numbers, AlphaError, StudyError, NotFiniteError, ScoreError.
    """
    wanted = rising(steps)
    rows = np.atleast_2d(check_alphas(alphas, len(work.study.tasks), where="refine"))
    if work.ingredients.folders is not None:
        work.ingredients.folders.check_start(from_preview=True)
    there, said = anchors_of(work)
    whole = joint_recipe(work.study).steps
    if wanted[-1] > whole:
        said.append(
            f"{wanted[-1]} steps are more than the {whole} of a joint run of this study: a joint run costs less."
        )
    if tell is not None:
        for sentence in said:
            tell(sentence)
    start = best(work, families_of(work.study, runs), there, progress=progress)
    bench = bench_of(work.ingredients)
    declare_refined(work, start, (0, *wanted))
    found = []
    for number, alpha in enumerate(rows):
        missing = [k for k in (0, *wanted) if len(work.store.missing(f"{REFINED}_{k}", [alpha]))]
        if missing:
            _refine(work, bench, previewed(work, start.method, alpha), alpha, missing)
        if progress is not None:
            progress(REFINED, number + 1, len(rows))
        scores = np.concatenate([work.store.preview(f"{REFINED}_{k}").at(alpha).scores for k in (0, *wanted)])
        shares = tuple(k / whole for k in (0, *wanted))
        found.append(Refined(tuple(alpha.tolist()), (0, *wanted), scores, shares))
    return found


def rising(steps: Sequence[int]) -> tuple[int, ...]:
    """The steps after which `refine` looks. Raises InputError unless they are rising whole numbers from 1 up."""
    wanted = tuple(int(k) for k in steps)
    if not wanted or wanted[0] < 1 or list(wanted) != sorted(set(wanted)):
        raise InputError(
            f"refine: steps should be rising whole numbers from 1 up, such as 10,25,50. Found {list(steps)}."
        )
    return wanted


def _refine(work: Work, bench: Bench, begin: Flat, alpha: NDArray[np.float64], steps: Sequence[int]) -> None:
    """Train and score, into the store: what comes at each step costs all steps up to there."""
    recipe = joint_recipe(work.study)
    looks = _Looks(work.ingredients.model, begin, steps)
    if steps[-1] > 0:
        bench.start_at(begin).train(
            bench.ingredients.train, alpha, replace(recipe, steps=steps[-1]), progress=looks
        )
    for k in steps:
        params, statistics, seconds = looks.found[k]
        scores, failure, scoring = scored_run(work.ingredients, params, statistics)
        if failure is not None:
            work.store.fail(f"{REFINED}_{k}", alpha, failure, seconds=seconds + scoring)
            raise ScoreError(f"refined at {show(alpha)}, {k} steps: {failure}")
        work.store.record(f"{REFINED}_{k}", alpha, scores, seconds=seconds + scoring, stats={"steps": k})
    work.store.add_seconds(REFINED, looks.found[steps[-1]][2])


class _Looks:
    """Copies of a model's parameters and running statistics after some steps of its training: a progress of finetune."""

    def __init__(self, model: Module, begin: Flat, steps: Sequence[int]) -> None:
        self.model, self.steps, self.started = model, steps, time.perf_counter()
        self.found: dict[int, tuple[Flat, dict[str, Tensor] | None, float]] = {0: (begin, None, 0.0)}

    def __call__(self, what: str, done: int, total: int) -> None:
        """After step ``done``."""
        if done in self.steps:
            now = Flat.of({name: p.detach() for name, p in trainable(self.model).items()}, where=what)
            running = {id(buffer) for buffer in running_statistics(self.model)}
            statistics = {name: b.clone() for name, b in self.model.named_buffers() if id(b) in running}
            seconds = time.perf_counter() - self.started
            self.found[done] = Flat(now.layout, now.vector.clone()), statistics, seconds
