"""Where methods disagree: how far apart they rank each weighting that all of them scored."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import InputError
from previa.study import quality, simplex
from previa.study.preference import Preference
from previa.study.preview import Preview

Array = NDArray[np.float64]

BEST = 0.1  # a method's best decile
WORSE = 0.5  # what it ranks below this is its worse half
FEWEST = 3  # weightings that all methods scored, for ranks to mean something


@dataclass(frozen=True, eq=False)
class Disagreement:
    """The percentiles of each method's ranks at the weightings that all scored, and how far apart they are.

    alphas [A, T]; methods: M names; percentile [M, A]: 0 the method's worst weighting, 1 its best, ties share the average of
    theirs; spread [A]: the largest minus the smallest percentile of a weighting, 0 where all agree.
    contested: of the weightings in some method's best tenth, the share that another method puts in its worse half.
    """

    alphas: Array
    methods: tuple[str, ...]
    percentile: Array
    spread: Array
    contested: float

    def at(self, alpha: ArrayLike) -> dict[str, float] | None:
        """Each method's percentile of this weighting; None where not all scored it."""
        row = simplex.find(self.alphas, alpha)
        if row is None:
            return None
        return {name: float(p) for name, p in zip(self.methods, self.percentile[:, row], strict=True)}

    @property
    def sentence(self) -> str:
        """How far to trust any one of them, in words."""
        share = f"{100 * self.contested:.0f} %"
        return (
            f"Of the weightings that one of {len(self.methods)} methods has in its best tenth, another has {share} in its "
            f"worse half; ranks of a weighting lie {100 * float(np.median(self.spread)):.0f} % of all weightings apart (median)."
        )


def disagreement(previews: Mapping[str, Preview], preference: Preference | None = None) -> Disagreement:
    """The spread over methods of each weighting's rank percentile under a preference.

    percentile = (rank - 1) / (A - 1), ranks over the A weightings that all previews scored. What keeps all floors ranks before
    what does not, and that by how much it misses them. Raises InputError for fewer than two methods, other tasks, or fewer
    than three weightings in common.
    """
    preference = preference or Preference()
    if len(previews) < 2:
        raise InputError(f"a disagreement needs two methods at least. Found {list(previews)}.")
    first = next(iter(previews.values()))
    for name, preview in previews.items():
        if preview.tasks != first.tasks:
            raise InputError(f"{name}: its tasks should be {list(first.tasks)}. Found {list(preview.tasks)}.")
    good = [preview.rows(preview.ok) for preview in previews.values()]
    keys = [[simplex.key(alpha) for alpha in preview.alphas] for preview in good]
    shared = sorted(set(keys[0]).intersection(*keys[1:]))
    A = len(shared)
    if A < FEWEST:
        raise InputError(
            f"a disagreement needs {FEWEST} weightings that all methods scored. Found {A}, of {[len(p) for p in good]}."
        )
    percentile = []
    for preview, names in zip(good, keys, strict=True):
        row = {name: i for i, name in enumerate(names)}
        seen = preview.rows([row[name] for name in shared])
        percentile.append((quality.ranks(order_of(seen, preference)) - 1) / (A - 1))
        alphas = seen.alphas
    p = np.array(percentile)
    best = (p >= 1 - BEST).any(axis=0)
    contested = float((p[:, best] < WORSE).any(axis=0).mean()) if best.any() else 0.0
    return Disagreement(alphas, tuple(previews), p, np.ptp(p, axis=0), contested)


def order_of(preview: Preview, preference: Preference) -> Array:
    """Numbers that order scored weightings as a preference does: its values, those that miss floors below all that keep them."""
    value = preference.value(preview.scores, preview.tasks)
    short = preference.shortfall(preview.scores, preview.tasks)
    return np.asarray(np.where(short > 0, value.min() - 1 - short, value))
