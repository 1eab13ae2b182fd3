"""Mean score against task weights as lines: two tasks, or more tasks one at a time."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from previa.show._look import (
    DASHES,
    INK,
    LINES,
    TRUTH,
    Array,
    Landscape,
    caption_height,
    figure,
    inches,
    label,
    plain,
    tidy,
)

STEPS = 20  # of a profile, at most: as many as the finest usual grid has


def curves(
    tasks: tuple[str, ...],
    lands: Mapping[str, Landscape],
    score: str,
    *,
    anchors: Mapping[str, Array] | None = None,
    band: Mapping[str, float] | None = None,
    caption: tuple[str, str] = ("", ""),
) -> Any:
    """Two tasks: the score against the first one's weight, a line a method, the truth with points.

    anchors: by method the weightings [n, 2] that are marked on its line; band: by method half the width of the error band.
    caption: the study and the words that room is kept for below.
    """
    width = 8.2
    foot = max(1.13, caption_height(*caption, width) + 0.5)
    height = 3.23 + 0.54 + foot
    made = figure(width, height)
    axes = made.add_axes((0.78 / width, foot / height, 4.92 / width, 3.23 / height))
    for (method, land), (colour, dash) in zip(_truth_last(lands), _styles(lands), strict=True):
        order = np.argsort(land.alphas[:, 0], kind="stable")
        x, y = land.alphas[order, 0], land.mean[order]
        if method == "joint":
            axes.plot(
                x, y, "o-", color=INK, markersize=4.5, linewidth=0.9, label=plain(TRUTH, width=26), zorder=5
            )
        else:
            axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.7, label=plain(label(method), width=22))
            if (half := (band or {}).get(method)) is not None:
                axes.fill_between(x, y - half, y + half, color=colour, alpha=0.16, linewidth=0, zorder=1)
            places = np.array([alpha[0] for alpha in (anchors or {}).get(method, ())])
            axes.scatter(
                places,
                np.interp(places, x, y),
                marker="D",
                s=40,
                c="white",
                edgecolors=colour,
                linewidths=1.3,
                zorder=6,
            )
        if land.pick is None:
            continue
        at = (land.alphas[land.pick, 0], land.mean[land.pick])
        if method == "joint":
            axes.scatter(*at, s=170, facecolors="none", edgecolors=INK, linewidths=1.6, zorder=7)
        else:
            axes.scatter(*at, marker="*", s=150, c=colour, edgecolors="white", linewidths=0.9, zorder=6)
    first, second = (plain(task, width=36, lines=1) for task in tasks)
    axes.set_xlabel(f"weight of {first}   (the rest on {second})", fontsize=9.5, color=INK)
    axes.set_ylabel(score, fontsize=9.5, color=INK)
    axes.set_xlim(-0.02, 1.02)
    tidy(axes)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=8.5, labelspacing=0.9)
    return made


def profiles(
    tasks: tuple[str, ...],
    lands: Mapping[str, Landscape],
    score: str,
    *,
    caption: tuple[str, str] = ("", ""),
) -> Any:
    """Many tasks: for each, the best score at each of its weights, the others being free; a line a method.

    Below them the legend, and below that the room of the caption: the study and the words.
    """
    columns = 2 if len(tasks) == 4 else 3
    rows = -(-len(tasks) // columns)
    width = 3.1 * columns + 0.6
    made = figure(width, 9.0)
    drawn = [
        (method, land, *style)
        for (method, land), style in zip(_truth_last(lands), _styles(lands), strict=True)
    ]
    foot = caption_height(*caption, width) + 0.1
    key = _key(made, [(method, colour, dash) for method, _, colour, dash in drawn])
    below = foot + inches(key)[1] + 0.3
    height = 2.5 * rows + 0.5 + below
    made.set_size_inches(width, height)
    key.set_bbox_to_anchor((0.5 / width, foot / height), made.transFigure)
    first = None
    for t, task in enumerate(tasks):
        row, column = divmod(t, columns)
        left, bottom = 0.7 + 3.1 * column, height - 0.6 - 2.5 * row - 1.85
        axes = made.add_axes(
            (left / width, bottom / height, 2.65 / width, 1.85 / height), sharex=first, sharey=first
        )
        first = first or axes
        for method, land, colour, dash in drawn:
            axes.plot(*_profile(land, t), **_line(method, colour, dash))
        axes.set_xlabel(f"weight of {plain(task, width=26, lines=1)}", fontsize=9, color=INK)
        if column == 0:
            axes.set_ylabel(score, fontsize=9, color=INK)
        tidy(axes)
        axes.tick_params(labelleft=column == 0)
    return made


def _key(made: Any, drawn: list[tuple[str, str, Any]]) -> Any:
    """The legend of these methods, in as many columns, three at most, as there is width for."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            label=TRUTH if method == "joint" else plain(label(method), width=24),
            **_line(method, colour, dash),
        )
        for method, colour, dash in drawn
    ]
    how = {"loc": "lower left", "frameon": False, "fontsize": 8, "borderpad": 0, "borderaxespad": 0}
    for columns in (3, 2):
        key = made.legend(handles=handles, ncols=columns, **how)
        if inches(key)[0] < made.get_figwidth() - 0.7:
            return key
        key.remove()
    return made.legend(handles=handles, ncols=1, **how)


def _line(method: str, colour: str, dash: Any) -> dict[str, Any]:
    """How the line of a method is drawn; the truth has points."""
    if method == "joint":
        return {"color": INK, "marker": "o", "markersize": 4, "linewidth": 0.9, "zorder": 5}
    return {"color": colour, "linestyle": dash, "linewidth": 1.6}


def _profile(land: Landscape, t: int) -> tuple[Array, Array]:
    """The weights of task t, in steps of at least 1 / STEPS, and the best mean score at each."""
    weight = np.round(land.alphas[:, t], 6)
    if len(np.unique(weight)) > STEPS + 1:
        weight = np.round(weight * STEPS) / STEPS
    places = np.unique(weight)
    at = [land.mean[weight == place] for place in places]
    return places, np.array([np.nanmax(means) if np.isfinite(means).any() else np.nan for means in at])


def _truth_last(lands: Mapping[str, Landscape]) -> list[tuple[str, Landscape]]:
    return sorted(lands.items(), key=lambda entry: entry[0] == "joint")


def _styles(lands: Mapping[str, Landscape]) -> list[tuple[str, Any]]:
    return [(LINES[i % len(LINES)], DASHES[i % len(DASHES)]) for i in range(len(lands))]
