"""All that a person is given of a study, made from its store alone: summary, table, figures and the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from previa import __version__
from previa.errors import FileError, StoreError
from previa.show._look import write
from previa.study.compare import FEWEST, Comparison, Quality, compare
from previa.study.pareto import Fronts, compare_fronts
from previa.study.preview import Preview, metric_weights
from previa.study.quality import ranking
from previa.study.recommend import Recommendation, recommend
from previa.study.simplex import key, show, uniform
from previa.study.store import Store

TRUTH = "joint"
WARM = f"{TRUTH}_from_"  # joint runs that began at a preview: neither the truth nor a preview
ORDER = ("simple", "task_arithmetic", "squared_gradients", "regmean", "ivon_hessian", "mixture")
FINETUNINGS = {
    "simple": ("finetune/ivon",),
    "task_arithmetic": ("finetune/ivon",),
    "squared_gradients": ("finetune/adamw", "squared_gradients"),
    "regmean": ("finetune/ivon", "regmean"),
    "ivon_hessian": ("finetune/ivon",),
    "mixture": ("finetune/ivon", "finetune/ivon_more"),
}
"""method -> what in Store.seconds() it needs beside its own merging and scoring"""


def finetunings(method: str) -> tuple[str, ...]:
    """FINETUNINGS of this method; of a part of the mixture those of the whole, since it comes from the same runs."""
    return FINETUNINGS.get("mixture" if _components(method) else method, ())


def _components(method: str) -> int:
    """K of a part of the mixture, which is named mixture_<K>; 0 for every other method."""
    head, _, size = method.rpartition("_")
    return int(size) if head == "mixture" and size.isdecimal() else 0


def _place(method: str) -> tuple[int, float, str]:
    """Where a method stands: as in ORDER, parts of the mixture before the whole and by their size, all others last."""
    if K := _components(method):
        return ORDER.index("mixture"), K, method
    return ORDER.index(method) if method in ORDER else len(ORDER), np.inf, method


@dataclass(frozen=True)
class Results:
    """A store's previews, judged by its truth where it has one."""

    truth: Preview | None
    previews: Mapping[str, Preview]
    method: str
    """the preview that the recommendation follows"""
    weights: Mapping[str, float]
    """how much each task counts in the mean score"""
    comparison: Comparison | None
    fronts: Mapping[str, Fronts]
    """the Pareto front of each preview that shares enough weightings with the truth"""
    recommendation: Recommendation
    summary: Mapping[str, Any]

    @classmethod
    def of(
        cls, store: Store, *, method: str | None = None, weights: Mapping[str, float] | None = None
    ) -> Results:
        """Read, compare, recommend. method: by default the study's choice, else the last of those that the store has;
        weights: in place of the study's metric weights, for the tasks that they name.

        There is no comparison where fewer than three weightings have a true and a previewed score.
        Raises StoreError where nothing was previewed or the method was not, InputError as compare and recommend do.
        """
        names = [m for m in store.methods() if m != TRUTH and not m.startswith(WARM)]
        names.sort(key=_place)
        if not names:
            raise StoreError(
                f"{store.path}: nothing was previewed yet. Run `previa preview` on the study first."
            )
        previews = {name: store.preview(name) for name in names}
        scored = {name: preview for name, preview in previews.items() if preview.ok.any()}
        chosen = _chosen(store, names, scored, method)
        truth = store.preview(TRUTH) if TRUTH in store.methods() else None
        w = {**(store.get("metric_weights") or {}), **(weights or {})}
        even, sizes = uniform(len(store.tasks)), _size_proportional(store)
        judged = {name: preview for name, preview in scored.items() if _comparable(truth, preview)}
        comparison, fronts = None, {}
        if judged and truth is not None:
            fronts = {name: compare_fronts(truth, preview, name=name) for name, preview in judged.items()}
            comparison = compare(truth, judged, uniform=even, size_proportional=sizes, weights=w)
        recommendation = recommend(
            previews[chosen],
            uniform=even,
            size_proportional=sizes,
            truth=truth,
            others={
                name: preview for name, preview in scored.items() if name not in (chosen, *_twins(scored))
            },
            weights=w,
        )
        return cls(
            truth, previews, chosen, w, comparison, fronts, recommendation,
            _summary(store, chosen, previews, truth, w, comparison, fronts, recommendation),
        )  # fmt: skip


def publish(store: Store, found: Results, folder: Path) -> list[Path]:
    """Write preview.csv, summary.json, the figures (where matplotlib is installed) and report.html; what was written.

    The folder is made when missing. Raises FileError where it, or a file in it, cannot be written.
    """
    from previa.show.report import write_report

    name = str(store.provenance.get("name", store.path.parent.name))
    unit = store.get("unit", "score")
    weights = found.weights if len(set(found.weights.values())) > 1 else None  # a plain mean is called so
    made = [folder / "preview.csv", folder / "summary.json"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"{folder}: the folder cannot be made: {error.strerror}. Choose another with --out."
        ) from error
    store.export_csv(made[0])
    write(made[1], (json.dumps(found.summary, indent=1, allow_nan=False) + "\n").encode())
    notes = []
    if find_spec("matplotlib") and find_spec("mpltern"):
        made += _figures(found, folder, title=name, unit=unit, weights=weights)
    else:
        notes.append("No PNG figures: `pip install 'previa[plot]'` brings them.")
    facts = {
        "warnings": found.summary["warnings"],
        "notes": notes,
        "unit": unit,
        "method": found.method,
        "study": store.get("study_file"),
        "sizes": store.get("sizes", {}),
        "test_sizes": _test_sizes(found.previews[found.method]),
        "failures": {m: len(store.failures(m)) for m in store.methods() if store.failures(m)},
        "seconds": found.summary["seconds"],
        "metric_weights": weights,
        "version": __version__,
    }
    comparison = found.comparison.to_dict() if found.comparison else None
    if comparison is not None:  # the page shows what a method costs in all, its finetunings included
        for m, quality in comparison["methods"].items():
            quality["seconds"] = found.summary["methods"][m]["seconds"]
    write_report(
        folder / "report.html",
        name=name,
        tasks=store.tasks,
        convention=store.convention,
        truth=found.truth,
        previews=found.previews,
        comparison=comparison,
        recommendation=found.recommendation.to_dict(),
        facts=facts,
        fronts=found.fronts,
    )
    return [*made, folder / "report.html"]


def _chosen(store: Store, names: list[str], scored: Mapping[str, Preview], method: str | None) -> str:
    """The preview to follow: ``method``, else the study's choice, else the last one there is."""
    if method is not None and method not in names:
        raise StoreError(f"{store.path}: there is no preview {method!r}, only {', '.join(names)}.")
    wanted = method or store.get("method")
    if method is None and wanted not in scored and scored:
        return list(scored)[-1]
    name = wanted if wanted in names else names[-1]
    if name not in scored:
        alpha, message = store.failures(name)[0]
        raise StoreError(
            f"{store.path}: {name} has no score at any weighting; at {show(alpha)}: {message.rstrip('.')}. Mend that, and run "
            "the study again."
        )
    return str(name)


def _comparable(truth: Preview | None, preview: Preview) -> bool:
    """Whether enough weightings have a true and a previewed score."""
    if truth is None:
        return False
    seen = {key(alpha) for alpha in preview.alphas[preview.ok]}
    return sum(key(alpha) in seen for alpha in truth.alphas[truth.ok]) >= FEWEST


def _figures(found: Results, folder: Path, **options: Any) -> list[Path]:
    from previa.show.contours import contours
    from previa.show.histograms import histograms
    from previa.show.pareto import pareto
    from previa.show.per_task import per_task

    paths = [folder / "contours.png", folder / "histograms.png", folder / "per_task.png"]
    for draw, path in zip((contours, histograms, per_task), paths, strict=True):
        draw(found.truth, found.previews, path, **options)
    del options["weights"]  # a front does not depend on how much each task counts
    pareto(found.truth, found.previews, folder / "pareto.png", **options)
    return [*paths, folder / "pareto.png"]


def _summary(
    store: Store, method: str, previews: Mapping[str, Preview], truth: Preview | None, weights: Mapping[str, float],
    comparison: Comparison | None, fronts: Mapping[str, Fronts], recommendation: Recommendation,
) -> dict[str, Any]:  # fmt: skip
    """summary.json: what a script would ask of a study; keys only ever get added while "schema" is 1.

    What only a truth can tell is None without one.
    """
    judged = comparison.to_dict() if comparison else {"methods": {}, "truth": None}
    spent = store.seconds()
    methods = {}
    for name, preview in previews.items():
        finetuning = sum(spent.get(part, 0.0) for part in finetunings(name))
        methods[name] = {
            **_UNJUDGED,
            "pick": _pick(preview, weights),
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
        "warnings": [*store.get("warnings", []), *_failed(store), *_beside_simple(comparison)],
        "seconds": {
            **spent,
            **{f"preview/{name}": preview.seconds for name, preview in previews.items()},
            **({TRUTH: truth.seconds} if truth is not None else {}),
        },
    }


_UNJUDGED = {part.name: None for part in fields(Quality) if part.name != "per_task"}


def _pick(preview: Preview, weights: Mapping[str, float]) -> list[float] | None:
    """The weighting with the best previewed score, of all that were scored."""
    good = preview.rows(preview.ok)
    if not len(good):
        return None
    best = ranking(good.scores @ metric_weights(good.tasks, weights), good.alphas)[0]
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


def _twins(previews: Mapping[str, Preview]) -> list[str]:
    """Task arithmetic where it is simple averaging, as on the simplex: it would count twice among the other methods."""
    both = [previews.get(name) for name in ("simple", "task_arithmetic")]
    if both[0] is None or both[1] is None:
        return []
    return ["task_arithmetic"] if np.array_equal(both[0].scores, both[1].scores, equal_nan=True) else []


def _test_sizes(preview: Preview) -> dict[str, int]:
    """How many test items each task is scored on, where that is known."""
    return {task: i.shape[1] for task, i in zip(preview.tasks, preview.items, strict=True) if i is not None}


def _size_proportional(store: Store) -> np.ndarray[Any, np.dtype[np.float64]]:
    """N_t / sum N from the store's "sizes"; uniform where they are not known."""
    sizes = store.get("sizes") or {}
    counts = np.array([float(sizes.get(task, 0)) for task in store.tasks])
    return counts / counts.sum() if counts.all() else uniform(len(store.tasks))
