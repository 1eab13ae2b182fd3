"""Scores of a model on the tasks: the seam to the user's own metrics. Higher is better, everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module

from previa.errors import NotFiniteError, PreviaError, ScoreError

Scores = float | Tensor | NDArray[Any] | Sequence[float]
"""A task's score: a number, or one per test item (kept: they give the noise floor); higher is better."""
Score = Callable[[Module, Any], Scores]
"""score(model, test) of one task."""
Scorer = Callable[[Module], Mapping[str, Scores]]
"""scorer(model) of all tasks, by name."""

ROWS = 4096  # images of one forward pass in ``accuracy``


def accuracy(model: Module, test: tuple[Tensor, Tensor]) -> Tensor:
    """1 for each test item whose largest logit is its target, else 0: float32 [N], for test = (inputs [N, ...], targets [N])."""
    inputs, targets = test
    device = next((parameter.device for parameter in model.parameters()), inputs.device)
    logits = [model(inputs[i : i + ROWS].to(device)) for i in range(0, len(inputs), ROWS)]
    return (torch.cat(logits).argmax(-1) == targets.to(device)).float()


def scorer(tests: Mapping[str, tuple[Score, Any]]) -> Scorer:
    """A scorer of all tasks from each task's (score, test). The scorer raises ScoreError naming the task that raised."""
    return partial(_score_each, dict(tests))


def _score_each(tests: Mapping[str, tuple[Score, Any]], model: Module) -> dict[str, Scores]:
    scores = {}
    for task, (score, test) in tests.items():
        try:
            scores[task] = score(model, test)
        except Exception as error:
            raise ScoreError(f"task {task!r}: {describe(error)}") from error
    return scores


def scored(model: Module, score: Scorer, tasks: Sequence[str]) -> dict[str, float | NDArray[Any]]:
    """score(model), checked: for each of ``tasks`` in order, a finite number or a 1-D array of one number per item.

    Raises ScoreError where a task is missing or unknown or its score is no score, NotFiniteError naming the task; errors of
    ``score`` itself pass through.
    """
    found = score(model)
    if not isinstance(found, Mapping):
        raise ScoreError(
            f"the score function returned {type(found).__name__}, but a mapping from task to score is needed: "
            f"{{{', '.join(f'{task!r}: ...' for task in tasks)}}}."
        )
    missing = [task for task in tasks if task not in found]
    extra = [task for task in found if task not in tasks]
    if missing or extra:
        raise ScoreError(
            f"the score function returned scores of {_named(found)}, but the tasks are {_named(tasks)}."
        )
    return {task: _checked(task, found[task]) for task in tasks}


def same_items(counts: dict[str, int], scores: Mapping[str, float | NDArray[Any]]) -> str | None:
    """What is wrong unless each task has as many items as in ``counts`` (0: a number), where unseen tasks are entered."""
    for task, values in scores.items():
        found = len(values) if isinstance(values, np.ndarray) else 0
        expected = counts.setdefault(task, found)
        if found != expected:
            return (
                f"task {task!r}: {found or 'no'} item scores, but {expected or 'none'} at other weightings. Score the same "
                "items in the same order every time, or return one number."
            )
    return None


def describe(error: BaseException) -> str:
    """An error in one line: its type, its message, and the place in the source where it was raised; previa's own, as it is."""
    if isinstance(error, PreviaError):
        return " ".join(str(error).split())
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    code = place.tb_frame.f_code if place is not None else None
    line = f" (in {code.co_name}, line {place.tb_lineno})" if code is not None and place is not None else ""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:500]}{line}"


def _checked(task: str, value: Scores) -> float | NDArray[Any]:
    try:
        array = np.asarray(value.detach().double().cpu() if isinstance(value, Tensor) else value)
        array = array.astype(np.float64 if array.ndim == 0 else np.float32)
    except (TypeError, ValueError) as error:
        raise ScoreError(
            f"task {task!r}: the score is {type(value).__name__}, but it must be a number or one number per item."
        ) from error
    if array.ndim > 1 or array.size == 0:
        raise ScoreError(
            f"task {task!r}: the score has shape {array.shape}, but it must be a number or one number per item."
        )
    if not np.isfinite(array).all():
        raise NotFiniteError(
            f"task {task!r}: {int((~np.isfinite(array)).sum())} of {array.size} scores are NaN or infinite."
        )
    return float(array) if array.ndim == 0 else array


def _named(tasks: Mapping[str, Any] | Sequence[str]) -> str:
    return ", ".join(repr(task) for task in tasks)
