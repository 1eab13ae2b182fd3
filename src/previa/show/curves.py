"""Mean score against task weights as lines: two tasks, or more tasks one at a time."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from previa.show._look import DASHES, INK, LINES, TRUTH, Array, Landscape, figure, label, plain, tidy

STEPS = 20  # of a profile, at most: as many as the finest usual grid has


def curves(
    tasks: tuple[str, ...],
    lands: Mapping[str, Landscape],
    score: str,
    *,
    anchors: Mapping[str, Array] | None = None,
    band: Mapping[str, float] | None = None,
) -> Any:
    """Two tasks: the score against the first one's weight, a line a method, the truth with points.

    anchors: by method the weightings [n, 2] that are marked on its line; band: by method half the width of the error band.
    """
    made = figure(8.2, 4.9)
    axes = made.add_axes((0.095, 0.23, 0.6, 0.66))
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


def profiles(tasks: tuple[str, ...], lands: Mapping[str, Landscape], score: str) -> Any:
    """Many tasks: for each, the best score at each of its weights, the others being free; a line a method."""
    columns = 2 if len(tasks) == 4 else 3
    rows = -(-len(tasks) // columns)
    width, height = 3.1 * columns + 0.6, 2.5 * rows + 1.5
    made = figure(width, height)
    first = None
    for t, task in enumerate(tasks):
        row, column = divmod(t, columns)
        left, bottom = 0.7 + 3.1 * column, height - 0.6 - 2.5 * row - 1.85
        axes = made.add_axes(
            (left / width, bottom / height, 2.65 / width, 1.85 / height), sharex=first, sharey=first
        )
        first = first or axes
        for (method, land), (colour, dash) in zip(_truth_last(lands), _styles(lands), strict=True):
            x, y = _profile(land, t)
            if method == "joint":
                axes.plot(x, y, "o-", color=INK, markersize=4, linewidth=0.9, label=TRUTH, zorder=5)
            else:
                axes.plot(
                    x, y, color=colour, linestyle=dash, linewidth=1.6, label=plain(label(method), width=24)
                )
        axes.set_xlabel(f"weight of {plain(task, width=26, lines=1)}", fontsize=9, color=INK)
        if column == 0:
            axes.set_ylabel(score, fontsize=9, color=INK)
        tidy(axes)
        axes.tick_params(labelleft=column == 0)
    handles, names = first.get_legend_handles_labels() if first is not None else ([], [])
    made.legend(handles, names, loc="lower left", bbox_to_anchor=(0.5 / width, 0.42 / height), ncols=3, frameon=False,
                fontsize=8)  # fmt: skip
    return made


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
