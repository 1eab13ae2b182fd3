"""Which examples each step of a weighted finetuning sees: drawn before it starts, from streams of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.utils.data import default_collate

from previa.errors import InputError
from previa.fit.batches import leaves, map_tensors, tensors

EXPECTED = (
    "expected a tuple (inputs, targets), or other tensors or numpy arrays of numbers, with the examples along axis 0; a list "
    "of single examples; or a data set with len() and [index]"
)


def generator(seed: int, *names: str) -> Generator:
    """A stream of random numbers that depends on the seed and the names only: the same in every process."""
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


@final
class Source:
    """A task's examples: a tree of tensors or numpy arrays with the examples along axis 0, or a map-style data set, collated.

    A tensor, an array, a mapping or a tuple is a tree; a list, or anything else with len() and [index], is a data set, whose
    examples torch collates, or its own method collate(examples) -> batch where it has one.
    ``data`` is what came, with tensors in place of arrays: of the same type, and of the same memory where that is possible.
    Raises InputError naming the task where it is neither, or empty.
    """

    def __init__(self, task: str, data: Any) -> None:
        self.tree = isinstance(data, Mapping | tuple | Tensor | np.ndarray)
        self.data = arrays_to_tensors(data) if self.tree else data
        if self.tree:
            for leaf in leaves(self.data):
                if not isinstance(leaf, Tensor):
                    raise InputError(
                        f"task {task!r}: its data is a {type(data).__name__} that holds {_found(leaf)}; {EXPECTED}."
                    )
            lengths = {len(tensor) if tensor.dim() else 0 for tensor in tensors(self.data)}
            if len(lengths) != 1:
                raise InputError(
                    f"task {task!r}: its tensors have lengths {sorted(lengths)} along axis 0; one is needed. Single "
                    "examples are handed in as a list of them."
                )
            self.length = lengths.pop()
        elif hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, str | bytes):
            self.length = len(data)
        else:
            raise InputError(f"task {task!r}: its data is {type(data).__name__}; {EXPECTED}.")
        if not self.length:
            raise InputError(f"task {task!r}: its data is empty.")
        if isinstance(data, list):
            _check_examples(task, data)

    def __len__(self) -> int:
        return self.length

    def batch(self, rows: Tensor) -> Any:
        """The examples at ``rows`` [B] as one batch."""
        if self.tree:
            return map_tensors(lambda tensor: tensor[rows], self.data)
        collate = getattr(self.data, "collate", default_collate)
        return collate([self.data[row] for row in rows.tolist()])


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


def arrays_to_tensors(tree: Any) -> Any:
    """The same tree with a tensor in place of each numpy array of numbers; itself where there is none."""
    if isinstance(tree, np.ndarray):
        return _tensor(tree) if tree.dtype.kind in "biufc" else tree
    if not any(isinstance(leaf, np.ndarray) for leaf in leaves(tree)):
        return tree
    if isinstance(tree, Mapping):
        return {key: arrays_to_tensors(value) for key, value in tree.items()}
    parts = [arrays_to_tensors(part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


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


def _tensor(array: NDArray[Any]) -> Tensor:
    shared = array.flags.writeable and array.dtype.isnative and min(array.strides, default=0) >= 0
    return torch.from_numpy(array if shared else np.array(array, array.dtype.newbyteorder("="), order="C"))


def _check_examples(task: str, examples: list[Any]) -> None:
    """Raises InputError where the first and the last do not make a batch: [inputs, targets] is no list of examples."""
    try:
        batch_length(default_collate([examples[0], examples[-1]]))
    except (RuntimeError, TypeError, ValueError, KeyError, InputError) as error:
        raise InputError(
            f"task {task!r}: its data is a list, of {_found(examples[0])} and {_found(examples[-1])}, which are no two "
            f"examples of the same form; {EXPECTED}."
        ) from error


def _found(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} of {value.dtype} {tuple(value.shape)}"
    return type(value).__name__
