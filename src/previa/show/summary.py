"""summary.json: what a script would ask of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from previa import __version__
from previa.show._methods import finetunings
from previa.study.compare import Comparison, Quality
from previa.study.floors import candidates
from previa.study.pareto import Fronts
from previa.study.preference import Preference
from previa.study.preview import Preview
from previa.study.quality import ranking
from previa.study.recommend import Recommendation
from previa.study.simplex import show
from previa.study.store import Store
from previa.study.truth import JOINT


def summary(
    store: Store, method: str, previews: Mapping[str, Preview], truth: Preview | None, preference: Preference,
    comparison: Comparison | None, fronts: Mapping[str, Fronts], recommendation: Recommendation,
    sharper: Mapping[str, Any] | None, *, notes: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """The content of summary.json; keys only ever get added while "schema" is 1.

    What only a truth can tell is None without one; "sharpened", what `sharpened` returns, in a study without such previews.
    """
    judged = comparison.to_dict() if comparison else {"methods": {}, "truth": None}
    spent, powers = store.seconds(), store.get("powers")
    methods = {}
    for name, preview in previews.items():
        finetuning = sum(spent.get(part, 0.0) for part in finetunings(name, powers))
        methods[name] = {
            **_UNJUDGED,
            "pick": _pick(preview, preference),
            **judged["methods"].get(name, {}),
            "pareto": fronts[name].to_dict() if name in fronts else None,
            "seconds": finetuning + preview.seconds,
            "seconds_merging_and_scoring": preview.seconds,
            "failed": int((~preview.ok).sum()),
        }
    advice = recommendation.to_dict()
    return {
        "schema": 1,
        "version": __version__,
        "tasks": list(store.tasks),
        "convention": store.convention,
        "methods": methods,
        "truth": judged["truth"],
        "recommendation": {
            "method": method,
            **{k: v for k, v in advice.items() if k not in ("region", "tasks")},
        },
        "sharpened": None if sharper is None else dict(sharper),
        "warnings": [*store.get("warnings", []), *_failed(store), *_beside_simple(comparison), *notes],
        "seconds": {
            **spent,
            **{f"preview/{name}": preview.seconds for name, preview in previews.items()},
            **({JOINT: truth.seconds} if truth is not None else {}),
        },
    }


_UNJUDGED = {part.name: None for part in fields(Quality) if part.name != "per_task"}


def _pick(preview: Preview, preference: Preference) -> list[float] | None:
    """The weighting of the best previewed value, of all that were scored and keep the floors, or miss them least."""
    good = preview.rows(preview.ok)
    if not len(good):
        return None
    good = good.rows(candidates(good, preference))
    best = ranking(preference.value(good.scores, good.tasks), good.alphas)[0]
    return [float(weight) for weight in good.alphas[best]]


def _failed(store: Store) -> list[str]:
    """Why weightings have no score, a sentence for each method that has such."""
    found = []
    for name in store.methods():
        if failures := store.failures(name):
            alpha, message = failures[0]
            more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
            found.append(
                f"{name} has no score at {show(alpha)}{more}: {message.rstrip('.')}. The same command tries again what failed."
            )
    return found


def _beside_simple(comparison: Comparison | None) -> list[str]:
    """A sentence that names the posteriors which previewed no better than plain averaging, where there are any."""
    if comparison is None or "simple" not in comparison.methods:
        return []
    plain, found = comparison.methods["simple"], []
    for name, q in comparison.methods.items():
        worse = q.regret_at_1 > plain.regret_at_1 or _rank(q) < _rank(plain)
        better = q.regret_at_1 < plain.regret_at_1 or _rank(q) > _rank(plain)
        if name not in ("simple", "task_arithmetic") and worse and not better:
            found.append(f"{name} (regret {q.regret_at_1:.3f}, Spearman {_shown(q.spearman)})")
    if not found:
        return []
    beside = f"regret {plain.regret_at_1:.3f}, Spearman {_shown(plain.spearman)}"
    floor = (
        ""
        if plain.regret_noise is None
        else f"; regrets up to {plain.regret_noise:.3f} cannot be told from 0"
    )
    return [f"no better than simple averaging ({beside}) in this study: {', '.join(found)}{floor}."]


def _rank(q: Quality) -> float:
    return -1.0 if q.spearman is None else q.spearman


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
