"""The knee of a Pareto front: the trade-off from which every step towards one task costs the others most."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import InputError
from previa.study import simplex
from previa.study.hypervolume import front
from previa.study.preview import Preview
from previa.study.quality import snapped

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

ROUNDING = 1e-9  # a bulge up to this share of the front's own ranges is none


def front_of(preview: Preview) -> Mask:
    """Which weightings of a preview no other one beats in one task without losing in another: [A].

    Scores that differ in rounding alone are equal. Failed weightings are never on it.
    """
    out = np.zeros(len(preview), bool)
    if preview.ok.any():
        out[preview.ok] = front(np.column_stack([snapped(s) for s in preview.scores[preview.ok].T]))
    return out


def knee(scores: ArrayLike, alphas: ArrayLike | None = None) -> int | None:
    """The row of scores [A, T] that lies farthest above the plane through the ends of their Pareto front; None: no such row.

    z_t = (s_t - worst_t) / (best_t - worst_t) over the front's rows, so that task t's end e_t, the best that the front has of
    task t with the worst of all others, is a unit vector; the distance above the plane of the ends is
        d = (sum_t z_t - 1) / sqrt T
    (Das 1999, On characterizing the "knee" of the Pareto curve; for T = 2 the ends are the front's own). Tasks in which all
    of the front scores the same are no part of the trade-off and are left out. None where fewer than two tasks are left, as
    for a front of one point, or no row lies above the plane: a front that is straight or hollow has no knee.

    The scale and the zero of each task's scores do not matter, nor does the order of rows and tasks. Ties: the
    row nearest to uniform where alphas [A, T] are given, else the first. Raises InputError as `front` does, or for other shapes.
    """
    s = np.asarray(scores, dtype=np.float64)
    on = np.flatnonzero(front(s))
    if not len(on):
        return None
    f = s[on]
    spread = np.ptp(f, axis=0)
    traded = spread > ROUNDING * np.abs(f).max(axis=0)
    if traded.sum() < 2:
        return None
    z = (f[:, traded] - f[:, traded].min(axis=0)) / spread[traded]
    d = (z.sum(axis=1) - 1) / np.sqrt(traded.sum())
    if d.max() <= ROUNDING:
        return None
    ties = on[d >= d.max() - ROUNDING]
    if alphas is None:
        return int(ties[0])
    a = np.asarray(alphas, dtype=np.float64)
    if a.shape != s.shape:
        raise InputError(f"knee: alphas should be [A, T] = {s.shape}, as scores are. Found {a.shape}.")
    return int(ties[simplex.by_safety(a[ties])[0]])


def knee_of(preview: Preview) -> int | None:
    """The row of a preview that is the knee of its front; None where there is none."""
    snappy = np.full_like(preview.scores, np.nan)
    if preview.ok.any():
        snappy[preview.ok] = np.column_stack([snapped(s) for s in preview.scores[preview.ok].T])
    return knee(snappy, preview.alphas)
