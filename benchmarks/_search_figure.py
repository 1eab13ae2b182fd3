"""The picture of `search.py`: how far the best evaluated weighting is from the grid's best, a panel a study, a line a searcher."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from previa.show._look import DASHES, INK, LINES, MUTED, figure, heading, save, tidy

STYLES = {
    "previa": ("previa", INK, "-", "o"),
    "scikit-learn's process": ("scikit-learn", LINES[0], DASHES[1], "s"),
    "scikit-learn's, a task each": ("scikit-learn, tasks", LINES[5], DASHES[3], "p"),
    "BoTorch": ("BoTorch", LINES[2], DASHES[2], "D"),
    "Optuna's TPE": ("Optuna", LINES[1], DASHES[3], "^"),
    "Optuna's TPE, our start": ("Optuna, our start", LINES[4], DASHES[4], "v"),
    "lattice": ("lattice", LINES[3], DASHES[5], "P"),
    "random": ("random", MUTED, DASHES[2], "x"),
}
CELL, HIGH = 3.35, 2.15  # inches
FLOOR = 0.01  # points: less is drawn there
NEAR = 0.36  # of a decade: names closer than that are moved apart


def drawn(result: Mapping[str, Any], path: Path) -> None:
    """Mean gap over surfaces and seeds (the median is 0 for good searchers) against evaluations, on a logarithmic scale."""
    studies = result["studies"]
    columns = min(3, len(studies))
    rows = -(-len(studies) // columns)
    width, height = 0.75 + CELL * columns, 0.55 + (HIGH + 0.75) * rows + 0.5
    made = figure(width, height)
    for number, (study, searchers) in enumerate(studies.items()):
        row, column = divmod(number, columns)
        corner = 0.65 + CELL * column, height - 0.8 - (HIGH + 0.75) * row - HIGH
        axes = made.add_axes((corner[0] / width, corner[1] / height, 1.85 / width, HIGH / height))
        budgets = [int(b) for b in next(iter(searchers.values())) if b.isdecimal()]
        ends = []
        for name, found in searchers.items():
            text, colour, dash, marker = STYLES[name]
            gaps = [max(FLOOR, found[str(b)]["mean_gap"]) for b in budgets]
            axes.plot(budgets, gaps, color=colour, linestyle=dash, marker=marker, markersize=4, linewidth=2.2 if name == "previa" else 1.3,
                      zorder=5 if name == "previa" else 3, clip_on=False)  # fmt: skip
            ends.append((gaps[-1], text, colour, name == "previa"))
        axes.set(xscale="log", yscale="log", ylim=(FLOOR, 60))
        axes.set_xticks(budgets, [str(b) for b in budgets])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(study, fontsize=10, color=INK, loc="left")
        tidy(axes)
        if column == 0:
            axes.set_ylabel("mean gap (points)", fontsize=9, color=INK)
        axes.set_xlabel("evaluations", fontsize=9, color=INK)
        _direct(axes, ends, budgets[-1])
    caption = (
        "How far the best evaluated weighting is below the best of the whole grid, in points of the previewed mean score; means over previews and seeds; "
        f"{FLOOR:g} and less are drawn at {FLOOR:g}."
    )
    heading(made, "", "Searches of previewed scores", caption)
    save(made, path)


def _direct(axes: Any, ends: list[tuple[float, str, str, bool]], x: int) -> None:
    """The searchers' names beside the ends of their lines, moved apart."""
    ends = sorted(ends)
    y = np.log10([end[0] for end in ends])
    step = NEAR * (np.log10(60) - np.log10(FLOOR)) / 3.8
    for i in range(1, len(y)):
        y[i] = max(y[i], y[i - 1] + step)
    y -= max(0.0, y[-1] - np.log10(60))
    for at, (_, text, colour, bold) in zip(y, ends, strict=True):
        axes.annotate(text, (x, 10**at), (7, 0), textcoords="offset points", fontsize=8, color=colour, va="center", annotation_clip=False,
                      fontweight="bold" if bold else "normal")  # fmt: skip
