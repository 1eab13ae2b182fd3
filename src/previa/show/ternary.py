"""One filled triangle: every weighting of three tasks, coloured by a score."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from previa.show._look import INK, MUTED, RULE, Array, plain


@dataclass(frozen=True)
class Scale:
    """One colour scale for several panels: contour levels, and the colour map with its norm."""

    levels: Array
    colours: Any
    norm: Any


CORNERS = ("#0072B2", "#B8430A", "#00775A")  # of the tasks top, left, right: dark enough for small numbers
EVEN = 0.4  # 0: every band takes the same step of colour; 1: equal differences do
ON_GRID = 1e-6  # of a grid's step: how far a weighting that was stored in decimals may be from its point
FINE = 8  # steps of a grid, at least, that shows all there is without a point between its own


def scale(levels: Array, colour_map: str) -> Scale:
    """The colour scale of these contour levels; a band much narrower than the others takes a smaller step of colour."""
    import matplotlib
    from matplotlib.colors import BoundaryNorm, ListedColormap

    ends = np.concatenate(([0.0], np.cumsum(np.diff(levels) ** EVEN)))
    colours = matplotlib.colormaps[colour_map]((ends[:-1] + ends[1:]) / 2 / ends[-1])
    return Scale(levels, ListedColormap(colours), BoundaryNorm(levels, len(colours)))


def gridded(alphas: Array) -> NDArray[np.bool_]:
    """Which of alphas [A, 3] are drawn: where they are a fine grid and some more, the grid alone.

    The uniform weighting lies amid three points of most grids: with it their noise is a spot of its own size.
    """
    for n in range(100, FINE - 1, -1):  # a fine grid holds coarser ones
        on = np.asarray((np.abs(alphas * n - np.round(alphas * n)) < ON_GRID).all(axis=1))
        if on.sum() == (n + 1) * (n + 2) // 2:
            return on
    return np.ones(len(alphas), dtype=bool)


def filled(axes: Any, alphas: Array, values: Array, colours: Scale) -> None:
    """Fill a ternary axes by values [A] at alphas [A, 3]; triangles that touch a failed (NaN) weighting stay empty.

    The corners are the tasks in the order top, left, right. Points amid those of a fine grid are left out, see `gridded`.
    """
    from matplotlib.tri import Triangulation

    shown = gridded(alphas)
    alphas, values = alphas[shown], values[shown]
    top, left, right = alphas.T
    fine = np.isfinite(values)
    if fine.sum() and _spread(alphas) == 2:
        mesh = Triangulation(right + top / 2, top * np.sqrt(3) / 2)
        known = fine[mesh.triangles].all(1)
        mesh.set_mask(~known)
        if known.any():
            filler = np.where(fine, values, colours.levels[0])  # masked, but matplotlib wants numbers
            axes.tricontourf(top, left, right, mesh.get_masked_triangles(), filler, levels=colours.levels,
                             cmap=colours.colours, norm=colours.norm)  # fmt: skip
            gaps = np.diff(colours.levels)
            finer = np.concatenate(([False], gaps < gaps.max() / 2))
            for levels, faint in ((colours.levels[~finer], 0.55), (colours.levels[finer], 0.25)):
                if len(levels):  # lines that lie closer look steeper, where only the levels do
                    axes.tricontour(top, left, right, mesh.get_masked_triangles(), filler, levels=levels,
                                    colors="white", linewidths=0.35, linestyles="solid", alpha=faint)  # fmt: skip
    if fine.sum() and (_spread(alphas) < 2 or len(alphas) < 10):
        axes.scatter(top[fine], left[fine], right[fine], c=values[fine], cmap=colours.colours, norm=colours.norm,
                     s=60, edgecolors=INK, linewidths=0.6, zorder=4, clip_on=False)  # fmt: skip
    if not fine.all():
        axes.scatter(top[~fine], left[~fine], right[~fine], marker="x", c=MUTED, s=14, linewidths=0.9, zorder=4,
                     clip_on=False)  # fmt: skip


def frame(axes: Any, tasks: tuple[str, ...], *, ticks: bool = True, size: float = 9) -> None:
    """Corner names, a thin border, and the weights as tick labels along the sides, each in the colour of its corner."""
    out = 0.07 if ticks else 0.1  # of the panel's width: a long name grows inwards, not into its neighbour
    below = -2.1 * size if ticks else -0.9 * size  # points: under the numbers of the lower side
    places = ((0.5, 1, 4.0), (-out, 0, below), (1 + out, 0, below))
    inks = CORNERS if ticks else (INK,) * 3
    for name, (x, y, off), side, ink in zip(tasks, places, ("center", "left", "right"), inks, strict=True):
        axes.annotate(plain(name, width=15), (x, y), (0, off), xycoords="axes fraction", textcoords="offset points",
                      fontsize=size, color=ink, ha=side, va="bottom" if y else "top", linespacing=1.05,
                      annotation_clip=False)  # fmt: skip
    at = [0.2, 0.4, 0.6, 0.8]
    for axis, ink in zip((axes.taxis, axes.laxis, axes.raxis), CORNERS, strict=True):
        axis.set_ticks(at if ticks else [])
        axis.set_ticks_position("tick2")  # the sides read as in report.html: the left one the top's weight
        axis.set_tick_params(labelsize=size - 2, colors=ink, length=3, width=0.7, pad=1.5)
    for spine in axes.spines.values():
        spine.set_edgecolor(RULE if ticks else MUTED)
        spine.set_linewidth(0.8)


def mark(axes: Any, alpha: Array, kind: str, *, size: float = 1) -> None:
    """A star for a preview's pick, a diamond for an anchor, a ring for the best of the truth."""
    if kind == "pick":
        axes.scatter(*alpha[:, None], marker="*", s=150 * size, c="white", edgecolors=INK, linewidths=0.9, zorder=7,
                     clip_on=False)  # fmt: skip
    elif kind == "anchor":
        axes.scatter(*alpha[:, None], marker="D", s=34 * size, c="white", edgecolors=INK, linewidths=0.9, zorder=6,
                     clip_on=False)  # fmt: skip
    else:
        for width, colour in ((3.4, INK), (1.7, "white")):
            axes.scatter(*alpha[:, None], marker="o", s=190 * size, facecolors="none", edgecolors=colour,
                         linewidths=width * size**0.5, zorder=6, clip_on=False)  # fmt: skip


def _spread(alphas: Array) -> int:
    """2 where the weightings span a triangle, 1 along a line, 0 for a single one."""
    return int(np.linalg.matrix_rank(alphas - alphas[0], tol=1e-5))  # weights are of order one
