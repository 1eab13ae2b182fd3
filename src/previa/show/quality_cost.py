"""Quality against cost: how good each kind of preview is, and how many joint runs it costs, a panel a study."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from previa.show._labels import Scene, arranged, led
from previa.show._look import (
    INK,
    MUTED,
    Array,
    caption_height,
    figure,
    heading,
    plain,
    save,
    tidy,
)
from previa.show._quality_rows import AGAIN, ERROR, RANK, TRUTH, Measure, Point, Row, check, points

PANEL, LEFT, GAP, RIGHT = (3.75, 2.75), 0.86, 0.8, 0.12  # inches
HEAD, TITLE, AXIS = 0.5, 0.26, 0.48
LETTERS = 8.0  # points, of the names beside marks
DOTS = 200  # an inch
COSTS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000, 2000)
BAND = "#efece4"


def quality_cost(
    rows: Sequence[Row],
    path: str | Path,
    *,
    measures: Sequence[Measure] = (RANK, ERROR),
    columns: int = 2,
    title: str = "",
) -> None:
    """Draw how good previews are against what they cost as PNG or SVG by the path's ending: studies side by side, a row a measure.

    rows, one for each study, method and seed: "study", "method", "label" (the name beside its mark), "cost" (in joint runs,
    everything counted, > 0), "spearman" and "mse" (None where there is none). Seeds of one method are one mark at their
    mean, with a bar from the least to the largest. Methods that differ in a last number only, such as "anchored_1" and
    "anchored_4", are joined by a line. Method "joint" is the truth: its cost is marked. "joint_again", joint runs of another
    seed judged as if they were a preview, is no mark but the band above which nothing can be told. MSE is relative to method
    "simple". columns: panels beside each other; 1 fits a paper's column, 2 or 3 a slide.
    Raises InputError for rows without these keys, FileError, MissingExtraError.
    """
    check(rows, measures)
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


def _caption(rows: Sequence[Row], measures: Sequence[Measure]) -> str:
    said = [
        "Left is cheaper, above is better. Cost: task runs, joint runs, passes over data and evaluations, all counted, in joint "
        "runs of one weighting; dashed: what the whole truth cost.",
        *(measure.said for measure in measures),
    ]
    seeds = _seeds(rows)
    if seeds > 1:
        said.append(f"Marks: means over up to {seeds} seeds; bars: from the least to the largest.")
    if any(point.look.hollow for point in points(rows, measures[0])):
        said.append("Hollow: short runs, warm-started from previews.")
    if any(row["method"] == AGAIN for row in rows):
        said.append("Grey band: as good as joint runs of another seed; nothing can be told apart inside.")
    return " ".join(said)


def _seeds(rows: Sequence[Row]) -> int:
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        pair = (row["study"], row["method"])
        counts[pair] = counts.get(pair, 0) + 1
    return max(counts.values())


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
        axes.scatter(point.cost, point.value, s=look.size, marker=look.marker, zorder=4, c="white" if look.hollow else look.colour,
                     edgecolors=look.colour if look.hollow else "white", linewidths=1.4 if look.hollow else 0.7)  # fmt: skip
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
        words = f"truth: {truth:.{0 if truth >= 10 else 1}f} joint runs"
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
                       color=p.look.words, transform=None) for p in marks]  # fmt: skip
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
