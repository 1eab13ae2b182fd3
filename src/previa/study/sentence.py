"""A recommendation in words: what to use, against what, how sure, and who disagrees."""

import math
from typing import TYPE_CHECKING

import numpy as np

from previa.study import simplex

if TYPE_CHECKING:
    from previa.study.bootstrap import Gain
    from previa.study.recommend import Recommendation

NOTE = "Previewed scores are biased low: they rank weightings and are no predictions of scores."
NO_GAIN = "no detectable gain over uniform"
NAMED = 2  # so many methods that disagree are quoted


def words(r: "Recommendation") -> str:
    """The recommendation in a few sentences; "no detectable gain over uniform" is in it exactly when that is so."""
    return " ".join([_choice(r), _region(r), *_others(r)])


def weights(tasks: tuple[str, ...], alpha: tuple[float, ...]) -> str:
    """A weighting as "a = 0.35, b = 0.25, c = 0.40"; three digits where two would hide a finer grid."""
    digits = 2 if np.allclose(np.round(alpha, 2), np.round(alpha, 3), rtol=0, atol=2e-4) else 3
    return ", ".join(f"{task} = {weight:.{digits}f}" for task, weight in zip(tasks, alpha, strict=True))


def _choice(r: "Recommendation") -> str:
    pick = weights(r.tasks, r.alpha)
    if r.gain is None:
        return f"Use {pick}. Uniform weights were not previewed, so the gain over them is unknown."
    how = f"{_amount(r.gain)}, {_source(r)}"
    if r.detectable:
        return f"Use {pick}. The gain over uniform is {how}."
    if r.detectable is None:
        return (
            f"Use {pick}. The gain over uniform is {how}; how sure that is, only per-item scores could tell."
        )
    if simplex.same(r.alpha, r.uniform.alpha):
        return f"Use uniform weights, {pick}: the preview itself picks them, there is {NO_GAIN} to be had."
    if (r.gain.interval[1] if r.gain.interval else r.gain.value) < 0:
        return f"Use uniform weights, not the preview's pick {pick}: there is {NO_GAIN} but a loss ({how})."
    return f"Use {pick}, or uniform weights just as well: there is {NO_GAIN} ({how})."


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


def _region(r: "Recommendation") -> str:
    by = "" if r.region_rule == "bootstrap" else ", going by 1 % of the range of its scores"
    if len(r.region) == 1:
        return f"The preview tells its pick from every other weighting{by}."
    text = f"The preview does not tell its pick from {100 * r.region_fraction:.3g} % of the weightings{by}"
    uniform = ", uniform among them" if r.uniform.in_region else ""
    centre = "" if r.centre == r.alpha else f"; deepest among those lies {weights(r.tasks, r.centre)}"
    return f"{text}{uniform}{centre}."


def _others(r: "Recommendation") -> list[str]:
    against = {name: other for name, other in r.others.items() if not other.agrees}
    if not r.others:
        return []
    if not against:
        return ["The other methods agree." if len(r.others) > 1 else "The other method agrees."]
    quoted = [f"{name} picks {weights(r.tasks, against[name].pick)}" for name in list(against)[:NAMED]]
    more = [f"{len(against) - NAMED} more"] if len(against) > NAMED else []
    return [f"Methods disagree ({len(against)} of {len(r.others)} others): {'; '.join(quoted + more)}."]
