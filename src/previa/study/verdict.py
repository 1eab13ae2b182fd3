"""What to do, as one of six verdicts: each is said only where what was measured bears it."""

from typing import TYPE_CHECKING, Literal

from previa.study import simplex

if TYPE_CHECKING:
    from previa.study.bootstrap import Gain
    from previa.study.floors import Floor
    from previa.study.recommendation import Recommendation

Verdict = Literal[
    "train at the pick",
    "uniform is as good",
    "uniform is better",
    "ship the merged model",
    "validate first",
    "no weighting keeps the floors",
]

SURE = 0.95  # of resampled test sets should keep a floor
TELLS = "`previa validate` tells"


def verdict_of(r: "Recommendation") -> tuple[Verdict, str]:
    """The verdict on a recommendation whose numbers are known, and why, in one sentence; the first that holds of

    no weighting keeps the floors: so it is in the preview. ship: `not_gained`. validate first: the pick's floors rest on noise,
    or half of the other methods put it in their worse half and no joint run speaks for it. train: uniform weights miss a
    floor that the pick keeps, or the gain over them is detectable. uniform: it is not, in joint runs; or it is not, and
    is at most the noise, so that joint runs scored on the same items would not show it either; better: joint runs show a loss. validate first: all else.
    """
    if not r.floors_kept:
        return "no weighting keeps the floors", f"No weighting keeps {_floors(r)}: {_missed(r)}."
    if not_gained(r):
        return (
            "ship the merged model",
            "Ship the merged model as it is: joint training is not expected to gain.",
        )
    if problem := _floor_problem(r):
        return "validate first", f"Not enough evidence, validate first: {problem}."
    if r.gain is None:
        return "validate first", (
            "Not enough evidence, validate first: uniform weights were not previewed, so nothing is known of the gain over them."
        )
    if r.uniform_misses and not simplex.same(r.alpha, r.uniform.alpha):
        return "train at the pick", "Train at the pick: it keeps the floors, uniform weights do not."
    if r.detectable:
        if doubted(r):
            return "validate first", (
                f"Not enough evidence, validate first: {listed(r.doubted_by)} put the pick in the worse half of the weightings."
            )
        if r.gain_from == "preview":
            return "train at the pick", (
                "Train at the pick: its previewed gain over uniform weights is more than noise; joint runs often gain less."
            )
        return "train at the pick", "Train at the pick: its gain over uniform weights is more than noise."
    if r.gain_from == "truth":
        if r.gain.interval is None and r.gain.value > (r.noise or 0.0):
            return (
                "train at the pick",
                "Train at the pick: the joint run there scores higher than that at uniform weights.",
            )
        if r.gain.interval is not None and r.gain.interval[1] < 0:
            return (
                "uniform is better",
                "Uniform is better: in joint runs it scores higher than the pick, by more than noise.",
            )
        return "uniform is as good", "Uniform is as good: the joint runs show no gain over it."
    if simplex.same(r.alpha, r.uniform.alpha):
        return "uniform is as good", "Uniform is as good: the preview itself picks it."
    if r.gain.interval is None:
        if r.detectable is False:
            return "uniform is as good", "Uniform is as good: the preview does not tell it from the pick."
        return "validate first", (
            "Not enough evidence, validate first: without scores of single items nothing says how sure the gain is."
        )
    if r.gain.value <= (r.noise or 0.0):
        return (
            "uniform is as good",
            "Uniform is as good: what the pick gains over it is no more than noise.",
        )
    return "validate first", (
        f"Not enough evidence, validate first: the gain over uniform weights may be {r.gain.interval[1]:+.2g}, or none."
    )


def doubted(r: "Recommendation") -> bool:
    """Whether no joint run speaks for the pick, and at least half of the other methods put it in their worse half."""
    return r.gain_from == "preview" and bool(r.doubted_by) and 2 * len(r.doubted_by) >= len(r.others)


def not_gained(r: "Recommendation") -> bool:
    """Whether joint training is not expected to gain over the merged model: measured, g = truth - merged, 95 % low..high.

    g <= 0, or low <= 0 and high <= noise; and uniform weights, trained, are not detectably above the merged model. So a true
    gain of two standard errors that is above the noise is called none in 5 % of test sets at most. Without a joint run at the
    pick or beside it, and one at uniform weights, nothing is known, and this is False; so it is where the merged model keeps a floor by noise alone.
    """
    g, rival = r.training_gain, r.uniform_training_gain
    uniform = simplex.same(r.alpha, r.uniform.alpha)
    if g is None or (rival is None and not uniform) or (rival is not None and _above(rival)):
        return False
    if any(f.kept is not None and f.kept < SURE for f in r.floors):
        return False
    if g.interval is None:
        return g.value <= 0
    low, high = g.interval
    return g.value <= 0 or (low <= 0 and high <= (r.noise or 0.0))


def _above(gain: "Gain") -> bool:
    return gain.interval[0] > 0 if gain.interval else gain.value > 0


def _floor_problem(r: "Recommendation") -> str | None:
    """Why the floors at the pick cannot be relied on; None where they can, or there are none."""
    for f in r.floors:
        if f.true_margin is not None and f.true_margin < 0:
            return f"the joint run there misses the floor of {f.task} by {-f.true_margin:.2g}"
    for f in r.floors:
        if f.true_margin is None and f.kept is not None and f.kept < SURE:
            return f"other test items could turn round that {f.task} keeps its floor"
    if bare := forgettable(r):
        return f"{bare[0].task} has no weight at the pick, and joint training may forget what the merged model keeps of it"
    return None


def forgettable(r: "Recommendation") -> list["Floor"]:
    """The floors of tasks without weight at the pick, where no joint run was seen: of those previews are no lower bound.

    In joint runs of the digits a task without weight scored lower than its preview in 55 % of cases, one with up to 0.45 of
    the weight in 3 %.
    """
    weight = dict(zip(r.tasks, r.alpha, strict=True))
    return [f for f in r.floors if f.true_margin is None and weight[f.task] == 0]


def _floors(r: "Recommendation") -> str:
    named = [f"{f.task} >= {f.floor:g}" for f in r.floors]
    return named[0] if len(named) == 1 else f"all of {', '.join(named)}"


def _missed(r: "Recommendation") -> str:
    missed = [f"{f.task} by {-f.margin:.2g}" for f in r.floors if f.margin < 0]
    return f"nearest to it comes the pick, which misses {' and '.join(missed)}"


def listed(names: tuple[str, ...]) -> str:
    """Names in words, the first two of more."""
    most = 2
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (" and " if len(names) == most else ", ").join(names[:most]) + more
