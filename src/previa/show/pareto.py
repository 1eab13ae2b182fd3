"""The previewed Pareto front beside the true one: what those get in each task who trust it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from previa.errors import InputError
from previa.show._look import (
    INK,
    LINES,
    MUTED,
    RULE,
    Array,
    figure,
    heading,
    label,
    landscapes,
    plain,
    save,
    tidy,
)
from previa.show.ternary import frame
from previa.study.pareto import Fronts, compare_fronts, front

if TYPE_CHECKING:
    from previa.study.preview import Preview

Mask = NDArray[np.bool_]

PAIRS = 3  # of tasks, at most
CELL, ROW = 2.3, 2.15  # inches of a panel with its numbers
BELOW = 0.85  # inches for the caption
LIGHT = "#9a9488"
MARKS: dict[str, dict[str, Any]] = {  # kinds of point: shape and filling say what colour says
    "good": {"marker": "o", "s": 21, "c": LINES[0], "edgecolors": "white", "linewidths": 0.4, "zorder": 5},
    "bad": {"marker": "X", "s": 27, "c": LINES[1], "edgecolors": "white", "linewidths": 0.4, "zorder": 6},
    "missed": {"marker": "o", "s": 15, "c": "white", "edgecolors": LINES[0], "linewidths": 0.8, "zorder": 4},
    "unknown": {"marker": "o", "s": 18, "c": LINES[2], "edgecolors": "white", "linewidths": 0.4, "zorder": 5},
    "rest": {"marker": "o", "s": 8, "c": "#bdb6a8", "linewidths": 0, "zorder": 3},
    "previewed": {"marker": "D", "s": 8, "c": "white", "edgecolors": LIGHT, "linewidths": 0.7, "zorder": 2},
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """One method: alphas [A, T], scores there [A, T] (true ones where it was judged), and which points are of which kind [A]."""

    alphas: Array
    scores: Array
    kinds: Mapping[str, Mask]
    words: tuple[str, ...]
    fronts: Fronts | None


def pareto(
    truth: "Preview | None",
    previews: Mapping[str, "Preview"],
    path: str | Path,
    *,
    title: str = "",
    unit: str = "score",
) -> None:
    """Draw each preview's Pareto front, at its true scores, to a PNG file.

    Two tasks: score against score, a panel a method. Three or more: a row a method, a panel for each pair of tasks (of more
    than three tasks, for the three pairs most in conflict), and for three tasks the triangle of weightings. What counts as
    near-optimal: see `study.pareto.compare_fronts`. Where a preview shares under three weightings with a truth, and for a
    truth alone, just the front of what there is. Raises InputError, FileError, MissingExtraError.
    """
    tasks, lands = landscapes(truth, previews)
    drawn = {m: _drawn(truth, previews[m]) for m in lands if m != "joint"}
    if not drawn and truth is not None:
        drawn = {"joint": _drawn(None, truth)}
    made = (_panels if len(tasks) == 2 else _rows)(tasks, drawn, unit)
    judged = [d.fronts for d in drawn.values() if d.fronts]
    good = "" if not judged else _good(judged[0])
    _legend(made, drawn, good, pairs=len(tasks) > 2)
    what = f"the {'true' if 'joint' in drawn else 'previewed'} Pareto front{', at its true scores' if good else ''}"
    heading(made, title, f"Trade-offs: {what}", _caption(len(tasks), unit, good))
    save(made, path)


def _drawn(truth: "Preview | None", preview: "Preview") -> Drawn:
    fronts = _judged(truth, preview)
    if fronts is None:
        seen = preview.rows(preview.ok)
        best = front(seen.scores)
        count = f"{best.sum()} of {len(seen)} on its front" if len(seen) else "no weighting was scored"
        return Drawn(seen.alphas, seen.scores, {"rest": ~best, "unknown": best}, (count,), None)
    good, chosen = fronts.on_true if fronts.near is None else fronts.near, fronts.on_previewed
    n, k = chosen.sum(), (chosen & good).sum()
    words = [
        f"{k} of {n} {_good(fronts)} ({100 * k / n:.0f} %)",
        f"of all {len(good)}: {100 * good.mean():.0f} %",
    ]
    if fronts.volume_share is not None and fronts.volume_by_chance is not None:
        words += [
            f"volume {100 * fronts.volume_share:.1f} %",
            f"drawn blindly {100 * fronts.volume_by_chance:.1f} %",
        ]
    kinds = {"rest": ~chosen & ~good, "missed": ~chosen & good, "good": chosen & good, "bad": chosen & ~good}
    return Drawn(fronts.alphas, fronts.true, kinds, tuple(words), fronts)


def _judged(truth: "Preview | None", preview: "Preview") -> Fronts | None:
    try:
        return None if truth is None else compare_fronts(truth, preview)
    except InputError:  # the tasks are the same, so it is that too few weightings are shared
        return None


def _good(fronts: Fronts) -> str:
    return "on the true front" if fronts.near is None else "near-optimal"


def _panels(tasks: Sequence[str], drawn: Mapping[str, Drawn], unit: str) -> Any:
    """Two tasks: a panel a method, up to three beside each other."""
    columns = min(3, len(drawn))
    wide, high = 3.2, 3.35
    width, height = max(7.0, wide * columns + 0.5), high * -(-len(drawn) // columns) + 1.95
    made = figure(width, height)
    limits = [_limits(drawn, t) for t in (0, 1)]
    for number, (method, d) in enumerate(drawn.items()):
        row, column = divmod(number, columns)
        corner = (0.62 + wide * column) / width, (height - high * (row + 1) + 0.05) / height
        axes = made.add_axes((*corner, 2.5 / width, 2.1 / height))
        _pair(axes, d, (0, 1), limits, size=1.6)
        if d.fronts:  # with two tasks there are few enough to follow
            ends = np.stack([d.fronts.previewed, d.scores], axis=2)[d.fronts.on_previewed]
            axes.plot(*ends.transpose(1, 2, 0), color=LIGHT, linewidth=0.4, zorder=1)
        axes.set_xlabel(f"{plain(tasks[0], width=30, lines=1)} ({unit})", fontsize=8.5, color=INK)
        if column == 0:
            axes.set_ylabel(f"{plain(tasks[1], width=30, lines=1)} ({unit})", fontsize=8.5, color=INK)
        axes.text(
            0, 1.23, plain(label(method), width=36, lines=1), transform=axes.transAxes, fontsize=10, color=INK
        )
        text = "; ".join(d.words[:2]) + "\n" + ", ".join(d.words[2:])
        axes.text(0, 1.04, text.rstrip(), transform=axes.transAxes, fontsize=8, color=MUTED, linespacing=1.35)
    return made


def _rows(tasks: Sequence[str], drawn: Mapping[str, Drawn], unit: str) -> Any:
    """Three tasks or more: a row a method, with the triangle of three, and pairs of tasks."""
    T, pairs = len(tasks), conflicts(max((d.scores for d in drawn.values()), key=len))
    width, height = 2.45 + CELL * (len(pairs) + (T == 3)), 1.95 + ROW * len(drawn)
    made = figure(width, height)
    limits = [_limits(drawn, t) for t in range(T)]
    for row, (method, d) in enumerate(drawn.items()):
        bottom = height - 0.12 - ROW * (row + 1)
        made.text(0.12 / width, (bottom + 1.55) / height, plain(label(method), width=20, lines=3), va="top",
                  fontsize=9.5, color=INK)  # fmt: skip
        made.text(0.12 / width, (bottom + 0.05) / height, "\n".join(d.words), va="bottom", fontsize=7.8, color=MUTED,
                  linespacing=1.35)  # fmt: skip
        places = ((2.35 + CELL * column) / width for column in range(4))
        if T == 3:
            corner = (next(places), (bottom + 0.05) / height, 1.62 / width, 1.45 / height)
            axes = made.add_axes(corner, projection="ternary")
            frame(axes, tuple(tasks), ticks=False, size=7)
            for kind, mask in d.kinds.items():
                axes.scatter(*d.alphas[mask].T, clip_on=False, **MARKS[kind])
        for pair, place in zip(pairs, places, strict=False):
            axes = made.add_axes((place, bottom / height, 1.62 / width, 1.6 / height))
            _pair(axes, d, pair, limits)
            for name, put in zip((tasks[t] for t in pair), (axes.set_xlabel, axes.set_ylabel), strict=True):
                put(plain(name, width=26, lines=1), fontsize=8, color=INK, labelpad=2)
    return made


def _pair(
    axes: Any, d: Drawn, pair: tuple[int, int], limits: Sequence[tuple[float, float]], *, size: float = 1
) -> None:
    """Score on one task against score on another, and the front of these two alone as a line."""
    both = d.scores[:, pair]
    best = both[front(both)]
    axes.step(*best[np.argsort(best[:, 0])].T, where="pre", color=INK, linewidth=0.9, zorder=4)
    for kind, mask in d.kinds.items():
        axes.scatter(*both[mask].T, **{**MARKS[kind], "s": MARKS[kind]["s"] * size})
    if d.fronts:
        axes.scatter(*d.fronts.previewed[d.fronts.on_previewed][:, pair].T, **MARKS["previewed"])
    axes.set(xlim=limits[pair[0]], ylim=limits[pair[1]])
    tidy(axes)
    axes.grid(axis="x", color=RULE, linewidth=0.5, alpha=0.7)
    axes.tick_params(labelsize=7)


def _limits(drawn: Mapping[str, Drawn], t: int) -> tuple[float, float]:
    """Room for all that is drawn of task t, the same for every method."""
    values = [d.scores[:, t] for d in drawn.values()]
    values += [d.fronts.previewed[d.fronts.on_previewed, t] for d in drawn.values() if d.fronts]
    every = np.concatenate(values)
    low, high = (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)
    pad = 0.05 * (high - low) or 0.01 * max(abs(high), 1.0)
    return low - pad, high + pad


def conflicts(scores: Array) -> list[tuple[int, int]]:
    """The pairs of tasks whose scores [A, T] rise least together over the weightings, by correlation: three at most."""
    s = scores[np.isfinite(scores).all(axis=1)]
    away = s - s.mean(axis=0) if len(s) else s
    size = np.sqrt((away**2).sum(axis=0))
    away = away / np.where(size > 0, size, 1.0)
    together = away.T @ away
    return sorted(sorted(combinations(range(s.shape[1]), 2), key=lambda pair: together[pair])[:PAIRS])


def _legend(made: Any, drawn: Mapping[str, Drawn], good: str, *, pairs: bool) -> None:
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
    if good:
        names["previewed"] = "previewed scores of the previewed front"
    handles = [
        Line2D([], [], linestyle="none", marker=MARKS[kind]["marker"], markersize=MARKS[kind]["s"] ** 0.5 * 1.2,
               markerfacecolor=MARKS[kind]["c"], markeredgecolor=MARKS[kind].get("edgecolors", "white"), label=name)
        for kind, name in names.items()
    ]  # fmt: skip
    what = f"the {'true ' if good else ''}front{' of these two tasks alone' if pairs else ''}"
    handles.append(Line2D([], [], color=INK, linewidth=0.9, label=what))
    made.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.004, BELOW / made.get_figheight()), ncols=3 if made.get_figwidth() > 8 else 2,
                frameon=False, fontsize=8, handletextpad=0.4, columnspacing=1.6)  # fmt: skip


def _caption(T: int, unit: str, good: str) -> str:
    every = T * (T - 1) // 2
    pairs = f"Shown are the {PAIRS} of {every} pairs of tasks most in conflict. " if every > PAIRS else ""
    if not good:
        return (
            f"A weighting is on the front when no other one is as good in every task and better in one. {pairs}The axes "
            f"show {unit}; previewed levels are usually too low."
        )
    near = (
        "Near-optimal: in every task within noise of some weighting on the true front. "
        if good == "near-optimal"
        else ""
    )
    return (
        f"Each point is a weighting that was really trained, at its true scores ({unit}). {near}Where most of all weightings are "
        "good, finding some is no feat. Volume: the part of the true front's hypervolume that the previewed front's weightings "
        f"reach; drawn blindly: what as many others reach on average. {pairs}Previewed levels are usually too low: only which "
        "weightings are on the front counts."
    )
