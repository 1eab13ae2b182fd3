"""The true score of every weighting beside each preview of it: the upper row of the paper's figure 3, and figures 5 and 7."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from previa.show._level import level
from previa.show._look import (
    INK,
    MAP,
    MUTED,
    PLAIN,
    Array,
    Landscape,
    averaged,
    figure,
    heading,
    label,
    landscapes,
    plain,
    save,
)
from previa.show._scale import graded
from previa.show.curves import curves, profiles
from previa.show.ternary import Scale, filled, frame, mark, scale
from previa.study.preference import Preference

if TYPE_CHECKING:
    from previa.study.preview import Preview

ALIKE = 1e-6  # of the first gap: gaps between levels that differ by less are the same
CORNERS = (
    "Each corner trains one task alone; numbers along a side are the weight of the corner of their colour. "
)


def contours(
    truth: "Preview | None",
    previews: Mapping[str, "Preview"],
    path: str | Path,
    *,
    title: str = "",
    unit: str = "score",
    preference: Preference = PLAIN,
    anchors: Mapping[str, Array] | None = None,
    band: Mapping[str, float] | None = None,
) -> None:
    """Draw the mean score over tasks of every weighting, the truth beside each preview, as PNG or SVG by the path's ending.

    Three tasks: filled triangles on one colour scale. Two: curves. Four or more: for each task, the best score that is
    reachable at each of its weights. title: the study's name; unit: the score's ("accuracy"); preference: what the scores are
    worth together. anchors: by method the weightings [n, T] of its joint runs, marked on triangles and curves; band: by method
    half the width of the error band around its mean score, drawn for two tasks. Raises InputError, FileError, MissingExtraError.
    """
    tasks, lands = landscapes(truth, previews, preference)
    score = averaged(unit, preference)
    anchors, band = anchors or {}, band or {}
    if len(tasks) == 2:
        made = curves(tasks, lands, score, anchors=anchors, band=band)
    else:
        made = (
            triangles(tasks, lands, score, anchors=anchors)
            if len(tasks) == 3
            else profiles(tasks, lands, score)
        )
    first = {2: "", 3: CORNERS}.get(
        len(tasks), "For each task: the best score that any weighting reaches when that task has this weight, the others "
        "being free. ")  # fmt: skip
    marks = []
    if len(tasks) < 4:
        marks += ["★ the preview's pick"] if set(lands) - {"joint"} else []
        marks += ["○ the best weighting of the truth"] if "joint" in lands else []
        marks += ["◇ a joint run as its anchor"] if set(anchors) & set(lands) else []
    if len(tasks) == 2 and set(band) & set(lands):
        marks += ["shaded: its error band"]
    if len(tasks) == 3 and any(np.isnan(land.mean).any() for land in lands.values()):
        marks += ["× not scored"]
    both = "joint" in lands and len(lands) > 1
    shown = "Score" if both else "True score" if "joint" in lands else "Previewed score"
    what = f"{shown} of every weighting{': truth and previews' if both else ''}"
    heading(made, title, what, first + ("; ".join(marks) + ". " if marks else "") + level(lands))
    save(made, path)


def triangles(
    tasks: tuple[str, ...],
    lands: Mapping[str, Landscape],
    score: str,
    *,
    anchors: Mapping[str, Array] | None = None,
) -> Any:
    """One filled triangle a method, on one colour scale; anchors: by method the weightings [n, 3] that are marked."""
    columns = 2 if len(lands) == 4 else min(3, len(lands))
    rows = -(-len(lands) // columns)
    width, height = 3.3 * columns + 1.25, 3.4 * rows + 1.1
    made = figure(width, height)
    colours = scale(graded(lands), MAP)
    best = lands["joint"].pick if "joint" in lands else None
    for number, (method, land) in enumerate(lands.items()):
        row, column = divmod(number, columns)
        left, bottom = 0.4 + 3.3 * column, height - 1.08 - 3.4 * row - 2.12
        axes = made.add_axes(
            (left / width, bottom / height, 2.45 / width, 2.12 / height), projection="ternary"
        )
        filled(axes, land.alphas, land.mean, colours)
        frame(axes, tasks)
        for alpha in (anchors or {}).get(method, ()):
            mark(axes, alpha, "anchor")
        if best is not None:
            mark(axes, lands["joint"].alphas[best], "best")
        if land.pick is None:
            axes.text(
                0.5, 0.4, "no weighting\nwas scored", transform=axes.transAxes, ha="center", color=MUTED
            )
        elif method != "joint":
            mark(axes, land.alphas[land.pick], "pick")
        axes.set_title(plain(label(method), width=38, lines=1), fontsize=10, color=INK, pad=29,
                       fontweight="bold" if method == "joint" else "normal")  # fmt: skip
    place = (width - 0.95) / width, 0.98 / height, 0.16 / width, (height - 1.96) / height
    colour_bar(made, colours, score, place)
    return made


def colour_bar(made: Any, colours: Scale, score: str, place: tuple[float, ...]) -> None:
    """The colour scale, at this place of the figure (left, bottom, width, height), as shares of it."""
    from matplotlib.cm import ScalarMappable

    axes = made.add_axes(place)
    bar = made.colorbar(ScalarMappable(colours.norm, colours.colours), cax=axes, boundaries=colours.levels,
                        spacing="uniform")  # fmt: skip
    bar.set_ticks(labelled(colours.levels))
    bar.ax.yaxis.set_major_formatter("{x:.6g}")
    bar.minorticks_off()
    bar.set_label(score, fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=MUTED, length=2.5)
    bar.outline.set_visible(False)


def labelled(steps: Array, *, most: int = 12) -> Array:
    """At most so many of these contour levels for numbers, the shortest ones, none too near to another."""
    gaps = np.diff(steps)
    if np.ptp(gaps) < ALIKE * gaps[0]:
        stride = next((n for n in (1, 2, 4, 5, 10) if len(steps) / n <= most), 20)
        return np.asarray(steps[np.round(steps / gaps[0]).astype(int) % stride == 0])
    apart = max(1, -(-len(steps) // most))
    kept: list[int] = []
    for i in sorted(range(len(steps)), key=lambda i: (len(f"{abs(steps[i]):.6g}".rstrip("0.")), -i)):
        if all(abs(i - j) >= apart for j in kept):
            kept.append(i)
    return np.asarray(steps[sorted(kept)])
