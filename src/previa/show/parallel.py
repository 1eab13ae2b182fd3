"""All weightings as lines across the tasks: what each scores in every task, and the weights that it takes."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from previa.errors import InputError
from previa.show._look import (
    DASHES,
    INK,
    LINES,
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
    measured_in,
    plain,
    save,
)
from previa.show.contours import colour_bar
from previa.show.ternary import scale
from previa.study import simplex
from previa.study.preference import Preference

if TYPE_CHECKING:
    from previa.study.preview import Preview

GREYED = "#d8d4ca"  # weightings that miss a floor
INKS = (INK, *LINES[1:4])  # of highlighted lines
ABOVE, BELOW = 2.5, 1.35  # inches: scores, weights
LOW, HIGH = 0.06, 0.86  # of a panel's height: names there stay off the numbers at the last axis
NUMBERS = 0.17  # inches of a row of weights
NAMED = 1.75  # inches for the names of highlighted lines


def parallel(
    preview: "Preview",
    path: str | Path,
    *,
    marked: Mapping[str, ArrayLike] | None = None,
    title: str = "",
    unit: str = "score",
    preference: Preference = PLAIN,
) -> None:
    """Draw parallel coordinates, as PNG or SVG by the path's ending: a line a weighting, an upright axis a task.

    Above the scores, each task on a scale of its own from its lowest to its highest; below the weights. Lines are coloured by
    value, the best uppermost; those that miss a floor are grey. marked: names -> weightings [T] that are drawn thick and named
    where they were scored, {"pick": ..., "uniform": ...}; by default the pick. Raises InputError, FileError,
    MissingExtraError.
    """
    tasks, lands = landscapes(None, {"preview": preview}, preference)
    land, T = lands["preview"], len(tasks)
    if land.pick is None:
        raise InputError(f"parallel: none of {len(preview)} weightings was scored.")
    named = _marked(land, {"pick": land.alphas[land.pick]} if marked is None else marked)
    low, high = np.nanmin(land.scores, axis=0), np.nanmax(land.scores, axis=0)
    words = (
        f"A line is one of {int(np.isfinite(land.mean).sum())} weightings: above its score{measured_in(unit)} in every task, each task on a scale of its own; below "
        f"its weights, in numbers those of the lines that are named.{' Grey: a floor is missed (▸).' if preference.floors else ''}"
    )
    width = max(7.4, 1.25 * T + 1.0 + NAMED + 1.15)
    foot = caption_height(title, words, width)
    foot += NUMBERS * len(named)
    made = figure(width, 0.95 + ABOVE + 0.5 + BELOW + 0.55 + foot)
    height = made.get_figheight()
    wide = width - 0.75 - NAMED - 1.2
    under = made.add_axes((0.75 / width, (foot + 0.45) / height, wide / width, BELOW / height))
    upper = made.add_axes((0.75 / width, (foot + 0.45 + BELOW + 0.55) / height, wide / width, ABOVE / height))
    colours = scale(levels(land.mean), MAP)
    shares = (land.scores - low) / np.where(high > low, high - low, 1.0)
    shares[:, high <= low] = 0.5
    for axes, lines in ((upper, shares), (under, land.alphas)):
        _lines(axes, lines, land, colours)
        for number, row in enumerate(named.values()):
            axes.plot(lines[row], color="white", linewidth=4.2, zorder=6 + number, solid_joinstyle="round")
            axes.plot(lines[row], color=INKS[number % 4], linestyle=DASHES[number % 4], linewidth=2.2, zorder=6.5 + number,
                      marker="o", markersize=4)  # fmt: skip
        _frame(axes, T)
    _names(upper, under, tasks, low, high)
    _floors(upper, preference, tasks, low, high)
    _direct(upper, [shares[row, -1] for row in named.values()], list(named))
    _weights(under, list(named), land.alphas[list(named.values())])
    under.set_ylim(-0.03, max(0.35, float(np.nanmax(land.alphas))) * 1.03)
    under.set_ylabel("weight", fontsize=9, color=INK)
    under.tick_params(axis="y", labelsize=7.5, colors=MUTED, length=2)
    place = (width - 0.95) / width, (foot + 0.75) / height, 0.14 / width, (height - foot - 1.9) / height
    colour_bar(made, colours, averaged(unit, preference), place)
    heading(made, title, "Every weighting across the tasks", words)
    save(made, path)


def _marked(land: Landscape, marked: Mapping[str, ArrayLike]) -> dict[str, int]:
    """The rows of the highlighted weightings that were scored; names of one row joined."""
    rows: dict[int, list[str]] = {}
    for name, alpha in marked.items():
        row = simplex.find(land.alphas, simplex.check_alphas(alpha, land.alphas.shape[1], where=name))
        if row is not None and np.isfinite(land.mean[row]):
            rows.setdefault(row, []).append(name)
    return {" and ".join(names): row for row, names in rows.items()}


def _lines(axes: Any, lines: Array, land: Landscape, colours: Any) -> None:
    from matplotlib.collections import LineCollection

    good = np.flatnonzero(np.isfinite(land.mean))
    missed = np.zeros(len(good), dtype=bool) if land.short is None else land.short[good] > 0
    x = np.arange(lines.shape[1])
    faint = float(np.clip(60 / len(good), 0.12, 0.7))
    for which, paint in ((good[missed], False), (good[~missed], True)):
        order = which[np.argsort(land.mean[which], kind="stable")]
        drawn = [np.column_stack([x, lines[row]]) for row in order]
        inks = colours.colours(colours.norm(land.mean[order])) if paint else GREYED
        axes.add_collection(
            LineCollection(drawn, colors=inks, linewidths=0.9, alpha=faint, zorder=3 if paint else 2)
        )


def _frame(axes: Any, T: int) -> None:
    for t in range(T):
        axes.axvline(t, color=RULE, linewidth=0.8, zorder=1)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set(xlim=(-0.12, T - 1 + 0.06), xticks=[])


def _names(upper: Any, under: Any, tasks: tuple[str, ...], low: Array, high: Array) -> None:
    """The tasks over their axes, with the highest score; the lowest under them."""
    upper.set(ylim=(-0.02, 1.02), yticks=[])
    inches = upper.get_position().width * upper.figure.get_figwidth() / max(1, len(tasks) - 1)
    for t, task in enumerate(tasks):
        text = upper.annotate(plain(task, width=max(8, int(11 * inches)), lines=2), (t, 1.02), (0, 15), textcoords="offset points", fontsize=8.5,
                              color=INK, ha="center", va="bottom", annotation_clip=False, linespacing=1.0)  # fmt: skip
        fit(text, 0.98 * inches)
        for score, y, off, side in ((high[t], 1.02, 2, "bottom"), (low[t], -0.02, -2, "top")):
            upper.annotate(f"{score:.3g}", (t, y), (0, off), textcoords="offset points", fontsize=7.5, color=MUTED, ha="center",
                           va=side, annotation_clip=False)  # fmt: skip


def _floors(axes: Any, preference: Preference, tasks: tuple[str, ...], low: Array, high: Array) -> None:
    for t, task in enumerate(tasks):
        if task in preference.floors:
            floor = float(preference.floors[task]) * float(preference.relative_to.get(task, 1.0))
            share = (floor - low[t]) / (high[t] - low[t]) if high[t] > low[t] else 0.5
            axes.plot(t, np.clip(share, -0.02, 1.02), marker=">", markersize=6, color=INK, markeredgecolor="white", zorder=12,
                      clip_on=False)  # fmt: skip


def _direct(axes: Any, ends: list[float], names: list[str]) -> None:
    """The names of highlighted lines beside their right ends, moved apart where they would touch."""
    high = axes.get_position().height * axes.figure.get_figheight()
    gap = 0.22 / high
    order = np.argsort(ends)
    y = np.clip(np.array(ends)[order], LOW, HIGH)
    for i in range(1, len(y)):
        y[i] = max(y[i], y[i - 1] + gap)
    y -= max(0.0, float(y[-1]) - HIGH) if len(y) else 0.0
    end = axes.get_xlim()[1] - 0.06
    for place, i in zip(y, order, strict=True):
        name = axes.annotate(plain(names[i], width=24, lines=1), (end, place), (8, 0), textcoords="offset points", fontsize=9,
                             color=INKS[i % 4], fontweight="bold", va="center", annotation_clip=False)  # fmt: skip
        fit(name, NAMED - 0.1)


def _weights(axes: Any, names: list[str], alphas: Array) -> None:
    """Under the axes of the weights, a row of numbers for each highlighted line: its weight of every task, its name behind."""
    for row, (name, alpha) in enumerate(zip(names, alphas, strict=True)):
        down = -72 * (0.1 + NUMBERS * row)
        how = {
            "textcoords": "offset points",
            "va": "top",
            "fontsize": 8,
            "color": INKS[row % 4],
            "annotation_clip": False,
        }
        for t, weight in enumerate(alpha):
            axes.annotate(
                f"{weight:.3g}", (t, 0), (0, down), xycoords=("data", "axes fraction"), ha="center", **how
            )
        text = axes.annotate(plain(name, width=24, lines=1), (len(alpha) - 1, 0), (22, down), xycoords=("data", "axes fraction"),
                             ha="left", **how)  # fmt: skip
        fit(text, NAMED - 0.3)
