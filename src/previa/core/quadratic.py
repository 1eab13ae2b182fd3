"""Sums over parameters in float64, chunk by chunk: quadratic forms for many weightings and components at once."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1 << 16  # entries a step: 90 components x 65536 x 8 bytes stay under 50 MB


def log_sums(h: Tensor) -> Tensor:
    """sum_p log h_p over the last dimension, float64, chunk by chunk."""
    return torch.stack(
        [h[..., lo : lo + CHUNK].double().log().sum(-1) for lo in range(0, h.shape[-1], CHUNK)]
    ).sum(0)


def squared_distances(theta: Tensor, m: Tensor, h: Tensor | None = None) -> Tensor:
    """sum_p h_p (theta_p - m_p)^2 in float64: theta [A, P] and m, h [K, P] give [A, K]; h = 1 when None.

    With two batches the squares are two matrix products, (theta^2) h' - 2 theta (h m)' + sum h m^2, in chunks of
    parameters, both centred at the mean of m, where the terms are of the size of the distances themselves.
    """
    if theta.dim() == 1 or m.dim() == 1:
        total = torch.zeros((), dtype=torch.float64, device=theta.device)
        for lo in range(0, theta.shape[-1], CHUNK):
            part = slice(lo, lo + CHUNK)
            square = (theta[..., part].double() - m[..., part].double()).square()
            total = total + (square if h is None else square * h[..., part].double()).sum(-1)
        return total
    total = torch.zeros(theta.shape[0], m.shape[0], dtype=torch.float64, device=theta.device)
    for lo in range(0, theta.shape[-1], CHUNK):
        part = slice(lo, lo + CHUNK)
        mk = m[:, part].double()
        centre = mk.mean(0)
        mk, x = mk - centre, theta[:, part].double() - centre
        hk = torch.ones_like(mk) if h is None else h[:, part].double()
        total += x.square() @ hk.T - 2 * x @ (hk * mk).T + (hk * mk.square()).sum(-1)
    return total.clamp_min_(0)
