"""The interactive report: one HTML file, complete in itself, that never uses the network.

Data enters the page as JSON that holds no `<`, `>` or `&`; the scripts put names into the page as text nodes only; and the
page's own Content-Security-Policy allows exactly the one script and the one style sheet that this module wrote.
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from previa.errors import InputError
from previa.show._intervals import standard_errors, typical_noise
from previa.show._look import SHORT, Landscape, label, landscapes, write
from previa.show.pareto import conflicts
from previa.study.pareto import Fronts
from previa.study.preference import Preference
from previa.study.preview import metric_weights
from previa.study.simplex import find

if TYPE_CHECKING:
    from previa.study.preview import Preview

LEAD = 90  # letters, at least: less than that says what to do, but not yet why
DIGITS = 6  # significant digits of a number on the page; weights have as many decimals
SCORE_DIGITS = 8  # of a score: the page chooses again, and ties must stay ties
CORRECTED = {"corrected": "Corrected by true runs"}
FROM_DISK, SERVED = "", "; connect-src 'self'"


def write_report(path: str | Path, **what: Any) -> None:
    """Write one study's report.html, complete in itself: what `report_page` returns, whole or not at all.

    Raises as `report_page`, and FileError when it cannot be written.
    """
    write(path, report_page(**what))


def report_page(
    *,
    name: str,
    tasks: Sequence[str],
    convention: str,
    truth: "Preview | None",
    previews: Mapping[str, "Preview"],
    comparison: object,
    recommendation: object,
    facts: Mapping[str, Any],
    fronts: Mapping[str, Fronts] | None = None,
    preference: Preference | None = None,
    surrogates: Mapping[str, Any] | None = None,
    disagreement: object = None,
    stamp: str | None = None,
) -> bytes:
    """One study's page: the recommendation, every weighting, the quality of the previews, and the doubts.

    convention: "mean" or "sum". fronts: what `compare_fronts` returns, by method. comparison and recommendation are what `compare` and `recommend` return, or mappings of
    the same; any value may be missing or None. preference: the study's own, by default of facts' "metric_weights".
    surrogates: {method: {"alphas" [A, T], "scores" [A, T], "sd" [A, T]}}, interpolated from few evaluated weightings.
    disagreement: {"alphas" [A, T], "spread" [A], "sentence"}, or what `disagreement` returns.
    stamp: of the store as served by `previa view`; the page then asks for newer ones and loads itself again.
    facts, all optional: "warnings" and "notes" [str], "unit" ("accuracy"),
    "method" (the preview behind the recommendation), "study" (the study file, for commands), "sizes" and "test_sizes"
    {task: examples}, "failures" {method: weightings}, "seconds" {what: seconds}, "metric_weights" {task: weight},
    "sharpened" (what `sharpened` returns), "searches" {method: how it was searched}, "preflight" [{"name", "sentence",
    "level"}], "validation" {"sentence", "proposed"}, "merge" (words of a `previa merge` command but for --alpha and --out), "version", "date".
    Raises InputError when tasks differ.
    """
    wish = preference or Preference(weights=facts.get("metric_weights") or {})
    known, lands = landscapes(truth, previews, wish)
    if tuple(tasks) != known:
        raise InputError(f"the report is of the tasks {list(tasks)}, but its previews are of {list(known)}.")
    facts = {str(key): _plain(value) for key, value in facts.items()}
    judged, advice = _plain(comparison), _plain(recommendation) or {}
    chosen = _chosen([m for m in lands if m != "joint"], judged, advice, facts)
    everything = {**({"joint": truth} if truth is not None else {}), **previews}
    data = {
        "schema": 2,
        "name": name,
        "tasks": list(tasks),
        "unit": str(facts.get("unit") or "score"),
        "study": str(facts.get("study") or "STUDY"),
        "convention": convention,
        "importance": metric_weights(known, wish.weights).tolist(),
        "preference": _preference(wish, known),
        "experts": _experts(wish, everything[chosen]),
        "chosen": chosen,
        **_methods(lands, everything, facts.get("failures") or {}),
        "comparison": judged,
        "recommendation": advice,
        "fronts": {
            m: _front(truth, f) for m, f in (fronts or {}).items() if truth is not None and m in lands
        },
        "pairs": conflicts(next(iter(lands.values())).scores),
        "surrogates": {m: _interpolation(found) for m, found in (surrogates or {}).items() if m in lands},
        "disagreement": _disagreement(disagreement),
        "stamp": stamp,
        "facts": facts,
        "labels": _labels(facts.get("sharpened") or {}),
    }
    sentence = str(data["recommendation"].get("sentence") or "No recommendation was made in this study.")
    lead, more = _led(sentence)
    style, script = _style(), _script(live=stamp is not None)
    parts = {
        "title": html.escape(" ".join(name.split())),
        "lead": html.escape(lead),
        "more": html.escape(more),
        "style": style,
        "style_hash": _sha256(style),
        "script": script,
        "script_hash": _sha256(script),
        "connect": FROM_DISK if stamp is None else SERVED,
        "data": _embedded(data),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _read("report_template.html"))
    # Half a surrogate pair in a name is no reason to fail: it goes in as a character reference.
    return page.encode("utf-8", "xmlcharrefreplace")


def _preference(wish: Preference, tasks: Sequence[str]) -> dict[str, Any]:
    """The study's own preference as the page's sliders hold it."""
    return {
        "weights": [float(wish.weights.get(task, 1.0)) for task in tasks],
        "floors": [None if (f := wish.floors.get(task)) is None else float(f) for task in tasks],
        "worst": wish.worst,
        "relative": bool(wish.relative_to),
    }


def _experts(wish: Preference, chosen: "Preview") -> list[float | None]:
    """Each task's score of its own expert: the preference's, or that at the corner of the chosen preview; None: not known."""
    if wish.relative_to:
        return [float(wish.relative_to[task]) for task in chosen.tasks]
    rows = [find(chosen.alphas, corner) for corner in np.eye(len(chosen.tasks))]
    return [None if row is None else _exact(chosen.scores[row, t]) for t, row in enumerate(rows)]


def _interpolation(found: Any) -> dict[str, Any]:
    return {
        "alphas": _plain(np.round(np.asarray(found["alphas"], dtype=np.float64), DIGITS)),
        "scores": _plain(np.asarray(found["scores"], dtype=np.float64)),
        "sd": [[_rounded(s, 3) for s in row] for row in np.asarray(found["sd"], dtype=np.float64).tolist()],
    }


def _disagreement(found: Any) -> dict[str, Any] | None:
    if found is None:
        return None
    keys = ("alphas", "spread", "sentence")
    if isinstance(found, Mapping):
        return {key: _plain(found.get(key)) for key in keys}
    return {key: _plain(getattr(found, key)) for key in keys}


def _led(text: str) -> tuple[str, str]:
    """The first sentences, which say what to do and what it gains, and the rest."""
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z])", text)
    lead = sentences.pop(0)
    while sentences and len(lead) < LEAD:
        lead += " " + sentences.pop(0)
    return lead, " ".join(sentences)


def _methods(
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
            "scores": [[_exact(s) for s in row] for row in land.scores.tolist()],
            "errors": standard_errors(previews[method]),
            "noise": typical_noise(previews[method], land.pick),
            "pick": land.pick,
            "failed": max(int(np.isnan(land.mean).sum()), int(failures.get(method, 0))),
            "seconds": _rounded(land.seconds),
        }
        methods.append(entry)
    return {"designs": designs, "methods": methods}


def _labels(sharper: Mapping[str, Any]) -> dict[str, str]:
    """The names of families that were compared, of which there may be no preview."""
    families = {
        family for found in (sharper.get("powers") or {}).values() for family in found.get("losses") or {}
    }
    return {family: label(family) for family in sorted(families)}


def _front(truth: "Preview", fronts: Fronts) -> dict[str, Any]:
    """The weightings judged, those on the previewed front and the good ones as rows of the truth, and the numbers."""
    rows = np.array([truth.index(alpha) for alpha in fronts.alphas])
    numbers = ("near_share", "near_by_chance", "volume_share", "volume_by_chance", "luck", "noise")
    return {
        "rows": rows.tolist(),
        "previewed": rows[fronts.on_previewed].tolist(),
        "good": rows[fronts.on_true if fronts.near is None else fronts.near].tolist(),
        "sentence": fronts.sentence,
        **{name: _plain(getattr(fronts, name)) for name in numbers},
    }


def _chosen(previews: Sequence[str], comparison: Any, recommendation: Any, facts: Mapping[str, Any]) -> str:
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


def _plain(value: Any) -> Any:
    """The same as JSON knows it: arrays as lists, NaN and infinity as None, dataclasses and mappings as objects."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return _rounded(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _rounded(number: float, digits: int = DIGITS) -> float | None:
    return float(f"{number:.{digits}g}") if math.isfinite(number) else None


def _exact(number: float) -> float | None:
    return _rounded(float(number), SCORE_DIGITS)


def _embedded(data: Mapping[str, Any]) -> str:
    """JSON that can stand inside a script element: ASCII, without any character that HTML could take for markup."""
    text = json.dumps(
        data, ensure_ascii=True, allow_nan=False, separators=(",", ":")
    )  # this escapes U+2028/9, too
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read(*names: str) -> str:
    return resources.files("previa.show").joinpath(*names).read_text(encoding="utf-8")


def _style() -> str:
    return _read("page", "style.css")


def _script(*, live: bool = False) -> str:
    """The page's scripts, in the order of their names, as one function, so that nothing is global; live: polls its server."""
    folder = resources.files("previa.show").joinpath("page")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".js"))
    texts = [_read("page", name) for name in names] + ([_read("page", "live", "poll.js")] if live else [])
    return '(() => {\n"use strict";\n' + "\n".join(texts) + "})();\n"


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
