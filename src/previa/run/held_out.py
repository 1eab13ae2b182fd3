"""A task's test examples, the same at every weighting, and values for each of them from batches that fit the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from previa.data.files import Rows
from previa.errors import InputError
from previa.run.records import digest_of
from previa.run.square_pass import Task, drawn
from previa.run.tokens import Example, to_model

TOKENS, PICTURES = 4096, 64  # of one batch, with its padding


@final
@dataclass
class Budget:
    """Tokens that a batch may hold: halved when memory runs out, and remembered for the next weighting."""

    tokens: int = TOKENS


@final
@dataclass(frozen=True)
class HeldOut:
    """A task's test examples, the same at every weighting, in the order of the rows."""

    task: Task
    examples: tuple[Example, ...]
    rows: tuple[Any, ...]
    """the chosen rows themselves, one an example"""
    budget: Budget = field(default_factory=Budget, compare=False)

    def __len__(self) -> int:
        return len(self.examples)

    def digest(self) -> str:
        """Of the rows and of what the task made of them; pictures in files count by their names."""
        return digest_of(
            part for row, e in zip(self.rows, self.examples, strict=True) for part in (row, e.inputs)
        )

    def batches(self) -> Iterator[tuple[list[int], Any]]:
        """As ``batches``."""
        return batches(self)


def held_out(
    rows: Rows, task: Task, *, at_most: int | None = None, seed: int = 0, where: str = ""
) -> HeldOut:
    """The examples of all rows, or of ``at_most`` drawn by the seed. Raises InputError, beginning with ``where``."""
    numbers = drawn(len(rows), at_most, seed)
    start = f"{where}, " if where else ""
    chosen = [(rows[n], task.example(rows[n], f"{start}row {n + 1}")) for n in numbers]
    usable = [(row, example) for row, example in chosen if example is not None]
    if not usable:
        raise InputError(
            f"{start}none of {len(numbers)} test rows has anything to predict. Are these the right columns?"
        )
    return HeldOut(task, tuple(e for _, e in usable), tuple(r for r, _ in usable))


def batches(held: HeldOut, tokens: int | None = None) -> Iterator[tuple[list[int], Any]]:
    """(numbers of the examples, their batch), longest first; at most ``tokens`` with the padding, but one example at least."""
    left = _longest_first(held)
    while left:
        budget = held.budget if tokens is None else Budget(tokens)
        size = _items(held.examples[left[0]].length, budget)
        part, left = left[:size], left[size:]
        yield part, held.task.collate([held.examples[n] for n in part])


def values_of(
    model: Module, held: HeldOut, of: Callable[[Sequence[int], torch.device], Sequence[Any] | Tensor]
) -> list[Any]:
    """of(numbers, device) for parts of the examples, in the order of the rows; the budget is halved when memory runs out.

    Raises InputError where the memory is too small for one example.
    """
    device = next(model.parameters()).device
    found: list[Any] = [None] * len(held)
    left = _longest_first(held)
    while left:
        longest = held.examples[left[0]].length
        part = left[: _items(longest, held.budget)]
        try:
            values = of(part, device)
        except torch.OutOfMemoryError:
            if len(part) == 1:
                raise InputError(
                    f"the device's memory is too small for one test example of length {longest}. Shorten the examples, or "
                    "use a larger device."
                ) from None
            held.budget.tokens = len(part) * longest // 2
            continue
        for number, value in zip(part, values, strict=True):
            found[number] = value
        left = left[len(part) :]
    return found


def moved(batch: Any, model: Module) -> Any:
    """A batch on the model's device, its floats but labels in the model's precision."""
    like = next(model.parameters())
    return to_model(batch, like.device, like.dtype)


def _longest_first(held: HeldOut) -> list[int]:
    return sorted(range(len(held)), key=lambda n: -held.examples[n].length)


def _items(length: int, budget: Budget) -> int:
    """How many examples of this length fit."""
    fit = max(1, budget.tokens // length)
    return min(fit, PICTURES) if length == 1 else fit
