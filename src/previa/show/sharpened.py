"""How a preview was sharpened: which power of the weights, which joint runs as anchors, how sure it is; as data and in sentences.

Read from the store's facts "powers", "anchors", "band", "left_out" and "centre", and its methods "refined_<k>", which a study without such previews lacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from previa.show._look import Array
from previa.show._methods import parted, place
from previa.show._sharp_words import of_anchors, of_band, of_centre, of_left_out, of_loss, of_power, of_rivals
from previa.show.refined import of_refined, refined
from previa.study.compare import Comparison
from previa.study.preview import Preview, metric_weights
from previa.study.simplex import find
from previa.study.store import Store

RIVALS = ("scores", "scores_gp")


def sharpened(
    store: Store,
    previews: Mapping[str, Preview],
    truth: Preview | None,
    comparison: Comparison | None,
    weights: Mapping[str, float],
) -> dict[str, Any] | None:
    """JSON data for summary.json and the report; None for a store without these facts.

    {"powers": {method: {"chosen", "losses", ...}}, "anchors": [{"alpha", "from", "steps", "share", "mean", "left_out_mean", ...}],
    "band": {..., "coverage"}, "pairs": [[family, sharpened]], "anchored": [methods], "rivals": [methods], "refined": [...], "centre": {...} or None, "sentences": [str]}.
    A mean is over tasks, by ``weights``. The band is None under other weights than the study's, with which it was made; its coverage is counted at the truth's weightings that are no anchors.
    """
    known = store.get("powers") or {}
    powers = {m: dict(known[m]) for m in sorted(known, key=place)}
    w = metric_weights(store.tasks, weights)
    anchors = [_anchor(store.tasks, w, one) for one in store.get("anchors") or []]
    band = store.get("band")
    steps, centre = refined(store, truth, weights), store.get("centre") if "centre" in previews else None
    if not (powers or anchors or band or steps or centre):
        return None
    anchored = [m for m in previews if parted(m)[1] == "anchored"]
    alike = _alike(store, band, w)
    shown = None
    if band and alike:
        shown = {**band, "coverage": _coverage(band, previews, truth, anchors, weights)}
    rivals = [m for m in RIVALS if m in previews]
    unit = str(store.get("unit", "score"))
    sentences = [
        *(of_power(m, found) for m, found in powers.items()),
        *of_loss(powers),
        *of_anchors(anchors),
        *of_rivals(anchored, rivals, comparison, anchors),
        *of_left_out(store.get("left_out") if alike else _left_out(store, anchors), unit),
        *of_band(shown or band, anchors, unit, alike=alike),
        *of_centre(centre),
        *of_refined(steps),
    ]
    pairs = _pairs(powers, previews)
    family = (store.facts("centre") or {}).get("family")
    if centre and family in previews:
        pairs.append([str(family), "centre"])
    return {
        "powers": powers,
        "anchors": anchors,
        "band": shown,
        "pairs": pairs,
        "anchored": anchored,
        "rivals": rivals,
        "refined": steps,
        "centre": centre,
        "sentences": sentences,
    }


def drawn(sharper: Mapping[str, Any] | None) -> tuple[dict[str, Array], dict[str, float]]:
    """What figures mark: the anchors' weightings [n, T] by method, and half the width of the band by method."""
    if sharper is None:
        return {}, {}
    at = np.array([anchor["alpha"] for anchor in sharper["anchors"]])
    band = sharper["band"]
    return {m: at for m in sharper["anchored"] if len(at)}, (
        {band["method"]: float(band["half_width"])} if band else {}
    )


def _anchor(tasks: Sequence[str], w: Array, one: Mapping[str, Any]) -> dict[str, Any]:
    """An anchor with its mean score, and the mean that the other runs preview there, where all tasks have one."""

    def mean(scores: Mapping[str, float] | None) -> float | None:
        if not scores or any(scores.get(task) is None for task in tasks):
            return None
        return float(w @ np.array([scores[task] for task in tasks]))

    return {**one, "mean": mean(one.get("scores")), "left_out_mean": mean(one.get("left_out"))}


def _alike(store: Store, band: Mapping[str, Any] | None, w: Array) -> bool:
    """Whether ``w`` are the metric weights that the facts "band" and "left_out" were made with, the study's."""
    made = ((band or {}).get("rests_on") or {}).get("weights") or store.get("metric_weights")
    return bool(np.allclose(metric_weights(store.tasks, made), w))


def _left_out(store: Store, anchors: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The fact "left_out" of the anchors' means, by whatever weights; by the scores alone it is known for the study's weights only."""
    known = [
        a["left_out_mean"] - a["mean"]
        for a in anchors
        if a["mean"] is not None and a["left_out_mean"] is not None
    ]
    if not known or not store.get("left_out"):
        return {}
    return {"anchored": float(np.sqrt(np.mean(np.square(known)))), "scores": None}


def _pairs(powers: Mapping[str, Any], previews: Mapping[str, Preview]) -> list[list[str]]:
    """Each sharpened preview with that of its family at p = 1, where both were made."""
    found = []
    for method, one in powers.items():
        family = parted(method)[0] or str((one.get("chosen") or {}).get("method"))
        if method in previews and family in previews:
            found.append([family, method])
    return found


def _coverage(
    band: Mapping[str, Any],
    previews: Mapping[str, Preview],
    truth: Preview | None,
    anchors: Sequence[Mapping[str, Any]],
    weights: Mapping[str, float],
) -> float | None:
    """The share of the truth's weightings, anchors and corners aside, at which the band holds the true mean; None: no truth."""
    preview = previews.get(str(band.get("method")))
    if truth is None or preview is None:
        return band.get("coverage")
    rows, means, true = (
        [find(preview.alphas, a) for a in truth.alphas],
        preview.weighted(weights),
        truth.weighted(weights),
    )
    at = np.array([anchor["alpha"] for anchor in anchors]).reshape(-1, len(truth.tasks))
    inside = [
        abs(means[row] - true[i]) <= band["half_width"]
        for i, (row, alpha) in enumerate(zip(rows, truth.alphas, strict=True))
        if row is not None
        and np.isfinite(means[row] - true[i])
        and alpha.max() < 1
        and (not len(at) or find(at, alpha) is None)
    ]
    return float(np.mean(inside)) if inside else band.get("coverage")
