"""How many weightings reach which score: the lower row of the paper's figure 3."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from previa.show._look import (
    INK,
    LINES,
    MUTED,
    PLAIN,
    RULE,
    Array,
    Landscape,
    averaged,
    figure,
    heading,
    label,
    landscapes,
    levels,
    plain,
    save,
)
from previa.study.preference import Preference

if TYPE_CHECKING:
    from previa.study.preview import Preview

MEDIAN = 8  # points from the axis to its numbers: room for the mark of the median


def histograms(
    truth: "Preview | None",
    previews: Mapping[str, "Preview"],
    path: str | Path,
    *,
    title: str = "",
    unit: str = "score",
    preference: Preference = PLAIN,
) -> None:
    """Draw, one below the other on shared bins, the share of weightings at each mean score, as PNG or SVG by the path's ending.

    Raises InputError, FileError, MissingExtraError.
    """
    _, lands = landscapes(truth, previews, preference)
    height = 0.86 * len(lands) + 1.35
    made = figure(8.2, height)
    bins, shares, top = shared_bins(lands)
    for row, (method, share) in enumerate(shares.items()):
        place = (0.3, (height - 0.38 - 0.86 * (row + 1) + 0.12) / height, 0.62, 0.7 / height)
        axes = made.add_axes(place)
        bars(axes, bins, share, lands[method].mean, truth=method == "joint")
        percent(axes, top)
        last = row == len(shares) - 1
        axes.yaxis.tick_right()
        axes.tick_params(labelsize=8, colors=MUTED, length=0, labelbottom=last)
        axes.tick_params(axis="x", pad=MEDIAN)
        axes.text(-0.03, 0.5, plain(label(method), width=26), transform=axes.transAxes, ha="right", va="center",
                  fontsize=9, color=INK, fontweight="bold" if method == "joint" else "normal")  # fmt: skip
        axes.text(-0.03, -0.06, f"{np.isfinite(lands[method].mean).sum()} weightings", transform=axes.transAxes, ha="right", va="bottom",
                  fontsize=7.5, color=MUTED)  # fmt: skip
        if last:
            axes.set_xlabel(averaged(unit, preference), fontsize=9.5, color=INK)
    heading(made, title, "How many weightings reach which score", "Bars: share of all weightings in that range of "
            "scores. ▲ their median. A preview of the right shape, moved to the left, can still choose well.")  # fmt: skip
    save(made, path)


def shared_bins(lands: Mapping[str, Landscape]) -> tuple[Array, dict[str, Array], float]:
    """Round bins that hold the scores of all methods; by method the percentage of its weightings in each; the axis's end."""
    means = {method: land.mean[np.isfinite(land.mean)] for method, land in lands.items()}
    bins = levels(np.concatenate(list(means.values())), steps=30)
    shares = {m: np.histogram(mean, bins)[0] / max(mean.size, 1) * 100 for m, mean in means.items()}
    return bins, shares, max(float(s.max()) for s in shares.values()) * 1.12 or 1.0


def bars(axes: Any, bins: Array, share: Array, mean: Array, *, truth: bool) -> None:
    """One method's bars, in percent, and the median of its scores mean [A]."""
    axes.bar(bins[:-1], share, np.diff(bins), align="edge", color=INK if truth else LINES[0], edgecolor="white",
             linewidth=0.6)  # fmt: skip
    if np.isfinite(mean).any():
        axes.plot(np.nanmedian(mean), 0, "^", color="#D55E00", markersize=6, clip_on=False, zorder=5)
    margin = (bins[1] - bins[0]) / 2  # the last bar does not stand on the frame
    axes.set_xlim(bins[0] - margin, bins[-1] + margin)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(axis="y", color=RULE, linewidth=0.5)
    axes.set_axisbelow(True)


def percent(axes: Any, top: float) -> None:
    """The vertical axis: from zero to top percent, at most two numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(0, top)
    steps = [1, 2, 5, 10]
    axes.yaxis.set_major_locator(
        MaxNLocator(2, steps=steps, integer=True, prune="lower" if top > 2 else None)
    )
    axes.yaxis.set_major_formatter("{x:.0f} %")
