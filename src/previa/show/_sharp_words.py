"""The sentences that say how a preview was sharpened, for a stranger: which power, which anchors, how sure, against which rival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from previa.show._look import label
from previa.show._methods import parted
from previa.study.compare import Comparison, Quality

AS_GOOD = 0.005  # of Spearman: less than that between two methods is no difference


def of_power(method: str, found: Mapping[str, Any]) -> str:
    """Which power and family, by how much less joint loss and from what it was chosen; or that the study file sets the power."""
    chosen, losses = found.get("chosen") or {}, found.get("losses") or {}
    family, p = str(chosen.get("method")), float(chosen.get("p", 1))
    own = {float(q): loss for q, loss in (losses.get(family) or {}).items() if loss is not None}
    families = counted(len(losses), "family", "families")
    words = f"{label(method)}: weights to the power p = {p:g}"
    if by_hand(found):
        least = f", the one of {families} with the least joint loss" if len(losses) > 1 else ""
        return f"{words}, as the study file sets it, on {label(family)}{least}."
    words += f" on {label(family)}"
    if not own:
        return f"{words}."
    tried = f"{families} and {counted(len(own), 'power')}"
    if p == 1:
        said = f"{words}: of {tried} none below 1 has less joint loss, so weights are merged as they are."
    elif p in own and 1.0 in own:
        said = (
            f"{words}. Of {tried} it has the least joint loss: {own[p]:.3g}, where p = 1 has {own[1.0]:.3g}."
        )
    else:
        said = f"{words}, the least joint loss of {tried}."
    if p != 1 and p == min(map(float, losses[family])):
        said += " It is the smallest power that was tried: a still smaller one may be better."
    return said


def by_hand(found: Mapping[str, Any]) -> bool:
    """Whether the study file sets the power: then a single one is in the table of joint losses, whatever the family."""
    return len({float(p) for own in (found.get("losses") or {}).values() for p in own}) == 1


def of_loss(powers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the joint loss is, on what it was measured, and what it has seen beside the tasks' own runs."""
    if not powers:
        return []
    bases: dict[str, list[str]] = {}
    for method, found in powers.items():
        n, alphas = found.get("examples"), found.get("alphas") or []
        basis = f" on {counted(n, 'training example')}" if isinstance(n, int) else ""
        at = f" at {counted(len(alphas), 'weighting')}" if alphas else ""
        bases.setdefault(basis + at, []).append(label(method))
    if len(bases) == 1:
        measured = next(iter(bases))
    else:
        measured = ",".join(f"{basis} ({', '.join(names)})" for basis, names in bases.items() if basis)
    return [
        f"The joint loss is what joint training minimises, the weighted sum of the tasks' training losses, here of merged models"
        f"{measured}.{_unseen(powers)}"
    ]


def _unseen(powers: Mapping[str, Mapping[str, Any]]) -> str:
    """What was not used to choose; nothing where the study file leaves no choice."""
    if all(by_hand(found) and len(found["losses"]) == 1 for found in powers.values()):
        return ""
    n = sum(parted(method)[1] == "anchored" for method in powers)
    if not n:
        return " No joint run and no test item was used for the choice."
    rest = ", for the others none" if n < len(powers) else ""
    return f" No test item was used for the choice; for the anchored preview{'s' * (n > 1)} no joint run but the anchors{rest}."


def of_anchors(anchors: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many joint runs the preview goes through, where they began, and what they cost; nothing without any."""
    if not anchors:
        return []
    n, spent = len(anchors), [float(a["share"]) for a in anchors if a.get("share") is not None]
    total = f"{sum(spent):.2g}"
    full = "full joint run" if total == "1" else "of full joint runs"
    cost = f" Cost: {total} {full}." if len(spent) == n else ""
    one, warm = n == 1, sum(anchor.get("from") == "preview" for anchor in anchors)
    began = {0: "", n: f" {'It' if one else 'All'} began at the preview."}.get(
        warm, f" {warm} of them began at the preview."
    )
    return [
        f"{'One joint run is an anchor' if one else f'{n} joint runs are anchors'}, {'a diamond' if one else 'diamonds'} in the "
        f"maps: there the anchored preview is the run itself, and around it what merging missed is faded out.{began}{cost}"
    ]


def of_rivals(
    anchored: Sequence[str],
    rivals: Sequence[str],
    comparison: Comparison | None,
    anchors: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Whether interpolating the scores of the same runs, without any merging, does as well."""
    if not anchored or not rivals:
        return []
    method, words = anchored[-1], " or ".join(label(m).lower() for m in rivals)
    judged = comparison.methods if comparison else {}
    seen = [judged[m] for m in rivals if m in judged]
    if method not in judged or not seen:
        same = counted(len(anchors), "anchor") if anchors else "anchors"
        return [
            f"The same {same} and task runs also give a map without any merging ({words}). Which is better "
            "cannot be told here for sure: nothing else was trained jointly. Look at both."
        ]
    ours, best = judged[method], max(seen, key=lambda q: (_rank(q), -q.regret_at_1))
    said = (
        f"regret {best.regret_at_1:.3f} and Spearman {_shown(best)}, against {ours.regret_at_1:.3f} and {_shown(ours)} of the "
        "anchored preview"
    )
    noise = ours.regret_noise or 0.0
    ranks = _rank(best) - _rank(ours)
    regrets = max(best.regret_at_1, noise) - max(ours.regret_at_1, noise)  # below the floor all are one
    name = next(label(m) for m in rivals if judged.get(m) is best)
    if ranks >= -AS_GOOD and regrets <= 0:
        return [
            f"{name} of the same runs, without any merging, does as well or better for ranking and picking: {said}. For that the "
            f"parameters of the merged models add nothing to the scores of the runs in this study.{_but(ours.mse, best.mse, 'the anchored preview')}"
        ]
    if ranks < -AS_GOOD and regrets >= 0:
        return [
            f"{name} of the same runs, without any merging, does less well for ranking and picking: {said}."
            f"{_but(best.mse, ours.mse, name.lower())}"
        ]
    return [f"{name} of the same runs, without any merging, is better in one and worse in the other: {said}."]


def _but(less: float, more: float, of: str) -> str:
    """What the mean squared error says where it disagrees: it is less for what ranks and picks no better."""
    if not less < more or f"{less:.2g}" == f"{more:.2g}":
        return ""
    return f" The mean squared error disagrees: {less:.2g} of {of}, {more:.2g} of the other."


def of_centre(centre: Mapping[str, Any] | None) -> list[str]:
    """How far the look was trusted, why, and what it took."""
    if not centre:
        return []
    looks = centre.get("looks")
    took = f" It took {looks} look{'s' * (looks != 1)} at all training data" if isinstance(looks, int) else ""
    passes = centre.get("passes")
    cost = (
        f", in all {counted(round(float(passes)), 'training pass', 'training passes')} with the losses measured"
        if took and passes is not None
        else ""
    )
    return [f"{label('centre')}: {str(centre.get('reason', '')).rstrip('.')}.{took}{cost}{'.' * bool(took)}"]


def of_left_out(errors: Mapping[str, float | None] | None, unit: str) -> list[str]:
    """How far the other runs' previews of an anchor are off, by their parameters and, where that is known, by their scores alone."""
    if not errors or not isinstance(ours := errors.get("anchored"), int | float):
        return []
    alone, both = "", "it"
    if isinstance(theirs := errors.get("scores"), int | float):
        alone, both = f" and to {_wide(float(theirs), unit)} by their scores alone", "both"
    return [
        f"Each anchor left out in turn, the other runs preview its mean score to {_wide(float(ours), unit)} by their parameters"
        f"{alone} (root mean square). A design whose anchors are far apart makes {both} look worse than "
        f"{'they are' if alone else 'it is'} with all anchors."
    ]


def _wide(half: float, unit: str) -> str:
    return f"{100 * half:.2g} points" if unit == "accuracy" else f"{half:.2g}"


def of_band(
    band: Mapping[str, Any] | None, anchors: Sequence[Mapping[str, Any]], unit: str, *, alike: bool = True
) -> list[str]:
    """alike: whether the mean score is by the metric weights that the band was made with."""
    if not band:
        return []
    if not alike:
        return [
            "No error band is shown: the band is for the study's metric weights, and other ones were asked for."
        ]
    level, half = float(band.get("level", 0.9)), float(band["half_width"])
    said = (
        f"{label(str(band['method']))}: a mean score is previewed to within ± {_wide(half, unit)} ({100 * level:.0f} %; the median "
        f"over weightings, from leave-one-anchor-out of {len(anchors)} {'anchor' if len(anchors) == 1 else 'anchors'} and the test "
        "items; less near an anchor, more far from all)."
    )
    if isinstance(offset := band.get("offset"), int | float):
        said += f" Left-out anchors were previewed {_wide(abs(offset), unit)} too {'low' if offset < 0 else 'high'} on average."
    if band.get("coverage") is not None:
        held = f"{100 * float(band['coverage']):.0f} %"
        said += f" Of the joint runs at other weightings a band of this width held {held}."
    if 0 < len(anchors) < 4:
        said += " So few anchors say little about their own error: take the band for a guess."
    return [said]


def counted(n: int, one: str, many: str | None = None) -> str:
    """As "1 power", "7 powers"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _rank(q: Quality) -> float:
    return -1.0 if q.spearman is None else q.spearman


def _shown(q: Quality) -> str:
    return "-" if q.spearman is None else f"{q.spearman:.3f}"
