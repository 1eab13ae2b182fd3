"""Layers whose input and output gradient are recorded, and the sums of outer products of both."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn
from torch.nn import Module, functional

from previa.errors import InputError, NotFiniteError
from previa.fit.agreement import rounding
from previa.fit.rules import has_rule, over_tokens

_UNFOLDED = 1 << 24  # entries of unfolded images held at a time: 64 MB in float32


class Positions(Protocol):
    """What becomes of the R positions of an example, a sequence's or an image's; R = 1 where there are none."""

    def inputs(self, a: Tensor) -> Tensor:
        """Rows [*, in] from a [B, R, in], whose outer products add up to B times the factor A."""
        ...

    def gradients(self, g: Tensor) -> Tensor:
        """Rows [*, out] from g [B, R, out], whose outer products add up to B times the factor B."""
        ...


@final
@dataclass(frozen=True)
class Expand:
    """Each position on its own: A = mean_i mean_r a_ir a_ir', B = mean_i sum_r g_ir g_ir' (KFAC-expand, arXiv 2311.00636).

    Made for examples whose positions have losses that add up, as in language models; usual for convolutions as well.
    """

    def inputs(self, a: Tensor) -> Tensor:
        """a_ir / sqrt(R), [B*R, in]."""
        rows: Tensor = a.flatten(0, 1) / a.shape[1] ** 0.5
        return rows

    def gradients(self, g: Tensor) -> Tensor:
        """g_ir, [B*R, out]."""
        return g.flatten(0, 1)


@final
@dataclass(frozen=True)
class Reduce:
    """Positions taken together: a_i = mean_r a_ir, g_i = sum_r g_ir (KFAC-reduce, arXiv 2311.00636).

    Made for examples whose positions are averaged before the one loss, as in pooled image models.
    """

    def inputs(self, a: Tensor) -> Tensor:
        """mean_r a_ir, [B, in]."""
        return a.mean(1)

    def gradients(self, g: Tensor) -> Tensor:
        """sum_r g_ir, [B, out]."""
        return g.sum(1)


@final
class Layer:
    """A Linear or Conv2d with factors, and in float64 the sums of its outer products so far."""

    def __init__(self, name: str, module: nn.Linear | nn.Conv2d) -> None:
        self.module = module
        self.weight = f"{name}.weight" if name else "weight"
        self.names = [self.weight]
        self.parameters: list[Tensor] = [module.weight]
        if module.bias is not None and module.bias.requires_grad:
            self.names.append(f"{name}.bias" if name else "bias")
            self.parameters.append(module.bias)
        self.dtype = torch.float64 if module.weight.dtype == torch.float64 else torch.float32
        like = module.weight.detach().to(torch.float64)
        n = like[0].numel() + len(self.names) - 1
        self._A, self._B = like.new_zeros(n, n), like.new_zeros(len(like), len(like))

    def rows(self, a: Tensor) -> Tensor:
        """The input as [B, R, in(+1)]: an image's patches in the weight's order, and ones for the bias."""
        module, a = self.module, a.to(self.dtype)
        if isinstance(module, nn.Conv2d):
            assert not isinstance(module.padding, str)
            patches = functional.unfold(a, module.kernel_size, module.dilation, module.padding, module.stride)
            a = patches.transpose(1, 2)
        else:
            a = over_tokens(a)
        return a if len(self.names) == 1 else torch.cat([a, a.new_ones(*a.shape[:2], 1)], 2)

    def columns(self, g: Tensor) -> Tensor:
        """The output's gradient as [B, R, out]."""
        g = g.to(self.dtype)
        return g.flatten(2).transpose(1, 2) if isinstance(self.module, nn.Conv2d) else over_tokens(g)

    def add_inputs(self, a: Tensor, positions: Positions) -> None:
        """A += the outer products of a batch's inputs."""
        for some in a.split(self._some(a)):
            rows = positions.inputs(self.rows(some))
            self._A += rows.T @ rows

    def add_gradients(self, g: Tensor, positions: Positions) -> None:
        """B += the outer products of a batch's output gradients."""
        rows = positions.gradients(self.columns(g))
        self._B += rows.T @ rows

    def gradient(self, a: Tensor, g: Tensor) -> tuple[Tensor, float]:
        """The gradient of [weight, bias] that a and g make, sum_ir g_ir a_ir' [out, in(+1)], and the largest sum of its |terms|."""
        n = self._some(a)
        total = torch.zeros(len(self._B), len(self._A), dtype=self.dtype, device=g.device)
        terms = torch.zeros_like(total)
        for a_some, g_some in zip(a.split(n), g.split(n), strict=True):
            left, right = self.columns(g_some).flatten(0, 1), self.rows(a_some).flatten(0, 1)
            total += left.T @ right
            terms += left.abs().T @ right.abs()
        return total, float(terms.max())

    def moments(self, count: int) -> tuple[Tensor, Tensor]:
        """A and B divided by ``count``: float32, or float64 where the weight is."""
        return (self._A / count).to(self.dtype), (self._B / count).to(self.dtype)

    def _some(self, a: Tensor) -> int:
        """How many examples of a batch to unfold at a time."""
        patch = math.prod(self.module.kernel_size) if isinstance(self.module, nn.Conv2d) else 1
        return max(1, _UNFOLDED // max(1, a[:1].numel() * patch))

    def check_finite(self, index: int) -> None:
        """Raise NotFiniteError naming the layer and the batch."""
        for what, total in (("inputs", self._A), ("output gradients", self._B)):
            if not bool(torch.isfinite(total.sum())):
                raise NotFiniteError(
                    f"batch {index}: the squared {what} of {self.weight!r} hold NaN or infinity. Did training diverge?"
                )


Calls = Mapping[str, list[tuple[Tensor, Tensor]]]
"""By the weight's name, (input, output) of each time the layer was used."""


def layers_of(model: Module) -> list[Layer]:
    """The layers that may have factors: by their type, and alone in owning their trainable weight."""
    modules = dict(model.named_modules())
    owners = Counter(id(p) for module in modules.values() for p in module.parameters(recurse=False))
    return [
        Layer(name, module)
        for name, module in modules.items()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and _plain(module)
        and module.weight.requires_grad
        and all(owners[id(p)] == 1 for p in module.parameters(recurse=False))
    ]


def _plain(module: nn.Linear | nn.Conv2d) -> bool:
    if type(module) is nn.Conv2d:
        zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return has_rule(module) and zeros and module.groups == 1
    return type(module) is nn.Linear and has_rule(module)


@contextmanager
def recorded(layers: Sequence[Layer]) -> Iterator[Calls]:
    """Hooks that keep every input and output of the layers; removed on leaving, whatever happens inside."""
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {layer.weight: [] for layer in layers}

    def keep(weight: str) -> Any:
        def hook(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Tensor:
            a: Tensor = args[0] if args else kwargs["input"]
            calls[weight].append((a.detach(), out))
            return out.clone()  # what follows may change it in place

        return hook

    handles = [layer.module.register_forward_hook(keep(layer.weight), with_kwargs=True) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def once(calls: Calls, layer: Layer, examples: int) -> bool:
    """Whether the layer was used once, with the examples along the first axis of its output."""
    uses = calls[layer.weight]
    return len(uses) == 1 and uses[0][1].dim() > 1 and len(uses[0][1]) == examples


def use(calls: Calls, layer: Layer, examples: int, index: int) -> tuple[Tensor, Tensor]:
    """(input, output) of the layer's one use. Raises InputError where there is not one, or not over the examples."""
    if not once(calls, layer, examples):
        found = [tuple(out.shape) for _, out in calls[layer.weight]]
        raise InputError(
            f"batch {index} of {examples} examples: the layer of {layer.weight!r} has outputs of shapes {found}. Expected "
            "one output with the examples along axis 0, as in the first batch; a layer that is used otherwise must be so there too."
        )
    return calls[layer.weight][0]


def output_gradients(losses: Tensor, outputs: Sequence[Tensor]) -> list[Tensor]:
    """d(sum of losses)/d output for each output; the graph is kept."""
    return _gradients(losses, outputs) if outputs else []


def by_example(layers: Sequence[Layer], calls: Calls, losses: Tensor) -> list[Layer]:
    """The layers of whose output the first examples' losses reach one row each, example i row i.

    Shapes do not tell where a sequence has as many positions as there are examples, and comes first.
    """
    outs = [calls[layer.weight][0][1] for layer in layers]
    apart = [True] * len(layers)
    for i in range(min(2, len(losses))):  # one would pass where the model uses its position alone
        for k, g in enumerate(output_gradients(losses[i : i + 1], outs)):
            apart[k] = apart[k] and not bool(g[:i].any()) and not bool(g[i + 1 :].any())
    return [layer for layer, kept in zip(layers, apart, strict=True) if kept]


def agreeing(layers: Sequence[Layer], calls: Calls, losses: Tensor, index: int) -> list[Layer]:
    """The layers whose own a and g give the gradient of the summed losses that autograd finds.

    Allowed are sqrt(eps) of its largest entry, and 32 eps of the largest sum of terms, which may cancel.
    Raises NotFiniteError naming the layer and the batch.
    """
    kept = []
    g = output_gradients(losses, [calls[layer.weight][0][1] for layer in layers])
    every = [parameter for layer in layers for parameter in layer.parameters]
    expected = iter(_gradients(losses, every) if every else [])
    for layer, gradient in zip(layers, g, strict=True):
        found, terms = layer.gradient(calls[layer.weight][0][0], gradient)
        true = torch.cat([next(expected).reshape(len(found), -1) for _ in layer.parameters], 1)
        if not bool(torch.isfinite(found).all() and torch.isfinite(true).all()):
            raise NotFiniteError(
                f"batch {index}: the gradient of {layer.weight!r} holds NaN or infinity. Did training diverge?"
            )
        eps = rounding(layer.parameters)
        if bool((found - true).abs().max() <= eps**0.5 * true.abs().max() + 32 * eps * terms):
            kept.append(layer)
    return kept


def _gradients(losses: Tensor, of: Sequence[Tensor]) -> list[Tensor]:
    grads = torch.autograd.grad(losses.sum(), of, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, of, strict=True)]
