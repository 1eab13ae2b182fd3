"""Weighted sums of natural parameters for many rows of weights: one matrix product per chunk of parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from previa.core.merge import check_negative_gamma, weighted_sum
from previa.core.params import Flat
from previa.core.posterior import Factorised, Posterior, naturals

CACHE = 1 << 19  # entries of [A, chunk]: 2 MB in float32, so that the sums and their quotient stay in cache


def weighted_parts(weights: Tensor, members: Sequence[Posterior]) -> Iterator[tuple[slice, Tensor]]:
    """(entries, modes [A, chunk]) of sum_k weights_ak lambda_k, weights [A, K], chunk by chunk of the parameter vector."""
    A, P = weights.shape[0], members[0].layout.size
    whole = [q for q in members if isinstance(q, Factorised)]
    if len(whole) < len(members):
        yield slice(0, P), _dense(weights, members)
        return
    negative = bool((weights < 0).any())
    naturals([q.part(0, 0) for q in whole])  # families and layouts agree, or an error before any work
    size = max(1024, CACHE // A)
    for start in range(0, P, size):
        entries = slice(start, min(start + size, P))
        parts = [q.part(entries.start, entries.stop) for q in whole]
        merged = parts[0].from_natural(tuple(weighted_sum(weights, lam) for lam in naturals(parts)))
        if negative:
            check_negative_gamma(weights, merged)
        yield entries, merged.mode().vector


def weighted_modes(weights: Tensor, members: Sequence[Posterior]) -> Flat:
    """The modes of sum_k weights_ak lambda_k as Flat [A, P]. Raises as merge."""
    layout = members[0].layout
    for q in members:
        if q.layout != layout:
            naturals(members)
    theta: Tensor | None = None
    for entries, values in weighted_parts(weights, members):
        if values.shape[-1] == layout.size:
            return Flat(layout, values)
        if theta is None:
            theta = values.new_empty(weights.shape[0], layout.size)
        theta[:, entries] = values
    return Flat(layout, theta if theta is not None else torch.zeros(weights.shape[0], 0))


def _dense(weights: Tensor, members: Sequence[Posterior]) -> Tensor:
    """Families that do not factorise: a few rows at a time, so that the merged matrices fit in 256 MB."""
    lam = naturals(members)
    rows = max(1, (1 << 28) // sum(part[0].nbytes for part in lam))
    out = []
    for some in (weights[i : i + rows] for i in range(0, len(weights), rows)):
        merged = members[0].from_natural(tuple(weighted_sum(some, part) for part in lam))
        if bool((some < 0).any()):
            check_negative_gamma(some, merged)
        out.append(merged.mode().vector)
    return torch.cat(out)
