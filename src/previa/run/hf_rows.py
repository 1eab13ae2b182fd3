"""Tasks for finetuning a model of transformers: rows from files, tokenised once; batches of any tasks; the loss of each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from previa.errors import InputError
from previa.fit.batches import map_tensors
from previa.fit.labels import Given
from previa.run.classification import ImageClassification
from previa.run.draws import generator, joined
from previa.run.finetune import Loss
from previa.run.joint_data import Tokens, token_counter
from previa.run.language import CausalLM, Seq2Seq
from previa.run.rows import rows_of
from previa.run.square_pass import Task
from previa.run.tokens import Example
from previa.run.transformers_model import Loaded
from previa.run.transformers_tasks import task_of


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How model and data are read: the same options as those of ``previa posterior squared-gradients``.

    per_token: every supervised token counts alike, as in transformers' Trainer; otherwise every row does, with the mean over
    its tokens. dtype: of the weights.
    """

    task_type: str
    base: str | Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    config: str | None = None
    split: str = "train"
    tokenizer: str | Path | None = None
    max_length: int | None = None
    dtype: torch.dtype = torch.float32
    per_token: bool = False


def read_task(
    name: str, place: str, loaded: Loaded, reading: Reading
) -> tuple[Task, list[dict[str, Any]], int]:
    """A task, its tokenised rows, and how many had nothing to predict. Raises InputError naming task and row."""
    rows, folder = rows_of(place, config=reading.config, split=reading.split)
    task = task_of(
        reading.task_type, loaded, rows, columns=reading.columns, folder=folder, tokenizer=reading.tokenizer,
        max_length=reading.max_length,
    )  # fmt: skip
    found = []
    for number in range(len(rows)):
        example = task.example(rows[number], f"task {name!r}, row {number + 1}")
        if example is not None:
            found.append({"task": name, "inputs": dict(example.inputs)})
    if not found:
        raise InputError(
            f"task {name!r}: none of the {len(rows)} rows of {place} has anything to predict. Are these the right columns?"
        )
    return task, found, len(rows) - len(found)


def loss_of(task: Task) -> Loss:
    """The loss of each example with the data's labels, [B]."""
    labels = task.labels("given", generator(0, "labels"))
    assert isinstance(labels, Given)
    return labels.loss


def collate_of(tasks: Mapping[str, Task]) -> Callable[[list[Any]], Any]:
    """One batch of tokenised rows of any tasks, in their order."""
    first = next(iter(tasks.values()))

    def together(rows: list[Any]) -> Any:
        return first.collate([Example(row["inputs"]) for row in rows])

    def apart(rows: list[Any]) -> Any:
        """Names of picture files count from the folder of their own task."""
        by_task = {name: [i for i, row in enumerate(rows) if row["task"] == name] for name in tasks}
        parts = [
            tasks[name].collate([Example(rows[i]["inputs"]) for i in numbers])
            for name, numbers in by_task.items()
            if numbers
        ]
        order = torch.tensor([i for numbers in by_task.values() for i in numbers]).argsort()
        batch = joined(parts)
        if batch is None:
            raise InputError(
                "pictures of different tasks have different sizes after the model's own processor."
            )
        return map_tensors(lambda tensor: tensor[order], batch)

    return apart if isinstance(first, ImageClassification) else together


def counter_of(task: Task) -> Tokens:
    """Counts the supervised tokens of a row. Raises InputError for a task whose labels are no tokens."""
    if not isinstance(task, CausalLM | Seq2Seq):
        raise InputError(
            "--per-token is for tasks whose labels are tokens, causal-lm and seq2seq. For others every row counts alike."
        )
    tokens = token_counter(shifted=isinstance(task, CausalLM))
    return lambda row: tokens(row["inputs"])
