"""Which weights to use: the preview's pick, how many others are as good, and whether uniform weights would do as well."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import InputError
from previa.study import region, sentence, simplex, verdict
from previa.study._view import View
from previa.study.bootstrap import Choice, Gain, gain_between
from previa.study.compare import preference_of
from previa.study.disagreement import FEWEST, WORSE, disagreement
from previa.study.floors import floors_at
from previa.study.knee import knee_of
from previa.study.preference import Preference
from previa.study.preview import Preview
from previa.study.recommendation import Against, Agreement, Point, Recommendation, alpha_of

__all__ = ["NEAR", "Against", "Agreement", "Point", "Recommendation", "recommend"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

NEAR = 0.05  # a joint run speaks for a pick if no weight differs by more: half a step of a grid of ten
NO_MODEL = ("scores", "scores_gp")  # previews that interpolate scores: no model was merged


def recommend(
    preview: Preview,
    *,
    uniform: ArrayLike,
    size_proportional: ArrayLike,
    truth: Preview | None = None,
    others: Mapping[str, Preview] | None = None,
    weights: Mapping[str, float] | None = None,
    preference: Preference | None = None,
    surrogate: Preview | None = None,
    seed: int = 0,
) -> Recommendation:
    """The weighting with the best previewed score, and all that should be said beside it.

    preference: what counts as good, among weightings that keep its floors (none does: that of least shortfall); weights: its
    metric weights alone. Near-best is what a paired bootstrap over test items does not tell from
    the pick (95 %); without per-item scores, what is within 1 % of the range. The centre is the near-best weighting farthest
    from the simplex's edge and from what is not near-best.
    surrogate: of a preview of few, searched weightings, its interpolation on a dense grid (`surrogate.interpolated`): then the
    region and its centre are those of the grid; the pick stays a weighting that was scored.
    Raises InputError for one task, when nothing was scored, for weights beside a preference, or as `Preference.check` does.
    """
    tasks = preview.tasks
    if len(tasks) < 2:
        raise InputError(f"a recommendation weighs at least two tasks. Found only {tasks[0]!r}.")
    wish = preference_of(weights, preference)
    wish.check(tasks)
    u, p = (simplex.check_alphas(a, len(tasks), where="reference") for a in (uniform, size_proportional))
    seen = View.of(preview, tasks, wish, seed, "the preview")
    true = None if truth is None or not truth.ok.any() else View.of(truth, tasks, wish, seed, "the truth")
    views = {name: View.of(other, tasks, wish, seed, name) for name, other in (others or {}).items()}
    near, choice = seen.region(surrogate), seen.choice(seed)
    chosen = _point(seen.alphas[seen.pick], seen, true, u, near)
    beside = None if true is None else _beside(true, seen.alphas[seen.pick])
    middle = near.centre()
    bend = knee_of(seen.preview.rows(seen.allowed))
    found = Recommendation(
        tasks=tasks,
        alpha=chosen.alpha,
        score=float(seen.scored.score[seen.pick]),
        measure=sentence.measure(wish),
        per_task=chosen.per_task or {},
        true_score=chosen.true_score,
        true_per_task=chosen.true_per_task,
        region=tuple(alpha_of(alpha) for alpha in near.alphas[near.inside]),
        region_rule=near.rule,
        region_fraction=near.area,
        to_edge=region.to_edge(chosen.alpha),
        reach=near.reach(chosen.alpha),
        centre=alpha_of(middle),
        centre_scores=_point(middle, seen, true, u, near),
        uniform=_point(u, seen, true, u, near),
        size_proportional=_point(p, seen, true, u, near),
        **vars(_gain(seen, true, u, near, choice)),
        over_size_proportional=_gain(seen, true, p, near, choice),
        noise=region.noise(seen.scored, seen.pick, seen.allowed),
        floors=floors_at(
            seen.preview, seen.draws, wish, seen.pick,
            None if true is None or beside is None else true.preview.scores[beside],
        ),
        floors_kept=seen.keeps,
        true_best=None if true is None or not true.keeps else alpha_of(true.alphas[true.pick]),
        uniform_misses=_misses(seen, true, u),
        knee=None if bend is None else _point(seen.alphas[seen.allowed][bend], seen, true, u, near),
        **_training(seen, true, u, choice),
        others={name: _agreement(seen, near, view) for name, view in views.items()},
        **_doubts(seen, views, wish),
    )  # fmt: skip
    what, why = verdict.verdict_of(found)
    found = replace(found, verdict=what, verdict_sentence=why)
    return replace(found, sentence=sentence.words(found))


def _point(alpha: Array, seen: View, true: View | None, uniform: Array, near: region.Region) -> Point:
    a = simplex.find(seen.alphas, alpha)
    point = Point(
        alpha=alpha_of(alpha),
        score=None if a is None else float(seen.scored.score[a]),
        per_task=None if a is None else seen.per_task(a),
        in_region=near.holds(alpha, nearest=near.rule == "surrogate"),
    )
    if true is None or (b := simplex.find(true.alphas, alpha)) is None:
        return point
    u = simplex.find(true.alphas, uniform)
    gain = None if u is None else true.scored.gain(b, u)
    score = float(true.scored.score[b])
    return replace(point, true_score=score, true_per_task=true.per_task(b), true_gain_over_uniform=gain)


def _beside(true: View, pick: Array, rows: Mask | None = None) -> int | None:
    """The joint run (of these rows) nearest to the pick, if it is near enough to speak for it."""
    among = np.flatnonzero(np.ones(len(true.alphas), bool) if rows is None else rows)
    if not len(among):
        return None
    at = int(among[simplex.nearest(true.alphas[among], pick)])
    return at if np.abs(true.alphas[at] - pick).max() <= NEAR + 10.0**-simplex.DIGITS else None


def _gain(seen: View, true: View | None, over: Array, near: region.Region, choice: Choice | None) -> Against:
    """The pick's gain over another weighting by the truth, at the trained weighting nearest to it, else between previews.

    The truth's items had no part in choosing the pick, the preview's had: there the choice is made anew in each draw.
    """
    pick, at = seen.alphas[seen.pick], simplex.find(seen.alphas, over)
    if true is not None and (u := simplex.find(true.alphas, over)) is not None:
        close = _beside(true, pick)
        if close is not None and (close != u or seen.pick == at):
            gain = true.scored.gain(close, u)
            unsure = None if gain.value > 0 else False
            above = gain.interval[0] > true.scored.slack if gain.interval else unsure
            return Against(gain, "truth", alpha_of(true.alphas[close]), above)
    if at is None:
        return Against(None, None, None, None)
    gain = seen.scored.gain(seen.pick, at)
    if seen.pick != at:  # over itself it is 0
        gain = (choice and choice.gain(at)) or Gain(gain.value)
    unsure = False if near.holds(over, nearest=near.rule == "surrogate") else None
    above = gain.interval[0] > seen.scored.slack if gain.interval else unsure
    return Against(gain, "preview", None, above)


def _training(seen: View, true: View | None, uniform: Array, choice: Choice | None) -> dict[str, Any]:
    """What joint training gains over the merged model, paired by test items, at the weighting nearest to the pick with both.

    The pick was chosen for its high score on these items, which is taken off again (`gain_between`).
    Where a preview *is* the joint run, as at corners and anchors, the difference is 0 and speaks for no other weighting.
    """
    unknown = {"training_gain": None, "training_gain_at": None, "uniform_training_gain": None}
    made = seen.preview.provenance
    if true is None or made.get("method") in NO_MODEL or "corrected" in made:
        return unknown
    pick = seen.alphas[seen.pick]
    row = [simplex.find(seen.alphas, alpha) for alpha in true.alphas]
    corner = (
        pick.max() > 1 - 10.0**-simplex.DIGITS
    )  # there a preview is the task's own run, and nothing was merged
    speaks = [
        a is not None and ((a == seen.pick and not corner) or not np.array_equal(seen.preview.scores[a], s))
        for a, s in zip(row, true.preview.scores, strict=True)
    ]
    b = _beside(true, pick, np.array(speaks))
    a = None if b is None else row[b]
    if a is None or b is None:
        return unknown
    u = simplex.find(true.alphas, uniform)
    return {
        "training_gain": _over_merged(true, b, seen, a, choice),
        "training_gain_at": alpha_of(true.alphas[b]),
        "uniform_training_gain": None if u is None else _over_merged(true, u, seen, a, choice),
    }


def _over_merged(true: View, b: int, seen: View, a: int, choice: Choice | None) -> Gain:
    """Joint run b over merged model a, on the same resampled items where both were scored on as many."""
    one, other = true.scored, seen.scored
    return gain_between(
        (float(one.score[b]), None if one.draws is None else one.draws[:, b]),
        (float(other.score[a]), None if other.draws is None else other.draws[:, a]),
        choice,
        seen.pick,
    )


def _misses(seen: View, true: View | None, uniform: Array) -> tuple[str, ...]:
    """The tasks whose floors uniform weights miss by more than noise: of the joint run there, else previewed."""
    for view in (true, seen):
        if view is not None and (u := simplex.find(view.alphas, uniform)) is not None:
            return tuple(
                f.task
                for f in floors_at(view.preview, view.draws, view.preference, u)
                if f.margin < 0 and (f.kept is None or f.kept <= 1 - verdict.SURE)
            )
    return ()


def _doubts(seen: View, views: Mapping[str, View], wish: Preference) -> dict[str, Any]:
    """Who puts the pick in the worse half of the weightings, of those methods that scored it."""
    pick = seen.alphas[seen.pick]
    there = {
        name: view.preview
        for name, view in views.items()
        if simplex.find(view.alphas, pick) is not None
        and len({simplex.key(a) for a in view.alphas} & {simplex.key(a) for a in seen.alphas}) >= FEWEST
    }
    try:
        found = disagreement({"": seen.preview, **there}, wish)
    except InputError:  # no other method, or too few weightings that all of them scored
        return {"doubted_by": (), "spread": None, "contested": None}
    at = found.at(pick) or {}
    return {
        "doubted_by": tuple(name for name, share in at.items() if share < WORSE and name),
        "spread": max(at.values()) - min(at.values()),
        "contested": found.contested,
    }


def _agreement(seen: View, near: region.Region, other: View) -> Agreement:
    """On grids that differ, a pick is in a region if the weighting nearest to it is."""
    theirs = other.alphas[other.pick]
    here = near.holds(theirs, nearest=True)
    there = other.region().holds(seen.alphas[seen.pick], nearest=True)
    return Agreement(alpha_of(theirs), here, there, here and there)
