"""The true score of every weighting beside each preview of it: the upper row of the paper's figure 3, and figures 5 and 7."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from previa.show._look import (  # fmt: skip
    DASHES,
    INK,
    LINES,
    MAP,
    MUTED,
    RULE,
    TRUTH,
    Array,
    check,
    figure,
    heading,
    label,
    levels,
    pick,
    plain,
    save,
)
from previa.show.ternary import Scale, filled, frame, mark, scale

if TYPE_CHECKING:
    from previa.study.preview import Preview

LOW = "Previews rank weightings; the level of a previewed score is usually too low."


def contours(
    truth: "Preview | None",
    previews: Mapping[str, "Preview"],
    path: str | Path,
    *,
    title: str = "",
    unit: str = "score",
) -> None:
    """Draw the mean score over tasks of every weighting, the truth beside each preview, to a PNG file.

    Three tasks: filled triangles on one colour scale. Two: curves. Four or more: for each task, the best score that is
    reachable at each of its weights. `unit` names the score ("accuracy"). Raises InputError, FileError, MissingExtraError.
    """
    tasks = check(truth, previews)
    title = title or (
        "Score of every weighting: truth and previews" if truth else "Previewed score of every weighting"
    )
    draw = {2: _curves, 3: _triangles}.get(len(tasks), _profiles)
    save(draw(tasks, truth, previews, title, f"mean over tasks ({unit})"), path)


def _triangles(
    tasks: tuple[str, ...], truth: "Preview | None", previews: Mapping[str, "Preview"], title: str, score: str
) -> Any:
    everything = ({"joint": truth} if truth else {}) | dict(previews)
    columns = min(3, len(everything))
    rows = -(-len(everything) // columns)
    width, height = 3.3 * columns + 1.25, 3.2 * rows + 1.1
    made = figure(width, height)
    colours = scale(levels(np.concatenate([p.mean for p in everything.values()])), MAP)
    best = _best(truth)
    for number, (method, preview) in enumerate(everything.items()):
        row, column = divmod(number, columns)
        box = (0.4 + 3.3 * column, height - 0.98 - 3.2 * row - 2.12, 2.45, 2.12)
        axes = made.add_axes(
            (box[0] / width, box[1] / height, box[2] / width, box[3] / height), projection="ternary"
        )
        alphas, mean = np.asarray(preview.alphas), np.asarray(preview.mean)
        filled(axes, alphas, mean, colours)
        frame(axes, tasks)
        if best is not None:
            mark(axes, best, "best")
        chosen = pick(alphas, mean)
        if chosen is None:
            axes.text(
                0.5, 0.4, "no weighting\nwas scored", transform=axes.transAxes, ha="center", color=MUTED
            )
        elif method != "joint":
            mark(axes, alphas[chosen], "pick")
        axes.set_title(plain(label(method), width=38, lines=1), fontsize=10, fontweight="bold" if method == "joint" else
                       "normal", color=INK, pad=24)  # fmt: skip
    _bar(made, colours, width, height, score)
    marks = ["each corner trains one task alone; the ticks are task weights"]
    marks += ["☆ the preview's pick"] if previews else []
    marks += ["○ the best weighting of the truth"] if best is not None else []
    marks += ["× not scored"] if any(not np.isfinite(p.mean).all() for p in everything.values()) else []
    heading(made, title, "; ".join(marks).capitalize() + f". {LOW if previews else ''}")
    return made


def _bar(made: Any, colours: Scale, width: float, height: float, score: str) -> None:
    from matplotlib.cm import ScalarMappable

    axes = made.add_axes(((width - 0.95) / width, 0.98 / height, 0.16 / width, (height - 1.96) / height))
    bar = made.colorbar(
        ScalarMappable(colours.norm, colours.colours),
        cax=axes,
        boundaries=colours.levels,
        spacing="proportional",
    )
    bar.set_ticks(_round(colours.levels))
    bar.set_label(score, fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=MUTED, length=2.5)
    bar.outline.set_visible(False)


def _round(steps: Array, *, most: int = 9) -> Array:
    """At most so many of these contour levels, the roundest of them."""
    step = steps[1] - steps[0]
    stride = next((n for n in (1, 2, 4, 5, 10) if len(steps) / n <= most), 20)
    return np.asarray(steps[np.round(steps / step).astype(int) % stride == 0])


def _curves(
    tasks: tuple[str, ...], truth: "Preview | None", previews: Mapping[str, "Preview"], title: str, score: str
) -> Any:
    made = figure(8.2, 4.9)
    axes = made.add_axes((0.095, 0.2, 0.6, 0.69))
    for number, (method, preview) in enumerate(previews.items()):
        order = np.argsort(preview.alphas[:, 0], kind="stable")
        x, y = preview.alphas[order, 0], preview.mean[order]
        style, colour = DASHES[number % len(DASHES)], LINES[number % len(LINES)]
        axes.plot(x, y, color=colour, linestyle=style, linewidth=1.7, label=plain(label(method), width=22))
        chosen = pick(preview.alphas[order], y)
        if chosen is not None:
            axes.scatter(
                x[chosen],
                y[chosen],
                marker="*",
                s=150,
                c=colour,
                edgecolors="white",
                linewidths=0.9,
                zorder=6,
            )
    if truth is not None:
        order = np.argsort(truth.alphas[:, 0], kind="stable")
        axes.plot(truth.alphas[order, 0], truth.mean[order], "o-", color=INK, markersize=4.5, linewidth=0.9,
                  label=plain(TRUTH, width=26), zorder=5)  # fmt: skip
        chosen = pick(truth.alphas[order], truth.mean[order])
        if chosen is not None:
            axes.scatter(truth.alphas[order][chosen, 0], truth.mean[order][chosen], s=170, facecolors="none",
                         edgecolors=INK, linewidths=1.6, zorder=7)  # fmt: skip
    axes.set_xlabel(
        f"weight of {plain(tasks[0], width=40, lines=1)}   (the rest on {plain(tasks[1], width=40, lines=1)})",
        fontsize=9.5,
        color=INK,
    )
    axes.set_ylabel(score, fontsize=9.5, color=INK)
    axes.set_xlim(-0.02, 1.02)
    tidy(axes)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=8.5, labelspacing=0.9)
    heading(
        made, title, f"★ each preview's pick{'; ○ the best weighting of the truth' if truth else ''}. {LOW}"
    )
    return made


def _profiles(
    tasks: tuple[str, ...], truth: "Preview | None", previews: Mapping[str, "Preview"], title: str, score: str
) -> Any:
    columns = 2 if len(tasks) == 4 else 3
    rows = -(-len(tasks) // columns)
    made = figure(3.1 * columns + 0.6, 2.5 * rows + 1.5)
    width, height = made.get_size_inches()
    first = None
    for t, task in enumerate(tasks):
        row, column = divmod(t, columns)
        place = (
            (0.7 + 3.1 * column) / width,
            (height - 0.6 - 2.5 * row - 1.85) / height,
            2.65 / width,
            1.85 / height,
        )
        axes = made.add_axes(place, sharex=first, sharey=first)
        first = first or axes
        for number, (method, preview) in enumerate(previews.items()):
            axes.plot(*_profile(preview, t), color=LINES[number % len(LINES)], linestyle=DASHES[number % len(DASHES)],
                      linewidth=1.6, label=plain(label(method), width=24))  # fmt: skip
        if truth is not None:
            axes.plot(
                *_profile(truth, t), "o-", color=INK, markersize=4, linewidth=0.9, label=TRUTH, zorder=5
            )
        axes.set_xlabel(f"weight of {plain(task, width=26, lines=1)}", fontsize=9, color=INK)
        if column == 0:
            axes.set_ylabel(score, fontsize=9, color=INK)
        tidy(axes)
        axes.tick_params(labelleft=column == 0)
    handles, names = first.get_legend_handles_labels() if first is not None else ([], [])
    made.legend(handles, names, loc="lower left", bbox_to_anchor=(0.5 / width, 0.42 / height), ncols=3,
                frameon=False, fontsize=8)  # fmt: skip
    heading(made, title, "For each task: the best score that any weighting reaches when that task has this weight, "
            f"the others being free. {LOW}")  # fmt: skip
    return made


def _profile(preview: "Preview", t: int) -> tuple[Array, Array]:
    """For each weight of task t, in steps of at least 1/20, the best mean score over the other tasks' weights."""
    weight = np.asarray(preview.alphas)[:, t]
    mean = np.asarray(preview.mean)
    places = np.unique(np.round(weight, 6))
    if len(places) > 21:
        weight, places = np.round(weight * 20) / 20, np.arange(21) / 20
    near = [np.abs(weight - w) < 1e-5 for w in places]  # weights are of order one
    best = [float(np.nanmax(mean[rows])) if np.isfinite(mean[rows]).any() else np.nan for rows in near]
    return places, np.array(best)


def _best(truth: "Preview | None") -> Array | None:
    """The best weighting of the truth, if there is a truth and any of it was scored."""
    row = None if truth is None else pick(truth.alphas, truth.mean)
    return None if truth is None or row is None else np.asarray(truth.alphas[row])


def tidy(axes: Any) -> None:
    """Thin rules instead of a box."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.grid(axis="y", color=RULE, linewidth=0.5, alpha=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=MUTED, length=3, color=RULE)
