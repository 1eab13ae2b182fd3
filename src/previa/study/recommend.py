"""Which weights to use: the preview's pick, how many others are as good, and whether uniform weights would do as well."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import InputError
from previa.study import bootstrap, quality, sentence, simplex
from previa.study.bootstrap import Gain, Scored
from previa.study.preview import Preview, metric_weights

Alpha = tuple[float, ...]
Array = NDArray[np.float64]

NEAR = 0.05  # a joint run speaks for a pick if no weight differs by more: half a step of a grid of ten
RANGE = 0.01  # near-best without per-item scores: within this share of the range of the previewed scores


@dataclass(frozen=True)
class Point:
    """A weighting to hold the pick against: its previewed and its true score, under the metric weights and per task.

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
class Recommendation:
    """The pick alpha with its scores, what surrounds it, what it should be held against, and a paragraph for a person.

    score and those of the points are previewed, biased low: they rank weightings and predict nothing.
    region: the weightings not told from the pick, by region_rule "bootstrap" (over test items) or "range" (within 1 %);
    region_fraction: their share of all previewed ones; centre: the one deepest inside. gain: over uniform, by gain_from
    "truth", trained at gain_at (the pick or a weighting beside it), or by "preview", which is what choosing on resampled items
    gains on the items left out (`bootstrap.gain_of_choosing`); detectable: its interval is above 0 (None: unknown).
    """

    tasks: tuple[str, ...]
    alpha: Alpha
    score: float
    per_task: Mapping[str, float]
    true_score: float | None
    true_per_task: Mapping[str, float] | None
    region: tuple[Alpha, ...]
    region_rule: str
    region_fraction: float
    centre: Alpha
    centre_scores: Point
    uniform: Point
    size_proportional: Point
    gain: Gain | None
    gain_from: str | None
    gain_at: Alpha | None
    detectable: bool | None
    others: Mapping[str, Agreement]
    sentence: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data, with a note on what previewed scores are."""
        return {**_plain(asdict(self)), "note": sentence.NOTE}


def recommend(
    preview: Preview,
    *,
    uniform: ArrayLike,
    size_proportional: ArrayLike,
    truth: Preview | None = None,
    others: Mapping[str, Preview] | None = None,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Recommendation:
    """The weighting with the best previewed mean score, and all that should be said beside it.

    weights: how much each task counts in the mean. Near-best is what a paired bootstrap over test items does not tell from
    the pick (95 %); without per-item scores, what is within 1 % of the range. The centre is the near-best weighting farthest
    from the simplex's edge and from what is not near-best. Raises InputError for one task, or when nothing was scored.
    """
    tasks = preview.tasks
    if len(tasks) < 2:
        raise InputError(f"a recommendation weighs at least two tasks. Found only {tasks[0]!r}.")
    w = metric_weights(tasks, weights)
    u, p = (simplex.check_alphas(a, len(tasks), where="reference") for a in (uniform, size_proportional))
    seen = _View.of(preview, tasks, w, seed, "the preview")
    true = None if truth is None or not truth.ok.any() else _View.of(truth, tasks, w, seed, "the truth")
    views = {name: _View.of(other, tasks, w, seed, name) for name, other in (others or {}).items()}
    inside = seen.near_best()
    centre = seen.alphas[_deepest(seen.alphas, inside)]
    chosen = _point(seen.alphas[seen.pick], seen, true, u, inside)
    found = Recommendation(
        tasks=tasks,
        alpha=chosen.alpha,
        score=float(seen.scored.score[seen.pick]),
        per_task=chosen.per_task or {},
        true_score=chosen.true_score,
        true_per_task=chosen.true_per_task,
        region=tuple(_alpha(alpha) for alpha in seen.alphas[inside]),
        region_rule="range" if seen.scored.draws is None else "bootstrap",
        region_fraction=float(inside.mean()),
        centre=_alpha(centre),
        centre_scores=_point(centre, seen, true, u, inside),
        uniform=_point(u, seen, true, u, inside),
        size_proportional=_point(p, seen, true, u, inside),
        **_gain(seen, true, u, inside, w, seed),
        others={name: _agreement(seen, inside, view) for name, view in views.items()},
    )
    return replace(found, sentence=sentence.words(found))


@dataclass(frozen=True, eq=False)
class _View:
    """The weightings of a preview that were scored, each with one number."""

    preview: Preview
    scored: Scored
    pick: int

    @classmethod
    def of(cls, preview: Preview, tasks: tuple[str, ...], w: Array, seed: int, name: str) -> "_View":
        """What was scored; name is for errors. Raises InputError for other tasks, or when nothing was."""
        if preview.tasks != tasks:
            raise InputError(f"{name}: its tasks should be {list(tasks)}. Found {list(preview.tasks)}.")
        good = preview.rows(preview.ok)
        if not len(good):
            raise InputError(f"{name}: none of its {len(preview)} weightings was scored.")
        scored = bootstrap.scored(good, bootstrap.resampled(good, seed=seed), w)
        return cls(good, scored, int(quality.ranking(scored.score, scored.alphas)[0]))

    @property
    def alphas(self) -> Array:
        return self.scored.alphas

    def near_best(self) -> NDArray[np.bool_]:
        """The weightings that cannot be told from the pick: [A]."""
        s, draws = self.scored.score, self.scored.draws
        if draws is None:
            return np.asarray(s >= s[self.pick] - RANGE * np.ptp(s) - self.scored.slack)
        low = np.quantile(draws[:, [self.pick]] - draws, (1 - bootstrap.LEVEL) / 2, axis=0)
        return np.asarray(low <= self.scored.slack)

    def per_task(self, a: int) -> dict[str, float]:
        return {task: float(s) for task, s in zip(self.preview.tasks, self.preview.scores[a], strict=True)}


def _point(alpha: Array, seen: _View, true: _View | None, uniform: Array, inside: NDArray[np.bool_]) -> Point:
    a = simplex.find(seen.alphas, alpha)
    point = Point(
        alpha=_alpha(alpha),
        score=None if a is None else float(seen.scored.score[a]),
        per_task=None if a is None else seen.per_task(a),
        in_region=a is not None and bool(inside[a]),
    )
    if true is None or (b := simplex.find(true.alphas, alpha)) is None:
        return point
    u = simplex.find(true.alphas, uniform)
    gain = None if u is None else true.scored.gain(b, u)
    score = float(true.scored.score[b])
    return replace(point, true_score=score, true_per_task=true.per_task(b), true_gain_over_uniform=gain)


def _gain(
    seen: _View, true: _View | None, uniform: Array, inside: NDArray[np.bool_], w: Array, seed: int
) -> dict[str, Any]:
    """The pick's gain over uniform by the truth, at the trained weighting nearest to it, else between previews.

    The truth's items had no part in choosing the pick, the preview's had: there the choice is made anew in each draw.
    """
    pick, at = seen.alphas[seen.pick], simplex.find(seen.alphas, uniform)
    if true is not None and (u := simplex.find(true.alphas, uniform)) is not None:
        near = simplex.nearest(true.alphas, pick)
        close = np.abs(true.alphas[near] - pick).max() <= NEAR + 10.0**-simplex.DIGITS
        if close and (near != u or seen.pick == at):
            gain = true.scored.gain(near, u)
            above = (
                gain.interval[0] > true.scored.slack if gain.interval else (None if gain.value > 0 else False)
            )
            return {
                "gain": gain,
                "gain_from": "truth",
                "gain_at": _alpha(true.alphas[near]),
                "detectable": above,
            }
    if at is None:
        return {"gain": None, "gain_from": None, "gain_at": None, "detectable": None}
    gain = seen.scored.gain(seen.pick, at)
    if seen.pick != at:  # uniform over uniform is 0
        unseen = bootstrap.left_out(seen.preview, w, seed=seed)
        gain = bootstrap.gain_of_choosing(seen.scored, unseen, at) or Gain(gain.value)
    above = gain.interval[0] > seen.scored.slack if gain.interval else (False if inside[at] else None)
    return {"gain": gain, "gain_from": "preview", "gain_at": None, "detectable": above}


def _agreement(seen: _View, inside: NDArray[np.bool_], other: _View) -> Agreement:
    """On grids that differ, a pick is in a region if the weighting nearest to it is."""
    here = bool(inside[simplex.nearest(seen.alphas, other.alphas[other.pick])])
    there = bool(other.near_best()[simplex.nearest(other.alphas, seen.alphas[seen.pick])])
    return Agreement(_alpha(other.alphas[other.pick]), here, there, here and there)


def _deepest(alphas: Array, inside: NDArray[np.bool_]) -> int:
    """The row deepest in the region; of several the nearest to the region's mean, then to uniform."""
    edge, out = simplex.depth(alphas, inside)
    middle = np.linalg.norm(alphas - alphas[inside].mean(axis=0), axis=1)
    safety = np.empty(len(alphas))
    safety[simplex.by_safety(alphas)] = np.arange(len(alphas))
    depth = np.minimum(edge, out)
    keys = (safety, *(np.round(k, simplex.DIGITS) for k in (middle, -out, -depth)), ~inside)
    return int(np.lexsort(keys)[0])


def _alpha(alpha: Array) -> Alpha:
    return tuple(float(weight) for weight in alpha)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
