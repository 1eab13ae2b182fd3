"""What a search found: the map that a few evaluations draw, how sure it is of it, and where it looked."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from previa.errors import InputError
from previa.show._look import (
    INK,
    LINES,
    MAP,
    MUTED,
    PLAIN,
    Array,
    Landscape,
    averaged,
    caption_height,
    figure,
    heading,
    landscapes,
    levels,
    plain,
    save,
    tidy,
)
from previa.show._veil import WORDS, Mask, spans, veil
from previa.show.contours import CORNERS, colour_bar
from previa.show.ternary import filled, frame, mark, scale
from previa.study import simplex
from previa.study.preference import Preference

if TYPE_CHECKING:
    from previa.study.preview import Preview

SURE = "magma_r"  # of the deviation: dark is unsure; ordered by lightness, and not to be taken for a score
Z = 1.96  # deviations of a band of 95 %
NUMBERED = 30  # suggested weightings: with more of them their numbers are left out
STEPS = 20  # of a profile


def surrogate_map(
    searched: "Preview",
    alphas: ArrayLike,
    mean: ArrayLike,
    sd: ArrayLike,
    path: str | Path,
    *,
    title: str = "",
    unit: str = "score",
    order: Sequence[ArrayLike] = (),
    start: int = 0,
    preference: Preference = PLAIN,
    missed: ArrayLike | None = None,
) -> None:
    """Draw a search's Gaussian process and the weightings it evaluated, as PNG or SVG by the path's ending.

    alphas [A, T], mean [A] and sd [A]: the value of scores and its standard deviation everywhere, of the process; missed [A]:
    where it has a floor missed. order: the evaluated weightings one after another, the first ``start`` of them chosen before
    there was a process. Three tasks: a triangle of the mean and one of the deviation. Two: a curve with its band. More: for
    each task, the best mean at each of its weights. The evaluated weightings are marked, the best of them starred.
    Raises InputError for shapes that do not fit, FileError, MissingExtraError.
    """
    tasks, lands = landscapes(None, {"searched": searched}, preference)
    land, T = lands["searched"], len(tasks)
    a = np.atleast_2d(simplex.check_alphas(alphas, T, where="surrogate map"))
    mu, sigma = np.asarray(mean, dtype=np.float64), np.asarray(sd, dtype=np.float64)
    veiled = np.zeros(len(a), dtype=bool) if missed is None else np.asarray(missed, dtype=bool)
    if not mu.shape == sigma.shape == veiled.shape == (len(a),):
        raise InputError(
            f"surrogate map: mean, sd and missed should be [A] = ({len(a)},), as alphas are. Found {mu.shape}, "
            f"{sigma.shape} and {veiled.shape}."
        )
    turns = _turns(land, order, start)
    score = averaged(unit, preference)
    first = int((turns < 0).sum()) if start else 0
    n = len(land.alphas)
    dot = "○" if T == 3 else "●"
    points = f"{n} of {len(a)} weightings evaluated" if n < len(a) else f"{n} weightings evaluated"
    words = [
        CORNERS.strip() if T == 3 else "",
        "For each task: the best value by the process when that task has this weight, the others being free." if T > 3 else "",
        f"{points}: □ {first} to begin with, {dot} {n - first} suggested{', numbered in order' if _numbered(turns) and T < 4 else ''}; "
        f"★ the best of them." if first else f"{dot} {points}; ★ the best of them.",
        "Shaded: 95 % of the process." if T != 3 else "",
        "× could not be scored." if not np.isfinite(land.mean).all() else "",
        WORDS if veiled.any() else "",
        "Between the marks nothing was measured.",
    ]  # fmt: skip
    caption = " ".join(word for word in words if word)
    draw, width = {2: (_curve, 8.2), 3: (_triangles, 9.9)}.get(T, (_profiles, 3.1 * _columns(T) + 0.6))
    made = draw(
        tasks, land, turns, (a, mu, sigma, veiled), score, (width, caption_height(title, caption, width))
    )
    heading(made, title, "What the search found, and how sure it is", caption)
    save(made, path)


def _turns(land: Landscape, order: Sequence[ArrayLike], start: int) -> Array:
    """Of each evaluated weighting: which suggestion it was, 1, 2, ...; -1 of the start; 0 where nothing is known."""
    turns = np.zeros(len(land.alphas))
    for number, alpha in enumerate(order):
        row = simplex.find(land.alphas, np.asarray(alpha, dtype=np.float64))
        if row is not None:
            turns[row] = -1 if number < start else number + 1 - start
    return turns


def _numbered(turns: Array) -> bool:
    return bool(0 < turns.max(initial=0) <= NUMBERED)


Process = tuple[Array, Array, Array, Mask]
"""alphas [A, T], mean [A], deviation [A], which miss a floor [A]"""
Size = tuple[float, float]
"""inches: the width, and what the caption takes"""


def _triangles(
    tasks: tuple[str, ...], land: Landscape, turns: Array, process: Process, score: str, size: Size
) -> Any:
    alphas, mean, sd, missed = process
    width, foot = size
    height = 4.18 + foot
    made = figure(width, height)
    known = land.mean[np.isfinite(land.mean)]
    shades = (scale(levels(np.concatenate([mean, known])), MAP), scale(levels(sd, steps=12), SURE))
    names = ("The value, as the process has it", "How unsure it is")
    for number, (values, colours, name) in enumerate(zip((mean, sd), shades, names, strict=True)):
        left = 0.45 + 4.95 * number
        axes = made.add_axes(
            (left / width, (foot + 0.58) / height, 3.1 / width, 2.685 / height), projection="ternary"
        )
        filled(axes, alphas, values, colours)
        if number == 0:
            veil(axes, alphas, missed)
        frame(axes, tasks)
        _points(axes, land, turns, numbers=number == 0 and _numbered(turns))
        axes.set_title(name, fontsize=10, color=INK, pad=30)
        place = (left + 3.35) / width, (foot + 0.6) / height, 0.14 / width, 2.5 / height
        colour_bar(
            made,
            colours,
            score if number == 0 else f"standard deviation of the {score.split(' (')[0]}",
            place,
        )
    return made


def _points(axes: Any, land: Landscape, turns: Array, *, numbers: bool) -> None:
    """The evaluated weightings of a triangle: squares of the start, rings of what was suggested, a star at the best."""
    good = np.isfinite(land.mean)
    begun = good & (turns < 0)
    rest = np.flatnonzero(good & ~begun)
    kept = {"c": "white", "edgecolors": INK, "clip_on": False}
    axes.scatter(*land.alphas[begun].T, marker="s", s=26, linewidths=0.9, zorder=5, **kept)
    for row in rest[np.argsort(turns[rest], kind="stable")]:
        later = 5.1 + turns[row] / 100  # the later above
        axes.scatter(
            *land.alphas[row, :, None],
            marker="o",
            s=62 if numbers else 20,
            linewidths=0.8,
            zorder=later,
            **kept,
        )
        if numbers and row != land.pick:
            axes.text(*land.alphas[row], f"{turns[row]:.0f}", fontsize=6, color=INK, ha="center", va="center_baseline",
                      zorder=later, clip_on=False)  # fmt: skip
    axes.scatter(*land.alphas[~good].T, marker="x", c=MUTED, s=18, linewidths=1.1, zorder=5, clip_on=False)
    if land.pick is not None:
        mark(axes, land.alphas[land.pick], "pick", size=1.15)


def _curve(
    tasks: tuple[str, ...], land: Landscape, turns: Array, process: Process, score: str, size: Size
) -> Any:
    alphas, mean, sd, missed = process
    width, foot = size
    height = 4.2 + foot
    made = figure(width, height)
    axes = made.add_axes((0.78 / width, (foot + 0.6) / height, (width - 1.0) / width, 3.15 / height))
    order = np.argsort(alphas[:, 0], kind="stable")
    x, y, half = alphas[order, 0], mean[order], Z * sd[order]
    spans(axes, x, missed[order])
    axes.fill_between(x, y - half, y + half, color=LINES[0], alpha=0.18, linewidth=0, zorder=1)
    axes.plot(x, y, color=LINES[0], linewidth=1.6, zorder=3)
    _dots(axes, land, turns, 0, size=1.0, numbers=_numbered(turns))
    first, second = (plain(task, width=36, lines=1) for task in tasks)
    axes.set_xlabel(f"weight of {first}   (the rest on {second})", fontsize=9.5, color=INK)
    axes.set_ylabel(score, fontsize=9.5, color=INK)
    axes.set_xlim(-0.02, 1.02)
    tidy(axes)
    return made


def _columns(T: int) -> int:
    return 2 if T == 4 else 3


def _profiles(
    tasks: tuple[str, ...], land: Landscape, turns: Array, process: Process, score: str, size: Size
) -> Any:
    alphas, mean, sd, missed = process
    T = len(tasks)
    columns, (width, foot) = _columns(T), size
    height = 2.5 * -(-T // columns) + 0.55 + foot
    made = figure(width, height)
    shared = None
    for t, task in enumerate(tasks):
        row, column = divmod(t, columns)
        left, bottom = 0.7 + 3.1 * column, height - 0.55 - 2.5 * row - 1.85
        axes = made.add_axes(
            (left / width, bottom / height, 2.65 / width, 1.85 / height), sharex=shared, sharey=shared
        )
        shared = shared or axes
        at = (
            np.round(alphas[:, t] * STEPS) / STEPS
            if len(np.unique(alphas[:, t])) > STEPS + 1
            else alphas[:, t]
        )
        places = np.unique(np.round(at, 6))
        fair = np.where(missed, -np.inf, mean) if not missed.all() else mean
        best = np.array(
            [np.flatnonzero(np.abs(at - p) < 1e-5)[fair[np.abs(at - p) < 1e-5].argmax()] for p in places]
        )
        y, half = mean[best], Z * sd[best]
        spans(axes, places, missed[best])
        axes.fill_between(places, y - half, y + half, color=LINES[0], alpha=0.18, linewidth=0, zorder=1)
        axes.plot(places, y, color=LINES[0], linewidth=1.5, zorder=3)
        _dots(axes, land, turns, t, size=0.6, numbers=False)
        axes.set_xlabel(f"weight of {plain(task, width=26, lines=1)}", fontsize=9, color=INK)
        if column == 0:
            axes.set_ylabel(score, fontsize=9, color=INK)
        axes.set_xlim(-0.03, 1.03)
        tidy(axes)
        axes.tick_params(labelleft=column == 0)
    return made


def _dots(axes: Any, land: Landscape, turns: Array, t: int, *, size: float, numbers: bool) -> None:
    """The evaluated weightings at their own value, against the weight of task t."""
    good = np.isfinite(land.mean)
    x, y = land.alphas[:, t], land.mean
    for which, marker, face in ((good & (turns < 0), "s", "white"), (good & (turns >= 0), "o", INK)):
        axes.scatter(
            x[which], y[which], marker=marker, s=34 * size, c=face, edgecolors=INK, linewidths=0.9, zorder=5
        )
    if numbers:
        for row in np.flatnonzero(good & (turns > 0)):
            axes.annotate(f"{turns[row]:.0f}", (x[row], y[row]), (0, 9 if row == land.pick else 5), textcoords="offset points", fontsize=7, ha="center",
                          va="bottom", color=INK)  # fmt: skip
    for place in x[~good]:
        axes.plot(place, 0.02, "x", color=MUTED, markersize=5, transform=axes.get_xaxis_transform())
    if land.pick is not None:
        axes.scatter(
            x[land.pick],
            y[land.pick],
            marker="*",
            s=190 * size,
            c="white",
            edgecolors=INK,
            linewidths=1.0,
            zorder=7,
        )
