"""One call of a unit in a forward pass, and from it the gradients of each example: by a rule, or by replaying it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, final

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import Module, Parameter

from previa.fit.batches import map_tensors, tensors
from previa.fit.rules import RULES, has_rule


class NotPerExampleError(RuntimeError):
    """A unit's call cannot be told apart by example along axis 0; squared_gradients then takes the loop."""


@final
@dataclass(frozen=True)
class Unit:
    """A module whose calls are recorded; ``names`` maps its parameters' names inside it to the model's."""

    module: Module
    names: Mapping[str, str]
    replay: bool


def units_of(model: Module, trainable: Mapping[str, Parameter]) -> list[Unit] | None:
    """Units that own all trainable parameters: layers with a rule; other owners, each with all below it, replayed.

    None where that cannot be done: the model itself is such an owner, or a module lies in two units.
    """
    name_of = {parameter: name for name, parameter in trainable.items()}
    units: list[Unit] = []
    seen: set[Module] = set()

    def visit(module: Module) -> None:
        if module in seen:
            return
        seen.add(module)
        own = {name: name_of[p] for name, p in module.named_parameters(recurse=False) if p in name_of}
        if own and has_rule(module):
            units.append(Unit(module, own, replay=False))
        elif own:
            below = {name: name_of[p] for name, p in module.named_parameters() if p in name_of}
            units.append(Unit(module, below, replay=True))
        else:
            for child in module.children():
                visit(child)

    visit(model)
    below = [child for unit in units for child in unit.module.modules() if child is not unit.module]
    if any(unit.module is model and unit.replay for unit in units) or seen & set(below):
        return None
    return units


class Call(Protocol):
    """A recorded call that has received its output's gradient."""

    unit: Unit

    def gradients(self, rows: slice, wanted: Mapping[str, str]) -> dict[str, Tensor]:
        """Gradients [b, *shape] of the examples in ``rows``, by the parameters' names inside the unit."""
        ...


@final
@dataclass
class RuleCall:
    """A call of a layer with a rule: its input a and its output's gradient g, both [B, ...]."""

    unit: Unit
    a: Tensor
    g: Tensor

    def gradients(self, rows: slice, wanted: Mapping[str, str]) -> dict[str, Tensor]:
        """The rule's gradients."""
        module = self.unit.module
        return RULES[type(module)](module, self.a[rows], self.g[rows], wanted)


@final
@dataclass
class ReplayCall:
    """A call of any other unit: run again on each example alone, and differentiated there.

    G_i = (d y_i / d theta)^T g_i with y_i = module(x_i). Arguments with B entries along axis 0 are cut, others shared.
    """

    unit: Unit
    examples: int
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    outputs: list[Tensor]
    g: dict[int, Tensor] = field(default_factory=dict)

    def gradients(self, rows: slice, wanted: Mapping[str, str]) -> dict[str, Tensor]:
        """Gradients of the replayed examples. Raises NotPerExampleError where a replay differs from the recording."""
        each = [self._gradients(i, wanted) for i in range(*rows.indices(self.examples))]
        return {name: torch.stack([grads[name] for grads in each]) for name in wanted}

    def _gradients(self, i: int, wanted: Mapping[str, str]) -> dict[str, Tensor]:
        def cut(tensor: Tensor) -> Tensor:
            own = tensor.dim() and len(tensor) == self.examples
            return (tensor[i : i + 1] if own else tensor).detach()

        module = self.unit.module
        params = {name: module.get_parameter(name).detach().requires_grad_() for name in self.unit.names}
        args, kwargs = map_tensors(cut, self.arguments)
        try:
            with torch.enable_grad():
                outputs = float_tensors(functional_call(module, params, args, kwargs))
        except RuntimeError as error:
            raise NotPerExampleError(f"{type(module).__name__} cannot run on one example alone") from error
        for j, g in self.g.items():
            if len(g) != self.examples or not _same(outputs[j], self.outputs[j][i : i + 1]):
                raise NotPerExampleError(f"{type(module).__name__} gives another output on one example alone")
        used = [j for j in self.g if outputs[j].requires_grad]
        g_i = [self.g[j][i : i + 1].to(outputs[j].dtype) for j in used]
        leaves = [params[name] for name in wanted]
        found = torch.autograd.grad([outputs[j] for j in used], leaves, g_i, allow_unused=True)
        dense = [g.to_dense() if g is not None and g.is_sparse else g for g in found]
        zeros = torch.zeros_like
        return {n: zeros(params[n]) if g is None else g for n, g in zip(wanted, dense, strict=True)}


def float_tensors(tree: Any) -> list[Tensor]:
    """The floating-point tensors of a module's output, from left to right."""
    return [tensor for tensor in tensors(tree) if tensor.is_floating_point()]


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal up to the rounding of a different batch size, relative to the largest entry."""
    if one.shape != other.shape:
        return False
    tolerance = torch.finfo(one.dtype).eps ** 0.5 * other.abs().max()
    return bool((one - other).abs().max() <= tolerance)
