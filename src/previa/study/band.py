"""How far an anchored preview may be off: what it missed at its anchors, carried to every weighting, and the test set's noise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from previa.errors import InputError
from previa.study import bootstrap, simplex
from previa.study.design import NOISE, POWER, variance
from previa.study.preview import Preview, metric_weights

Array = NDArray[np.float64]

LEVEL = 0.9
PRIOR = 2  # anchors that the shape of the process is worth: degrees of freedom beside those of the n anchors


@dataclass(frozen=True, eq=False)
class Band:
    """preview +- half_width: where a joint run's mean score is expected, at each weighting of the preview.

    half_width [A] = sqrt(of_preview^2 + of_items^2), of the mean over tasks under ``weights`` [T]; task_half_widths [A, T] the
    same of each task. of_preview: what the preview misses on the same test items; of_items: how far the score would move on
    other test items (0 without per-item scores). The band is about the preview as it is; offset says by how much it is low.
    """

    preview: Preview
    weights: Array
    level: float
    of_preview: Array
    of_items: Array
    task_half_widths: Array
    runs: Array
    """weightings of corners and anchors [T + n, T], where there is nothing to preview"""
    left_out_rms: float
    """root of the mean squared error, of mean scores, of the anchors' previews by all other runs"""
    offset: float
    """mean of (preview - own score) over the anchors, each previewed by all other runs; negative: previews are low"""

    @property
    def half_width(self) -> Array:
        """Of the mean score: [A]."""
        return np.asarray(np.hypot(self.of_preview, self.of_items))

    def facts(self, method: str, truth: Preview | None = None) -> dict[str, Any]:
        """As the store's fact "band": half_width is the median over weightings; coverage of the truth's, None without one.

        Raises InputError where the preview has no scored weighting beside the runs', or as `covers`.
        """
        inside = self.preview.ok & ~_at_runs(self.preview.alphas, self.runs)
        if not inside.any():
            raise InputError("band: the preview has no scored weighting beside those of the runs.")
        return {
            "method": method, "level": self.level, "half_width": float(np.median(self.half_width[inside])),
            "of_preview": float(np.median(self.of_preview[inside])), "of_items": float(np.median(self.of_items[inside])),
            "left_out_rms": self.left_out_rms, "offset": self.offset,
            "coverage": None if truth is None else covers(self, truth),
        }  # fmt: skip


def band(
    preview: Preview,
    own: Preview,
    left_out: Preview,
    alone: Preview,
    *,
    p: float = POWER,
    level: float = LEVEL,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Band:
    """The band of an anchored preview, from three looks at its n anchors: each Preview at their weightings, in any order.

    own: the anchors' scores y_r; left_out: those previewed there by all other runs; alone: by the tasks' own runs only; p: the
    power that all were previewed with. With v(.; R) the ``variance`` that runs R leave, each miss is put in its own units,

        z_r = (y_r - left_out_r) / sqrt(v(r; R - r) + NOISE),   z'_r = (y_r - alone_r) / sqrt(v(r; none) + NOISE),

    s^2 is the mean of all z^2 and z'^2, and of_preview(a) = t s sqrt(v(a; R) + NOISE), t the quantile of Student's
    distribution with n + PRIOR degrees of freedom. Left-out misses alone are few and alike: bands made of them were too narrow.
    With one anchor the two are the same, and the band rests on how much of it the tasks' own runs foresaw.
    of_items(a): the normal quantile times the deviation of the score over bootstrap draws of the test items.
    The preview is not shifted by the offset: it goes through the anchors, so what left-out previews miss is more than what it
    misses, and shifting by it made errors larger in simulation.
    Raises InputError without anchors, where the three are not at the same weightings, or for a level outside (0, 1);
    AlphaError.
    """
    n = len(own)
    if not n or len(left_out) != n or len(alone) != n:
        raise InputError(
            f"band: expected the anchors' own scores, left-out and alone previews, one each at every anchor and at least one. "
            f"Found {n}, {len(left_out)} and {len(alone)}."
        )
    if not 0 < level < 1:
        raise InputError(f"band: the level should be between 0 and 1, such as 0.9. Found {level!r}.")
    for name, other in (("preview", preview), ("left_out", left_out), ("alone", alone)):
        if other.tasks != own.tasks:
            raise InputError(f"band: {name} is of tasks {list(other.tasks)}, own of {list(own.tasks)}.")
    w = metric_weights(own.tasks, weights)
    R = own.alphas
    y = own.scores
    misses = np.concatenate([y - left_out.at(R).scores, y - alone.at(R).scores])  # [2 n, T]
    if not np.isfinite(misses).all():
        raise InputError("band: an anchor has no score, or a preview of it failed. Leave that anchor out.")
    known = [np.delete(R, r, axis=0) for r in range(n)]
    expected = [variance(R[[r]], rest, p=p)[0] for r, rest in enumerate(known)]
    units = np.sqrt(np.concatenate([expected, variance(R, p=p)]) + NOISE)[:, None]
    t = _student(level, n + PRIOR)
    z = np.concatenate([misses @ w[:, None], misses], axis=1) / units  # [2 n, 1 + T], first of the mean score
    s = np.sqrt((z**2).mean(axis=0))
    off = np.sqrt(variance(preview.alphas, R, p=p) + NOISE)[:, None] * (t * s)
    items = _of_items(preview, w, seed) * _student(level, 10_000)
    return Band(
        preview, w, level, off[:, 0], items[:, 0], np.hypot(off[:, 1:], items[:, 1:]),
        np.concatenate([np.eye(len(w)), R]),
        left_out_rms=float(np.sqrt(np.mean((misses[:n] @ w) ** 2))), offset=-float(np.mean(misses[:n] @ w)),
    )  # fmt: skip


def covers(band: Band, truth: Preview, task: str | None = None) -> float:
    """The share of the truth's weightings, those of runs aside, at which the band holds its mean score, or one task's.

    Raises InputError where tasks differ, or no weighting is both the band's and the truth's.
    """
    preview = band.preview
    if truth.tasks != preview.tasks or (task is not None and task not in truth.tasks):
        raise InputError(
            f"covers: the band is of tasks {list(preview.tasks)}. Found {list(truth.tasks)} and task {task!r}."
        )
    w, half = band.weights, band.half_width
    if task is not None:
        w = np.eye(len(w))[truth.tasks.index(task)]
        half = band.task_half_widths[:, truth.tasks.index(task)]
    good = truth.rows(truth.ok & ~_at_runs(truth.alphas, band.runs))
    rows = [simplex.find(preview.alphas, alpha) for alpha in good.alphas]
    pairs = [(i, row) for i, row in enumerate(rows) if row is not None and preview.ok[row]]
    if not pairs:
        raise InputError("covers: the truth and the preview share no scored weighting beside the runs'.")
    i, row = np.array(pairs).T
    return float((np.abs((good.scores[i] - preview.scores[row]) @ w) <= half[row]).mean())


def _at_runs(alphas: Array, runs: Array) -> NDArray[np.bool_]:
    return np.array([simplex.find(runs, alpha) is not None for alpha in alphas], dtype=bool)


def _of_items(preview: Preview, w: Array, seed: int) -> Array:
    """Deviations over test sets of the mean score and of each task's: [A, 1 + T], 0 where there are no items."""
    draws = bootstrap.resampled(preview, seed=seed)
    found = [bootstrap.scored(preview, draws, one).draws for one in (w, *np.eye(len(w)))]
    nothing = np.zeros(len(preview))
    return np.stack([nothing if d is None else d.std(axis=0) for d in found], axis=1)


def _student(level: float, nu: int) -> float:
    """t with P(|T| <= t) = level for nu degrees of freedom: T = sqrt(nu) tan(u), u of density ~ cos(u)^(nu - 1)."""
    u = np.linspace(0.0, np.pi / 2, 100_001)
    density = np.cos(u) ** (nu - 1)
    total = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return float(np.sqrt(nu) * np.tan(np.interp(level, total / total[-1], u)))
