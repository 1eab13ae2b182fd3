"""A search under way: what it may take, what it is for, what the store has of it, and what failed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from previa.errors import InputError, ScoreError
from previa.run.one_method import OneMethod, evaluated_at
from previa.run.sweep import Progress
from previa.run.work import Work
from previa.study import simplex
from previa.study.item_noise import item_noise
from previa.study.preference import Preference, experts_of
from previa.study.preview import Preview
from previa.study.search import (
    PLAIN,
    Goal,
    candidates,
    distinct,
    expected_gain,
    neighbours,
    number_to_start,
    small_grid,
    start,
)

Array = NDArray[np.float64]

SEARCHES = "searches"
ENOUGH = 0.03  # of `item_noise`; see docs/searching.md for what that gave away
STOPPED = "it was stopped before its end"
BESIDE = (
    3  # of the best weightings, whose neighbours are candidates too where the grid is too large for all to be
)


@dataclass(frozen=True)
class Budget:
    """What a search may take: evaluations in all, those that are there already included, or minutes of this run.

    stop_early: it ends before, where no candidate is expected to gain more than ENOUGH of what other test items would change.
    Corners, uniform and size-proportional weights are evaluated in any case. Raises InputError where it is no budget.
    """

    evaluations: int | None = None
    minutes: float | None = None
    stop_early: bool = False

    def __post_init__(self) -> None:
        n, m = self.evaluations, self.minutes
        if (n is None) == (m is None) or (n is not None and n < 1) or (m is not None and not 0 < m < np.inf):
            raise InputError(
                f"a search needs a budget: a number of evaluations of at least 1, or minutes. Found {n!r} and {m!r}."
            )


@dataclass(frozen=True)
class Aim:
    """What a search is for. relative: scores count as shares of those of the tasks' own experts, at the corners.

    tolerance: of goal "region": how far below the best is near-best; by default what other test items would change, as far as
    per-item scores tell (`study.item_noise`).
    """

    goal: Goal = "best"
    preference: Preference = PLAIN
    relative: bool = False
    tolerance: float | None = None

    def under(self, preview: Preview) -> tuple[Preference, float | None]:
        """The preference and the tolerance, given what was evaluated."""
        p = replace(self.preference, relative_to=experts_of(preview)) if self.relative else self.preference
        known = self.goal == "best" or self.tolerance is not None
        return p, self.tolerance if known else item_noise(preview, p)


def first_weightings(work: Work) -> tuple[Array, Array]:
    """Those that are always evaluated: corners, uniform, size-proportional; and these with Sobol points of the study's grid."""
    T = len(work.study.tasks)
    least = distinct(np.vstack([np.eye(T), work.uniform, work.size_proportional]))
    pool = pool_of(work)
    taken = [simplex.find(pool, alpha) for alpha in least]
    rows = list(least)
    for alpha in start(T, number_to_start(T), seed=work.study.seed)[T + 1 :]:
        off = np.linalg.norm(pool - alpha, axis=1)
        off[[i for i in taken if i is not None]] = np.inf
        if np.isfinite(off).any():
            taken.append(int(np.argmin(off)))
            rows.append(pool[taken[-1]])
    return least, np.array(rows)


def pool_of(work: Work) -> Array:
    """What a search chooses among: the candidates of the study's grid, uniform and size-proportional weights: [C, T]."""
    grid = candidates(len(work.study.tasks), work.study.preview.steps)
    return distinct(np.vstack([grid, work.uniform, work.size_proportional]))


class State:
    """A search under way: what the store has of it, what failed, what it took."""

    def __init__(
        self, work: Work, one: OneMethod, budget: Budget, aim: Aim, engine: str, progress: Progress | None
    ) -> None:
        self.work, self.one, self.budget, self.aim, self.engine = work, one, budget, aim, engine
        self.progress = progress
        self.started = time.monotonic()
        self.failed: dict[str, Array] = {}
        self.made = 0  # evaluations of this run, failures among them
        before = (work.store.get(SEARCHES) or {}).get(one.name, {}).get("order", [])
        self.order = [list(alpha) for alpha in before]
        self.found = self.read()
        self.there = len(self.found)  # weightings scored
        self.tell()

    @property
    def spent(self) -> int:
        """Evaluations that count: those that are there, and failures of this run."""
        return self.there + len(self.failed)

    def read(self) -> Preview:
        """All that was scored, from the store."""
        store = self.work.store
        if self.one.name not in store.methods():
            return Preview(store.tasks, np.zeros((0, 0)), np.zeros((0, 0)))
        preview = store.preview(self.one.name)
        return preview.rows(preview.ok)

    def free(self, alphas: Array) -> Array:
        """Those of alphas that are neither scored nor failed in this run, each once."""
        rows = distinct(alphas)
        rows = rows[self.work.store.missing(self.one.name, rows)]
        return rows[[simplex.key(row) not in self.failed for row in rows]] if len(rows) else rows

    def evaluate(self, alphas: Array, workers: int) -> None:
        """Score those that are free, and keep which failed."""
        left = self.free(alphas)
        if not len(left):
            return
        self.order += left.tolist()
        self.note(None)  # before: what a kill leaves is in the order, and what it prevents is left out of it
        before, failure = self.made, None

        def tell(_: str, done: int, total: int) -> None:
            self.made = before + done
            self.tell(done)

        try:
            evaluated_at(self.work, self.one, left, workers=workers, progress=tell)
        except ScoreError as error:
            failure = error
        self.found = self.read()
        self.there = len(self.found)
        for row in left[self.work.store.missing(self.one.name, left)]:
            self.failed[simplex.key(row)] = row
        if failure is not None and not self.there:
            raise failure

    def beside(self) -> list[Array]:
        """The neighbours of the best weightings, where the candidates are not the whole grid."""
        T, steps = len(self.work.study.tasks), self.work.study.preview.steps
        if small_grid(T, steps):
            return []
        preference, _ = self.aim.under(self.found)
        found = self.found
        keys = (-preference.value(found.scores, found.tasks), preference.shortfall(found.scores, found.tasks))
        return [neighbours(alpha, steps) for alpha in found.alphas[np.lexsort(keys)[:BESIDE]]]

    def enough(self, among: Array) -> bool:
        """Whether no candidate is expected to gain anything that the test items could show; asked for in the budget only."""
        if not self.budget.stop_early:
            return False
        found = self.found
        preference, _ = self.aim.under(found)
        noise = item_noise(found, preference)
        if noise is None:
            raise InputError(
                "search: to stop early needs scores of single test items, for the noise that gains are held against. Give a "
                "budget without it."
            )
        gains = expected_gain(found.alphas, found.scores, found.tasks, among, preference=preference)
        return bool(gains.max() < ENOUGH * noise)

    def ended(self) -> str | None:
        """Why no further evaluation begins, or None."""
        if self.budget.evaluations is not None:
            return "the evaluations were used up" if self.spent >= self.budget.evaluations else None
        assert self.budget.minutes is not None
        elapsed, limit = time.monotonic() - self.started, 60 * self.budget.minutes
        pace = elapsed / self.made if self.made else 0.0
        return "the time was used up" if elapsed + pace > limit else None

    def tell(self, more: int = 0, *, end: bool = False) -> None:
        """How far the search is: evaluations, or seconds where the budget is of time."""
        if self.progress is None:
            return
        name, n, minutes = f"search, {self.one.name}", self.budget.evaluations, self.budget.minutes
        if n is not None:
            done = min(self.spent + more, n)
            self.progress(name, done, done if end else n)
            return
        assert minutes is not None
        total = max(1, round(60 * minutes))
        done = min(round(time.monotonic() - self.started), total)
        self.progress(f"{name}, seconds", done, done if end else total)

    def note(self, why: str | None) -> None:
        """Keep the store's fact "searches": what was asked for, and all that was evaluated, in order."""
        store, budget, aim = self.work.store, self.budget, self.aim
        every: Mapping[str, Any] = store.get(SEARCHES) or {}
        there = {simplex.key(a) for a in self.found.alphas}
        order = [a for a in self.order if why is None or simplex.key(a) in there]
        unique = list({simplex.key(a): a for a in order}.values())
        p = aim.preference
        fact = {
            "goal": aim.goal, "budget": budget.evaluations, "minutes": budget.minutes, "stop_early": budget.stop_early, "engine": self.engine,
            "start": len(first_weightings(self.work)[1]), "evaluations": len(there), "steps": self.work.study.preview.steps,
            "preference": {"weights": dict(p.weights), "floors": dict(p.floors), "worst": p.worst, "relative": aim.relative},
            "order": unique, "why_ended": why or STOPPED, "candidates": len(pool_of(self.work)),
        }  # fmt: skip
        store.put(SEARCHES, {**every, self.one.name: fact})
