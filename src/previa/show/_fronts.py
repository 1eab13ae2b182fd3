"""What a picture of fronts shows of one method: its points by kind, how each kind is marked, and the words beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from previa.errors import InputError
from previa.show._look import LINES, Array
from previa.study.pareto import Fronts, compare_fronts, front

if TYPE_CHECKING:
    from previa.study.preview import Preview

Mask = NDArray[np.bool_]

PAIRS = 3  # of tasks, at most
LIGHT = "#9a9488"
MANY = 200  # weightings: with more of them previewed scores would cover the true ones
DENSE = 90  # weightings: with more of them marks grow smaller
MARKS: dict[str, dict[str, Any]] = {  # kinds of point: shape and filling say what colour says
    "good": {"marker": "o", "s": 21, "c": LINES[0], "edgecolors": "white", "linewidths": 0.4, "zorder": 5},
    "bad": {"marker": "X", "s": 30, "c": LINES[1], "edgecolors": "white", "linewidths": 0.4, "zorder": 6},
    "missed": {"marker": "o", "s": 15, "c": "#b5d3e8", "edgecolors": "#7fb2d6", "linewidths": 0.5, "zorder": 3},
    "unknown": {"marker": "o", "s": 18, "c": LINES[2], "edgecolors": "white", "linewidths": 0.4, "zorder": 5},
    "rest": {"marker": "o", "s": 8, "c": "#bdb6a8", "edgecolors": "none", "linewidths": 0, "zorder": 3},
    "previewed": {"marker": "D", "s": 8, "c": "white", "edgecolors": LIGHT, "linewidths": 0.7, "zorder": 2},
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """One method: alphas [A, T], scores there [A, T] (true ones where it was judged), and which points are of which kind [A]."""

    alphas: Array
    scores: Array
    kinds: Mapping[str, Mask]
    words: tuple[str, ...]  # how many are on its front; how many of these are good; how much volume they hold
    fronts: Fronts | None

    def mark(self, kind: str, *, size: float = 1) -> dict[str, Any]:
        """How a point of this kind looks: the smaller, the more there are; what is wrong stays visible."""
        shrunk = min(1.0, (DENSE / max(1, len(self.alphas))) ** (0.35 if kind == "bad" else 0.7))
        one = MARKS[kind]
        return {**one, "s": one["s"] * size * shrunk, "linewidths": one["linewidths"] * shrunk}

    @property
    def diamonds(self) -> bool:
        """Whether the previewed scores of the previewed front are drawn."""
        return self.fronts is not None and len(self.alphas) <= MANY


def drawn(truth: "Preview | None", preview: "Preview") -> Drawn:
    """The preview judged by the truth, or what there is of it where it cannot be."""
    fronts = _judged(truth, preview)
    if fronts is None:
        seen = preview.rows(preview.ok)
        best = front(seen.scores)
        count = f"{best.sum()} of {len(seen)} on its front" if len(seen) else "no weighting was scored"
        return Drawn(seen.alphas, seen.scores, {"rest": ~best, "unknown": best}, (count,), None)
    good, chosen = fronts.on_true if fronts.near is None else fronts.near, fronts.on_previewed
    n, k = chosen.sum(), (chosen & good).sum()
    words = [
        f"{n} of {len(good)} weightings on the previewed front",
        f"{k} of these {good_word(fronts)}: {100 * k / n:.0f} % (by chance {100 * good.mean():.0f} %)",
    ]
    if fronts.volume_share is not None and fronts.volume_by_chance is not None:
        share, chance = 100 * fronts.volume_share, 100 * fronts.volume_by_chance
        words.append(f"hypervolume {share:.1f} % (by chance {chance:.1f} %)")
    kinds = {"rest": ~chosen & ~good, "missed": ~chosen & good, "good": chosen & good, "bad": chosen & ~good}
    return Drawn(fronts.alphas, fronts.true, kinds, tuple(words), fronts)


def _judged(truth: "Preview | None", preview: "Preview") -> Fronts | None:
    try:
        return None if truth is None else compare_fronts(truth, preview)
    except InputError:  # the tasks are the same, so it is that too few weightings are shared
        return None


def good_word(fronts: Fronts) -> str:
    """What a weighting that serves is called."""
    return "on the true front" if fronts.near is None else "near-optimal"


def caption(tasks: Sequence[str], unit: str, drawn: Mapping[str, Drawn]) -> str:
    """What the marks and numbers mean."""
    T = len(tasks)
    every = T * (T - 1) // 2
    pairs = f" Shown are the {PAIRS} of {every} pairs of tasks most in conflict." if every > PAIRS else ""
    judged = [d.fronts for d in drawn.values() if d.fronts]
    if not judged:
        return (
            f"A weighting is on the front when no other one is as good in every task and better in one.{pairs} The axes "
            f"show {unit}."
        )
    near = (
        " Near-optimal: in every task within noise of some weighting on the true front."
        if good_word(judged[0]) == "near-optimal"
        else ""
    )
    marks = "A dot or a cross" if any(d.kinds["bad"].any() for d in drawn.values() if d.fronts) else "A dot"
    seen = (
        " Diamonds are previewed scores: their level counts for nothing, only which weightings are on the front."
        if any(d.diamonds for d in drawn.values())
        else ""
    )
    return (
        f"{marks} is a weighting at its true scores ({unit}).{near} By chance: the share among all weightings; where "
        "most are good, finding some is no feat. Hypervolume: the part of the true front's that the previewed front's "
        f"weightings reach; by chance: what as many drawn blindly reach on average.{seen}{pairs}"
    )
