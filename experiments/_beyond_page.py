"""The page of the study beyond the paper: means over seeds, the table, and whether the targets are reached."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

NUMBERS = (
    "cost",
    "training",
    "regret_at_1",
    "regret_noise",
    "spearman",
    "spearman_top25",
    "iou_top10",
    "mse",
    "offset",
    "p",
)


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """study -> {seeds, methods: name -> means over seeds and each seed's main numbers}."""
    studies: dict[str, Any] = {}
    for name in dict.fromkeys(one["study"] for one in found):
        own = [one for one in found if one["study"] == name]
        methods = {}
        for method in dict.fromkeys(row["method"] for one in own for row in one["rows"]):
            rows = [row for one in own for row in one["rows"] if row["method"] == method]
            methods[method] = {key: _mean([row.get(key) for row in rows]) for key in NUMBERS}
            methods[method]["families"] = [row.get("family") for row in rows]
            methods[method]["seeds"] = {
                k: [row.get(k) for row in rows] for k in ("spearman", "mse", "regret_at_1", "p")
            }
        studies[name] = {
            "seeds": [one["seed"] for one in own],
            "methods": methods,
            "facts": [one["facts"] for one in own],
        }
    return {"studies": studies}


def write(docs: Path, stem: str, facts: Mapping[str, Any]) -> None:
    """NAME.md is written later."""


def _mean(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return mean(there) if there else None
