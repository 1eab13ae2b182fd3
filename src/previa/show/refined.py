"""What a few steps of joint training add to a preview: the bridge from a preview to the truth, at single weightings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from previa.show._methods import STEPS
from previa.show._sharp_words import counted
from previa.study.preview import Preview
from previa.study.simplex import find, show
from previa.study.store import Store


def refined(store: Store, truth: Preview | None, weights: Mapping[str, float]) -> list[dict[str, Any]]:
    """By weighting: {"alpha", "steps" [k] rising, "means" [k] over tasks, "true": that of the joint run there or None}."""
    found: dict[tuple[float, ...], dict[int, float]] = {}
    for method in store.methods():
        if re.fullmatch(STEPS, method):  # after no step: the preview itself
            preview = store.preview(method)
            for alpha, mean in zip(preview.alphas, preview.weighted(weights), strict=True):
                if np.isfinite(mean):
                    found.setdefault(tuple(alpha.tolist()), {})[int(method.rpartition("_")[2])] = float(mean)
    return [
        {"alpha": list(alpha), "steps": sorted(by), "means": [by[k] for k in sorted(by)], "true": _true(alpha, truth, weights)}
        for alpha, by in sorted(found.items())
    ]  # fmt: skip


def of_refined(found: list[dict[str, Any]]) -> list[str]:
    """A sentence for each weighting of which more than one step is known."""
    said = []
    for one in found:
        after = [
            f"{mean:.4f} after {counted(k, 'step')}"
            for k, mean in zip(one["steps"], one["means"], strict=True)
            if k
        ]
        if not after:
            continue
        began = (
            f"The preview at {show(one['alpha'])} scores {one['means'][0]:.4f}"
            if one["steps"][0] == 0
            else ""
        )
        true = "" if one["true"] is None else f"; the joint run there has {one['true']:.4f}"
        start = (
            f"{began}, and goes on by joint training to "
            if began
            else f"At {show(one['alpha'])} joint training from the preview gives "
        )
        said.append(f"{start}{', '.join(after)}{true}.")
    return said


def _true(alpha: tuple[float, ...], truth: Preview | None, weights: Mapping[str, float]) -> float | None:
    row = None if truth is None else find(truth.alphas, alpha)
    if truth is None or row is None:
        return None
    mean = float(truth.weighted(weights)[row])
    return mean if np.isfinite(mean) else None
