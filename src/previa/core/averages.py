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


def average_into(out: Tensor, share: Sequence[float], thetas: Sequence[Tensor]) -> None:
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
    """outs [A] of [n]: entries start..start + n of the modes, made in the means' dtype and rounded to that of out.

    shares: [A, K], of the function of that name. For a float16 they are made in float64; for a bfloat16 see ``settle``.
    """
    n, rows = outs[0].shape[0], shares.tolist()
    dtype = torch.float64 if any(out.dtype == torch.float16 for out in outs) else dtype_of(members)
    size = max(1, min(n, piece_size(outs[0])))
    means = [q.mode().vector[start : start + n] for q in members]
    wide = {k: outs[0].new_empty(size, dtype=dtype) for k, mean in enumerate(means) if mean.dtype != dtype}
    average = outs[0].new_empty(size if any(out.dtype != dtype for out in outs) else 0, dtype=dtype)
    pieces = zip(
        zip(*(mean.split(size) for mean in means), strict=True),
        zip(*(out.split(size) for out in outs), strict=True),
        strict=True,
    )
    for found, targets in pieces:
        thetas = [wide[k][: len(theta)].copy_(theta) if k in wide else theta for k, theta in enumerate(found)]
        for out, row in zip(targets, rows, strict=True):
            if out.dtype == dtype:
                average_into(out, row, thetas)
            else:
                mean = average[: len(out)]
                average_into(mean, row, thetas)
                if (dtype, out.dtype) == (torch.float32, torch.bfloat16):
                    settle(mean)
                out.copy_(mean)


def settle(x: Tensor) -> None:
    """Round float32 numbers to 20 bits, in place: a running mean errs in the four bits that go.

    Weights such as 0.35 put many averages of bfloat16 numbers on the very middle between two of them, where the slightest
    error rounds to the wrong side: up to 1.4 % of entries. Put back on the middle, they round as in exact arithmetic.
    """
    x.view(torch.int32).add_(8).bitwise_and_(-16)
