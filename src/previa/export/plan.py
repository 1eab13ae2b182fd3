"""What is to be trained: tasks with their sizes and weights, how much is drawn, and the rows of each that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from previa.errors import InputError
from previa.export.shares import Array, Average, Convention, apportion, row_shares, token_shares
from previa.study.simplex import check_alphas


@dataclass(frozen=True)
class Task:
    """One task: its data as the stack will read it, N_t rows of L_t supervised tokens on average, and its weight alpha_t.

    path: a file, the name of a data set of the Hub, or whatever else the stack understands.
    tokens: None where nothing needs it. columns: those of its first row; () where they are not known.
    """

    name: str
    path: str
    rows: int
    tokens: float | None
    alpha: float
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """A task in the mixture: ``share`` q_t of the rows, ``token_share`` p_t of the tokens, ``count`` rows k_t."""

    task: Task
    share: float
    token_share: float | None
    count: int

    @property
    def epochs(self) -> float:
        """How often each of its rows is seen on average, k_t / N_t."""
        return self.count / self.task.rows


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A mixture: ``draw`` rows in all, of tasks whose alphas sum to one.

    convention: l_t of sum_t alpha_t l_t is the "mean" or the "sum" of the task's losses.
    average: the trainer's loss is an average over "rows" or over all "tokens". Raises InputError.
    """

    tasks: tuple[Task, ...]
    draw: int
    convention: Convention = "mean"
    average: Average = "tokens"
    seed: int = 0

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise InputError(f"tasks should have different names. Found {', '.join(names)}.")
        if self.convention not in ("mean", "sum") or self.average not in ("rows", "tokens"):
            raise InputError(
                f"convention should be 'mean' or 'sum', average 'rows' or 'tokens'. Found {self.convention!r} and "
                f"{self.average!r}."
            )
        check_alphas(self.alpha, len(self.tasks))
        for task in self.tasks:
            if task.rows < 1:
                raise InputError(f"task {task.name!r}: its data has no rows.")
            if task.tokens is None and self.average == "tokens":
                raise InputError(
                    f"task {task.name!r}: the trainer averages over tokens, and the mean number of supervised tokens in "
                    f"its rows is not known. Give it: --tokens {task.name}=N."
                )
            if task.tokens is not None and not (np.isfinite(task.tokens) and task.tokens > 0):
                raise InputError(
                    f"task {task.name!r}: its rows should have supervised tokens. Found {task.tokens:g} a row."
                )
        for part in self.parts:
            if not part.count:
                raise InputError(
                    f"task {part.task.name!r}: its share of {part.share:.3g} is less than one of {self.draw} rows. Draw "
                    "more rows, or give it weight 0."
                )

    @property
    def alpha(self) -> tuple[float, ...]:
        """The weights, [T]."""
        return tuple(task.alpha for task in self.tasks)

    @cached_property
    def shares(self) -> Array:
        """q_t, the share of each task's rows, [T]."""
        rows = [task.rows for task in self.tasks]
        return row_shares(self.alpha, rows, self._tokens, convention=self.convention, average=self.average)

    @cached_property
    def token_shares(self) -> Array | None:
        """p_t, the share of each task's tokens, [T]; None where some are not known."""
        return None if self._tokens is None else token_shares(self.shares, self._tokens)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """k_t, the rows drawn of each task, [T]; they sum to ``draw``."""
        return apportion(self.shares, self.draw)

    @cached_property
    def all_parts(self) -> tuple[Part, ...]:
        """Every task's part, in the order of the tasks."""
        p = [None] * len(self.tasks) if self.token_shares is None else self.token_shares.tolist()
        return tuple(
            Part(*each)
            for each in zip(self.tasks, self.shares.tolist(), p, self.counts.tolist(), strict=True)
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the tasks that have any weight: what a stack is told about."""
        return tuple(part for part in self.all_parts if part.share > 0)

    @property
    def tokens_drawn(self) -> int | None:
        """Supervised tokens in all rows drawn; None where some are not known."""
        if self._tokens is None:
            return None
        return round(float((self.counts * np.array(self._tokens)).sum()))

    @property
    def _tokens(self) -> list[float] | None:
        found = [task.tokens for task in self.tasks if task.tokens is not None]
        return found if len(found) == len(self.tasks) else None


def rows_of_epochs(tasks: tuple[Task, ...], epochs: float) -> int:
    """As many rows as ``epochs`` passes over the data of all tasks with any weight, sum_t N_t, hold. Raises InputError."""
    if not (np.isfinite(epochs) and epochs > 0):
        raise InputError(f"epochs should be a positive number. Found {epochs}.")
    return max(1, round(epochs * sum(task.rows for task in tasks if task.alpha > 0)))


def check_epochs(plan: Plan, most: float) -> None:
    """Raises InputError where the rows of any task would be seen more than ``most`` times."""
    worst = max(plan.parts, key=lambda part: part.epochs)
    if worst.epochs <= most:
        return
    name, rows = worst.task.name, worst.task.rows
    fewer = int(most * rows / worst.share)
    raise InputError(
        f"task {name!r}: {worst.count:,} rows drawn of its {rows:,} are {worst.epochs:.3g} epochs; at most {most:g} are allowed, "
        f"since so few rows seen so often are learnt by heart. Draw at most {fewer:,} rows in all (--draw), give it less "
        f"weight, or allow it: --max-epochs {np.ceil(worst.epochs):g}."
    )
