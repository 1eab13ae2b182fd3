"""The tape: hooks that record one batch's forward pass, and square each example's gradient in its backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import Module, Parameter

from previa.fit.batches import map_tensors, tensors
from previa.fit.calls import Call, NotPerExampleError, RuleCall, RunCall, float_tensors
from previa.fit.ladder import Unit
from previa.fit.lookups import lookups
from previa.fit.squares import Space, add_square, add_squares, chunk
from previa.fit.tied import add_tied, can_tie

Part = tuple[slice, Mapping[str, Tensor]]
"""Rows of a batch, and the sums (by the model's names) that their squared gradients are added to."""


@final
class Tape:
    """One batch through a model with frozen parameters: autograd skips their gradients, the hooks form them.

    A parameter with one use is squared as soon as its output's gradient arrives. The uses of a tied or repeated one are
    added up first, and units that are run again wait as well, since autograd does not nest well.
    """

    def __init__(self, units: Sequence[Unit], examples: int, axes: dict[Module, str], space: Space) -> None:
        self._units = units
        self._examples = examples
        self._space = space
        self._axes = axes  # what a layer's first axis is: found in the first batch, then expected
        self._uses: Counter[str] = Counter()
        self._roots: list[Tensor] = []
        self._parts: Sequence[Part] = ()
        self._retain = False
        self._waiting: list[Call] = []
        self._runs: list[RunCall] = []
        self._expanded: dict[str, str] = {}

    @property
    def expanded(self) -> tuple[str, ...]:
        """Parameters whose output was one for all examples and was copied for each; those without any such axis first."""
        none = tuple(name for name, axis in self._expanded.items() if axis == "none")
        return none or tuple(self._expanded)

    @contextmanager
    def recording(self, trainable: Mapping[str, Parameter], batch: Any) -> Iterator[None]:
        """Hooks in place and parameters frozen; both undone on leaving, whatever happens inside."""
        self._roots += [tensor for tensor in tensors(batch) if tensor.requires_grad]
        with ExitStack() as undo:
            for unit in self._units:
                if unit.way == "lookup":
                    assert isinstance(unit.module, nn.Embedding)
                    undo.enter_context(lookups(unit.module, self._keep_lookup(unit)))
                    continue
                hook = self._keep_run(unit) if unit.rule is None else self._keep_call(unit)
                undo.callback(unit.module.register_forward_hook(hook, with_kwargs=True).remove)
            for parameter in trainable.values():
                parameter.requires_grad_(False)
                undo.callback(parameter.requires_grad_, True)
            with torch.enable_grad():
                yield

    def backward(self, losses: Tensor, parts: Sequence[Part], retain: bool) -> None:
        """Add the squared gradient of each example's loss, [B], to the sums of its part.

        Raises NotPerExampleError where a unit's call cannot be told apart by example.
        """
        self._parts, self._retain = parts, retain
        if self._roots and losses.requires_grad:
            torch.autograd.grad(losses.sum(), self._roots, retain_graph=retain, allow_unused=True)
        with torch.no_grad():
            self._square_waiting([*self._waiting, *(call for call in self._runs if call.g)])
        self._waiting.clear()
        for call in self._runs:
            call.g.clear()

    def _keep_call(self, unit: Unit) -> Any:
        def hook(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Tensor:
            return self._kept(unit, args[0] if args else kwargs["input" if "input" in kwargs else "x"], out)

        return hook

    def _keep_lookup(self, unit: Unit) -> Any:
        return lambda tokens, out: self._kept(unit, tokens, out)

    def _kept(self, unit: Unit, a: Tensor, out: Tensor) -> Tensor:
        """Keep a layer's input, and wait for its output's gradient."""
        self._uses.update(unit.names.values())
        a = a.detach()
        axis = self._axis(unit, a, out)
        rooted = self._rooted(out)
        if axis != "own":  # one for all examples: give each its own copy, and it a gradient of its own
            self._expanded |= dict.fromkeys(unit.names.values(), axis)
            a = self._expand(a, axis)
            rooted = self._expand(rooted, axis)
        held = [a]
        rooted.register_hook(lambda g: self._arrived(unit, held, g))
        return rooted

    def _keep_run(self, unit: Unit) -> Any:
        def hook(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
            """Keep all arguments and outputs, and wait for the outputs' gradients."""
            self._uses.update(unit.names.values())

            def own(tensor: Tensor) -> Tensor:
                tensor = self._rooted(tensor)
                if tensor.is_floating_point() and tensor.dim() and len(tensor) == 1 < self._examples:
                    self._expanded |= dict.fromkeys(unit.names.values(), "one")
                    return self._expand(tensor, "one")
                return tensor

            rooted = map_tensors(own, out)
            outputs = float_tensors(rooted)
            call = RunCall(unit, self._examples, (args, kwargs), [tensor.detach() for tensor in outputs])
            for j, tensor in enumerate(outputs):
                tensor.register_hook(lambda g, j=j: call.g.__setitem__(j, g))
            self._runs.append(call)
            return rooted

        return hook

    def _rooted(self, out: Tensor) -> Tensor:
        """``out`` with a gradient: where nothing before it asks for one, from a new leaf of the graph."""
        if out.requires_grad or not out.is_floating_point():
            if out.requires_grad and out.is_leaf:  # another hook asked for its gradient
                self._roots.append(out)
            return out
        root = out.detach().requires_grad_()
        self._roots.append(root)
        return root.clone()  # a leaf could not be changed in place by what follows

    def _axis(self, unit: Unit, a: Tensor, out: Tensor) -> str:
        """What the first axis is: the batch's "own", "one" for all, or that of "none" (positions, [T])."""
        module = unit.module
        length = len(out) if out.dim() and a.dim() and len(out) == len(a) else -1
        axis = self._axes.get(module)
        if axis is None:
            axis = "own" if length == self._examples else "one" if length == 1 else "none"
            if self._examples > 1:
                self._axes[module] = axis
        if axis != "none" and length != (self._examples if axis == "own" else 1):
            fault = f"{type(module).__name__} has an output of shape {tuple(out.shape)}"
            raise NotPerExampleError(fault, unit.names.values())
        return axis

    def _expand(self, tensor: Tensor, axis: str) -> Tensor:
        tensor = tensor if axis == "one" else tensor.unsqueeze(0)
        return tensor.expand(self._examples, *tensor.shape[1:])

    def _arrived(self, unit: Unit, held: list[Tensor], g: Tensor) -> None:
        """The gradient of a recorded output is here: square what has one use, keep the rest for the end."""
        names = unit.names
        dtype = next(iter(self._parts[0][1].values())).dtype
        g = g.to(dtype)
        a = held[0].to(dtype) if held[0].is_floating_point() else held[0]
        if not self._retain:
            held.clear()  # its memory serves the gradients to come, as autograd's own saved tensors do
        alone = [local for local, name in names.items() if self._uses[name] == 1]
        if len(alone) < len(names):
            self._waiting.append(RuleCall(unit, a, g))
        if alone:
            for rows, into in self._parts:
                sums = {local: into[names[local]] for local in alone}
                add_squares(unit, a[rows], g[rows], sums, self._space)

    def _square_waiting(self, calls: Sequence[Call]) -> None:
        """Sum the gradients of all uses of a parameter, example by example, then square; one parameter at a time."""
        uses: dict[str, list[tuple[Call, str]]] = {}
        for call in calls:
            for local, name in call.unit.names.items():
                if call.unit.rule is None or self._uses[name] > 1:
                    uses.setdefault(name, []).append((call, local))
        for together in _together(uses):
            for rows, into in self._parts:
                self._square(together, rows, into)

    def _square(
        self, together: Mapping[str, list[tuple[Call, str]]], rows: slice, into: Mapping[str, Tensor]
    ) -> None:
        first, last, _ = rows.indices(self._examples)
        for name, uses in together.items():
            if can_tie(uses):
                add_tied(uses, slice(first, last), into[name])
        rest = {name: uses for name, uses in together.items() if not can_tie(uses)}
        wanted: dict[int, tuple[Call, dict[str, str]]] = {}
        for name, uses in rest.items():
            for call, local in uses:
                wanted.setdefault(id(call), (call, {}))[1][local] = name
        n = chunk(max((into[name].numel() for name in rest), default=1), next(iter(into.values())).device)
        for start in range(first, last, n) if rest else ():
            sums: dict[str, Tensor] = {}
            for call, names in wanted.values():
                grads = call.gradients(slice(start, min(start + n, last)), names.keys())
                for local, name in names.items():
                    grad = grads[local].to(into[name].dtype)
                    sums[name] = sums[name] + grad if name in sums else grad
            for name, grad in sums.items():
                add_square(into[name], grad)


def _together(uses: Mapping[str, list[tuple[Call, str]]]) -> list[dict[str, list[tuple[Call, str]]]]:
    """Parameters whose calls are the same, as a norm's weight and bias, in one piece: each call is run again once."""
    pieces: dict[tuple[int, ...], dict[str, list[tuple[Call, str]]]] = {}
    for name, calls in uses.items():
        pieces.setdefault(tuple(id(call) for call, _ in calls), {})[name] = calls
    return list(pieces.values())
