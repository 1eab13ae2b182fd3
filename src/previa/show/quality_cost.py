"""Quality against cost: how good each kind of preview is, and how many joint runs it costs, a panel a study."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from previa.errors import InputError
from previa.show._labels import Scene, arranged, led
from previa.show._look import (
    INK,
    LINES,
    MUTED,
    Array,
    caption_height,
    figure,
    heading,
    plain,
    save,
    tidy,
)

TRUTH, AGAIN, PLAIN = "joint", "joint_again", "simple"
PANEL, LEFT, GAP, RIGHT = (3.75, 2.75), 0.86, 0.8, 0.12  # inches
HEAD, TITLE, AXIS = 0.5, 0.26, 0.48
LETTERS = 8.0  # points, of the names beside marks
SHARPEST = 5e-4  # 1 - Spearman below this is drawn there: finer differences are no finding
DOTS = 200  # an inch
COSTS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000, 2000)
BAND = "#efece4"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Look:
    """How the points of one kind of preview are drawn."""

    colour: str
    marker: str
    size: float = 34


OTHER = Look("#8b867b", "o", 22)
LOOKS = {
    "anchored": Look(LINES[0], "o", 62),
    "warped": Look(LINES[0], "^", 48),
    "scores": Look(LINES[1], "s", 34),
    "scores_gp": Look(LINES[4], "D", 30),
    "centre": Look(LINES[2], "v", 44),
    "refined": Look(LINES[3], "P", 44),
}


@dataclass(frozen=True)
class Measure:
    """One way to say how good a preview is: a key of the rows, drawn on a logarithmic axis with the better end above."""

    key: str
    words: str
    said: str
    """for the caption: what the numbers and the grey band are"""

    def of(self, row: Row, plain: float | None) -> float | None:
        """What is drawn of a row: 1 - Spearman, MSE over simple averaging's; None where it is not known."""
        value = row.get(self.key)
        if value is None or not np.isfinite(value):
            return None
        if self.key == "spearman":
            return max(1 - float(value), SHARPEST)
        return None if not plain else float(value) / plain

    def ticks(self, low: float, high: float) -> tuple[list[float], list[str]]:
        """Where the axis has numbers, and which."""
        if self.key == "spearman":
            at = [0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999]
            return [1 - r for r in at], [f"{r:g}" for r in at]
        powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        at = [10.0**k for k in powers]
        if len(at) < 4:
            at = [m * 10.0**k for k in powers for m in (1, 2, 5)]
        return at, [f"{x:g}" for x in at]


RANK = Measure("spearman", "Spearman with the truth", "Spearman: 1 orders all weightings as joint runs do.")
ERROR = Measure(
    "mse", "MSE, simple averaging = 1", "MSE: of previewed scores, over simple averaging's of the same study."
)


def quality_cost(
    rows: Sequence[Row],
    path: str | Path,
    *,
    measures: Sequence[Measure] = (RANK, ERROR),
    columns: int = 2,
    title: str = "",
) -> None:
    """Draw how good previews are against what they cost to a PNG file: studies side by side, a row a measure.

    rows, one for each study, method and seed: "study", "method", "label" (the name beside its mark), "cost" (in joint runs,
    everything counted, > 0), "spearman" and "mse" (None where there is none). Seeds of one method are one mark at their
    mean, with a bar from the least to the largest. Methods that differ in a last number only, such as "anchored_1" and
    "anchored_4", are joined by a line. Method "joint" is the truth: its cost is marked. "joint_again", joint runs of another
    seed judged as if they were a preview, is no mark but the band above which nothing can be told. MSE is relative to method
    "simple". columns: panels beside each other; 1 fits a paper's column, 2 or 3 a slide.
    Raises InputError for rows without these keys, FileError, MissingExtraError.
    """
    _check(rows, measures)
    studies = list(dict.fromkeys(str(row["study"]) for row in rows))
    columns = max(1, min(columns, len(studies)))
    deep = -(-len(studies) // columns)
    caption = _caption(rows, measures)
    width = LEFT + columns * PANEL[0] + (columns - 1) * GAP + RIGHT
    foot = caption_height(title, caption, width)
    block = TITLE + len(measures) * PANEL[1] + (len(measures) - 1) * 0.16 + AXIS
    height = HEAD + deep * block + foot
    made = figure(width, height)
    made.set_dpi(DOTS)
    heading(made, title, "Quality of previews against their cost", caption)
    for i, study in enumerate(studies):
        line, column = divmod(i, columns)
        ours = [row for row in rows if row["study"] == study]
        for m, measure in enumerate(measures):
            top = height - HEAD - line * block - TITLE - m * (PANEL[1] + 0.16)
            place = (LEFT + column * (PANEL[0] + GAP), top - PANEL[1], *PANEL)
            axes = made.add_axes([x / (width, height)[k % 2] for k, x in enumerate(place)])
            _panel(axes, ours, measure)
            axes.set_ylabel(measure.words if column == 0 else "", fontsize=9, color=INK, labelpad=3)
            axes.tick_params(labelbottom=m == len(measures) - 1)
            if m == 0:
                axes.set_title(plain(study, width=44, lines=1), fontsize=10.5, fontweight="bold", color=INK,
                               loc="left", pad=6)  # fmt: skip
        axes.set_xlabel("cost, in joint runs", fontsize=9, color=INK, labelpad=2)
    save(made, path)


def _check(rows: Sequence[Row], measures: Sequence[Measure]) -> None:
    if not rows or not measures:
        raise InputError("quality_cost: there is nothing to draw: no rows, or no measures.")
    for i, row in enumerate(rows):
        if missing := {"study", "method", "label", "cost"} - set(row):
            raise InputError(f"quality_cost: row {i} has no {sorted(missing)}; found {sorted(row)}.")
        if not (isinstance(row["cost"], int | float) and 0 < row["cost"] < np.inf):
            raise InputError(
                f"quality_cost: row {i}, {row['method']} in {row['study']}: the cost is {row['cost']!r}; expected a positive "
                "number of joint runs."
            )


def _caption(rows: Sequence[Row], measures: Sequence[Measure]) -> str:
    said = [
        "Left is cheaper, above is better. Cost: task runs, joint runs, passes over data and evaluations, all counted, in joint "
        "runs of one weighting; dashed: what the whole truth cost.",
        *(measure.said for measure in measures),
    ]
    seeds = _seeds(rows)
    if seeds > 1:
        said.append(f"Marks: means over up to {seeds} seeds; bars: from the least to the largest.")
    if any(row["method"] == AGAIN for row in rows):
        said.append("Grey band: as good as joint runs of another seed; nothing can be told apart inside.")
    return " ".join(said)


def _seeds(rows: Sequence[Row]) -> int:
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        pair = (row["study"], row["method"])
        counts[pair] = counts.get(pair, 0) + 1
    return max(counts.values())


@dataclass(frozen=True)
class Point:
    """One method of one study: its seeds together."""

    method: str
    label: str
    cost: float
    value: float
    low: float
    high: float

    @property
    def series(self) -> str:
        """The method without a last number."""
        return re.sub(r"_\d+$", "", self.method)

    @property
    def look(self) -> Look:
        """That of its series, or of a family in front of it: "ivon_hessian_anchored" is an "anchored"."""
        found = [name for name in LOOKS if self.series == name or self.series.endswith(f"_{name}")]
        return LOOKS[max(found, key=len)] if found else OTHER


def points(rows: Sequence[Row], measure: Measure) -> list[Point]:
    """What is drawn of one study's rows: a point a method that has this measure, the cheapest first."""
    plain = [float(row["mse"]) for row in rows if row["method"] == PLAIN and row.get("mse") is not None]
    base = float(np.mean(plain)) if plain else None
    found = []
    for method in dict.fromkeys(str(row["method"]) for row in rows):
        own = [row for row in rows if row["method"] == method]
        values = [value for row in own if (value := measure.of(row, base)) is not None]
        if values and method != TRUTH:
            cost = float(np.mean([row["cost"] for row in own]))
            found.append(
                Point(method, str(own[0]["label"]), cost, float(np.mean(values)), min(values), max(values))
            )
    return sorted(found, key=lambda point: point.cost)


def _panel(axes: Any, rows: Sequence[Row], measure: Measure) -> None:
    everything = points(rows, measure)
    marks = [point for point in everything if point.method != AGAIN]
    again = next((point.value for point in everything if point.method == AGAIN), None)
    truth = next((float(row["cost"]) for row in rows if row["method"] == TRUTH), None)
    _frame(axes, marks, measure, again, truth)
    for series in dict.fromkeys(point.series for point in marks):
        own = [point for point in marks if point.series == series]
        axes.plot(
            [p.cost for p in own], [p.value for p in own], color=own[0].look.colour, linewidth=1.6, zorder=2
        )
    for point in marks:
        look = point.look
        axes.plot([point.cost] * 2, [point.low, point.high], color=look.colour, linewidth=1.1, zorder=3)
        axes.scatter(point.cost, point.value, s=look.size, marker=look.marker, color=look.colour, edgecolors="white",
                     linewidths=0.7, zorder=4)  # fmt: skip
    _names(axes, marks, truth, _words(axes, again, truth))


def _frame(
    axes: Any, marks: Sequence[Point], measure: Measure, again: float | None, truth: float | None
) -> None:
    """Limits, numbers, the band and the truth's cost."""
    axes.set(xscale="log", yscale="log")
    tidy(axes)
    costs = [point.cost for point in marks] + [c for c in [truth] if c] or [1.0]
    values = [v for point in marks for v in (point.low, point.high)] + [v for v in [again] if v] or [1.0]
    wide, tall = np.log(max(costs) / min(costs)) or 1.0, np.log(max(values) / min(values)) or 1.0
    low, high = min(values) * np.exp(-0.16 * tall), max(values) * np.exp(0.12 * tall)
    axes.set_yticks(*measure.ticks(low, high))
    axes.set_xticks(COSTS, [str(c) for c in COSTS])
    axes.minorticks_off()
    axes.set_xlim(min(costs) * np.exp(-0.38 * wide), max(costs) * np.exp(0.08 * wide))
    axes.set_ylim(high, low)  # the better end above
    if again:
        axes.axhspan(low, again, color=BAND, linewidth=0, zorder=0)
    if truth:
        axes.axvline(truth, color=INK, linewidth=1, linestyle=(0, (4, 2)), zorder=1)


def _words(axes: Any, again: float | None, truth: float | None) -> list[Any]:
    """What the dashed line and the band are, upon them."""
    said = []
    if truth:
        words = f"truth: {truth:.3g} joint runs"
        said.append(axes.annotate(words, (truth, 0), (-3, 5), xycoords=("data", "axes fraction"), rotation=90, ha="right",
                                  va="bottom", textcoords="offset points", fontsize=LETTERS, color=MUTED))  # fmt: skip
    if again:
        said.append(axes.annotate("joint runs of another seed", (0, 1), (4, -3), xycoords="axes fraction", ha="left",
                                  va="top", textcoords="offset points", fontsize=LETTERS - 0.5, color=MUTED))  # fmt: skip
    return said


def _names(axes: Any, marks: Sequence[Point], truth: float | None, words: Sequence[Any]) -> None:
    """The names beside the marks; a line to its mark where a name stands away from it."""
    if not marks:
        return
    made = axes.get_figure()
    unit = made.dpi / 72
    at = axes.transData.transform([(p.cost, p.value) for p in marks]) / unit
    texts = [axes.text(0, 0, plain(p.label, width=30, lines=1), fontsize=LETTERS, va="bottom", ha="left", zorder=6,
                       color=INK if p.look is OTHER else p.look.colour, transform=None) for p in marks]  # fmt: skip
    renderer = made.canvas.get_renderer()
    sizes, taken = (np.array([box.extents for box in (t.get_window_extent(renderer) for t in some)]).reshape(-1, 4) / unit
                    for some in (texts, words))  # fmt: skip
    sizes = sizes[:, 2:] - sizes[:, :2]
    corners = arranged(at, sizes, _scene(axes, marks, at, truth, taken))
    for text, corner, line, mark in zip(texts, corners, led(at, corners, sizes), marks, strict=True):
        text.set_position(corner * unit)
        axes.plot(
            *(line.reshape(2, 2).T * unit), color=mark.look.colour, linewidth=0.5, transform=None, zorder=3.5
        )


def _scene(axes: Any, marks: Sequence[Point], at: Array, truth: float | None, words: Array) -> Scene:
    """What names keep clear of: marks, bars, the words of line and band [W, 4]; and lines, on which they may lie at a price."""
    unit, to_pixels = axes.get_figure().dpi / 72, axes.transData.transform
    half = np.array([[np.sqrt(p.look.size) / 2] for p in marks])
    bars = [np.sort(to_pixels([(p.cost, p.low), (p.cost, p.high)]) / unit, axis=0) for p in marks]
    boxes = [np.concatenate([at - half, at + half], 1), words, np.array(bars).reshape(-1, 4)]
    lines = []
    for series in dict.fromkeys(p.series for p in marks):
        own = [i for i, p in enumerate(marks) if p.series == series]
        lines += [np.concatenate([at[i], at[j]]) for i, j in pairwise(own)]
    frame = np.array(axes.get_window_extent().extents) / unit
    if truth:
        x = to_pixels([(truth, 1.0)])[0, 0] / unit
        lines.append(np.array([x, frame[1], x, frame[3]]))
    return Scene(np.concatenate(boxes), np.array(lines).reshape(-1, 4), frame + np.array([1, 1, 0, 0]))
