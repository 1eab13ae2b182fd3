"""Contour levels that are finer where the best of the truth lie close together, so that they can be told apart."""

from collections.abc import Mapping

import numpy as np

from previa.show._look import Array, Landscape, levels

CROWDED = (
    (0.5, 1 / 5),
    (0.9, 1 / 8),
)  # from which quantile of the truth, and what share of it in one band is too many
ROUNDING = 1e-6  # of a step's first digit, 1 to 10: what float64 may leave of 1, 2, 2.5 or 5
MOST = 40  # levels: more colours cannot be told apart


def graded(lands: Mapping[str, Landscape]) -> Array:
    """Round levels that cover the means of all methods: even ones, and finer ones where the truth is flat.

    Where a band above the truth's median holds more than a fifth of its weightings, it and those up to the truth's best are
    split into four or five; then, with an eighth, the bands of its best tenth. Where there is no such plateau finer bands would
    show the noise of single runs. Without a truth the previews' weightings count together.
    """
    every = np.concatenate([land.mean for land in lands.values()])
    steps = levels(every)
    crowd = lands["joint"].mean if "joint" in lands else every
    crowd = crowd[np.isfinite(crowd)]
    if crowd.size == 0 or np.ptp(crowd) == 0:
        return steps
    for quantile, most in CROWDED:
        shares = np.histogram(crowd, steps)[0] / crowd.size
        crowded = np.logical_or.accumulate((shares > most) & (steps[1:] >= np.quantile(crowd, quantile)))
        finer = _split(steps, crowded & (steps[:-1] <= crowd.max()))
        finer = finer[: np.searchsorted(finer, np.nanmax(every)) + 1]  # above there is no score
        if len(finer) > MOST or not crowded.any():
            break
        steps = finer
    return steps


def _split(steps: Array, which: Array) -> Array:
    """The levels with these bands in round parts: a step of 1, 2.5 or 5 falls into five, one of 2 into four."""
    parts = []
    for low, high, split in zip(steps[:-1], steps[1:], which, strict=True):
        step = high - low
        first = step / 10.0 ** np.floor(np.log10(step) + ROUNDING)
        n = (4 if abs(first - 2) < ROUNDING else 5) if split else 1
        parts.append(low + step * np.arange(n) / n)
    return np.concatenate([*parts, steps[-1:]])
