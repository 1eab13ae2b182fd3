"""A recommendation in words: what to do, what it gains, how far one may move, and what to beware of."""

import math
from typing import TYPE_CHECKING

import numpy as np

from previa.study import simplex, verdict

if TYPE_CHECKING:
    from previa.study.bootstrap import Gain
    from previa.study.preference import Preference
    from previa.study.recommendation import Recommendation

NOTE = "Previewed scores are biased low: they rank weightings and are no predictions of scores."
NO_GAIN = "no detectable gain over uniform"
NAMED = 2  # so many methods that disagree are quoted


def words(r: "Recommendation") -> str:
    """The recommendation in a few sentences; "no detectable gain over uniform" is in it exactly when that is so."""
    return " ".join([*_choice(r), *_training(r), *_floors(r), *_region(r), *_others(r)])


def weights(tasks: tuple[str, ...], alpha: tuple[float, ...]) -> str:
    """A weighting as "a = 0.35, b = 0.25, c = 0.40"; three digits where two would hide a finer grid."""
    digits = 2 if np.allclose(np.round(alpha, 2), np.round(alpha, 3), rtol=0, atol=2e-4) else 3
    return ", ".join(f"{task} = {weight:.{digits}f}" for task, weight in zip(tasks, alpha, strict=True))


def measure(preference: "Preference") -> str:
    """What the one number of a weighting is, such as "mean score" or "score of the worst task, relative to the experts"."""
    even = len(set(preference.weights.values()) | {1.0}) == 1
    kind = "score of the worst task" if preference.worst else "mean score" if even else "weighted mean score"
    return kind + (", relative to the experts" if preference.relative_to else "")


def _choice(r: "Recommendation") -> list[str]:
    pick = weights(r.tasks, r.alpha)
    if r.verdict == "no weighting keeps the floors":
        return [r.verdict_sentence, f"The pick is {pick}.", *_gained(r)]
    if r.verdict == "ship the merged model":
        return [f"Use the merged model at {pick} as it is.", *_gained(r)]
    if r.gain is None:
        return [f"Use {pick}. Uniform weights were not previewed, so the gain over them is unknown."]
    how = f"{_amount(r.gain)}, {_source(r)}"
    if r.detectable:
        then = (
            " Other methods doubt it: validate first."
            if r.verdict == "validate first" and r.doubted_by
            else ""
        )
        return [f"Use {pick}.{then} The gain over uniform is {how}."]
    if r.detectable is None:
        only = "how sure that is, only per-item scores could tell"
        return [f"Use {pick}. The gain over uniform is {how}; {only}."]
    if simplex.same(r.alpha, r.uniform.alpha):
        return [f"Use uniform weights, {pick}: the preview itself picks them, there is {NO_GAIN} to be had."]
    loses = (r.gain.interval[1] if r.gain.interval else r.gain.value) < 0
    if r.uniform_misses:
        missed = " and ".join(r.uniform_misses)
        loss = " but a loss" if loses else ""
        return [f"Use {pick}: uniform weights miss the floor of {missed}. There is {NO_GAIN}{loss} ({how})."]
    if loses:
        return [f"Use uniform weights, not the preview's pick {pick}: there is {NO_GAIN} but a loss ({how})."]
    if r.verdict == "validate first":
        return [f"Use {pick} if joint runs confirm it, else uniform weights: there is {NO_GAIN} ({how})."]
    return [f"Use {pick}, or uniform weights just as well: there is {NO_GAIN} ({how})."]


def _gained(r: "Recommendation") -> list[str]:
    """The gain over uniform in a sentence of its own; none where it is not known."""
    if r.gain is None:
        return []
    how = f"{_amount(r.gain)}, {_source(r)}"
    return [f"There is {NO_GAIN} ({how})."] if r.detectable is False else [f"The gain over uniform is {how}."]


def _amount(gain: "Gain") -> str:
    if gain.interval is None:
        return f"{gain.value:+.3g}"
    low, high = gain.interval
    wide = (high - low) / 2
    digits = (
        max(0, 1 - math.floor(math.log10(wide))) if wide > 0 else 3
    )  # two digits of the half width, no more
    return f"{gain.value:+.{digits}f}, 95 % interval {low:+.{digits}f} to {high:+.{digits}f}"


def _source(r: "Recommendation") -> str:
    if r.gain_from == "preview":
        return "between previews, whose levels are biased low and predict no scores"
    if r.gain_at is None or simplex.same(r.gain_at, r.alpha):
        return "in joint runs"
    return f"in joint runs, the nearest to the pick at {weights(r.tasks, r.gain_at)}"


def _training(r: "Recommendation") -> list[str]:
    """Whether joint training gains over the merged model, or which command tells."""
    if r.training_gain is None:
        return [f"Whether joint training gains over the merged model there is unknown: {verdict.TELLS}."]
    at = (
        ""
        if simplex.same(r.training_gain_at or (), r.alpha)
        else f" at {weights(r.tasks, r.training_gain_at or ())}"
    )
    return [f"Joint training{at} gains {_amount(r.training_gain)}, over the merged model."]


def _floors(r: "Recommendation") -> list[str]:
    if not r.floors:
        return []
    if not r.floors_kept:
        if r.true_best is not None:
            return [f"Of the joint runs the best that keeps them is {weights(r.tasks, r.true_best)}."]
        if r.gain_from == "truth":
            return ["No joint run that was made keeps them either."]
        return ["Previewed levels are biased low, so joint training may still keep what the preview misses."]
    text = []
    for f in r.floors:
        true = "" if f.true_margin is None else f", in the joint run with {f.true_margin:+.3g}"
        sure = "" if f.kept is None else f" ({100 * f.kept:.0f} % of resampled test sets keep it)"
        text.append(f"{f.task} keeps its floor of {f.floor:g} with {f.margin:+.3g} to spare{sure}{true}")
    kept = f"{'; '.join(text)}."
    if all(f.true_margin is not None for f in r.floors):
        return [kept]
    side = "Previewed levels are biased low, so a floor kept by the preview is mostly on the safe side"
    bare = [f.task for f in verdict.forgettable(r)]
    forgets = (
        f"; but {' and '.join(bare)} has no weight there, and joint training may forget it" if bare else ""
    )
    return [kept, f"{side}{forgets}."]


def _region(r: "Recommendation") -> list[str]:
    by = {
        "bootstrap": "",
        "range": ", going by 1 % of the range of its scores",
        "surrogate": ", going by what lies between the few that were evaluated",
    }[r.region_rule]
    if r.verdict == "uniform is better":
        text = []  # what the preview takes for as good is known to be worse
    elif len(r.region) == 1:
        text = [f"The preview tells its pick from every other weighting{by}."]
    else:
        uniform = ", uniform among them" if r.uniform.in_region else ""
        centre = "" if r.centre == r.alpha else f"; deepest among those lies {weights(r.tasks, r.centre)}"
        share = f"{100 * r.region_fraction:.3g} % of the weightings"
        text = [f"The preview does not tell its pick from {share}{by}{uniform}{centre}."]
        if r.reach > 0:
            text.append(
                f"Any weighting whose weights differ from the pick's by at most {r.reach:.2g} is as good."
            )
    text += _edge(r)
    if r.noise:
        text.append(f"Differences up to {r.noise:.2g} are no more than noise of the test items.")
    return text


def _edge(r: "Recommendation") -> list[str]:
    """How far the pick is from where a task has no weight; where it has none, what a preview does not show of that."""
    bare = tuple(task for task, weight in zip(r.tasks, r.alpha, strict=True) if weight == 0)
    if not bare:
        return [f"The simplex's edge, where a task has no weight, is {r.to_edge:.2g} away."]
    if r.true_score is not None:
        return []
    has, it = ("has", "it") if len(bare) == 1 else ("have", "them")
    return [
        f"{verdict.listed(bare)} {has} no weight there: a joint run may forget what the merged model keeps of {it}."
    ]


def _others(r: "Recommendation") -> list[str]:
    if not r.others:
        return []
    against = {name: other for name, other in r.others.items() if not other.agrees}
    if not against:
        return ["The other methods agree." if len(r.others) > 1 else "The other method agrees."]
    quoted = [f"{name} picks {weights(r.tasks, against[name].pick)}" for name in list(against)[:NAMED]]
    more = [f"{len(against) - NAMED} more"] if len(against) > NAMED else []
    text = [f"Methods disagree ({len(against)} of {len(r.others)} others): {'; '.join(quoted + more)}."]
    if r.doubted_by and r.spread is not None:
        who = verdict.listed(r.doubted_by)
        text.append(
            f"Beware: {who} put{'s' * (len(r.doubted_by) == 1)} the pick in the worse half; its ranks lie "
            f"{100 * r.spread:.0f} % of the weightings apart."
        )
    return text
