"""What the page is told of a study: methods, designs, fronts, the preference, interpolations, as plain JSON data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from previa.show._intervals import standard_errors, typical_noise
from previa.show._look import SHORT, Landscape, label
from previa.study.pareto import Fronts
from previa.study.preference import Preference
from previa.study.simplex import find

if TYPE_CHECKING:
    from previa.study.preview import Preview

DIGITS = 6  # significant digits of a number on the page; weights have as many decimals
SCORE_DIGITS = 8  # of a score: the page chooses again, and ties must stay ties
CORRECTED = {"corrected": "Corrected by true runs"}


def preference_of(wish: Preference, tasks: Sequence[str]) -> dict[str, Any]:
    """The study's own preference as the page's sliders hold it."""
    return {
        "weights": [float(wish.weights.get(task, 1.0)) for task in tasks],
        "floors": [None if (f := wish.floors.get(task)) is None else float(f) for task in tasks],
        "worst": wish.worst,
        "relative": bool(wish.relative_to),
    }


def experts(wish: Preference, chosen: "Preview") -> list[float | None]:
    """Each task's score of its own expert: the preference's, or that at the corner of the chosen preview; None: not known."""
    if wish.relative_to:
        return [float(wish.relative_to[task]) for task in chosen.tasks]
    rows = [find(chosen.alphas, corner) for corner in np.eye(len(chosen.tasks))]
    return [None if row is None else exact(chosen.scores[row, t]) for t, row in enumerate(rows)]


def interpolation(found: Any) -> dict[str, Any]:
    """A surrogate's scores and deviations on its own grid."""
    return {
        "alphas": plain(np.round(np.asarray(found["alphas"], dtype=np.float64), DIGITS)),
        "scores": plain(np.asarray(found["scores"], dtype=np.float64)),
        "sd": [[rounded(s, 3) for s in row] for row in np.asarray(found["sd"], dtype=np.float64).tolist()],
    }


def disagreed(found: Any) -> dict[str, Any] | None:
    """A disagreement, given as such or as a mapping."""
    if found is None:
        return None
    keys = ("alphas", "spread", "sentence")
    if isinstance(found, Mapping):
        return {key: plain(found.get(key)) for key in keys}
    return {key: plain(getattr(found, key)) for key in keys}


def methods_of(
    lands: Mapping[str, Landscape], previews: Mapping[str, "Preview"], failures: Mapping[str, int]
) -> dict[str, Any]:
    """Every method's scores with their errors, and the designs (lists of weightings) that methods share."""
    designs: list[list[list[float]]] = []
    methods = []
    for method, land in lands.items():
        alphas = np.round(land.alphas, DIGITS).tolist()
        if alphas not in designs:
            designs.append(alphas)
        entry = {
            "key": method,
            "label": CORRECTED.get(method, label(method)),
            "short": SHORT.get(method, CORRECTED.get(method, label(method))),
            "truth": method == "joint",
            "design": designs.index(alphas),
            "scores": [[exact(s) for s in row] for row in land.scores.tolist()],
            "errors": standard_errors(previews[method]),
            "noise": typical_noise(previews[method], land.pick),
            "pick": land.pick,
            "failed": max(int(np.isnan(land.mean).sum()), int(failures.get(method, 0))),
            "seconds": rounded(land.seconds),
        }
        methods.append(entry)
    return {"designs": designs, "methods": methods}


def labels(sharper: Mapping[str, Any]) -> dict[str, str]:
    """The names of families that were compared, of which there may be no preview."""
    families = {
        family for found in (sharper.get("powers") or {}).values() for family in found.get("losses") or {}
    }
    return {family: label(family) for family in sorted(families)}


def front_of(truth: "Preview", fronts: Fronts) -> dict[str, Any]:
    """The weightings judged, those on the previewed front and the good ones as rows of the truth, and the numbers."""
    rows = np.array([truth.index(alpha) for alpha in fronts.alphas])
    numbers = ("near_share", "near_by_chance", "volume_share", "volume_by_chance", "luck", "noise")
    return {
        "rows": rows.tolist(),
        "previewed": rows[fronts.on_previewed].tolist(),
        "good": rows[fronts.on_true if fronts.near is None else fronts.near].tolist(),
        "sentence": fronts.sentence,
        **{name: plain(getattr(fronts, name)) for name in numbers},
    }


def chosen_of(previews: Sequence[str], comparison: Any, recommendation: Any, facts: Mapping[str, Any]) -> str:
    """The preview shown first: the one behind the recommendation, or else that of least regret, or else the last."""
    for name in (facts.get("method"), recommendation.get("method")):
        if name in previews:
            return str(name)
    qualities = (comparison or {}).get("methods") or {}
    regrets = {m: (qualities.get(m) or {}).get("regret_at_1") for m in previews}
    known = {m: regret for m, regret in regrets.items() if regret is not None}
    if known:
        return min(known, key=lambda m: known[m])
    return previews[-1] if previews else "joint"


def plain(value: Any) -> Any:
    """The same as JSON knows it: arrays as lists, NaN and infinity as None, dataclasses and mappings as objects."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return rounded(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def rounded(number: float, digits: int = DIGITS) -> float | None:
    """To so many significant digits; None for what is no number."""
    return float(f"{number:.{digits}g}") if math.isfinite(number) else None


def exact(number: float) -> float | None:
    """A score, to the digits in which ties stay ties."""
    return rounded(float(number), SCORE_DIGITS)
