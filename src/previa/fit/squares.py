"""Sums over a batch of squared per-example gradients, formed where they fit in the cache and squared at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import Module

from previa.fit.rules import RULES, example_tokens, over_tokens

# Entries of per-example gradients held at a time. On a CPU they stay in its cache (2 MB of float32 was fastest for
# layers from 256x256 to 1024x256); an accelerator prefers few large kernels.
_CACHE, _DEVICE = 1 << 19, 1 << 27


def chunk(entries: int, device: torch.device) -> int:
    """How many examples' gradients of ``entries`` entries to hold at a time, at least one."""
    return max(1, (_CACHE if device.type == "cpu" else _DEVICE) // max(1, entries))


def add_square(total: Tensor, grads: Tensor) -> None:
    """total += sum_b grads_b^2 of ``grads`` [b, *shape], in whichever order of reading is faster."""
    if len(grads) < 8:
        for grad in grads:
            total.addcmul_(grad, grad)
    else:
        total.add_(grads.square().sum(0))


def add_squares(module: Module, a: Tensor, g: Tensor, into: Mapping[str, Tensor]) -> None:
    """into[name] += sum_b G_b^2 for each parameter of a layer with a rule, from its input a and output gradient g."""
    if not len(g):
        return
    if type(module) is nn.Linear:
        _linear(a, g, into)
    elif type(module) is nn.Embedding:
        _embedding(module, a, g, into["weight"])
    else:
        rule = RULES[type(module)]
        n = chunk(max(total.numel() for total in into.values()), g.device)
        for start in range(0, len(g), n):
            grads = rule(module, a[start : start + n], g[start : start + n], into.keys())
            for name, total in into.items():
                add_square(total, grads[name])


def _linear(a: Tensor, g: Tensor, into: Mapping[str, Tensor]) -> None:
    """One row an example: sum_b (g_b a_b^T)^2 = (g^2)^T (a^2). A sequence: G_b = g_b^T a_b, squared in the cache."""
    a, g = over_tokens(a), over_tokens(g)
    if "bias" in into:
        add_square(into["bias"], g.sum(1))
    if "weight" not in into:
        return
    total = into["weight"]
    if g.shape[1] == 1:
        total.addmm_(g[:, 0].square().t(), a[:, 0].square())
        return
    rows = min(total.shape[0], chunk(total.shape[1], g.device))  # a vocabulary has too many for the cache
    n = min(len(g), chunk(rows * total.shape[1], g.device))
    for row in range(0, total.shape[0], rows):
        part, g_part = total[row : row + rows], g[:, :, row : row + rows].transpose(1, 2)
        grads = g.new_empty(n, *part.shape)
        for start in range(0, len(g), n):
            left, right = g_part[start : start + n], a[start : start + n]
            grads = grads[: len(left)]
            torch.bmm(left, right, out=grads)
            add_square(part, grads)


def _embedding(module: nn.Embedding, tokens: Tensor, g: Tensor, total: Tensor) -> None:
    """S = sums of g over equal tokens of one example, then total[token] += S^2: no [B, V, D] is made."""
    V, D = total.shape
    keys, place = torch.unique(example_tokens(tokens, V), return_inverse=True)
    sums = g.new_zeros(len(keys), D).index_add_(0, place, g.reshape(-1, D))
    rows = keys % V
    if module.padding_idx is not None:
        sums[rows == module.padding_idx] = 0
    total.index_add_(0, rows, sums.square_())
