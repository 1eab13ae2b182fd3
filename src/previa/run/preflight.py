"""Pre-flight checks: what speaks for and against previews of this study, before anything long. Nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from previa.run.check import Check
from previa.run.preflight_merges import barrier, curvature, distance, losses_of
from previa.run.preflight_tests import memory, test_sets
from previa.run.sweep import Progress
from previa.run.task_vectors import task_vectors
from previa.run.there import There, there
from previa.run.work import Work

FAR = 0.7  # of the base's length: networks of two random starts are 1.4 apart


def preflight(work: Work, *, progress: Progress | None = None) -> tuple[Check, ...]:
    """All checks of a study, on what is there of it; also the store's fact "preflight".

    Looked at are parameters and precisions, the loss on [preview] loss_examples training examples of each task at each expert
    and at the middle of each pair, and one scoring unless something was previewed. Raises as `there`.
    """
    have = there(work)
    losses = losses_of(work, have, progress)
    checks: Sequence[Callable[[], Check | None]] = (
        lambda: _runs(work, have),
        lambda: _base(work, have),
        lambda: distance(work, have),
        lambda: curvature(have),
        lambda: None if losses is None else barrier(losses),
        lambda: memory(work, have),
        lambda: test_sets(work, have),
    )
    found = tuple(one for check in checks if (one := check()) is not None)
    work.store.put("preflight", [_plain(asdict(one)) for one in found])
    return found


def _runs(work: Work, have: There) -> Check:
    if have.problem is not None:
        return Check("runs", have.problem, "warning")
    T, n = len(work.study.tasks), len(work.study.tasks) - len(have.missing)
    numbers = {"tasks": T, "there": n, "missing": list(have.missing)}
    if not have.missing:
        return Check("runs", f"All {T} tasks have their own runs.", "ok", numbers)
    base = "" if have.base is not None else " The base is not pretrained yet, either."
    return Check(
        "runs",
        f"{n} of {T} tasks have all their own runs; missing: {', '.join(have.missing)}.{base} `previa fit` makes them; what rests "
        "on them is not checked yet.",
        "note",
        numbers,
    )


def _base(work: Work, have: There) -> Check | None:
    """How it is known that the experts come from one base."""
    folders = work.ingredients.folders
    brought = [task.name for task in work.study.tasks if task.checkpoint is not None]
    if not brought:
        return Check(
            "base", "All tasks are finetuned here, from one base: it is the same.", "ok", {"brought": []}
        )
    if folders is None:
        how = "names and shapes of all tensors, and the values of the frozen ones"
    elif folders.is_adapter:
        how = "the adapters' settings, shapes and common initial A, and the vocabularies"
    else:
        how = "the classes of the models, their configurations and vocabularies, names and shapes of all tensors"
    numbers: dict[str, Any] = {"brought": brought, "checked": how}
    unknown = folders.no_start[1] if folders is not None else None
    if unknown is not None or have.base is None:
        return Check(
            "base",
            f"The checkpoints agree in {how}; that they started from the study's base cannot be measured: {unknown or 'it is not there yet'}",
            "note",
            numbers,
        )
    v = task_vectors(have.base.vector, [have.means[name].vector for name in brought])
    share = v.norms / v.base if v.base else np.full(len(brought), np.nan)
    numbers |= {
        "distance": dict(zip(brought, share, strict=True)),
        "cosine": dict(zip(brought, v.to_base, strict=True)),
    }
    adapter = folders is not None and folders.is_adapter
    if not adapter and np.nanmax(share) > FAR:
        worst = int(np.nanargmax(share))
        return Check(
            "base",
            f"{brought[worst]} is {share[worst]:.2g} of the base's length away from it, cosine {v.to_base[worst]:.2g}; networks "
            "of different starts are about 1.4 apart. Was it finetuned from this base? Else merging it means nothing.",
            "warning",
            numbers,
        )
    near = (
        ""
        if adapter
        else f", and the parameters are at most {100 * np.nanmax(share):.2g} % of the base's length from it"
    )
    return Check(
        "base",
        f"The checkpoints agree with the base in {how}{near}: nothing speaks against one base.",
        "ok",
        numbers,
    )


def _plain(value: Any) -> Any:
    """As JSON data: what is no number is None."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
