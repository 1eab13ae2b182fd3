"""Sums over a batch of squared per-example gradients, formed where they fit in the cache and squared at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import Module

from previa.fit.ladder import Unit
from previa.fit.rules import embedding, example_tokens, linear, over_tokens, transposed_linear

# Entries of per-example gradients held at a time. On a CPU they stay in its last cache (4 MB of float32 was fastest for
# layers from 384x384 to 1536x384: smaller pieces fit the inner cache, but cost more calls of the matrix product than they
# save); an accelerator prefers few large kernels.
CACHE, DEVICE = 1 << 20, 1 << 27


@final
class Space:
    """Memory for products, used again and again: new memory costs a page fault each 4 kB, as much as the arithmetic."""

    def __init__(self) -> None:
        self._held: Tensor | None = None

    def take(self, like: Tensor, *shape: int) -> Tensor:
        """An uninitialised tensor of this shape, valid until the next one is taken."""
        size, held = math.prod(shape), self._held
        if held is None or len(held) < size or held.dtype != like.dtype or held.device != like.device:
            held = self._held = like.new_empty(size)
        return held[:size].view(shape)


def chunk(entries: int, device: torch.device) -> int:
    """How many examples' gradients of ``entries`` entries to hold at a time, at least one."""
    return max(1, (CACHE if device.type == "cpu" else DEVICE) // max(1, entries))


def add_square(total: Tensor, grads: Tensor) -> None:
    """total += sum_b grads_b^2 of ``grads`` [b, *shape], in whichever order of reading is faster."""
    if len(grads) < 8:
        for grad in grads:
            total.addcmul_(grad, grad)
    else:
        total.add_(grads.square().sum(0))


def add_squares(unit: Unit, a: Tensor, g: Tensor, into: Mapping[str, Tensor], space: Space) -> None:
    """into[local] += sum_b G_b^2 for parameters of a layer with a rule, from its input a and output gradient g."""
    if not len(g):
        return
    assert unit.rule is not None
    if unit.rule is linear or unit.rule is transposed_linear:
        _linear(a, g, into, space, transposed=unit.rule is transposed_linear)
    elif unit.rule is embedding:
        _embedding(unit.module, a, g, into["weight"])
    else:
        n = chunk(max(total.numel() for total in into.values()), g.device)
        for start in range(0, len(g), n):
            grads = unit.rule(unit.module, a[start : start + n], g[start : start + n], into.keys())
            for name, total in into.items():
                add_square(total, grads[name])


def _linear(a: Tensor, g: Tensor, into: Mapping[str, Tensor], space: Space, *, transposed: bool) -> None:
    a, g = over_tokens(a), over_tokens(g)
    if "bias" in into:
        add_square(into["bias"], g.sum(1))
    if "weight" in into:
        add_products(*((a, g) if transposed else (g, a)), into["weight"], space)


def add_products(left: Tensor, right: Tensor, total: Tensor, space: Space) -> None:
    """total [m, n] += sum_b (left_b^T right_b)^2 of ``left`` [B, T, m] and ``right`` [B, T, n].

    One row an example: (left^2)^T (right^2), without the products. A sequence: each product is squared in the cache.
    """
    if left.shape[1] == 1:
        total.addmm_(left[:, 0].square().t(), right[:, 0].square())
        return
    rows = min(total.shape[0], chunk(total.shape[1], left.device))  # a vocabulary has too many for the cache
    n = min(len(left), chunk(rows * total.shape[1], left.device))
    for row in range(0, total.shape[0], rows):
        part, left_part = total[row : row + rows], left[:, :, row : row + rows].transpose(1, 2)
        grads = space.take(left, n, *part.shape)
        if n == 1:
            (G,) = grads
            for one, other in zip(left_part.unbind(), right.unbind(), strict=True):
                part.addcmul_(torch.mm(one, other, out=G), G)
            continue
        for start in range(0, len(left), n):
            these = left_part[start : start + n]
            found = grads[: len(these)]
            torch.bmm(these, right[start : start + n], out=found)
            add_square(part, found)


def _embedding(module: Module, tokens: Tensor, g: Tensor, total: Tensor) -> None:
    """S = sums of g over equal tokens of one example, then total[token] += S^2: no [B, V, D] is made."""
    assert isinstance(module, nn.Embedding)
    V, D = total.shape
    keys, place = torch.unique(example_tokens(tokens, V), return_inverse=True)
    sums = g.new_zeros(len(keys), D).index_add_(0, place, g.reshape(-1, D))
    rows = keys % V
    if module.padding_idx is not None:
        sums[rows == module.padding_idx] = 0
    total.index_add_(0, rows, sums.square_())
