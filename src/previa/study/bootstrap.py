"""The paired bootstrap over test items: how far scores, and differences between weightings, would move on other test sets.

It knows of the noise of a finite test set only: not of the training seed, and not of picking the best on the same items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from previa.study.preview import Preview

Array = NDArray[np.float64]

DRAWS = 1000
LEVEL = 0.95
BLOCK = 2_000_000  # resampling counts held at once
SLACK = 64 * float(np.finfo(np.float64).eps)  # of the largest score: the same number summed in another order


def means(items: NDArray[np.float32], *, seed: Sequence[int], draws: int = DRAWS) -> Array:
    """Means over resampled test items, s_b(a) = sum_i c_bi x_ai / N with c_b ~ Multinomial(N, 1/N): [B, A].

    items [A, N]. The same seed and N give the same resamples, so that weightings and methods are paired.
    """
    rng = np.random.default_rng(list(seed))
    x = items.astype(np.float64).T
    N = len(x)
    out = []
    for first in range(0, draws, max(1, BLOCK // N)):
        b = min(max(1, BLOCK // N), draws - first)
        drawn = rng.integers(N, size=(b, N)) + N * np.arange(b)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=b * N).reshape(b, N)
        out.append(counts @ x / N)
    return np.concatenate(out)


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
        """Of weighting a over another one, paired: both on the same items in each draw."""
        value = float(self.score[a] - self.score[over])
        if self.draws is None:
            return Gain(value)
        tails = (1 - LEVEL) / 2, (1 + LEVEL) / 2
        low, high = np.quantile(self.draws[:, a] - self.draws[:, over], tails)
        return Gain(value, (float(low), float(high)))

    def regret_noise(self, best: int) -> float | None:
        """The 95th percentile of max_a s_b(a) - s_b(best): the regret that the best itself shows on another test set."""
        if self.draws is None:
            return None
        return float(np.quantile(self.draws.max(axis=1) - self.draws[:, best], LEVEL))


def resampled(preview: Preview, *, seed: int, draws: int = DRAWS) -> tuple[Array | None, ...]:
    """Each task's scores on resampled test items [B, A], None for a task without per-item scores."""
    return tuple(
        None if items is None else means(items, seed=(seed, t), draws=draws)
        for t, items in enumerate(preview.items)
    )


def scored(preview: Preview, draws: Sequence[Array | None], weights: Array) -> Scored:
    """The mean over tasks under normalised metric weights [T], and its draws if every task that counts has them."""
    parts = [(w, d) for w, d in zip(weights, draws, strict=True) if w > 0]
    known = [w * d for w, d in parts if d is not None]
    total = np.sum(known, axis=0) if len(known) == len(parts) else None
    return Scored(preview.alphas, preview.scores @ weights, total)
