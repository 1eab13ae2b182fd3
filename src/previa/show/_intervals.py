"""How sure a previewed score is, and a difference of two: what the page needs of per-item scores, in few numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from previa.study.pareto import paired_error
from previa.study.preview import Preview

DIGITS = 3  # significant ones: an interval's end, not a score


def standard_errors(preview: Preview) -> list[list[float | None]] | None:
    """sqrt(var_i x_ai / N) of every score, [A][T], None where a task has no per-item scores; None where no task has any."""
    if all(items is None for items in preview.items):
        return None
    columns = [
        [None] * len(preview)
        if items is None
        else [_short(e) for e in items.std(axis=1, dtype=np.float64) / np.sqrt(items.shape[1])]
        for items in preview.items
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def typical_noise(preview: Preview, pick: int | None) -> list[float | None]:
    """Per task the median over weightings of the standard error of the paired difference to the pick: [T].

    None for a task without per-item scores, or where nothing else was scored.
    """
    return [None if items is None or pick is None else _typical(items, pick) for items in preview.items]


def _typical(items: NDArray[np.float32], pick: int) -> float | None:
    mask = np.zeros(len(items), dtype=np.bool_)
    good = np.isfinite(items).all(axis=1)
    mask[pick] = True
    errors = paired_error(items[good], mask[good])[:, 0]
    others = errors[~mask[good]]
    return _short(float(np.median(others))) if len(others) else None


def _short(number: Any) -> float | None:
    return float(f"{number:.{DIGITS}g}") if np.isfinite(number) else None
