"""One call of a unit in a forward pass, and from it the gradients of each example: by a rule, or by running it again."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, final

import torch
from torch import Tensor
from torch.func import functional_call

from previa.fit.batches import map_tensors, tensors
from previa.fit.ladder import Unit


class NotPerExampleError(RuntimeError):
    """A unit's call cannot be told apart by example along axis 0; ``names`` are the parameters that must go another way."""

    def __init__(self, message: str, names: Iterable[str]) -> None:
        super().__init__(message)
        self.names = tuple(names)


class Call(Protocol):
    """A recorded call that has received its output's gradient."""

    unit: Unit

    def gradients(self, rows: slice, wanted: Collection[str]) -> dict[str, Tensor]:
        """Gradients [b, *shape] of the examples in ``rows``, by the parameters' names inside the unit."""
        ...


@final
@dataclass
class RuleCall:
    """A call of a layer with a rule: its input a and its output's gradient g, both [B, ...]."""

    unit: Unit
    a: Tensor
    g: Tensor

    def gradients(self, rows: slice, wanted: Collection[str]) -> dict[str, Tensor]:
        """The rule's gradients."""
        assert self.unit.rule is not None
        return self.unit.rule(self.unit.module, self.a[rows], self.g[rows], wanted)


@final
@dataclass
class RunCall:
    """A call of any other unit, run again: G_i = (d y_i / d theta)^T g_i with y_i = module(x_i).

    "copies": on all examples at once, with theta copied for each, [B, 1, ..., *shape], as it is broadcast in norms, class
    tokens and positions. "replay": on each example alone. Arguments with B entries along axis 0 are cut, others shared.
    """

    unit: Unit
    examples: int
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    outputs: list[Tensor]
    g: dict[int, Tensor] = field(default_factory=dict)

    def gradients(self, rows: slice, wanted: Collection[str]) -> dict[str, Tensor]:
        """Gradients of these examples. Raises NotPerExampleError where the module gives another output than recorded."""
        if self.unit.way == "copies":
            return self._run(rows, wanted)
        each = [self._run(slice(i, i + 1), wanted) for i in range(*rows.indices(self.examples))]
        return {name: torch.cat([grads[name] for grads in each]) for name in wanted}

    def _run(self, rows: slice, wanted: Collection[str]) -> dict[str, Tensor]:
        first, last, _ = rows.indices(self.examples)

        def cut(tensor: Tensor) -> Tensor:
            own = tensor.dim() and len(tensor) == self.examples
            return (tensor[first:last] if own else tensor).detach()

        shapes = {name: self.unit.module.get_parameter(name).shape for name in self.unit.names}
        leaves = {name: self._leaf(name, last - first) for name in self.unit.names}
        args, kwargs = map_tensors(cut, self.arguments)
        try:
            with torch.enable_grad():
                outputs = float_tensors(functional_call(self.unit.module, leaves, args, kwargs))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a module of the user's raises on what it was not made for
            raise self._unlike("cannot run again") from error
        for j, g in self.g.items():
            if len(g) != self.examples or len(outputs) <= j or not _same(outputs[j], self.outputs[j][rows]):
                raise self._unlike("gives another output")
        used = [j for j in self.g if outputs[j].requires_grad]
        found = torch.autograd.grad(
            [outputs[j] for j in used],
            [leaves[name] for name in wanted],
            [self.g[j][rows].to(outputs[j].dtype) for j in used],
            allow_unused=True,
        )
        grads = {}
        for name, grad in zip(wanted, found, strict=True):
            dense = torch.zeros_like(leaves[name]) if grad is None else grad.to_dense()
            grads[name] = dense.reshape(last - first, *shapes[name])
        return grads

    def _leaf(self, name: str, examples: int) -> Tensor:
        parameter = self.unit.module.get_parameter(name).detach()
        if self.unit.way == "replay":
            return parameter.requires_grad_()
        shape, axes = tuple(parameter.shape), self.outputs[0].dim()
        shape = (1,) * (axes - len(shape)) + shape
        if shape[:1] != (1,) or parameter.numel() > _COPIED:
            raise self._unlike(f"has no room for copies of {name!r}")
        return parameter.view(shape).expand(examples, *shape[1:]).requires_grad_()

    def _unlike(self, fault: str) -> NotPerExampleError:
        how = "with copies of its parameters" if self.unit.way == "copies" else "on one example alone"
        return NotPerExampleError(
            f"{type(self.unit.module).__name__} {fault} {how}", self.unit.names.values()
        )


_COPIED = 1 << 22  # entries of the largest parameter that is copied: what an image model's positions have


def float_tensors(tree: Any) -> list[Tensor]:
    """The floating-point tensors of a module's output, from left to right."""
    return [tensor for tensor in tensors(tree) if tensor.is_floating_point()]


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal up to the rounding of a different batch size, relative to the largest entry."""
    if one.shape != other.shape:
        return False
    if not one.numel():
        return True
    tolerance = torch.finfo(one.dtype).eps ** 0.5 * other.abs().max()
    return bool((one - other).abs().max() <= tolerance)
