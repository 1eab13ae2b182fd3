"""The paper's layout (figures 3, 8 and 9): a picture of the truth and of each preview, and below it how many weightings reach what."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from previa.errors import InputError
from previa.show._level import level
from previa.show._look import (
    INK,
    LINES,
    MAP,
    MUTED,
    TRUTH,
    Array,
    Landscape,
    averaged,
    caption_height,
    figure,
    fit,
    heading,
    label,
    landscapes,
    plain,
    save,
    tidy,
)
from previa.show._scale import graded
from previa.show.contours import CORNERS, colour_bar
from previa.show.histograms import MEDIAN, bars, percent, shared_bins
from previa.show.ternary import filled, frame, mark, scale
from previa.study.simplex import find

if TYPE_CHECKING:
    from previa.study.preview import Preview

MOST = 7  # pictures, the truth's among them
TRIANGLE, BELOW = 1.65, 0.75  # inches: heights of an upper and of a lower picture
HEAD, BETWEEN, AXIS = (
    0.88,
    0.56,
    0.62,
)  # inches: names above, from the upper to the lower picture, the axis under that
CELL, GAP = 2.5, 0.24  # inches: a column, and what of it is left free
LEFT, RIGHT, TITLE = 0.8, 1.05, 0.46  # margins in inches
ROW = HEAD + TRIANGLE + BETWEEN + BELOW + AXIS


@dataclass(frozen=True)
class Cells:
    """Where the pictures of ``n`` methods lie: rows of at most three, four as two and two, so that all can be read."""

    n: int
    foot: float

    @property
    def columns(self) -> int:
        """Pictures beside each other."""
        return 2 if self.n == 4 else min(3, self.n)

    def corner(self, i: int) -> tuple[float, float]:
        """The left lower corner of cell i, in inches."""
        row, column = divmod(i, self.columns)
        rows = -(-self.n // self.columns)
        return LEFT + CELL * column, self.foot + ROW * (rows - 1 - row)

    def lowest(self, i: int) -> bool:
        """Whether nothing stands under cell i."""
        return i + self.columns >= self.n


def panels(
    truth: "Preview",
    previews: Mapping[str, "Preview"],
    path: str | Path,
    *,
    title: str = "",
    unit: str = "score",
    truth_label: str = TRUTH,
) -> None:
    """Draw the truth and the previews (by the name that is shown) beside each other as PNG or SVG by the path's ending, on one colour scale.

    Three tasks: filled triangles; two: curves, the truth's behind each. Below: the share of weightings at each mean score,
    on shared bins. title: the study's name; unit: the score's. Raises InputError for other numbers of tasks (see
    `contours`) or more than six previews, FileError, MissingExtraError.
    """
    tasks, lands = landscapes(truth, previews)
    if len(tasks) not in (2, 3):
        raise InputError(
            f"panels are of two or three tasks. Found {len(tasks)}: {list(tasks)}. Use `contours` for more."
        )
    if len(lands) > MOST or "joint" not in lands:
        raise InputError(f"panels show the truth and at most {MOST - 1} previews. Found {list(lands)}.")
    caption = (
        f"{CORNERS if len(tasks) == 3 else ''}○ the best weighting of the truth; ★ the preview's pick. Below each: the share of "
        f"weightings at each score; ▲ their median; the outline is the truth's. {level(lands)}"
    )
    cells = Cells(len(lands), 0.0)
    width = LEFT + CELL * cells.columns + (RIGHT if len(tasks) == 3 else 0.1)
    cells = replace(cells, foot=caption_height(title, caption, width))
    height = TITLE + cells.corner(0)[1] + ROW
    made = figure(width, height)
    steps = graded(lands)
    (_triangles if len(tasks) == 3 else _curves)(made, cells, tasks, lands, steps)
    score = averaged(unit)
    _names(made, cells, lands, truth_label, steps)
    _histograms(made, cells, lands, score)
    if len(tasks) == 3:
        top, bottom = height - TITLE - HEAD, cells.foot + AXIS + BELOW + BETWEEN
        place = (width - RIGHT + 0.12, max(bottom, top - 2 * TRIANGLE), 0.16, min(top - bottom, 2 * TRIANGLE))
        colour_bar(made, scale(steps, MAP), score, _inches(made, *place))
    heading(made, title, "Score of every weighting: truth and previews", caption)
    save(made, path)


def _inches(made: Any, left: float, bottom: float, width: float, height: float) -> tuple[float, ...]:
    w, h = made.get_size_inches()
    return left / w, bottom / h, width / w, height / h


def _upper(made: Any, corner: tuple[float, float], wide: float, high: float) -> tuple[float, ...]:
    """The place of a cell's upper picture, so many inches wide and high."""
    left, bottom = corner
    middle = left + (CELL - GAP) / 2
    return _inches(made, middle - wide / 2, bottom + AXIS + BELOW + BETWEEN, wide, high)


def _triangles(
    made: Any, cells: Cells, tasks: tuple[str, ...], lands: Mapping[str, Landscape], steps: Array
) -> None:
    colours, truth = scale(steps, MAP), lands["joint"]
    for i, (method, land) in enumerate(lands.items()):
        axes = made.add_axes(
            _upper(made, cells.corner(i), TRIANGLE * 2 / np.sqrt(3), TRIANGLE), projection="ternary"
        )
        filled(axes, land.alphas, land.mean, colours)
        frame(axes, tasks, size=8.5)
        if truth.pick is not None:
            mark(axes, truth.alphas[truth.pick], "best", size=0.7)
        if method != "joint" and land.pick is not None:
            mark(axes, land.alphas[land.pick], "pick", size=0.7)


def _curves(
    made: Any, cells: Cells, tasks: tuple[str, ...], lands: Mapping[str, Landscape], steps: Array
) -> None:
    truth = lands["joint"]
    for i, (method, land) in enumerate(lands.items()):
        axes = made.add_axes(_upper(made, cells.corner(i), CELL - GAP, TRIANGLE + 0.25))
        axes.plot(*_line(truth), color=INK, linewidth=0.9)
        if truth.pick is not None:
            at = truth.alphas[truth.pick, 0], truth.mean[truth.pick]
            axes.plot(*at, "o", markersize=10, markerfacecolor="none", color=INK, clip_on=False, zorder=6)
        if method != "joint":
            axes.plot(*_line(land), color=LINES[0], linewidth=1.7)
        if method != "joint" and land.pick is not None:
            at = land.alphas[land.pick, 0], land.mean[land.pick]
            axes.plot(*at, "*", markersize=12, color=LINES[0], markeredgecolor="white", zorder=7)
        margin = 0.1 * (steps[-1] - steps[0])  # a star stays off the axis and its numbers
        axes.set(xlim=(-0.04, 1.04), ylim=(steps[0] - margin, steps[-1] + margin))
        tidy(axes)
        axes.tick_params(labelleft=i % cells.columns == 0)
        axes.set_xlabel(f"weight of {plain(tasks[0], width=20, lines=1)}", fontsize=8.5, color=INK)


def _line(land: Landscape) -> tuple[Array, Array]:
    order = np.argsort(land.alphas[:, 0], kind="stable")
    return land.alphas[order, 0], land.mean[order]


def _names(made: Any, cells: Cells, lands: Mapping[str, Landscape], truth_label: str, steps: Array) -> None:
    """Over each picture its name, and the best score it shows beside what is true there."""
    width, height = made.get_size_inches()
    for i, (method, land) in enumerate(lands.items()):
        true, (left, bottom) = method == "joint", cells.corner(i)
        name = plain(truth_label if true else label(method), width=40, lines=1)
        best = _best(land, None if true else lands["joint"], digits(steps))
        place = {"x": (left + (CELL - GAP) / 2) / width, "ha": "center", "va": "center"}
        y = (bottom + ROW - 0.14, bottom + ROW - 0.35)
        weight = "bold" if true else "normal"
        fit(made.text(y=y[0] / height, s=name, fontsize=10, color=INK, weight=weight, **place), CELL - 0.08)
        made.text(y=y[1] / height, s=best, fontsize=8.5, color=MUTED, **place)


def digits(steps: Array) -> int:
    """How many significant digits tell scores apart to a tenth of a colour's step; three at least, and all before the point."""
    largest, step = (int(np.floor(np.log10(x))) for x in (np.abs(steps).max(), np.diff(steps).max()))
    return max(3, largest - step + 2, largest + 1)


def _best(land: Landscape, truth: Landscape | None, n: int) -> str:
    if land.pick is None:
        return "no weighting was scored"
    best = f"{land.mean[land.pick]:#.{n}g}".rstrip(".")
    if truth is None:
        return f"best {best}"
    row = find(truth.alphas, land.alphas[land.pick])
    return f"★ previewed {best}" + (
        "" if row is None else f", true {f'{truth.mean[row]:#.{n}g}'.rstrip('.')}"
    )


def _histograms(made: Any, cells: Cells, lands: Mapping[str, Landscape], score: str) -> None:
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    bins, shares, top = shared_bins(lands)
    for i, (method, land) in enumerate(lands.items()):
        left, bottom = cells.corner(i)
        axes = made.add_axes(_inches(made, left, bottom + AXIS, CELL - GAP, BELOW))
        bars(axes, bins, shares[method], land.mean, truth=method == "joint")
        percent(axes, top)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        if method != "joint":
            axes.stairs(shares["joint"], bins, color=INK, linewidth=0.8)
        axes.tick_params(labelsize=8, colors=MUTED, length=0, labelleft=i % cells.columns == 0)
        axes.tick_params(axis="x", pad=MEDIAN)
        if i % cells.columns == 0:
            axes.set_ylabel("share of\nweightings", fontsize=8.5, color=INK)
        if cells.lowest(i):
            axes.set_xlabel(score, fontsize=8.5, color=INK, labelpad=2)
