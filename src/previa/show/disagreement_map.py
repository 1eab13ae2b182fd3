"""Where the previews disagree: weightings that one method ranks high and another low, and each method's pick among them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from previa.errors import InputError
from previa.show._look import (
    INK,
    LINES,
    MUTED,
    Array,
    caption_height,
    figure,
    fit,
    heading,
    label,
    plain,
    save,
    tidy,
)
from previa.show.contours import CORNERS, colour_bar
from previa.show.ternary import filled, frame, scale
from previa.study import simplex

SPREAD = "magma_r"  # dark: they disagree
STEPS = 20  # of a profile
WIDTH = {2: 9.4, 3: 8.6}  # inches
BANDS = np.linspace(0, 1, 11)
WORDS = "difference of ranks among methods"


Mark = tuple[Array, list[str]]
"""a weighting, and the methods that pick it"""


def disagreement_map(
    tasks: Sequence[str],
    alphas: ArrayLike,
    spread: ArrayLike,
    path: str | Path,
    *,
    picks: Mapping[str, ArrayLike],
    title: str = "",
) -> None:
    """Draw by how much methods disagree on each weighting, as PNG or SVG by the path's ending.

    alphas [A, T]; spread [A]: from the lowest to the highest rank that a method gives a weighting, as shares of all weightings,
    0 (all agree) to 1, NaN where a method failed. picks: by method the weighting [T] that it would choose; picks at one place
    share a mark. Three tasks: a triangle. Two: a curve. More: for each task, all weightings against its weight, and their
    median. Raises InputError for shapes that do not fit, FileError, MissingExtraError.
    """
    names, T = tuple(tasks), len(tasks)
    if T < 2:
        raise InputError(f"a picture of weightings needs at least two tasks. Found {list(tasks)}.")
    a = np.atleast_2d(simplex.check_alphas(alphas, T, where="disagreement map"))
    s = np.asarray(spread, dtype=np.float64)
    if s.shape != (len(a),) or not np.isfinite(s).any():
        raise InputError(
            f"disagreement map: the spread should be [A] = ({len(a)},), as alphas are, one of them finite. Found shape {s.shape}"
            f"{'' if s.shape != (len(a),) else ' with NaN alone'}."
        )
    marks = _grouped(picks, T)
    draw = {2: _curve, 3: _triangle}.get(T, _profiles)
    typical = np.nanmedian(s)
    words = (
        f"{CORNERS if T == 3 else ''}0: all methods rank a weighting alike. 1: it is the best for one and the worst for another. Half of all weightings "
        f"have a spread of {typical:.2f} at most. Where methods disagree, trust no pick without a joint run.{' × a method failed.' if np.isnan(s).any() and T == 3 else ''}"
    )
    made = draw(
        names, a, s, marks, caption_height(title, words, WIDTH[T] if T < 4 else 2.55 * _columns(T) + 3.9)
    )
    width, height = made.get_size_inches()
    _key(made, marks, (width - 3.0, height - (0.72 if T == 3 else 0.62)))
    heading(made, title, "Where the previews disagree", words)
    save(made, path)


def _grouped(picks: Mapping[str, ArrayLike], T: int) -> list[Mark]:
    """The picked weightings, each with the methods that pick it."""
    marks: list[Mark] = []
    for method, alpha in picks.items():
        row = simplex.check_alphas(alpha, T, where=f"the pick of {method}")
        for place, methods in marks:
            if simplex.same(place, row):
                methods.append(method)
                break
        else:
            marks.append((row, [method]))
    return marks


def _key(made: Any, marks: list[Mark], place: tuple[float, float]) -> None:
    """Which method picks what, from this place (left, top, in inches) downwards."""
    width, height = made.get_size_inches()
    left, y = place
    made.text(left / width, y / height, "Picks", fontsize=9.5, color=INK, fontweight="bold", va="top")
    y -= 0.27
    line = min(0.17, (y - 1.0) / max(1, sum(len(m) + 1.4 for _, m in marks)))
    for number, (alpha, methods) in enumerate(marks, 1):
        made.text((left + 0.09) / width, (y - 0.07) / height, str(number), fontsize=7.5, color=INK, ha="center", va="center",
                  bbox={"boxstyle": "circle,pad=0.25", "facecolor": "white", "edgecolor": INK, "linewidth": 0.8})  # fmt: skip
        for method in methods:
            name = made.text((left + 0.27) / width, y / height, plain(label(method), width=38, lines=1), fontsize=8.5, color=INK, va="top")  # fmt: skip
            fit(name, 2.65)
            y -= line
        at = made.text((left + 0.27) / width, y / height, simplex.show(np.round(alpha, 3)), fontsize=7.5, color=MUTED, va="top")  # fmt: skip
        fit(at, 2.65)
        y -= 1.4 * line


def _circle(axes: Any, place: ArrayLike, number: int, **more: Any) -> None:
    """A pick: its number in a ring."""
    at = np.asarray(place, dtype=np.float64)
    axes.scatter(*at[:, None], s=105, c="white", edgecolors=INK, linewidths=1.0, zorder=6 + number / 100,
                 clip_on=False, **more)  # fmt: skip
    axes.text(*at, str(number), fontsize=7.5, color=INK, ha="center", va="center_baseline", zorder=6 + number / 100,
              clip_on=False, **more)  # fmt: skip


def _triangle(tasks: tuple[str, ...], alphas: Array, spread: Array, marks: list[Mark], foot: float) -> Any:
    width, height = WIDTH[3], 4.3 + foot
    made = figure(width, height)
    bottom = foot + 0.6
    axes = made.add_axes((0.5 / width, bottom / height, 3.3 / width, 2.858 / height), projection="ternary")
    colours = scale(_bands(spread), SPREAD)
    filled(axes, alphas, spread, colours)
    frame(axes, tasks)
    for number, (alpha, _) in enumerate(marks, 1):
        _circle(axes, alpha, number)
    colour_bar(made, colours, WORDS, (4.2 / width, bottom / height, 0.14 / width, 2.7 / height))
    return made


def _bands(spread: Array) -> Array:
    """Tenths from 0 to what is there; twentieths where methods agree on all."""
    top = float(np.nanmax(spread))
    steps = BANDS if top > 0.3 else BANDS / 4 if top > 0.1 else BANDS / 10
    return np.asarray(steps[: max(2, int(np.searchsorted(steps, top)) + 1)])


def _curve(tasks: tuple[str, ...], alphas: Array, spread: Array, marks: list[Mark], foot: float) -> Any:
    width, height = WIDTH[2], 4.05 + foot
    made = figure(width, height)
    axes = made.add_axes((0.75 / width, (foot + 0.62) / height, 5.45 / width, 2.85 / height))
    order = np.argsort(alphas[:, 0], kind="stable")
    x, y = alphas[order, 0], spread[order]
    axes.plot(x, y, color=LINES[0], linewidth=1.6)
    axes.fill_between(x, 0, y, color=LINES[0], alpha=0.12, linewidth=0)
    for number, (alpha, _) in enumerate(marks, 1):
        good = np.isfinite(y)
        _circle(axes, (alpha[0], float(np.interp(alpha[0], x[good], y[good]))), number)
    first, second = (plain(task, width=24, lines=1) for task in tasks)
    axes.set_xlabel(f"weight of {first}   (the rest on {second})", fontsize=9.5, color=INK)
    axes.set_ylabel(WORDS, fontsize=9.5, color=INK)
    axes.set(xlim=(-0.02, 1.02), ylim=(0, max(0.1, 1.12 * float(np.nanmax(spread)))))
    tidy(axes)
    return made


def _columns(T: int) -> int:
    return 2 if T == 4 else 3


def _profiles(tasks: tuple[str, ...], alphas: Array, spread: Array, marks: list[Mark], foot: float) -> Any:
    T = len(tasks)
    columns = _columns(T)
    width, height = 2.55 * columns + 3.9, 2.2 * -(-T // columns) + 0.6 + foot
    made = figure(width, height)
    top = max(0.1, 1.1 * float(np.nanmax(spread)))
    for t, task in enumerate(tasks):
        row, column = divmod(t, columns)
        left, bottom = 0.7 + 2.55 * column, height - 0.55 - 2.2 * row - 1.6
        axes = made.add_axes((left / width, bottom / height, 2.2 / width, 1.6 / height))
        at = alphas[:, t]
        axes.scatter(at, spread, s=7, c=LINES[0], alpha=0.35, linewidths=0, zorder=2)
        places = np.round(at * STEPS) / STEPS
        centres = np.unique(places[np.isfinite(spread)])
        middle = [np.nanmedian(spread[places == place]) for place in centres]
        axes.plot(centres, middle, color=INK, linewidth=1.4, zorder=3)
        for number, (alpha, _) in enumerate(marks, 1):
            found = spread[simplex.nearest(alphas, alpha)]
            if np.isfinite(found):
                _circle(axes, (float(alpha[t]), float(found)), number)
        axes.set(xlim=(-0.03, 1.03), ylim=(0, top))
        axes.set_xlabel(f"weight of {plain(task, width=24, lines=1)}", fontsize=8.5, color=INK)
        tidy(axes)
        axes.tick_params(labelleft=column == 0)
        if column == 0:
            axes.set_ylabel("difference of ranks", fontsize=9, color=INK)
    return made
