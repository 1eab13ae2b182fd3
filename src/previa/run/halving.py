"""Cheap first: all weightings on few test items, the survivors on more, the last ones on all (successive halving)."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from previa.errors import InputError
from previa.run.fit import Runs
from previa.run.one_method import OneMethod, declared, evaluated_at, one_method
from previa.run.part import items_of, part_of
from previa.run.pipeline import warnings
from previa.run.search_state import Aim, first_weightings, pool_of
from previa.run.sweep import Progress
from previa.run.work import Work
from previa.study.preview import Preview
from previa.study.survivors import survivors

Array = NDArray[np.float64]

HALVINGS = "halvings"
SHARES = (1 / 16, 1 / 4)  # of the largest test set, before all of it
FEWEST = 32  # items in a round: with fewer, chance decides


def halve(
    work: Work, runs: Runs, aim: Aim | None = None, *, method: str | None = None, workers: int = 1,
    progress: Progress | None = None,
) -> Preview:  # fmt: skip
    """One preview of the study: every weighting on few test items, what survives on more, at last on all.

    Rounds are of N/16, N/4 and N items a task at most, N the largest test set, and at least FEWEST: the same items for all
    weightings, drawn once by the study's seed, those of a round among those of the next. After each `survivors` go on: about a
    quarter, so that rounds cost about the same, at most a half; corners, uniform and size-proportional weights always. Rounds
    are in the store as METHOD_first_N, the last as METHOD itself, the fact "halvings" says what they took. Resumable.
    Returns the weightings scored on all items. Raises InputError where test data has no parts or too few items, or scores are
    single numbers; StudyError for an unknown method; ScoreError where all weightings of a round fail.
    """
    aim = aim or Aim()
    work.study.names()
    aim.preference.check(work.study.names())
    counts = {task: items_of(test, f"task {task!r}") for task, (_, test) in work.ingredients.data.items()}
    caps = rounds(max(counts.values()))
    if not caps:
        raise InputError(
            f"cheap first: the largest test set has {max(counts.values())} items, and rounds of fewer than {FEWEST} tell "
            "nothing. Score every weighting on all items instead."
        )
    one = one_method(work, runs, method, progress=progress)
    always, left = first_weightings(work)[0], pool_of(work)
    whole = len(left) * sum(counts.values())
    orders = {
        t: np.random.default_rng([work.study.seed, i]).permutation(N)
        for i, (t, N) in enumerate(counts.items())
    }
    done: list[dict[str, Any]] = []
    spent = 0
    for cap in caps:
        small = _on_part(work, orders, cap)
        here = replace(
            one,
            name=f"{one.name}_first_{cap}",
            facts={**one.facts, "items": cap, "seed": work.study.seed},
            power=None,
        )
        work.store.declare(here.name, here.facts)
        found = evaluated_at(small, here, left, workers=workers, progress=progress)
        goes = survivors(found, aim.under(found)[0], always=always, seed=work.study.seed)
        done.append(_round(found, int(goes.sum()), here.name))
        spent += len(left) * sum(min(N, cap) for N in counts.values())
        left = left[goes]
    declared(work.store, one)
    found = evaluated_at(work, one, left, workers=workers, progress=progress)
    done.append(_round(found, int(found.ok.sum()), one.name))
    spent += len(left) * sum(counts.values())
    _note(work, runs, one, found, {"rounds": done, "cost": spent / whole, "of": len(pool_of(work))})
    return found


def rounds(N: int) -> list[int]:
    """The items a task at most of each round before the last, rising; none where the largest test set, of N items, is small."""
    caps = sorted({max(FEWEST, ceil(share * N)) for share in SHARES})
    return [cap for cap in caps if 2 * cap <= N]


def _on_part(work: Work, orders: dict[str, NDArray[np.intp]], cap: int) -> Work:
    """The same study with the first ``cap`` test items of each task, in its order."""
    data = {
        task: (train, part_of(test, orders[task][:cap].tolist(), f"task {task!r}"))
        for task, (train, test) in work.ingredients.data.items()
    }
    return replace(work, ingredients=replace(work.ingredients, data=data))


def _round(found: Preview, kept: int, name: str) -> dict[str, Any]:
    items = {
        task: 0 if x is None else x.shape[1] for task, x in zip(found.tasks, found.items, strict=True)
    }  # as the scorer counts them
    return {"items": items, "weightings": len(found), "kept": kept, "method": name}


def _note(work: Work, runs: Runs, one: OneMethod, found: Preview, fact: dict[str, Any]) -> None:
    store = work.store
    store.put(HALVINGS, {**(store.get(HALVINGS) or {}), one.name: fact})
    store.put("method", one.name)
    said = warnings(work, {one.name: found})
    others = [w for w in store.get("warnings") or [] if not w.startswith(f"{one.name}: ")]
    store.put("warnings", list(dict.fromkeys([*runs.warnings, *others, *said])))
