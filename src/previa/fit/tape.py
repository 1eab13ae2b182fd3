"""The tape: hooks that record one batch's forward pass, and square each example's gradient in its backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from previa.fit.batches import map_tensors, tensors
from previa.fit.calls import Call, NotPerExampleError, ReplayCall, RuleCall, Unit, float_tensors
from previa.fit.squares import add_square, add_squares, chunk

Part = tuple[slice, Mapping[str, Tensor]]
"""Rows of a batch, and the sums (by the model's names) that their squared gradients are added to."""


@final
class Tape:
    """One batch through a model with frozen parameters: autograd skips their gradients, the hooks form them.

    A parameter with one use is squared as soon as its output's gradient arrives. The uses of a tied or repeated one are
    added up first, and replayed units wait as well, since autograd does not nest well.
    """

    def __init__(self, units: Sequence[Unit], examples: int, axes: dict[Module, str]) -> None:
        self._units = units
        self._examples = examples
        self._axes = axes  # what a layer's first axis is: found in the first batch, then expected
        self._uses: Counter[str] = Counter()
        self._roots: list[Tensor] = []
        self._parts: Sequence[Part] = ()
        self._waiting: list[Call] = []
        self._replays: list[ReplayCall] = []
        self.expanded = False

    @contextmanager
    def recording(self, trainable: Mapping[str, Parameter], batch: Any) -> Iterator[None]:
        """Hooks in place and parameters frozen; both undone on leaving, whatever happens inside."""
        self._roots += [tensor for tensor in tensors(batch) if tensor.requires_grad]
        handles = []
        try:
            for unit in self._units:
                hook = self._record_replay(unit) if unit.replay else self._record_rule(unit)
                handles.append(unit.module.register_forward_hook(hook, with_kwargs=True))
            for parameter in trainable.values():
                parameter.requires_grad_(False)
            with torch.enable_grad():
                yield
        finally:
            for handle in handles:
                handle.remove()
            for parameter in trainable.values():
                parameter.requires_grad_(True)

    def backward(self, losses: Tensor, parts: Sequence[Part], retain: bool) -> None:
        """Add the squared gradient of each example's loss, [B], to the sums of its part.

        Raises NotPerExampleError where a unit's call cannot be told apart by example.
        """
        self._parts = parts
        if self._roots and losses.requires_grad:
            torch.autograd.grad(losses.sum(), self._roots, retain_graph=retain, allow_unused=True)
        with torch.no_grad():
            self._square_waiting([*self._waiting, *(call for call in self._replays if call.g)])
        self._waiting.clear()
        for call in self._replays:
            call.g.clear()

    def _record_rule(self, unit: Unit) -> Any:
        def hook(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Tensor:
            """Keep the layer's input, and wait for its output's gradient."""
            self._uses.update(unit.names.values())
            a: Tensor = (args[0] if args else kwargs["input"]).detach()
            axis = self._axis(module, a, out)
            rooted = self._rooted(out)
            if axis != "own":  # one for all examples: give each its own copy, and it a gradient of its own
                self.expanded = True
                a = self._expand(a, axis)
                rooted = self._expand(rooted, axis)
            rooted.register_hook(lambda g: self._arrived(unit, a, g))
            return rooted

        return hook

    def _record_replay(self, unit: Unit) -> Any:
        def hook(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
            """Keep all arguments and outputs, and wait for the outputs' gradients."""
            self._uses.update(unit.names.values())
            rooted = map_tensors(self._rooted, out)
            outputs = float_tensors(rooted)
            call = ReplayCall(unit, self._examples, (args, kwargs), [tensor.detach() for tensor in outputs])
            for j, tensor in enumerate(outputs):
                tensor.register_hook(lambda g, j=j: call.g.__setitem__(j, g))
            self._replays.append(call)
            return rooted

        return hook

    def _rooted(self, out: Tensor) -> Tensor:
        """``out`` with a gradient: where nothing before it asks for one, from a new leaf of the graph."""
        if out.requires_grad or not out.is_floating_point():
            return out
        root = out.detach().requires_grad_()
        self._roots.append(root)
        return root.clone()  # a leaf could not be changed in place by what follows

    def _axis(self, module: Module, a: Tensor, out: Tensor) -> str:
        """What the first axis is: the batch's "own", "one" for all, or that of "none" (positions, [T])."""
        length = len(out) if out.dim() and a.dim() and len(out) == len(a) else -1
        axis = self._axes.get(module)
        if axis is None:
            axis = "own" if length == self._examples else "one" if length == 1 else "none"
            if self._examples > 1:
                self._axes[module] = axis
        if axis != "none" and length != (self._examples if axis == "own" else 1):
            raise NotPerExampleError(f"{type(module).__name__} has an output of shape {tuple(out.shape)}")
        return axis

    def _expand(self, tensor: Tensor, axis: str) -> Tensor:
        tensor = tensor if axis == "one" else tensor.unsqueeze(0)
        return tensor.expand(self._examples, *tensor.shape[1:])

    def _arrived(self, unit: Unit, a: Tensor, g: Tensor) -> None:
        """The gradient of a recorded output is here: square what has one use, keep the rest for the end."""
        names = unit.names
        dtype = next(iter(self._parts[0][1].values())).dtype
        g = g.to(dtype)
        a = a.to(dtype) if a.is_floating_point() else a
        alone = [local for local, name in names.items() if self._uses[name] == 1]
        if len(alone) < len(names):
            self._waiting.append(RuleCall(unit, a, g))
        if alone:
            for rows, into in self._parts:
                add_squares(unit.module, a[rows], g[rows], {local: into[names[local]] for local in alone})

    def _square_waiting(self, calls: Sequence[Call]) -> None:
        """Sum the gradients of all uses of a parameter, example by example, then square."""
        if not calls:
            return
        wanted = [
            {local: n for local, n in call.unit.names.items() if call.unit.replay or self._uses[n] > 1}
            for call in calls
        ]
        for rows, into in self._parts:
            first, last, _ = rows.indices(self._examples)
            largest = max(into[name].numel() for names in wanted for name in names.values())
            n = chunk(largest, next(iter(into.values())).device)
            for start in range(first, last, n):
                sums: dict[str, Tensor] = {}
                for call, names in zip(calls, wanted, strict=True):
                    grads = call.gradients(slice(start, min(start + n, last)), names)
                    for local, name in names.items():
                        grad = grads[local].to(into[name].dtype)
                        sums[name] = sums[name] + grad if name in sums else grad
                for name, grad in sums.items():
                    add_square(into[name], grad)
