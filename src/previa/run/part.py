"""A part of a task's test data: the same items of everything that it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from previa.errors import InputError
from previa.run.held_out import HeldOut
from previa.run.lm_eval_scores import LmEval
from previa.run.text_scores import Scored

INDEXED = (
    "tensors or arrays with the items along axis 0, also in tuples and dictionaries; a list of items; a data set with len() and "
    "[index]"
)


def items_of(test: Any, where: str) -> int:
    """How many items test data holds. Raises InputError where it cannot be told, or is not the same in all that it holds."""
    lengths = set(_lengths(test, where))
    if len(lengths) != 1:
        raise InputError(
            f"{where}: its test data holds parts of lengths {sorted(lengths)}, so a part of the items cannot be taken. Expected "
            "one length. Score every weighting on all items instead."
        )
    return lengths.pop()


def part_of(test: Any, numbers: Sequence[int], where: str) -> Any:
    """These items only, in this order, in data of the same kind; data sets become `torch.utils.data.Subset`.

    Raises InputError for data that cannot be indexed.
    """
    items_of(test, where)
    return _part(test, [int(n) for n in numbers], where)


def _lengths(test: Any, where: str) -> list[int]:
    if isinstance(test, Scored | HeldOut):
        _check_own(test, where)
        return [len(test)]
    if isinstance(test, Mapping):
        return [n for value in test.values() for n in _lengths(value, where)]
    if isinstance(test, tuple):
        return [n for value in test for n in _lengths(value, where)]
    sized = hasattr(test, "__len__") and hasattr(test, "__getitem__") and not isinstance(test, str | bytes)
    if not sized or (isinstance(test, Tensor | np.ndarray) and not test.ndim):
        raise InputError(
            f"{where}: its test data holds {type(test).__name__}, of which no part can be taken. Expected {INDEXED}. Score every "
            "weighting on all items instead."
        )
    return [len(test)]


def _part(test: Any, numbers: list[int], where: str) -> Any:
    if isinstance(test, Scored):
        return replace(test, test=_part(test.test, numbers, where))
    if isinstance(test, HeldOut):
        examples, rows = (tuple(all_of[n] for n in numbers) for all_of in (test.examples, test.rows))
        return HeldOut(test.task, examples, rows, test.budget)
    if isinstance(test, Mapping):
        return {key: _part(value, numbers, where) for key, value in test.items()}
    if isinstance(test, tuple):
        parts = [_part(value, numbers, where) for value in test]
        return type(test)(*parts) if hasattr(test, "_fields") else tuple(parts)
    if isinstance(test, Tensor):
        return test[torch.tensor(numbers, device=test.device)]
    if isinstance(test, np.ndarray):
        return test[numbers]
    if isinstance(test, list):
        return [test[n] for n in numbers]
    if hasattr(test, "iloc"):  # of pandas
        return test.iloc[numbers]
    if hasattr(test, "select"):  # of Hugging Face's datasets
        return test.select(numbers)
    return torch.utils.data.Subset(test, numbers)


def _check_own(test: Scored | HeldOut, where: str) -> None:
    if isinstance(test, Scored) and isinstance(test.score, LmEval):
        raise InputError(
            f"{where}: a task of lm-eval brings its own items, of which no part can be taken. Score every weighting on all items "
            "instead."
        )
