"""Figure 2 as the paper has it: where in the plane the minimisers and their previews lie, and what each weighting costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from _toy import Array, losses
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.tri import Triangulation

from previa.show._look import INK, MAP, MUTED, RULE, figure, heading, save
from previa.show.ternary import CORNERS, Scale, filled, frame, gridded
from previa.study.preview import Preview

LEVELS = 10.0 ** np.arange(-4, 0.6, 0.5)  # of the excess loss
WIDTH, HEIGHT = 9.9, 7.6  # inches
COLUMN, LEFT, PLANE = 2.78, 0.72, 2.5  # inches: from column to column, to the first, side of a plane
SPACING = 10  # steps of the weightings that are drawn in the plane: more of them are a blot
CAPTION = (
    "Above: the plane of the two parameters, and {few} weightings. Thin lines: contours of the mean of the three losses. Black points in a "
    "grey net: the exact minimisers of the weighted loss, the net's corners those of each task alone. Discs: their previews, coloured "
    "by the excess of the weighted loss over its minimum; a line joins each to its minimiser. Below: the same excess of {many} weightings; "
    "each corner is one task alone, numbers along a side are the weight of the corner of their colour. Light is good; the scale is logarithmic."
)


def draw(
    path: Path, drawn: tuple[Array, Array], previews: Mapping[str, Preview], labels: Mapping[str, str]
) -> None:
    """Write the picture: a column for each preview, the plane above, the simplex below. previews has "joint", the truth."""
    made = figure(WIDTH, HEIGHT)
    colours = Scale(LEVELS, matplotlib.colormaps[f"{MAP}_r"], LogNorm(LEVELS[0], LEVELS[-1]))
    truth = previews["joint"]
    places = {name: np.stack([p.stats["theta_0"], p.stats["theta_1"]], -1) for name, p in previews.items()}
    window = _window(np.concatenate(list(places.values())))
    coarse = np.abs(truth.alphas * SPACING - np.round(truth.alphas * SPACING)).max(-1) < 1e-6
    corners = seated(truth.alphas, places["joint"])
    for column, name in enumerate(name for name in previews if name != "joint"):
        excess = (truth.alphas * (truth.scores - previews[name].scores)).sum(-1)
        left = LEFT + COLUMN * column
        axes = made.add_axes(_inches(left, 4.16, PLANE, PLANE))
        _contours(axes, drawn, window)
        _net(axes, truth.alphas[coarse], places["joint"][coarse])
        _dots(axes, places["joint"][coarse], places[name][coarse], excess[coarse], colours)
        _tasks(axes, truth, places["joint"], corners)
        axes.set_title(f"({'abc'[column]}) {labels[name]}\n      mean excess loss {excess[coarse].mean():.3f}", fontsize=10, color=INK, loc="left")  # fmt: skip
        axes.tick_params(labelsize=8, colors=MUTED, length=3, color=RULE, labelleft=not column)
        axes.set_xlabel("first parameter θ₁", fontsize=9, color=INK, labelpad=2)
        if not column:
            axes.set_ylabel("second parameter θ₂", fontsize=9, color=INK, labelpad=2)
        triangle = made.add_axes(_inches(left + 0.2, 1.6, 2.1, 1.82), projection="ternary")
        filled(triangle, truth.alphas[:, corners], np.clip(excess, LEVELS[0], LEVELS[-1]), colours)
        frame(triangle, tuple(truth.tasks[t] for t in corners), size=8.5)
    bar = made.colorbar(ScalarMappable(colours.norm, colours.colours), cax=made.add_axes(_inches(8.92, 1.6, 0.16, 5.06)),
                        boundaries=LEVELS, ticks=LEVELS[::2])  # fmt: skip
    bar.set_label("excess of the weighted loss over its minimum", fontsize=9, color=INK)
    bar.ax.set_yticklabels([f"{level:g}" for level in LEVELS[::2]])
    bar.ax.tick_params(labelsize=8, colors=MUTED, length=2.5)
    bar.outline.set_visible(False)
    caption = CAPTION.format(few=coarse.sum(), many=gridded(truth.alphas).sum())
    heading(made, "", "Three losses in two dimensions: where previews lie, and what they cost", caption)
    save(made, path)


def seated(alphas: Array, theta: Array) -> list[int]:
    """The tasks at the triangle's corners top, left, right, so that each is on the side where it is in the plane."""
    own = np.stack([theta[np.abs(alphas - alpha).sum(-1).argmin()] for alpha in np.eye(alphas.shape[1])])
    top = int(own[:, 1].argmax())
    left, right = sorted((t for t in range(3) if t != top), key=lambda t: own[t, 0])
    return [top, left, right]


def _inches(left: float, bottom: float, width: float, height: float) -> tuple[float, ...]:
    return left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT


def _window(points: Array) -> Array:
    """A square [2, 2] (low, high) that holds all points, with a margin."""
    middle = (points.min(0) + points.max(0)) / 2
    half = 0.6 * np.ptp(points, axis=0).max()
    return np.stack([middle - half, middle + half])


def _contours(axes: Any, drawn: tuple[Array, Array], window: Array) -> None:
    x, y = np.linspace(window[0], window[1], 120).T
    total = losses(*drawn, np.stack(np.meshgrid(x, y), -1)).mean(-1)
    low = total.min()
    axes.contour(x, y, total, levels=low + (total.max() - low) * np.linspace(0.02, 1, 12) ** 2, colors=RULE, linewidths=0.7, zorder=1)  # fmt: skip
    axes.set(xlim=window[:, 0], ylim=window[:, 1], aspect="equal")
    for spine in axes.spines.values():
        spine.set_color(RULE)


def _net(axes: Any, alphas: Array, theta: Array) -> None:
    """The image of the simplex in the plane."""
    mesh = Triangulation(alphas[:, 2] + alphas[:, 0] / 2, alphas[:, 0]).triangles
    axes.triplot(theta[:, 0], theta[:, 1], mesh, color=MUTED, linewidth=0.5, alpha=0.7, zorder=2)
    axes.scatter(
        *theta.T, s=2.2, color=INK, linewidths=0, zorder=5
    )  # over the discs: where both agree one sees it


def _tasks(axes: Any, truth: Preview, theta: Array, corners: Sequence[int]) -> None:
    """Each task's name at its own minimiser, in the colour that it has at its corner of the triangle."""
    middle = theta.mean(0)
    for t, ink in zip(corners, CORNERS, strict=True):
        corner = theta[np.abs(truth.alphas - np.eye(len(corners))[t]).sum(-1).argmin()]
        up = 1 if corner[1] > middle[1] else -1
        axes.annotate(truth.tasks[t], corner, (0, 6 * up), textcoords="offset points", fontsize=9, color=ink, zorder=6,
                      ha="center", va="bottom" if up > 0 else "top")  # fmt: skip


def _dots(axes: Any, truth: Array, preview: Array, excess: Array, colours: Scale) -> None:
    """The worst on top: they are what one should see."""
    order = excess.argsort()
    ends = np.stack([truth, preview], 1)[order]
    shown = np.clip(excess[order], LEVELS[0], LEVELS[-1])
    style = {"cmap": colours.colours, "norm": colours.norm}
    axes.add_collection(LineCollection(list(ends), array=shown, linewidths=0.9, zorder=3, **style))
    axes.scatter(*preview[order].T, c=shown, s=17, edgecolors=INK, linewidths=0.4, zorder=4, **style)
