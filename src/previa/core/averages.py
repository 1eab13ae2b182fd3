"""Averages of means: the modes of products of isotropic Gaussians, without their natural parameters (eq. 2, 3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TypeGuard

import torch
from torch import Tensor

from previa.core.isotropic import Isotropic
from previa.core.merge import check_layouts, check_negative_gamma
from previa.core.posterior import Posterior

PIECE = (
    1 << 18
)  # entries averaged at a time: 1 MB of each mean, which stay in the last cache; shorter ones cost more calls
LARGE = 1 << 24  # the same on other devices, where a piece should be worth a launch


def isotropic(members: Sequence[Posterior]) -> TypeGuard[Sequence[Isotropic]]:
    """Whether all of them are isotropic Gaussians."""
    return all(isinstance(q, Isotropic) for q in members)


def shares(weights: Tensor, members: Sequence[Isotropic]) -> Tensor:
    """s [A, K], float64, with mode_a = sum_k s_ak mean_k: s_ak = w_ak p_k / sum_j w_aj p_j. Rows sum to one.

    weights: [A, K]. Raises ParamsError where members' tensors differ, PrecisionError where gamma < 0 outweighs the tasks.
    """
    check_layouts(members)
    p = torch.stack([torch.as_tensor(q.precision).double() for q in members])
    scaled = weights.to(p) * p
    total = scaled.sum(-1, keepdim=True)
    if bool((weights < 0).any()):
        check_negative_gamma(weights, members[0].part(0, 0).from_natural((total, total[:, :0])))
    return scaled / total


def dtype_of(members: Sequence[Isotropic]) -> torch.dtype:
    """That of their averages: the widest of the means'."""
    return reduce(torch.promote_types, [q.mode().vector.dtype for q in members])


def piece_size(vector: Tensor) -> int:
    """Entries that are best worked on at a time where ``vector`` lies."""
    return PIECE if vector.is_cpu else LARGE


def average(out: Tensor, share: Sequence[float], thetas: Sequence[Tensor]) -> None:
    """out [n] = sum_k share_k theta_k as a running mean: a pass over memory less than by products and sums.

    m_k = m_{k-1} + share_k / (share_1 + ... + share_k) (theta_k - m_{k-1}). Members of share zero are not read.
    """
    (total, mean), *others = [(s, theta) for s, theta in zip(share, thetas, strict=True) if s]
    if not others:
        out.copy_(mean)
    for s, theta in others:
        total += s
        torch.lerp(mean, theta, s / total, out=out)
        mean = out


def averages_into(
    outs: Sequence[Tensor], shares: Tensor, members: Sequence[Isotropic], start: int = 0
) -> None:
    """outs [A] of [n]: entries start..start + n of the modes, made in the means' dtype and rounded once to that of out.

    shares: [A, K], of the function of that name. Where an out is of half precision they are made in float64: weights such as
    0.35 put many averages on the very middle between two bfloat16 numbers, where float32 errs.
    """
    means, rows, n = [q.mode().vector for q in members], shares.tolist(), outs[0].shape[0]
    dtype = torch.float64 if any(out.dtype.itemsize < 4 for out in outs) else dtype_of(members)
    size = min(n, piece_size(outs[0]))
    wide = {k: outs[0].new_empty(size, dtype=dtype) for k, mean in enumerate(means) if mean.dtype != dtype}
    unrounded = outs[0].new_empty(size if any(out.dtype != dtype for out in outs) else 0, dtype=dtype)
    for first in range(0, n, max(1, size)):
        piece = slice(first, min(first + size, n))
        thetas = [mean[start + piece.start : start + piece.stop] for mean in means]
        for k, buffer in wide.items():
            thetas[k] = buffer[: piece.stop - piece.start].copy_(thetas[k])
        for out, row in zip(outs, rows, strict=True):
            if out.dtype == dtype:
                average(out[piece], row, thetas)
            else:
                average(unrounded[: piece.stop - piece.start], row, thetas)
                out[piece] = unrounded[: piece.stop - piece.start]
