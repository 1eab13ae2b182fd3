"""What if one task got more weight, or less? Every task's score on the way, a small panel a task."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from previa.errors import InputError
from previa.show._look import (
    DASHES,
    INK,
    LINES,
    MUTED,
    PLAIN,
    Array,
    Landscape,
    averaged,
    caption_height,
    figure,
    heading,
    landscapes,
    measured_in,
    plain,
    save,
    tidy,
    valued,
)
from previa.show._veil import WORDS, Mask, spans
from previa.study import simplex
from previa.study.preference import Preference
from previa.study.surrogate import gaussian_process

if TYPE_CHECKING:
    from previa.study.preview import Preview

PLACES = 41  # along a way
NEAREST = (
    250  # measured weightings around a way that its process is fitted to: more take long and say little more
)
CLOSE = 0.02  # a measured weighting this near to a way is drawn on it
PANEL = 2.75, 1.75  # inches
SHADES = (*LINES, "#000000", "#8c6d31")


def what_if(
    preview: "Preview",
    alpha: ArrayLike,
    path: str | Path,
    *,
    title: str = "",
    unit: str = "score",
    preference: Preference = PLAIN,
) -> None:
    """Draw, for each task, all tasks' scores as its weight goes from 0 to 1, as PNG or SVG by the path's ending.

    alpha [T]: where the ways start, drawn upright, usually the pick. Along a way the other tasks keep their proportions (equal
    shares where they had none). Lines are the scores that were measured (two tasks), else what a Gaussian process of the
    measured weightings nearby has between them; dots are measured. Dotted: the value. Raises InputError where fewer
    than three weightings were scored, AlphaError, FileError, MissingExtraError.
    """
    tasks, lands = landscapes(None, {"preview": preview}, preference)
    land, T = lands["preview"], len(tasks)
    start = simplex.check_alphas(alpha, T, where="what if")
    good = np.isfinite(land.mean)
    if good.sum() < 3:
        raise InputError(
            f"what if: a way needs three scored weightings at least. Found {good.sum()} of {len(preview)}."
        )
    found = [_along(land, good, start, t) for t in range(T)]
    missed = [preference.shortfall(scores, tasks) > 0 for _, scores in found]
    words = _words(start, unit, preference)
    words += f" {WORDS}" if any(one.any() for one in missed) else ""
    columns = T if T < 4 else 2 if T == 4 else 3 if T < 7 else 4
    rows = -(-T // columns)
    width = 0.65 + (PANEL[0] + 0.28) * columns + 0.15
    key = 0.26 * -(-(T + 1) // max(2, columns))
    foot = caption_height(title, words, width) + key + 0.1
    made = figure(width, 0.62 + (PANEL[1] + 0.62) * rows + foot)
    height = made.get_figheight()
    every = np.concatenate([land.scores[good].ravel(), *(scores.ravel() for _, scores in found)])
    pad = 0.04 * float(np.ptp(every)) or 0.01
    for t in range(T):
        row, column = divmod(t, columns)
        left, bottom = 0.65 + (PANEL[0] + 0.28) * column, height - 0.62 - (PANEL[1] + 0.62) * row - PANEL[1]
        axes = made.add_axes((left / width, bottom / height, PANEL[0] / width, PANEL[1] / height))
        _panel(axes, land, (found[t], missed[t]), t, start, preference.value(found[t][1], tasks))
        axes.set(xlim=(-0.01, 1.01), ylim=(every.min() - pad, every.max() + pad))
        axes.set_xlabel(f"weight of {plain(tasks[t], width=28, lines=1)}", fontsize=9, color=INK)
        tidy(axes)
        axes.tick_params(labelleft=column == 0)
        if column == 0:
            axes.set_ylabel(unit, fontsize=9, color=INK)
    _legend(made, tasks, averaged(unit, preference), max(2, columns), caption_height(title, words, width))
    heading(made, title, "What if one task got more weight, or less?", words)
    save(made, path)


def _words(start: Array, unit: str, preference: Preference) -> str:
    """The caption: what moves, which line is whose score, and what was measured."""
    two = len(start) == 2
    rest = "the other takes the rest" if two else "the others keep their proportions"
    how = (
        "Every line joins measured scores."
        if two
        else "Dots are measured; between them a Gaussian process of the measured weightings around has the lines."
    )
    return (
        f"From {simplex.show(np.round(start, 3))}, the upright line, one task's weight moves and {rest}. The thick line is the "
        f"score{measured_in(unit)} of the task whose weight moves, {'the thin one that of the other' if two else 'thin ones are those of the others'}, "
        f"the dotted one is the {valued(preference)}. {how}"
    )


def way(start: Array, t: int, w: Array) -> Array:
    """Weightings [n, T] with weights w [n] on task t, the others in the proportions that they have in start [T]."""
    rest = np.array(start, dtype=np.float64)
    rest[t] = 0.0
    rest = (
        rest / rest.sum() if rest.sum() > 0 else np.where(np.arange(len(rest)) == t, 0.0, 1 / (len(rest) - 1))
    )
    return np.asarray((1 - w)[:, None] * rest + w[:, None] * np.eye(len(rest))[t])


def _along(land: Landscape, good: Mask, start: Array, t: int) -> tuple[Array, Array]:
    """(the weights of task t [n], every task's score there [n, T]): measured for two tasks, else by the process."""
    if land.alphas.shape[1] == 2:
        rows = np.flatnonzero(good)[np.argsort(land.alphas[good, t], kind="stable")]
        return land.alphas[rows, t], land.scores[rows]
    w = np.unique(np.append(np.linspace(0, 1, PLACES), start[t]))
    there = way(start, t, w)
    rows = np.flatnonzero(good)
    off = _off(land.alphas[rows], there)
    near = rows[np.argsort(off, kind="stable")[:NEAREST]]
    scores = land.scores[near]
    mean = gaussian_process(land.alphas[near], scores).predict(there)[0]
    return w, np.clip(
        mean, scores.min(axis=0), scores.max(axis=0)
    )  # beyond what was measured it knows nothing


def _off(alphas: Array, there: Array) -> Array:
    """How far each of alphas [A, T] is from the nearest place of a way [n, T]: [A]."""
    return np.asarray(np.linalg.norm(alphas[:, None] - there[None], axis=2).min(axis=1))


def _panel(
    axes: Any, land: Landscape, drawn: tuple[tuple[Array, Array], Mask], t: int, start: Array, value: Array
) -> None:
    (w, scores), missed = drawn
    spans(axes, w, missed)
    axes.axvline(start[t], color=MUTED, linewidth=0.9, zorder=1)
    close = np.isfinite(land.mean) & (_off(land.alphas, way(start, t, np.linspace(0, 1, 201))) <= CLOSE)
    for s in range(scores.shape[1]):
        axes.plot(w, scores[:, s], color=SHADES[s % 8], linestyle=DASHES[s % 6], linewidth=2.4 if s == t else 1.2,
                  zorder=5 if s == t else 3)  # fmt: skip
        axes.scatter(
            land.alphas[close, t], land.scores[close, s], s=9, color=SHADES[s % 8], linewidths=0, zorder=6
        )
    axes.plot(w, value, color="white", linewidth=2.6, zorder=4)
    axes.plot(w, value, color=INK, linestyle=(0, (1, 1)), linewidth=1.7, zorder=4.1)


def _legend(made: Any, tasks: tuple[str, ...], score: str, columns: int, bottom: float) -> None:
    from matplotlib.lines import Line2D

    dashes: tuple[Any, ...] = DASHES
    handles = [
        Line2D(
            [],
            [],
            color=SHADES[s % 8],
            linestyle=dashes[s % 6],
            linewidth=1.6,
            label=plain(task, width=30, lines=1),
        )
        for s, task in enumerate(tasks)
    ]
    handles.append(Line2D([], [], color=INK, linestyle=(0, (1, 1)), linewidth=1.7, label=score))
    height = made.get_figheight()
    made.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.005, bottom / height), ncols=columns, frameon=False, fontsize=8.5,
                handlelength=2.6, columnspacing=1.6)  # fmt: skip
