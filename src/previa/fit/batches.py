"""Batches as trees of tensors: any nesting of mappings, tuples and lists, cut along the first axis."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, final, overload

from torch import Tensor

from previa.errors import InputError


def leaves(tree: Any) -> Iterator[Any]:
    """Everything in ``tree`` that is no mapping, tuple or list, from left to right."""
    if isinstance(tree, Mapping):
        for value in tree.values():
            yield from leaves(value)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from leaves(value)
    else:
        yield tree


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in ``tree``, from left to right."""
    return [leaf for leaf in leaves(tree) if isinstance(leaf, Tensor)]


def map_tensors(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The same structure with each tensor changed; a mapping keeps its type, everything else stays as it is."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        changed = {key: map_tensors(change, value) for key, value in tree.items()}
        if type(tree) is dict or not isinstance(tree, MutableMapping):
            return changed
        same = copy.copy(tree)
        for key, value in changed.items():
            same[key] = value
        return same
    if isinstance(tree, (tuple, list)):
        parts = [map_tensors(change, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree


@final
class Examples(Sequence[Any]):
    """The examples of a batch, each a batch of one: every tensor cut along axis 0, tensors without axes shared.

    Raises InputError unless all tensors with axes have the same length along axis 0.
    """

    def __init__(self, batch: Any) -> None:
        lengths = {len(tensor) for tensor in tensors(batch) if tensor.dim()}
        if len(lengths) != 1:
            found = f"lengths {sorted(lengths)} along their first axis" if lengths else "none"
            raise InputError(
                f"cannot cut a batch of type {type(batch).__name__} into examples: its tensors have {found}. "
                "Expected mappings, tuples or lists of tensors with the examples along axis 0; squared_gradients "
                "takes others, too, with split=, a function from a batch to the list of its examples, each a batch of one."
            )
        self._batch = batch
        self._length = lengths.pop()

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return map_tensors(lambda tensor: tensor[index : index + 1] if tensor.dim() else tensor, self._batch)
