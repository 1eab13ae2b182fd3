"""Parameters of a model: a mapping from name to tensor, and the same held in one vector."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from previa.errors import NotFiniteError, ParamsError

Params = Mapping[str, Tensor]
"""The only container of parameters: a dict, a state_dict, or a lazily read file."""


@final
@dataclass(frozen=True)
class Layout:
    """Names and shapes of a model's parameters, in the order in which one vector of length P holds them."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, params: Params, where: str = "parameters") -> Layout:
        """The layout of ``params``, in their own order. Raises ParamsError where they are no tensors by name."""
        named = by_name(params, where)
        return cls(tuple((name, _shape(named[name], name, where)) for name in named))

    @cached_property
    def places(self) -> dict[str, tuple[int, int, tuple[int, ...]]]:
        """name -> (first entry, entry after the last, shape) in the vector."""
        places, start = {}, 0
        for name, shape in self.shapes:
            stop = start + math.prod(shape)
            places[name] = (start, stop, shape)
            start = stop
        return places

    @cached_property
    def size(self) -> int:
        """P, the number of parameters."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    def check(self, params: Params, where: str = "parameters", other: str = "the others") -> None:
        """Raise ParamsError, naming the tensor and both shapes, unless ``params`` has exactly these names and shapes."""
        by_name(params, where)
        hint = "All tasks must come from one base model."
        missing = [name for name in self.places if name not in params]
        extra = [name for name in params if name not in self.places]
        if missing:
            raise ParamsError(
                f"{where}: tensor {missing[0]!r} is missing{_more(missing)}; {other} have it. {hint}"
            )
        if extra:
            raise ParamsError(f"{where}: tensor {extra[0]!r} is not in {other}{_more(extra)}. {hint}")
        for name, shape in self.shapes:
            found = _shape(params[name], name, where)
            if found != shape:
                raise ParamsError(
                    f"{where}: tensor {name!r} has shape {found}, but {other} have {shape}. {hint} "
                    "Was a token or a class added for one of them?"
                )

    def flatten(self, params: Params, where: str = "parameters", other: str = "the others") -> Tensor:
        """One vector [P] of ``params``: float64 if any tensor is, else float32 (half precisions are upcast).

        Raises ParamsError where names or shapes differ, NotFiniteError naming the tensor with NaN or infinity.
        """
        self.check(params, where, other)
        tensors = [params[name].detach() for name in self.places]
        for name, tensor in zip(self.places, tensors, strict=True):
            if not tensor.is_floating_point():
                raise ParamsError(
                    f"{where}: tensor {name!r} is {tensor.dtype}, but only floating-point tensors can be merged. "
                    "Hand in the parameters (model.named_parameters()), not integer buffers."
                )
        wide = any(tensor.dtype == torch.float64 for tensor in tensors)
        dtype = torch.float64 if wide else torch.float32
        vector = (
            torch.cat([tensor.reshape(-1).to(dtype) for tensor in tensors]) if tensors else torch.zeros(0)
        )
        if not _finite(vector):
            name = next(
                name for name, tensor in zip(self.places, tensors, strict=True) if not _finite(tensor)
            )
            raise NotFiniteError(
                f"{where}: tensor {name!r} holds NaN or infinity. Its training diverged, or the file is damaged."
            )
        return vector

    def blocks(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of each module's parameters, its weight and bias together: blocks that tile the vector."""
        blocks: list[tuple[str, int, int]] = []
        for name, (start, stop, _) in self.places.items():
            module = name.rpartition(".")[0]
            if blocks and blocks[-1][0] == module:
                blocks[-1] = (module, blocks[-1][1], stop)
            else:
                blocks.append((module, start, stop))
        return tuple((start, stop) for _, start, stop in blocks)

    def part(self, start: int, stop: int) -> Layout:
        """The layout of entries start..stop of the vector, under one name: what a chunk of parameters is called."""
        return Layout(((f"[{start}:{stop}]", (stop - start,)),))


@final
class Flat(Mapping[str, Tensor]):
    """Parameters held in one vector [..., P]; the values are views of it, leading dimensions are a batch."""

    __slots__ = ("layout", "vector")

    def __init__(self, layout: Layout, vector: Tensor) -> None:
        if vector.shape[-1] != layout.size:
            raise ParamsError(f"a vector of {vector.shape[-1]} entries cannot hold {layout.size} parameters.")
        self.layout = layout
        self.vector = vector

    @classmethod
    def of(cls, params: Params, layout: Layout | None = None, where: str = "parameters") -> Flat:
        """``params`` in one vector; itself when it is one already. Raises as Layout.flatten."""
        if isinstance(params, Flat) and (layout is None or params.layout == layout):
            return params
        layout = layout or Layout.of(params, where)
        return cls(layout, layout.flatten(params, where))

    def __getitem__(self, name: str) -> Tensor:
        start, stop, shape = self.layout.places[name]
        piece = self.vector[..., start:stop]
        return piece.view((*piece.shape[:-1], *shape))

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.places)

    def __len__(self) -> int:
        return len(self.layout.places)

    def __repr__(self) -> str:
        batch = tuple(self.vector.shape[:-1])
        return f"Flat({len(self)} tensors, {self.layout.size} parameters, batch {batch})"

    def part(self, start: int, stop: int) -> Flat:
        """Entries start..stop of the vector, without a copy."""
        return Flat(self.layout.part(start, stop), self.vector[..., start:stop])

    def row(self, index: int) -> Flat:
        """Row ``index`` of a batch, without a copy."""
        return Flat(self.layout, self.vector[index])


def by_name(params: Params, where: str) -> Params:
    """``params``, which must be a mapping. Raises ParamsError saying ``where`` for a tensor, a number, a posterior ..."""
    if not isinstance(params, Mapping):
        raise ParamsError(
            f"{where}: found a {type(params).__name__}; expected tensors by name, such as a state_dict. For a single tensor x "
            "hand in {'x': x}; for a posterior, its mean."
        )
    return params


def _shape(tensor: object, name: str, where: str) -> tuple[int, ...]:
    if not isinstance(tensor, Tensor):
        raise ParamsError(
            f"{where}: {name!r} is a {type(tensor).__name__}; expected a torch tensor (torch.as_tensor makes one)."
        )
    return tuple(tensor.shape)


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _finite(tensor: Tensor) -> bool:
    """Whether all entries are finite: a sum is NaN or infinite if any entry is (or, in doubt, looks at each)."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())
