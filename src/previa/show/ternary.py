"""One filled triangle: every weighting of three tasks, coloured by a score."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from previa.show._look import INK, MUTED, RULE, Array, plain


@dataclass(frozen=True)
class Scale:
    """One colour scale for several panels: contour levels, and the colour map with its norm."""

    levels: Array
    colours: Any
    norm: Any


def scale(levels: Array, colour_map: str) -> Scale:
    """The colour scale of these contour levels."""
    import matplotlib
    from matplotlib.colors import Normalize

    return Scale(levels, matplotlib.colormaps[colour_map], Normalize(levels[0], levels[-1]))


def filled(axes: Any, alphas: Array, values: Array, colours: Scale) -> None:
    """Fill a ternary axes by values [A] at alphas [A, 3]; triangles that touch a failed (NaN) weighting stay empty.

    The corners are the tasks in the order top, left, right.
    """
    from matplotlib.tri import Triangulation

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
            axes.tricontour(top, left, right, mesh.get_masked_triangles(), filler, levels=colours.levels,
                            colors="white", linewidths=0.35, linestyles="solid", alpha=0.55)  # fmt: skip
    if fine.sum() and (_spread(alphas) < 2 or len(alphas) < 10):
        axes.scatter(top[fine], left[fine], right[fine], c=values[fine], cmap=colours.colours, norm=colours.norm,
                     s=60, edgecolors=INK, linewidths=0.6, zorder=4, clip_on=False)  # fmt: skip
    if not fine.all():
        axes.scatter(top[~fine], left[~fine], right[~fine], marker="x", c=MUTED, s=14, linewidths=0.9, zorder=4,
                     clip_on=False)  # fmt: skip


def frame(axes: Any, tasks: tuple[str, ...], *, ticks: bool = True, size: float = 9) -> None:
    """Corner names, a thin border, and the weights as tick labels along the sides."""
    out = 0.14 if ticks else 0.1  # of the panel's width: a long name grows inwards, not into its neighbour
    below = -0.12 if ticks else -0.07  # under the numbers of the lower side
    for name, (x, y), side in zip(tasks, ((0.5, 1.03), (-out, below), (1 + out, below)), ("center", "left", "right"),
                                  strict=True):  # fmt: skip
        axes.text(x, y, plain(name, width=15), transform=axes.transAxes, fontsize=size, color=INK, ha=side,
                  va="bottom" if y > 1 else "top", linespacing=1.05)  # fmt: skip
    at = [0.2, 0.4, 0.6, 0.8]
    for axis in (axes.taxis, axes.laxis, axes.raxis):
        axis.set_ticks(at if ticks else [])
        axis.set_ticks_position("tick2")  # the sides read as in report.html: the left one the top's weight
        axis.set_tick_params(labelsize=size - 2.5, colors=MUTED, length=2.5, width=0.6, pad=1.5)
    for spine in axes.spines.values():
        spine.set_edgecolor(RULE if ticks else MUTED)
        spine.set_linewidth(0.8)


def mark(axes: Any, alpha: Array, kind: str, *, size: float = 1) -> None:
    """A star for a preview's pick, a ring for the best of the truth."""
    if kind == "pick":
        axes.scatter(*alpha[:, None], marker="*", s=150 * size, c="white", edgecolors=INK, linewidths=0.9, zorder=7,
                     clip_on=False)  # fmt: skip
    else:
        for width, colour in ((3.4, INK), (1.7, "white")):
            axes.scatter(*alpha[:, None], marker="o", s=190 * size, facecolors="none", edgecolors=colour,
                         linewidths=width * size**0.5, zorder=6, clip_on=False)  # fmt: skip


def _spread(alphas: Array) -> int:
    """2 where the weightings span a triangle, 1 along a line, 0 for a single one."""
    return int(np.linalg.matrix_rank(alphas - alphas[0], tol=1e-5))  # weights are of order one
