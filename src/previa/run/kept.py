"""What of a store still holds when tasks changed: true scores, and anchors that were trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from previa.run.bench import Bench
from previa.run.changes import Changes
from previa.run.resolve import modules
from previa.study.file import Study
from previa.study.store import Store
from previa.study.truth import JOINT


@dataclass(frozen=True)
class Kept:
    """A row of the old store that still holds: at ``alpha`` of the new tasks, with these scores."""

    method: str
    alpha: tuple[float, ...]
    scores: Mapping[str, Any]
    seconds: float


def rows_kept(
    method: str, old: Store, new: Store, bench: Bench | None, study: Study, changes: Changes
) -> tuple[list[Kept], int]:
    """The rows of true scores that still hold, and how many do not."""
    preview = old.preview(method)
    preview = preview.rows(preview.ok)
    gone = {*changes.dropped, *changes.trained}
    facts = old.facts(JOINT) or {}
    other_base = method == JOINT and (bench is None or facts.get("base") != bench.digest)
    if changes.added or changes.tested or other_base:
        return [], len(preview)
    kept = []
    for a, row in enumerate(preview.alphas):
        weight = dict(zip(old.tasks, row.tolist(), strict=True))
        weighted = [name for name in old.tasks if weight[name] > 0]
        if any(name in gone for name in weighted):
            continue
        moved = weighted != [name for name in new.tasks if weight.get(name, 0) > 0]
        if method == JOINT and moved and study.finetune.sampling != "loss":
            continue
        scores = {}
        for t, name in enumerate(old.tasks):
            if name in new.tasks:
                items = preview.items[t]
                scores[name] = float(preview.scores[a, t]) if items is None else items[a]
        alpha = tuple(weight.get(name, 0.0) for name in new.tasks)
        kept.append(Kept(method, alpha, scores, float(preview.stats["seconds"][a])))
    return kept, len(preview) - len(kept)


def anchors_kept(
    names: Sequence[str], bench: Bench | None, study: Study
) -> tuple[list[tuple[Path, tuple[float, ...]]], int]:
    """(record, its weighting of the new tasks) of the anchors trained here that still hold, and how many do not.

    names: of the old tasks, in the order of the records' weightings.
    """
    records = sorted((study.out / "anchors").glob("*.json"))
    found: list[tuple[Path, tuple[float, ...]]] = []
    for record in records if bench is not None else ():
        assert bench is not None
        with suppress(OSError, ValueError, LookupError, TypeError):
            facts = json.loads(record.read_text(encoding="utf-8"))["facts"]
            if sorted(facts["data"]) != sorted(names):
                continue  # of an older study
            weight = dict(zip(names, facts["alpha"], strict=True))
            weighted = [name for name in names if weight[name] > 0]
            order = [name for name in study.names() if weight.get(name, 0) > 0]
            moved = weighted != order
            if sorted(weighted) != sorted(order) or (moved and study.finetune.sampling != "loss"):
                continue
            alpha = tuple(float(weight.get(name, 0.0)) for name in study.names())
            now = json.loads(json.dumps(bench.joint_facts(alpha)))
            if _same_run(facts, now, weighted, study):
                found.append((record, alpha))
    return found, len(records) - len(found)


def _same_run(
    facts: Mapping[str, Any], now: Mapping[str, Any], weighted: Sequence[str], study: Study
) -> bool:
    """Whether a run with weight on these tasks only rests on the same facts as one would now."""
    same = all(facts[name] == now[name] for name in ("model", "loss", "seed", "convention", "base", "recipe"))
    data = all(facts["data"].get(name) == now["data"].get(name) for name in weighted)
    used = modules(study.model, study.loss, *(task.data for task in study.tasks if task.name in weighted))
    if study.transformers is not None:
        used = tuple({*facts["code"], *now["code"]})
    return same and data and all(facts["code"].get(name) == now["code"].get(name) for name in used)
