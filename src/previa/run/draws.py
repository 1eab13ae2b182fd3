"""Which examples each step of a weighted finetuning sees: drawn before it starts, from streams of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Generator, Tensor
from torch.utils.data import default_collate

from previa.errors import InputError
from previa.fit.batches import leaves, map_tensors, tensors


def generator(seed: int, *names: str) -> Generator:
    """A stream of random numbers that depends on the seed and the names only: the same in every process."""
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


@final
class Source:
    """A task's examples: any nesting of tensors with the examples along axis 0, or a map-style data set, collated.

    Raises InputError naming the task where it is neither, or empty.
    """

    def __init__(self, task: str, data: Any) -> None:
        self.data = data
        self.tree = isinstance(data, Mapping | tuple | list | Tensor) and all(
            isinstance(leaf, Tensor) for leaf in leaves(data)
        )
        if self.tree:
            lengths = {len(tensor) if tensor.dim() else 0 for tensor in tensors(data)}
            if len(lengths) != 1:
                raise InputError(
                    f"task {task!r}: its tensors have lengths {sorted(lengths)} along axis 0; one is needed."
                )
            self.length = lengths.pop()
        elif hasattr(data, "__len__") and hasattr(data, "__getitem__"):
            self.length = len(data)
        else:
            raise InputError(
                f"task {task!r}: its data is {type(data).__name__}; expected tensors with the examples along axis 0, as "
                "(inputs, targets), or a data set with len() and [index]."
            )
        if not self.length:
            raise InputError(f"task {task!r}: its data is empty.")

    def __len__(self) -> int:
        return self.length

    def batch(self, rows: Tensor) -> Any:
        """The examples at ``rows`` [B] as one batch."""
        if self.tree:
            return map_tensors(lambda tensor: tensor[rows], self.data)
        return default_collate([self.data[row] for row in rows.tolist()])


@final
class Draws:
    """For each step and task t the rows of its examples, [count_t] each, in whole shuffled passes over the task.

    counts [steps, T]; ``seed`` and the task's name decide its order, whatever the other tasks are.
    """

    def __init__(self, sources: Mapping[str, Source], counts: Tensor, seed: int) -> None:
        self.steps = len(counts)
        self._rows: dict[str, tuple[Tensor, ...]] = {}
        for each, (task, source) in zip(counts.T, sources.items(), strict=True):
            if total := int(each.sum()):
                rows = _passes(len(source), total, generator(seed, "order", task))
                self._rows[task] = rows.tensor_split(each.cumsum(0)[:-1])

    def step(self, number: int) -> list[tuple[str, Tensor]]:
        """(task, rows) of the tasks that have examples in this step, in the order of the tasks."""
        return [(task, rows[number]) for task, rows in self._rows.items() if len(rows[number])]


def batch_length(batch: Any) -> int:
    """The number of examples in a batch: the length of its first tensor. Raises InputError where it has none."""
    for tensor in tensors(batch):
        if tensor.dim():
            return len(tensor)
    raise InputError(
        f"a batch of type {type(batch).__name__} holds no tensor with the examples along axis 0."
    )


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on ``device``; itself on the CPU, where data is."""
    return batch if device.type == "cpu" else map_tensors(lambda tensor: tensor.to(device), batch)


def joined(batches: Sequence[Any]) -> Any:
    """Batches of several tasks as one, concatenated along axis 0; None where their shapes do not allow it."""
    try:
        return _joined(batches)
    except (RuntimeError, KeyError, ValueError):  # shapes, names or lengths that differ
        return None


def _joined(batches: Sequence[Any]) -> Any:
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(list(batches))
    if isinstance(first, Mapping):
        if any(set(batch) != set(first) for batch in batches):
            raise KeyError
        return {name: _joined([batch[name] for batch in batches]) for name in first}
    if isinstance(first, tuple | list):
        parts = [_joined(part) for part in zip(*batches, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    if isinstance(first, str) or any(batch != first for batch in batches):
        raise ValueError
    return first


def _passes(N: int, count: int, stream: Generator) -> Tensor:
    """``count`` rows of N in whole random permutations, the last one cut."""
    return torch.cat([torch.randperm(N, generator=stream) for _ in range(-(-count // N))])[:count]
