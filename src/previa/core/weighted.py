"""Weighted sums of natural parameters for many rows of weights, chunk by chunk of the parameter vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from previa.core.averages import averages_into, dtype_of, isotropic, piece_size, shares
from previa.core.isotropic import Isotropic
from previa.core.merge import check_layouts, check_negative_gamma
from previa.core.params import Flat
from previa.core.posterior import Factorised, Posterior, naturals

CACHE = (
    1 << 21
)  # entries of [A, chunk]: 8 MB in float32, so that the sums and their quotient stay in the last cache
MERGED = 1 << 28  # bytes of merged matrices that are held at a time
FEW = 8  # members up to which scaled additions in cache beat a matrix product, whose inner dimension is too short for BLAS


def weighted_parts(weights: Tensor, members: Sequence[Posterior]) -> Iterator[tuple[slice, Tensor]]:
    """(entries, modes [A, chunk]) of sum_k weights_ak lambda_k, weights [A, K]; each is overwritten by the next."""
    A, P = weights.shape[0], members[0].layout.size
    whole = [q for q in members if isinstance(q, Factorised)]
    if len(whole) < len(members):
        yield slice(0, P), _dense(weights, members)
        return
    most = piece_size(whole[0].part(0, 0).mode().vector)
    size = max(1, min(P, max(1024, min(most, CACHE // A) // 1024 * 1024)))  # whole cache lines in every row
    if isotropic(members) and len(members) <= FEW:
        rows, buffer = shares(weights, members), _empty(A, size, members)
        for start in range(0, P, size):
            outs = buffer[:, : min(size, P - start)]
            averages_into(list(outs), rows, members, start)
            yield slice(start, start + outs.shape[-1]), outs
        return
    negative = bool((weights < 0).any())
    naturals([q.part(0, 0) for q in whole])  # one family, or an error before any work
    buffers: list[Tensor] = []
    for start in range(0, P, size):
        entries = slice(start, min(start + size, P))
        parts = [q.part(entries.start, entries.stop) for q in whole]
        lam = naturals(parts)
        if not buffers:
            weights = weights.to(lam[-1])
            buffers = [
                part.new_empty(A, part.shape[-1]) for part in lam
            ]  # fresh memory costs more than the sums
        sums = tuple(
            _sum_into(b[:, : part.shape[-1]], weights, part) for b, part in zip(buffers, lam, strict=True)
        )
        if negative:
            check_negative_gamma(weights, parts[0].from_natural(sums))
        yield entries, parts[0].mode_of(sums)


def weighted_modes(weights: Tensor, members: Sequence[Posterior]) -> Flat:
    """The modes of sum_k weights_ak lambda_k as Flat [A, P]. Raises as merge."""
    layout, theta = members[0].layout, torch.empty(0)
    check_layouts(members)
    if isotropic(members) and len(members) <= FEW:
        theta = _empty(len(weights), layout.size, members)
        averages_into(list(theta), shares(weights, members), members)
        return Flat(layout, theta)
    for entries, values in weighted_parts(weights, members):
        if values.shape[-1] == layout.size:
            return Flat(layout, values)
        if entries.start == 0:
            theta = values.new_empty(weights.shape[0], layout.size)
        theta[:, entries] = values
    return Flat(layout, theta)


def weighted_merge(weights: Tensor, members: Sequence[Posterior]) -> Posterior:
    """The one posterior of sum_k weights_k lambda_k, weights [K] > 0; members of one family and layout."""
    if len(members) == 1 and float(weights[0]) == 1:
        return members[0]
    total = tuple(float(weights[0]) * part for part in members[0].natural())
    for w, q in zip(weights.tolist()[1:], members[1:], strict=True):
        total = tuple(t.add_(part, alpha=w) for t, part in zip(total, q.natural(), strict=True))
    return members[0].from_natural(total)


def _empty(A: int, n: int, members: Sequence[Isotropic]) -> Tensor:
    return members[0].mode().vector.new_empty(A, n, dtype=dtype_of(members))


def _sum_into(out: Tensor, weights: Tensor, lam: Tensor) -> Tensor:
    """out [A, n] = weights [A, K] @ lam [K, n]."""
    if lam.shape[0] > FEW:
        return torch.mm(weights, lam, out=out)
    torch.mul(weights[:, 0:1], lam[0:1], out=out)
    for k in range(1, lam.shape[0]):
        out.addcmul_(weights[:, k : k + 1], lam[k : k + 1])
    return out


def _dense(weights: Tensor, members: Sequence[Posterior]) -> Tensor:
    """Families that do not factorise: a few rows at a time, so that the merged matrices fit in 256 MB.

    Members of weight zero are not touched: most weights are, where responsibilities have saturated (METHOD 4).
    """
    family = type(members[0])
    if any(type(q) is not family for q in members):
        naturals(members)  # raises, naming what differs
    out = torch.empty(0)
    order = _alike(weights)
    rows = max(1, MERGED // sum(part.nbytes for part in members[0].natural()))
    for some in order.split(rows):
        merged = members[0].from_natural(_sums(weights[some], members))
        if bool((weights[some] < 0).any()):
            check_negative_gamma(weights[some], merged)
        theta = merged.mode().vector
        if not len(out):
            out = theta.new_empty(len(weights), theta.shape[-1])
        out[some] = theta
    return out


def _alike(weights: Tensor) -> Tensor:
    """Row numbers, those with the same members in use beside each other, so that a chunk of them uses few."""
    patterns = (weights != 0).cpu()
    group: Tensor = patterns.unique(dim=0, return_inverse=True)[1]
    return group.argsort(stable=True)


def _sums(weights: Tensor, members: Sequence[Posterior]) -> tuple[Tensor, ...]:
    """sum_k weights_ak lambda_k, [A, n] each, over the members in use: matrix products on blocks of entries.

    No stack of all members is made: twenty full precisions of three tasks fill a machine's memory once, not twice.
    """
    used = (weights != 0).any(0).nonzero().flatten().tolist() or [0]
    lam = [members[k].natural() for k in used]
    sums = []
    for parts in zip(*lam, strict=True):
        w, n = weights[:, used].to(parts[0]), parts[0].shape[-1]
        total = parts[0].new_empty(len(weights), n)
        size = max(1024, CACHE // max(len(w), len(used)))
        for start in range(0, n, size):
            block = torch.stack([part[start : start + size] for part in parts])
            total[:, start : start + size] = w @ block
        sums.append(total)
    return tuple(sums)
