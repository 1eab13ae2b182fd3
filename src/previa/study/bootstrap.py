"""The paired bootstrap over test items: how far scores, and differences between weightings, would move on other test sets.

It knows of the noise of a finite test set only, not of the training seed. `Scored.gain` holds its two weightings fixed, so
for a pick that was chosen on the same items it is too high; `Choice.gain` chooses on some items and scores on others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from previa.study import simplex
from previa.study.preference import SLACK, Preference
from previa.study.preview import Preview

Array = NDArray[np.float64]

DRAWS = 1000
LEVEL = 0.95
BLOCK = 2_000_000  # resampling counts held at once


def means(items: NDArray[np.float32], *, seed: Sequence[int], draws: int = DRAWS) -> Array:
    """Means over resampled test items, s_b(a) = sum_i c_bi x_ai / N with c_b ~ Multinomial(N, 1/N): [B, A].

    items [A, N]. The same seed and N give the same resamples, so that weightings and methods are paired.
    """
    x = items.astype(np.float64).T
    return np.concatenate([counts @ x / len(x) for counts in _counts(len(x), seed, draws)])


def means_left_out(items: NDArray[np.float32], *, seed: Sequence[int], draws: int = DRAWS) -> Array:
    """Means over the items that each draw of `means` did not draw, about N / e of them: [B, A]; NaN where it drew all."""
    x = items.astype(np.float64).T
    out = []
    for counts in _counts(len(x), seed, draws):
        absent = counts == 0
        number = absent.sum(axis=1, keepdims=True)
        out.append(np.where(number > 0, absent.astype(np.float64) @ x / np.maximum(number, 1), np.nan))
    return np.concatenate(out)


def _counts(N: int, seed: Sequence[int], draws: int) -> Iterator[NDArray[np.intp]]:
    """How often each resample holds each of N items, in blocks: [b, N]."""
    rng = np.random.default_rng(list(seed))
    for first in range(0, draws, max(1, BLOCK // N)):
        b = min(max(1, BLOCK // N), draws - first)
        drawn = rng.integers(N, size=(b, N)) + N * np.arange(b)[:, None]
        yield np.bincount(drawn.ravel(), minlength=b * N).reshape(b, N)


@dataclass(frozen=True)
class Gain:
    """How much better one weighting scores than another, and its 95 % interval where there are per-item scores."""

    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Scored:
    """One number for each weighting [A], and what it would be on resampled test items [B, A] (None: no per-item scores)."""

    alphas: Array
    score: Array
    draws: Array | None

    @property
    def slack(self) -> float:
        """Differences up to this are rounding."""
        return SLACK * float(np.abs(self.score).max(initial=0.0))

    def rows(self, indices: NDArray[np.intp]) -> "Scored":
        """These weightings only."""
        return Scored(
            self.alphas[indices], self.score[indices], None if self.draws is None else self.draws[:, indices]
        )

    def gain(self, a: int, over: int) -> Gain:
        """Of weighting a over another one, paired: both on the same items in each draw. a was chosen on other items."""
        value = float(self.score[a] - self.score[over])
        if abs(value) <= self.slack:
            value = 0.0
        return Gain(value, None if self.draws is None else _interval(self.draws[:, a] - self.draws[:, over]))

    def regret_noise(self, best: int) -> float | None:
        """The 95th percentile of max_a s_b(a) - s_b(best): the regret that the best itself shows on another test set."""
        if self.draws is None:
            return None
        return float(np.quantile(self.draws.max(axis=1) - self.draws[:, best], LEVEL))


def _interval(gains: Array) -> tuple[float, float]:
    low, high = np.quantile(gains, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


@dataclass(frozen=True, eq=False)
class Choice:
    """The best of a preview, chosen anew in each draw b of resampled items: its row a_b [B].

    draws, unseen [B, A]: the preview's value on the items that each draw holds, and on those that it left out.
    """

    draws: Array
    unseen: Array
    rows: NDArray[np.intp]

    @classmethod
    def of(
        cls, drawn: Scored, unseen: Array | None, allowed: NDArray[np.bool_] | None = None
    ) -> "Choice | None":
        """a_b = argmax_a s_b(a) over the items drawn; ties: the nearest to uniform. None without per-item scores.

        allowed: in which draws a weighting may be chosen [B, A], in each draw one at least.
        """
        if drawn.draws is None or unseen is None:
            return None
        safe = simplex.by_safety(drawn.alphas)
        s = drawn.draws if allowed is None else np.where(allowed, drawn.draws, -np.inf)
        best = s.max(axis=1, keepdims=True) - drawn.slack
        return cls(drawn.draws, unseen, safe[(s[:, safe] >= best).argmax(axis=1)])

    def gain(self, over: int) -> Gain | None:
        """How much better than weighting ``over`` the best of a preview is, on items that had no part in choosing it.

        g_b = u_b(a_b) - u_b(over) over the items that draw b left out. The value is the mean of g_b, the interval its 2.5 and
        97.5 percentiles. u_b rests on about N / e items and a_b on 0.63 N different ones: the interval is honest or somewhat
        wide, the value honest or somewhat low. None with too few items to leave any out.
        """
        b = np.arange(len(self.rows))
        gains = self.unseen[b, self.rows] - self.unseen[:, over]
        gains = gains[np.isfinite(gains)]
        return Gain(float(gains.mean()), _interval(gains)) if len(gains) else None

    def optimism(self) -> float:
        """By how much the score of the best is too high since it was chosen for it: 0.632 E_b[s_b(a_b) - u_b(a_b)].

        0.632 N of the N items are in a draw: the estimator .632 of Efron (1983). 0 with too few items to leave any out.
        """
        b = np.arange(len(self.rows))
        high = self.draws[b, self.rows] - self.unseen[b, self.rows]
        high = high[np.isfinite(high)]
        return 0.632 * float(high.mean()) if len(high) else 0.0

    def share(self, other: Array, pick: int) -> float:
        """How much of the optimism of the pick is in another number with draws [B], such as a score beside the pick.

        beta = Cov_b(x_b, m_b) / Var_b(m_b), m_b = s_b(pick) - mean_a s_b(a): what makes one weighting better than others. It
        is 1 of the pick's own score, and nearly 0 of a score on other items.
        """
        m = self.draws[:, pick] - self.draws.mean(axis=1)
        m = m - m.mean()
        square = float(m @ m)
        return float(other @ m) / square if square > 0 else 0.0


def gain_between(
    one: tuple[float, Array | None], other: tuple[float, Array | None], choice: Choice | None, pick: int
) -> Gain:
    """Of one score, with its draws [B], over another's: paired where both are on the same resamples.

    Where a preview's pick was chosen by scores on the same items, the difference is off by the share of the
    optimism that is in it, which is taken away: value - beta(one - other) optimism, and the interval alike.
    """
    value = one[0] - other[0]
    if one[1] is None or other[1] is None:
        return Gain(value)
    d = one[1] - other[1]
    off = 0.0 if choice is None else choice.share(d, pick) * choice.optimism()
    low, high = _interval(d)
    return Gain(value - off, (low - off, high - off))


def resampled(preview: Preview, *, seed: int, draws: int = DRAWS) -> tuple[Array | None, ...]:
    """Each task's scores on resampled test items [B, A], None for a task without per-item scores."""
    return tuple(
        None if items is None else means(items, seed=(seed, t), draws=draws)
        for t, items in enumerate(preview.items)
    )


def scored(preview: Preview, draws: Sequence[Array | None], weights: Array) -> Scored:
    """The mean over tasks under normalised metric weights [T], and its draws if every task that counts has them."""
    return Scored(preview.alphas, preview.scores @ weights, _weighted(draws, weights))


def valued(preview: Preview, draws: Sequence[Array | None], preference: Preference) -> Scored:
    """The value of the scores under a preference, and its draws if every task that counts has them."""
    tasks = preview.tasks
    return Scored(preview.alphas, preference.value(preview.scores, tasks), preference.draws(draws, tasks))


def unseen(
    preview: Preview, counted: NDArray[np.bool_], *, seed: int, draws: int = DRAWS
) -> tuple[Array | None, ...]:
    """Each counted task's scores on the items that each draw of `resampled` left out [B, A]; None without per-item scores."""
    return tuple(
        means_left_out(items, seed=(seed, t), draws=draws) if items is not None and counts else None
        for t, (items, counts) in enumerate(zip(preview.items, counted, strict=True))
    )


def _weighted(draws: Sequence[Array | None], weights: Array) -> Array | None:
    parts = [(w, d) for w, d in zip(weights, draws, strict=True) if w > 0]
    known = [w * d for w, d in parts if d is not None]
    return np.asarray(np.sum(known, axis=0)) if len(known) == len(parts) else None
