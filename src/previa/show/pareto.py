"""The previewed Pareto front beside the true one: what those get in each task who trust it."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from previa.show._fronts import LIGHT, MARKS, PAIRS, Drawn, caption, drawn, good_word
from previa.show._look import (
    INK,
    MUTED,
    RULE,
    Array,
    caption_height,
    figure,
    heading,
    inches_wide,
    label,
    landscapes,
    plain,
    save,
    tidy,
)
from previa.show.ternary import frame, gridded
from previa.study.pareto import front

if TYPE_CHECKING:
    from previa.study.preview import Preview

CELL, ROW = 2.14, 2.54  # inches of a panel with its numbers, and of a method with its title
WIDE = 9.3  # inches that a legend of three columns takes


def pareto(
    truth: "Preview | None",
    previews: Mapping[str, "Preview"],
    path: str | Path,
    *,
    title: str = "",
    unit: str = "score",
) -> None:
    """Draw each preview's Pareto front, at its true scores, as PNG or SVG by the path's ending.

    Two tasks: score against score, a panel a method. Three or more: a row a method, a panel for each pair of tasks (of more
    than three tasks, for the three pairs most in conflict), and for three tasks the triangle of weightings. What counts as
    near-optimal: see `study.pareto.compare_fronts`. Where a preview shares under three weightings with a truth, and for a
    truth alone, just the front of what there is. Raises InputError, FileError, MissingExtraError.
    """
    tasks, lands = landscapes(truth, previews)
    shown = {m: drawn(truth, previews[m]) for m in lands if m != "joint"}
    if not shown and truth is not None:
        shown = {"joint": drawn(None, truth)}
    words = caption(tasks, unit, shown)
    made = (_panels if len(tasks) == 2 else _rows)(tasks, shown, unit, title, words)
    judged = [d.fronts for d in shown.values() if d.fronts]
    good = "" if not judged else good_word(judged[0])
    _legend(made, shown, good, title, words, pairs=len(tasks) > 2)
    what = f"the {'true' if 'joint' in shown else 'previewed'} Pareto front{', at its true scores' if good else ''}"
    heading(made, title, f"Trade-offs: {what}", words)
    save(made, path)


def _panels(tasks: Sequence[str], drawn: Mapping[str, Drawn], unit: str, title: str, words: str) -> Any:
    """Two tasks: a panel a method, up to three beside each other."""
    columns = min(3, len(drawn))
    wide, high = 3.2, 3.3
    width = max(7.0, wide * columns + 0.5)
    foot = _foot(title, words, width)
    made = figure(width, 0.5 + high * -(-len(drawn) // columns) + foot)
    height = made.get_figheight()
    limits = [_limits(drawn, t) for t in (0, 1)]
    for number, (method, d) in enumerate(drawn.items()):
        row, column = divmod(number, columns)
        corner = 0.62 + wide * column, height - 0.5 - high * (row + 1) + 0.5
        axes = made.add_axes((corner[0] / width, corner[1] / height, 2.5 / width, 2.05 / height))
        _pair(axes, d, (0, 1), limits, size=1.6)
        if d.fronts and d.diamonds:  # with two tasks there are few enough to follow
            ends = np.stack([d.fronts.previewed, d.scores], axis=2)[d.fronts.on_previewed]
            axes.plot(*ends.transpose(1, 2, 0), color=LIGHT, linewidth=0.4, zorder=1)
        axes.set_xlabel(f"{plain(tasks[0], width=30, lines=1)} ({unit})", fontsize=8.5, color=INK)
        if column == 0:
            axes.set_ylabel(f"{plain(tasks[1], width=30, lines=1)} ({unit})", fontsize=8.5, color=INK)
        _title(made, (corner[0], corner[1] + 2.05 + 0.1), method, d.words, beside=False)
    return made


def _rows(tasks: Sequence[str], drawn: Mapping[str, Drawn], unit: str, title: str, words: str) -> Any:
    """Three tasks or more: a row a method, with the triangle of three, and pairs of tasks."""
    T, pairs = len(tasks), conflicts(max((d.scores for d in drawn.values()), key=len))
    width = max(6.6, 0.2 + CELL * (len(pairs) + (T == 3)))
    foot = _foot(title, words, width)
    made = figure(width, 0.45 + ROW * len(drawn) + foot)
    height = made.get_figheight()
    limits = [_limits(drawn, t) for t in range(T)]
    for row, (method, d) in enumerate(drawn.items()):
        bottom = height - 0.45 - ROW * (row + 1) + 0.42
        _title(made, (0.12, bottom + 1.84), method, d.words, beside=True)
        places = (0.12 + CELL * column for column in range(4))
        if T == 3:
            corner = ((next(places) + 0.12) / width, (bottom + 0.02) / height, 1.6 / width, 1.386 / height)
            axes = made.add_axes(corner, projection="ternary")
            frame(axes, tuple(tasks), ticks=False, size=8)
            shown = gridded(d.alphas)
            for kind, mask in d.kinds.items():
                axes.scatter(*d.alphas[mask & shown].T, clip_on=False, **d.mark(kind))
        for pair, place in zip(pairs, places, strict=False):
            axes = made.add_axes(((place + 0.5) / width, bottom / height, 1.52 / width, 1.55 / height))
            _pair(axes, d, pair, limits)
            for name, put in zip((tasks[t] for t in pair), (axes.set_xlabel, axes.set_ylabel), strict=True):
                put(plain(name, width=24, lines=1), fontsize=8.5, color=INK, labelpad=2)
    return made


def _foot(title: str, words: str, width: float) -> float:
    """Inches of caption and legend."""
    return caption_height(title, words, width) + (0.72 if width > WIDE else 0.9)


def _title(made: Any, place: tuple[float, float], method: str, words: Sequence[str], *, beside: bool) -> None:
    """The method's name, how large its front is (beside it or below), and how good beside chance; place: in inches."""
    width, height = made.get_size_inches()
    x, y = place
    name = made.text(x / width, (y + (0 if beside else 0.42)) / height, plain(label(method), width=40, lines=1),
                     fontsize=10, fontweight="bold", color=INK, va="bottom")  # fmt: skip
    if not beside:
        made.text(
            x / width, y / height, "\n".join(words), fontsize=8, color=INK, va="bottom", linespacing=1.25
        )
        return
    made.text(
        x / width + (inches_wide(name) + 0.15) / width,
        y / height,
        words[0],
        fontsize=9,
        color=MUTED,
        va="bottom",
    )
    made.text(x / width, (y - 0.2) / height, ";  ".join(words[1:]), fontsize=9, color=INK, va="bottom")


def _pair(
    axes: Any, d: Drawn, pair: tuple[int, int], limits: Sequence[tuple[float, float]], *, size: float = 1
) -> None:
    """Score on one task against score on another, and the front of these two alone as a line."""
    both = d.scores[:, pair]
    best = both[front(both)]
    axes.step(*best[np.argsort(best[:, 0])].T, where="pre", color=INK, linewidth=0.9, zorder=4)
    for kind, mask in d.kinds.items():
        axes.scatter(*both[mask].T, **d.mark(kind, size=size))
    if d.fronts and d.diamonds:
        axes.scatter(*d.fronts.previewed[d.fronts.on_previewed][:, pair].T, **MARKS["previewed"])
    axes.set(xlim=limits[pair[0]], ylim=limits[pair[1]])
    tidy(axes)
    axes.grid(axis="x", color=RULE, linewidth=0.5, alpha=0.7)
    axes.tick_params(labelsize=7.5)


def _limits(drawn: Mapping[str, Drawn], t: int) -> tuple[float, float]:
    """Room for all that is drawn of task t, the same for every method."""
    values = [d.scores[:, t] for d in drawn.values()]
    values += [
        d.fronts.previewed[d.fronts.on_previewed, t] for d in drawn.values() if d.fronts and d.diamonds
    ]
    every = np.concatenate(values)
    low, high = (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)
    pad = 0.05 * (high - low) or 0.01 * max(abs(high), 1.0)
    return low - pad, high + pad


def conflicts(scores: Array, most: int = PAIRS) -> list[tuple[int, int]]:
    """The pairs of tasks whose scores [A, T] rise least together over the weightings, by correlation: so many at most."""
    s = scores[np.isfinite(scores).all(axis=1)]
    away = s - s.mean(axis=0) if len(s) else s
    size = np.sqrt((away**2).sum(axis=0))
    away = away / np.where(size > 0, size, 1.0)
    together = away.T @ away
    return sorted(sorted(combinations(range(s.shape[1]), 2), key=lambda pair: together[pair])[:most])


def _legend(made: Any, drawn: Mapping[str, Drawn], good: str, title: str, words: str, *, pairs: bool) -> None:
    """What the marks are that occur."""
    from matplotlib.lines import Line2D

    names = {
        "good": f"on the previewed front, truly {good}",
        "bad": f"on the previewed front, not {good}",
        "missed": f"{good}, not on the previewed front",
        "unknown": "on its own front" if good else "on the front",
        "rest": "neither" if good else "not on it",
    }
    there = {kind for d in drawn.values() for kind, mask in d.kinds.items() if mask.any()}
    names = {kind: name for kind, name in names.items() if kind in there}
    if any(d.diamonds for d in drawn.values()):
        names["previewed"] = "previewed scores of the previewed front"
    handles = [
        Line2D([], [], linestyle="none", marker=MARKS[kind]["marker"], markersize=MARKS[kind]["s"] ** 0.5 * 1.2,
               markerfacecolor=MARKS[kind]["c"], markeredgecolor=MARKS[kind]["edgecolors"], label=name)
        for kind, name in names.items()
    ]  # fmt: skip
    what = f"the {'true ' if good else ''}front{' of these two tasks alone' if pairs else ''}"
    handles.append(Line2D([], [], color=INK, linewidth=0.9, label=what))
    made.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.004, caption_height(title, words, made.get_figwidth()) / made.get_figheight()),
                ncols=3 if made.get_figwidth() > WIDE else 2, frameon=False, fontsize=8.5, handletextpad=0.4, columnspacing=1.6)  # fmt: skip
