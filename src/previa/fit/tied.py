"""Squares of a matrix with several uses, as input and output embeddings that are one: summed over uses, then squared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from previa.fit.calls import Call, RuleCall
from previa.fit.rules import embedding, example_tokens, linear, over_tokens
from previa.fit.squares import CACHE, DEVICE, add_square


def can_tie(uses: Sequence[tuple[Call, str]]) -> bool:
    """Whether all uses are as the weight of a Linear or an Embedding."""
    return all(
        isinstance(call, RuleCall) and call.unit.rule in (linear, embedding) and local == "weight"
        for call, local in uses
    )


def add_tied(uses: Sequence[tuple[Call, str]], rows: slice, total: Tensor) -> None:
    """total [V, D] += sum_b (sum over Linear uses of g_b^T a_b + sum over Embedding uses of g at their tokens)^2.

    Formed some rows of the vocabulary at a time, which stay in the cache: a dense [V, D] an example is never made.
    """
    calls = [call for call, _ in uses if isinstance(call, RuleCall)]
    dense = [
        (over_tokens(call.a[rows]), over_tokens(call.g[rows])) for call in calls if call.unit.rule is linear
    ]
    looked_up = [call for call in calls if call.unit.rule is embedding]
    B, (V, D) = len(calls[0].g[rows]), total.shape
    keys, sums = _sums(looked_up, rows, V, D, calls[0].g)
    if not dense:
        total.index_add_(0, keys % V, sums.square_())
        return
    size = CACHE if total.device.type == "cpu" else DEVICE
    height = max(1, min(V, size // D))
    starts = torch.arange(0, V, height, device=keys.device)
    edges = (torch.arange(B, device=keys.device)[:, None] * V + starts).flatten()
    cuts = [*torch.searchsorted(keys, edges).tolist(), len(keys)]
    for r, start in enumerate(range(0, V, height)):
        part = total[start : start + height]
        for b in range(B):
            G = _products(dense, b, slice(start, start + height))
            here = slice(cuts[b * len(starts) + r], cuts[b * len(starts) + r + 1])
            G.index_add_(0, keys[here] % V - start, sums[here])
            add_square(part, G.unsqueeze(0))


def _products(dense: Sequence[tuple[Tensor, Tensor]], b: int, rows: slice) -> Tensor:
    (a, g), *more = dense
    G = g[b, :, rows].t() @ a[b]
    for a, g in more:
        G.addmm_(g[b, :, rows].t(), a[b])
    return G


def _sums(calls: Sequence[RuleCall], rows: slice, V: int, D: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """(b*V + token in rising order, the sum of g over that token's places in example b [K, D])."""
    if not calls:
        return torch.zeros(0, dtype=torch.long, device=like.device), like.new_zeros(0, D)
    keys = torch.cat([example_tokens(call.a[rows], V) for call in calls])
    g = torch.cat([_unpadded(call, rows).reshape(-1, D) for call in calls])
    found, place = torch.unique(keys, return_inverse=True)
    return found, g.new_zeros(len(found), D).index_add_(0, place, g)


def _unpadded(call: RuleCall, rows: slice) -> Tensor:
    """The gradients of the rows looked up; the padding token's get none."""
    module, g = call.unit.module, call.g[rows]
    assert isinstance(module, nn.Embedding)
    if module.padding_idx is None:
        return g
    return g.masked_fill((call.a[rows] == module.padding_idx).unsqueeze(-1), 0)
