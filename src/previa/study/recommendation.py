"""What a recommendation is: a pick, what surrounds it, what it should be held against, and a verdict."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from previa.study import sentence
from previa.study.bootstrap import Gain
from previa.study.floors import Floor
from previa.study.verdict import Verdict

Alpha = tuple[float, ...]


@dataclass(frozen=True)
class Point:
    """A weighting to hold the pick against: its previewed and its true score, under the preference and per task.

    None: not previewed there, not trained there.
    """

    alpha: Alpha
    score: float | None
    per_task: Mapping[str, float] | None
    in_region: bool
    true_score: float | None = None
    true_per_task: Mapping[str, float] | None = None
    true_gain_over_uniform: Gain | None = None


@dataclass(frozen=True)
class Agreement:
    """Another method's pick; whether it is in this region, and this pick in its; agrees: both."""

    pick: Alpha
    pick_in_region: bool
    region_holds_pick: bool
    agrees: bool


@dataclass(frozen=True)
class Against:
    """The pick's gain over another weighting, as the gain over uniform in `Recommendation`; None: not known."""

    gain: Gain | None
    gain_from: str | None
    gain_at: Alpha | None
    detectable: bool | None


@dataclass(frozen=True)
class Recommendation:
    """The pick alpha with its scores, what surrounds it, what it should be held against, and a paragraph for a person.

    score and those of the points are previewed, biased low: they rank weightings and predict nothing. measure: what they are,
    in words, such as "mean score".
    region: the weightings not told from the pick, by region_rule "bootstrap" (over test items), "range" (within 1 %) or
    "surrogate" (interpolated); region_fraction: their share of all, which on a grid is the area; centre: the one deepest
    inside; to_edge: what may be taken from the pick's smallest weight before a task has none; reach: weightings none of whose
    weights differs by more than this from the pick's are all in the region.
    gain: over uniform, by gain_from "truth", trained at gain_at (the pick or a weighting beside it), or by "preview", which is
    what choosing on resampled items gains on the items left out (`bootstrap.Choice.gain`); detectable: its interval is
    above 0 (None: unknown). over_size_proportional: the same over size-proportional weights.
    noise: differences of previewed scores up to this cannot be told from 0 (None: no per-item scores).
    floors: each floor at the pick; floors_kept: whether any weighting keeps all; true_best: the best joint run of those that keep
    all floors (None: there is none); uniform_misses: the tasks whose floors uniform
    weights miss, in joint runs where there is one. knee: of the front of task scores, None where it has none.
    training_gain: of the joint run over the merged model, both at training_gain_at, the weighting nearest to the pick that has
    both; uniform_training_gain: of the joint run at uniform weights over that merged model. None: not known.
    doubted_by: the other methods that put the pick in their worse half; spread: how far apart all methods rank it, as a share
    of the weightings; contested: see `Disagreement`.
    verdict, verdict_sentence: what to do, see `verdict.verdict_of`.
    """

    tasks: tuple[str, ...]
    alpha: Alpha
    score: float
    measure: str
    per_task: Mapping[str, float]
    true_score: float | None
    true_per_task: Mapping[str, float] | None
    region: tuple[Alpha, ...]
    region_rule: str
    region_fraction: float
    to_edge: float
    reach: float
    centre: Alpha
    centre_scores: Point
    uniform: Point
    size_proportional: Point
    gain: Gain | None
    gain_from: str | None
    gain_at: Alpha | None
    detectable: bool | None
    over_size_proportional: Against
    noise: float | None
    floors: tuple[Floor, ...]
    floors_kept: bool
    true_best: Alpha | None
    uniform_misses: tuple[str, ...]
    knee: Point | None
    training_gain: Gain | None
    training_gain_at: Alpha | None
    uniform_training_gain: Gain | None
    others: Mapping[str, Agreement]
    doubted_by: tuple[str, ...]
    spread: float | None
    contested: float | None
    verdict: Verdict = "validate first"
    verdict_sentence: str = ""
    sentence: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data, with a note on what previewed scores are."""
        return {**_plain(asdict(self)), "note": sentence.NOTE}


def alpha_of(row: NDArray[np.float64]) -> Alpha:
    """A weighting [T] as plain numbers."""
    return tuple(float(weight) for weight in row)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
