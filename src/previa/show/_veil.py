"""What no floor allows is hatched and greyed, so that it can still be read."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from previa.show._look import INK, MUTED, Array
from previa.show.ternary import gridded

Mask = NDArray[np.bool_]

GREY, HATCH = "#f2f0ea", "////"
WORDS = "Hatched: a floor is missed."


def veil(axes: Any, alphas: Array, missed: Mask) -> None:
    """Hatch the part of a ternary axes where weightings [A, 3] miss a floor: up to halfway to those that keep it."""
    from matplotlib import rc_context
    from matplotlib.tri import Triangulation

    shown = gridded(alphas)
    alphas, missed = alphas[shown], missed[shown]
    if not missed.any() or len(alphas) < 3 or np.linalg.matrix_rank(alphas - alphas[0], tol=1e-5) < 2:
        return
    top, left, right = alphas.T
    mesh = Triangulation(right + top / 2, top * np.sqrt(3) / 2).triangles
    with rc_context({"hatch.linewidth": 0.5, "hatch.color": MUTED}):
        axes.tricontourf(top, left, right, mesh, missed.astype(float), levels=[0.5, 1.5], colors=[GREY], alpha=0.45,
                         hatches=[HATCH], zorder=2.5)  # fmt: skip
    if not missed.all():
        axes.tricontour(top, left, right, mesh, missed.astype(float), levels=[0.5], colors=INK, linewidths=0.9,
                        zorder=2.6)  # fmt: skip


def spans(axes: Any, x: Array, missed: Mask) -> None:
    """Grey the parts of an axes where the sorted places x [n] miss a floor: halfway to those that keep it."""
    middle = np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])
    for i in np.flatnonzero(missed):
        axes.axvspan(
            middle[i], middle[i + 1], facecolor=GREY, edgecolor="#cfc9bb", hatch=HATCH, linewidth=0, zorder=0
        )
