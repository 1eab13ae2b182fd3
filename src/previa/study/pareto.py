"""Pareto fronts from per-task scores: which weightings nothing beats, and whether a preview knows them.

Previewed levels are biased low, so they are never compared with true ones: a preview only says *which* weightings are on the
front, and those are judged by their true scores. Each number stands beside what as many weightings drawn blindly reach:
on a plateau nearly every weighting is near-optimal, and finding some of those is no feat.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import InputError
from previa.study import compare
from previa.study.hypervolume import front, hypervolume, missed, share_of_a_draw
from previa.study.preference import SLACK
from previa.study.preview import Items, Preview
from previa.study.quality import snapped

__all__ = ["Fronts", "compare_fronts", "front", "hypervolume"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

Z = 1.645  # the 95th percentile of a normal variable: one-sided, as regret_noise is
MOST = 7  # tasks of an exact hypervolume: beyond, it can take minutes, and nadirs are far from all
SELDOM = 0.05


@dataclass(frozen=True, eq=False)
class Fronts:
    """The previewed front beside the true one, both of the A weightings that truth and preview both scored.

    true, previewed: scores there [A, T]; on_true, on_previewed: which are on the front of each [A]; near: which are truly
    near-optimal [A], as `compare_fronts` has it (None: noise unknown); noise: what counts as noise in each task, the median
    over pairs of weightings where it comes from test items; reference: the lower corner of the hypervolumes.

    exact_share, near_share: of the previewed front's weightings, those on the true front, and those near-optimal;
    exact_found, near_found: of the true front's, those on the previewed front, and those that one on it matches;
    volume_true, volume: hypervolume of the true front, and of the true scores at the previewed one; volume_share: their
    ratio (None: the former is 0, or there are more than seven tasks).
    ..._by_chance: the mean of the same over all sets of as many weightings drawn blindly (of volume_share by sampling; None
    where that is too rough: `hypervolume.share_of_a_draw`); luck: the share of those sets that
    hold as many near-optimal ones (noise unknown: as many of the true front) or more.
    """

    tasks: tuple[str, ...]
    alphas: Array
    true: Array
    previewed: Array
    on_true: Mask
    on_previewed: Mask
    near: Mask | None
    noise: tuple[float, ...] | None
    reference: tuple[float, ...]
    exact_share: float
    exact_by_chance: float
    exact_found: float
    exact_found_by_chance: float
    near_share: float | None
    near_by_chance: float | None
    near_found: float | None
    near_found_by_chance: float | None
    volume_true: float | None
    volume: float | None
    volume_share: float | None
    volume_by_chance: float | None
    luck: float

    @property
    def sentence(self) -> str:
        """How far to trust the previewed front, in words."""
        good, what = (
            (self.on_true, "on the true front")
            if self.near is None
            else (self.near, "truly within noise of a best trade-off")
        )
        n, k, A = int(self.on_previewed.sum()), int((self.on_previewed & good).sum()), len(self.alphas)
        text = (
            f"Of the {n} weighting{'s' * (n > 1)} on the previewed front, {k} {'is' if k == 1 else 'are'} {what}; "
            f"of all {A} weightings both trained and previewed, {100 * good.mean():.0f} % are."
        )
        if self.luck <= SELDOM:
            return f"{text} Chance seldom does as well (in {_percent(self.luck)} of draws of as many)."
        return f"{text} As many drawn blindly do as well in {_percent(self.luck)} of draws: the preview shows little here."

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data: the numbers, the sentence, and the weightings on the fronts."""
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _ARRAYS}
        return {
            "sentence": self.sentence,
            "weightings": len(self.alphas),
            "on_true": int(self.on_true.sum()),
            "on_previewed": int(self.on_previewed.sum()),
            **{name: list(v) if isinstance(v, tuple) else v for name, v in numbers.items()},
            "true_front": self.alphas[self.on_true].tolist(),
            "previewed_front": self.alphas[self.on_previewed].tolist(),
        }


_ARRAYS = ("tasks", "alphas", "true", "previewed", "on_true", "on_previewed", "near")


def compare_fronts(
    truth: Preview,
    preview: Preview,
    *,
    tolerance: float | Sequence[float] | None = None,
    reference: ArrayLike | None = None,
    name: str = "preview",
) -> Fronts:
    """How well the preview's front serves, judged by the true scores s_t(a) of the weightings a that both scored.

    The true front is that of these: what was trained at other weightings is left out, as the preview could not name it.
    a *matches* f when no task loses more than noise: s_t(f) - s_t(a) <= eps_t(a, f) for all t (additive epsilon-dominance).
    a is *near-optimal* when it matches some f on the true front: in every task it is as good as one of the best trade-offs.
    eps_t(a, f) = 1.645 se_t(a, f), the standard error of the mean of the paired differences of the test items' scores (what
    the bootstrap of `bootstrap` tends to with many draws); tolerance: eps in its place, one or one a task.
    reference: of the hypervolumes, by default each task's worst score among all true ones.

    Raises InputError when tasks differ, or fewer than three weightings are shared.
    """
    rows, mine, _ = compare._shared(truth, preview, name)
    good = truth.rows(truth.ok)
    r = good.scores.min(axis=0) if reference is None else np.asarray(reference, dtype=np.float64)
    seen = good.rows(rows)
    true, previewed = _snapped(seen.scores), _snapped(preview.scores[mine])
    on_true, on_previewed = front(true), front(previewed)
    A, n = len(true), int(on_previewed.sum())

    allowed = _allowed(seen, on_true, tolerance)
    near = match = None
    if allowed is not None:
        gap = true[None, on_true] - true[:, None]
        slack = SLACK * np.abs(true).max(axis=0)  # a tolerance of 0.01 allows 0.91 - 0.9
        match = (gap <= allowed + slack).all(axis=2)
        near = match.any(axis=1)
    found = on_true if near is None else near
    few = len(truth.tasks) <= MOST
    volume_true, volume = (hypervolume(true[on], r) if few else None for on in (on_true, on_previewed))
    return Fronts(
        tasks=truth.tasks,
        alphas=seen.alphas,
        true=true,
        previewed=previewed,
        on_true=on_true,
        on_previewed=on_previewed,
        near=near,
        noise=None if allowed is None else _typical(allowed, on_true),
        reference=tuple(map(float, r)),
        exact_share=float(on_true[on_previewed].mean()),
        exact_by_chance=float(on_true.mean()),
        exact_found=float(on_previewed[on_true].mean()),
        exact_found_by_chance=n / A,
        near_share=None if near is None else float(near[on_previewed].mean()),
        near_by_chance=None if near is None else float(near.mean()),
        near_found=None if match is None else float(match[on_previewed].any(axis=0).mean()),
        near_found_by_chance=None if match is None else float(1 - missed(A, n)[match.sum(axis=0)].mean()),
        volume_true=volume_true,
        volume=volume,
        volume_share=volume / volume_true if volume_true and volume is not None else None,
        volume_by_chance=share_of_a_draw(true, r, n) if volume_true else None,
        luck=_at_least(int(found[on_previewed].sum()), n, int(found.sum()), A),
    )


def paired_error(items: Items, rows: Mask) -> Array:
    """The standard error of s(f) - s(a), both on the same N items, for each a of items [A, N] and f among rows: [A, F].

    = sqrt(mean_i (x_fi - x_ai - (s(f) - s(a)))^2 / N).
    """
    x = items.astype(np.float64)
    x -= x.mean(axis=0)  # no difference between weightings is lost to rounding
    square = (x**2).mean(axis=1)
    gap = x[rows].mean(axis=1) - x.mean(axis=1)[:, None]
    spread = square[rows] + square[:, None] - 2 * x @ x[rows].T / x.shape[1] - gap**2
    return np.asarray(np.sqrt(np.maximum(spread, 0) / x.shape[1]))


def _allowed(seen: Preview, rows: Mask, tolerance: float | Sequence[float] | None) -> Array | None:
    """eps_t(a, f) [A, F, T], or None where nothing tells."""
    T = len(seen.tasks)
    if tolerance is not None:
        given = np.asarray(tolerance, dtype=np.float64)
        if given.shape not in ((), (T,)) or not np.isfinite(given).all() or (given < 0).any():
            raise InputError(
                f"a tolerance should be one difference of scores, or {T}, one a task; finite, not negative. "
                f"Found {tolerance!r}."
            )
        return np.broadcast_to(given, (len(seen), int(rows.sum()), T))
    errors = [None if items is None else Z * paired_error(items, rows) for items in seen.items]
    known = [error for error in errors if error is not None]
    return np.stack(known, axis=2) if len(known) == T else None


def _typical(allowed: Array, rows: Mask) -> tuple[float, ...]:
    """The median over pairs of different weightings, one a task."""
    others = np.flatnonzero(rows) != np.arange(len(rows))[:, None]
    return tuple(float(np.median(allowed[others, t])) for t in range(allowed.shape[2]))


def _snapped(scores: Array) -> Array:
    return np.column_stack([snapped(column) for column in scores.T])


def _at_least(k: int, n: int, m: int, A: int) -> float:
    """The probability that n different ones drawn blindly out of A hold k or more of m: the hypergeometric tail."""
    ways = sum(math.comb(m, i) * math.comb(A - m, n - i) for i in range(k, min(m, n) + 1))
    return ways / math.comb(A, n)


def _percent(share: float) -> str:
    return "under 0.1 %" if share < 0.001 else f"{100 * share:.2g} %" if share < 0.995 else "nearly all"
