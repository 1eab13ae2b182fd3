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
    caption_height,
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
DOTTED = 45  # weightings, from which on a map is not dotted: a grid of eight steps has as many
RUNS = 10  # true runs, from which on the truth is a map
UNEVEN = "Colour bands are narrower near the best."
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
    both = "joint" in lands and len(lands) > 1
    shown = "Score" if both else "True score" if "joint" in lands else "Previewed score"
    caption = title, _words(lands, len(tasks), anchors, band)
    if len(tasks) == 2:
        made = curves(tasks, lands, score, anchors=anchors, band=band, caption=caption)
    elif len(tasks) == 3:
        made = triangles(tasks, lands, score, anchors=anchors, caption=caption)
    else:
        made = profiles(tasks, lands, score, caption=caption)
    heading(made, title, f"{shown} of every weighting{': truth and previews' if both else ''}", caption[1])
    save(made, path)


def _words(
    lands: Mapping[str, Landscape], T: int, anchors: Mapping[str, Array], band: Mapping[str, float]
) -> str:
    """The caption: what is drawn, the marks that are there, the level of the previews."""
    first = {2: "", 3: CORNERS}.get(
        T, "For each task: the best score that any weighting reaches when that task has this weight, the others being free. "
    )  # fmt: skip
    marks = []
    if T < 4:
        marks += ["★ the preview's pick"] if set(lands) - {"joint"} else []
        marks += ["○ the best weighting of the truth"] if "joint" in lands else []
        marks += ["◇ a joint run as its anchor"] if set(anchors) & set(lands) else []
    if T == 2 and set(band) & set(lands):
        marks += ["shaded: its error band"]
    if T == 3:
        marks += dots(lands)
        if any(np.isnan(land.mean).any() for land in lands.values()):
            marks += ["× not scored"]
    uneven = T == 3 and not even(graded(lands))
    return (
        first + ("; ".join(marks) + ". " if marks else "") + (f"{UNEVEN} " if uneven else "") + level(lands)
    )


def triangles(
    tasks: tuple[str, ...],
    lands: Mapping[str, Landscape],
    score: str,
    *,
    anchors: Mapping[str, Array] | None = None,
    caption: tuple[str, str] = ("", ""),
) -> Any:
    """One filled triangle a method, on one colour scale; anchors: by method the weightings [n, 3] that are marked.

    caption: the study and the words that room is kept for below.
    """
    columns = 2 if len(lands) == 4 else min(3, len(lands))
    rows = -(-len(lands) // columns)
    width = 3.3 * columns + 1.25
    more = max(0.0, caption_height(*caption, width) - 0.65)  # than three lines
    height = 3.4 * rows + 1.1 + more
    made = figure(width, height)
    colours = scale(graded(lands), MAP)
    best = lands["joint"].pick if "joint" in lands else None
    for number, (method, land) in enumerate(lands.items()):
        row, column = divmod(number, columns)
        left, bottom = 0.4 + 3.3 * column, height - 1.08 - 3.4 * row - 2.12
        axes = made.add_axes(
            (left / width, bottom / height, 2.45 / width, 2.12 / height), projection="ternary"
        )
        surface(axes, land.alphas, land.mean, colours, truth=method == "joint")
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
    place = (width - 0.95) / width, (0.98 + more) / height, 0.16 / width, (height - 1.96 - more) / height
    colour_bar(made, colours, score, place)
    return made


def surface(
    axes: Any, alphas: Array, values: Array, colours: Scale, *, truth: bool = False, size: float = 1
) -> None:
    """A ternary axes filled by values [A] at alphas [A, 3], and, where they are few, a dot at each that was scored.

    A truth of very few runs is its points alone: between them nothing is known.
    """
    scored = np.isfinite(values)
    if truth and scored.sum() < RUNS:
        for row in range(len(alphas)):
            filled(axes, alphas[row : row + 1], values[row : row + 1], colours)
        return
    filled(axes, alphas, values, colours)
    if _few(values) and len(alphas) >= RUNS:  # fewer are drawn large already
        axes.scatter(*alphas[scored].T, s=11 * size, c=INK, edgecolors="white", linewidths=0.4 * size, zorder=4, clip_on=False)  # fmt: skip


def dots(lands: Mapping[str, Landscape]) -> list[str]:
    """What a caption says of the dots of `surface`: that a map of few weightings is mostly made up."""
    joint = lands.get("joint")
    alone = joint is not None and np.isfinite(joint.mean).sum() < RUNS
    between = any(_few(land.mean) for name, land in lands.items() if not (alone and name == "joint"))
    words = ["dots: weightings that were scored; between them it is interpolated"] if between else []
    return words + (["the truth: its runs alone, as dots"] if alone else [])


def _few(values: Array) -> bool:
    return 0 < int(np.isfinite(values).sum()) < DOTTED


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


def even(steps: Array) -> bool:
    """Whether contour levels have equal distances."""
    gaps = np.diff(steps)
    return bool(np.ptp(gaps) < ALIKE * gaps[0])


def labelled(steps: Array, *, most: int = 12) -> Array:
    """At most so many of these contour levels for numbers, the shortest ones, none too near to another."""
    if even(steps):
        gaps = np.diff(steps)
        stride = next((n for n in (1, 2, 4, 5, 10) if len(steps) / n <= most), 20)
        return np.asarray(steps[np.round(steps / gaps[0]).astype(int) % stride == 0])
    apart = max(1, -(-len(steps) // most))
    kept: list[int] = []
    for i in sorted(range(len(steps)), key=lambda i: (len(f"{abs(steps[i]):.6g}".rstrip("0.")), -i)):
        if all(abs(i - j) >= apart for j in kept):
            kept.append(i)
    return np.asarray(steps[sorted(kept)])
