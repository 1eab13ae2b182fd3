"""choose_power: which power of the weights, and which method, without the truth: the one whose merges have the least joint loss.

A preview stands for argmin_theta sum_t alpha_t l_t(theta), so what is measured is that sum itself, on training examples, at a few
weightings: forward passes only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from torch.nn import Module

from previa.core.warp import Method, warp
from previa.errors import InputError, ScoreError
from previa.run.live import Recalibrate
from previa.run.scoring import Scorer
from previa.run.sweep import Progress, sweep
from previa.study.simplex import check_alphas

POWERS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12)
"""What is tried: from no warp to weights that are nearly equal wherever they are positive, each about 0.7 of the one before."""


@dataclass(frozen=True)
class Chosen:
    """The method and power with the least mean joint loss, and all that were compared."""

    method: str
    p: float
    losses: Mapping[str, Mapping[float, float]]
    """method -> power -> mean over weightings of sum_t alpha_t l_t; NaN where a loss could not be measured"""
    evaluations: int = 0
    """of all tasks' losses, at one set of parameters each"""
    powers: Mapping[str, float] = field(default_factory=dict)
    """method -> its own best power"""


def choose_power(
    model: Module,
    methods: Mapping[str, Callable[[float], Method]],
    losses: Scorer,
    alphas: ArrayLike,
    *,
    tasks: Sequence[str],
    powers: Sequence[float] = POWERS,
    recalibrate: Recalibrate | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Chosen:
    """argmin over methods and p of mean_a sum_t alpha_at l_t(theta_p(alpha_a)).

    methods: name -> (p -> preview method), such as {"simple": partial(warped, simple)} or p -> anchored(simple, anchors, p=p).
    losses: as a scorer, model -> {task: mean loss, or one loss a training example}, lower is better. alphas [A, T]: unequal
    weights (``probes``), since equal ones are the same at every power. The first of equals wins, so give p = 1 first.
    Raises InputError where there is nothing to choose from or no loss is finite.
    """
    if not methods or not powers:
        raise InputError("choose_power: there should be at least one method and one power.")
    for p in powers:
        warp([1.0], p)
    rows = np.atleast_2d(check_alphas(alphas, len(tasks), where="choose_power"))
    table: dict[str, dict[float, float]] = {}
    failures: list[str] = []
    for name, make in methods.items():
        table[name] = {}
        for p in powers:
            try:
                found = sweep(
                    model,
                    make(float(p)),
                    losses,
                    rows,
                    tasks=tuple(tasks),
                    recalibrate=recalibrate,
                    workers=workers,
                    progress=progress and _told(progress, f"joint loss, {name}, p = {p:g}"),
                )
            except (
                ScoreError
            ) as error:  # at every weighting, as where merged models diverge: not the one to choose
                failures.append(str(error))
                table[name][float(p)] = float("nan")
                continue
            table[name][float(p)] = float((rows * found.scores).sum(axis=1).mean())
    own = {name: min(own, key=lambda p: _rank(own[p])) for name, own in table.items()}
    best = min(table, key=lambda name: _rank(table[name][own[name]]))
    if not np.isfinite(table[best][own[best]]):
        why = f" First failure: {failures[0]}" if failures else ""
        raise InputError(
            f"choose_power: no joint loss is finite at all weightings, of {', '.join(table)} at p = "
            f"{', '.join(f'{p:g}' for p in powers)}. Are the tasks' losses finite at the tasks' own parameters?{why}"
        )
    return Chosen(best, own[best], table, len(methods) * len(powers) * len(rows), own)


def _told(progress: Progress, what: str) -> Progress:
    return lambda _, done, total: progress(what, done, total)


def _rank(loss: float) -> float:
    return loss if np.isfinite(loss) else float("inf")
