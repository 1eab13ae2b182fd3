"""The near-best region: the weightings that a preview does not tell from its pick, their robust centre, and how far one may move."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import InputError
from previa.study import bootstrap, simplex
from previa.study.bootstrap import Scored
from previa.study.floors import candidates
from previa.study.preference import SLACK, Preference
from previa.study.preview import Preview

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

RANGE = 0.01  # near-best without per-item scores: within this share of the range of the previewed scores


@dataclass(frozen=True, eq=False)
class Region:
    """Which of alphas [A, T] are as good as the pick, as far as can be told: inside [A].

    rule: "bootstrap", a paired bootstrap over test items at each weighting; "range", within 1 % of the range of scores;
    "surrogate", by what lies between few evaluated weightings.
    """

    alphas: Array
    inside: Mask
    rule: str

    @property
    def area(self) -> float:
        """The share of the weightings that are inside: of a grid, the share of the simplex."""
        return float(self.inside.mean())

    def holds(self, alpha: ArrayLike, *, nearest: bool = False) -> bool:
        """Whether this weighting is inside; one that is not among alphas is not, or is as the nearest one is."""
        row = simplex.nearest(self.alphas, alpha) if nearest else simplex.find(self.alphas, alpha)
        return row is not None and bool(self.inside[row])

    def centre(self) -> Array:
        """The weighting inside that is deepest, see `deepest`: [T]."""
        return np.asarray(self.alphas[deepest(self.alphas, self.inside)])

    def reach(self, alpha: ArrayLike) -> float:
        """The largest r such that all of alphas none of whose weights differs by more than r from this one are inside.

        In units of weight; 0 where already a next one is outside. The weights of anything outside differ by more.
        """
        off = np.round(np.abs(self.alphas - np.asarray(alpha, dtype=np.float64)).max(axis=1), simplex.DIGITS)
        near = off < off[~self.inside].min(initial=np.inf)
        return float(off[near].max(initial=0.0))


def to_edge(alpha: ArrayLike) -> float:
    """How far a weighting is from the simplex's edge: the weight that may be taken from a task before it has none."""
    return float(np.min(np.asarray(alpha, dtype=np.float64)))


def near_best(scored: Scored, pick: int, allowed: Mask) -> Region:
    """The allowed weightings [A] that a paired bootstrap over test items does not tell from the pick (95 %).

    Without per-item scores: those within 1 % of the range of the allowed ones' scores.
    """
    s, draws = scored.score, scored.draws
    if draws is None:
        near = s >= s[pick] - RANGE * np.ptp(s[allowed]) - scored.slack
        return Region(scored.alphas, allowed & near, "range")
    low = np.quantile(draws[:, [pick]] - draws, (1 - bootstrap.LEVEL) / 2, axis=0)
    return Region(scored.alphas, allowed & (low <= scored.slack), "bootstrap")


def noise(scored: Scored, pick: int, allowed: Mask) -> float | None:
    """The regret that the best itself shows on another draw of test items, among the allowed: `Scored.regret_noise`."""
    return scored.rows(np.flatnonzero(allowed)).regret_noise(int(allowed[:pick].sum()))


def width(scored: Scored, pick: int) -> float | None:
    """By how much another weighting's score may lie below the pick's before it is told from it, the median over them.

    w = median_a (s(pick) - s(a)) - q(a), q the 2.5th percentile of the paired draws. None without per-item scores, or others.
    """
    if scored.draws is None or len(scored.score) < 2:
        return None
    low = np.quantile(scored.draws[:, [pick]] - scored.draws, (1 - bootstrap.LEVEL) / 2, axis=0)
    wide = scored.score[pick] - scored.score - low
    return float(np.median(np.delete(wide, pick)))


def interpolated_region(
    surrogate: Preview, preference: Preference, pick: ArrayLike, within: float | None, *, kept: bool = True
) -> Region:
    """The weightings of a dense surrogate whose value lies within ``within`` of its value at the pick, [A'].

    Both values are the surrogate's, so that the noise of the pick's own score, which was chosen for being high, has no part.
    Floors count by the surrogate's scores; where nothing keeps them (kept False) the value is how little they are missed by.
    within None: 1 % of the range of the values. Raises InputError where the
    surrogate is of nothing.
    """
    good = surrogate.rows(surrogate.ok)
    if not len(good):
        raise InputError("the surrogate: it should have scores at one weighting at least. Found none.")
    judge = preference.value if kept else preference.shortfall
    value = (1 if kept else -1) * judge(good.scores, good.tasks)
    allowed = candidates(good, preference) if kept else np.ones(len(good), bool)
    at = simplex.nearest(good.alphas, pick)
    slack = SLACK * float(np.abs(value).max())
    inside = allowed & (value >= value[at] - (RANGE * np.ptp(value) if within is None else within) - slack)
    inside[at] = True  # the pick was scored, floors and all
    return Region(good.alphas, inside, "surrogate")


def deepest(alphas: Array, inside: Mask) -> int:
    """The row farthest from the simplex's edge and from what is outside; of several the nearest to the region's mean, then

    to uniform.
    """
    edge, out = simplex.depth(alphas, inside)
    middle = np.linalg.norm(alphas - alphas[inside].mean(axis=0), axis=1)
    safety = np.empty(len(alphas))
    safety[simplex.by_safety(alphas)] = np.arange(len(alphas))
    depth = np.minimum(edge, out)
    keys = (safety, *(np.round(k, simplex.DIGITS) for k in (middle, -out, -depth)), ~inside)
    return int(np.lexsort(keys)[0])
