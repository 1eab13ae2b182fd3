"""The honest rival of anchored previews: the scores of the same runs, interpolated. No model is merged and none is scored."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from previa.core.scheffe import cardinals
from previa.core.warp import warp
from previa.errors import InputError, NotFiniteError
from previa.run.powers import POWERS
from previa.study import simplex
from previa.study.preview import Preview
from previa.study.surrogate import gaussian_process

Array = NDArray[np.float64]

APART = 1e-6  # shares of the error by which two powers are told apart


def interpolated(
    corner_scores: ArrayLike,
    anchor_alphas: ArrayLike,
    anchor_scores: ArrayLike,
    alphas: ArrayLike,
    *,
    p: float = 1.0,
) -> Array:
    """y(alpha) = sum_t w_t y_t + sum_r b_r(w) (y_r - sum_t w_rt y_t), w = alpha^p normalised, b = ``cardinals``: [A, m].

    What `core.anchored` does to parameters, done to scores: corner_scores [T, m] of the tasks' own runs, anchor_scores [n, m]
    of runs at anchor_alphas [n, T]; every run is reproduced. n may be 0.
    Raises InputError for shapes that do not fit; AlphaError for wrong weightings, anchors at corners or two at one place.
    """
    corners, runs = np.asarray(corner_scores, dtype=np.float64), np.asarray(anchor_scores, dtype=np.float64)
    if corners.ndim != 2:
        raise InputError(f"interpolated: corner_scores should be [T, m]. Found shape {corners.shape}.")
    T, m = corners.shape
    at = _rows(anchor_alphas, T, "anchor_alphas")
    if runs.size == 0:
        runs = np.zeros((0, m))
    if runs.shape != (len(at), m):
        raise InputError(
            f"interpolated: anchor_scores should be [n, m] = {(len(at), m)}, a row for each anchor. Found {runs.shape}."
        )
    return np.asarray(shares(at, _rows(alphas, T, "alphas"), p=p) @ np.concatenate([corners, runs]))


def shares(anchor_alphas: Array, alphas: Array, *, p: float = 1.0) -> Array:
    """How much each run counts at alphas [A, T]: [A, T + n], the tasks' own first, then the anchors; rows sum to one."""
    w = warp(torch.tensor(np.array(alphas)), p)
    if not len(anchor_alphas):
        return np.asarray(w.numpy())
    at = warp(torch.tensor(np.array(anchor_alphas)), p)
    b = cardinals(w, at)
    return np.asarray(torch.cat([w - b @ at, b], dim=1).numpy())


@dataclass(frozen=True)
class PowerOfScores:
    """The power that interpolates each anchor's scores best from the other runs', and why it was taken."""

    p: float
    errors: Mapping[float, float]
    """power -> root of the mean squared error of all tasks' scores at the anchors, each left out in turn; empty without anchors"""
    reason: str


def choose_power_of_scores(
    runs: Preview, *, powers: Sequence[float] = POWERS, otherwise: float = 1.0
) -> PowerOfScores:
    """argmin_p sum_r |y_r - y_-r(alpha_r; p)|^2 over anchors r: leave-one-anchor-out on the scores themselves.

    runs: the scores of the tasks' own runs (the corners) and of the anchors, as a preview. Anchors in the middle of some tasks
    cannot tell powers apart, since equal weights are the same at every power; then p = otherwise, and the reason says so. A fair
    rival of an anchored preview gets that preview's own power there: on MNIST the error at p = 1 was fifty times that at .35.
    Raises InputError where a corner is missing or no power is given.
    """
    if not powers:
        raise InputError("choose_power_of_scores: there should be at least one power.")
    corners, anchors = _split(runs)
    if not len(anchors):
        return PowerOfScores(otherwise, {}, f"p = {otherwise:g}: there are no anchors to choose it by")
    errors = {float(p): _left_out(corners.scores, anchors, float(p)) for p in powers}
    best = min(errors, key=lambda p: errors[p])
    if max(errors.values()) - errors[best] <= APART * max(errors.values()):
        reason = f"p = {otherwise:g}, as given: anchors with equal weights are the same at every power"
        return PowerOfScores(otherwise, errors, reason)
    return PowerOfScores(
        best, errors, f"p = {best:g}: the least error at the {len(anchors)} anchors, each left out in turn"
    )


def _left_out(corners: Array, anchors: Preview, p: float) -> float:
    misses = [
        anchors.scores[r]
        - interpolated(corners, anchors.alphas[rest], anchors.scores[rest], anchors.alphas[r], p=p)[0]
        for r in range(len(anchors))
        for rest in [np.delete(np.arange(len(anchors)), r)]
    ]
    return float(np.sqrt(np.square(misses).mean()))


def by_scores(runs: Preview, alphas: ArrayLike, *, p: float | None = None, otherwise: float = 1.0) -> Preview:
    """The method "scores": Scheffe's polynomial through the scores of the runs, at alphas [A, T].

    runs: the tasks' own runs and anchors as one preview, such as rows of the truth. p: the power of the warp, None for
    `choose_power_of_scores`, ``otherwise`` where the anchors cannot tell. Per-item scores are interpolated as well, where the
    runs have them, so that comparisons are paired. seconds is what this took, not the runs. provenance: "p", its "reason",
    and "runs", their weightings.
    Raises InputError where a corner is missing, NotFiniteError where a run has no score, AlphaError.
    """
    start = time.perf_counter()
    corners, anchors = _split(runs)
    chosen = (
        choose_power_of_scores(runs, otherwise=otherwise)
        if p is None
        else PowerOfScores(p, {}, f"p = {p:g}: as given")
    )
    rows = _rows(alphas, len(runs.tasks), "alphas")
    L = shares(anchors.alphas, rows, p=chosen.p)
    scores = L @ np.concatenate([corners.scores, anchors.scores])
    items: list[NDArray[np.float32] | None] = []
    for t, (own, other) in enumerate(zip(corners.items, anchors.items, strict=True)):
        if own is None or other is None:
            items.append(None)
            continue
        mixed = (L @ np.concatenate([own, other])).astype(np.float32)
        scores[:, t] = mixed.mean(axis=1, dtype=np.float64)
        items.append(mixed)
    return Preview(
        runs.tasks, rows, scores, tuple(items), seconds=time.perf_counter() - start,
        provenance={"p": chosen.p, "reason": chosen.reason, "runs": runs.alphas.tolist()},
    )  # fmt: skip


def by_gaussian_process(runs: Preview, alphas: ArrayLike) -> Preview:
    """The method "scores_gp": a Gaussian process on the scores of the runs, at alphas [A, T]; means only, no items.

    runs: any weightings, corners or not. stats: "sd_<task>" [A], the posterior standard deviation of each task's score.
    Raises InputError without runs, NotFiniteError where one has no score, AlphaError.
    """
    start = time.perf_counter()
    rows = _rows(alphas, len(runs.tasks), "alphas")
    mean, sd = gaussian_process(runs.alphas, runs.scores).predict(rows)
    return Preview(
        runs.tasks, rows, mean, stats={f"sd_{task}": sd[:, t] for t, task in enumerate(runs.tasks)},
        seconds=time.perf_counter() - start, provenance={"runs": runs.alphas.tolist()},
    )  # fmt: skip


def _split(runs: Preview) -> tuple[Preview, Preview]:
    """The corners, in the order of tasks, and the anchors."""
    found = [simplex.find(runs.alphas, corner) for corner in np.eye(len(runs.tasks))]
    missing = [task for task, row in zip(runs.tasks, found, strict=True) if row is None]
    if missing:
        raise InputError(
            f"scores of runs: those of the own runs of {missing} are missing, at the corners of the simplex. Score every task's "
            "own finetuning on all tasks first."
        )
    if not runs.ok.all():
        bad = runs.alphas[int(np.argmin(runs.ok))]
        raise NotFiniteError(
            f"scores of runs: the run at {simplex.show(bad)} has none. Leave it out, or score it again."
        )
    corners = [row for row in found if row is not None]
    return runs.rows(corners), runs.rows(np.delete(np.arange(len(runs)), corners))


def _rows(alphas: ArrayLike, T: int, where: str) -> Array:
    if not np.size(np.asarray(alphas)):
        return np.zeros((0, T))
    rows = np.atleast_2d(simplex.check_alphas(alphas, T, where=where))
    return np.asarray(
        rows / rows.sum(axis=1, keepdims=True)
    )  # what rounding took from a sum of 1 is given back
