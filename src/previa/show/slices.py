"""Many tasks, two at a time: the best value for each pair of weights, the others being free."""

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from previa.errors import InputError
from previa.show._look import (
    INK,
    MAP,
    MUTED,
    PLAIN,
    RULE,
    Array,
    Landscape,
    averaged,
    caption_height,
    figure,
    fit,
    heading,
    landscapes,
    levels,
    plain,
    save,
)
from previa.show._veil import WORDS, Mask, veil
from previa.show.contours import colour_bar
from previa.show.pareto import conflicts
from previa.show.ternary import ON_GRID, Scale, filled, mark, scale
from previa.study.preference import Preference

if TYPE_CHECKING:
    from previa.study.preview import Preview

TASKS = (4, 8)
WHOLE = 6  # tasks: up to here all pairs have a place in a lower triangle
MOST, COLUMNS = 12, 4  # pairs of more tasks
NEARLY_ALL = 0.95  # of the weightings are on the grid: uniform ones may be off it
FINEST, COARSE = 50, 10  # steps of a grid that is recognised; of cells where weightings are no grid
CELL = 1.85, 1.82  # inches of one slice, its names included
LEFT, FREE = 0.3, 1.5  # inches: margin, and what colour bar and key take where no triangle leaves them room


def slices(
    preview: "Preview",
    path: str | Path,
    *,
    title: str = "",
    unit: str = "score",
    preference: Preference = PLAIN,
) -> None:
    """Draw a small triangle for each pair of four to eight tasks, as PNG or SVG by the path's ending.

    A cell is the weights of the pair's two tasks, the third corner all others together; its colour is the best value of the
    weightings there that were scored, floors first: nothing is filled in. Of more than six tasks the twelve pairs whose
    scores rise least together. Raises InputError for other numbers of tasks, FileError, MissingExtraError.
    """
    tasks, lands = landscapes(None, {"preview": preview}, preference)
    land, T = lands["preview"], len(tasks)
    if not TASKS[0] <= T <= TASKS[1]:
        raise InputError(
            f"slices are of {TASKS[0]} to {TASKS[1]} tasks. Found {T}: {list(tasks)}. Use `contours` for fewer, `parallel` for more."
        )
    if land.pick is None:
        raise InputError(f"slices: none of {len(preview)} weightings was scored.")
    steps, exact = _steps(land.alphas)
    pairs = list(combinations(range(T), 2)) if T <= WHOLE else conflicts(land.scores, MOST)
    found = {pair: cells(land, pair, steps) for pair in pairs}
    parts = (
        "Corners: all weight on one of the two tasks, or on the others together. A colour is the best value that was scored at "
        "these two weights; ★ the best of all.",
        "" if exact else f"Weights are rounded to 1/{steps}.",
        ""
        if T <= WHOLE
        else f"Shown are the {len(pairs)} of {T * (T - 1) // 2} pairs of tasks most in conflict.",
        WORDS if any(missed.any() for _, _, missed in found.values()) else "",
    )
    words = " ".join(part for part in parts if part)
    columns = T - 1 if T <= WHOLE else COLUMNS
    rows = T - 1 if T <= WHOLE else -(-len(pairs) // COLUMNS)
    width = LEFT + CELL[0] * columns + (0.25 if T <= WHOLE else FREE)
    foot = caption_height(title, words, width)
    made = figure(width, 0.55 + CELL[1] * rows + foot)
    height = made.get_figheight()
    colours = scale(levels(np.concatenate([best for _, best, _ in found.values()])), MAP)
    for number, pair in enumerate(pairs):
        row, column = (pair[1] - 1, pair[0]) if T <= WHOLE else divmod(number, COLUMNS)
        corner = LEFT + CELL[0] * column, height - 0.55 - CELL[1] * (row + 1)
        _slice(
            made,
            corner,
            (tasks[pair[0]], tasks[pair[1]]),
            found[pair],
            colours,
            land.alphas[land.pick, list(pair)],
        )
    place = (width - 0.95, height - 0.75 - 2.2) if T <= WHOLE else (width - 1.15, height - 0.85 - 2.6)
    colour_bar(
        made,
        colours,
        averaged(unit, preference),
        (place[0] / width, place[1] / height, 0.14 / width, 2.2 / height),
    )
    heading(made, title, "The best value for each pair of weights", words)
    save(made, path)


def cells(land: Landscape, pair: tuple[int, int], steps: int) -> tuple[Array, Array, Mask]:
    """(weights of the two tasks and of all others [C, 3], the best value there [C], whether a floor is missed even so [C]).

    The best: of those that keep the floors, else of those that miss them least. Weightings that failed count for nothing.
    """
    good = np.flatnonzero(np.isfinite(land.mean))
    short = np.zeros(len(good)) if land.short is None else land.short[good]
    places = np.rint(land.alphas[good][:, pair] * steps)
    order = np.lexsort((-land.mean[good], short, places[:, 1], places[:, 0]))
    first = np.concatenate([[True], (np.diff(places[order], axis=0) != 0).any(axis=1)])
    rows = order[first]
    two = places[rows] / steps
    rest = np.maximum(1 - two.sum(axis=1), 0.0)
    return np.column_stack([two, rest]), land.mean[good][rows], short[rows] > 0


def _steps(alphas: Array) -> tuple[int, bool]:
    """The steps of the grid that nearly all weightings are on, and True; else COARSE, and False."""
    for n in range(1, FINEST + 1):
        on = (np.abs(alphas * n - np.rint(alphas * n)) < ON_GRID).all(axis=1)
        if on.mean() > NEARLY_ALL:
            return n, True
    return COARSE, False


def _slice(
    made: Any, corner: tuple[float, float], names: tuple[str, str], found: tuple[Array, Array, Mask], colours: Scale, pick: Array
) -> None:  # fmt: skip
    width, height = made.get_size_inches()
    places, best, missed = found
    left, bottom = corner
    axes = made.add_axes(
        ((left + 0.22) / width, (bottom + 0.38) / height, 1.34 / width, 1.16 / height), projection="ternary"
    )
    at = places[:, [2, 0, 1]]  # the others on top, the pair below
    filled(axes, at, best, colours)
    veil(axes, at, missed)
    mark(axes, np.array([1 - pick.sum(), *pick]), "pick", size=0.5)
    for axis in (axes.taxis, axes.laxis, axes.raxis):
        axis.set_ticks([])
    for spine in axes.spines.values():
        spine.set_edgecolor(RULE)
    made.text(
        (left + 0.89) / width,
        (bottom + 1.61) / height,
        "others",
        fontsize=7.5,
        color=MUTED,
        ha="center",
        va="bottom",
    )
    for name, x, side in ((names[0], left + 0.1, "left"), (names[1], left + CELL[0] - 0.17, "right")):
        text = made.text(x / width, (bottom + 0.34) / height, plain(name, width=12, lines=2), fontsize=7.5, color=INK, ha=side,
                         va="top", linespacing=1.0)  # fmt: skip
        fit(text, CELL[0] / 2 - 0.16)
