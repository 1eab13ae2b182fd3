"""How well one list of numbers, a preview's, ranks and predicts another, the truth's; a function each."""

import math

import numpy as np
from numpy.typing import NDArray

from previa.study import simplex

Array = NDArray[np.float64]

SIGNIFICANT = 12  # digits in which two scores must differ: equal ones may come from sums in another order


def snapped(scores: Array) -> Array:
    """The scores to 12 digits of the largest, so that equal ones are equal."""
    largest = float(np.abs(scores).max(initial=0.0))
    if largest == 0:
        return scores
    return np.asarray(np.round(scores / largest, SIGNIFICANT) * largest)


def ranking(scores: Array, alphas: Array) -> NDArray[np.intp]:
    """The weightings from best to worst: [A]; ties: the nearest to uniform first, then the lexicographically first."""
    safety = np.empty(len(alphas), dtype=np.intp)
    safety[simplex.by_safety(alphas)] = np.arange(len(alphas))
    return np.lexsort((safety, -snapped(scores)))


def top(order: NDArray[np.intp], fraction: float) -> NDArray[np.intp]:
    """The best of a ranking, by count: this fraction of them to the nearest whole number, one at least."""
    return order[: max(1, math.floor(fraction * len(order) + 0.5))]


def ranks(x: Array) -> Array:
    """Ranks from 1; those that tie share the average of theirs."""
    _, place, count = np.unique(snapped(x), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place])


def spearman(x: Array, y: Array) -> float | None:
    """The correlation of the ranks; None for fewer than three numbers, or when all of x or of y are the same."""
    a, b = ranks(x) - (len(x) + 1) / 2, ranks(y) - (len(y) + 1) / 2
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(np.clip(a @ b / scale, -1, 1)) if len(x) >= 3 and scale > 0 else None


def pairwise_accuracy(preview: Array, truth: Array) -> float | None:
    """Of all pairs that differ in truth, the share that the preview orders alike, its ties as a half; None without pairs."""
    p, s = snapped(preview), snapped(truth)
    right, pairs = 0.0, 0
    for i in range(len(s) - 1):
        d = np.sign(s[i + 1 :] - s[i])
        right += float((np.sign(p[i + 1 :] - p[i]) * d + np.abs(d)).sum()) / 2
        pairs += int(np.abs(d).sum())
    return right / pairs if pairs else None


def iou(a: NDArray[np.intp], b: NDArray[np.intp]) -> float:
    """What two regions share, over what they cover together."""
    return len(np.intersect1d(a, b)) / len(np.union1d(a, b))
