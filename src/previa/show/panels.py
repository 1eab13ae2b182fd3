"""The paper's layout (figures 3, 8 and 9): a column for the truth and for each preview, how many weightings reach what below."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from previa.errors import InputError
from previa.show._look import (
    INK,
    LINES,
    MAP,
    MUTED,
    TRUTH,
    Array,
    Landscape,
    averaged,
    figure,
    heading,
    label,
    landscapes,
    levels,
    plain,
    save,
    tidy,
)
from previa.show.contours import LOW, colour_bar
from previa.show.histograms import bars, percent, shared_bins
from previa.show.ternary import filled, frame, mark, scale
from previa.study.simplex import find

if TYPE_CHECKING:
    from previa.study.preview import Preview

MOST = 7  # columns, the truth's among them
COLUMN, TRIANGLE, BELOW = (
    2.45,
    1.56,
    0.85,
)  # inches: a column's width, heights of its upper and its lower picture
LEFT, RIGHT, BETWEEN = 0.62, 1.0, 0.66  # margins, and from the upper picture to the lower one
HEAD = 1.12  # inches of titles
GAP = 0.24  # between columns


def panels(
    truth: "Preview",
    previews: Mapping[str, "Preview"],
    path: str | Path,
    *,
    title: str = "",
    unit: str = "score",
    truth_label: str = TRUTH,
) -> None:
    """Draw the truth and the previews (by the name that is shown) side by side to a PNG file, on one colour scale.

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
    width = LEFT + COLUMN * len(lands) + (RIGHT if len(tasks) == 3 else 0.1)
    height = HEAD + TRIANGLE + BETWEEN + BELOW + _foot(len(lands))
    made = figure(width, height)
    steps = levels(np.concatenate([land.mean for land in lands.values()]))
    draw = _triangles if len(tasks) == 3 else _curves
    draw(made, tasks, lands, steps)
    score = averaged(unit, None)
    _names(made, lands, truth_label, steps)
    _histograms(made, lands, score)
    if len(tasks) == 3:
        place = (width - RIGHT + 0.12, height - HEAD - TRIANGLE, 0.16, TRIANGLE)
        colour_bar(made, scale(steps, MAP), score, _inches(made, *place))
    first = "Each corner trains one task alone; the ticks are task weights. " if len(tasks) == 3 else ""
    heading(made, title, "Score of every weighting: truth and previews", f"{first}○ the best weighting of the truth; ★ the "
            f"preview's pick. Below: the share of weightings at each score; ▲ their median; the outline is the truth's. {LOW}")  # fmt: skip
    save(made, path)


def _foot(columns: int) -> float:
    """Inches of axis and caption: a narrow picture has a caption of more lines."""
    return 0.98 if columns > 3 else 1.22


def _inches(made: Any, left: float, bottom: float, width: float, height: float) -> tuple[float, ...]:
    w, h = made.get_size_inches()
    return left / w, bottom / h, width / w, height / h


def _middle(column: float) -> float:
    """The middle of a column, in inches from the left."""
    return LEFT + COLUMN * column + (COLUMN - GAP) / 2


def _upper(made: Any, column: int, wide: float) -> tuple[float, ...]:
    """The place of a column's upper picture, so many inches wide."""
    bottom = made.get_size_inches()[1] - HEAD - TRIANGLE
    return _inches(made, _middle(column) - wide / 2, bottom, wide, TRIANGLE)


def _triangles(made: Any, tasks: tuple[str, ...], lands: Mapping[str, Landscape], steps: Array) -> None:
    colours, truth = scale(steps, MAP), lands["joint"]
    for column, (method, land) in enumerate(lands.items()):
        axes = made.add_axes(_upper(made, column, TRIANGLE * 2 / np.sqrt(3)), projection="ternary")
        filled(axes, land.alphas, land.mean, colours)
        frame(axes, tasks, size=8)
        if truth.pick is not None:
            mark(axes, truth.alphas[truth.pick], "best", size=0.7)
        if method != "joint" and land.pick is not None:
            mark(axes, land.alphas[land.pick], "pick", size=0.7)


def _curves(made: Any, tasks: tuple[str, ...], lands: Mapping[str, Landscape], steps: Array) -> None:
    truth = lands["joint"]
    for column, (method, land) in enumerate(lands.items()):
        axes = made.add_axes(_upper(made, column, COLUMN - GAP))
        axes.plot(*_line(truth), color=INK, linewidth=0.9)
        if truth.pick is not None:
            at = truth.alphas[truth.pick, 0], truth.mean[truth.pick]
            axes.plot(*at, "o", markersize=10, markerfacecolor="none", color=INK, clip_on=False, zorder=6)
        if method != "joint":
            axes.plot(*_line(land), color=LINES[0], linewidth=1.7)
        if method != "joint" and land.pick is not None:
            at = land.alphas[land.pick, 0], land.mean[land.pick]
            axes.plot(*at, "*", markersize=12, color=LINES[0], markeredgecolor="white", zorder=7)
        axes.set(xlim=(-0.02, 1.02), ylim=(steps[0], steps[-1]))
        tidy(axes)
        axes.tick_params(labelleft=column == 0)
        axes.set_xlabel(f"weight of {plain(tasks[0], width=20, lines=1)}", fontsize=8.5, color=INK)


def _line(land: Landscape) -> tuple[Array, Array]:
    order = np.argsort(land.alphas[:, 0], kind="stable")
    return land.alphas[order, 0], land.mean[order]


def _names(made: Any, lands: Mapping[str, Landscape], truth_label: str, steps: Array) -> None:
    """Over each column its name, and the best score it shows beside what is true there."""
    width, height = made.get_size_inches()
    for column, (method, land) in enumerate(lands.items()):
        true = method == "joint"
        name = plain(truth_label if true else label(method), width=32, lines=1)
        best = _best(land, None if true else lands["joint"], digits(steps))
        place = {"x": _middle(column) / width, "ha": "center", "va": "center"}
        made.text(
            y=1 - 0.5 / height, s=name, fontsize=9.5, color=INK, weight="bold" if true else "normal", **place
        )
        made.text(y=1 - 0.69 / height, s=best, fontsize=8, color=MUTED, **place)


def digits(steps: Array) -> int:
    """How many significant digits tell scores apart to a tenth of a colour's step; three at least, and all before the point."""
    largest, step = (int(np.floor(np.log10(x))) for x in (np.abs(steps).max(), steps[1] - steps[0]))
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


def _histograms(made: Any, lands: Mapping[str, Landscape], score: str) -> None:
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    bins, shares, top = shared_bins(lands)
    foot = _foot(len(lands))
    for column, (method, land) in enumerate(lands.items()):
        axes = made.add_axes(_inches(made, LEFT + COLUMN * column, foot, COLUMN - GAP, BELOW))
        bars(axes, bins, shares[method], land.mean, truth=method == "joint")
        percent(axes, top)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        if method != "joint":
            axes.stairs(shares["joint"], bins, color=INK, linewidth=0.8)
        axes.tick_params(labelsize=7.5, colors=MUTED, length=0, labelleft=column == 0)
        if column == 0:
            axes.set_ylabel("weightings", fontsize=8.5, color=INK)
    width, height = made.get_size_inches()
    middle = _middle((len(lands) - 1) / 2)
    made.text(middle / width, (foot - 0.3) / height, score, ha="center", va="center", fontsize=9, color=INK)
