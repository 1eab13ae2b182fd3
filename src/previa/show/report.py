"""The interactive report: one HTML file, complete in itself, that never uses the network.

Data enters the page as JSON that holds no `<`, `>` or `&`; the scripts put names into the page as text nodes only; and the
page's own Content-Security-Policy allows exactly the one script and the one style sheet that this module wrote.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from previa.errors import InputError
from previa.show._look import landscapes, write
from previa.show._page_data import (
    chosen_of,
    disagreed,
    experts,
    front_of,
    interpolation,
    labels,
    methods_of,
    plain,
    preference_of,
)
from previa.show.pareto import conflicts
from previa.study.pareto import Fronts
from previa.study.preference import Preference
from previa.study.preview import metric_weights

if TYPE_CHECKING:
    from previa.study.preview import Preview

LEAD = 90  # letters, at least: less than that says what to do, but not yet why
FROM_DISK, SERVED = "", "; connect-src 'self'"


def write_report(
    path: str | Path,
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
) -> None:
    """Write one study's report.html, complete in itself: what `report_page` returns of the same arguments, whole or not at all.

    Raises as `report_page`, and FileError when it cannot be written.
    """
    page = report_page(
        name=name,
        tasks=tasks,
        convention=convention,
        truth=truth,
        previews=previews,
        comparison=comparison,
        recommendation=recommendation,
        facts=facts,
        fronts=fronts,
        preference=preference,
        surrogates=surrogates,
        disagreement=disagreement,
    )
    write(path, page)


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
    facts = {str(key): plain(value) for key, value in facts.items()}
    judged, advice = plain(comparison), plain(recommendation) or {}
    chosen = chosen_of([m for m in lands if m != "joint"], judged, advice, facts)
    everything = {**({"joint": truth} if truth is not None else {}), **previews}
    data = {
        "schema": 2,
        "name": name,
        "tasks": list(tasks),
        "unit": str(facts.get("unit") or "score"),
        "study": str(facts.get("study") or "STUDY"),
        "convention": convention,
        "importance": metric_weights(known, wish.weights).tolist(),
        "preference": preference_of(wish, known),
        "experts": experts(wish, everything[chosen]),
        "chosen": chosen,
        **methods_of(lands, everything, facts.get("failures") or {}),
        "comparison": judged,
        "recommendation": advice,
        "fronts": {
            m: front_of(truth, f) for m, f in (fronts or {}).items() if truth is not None and m in lands
        },
        "pairs": conflicts(next(iter(lands.values())).scores),
        "surrogates": {m: interpolation(found) for m, found in (surrogates or {}).items() if m in lands},
        "disagreement": disagreed(disagreement),
        "stamp": stamp,
        "facts": facts,
        "labels": labels(facts.get("sharpened") or {}),
    }
    lead, more = _led(advice)
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


def _led(advice: Mapping[str, Any]) -> tuple[str, str]:
    """What stands first: the verdict, or else the first sentences, which say what to do and what it gains; and the rest."""
    sentence = str(advice.get("sentence") or "No recommendation was made in this study.")
    if verdict := str(advice.get("verdict_sentence") or ""):
        return verdict, sentence.removeprefix(verdict).strip()
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z])", sentence)
    lead = sentences.pop(0)
    while sentences and len(lead) < LEAD:
        lead += " " + sentences.pop(0)
    return lead, " ".join(sentences)


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
