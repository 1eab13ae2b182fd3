"""What a store says: its previews, judged by its truth where it has one, and the recommendation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from previa.errors import InputError, StoreError
from previa.show._methods import is_map, place
from previa.show.sharpened import sharpened
from previa.show.summary import summary
from previa.study.compare import FEWEST, Comparison, compare
from previa.study.correct import Corrected, corrected
from previa.study.disagreement import FEWEST as RANKED
from previa.study.disagreement import Disagreement, disagreement
from previa.study.pareto import Fronts, compare_fronts
from previa.study.preference import Preference, experts_of
from previa.study.preview import Preview
from previa.study.recommend import Recommendation, recommend
from previa.study.simplex import key, largest_grid, show, uniform
from previa.study.store import Store
from previa.study.surrogate import Interpolated, interpolated
from previa.study.truth import judged_by, true_runs

DENSE = 1001  # weightings of an interpolated map, at most: ten steps of five tasks
SHARED = 0.5  # of the weightings of the preview that is followed: a method that shares fewer is left out of the disagreement


@dataclass(frozen=True)
class Results:
    """A store's previews, judged by its truth where it has one."""

    truth: Preview | None
    previews: Mapping[str, Preview]
    method: str
    """the preview that the recommendation follows"""
    preference: Preference
    """what counts as good: metric weights, floors, mean or worst task"""
    comparison: Comparison | None
    fronts: Mapping[str, Fronts]
    """the Pareto front of each preview that shares enough weightings with the truth"""
    recommendation: Recommendation
    surrogates: Mapping[str, Interpolated]
    """of each preview of which only some weightings were evaluated, by a search: what lies between them"""
    disagreement: Disagreement | None
    """of the preview that is followed and the others; None where they share too few weightings"""
    corrected: Corrected | None
    """a preview that was validated, corrected by the true runs that there are"""
    summary: Mapping[str, Any]

    @property
    def weights(self) -> Mapping[str, float]:
        """How much each task counts."""
        return self.preference.weights

    @property
    def merged(self) -> dict[str, Any]:
        """What `previa merge` must be told to make the previewed model: {"method", "family", "power", "anchored"}."""
        sharper = (self.summary["sharpened"] or {}).get("powers", {}).get(self.method, {})
        chosen = sharper.get("chosen", {"method": self.method, "p": 1.0})
        through = bool(sharper) and self.method.endswith("anchored")
        return {"method": self.method, "family": chosen["method"], "power": chosen["p"], "anchored": through}

    @classmethod
    def of(
        cls, store: Store, *, method: str | None = None, preference: Preference | None = None, relative: bool = False
    ) -> Results:  # fmt: skip
        """Read, compare, recommend. method: by default the study's choice, else the last of those that the store has;
        preference: its weights count in place of the study's metric weights, for the tasks that they name; relative: scores are
        divided by those of the tasks' own experts, at the corners of the method's preview.

        There is no comparison where fewer than three weightings have a true and a previewed score.
        Raises StoreError where nothing was previewed or the method was not, InputError as compare and recommend do.
        """
        names = [m for m in store.methods() if is_map(m)]
        names.sort(key=place)
        if not names:
            raise StoreError(
                f"{store.path}: nothing was previewed yet. Run `previa preview` on the study first."
            )
        previews = {name: store.preview(name) for name in names}
        scored = {name: preview for name, preview in previews.items() if preview.ok.any()}
        chosen = _chosen(store, names, scored, method)
        every = true_runs(store)
        truth, left_out = judged_by(store, every)
        asked = preference or Preference()
        w = {**(store.get("metric_weights") or {}), **asked.weights}
        experts = experts_of(previews[chosen]) if relative else asked.relative_to
        wish = replace(asked, weights=w, relative_to=experts)
        wish.check(store.tasks)
        even, sizes = uniform(len(store.tasks)), _size_proportional(store)
        judged = {name: preview for name, preview in scored.items() if _comparable(truth, preview)}
        comparison, fronts = None, {}
        if judged and truth is not None:
            fronts = {name: compare_fronts(truth, preview, name=name) for name, preview in judged.items()}
            comparison = compare(truth, judged, uniform=even, size_proportional=sizes, preference=wish)
        between = _surrogates(store, scored)
        others = {name: one for name, one in scored.items() if name not in (chosen, *_twins(scored))}
        recommendation = recommend(
            previews[chosen],
            uniform=even,
            size_proportional=sizes,
            truth=truth,
            others=others,
            preference=wish,
            surrogate=between[chosen].preview if chosen in between else None,
        )
        sharper = sharpened(store, previews, truth, comparison, w)
        return cls(
            truth, previews, chosen, wish, comparison, fronts, recommendation, between,
            _disagreement({chosen: scored[chosen], **others}, wish), _corrected(store, scored, every),
            summary(
                store, chosen, previews, truth, wish, comparison, fronts, recommendation, sharper,
                notes=[left_out] if left_out else [],
            ),
        )  # fmt: skip


def _corrected(store: Store, previews: Mapping[str, Preview], truth: Preview | None) -> Corrected | None:
    """The preview that `previa validate` looked at, corrected by all true runs; None before that, or without a run inside."""
    found = store.get("validation") or {}
    preview = previews.get(str(found.get("method")))
    if preview is None or truth is None:
        return None
    try:
        return corrected(preview, truth.rows(truth.ok), exact_corners=bool(found.get("exact_corners")))
    except InputError:  # the runs are at corners, or at weightings that were not previewed
        return None


def _surrogates(store: Store, previews: Mapping[str, Preview]) -> dict[str, Interpolated]:
    """Of each searched preview that has fewer weightings than its grid, or than a dense one."""
    T, found = len(store.tasks), {}
    for name, search in (store.get("searches") or {}).items():
        dense = largest_grid(T, min(DENSE, math.comb(int(search["steps"]) + T - 1, T - 1)))
        if name in previews and previews[name].ok.sum() < len(dense):
            found[name] = interpolated(previews[name], dense)
    return found


def _disagreement(previews: Mapping[str, Preview], preference: Preference) -> Disagreement | None:
    """Of those previews that share enough weightings with the first, which is the one that is followed."""
    first, *others = previews.items()
    keys = {key(alpha) for alpha in first[1].alphas[first[1].ok]}
    alike = dict([first])
    for name, one in others:
        shared = keys & {key(alpha) for alpha in one.alphas[one.ok]}
        if len(shared) > SHARED * len(keys):
            alike, keys = {**alike, name: one}, shared
    return disagreement(alike, preference) if len(alike) > 1 and len(keys) >= RANKED else None


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


def _twins(previews: Mapping[str, Preview]) -> list[str]:
    """Task arithmetic where it is simple averaging, as on the simplex: it would count twice among the other methods."""
    both = [previews.get(name) for name in ("simple", "task_arithmetic")]
    if both[0] is None or both[1] is None:
        return []
    return ["task_arithmetic"] if np.array_equal(both[0].scores, both[1].scores, equal_nan=True) else []


def _size_proportional(store: Store) -> np.ndarray[Any, np.dtype[np.float64]]:
    """N_t / sum N from the store's "sizes"; uniform where they are not known."""
    sizes = store.get("sizes") or {}
    counts = np.array([float(sizes.get(task, 0)) for task in store.tasks])
    return counts / counts.sum() if counts.all() else uniform(len(store.tasks))
