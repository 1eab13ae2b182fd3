"""Figures 7 and 10 as the paper has them: each language pair's score against the weight of the first, the truth and the previews."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from previa.show._look import (
    DASHES,
    INK,
    LINES,
    MUTED,
    caption_height,
    figure,
    heading,
    plain,
    save,
    tidy,
)
from previa.study.preview import Preview
from previa.study.store import Store

WIDTH, CELL, LEFT, HIGH, BETWEEN, HEAD = 9.4, 3.0, 0.75, 1.9, 0.62, 0.72  # inches
CAPTION = (
    "A column for each language pair, and for the mean of the two that weightings are chosen by. Above: BLEU, the band is one standard error of the "
    "truth over the {n} test sentences; below: log-likelihood a token of the same references. Points: joint finetuning; lines: previews. "
    "Circle: the best mean of the truth; star: a preview's."
)


def draw(
    path: Path,
    stores: Mapping[str, Store],
    columns: Sequence[tuple[str, str]],
    *,
    title: str,
) -> None:
    """Write the picture; stores: by the name of their score, a row each; columns: (method, label), "joint" first."""
    previews = {unit: {name: store.preview(name) for name, _ in columns} for unit, store in stores.items()}
    truth = next(iter(previews.values()))["joint"]
    caption = CAPTION.format(n=0 if truth.items[0] is None else truth.items[0].shape[1])
    foot = caption_height(title, caption, WIDTH) + 0.95
    height = foot + len(stores) * HIGH + (len(stores) - 1) * BETWEEN + HEAD
    made = figure(WIDTH, height)
    heads = [*truth.tasks, "mean of both"]
    first = None
    for row, (unit, found) in enumerate(previews.items()):
        bottom = height - HEAD - HIGH - row * (HIGH + BETWEEN)
        for column, name in enumerate(heads):
            place = (LEFT + CELL * column) / WIDTH, bottom / height, (CELL - 0.5) / WIDTH, HIGH / height
            axes = made.add_axes(place)
            first = first or axes
            for i, (method, label) in enumerate(columns[1:]):
                x, y, pick = line(found[method], column)
                axes.plot(x, y, color=LINES[i], linestyle=DASHES[i], linewidth=1.7, label=plain(label))
                if column == len(truth.tasks):
                    axes.plot(
                        x[pick],
                        y[pick],
                        "*",
                        markersize=12,
                        color=LINES[i],
                        markeredgecolor="white",
                        zorder=7,
                    )
            x, y, pick = line(found["joint"], column)
            if row == 0:
                error = deviation(found["joint"], column)
                axes.fill_between(x, y - error, y + error, color=INK, alpha=0.1, linewidth=0)
            axes.plot(
                x, y, "o-", color=INK, markersize=4, linewidth=0.9, label=plain(columns[0][1]), zorder=5
            )
            if column == len(truth.tasks):
                axes.plot(x[pick], y[pick], "o", markersize=11, markerfacecolor="none", color=INK, zorder=6)
            tidy(axes)
            axes.set_xlim(-0.03, 1.03)
            axes.tick_params(labelsize=8, colors=MUTED)
            if row == 0:
                axes.set_title(name, fontsize=10, color=INK)
            if column == 0:
                axes.set_ylabel(unit, fontsize=9, color=INK)
            if row == len(previews) - 1:
                axes.set_xlabel(f"weight of {truth.tasks[0]}", fontsize=9, color=INK, labelpad=2)
    if first is not None:
        handles, names = first.get_legend_handles_labels()
        made.legend(handles[::-1], names[::-1], loc="lower center", bbox_to_anchor=(0.5, (foot - 0.84) / height), ncols=len(columns),
                    frameon=False, fontsize=9)  # fmt: skip
    heading(made, title, "Scores of each language pair", caption)
    save(made, path)


def line(preview: Preview, column: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Weights of the first task in order, scores of one task or their mean, and where the mean is best."""
    order = np.argsort(preview.alphas[:, 0], kind="stable")
    scores = np.column_stack([preview.scores, preview.mean])[order]
    return preview.alphas[order, 0], scores[:, column], int(np.argmax(scores[:, -1]))


def deviation(preview: Preview, column: int) -> np.ndarray:
    """The standard error of the score over the test sentences, in the order of `line`; of the mean, as if tasks were apart."""
    order = np.argsort(preview.alphas[:, 0], kind="stable")
    each = [
        values.std(1, ddof=1)[order] / values.shape[1] ** 0.5
        for values in preview.items
        if values is not None
    ]
    return each[column] if column < len(each) else np.sqrt(sum(e**2 for e in each)) / len(each)
