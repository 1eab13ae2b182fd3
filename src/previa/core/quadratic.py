"""Sums over parameters in float64, chunk by chunk: quadratic forms for many weightings and components at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 1 << 22  # entries of [A, chunk] or [K, chunk] at a time: 32 MB each in float64


def log_sums(h: Tensor) -> Tensor:
    """sum_p log h_p over the last dimension of h [..., P], in float64."""
    total = torch.zeros(h.shape[:-1], dtype=torch.float64, device=h.device)
    for part in _parts(h):
        total += h[..., part].double().log().sum(-1)
    return total


def squared_distances(theta: Tensor, m: Tensor, h: Tensor | None = None) -> Tensor:
    """sum_p h_p (theta_p - m_p)^2 in float64: theta [A, P] and m, h [K, P] give [A, K]; h = 1 when None.

    With two batches the squares are two matrix products, (theta^2) h' - 2 theta (h m)' + sum h m^2, in chunks of
    parameters, both centred at the mean of m, where the terms are of the size of the distances themselves.
    """
    if theta.dim() == 1 or m.dim() == 1:
        total = torch.zeros((), dtype=torch.float64, device=theta.device)
        for part in _parts(theta, m):
            square = (theta[..., part].double() - m[..., part].double()).square()
            total = total + (square if h is None else square * h[..., part].double()).sum(-1)
        return total
    total = torch.zeros(theta.shape[0], m.shape[0], dtype=torch.float64, device=theta.device)
    for part in _parts(theta, m):
        mk = m[:, part].double()
        centre = mk.mean(0)
        mk, x = mk - centre, theta[:, part].double() - centre
        hk = torch.ones_like(mk) if h is None else h[:, part].double()
        total += x.square() @ hk.T - 2 * x @ (hk * mk).T + (hk * mk.square()).sum(-1)
    return total.clamp_min_(0)


def _parts(*tensors: Tensor) -> Iterator[slice]:
    """Ranges of the last dimension, such that of each tensor at most CHUNK entries lie in one."""
    P = tensors[0].shape[-1]
    rows = max(1, *(tensor.numel() // max(1, P) for tensor in tensors))
    size = max(1024, CHUNK // rows)
    return (slice(start, start + size) for start in range(0, P, size))
