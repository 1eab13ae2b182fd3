"""Each task's own score at every weighting: who pays for whose gain."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from previa.show._level import level
from previa.show._look import (
    INK,
    LINES,
    MAP,
    MUTED,
    PLAIN,
    caption_height,
    figure,
    heading,
    label,
    landscapes,
    levels,
    measured_in,
    plain,
    save,
    tidy,
)
from previa.show.contours import dots, surface
from previa.show.ternary import Scale, frame, mark, scale
from previa.study.preference import Preference

if TYPE_CHECKING:
    from previa.study.preview import Preview

PAD = 0.03  # of a panel's range of scores, above and below


def per_task(
    truth: "Preview | None",
    previews: Mapping[str, "Preview"],
    path: str | Path,
    *,
    title: str = "",
    unit: str = "score",
    preference: Preference = PLAIN,
) -> None:
    """Draw small multiples as PNG or SVG by the path's ending: a row for the truth and each preview, a column for each task.

    A column has one scale. Three tasks: filled triangles; otherwise each task's score against its own weight, as dots.
    Raises InputError, FileError, MissingExtraError.
    """
    tasks, lands = landscapes(truth, previews, preference)
    cell = 2.05
    cell_y = 1.9 if len(tasks) == 3 else 1.72
    width = 1.95 + cell * len(tasks)
    drawn = (
        "○ the truth's best mean score, ★ the preview's pick by mean score; each"
        if len(tasks) == 3
        else "Each"
    )
    sparse = "; ".join(dots(lands)) if len(tasks) == 3 else ""
    caption = f"{drawn} column has its own scale of scores{measured_in(unit)}{'; ' * bool(sparse)}{sparse}. {level(lands)}"
    foot = caption_height(title, caption, width)
    height = 1.41 + foot + cell_y * len(lands)
    made = figure(width, height)
    for t, task in enumerate(tasks):
        shared = levels(np.concatenate([p.scores[:, t] for p in lands.values()]), steps=14)
        colours = scale(shared, MAP)
        for row, (method, land) in enumerate(lands.items()):
            corner = (1.85 + cell * t, height - 0.98 - cell_y * row - 1.4)
            order = np.argsort(land.alphas[:, t], kind="stable")
            alphas, scores = land.alphas[order], land.scores[order, t]
            if len(tasks) == 3:
                axes = made.add_axes((corner[0] / width, corner[1] / height, 1.62 / width, 1.4 / height),
                                     projection="ternary")  # fmt: skip
                surface(axes, alphas, scores, colours, truth=method == "joint", size=0.5)
                frame(axes, tasks, ticks=False, size=6.5)
                if land.pick is not None:
                    mark(axes, land.alphas[land.pick], "best" if method == "joint" else "pick", size=0.4)
            else:
                axes = made.add_axes((corner[0] / width, corner[1] / height, 1.62 / width, 1.4 / height))
                axes.plot(alphas[:, t], scores, "o" if len(tasks) > 2 or method == "joint" else "-", markersize=2.5,
                          alpha=0.6 if len(tasks) > 2 else 1, color=INK if method == "joint" else LINES[0])  # fmt: skip
                pad = PAD * (shared[-1] - shared[0])  # a dot on the highest level is a whole dot
                axes.set(xlim=(-0.03, 1.03), ylim=(shared[0] - pad, shared[-1] + pad))
                tidy(axes)
                axes.tick_params(labelsize=7, labelbottom=row == len(lands) - 1)
                if row == len(lands) - 1:
                    axes.set_xlabel("its own weight", fontsize=8, color=MUTED)
            if row == 0:
                made.text((corner[0] + 0.81) / width, 1 - 0.42 / height, plain(task, width=20), ha="center", va="top",
                          fontsize=10, color=INK, linespacing=1.0)  # fmt: skip
            if t == 0:
                made.text(0.12 / width, (corner[1] + 0.7) / height, plain(label(method), width=17, lines=3), ha="left",
                          va="center", fontsize=9, color=INK, fontweight="bold" if method == "joint" else "normal")  # fmt: skip
        if len(tasks) == 3:
            _bar(
                made, colours, ((1.9 + cell * t) / width, (0.38 + foot) / height, 1.52 / width, 0.09 / height)
            )
    heading(made, title, "Each task's own score", caption)
    save(made, path)


def _bar(made: Any, colours: Scale, place: tuple[float, float, float, float]) -> None:
    from matplotlib.cm import ScalarMappable

    axes = made.add_axes(place)
    bar = made.colorbar(ScalarMappable(colours.norm, colours.colours), cax=axes, orientation="horizontal",
                        boundaries=colours.levels, spacing="proportional")  # fmt: skip
    bar.set_ticks([colours.levels[0], colours.levels[len(colours.levels) // 2], colours.levels[-1]])
    bar.ax.tick_params(labelsize=7, colors=MUTED, length=2)
    bar.outline.set_visible(False)
