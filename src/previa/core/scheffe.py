"""Scheffe's polynomials of a mixture: how much each anchor counts at a weighting."""

from __future__ import annotations

import math
from itertools import combinations
from typing import cast

import torch
from torch import Tensor

from previa.errors import AlphaError, InputError

ORDER = 3  # blends of up to so many tasks have a term
RANK = 1e-9  # singular values of the terms below this, relative to the largest, count as none
SAME = 1e-9  # weightings that differ by less are one
WIDTH = 0.5  # of the remainder's kernel, in sqrt(w): about the distance between the middles of two edges


def terms(w: Tensor) -> Tensor:
    """phi(w) [A, F] for w [A, T]: k^k w_s w_t ... for every k = 2, 3 tasks; 0 at corners, 1 at the middle of its k tasks.

    F = C(T, 2) + C(T, 3): 4 for three tasks. Scheffe's special cubic polynomial without its linear part (J. R. Stat. Soc. B 20, 1958).
    """
    T = w.shape[-1]
    found = [
        k**k * torch.stack([w[:, i] for i in some]).prod(0)
        for k in range(2, min(T, ORDER) + 1)
        for some in combinations(range(T), k)
    ]
    return torch.stack(found, 1) if found else w.new_zeros(len(w), 0)


def cardinals(w: Tensor, at: Tensor) -> Tensor:
    """b_r(w) [A, n]: b_r is 1 at anchor r and 0 at the other anchors and at the corners.

    w [A, T]: where to interpolate; at [n, T]: the anchors' weightings, both float64 rows that sum to one.
    b(w) = phi(w) Phi^+ + k(w, at) k(at, at)^+ (I - Phi Phi^+), with Phi = phi(at) [n, F].
    The first term is the least-squares polynomial, of least norm where anchors are too few to identify every term; so one
    anchor at the centre bulges evenly towards all edges. The second is 0 where the anchors determine the polynomial without
    rest, and else carries the rest by a Gaussian-process kernel that vanishes at corners,
    k(w, w') = (1 - |w|^2) (1 - |w'|^2) exp(-|sqrt w - sqrt w'|^2 / 2 WIDTH^2).
    Raises AlphaError for an anchor at a corner, or two at one weighting.
    """
    if w.dim() != 2 or at.dim() != 2 or w.shape[1] != at.shape[1]:
        raise InputError(
            f"cardinals: w is {tuple(w.shape)} and at is {tuple(at.shape)}; expected [A, T] and [n, T] of the same tasks."
        )
    _check(at)
    Phi = terms(at)
    inverse: Tensor = torch.linalg.pinv(Phi, rtol=RANK)
    rest = torch.eye(len(at), dtype=at.dtype) - Phi @ inverse
    b = terms(w) @ inverse
    if float(rest.abs().amax()) < RANK:  # the polynomial goes through every anchor
        return b
    return b + _kernel(w, at) @ cast(Tensor, torch.linalg.solve(_kernel(at, at), rest))


def _kernel(w: Tensor, other: Tensor) -> Tensor:
    """k(w, w') [A, B], positive definite at weightings that differ and are no corners."""
    inside = (1 - w.square().sum(-1)).clamp_min(0)[:, None] * (1 - other.square().sum(-1)).clamp_min(0)
    squares = (w.clamp_min(0).sqrt()[:, None] - other.clamp_min(0).sqrt()).square().sum(-1)
    return inside * torch.exp(-squares / (2 * WIDTH**2))


def _check(at: Tensor) -> None:
    corner = at.amax(-1) > 1 - SAME
    if bool(corner.any()):
        raise AlphaError(
            f"anchors: {at[corner][0].tolist()} is a corner of the simplex. A run there is a task's own finetuning: hand it in "
            "as that task's posterior."
        )
    gaps = torch.cdist(at, at, p=math.inf, compute_mode="donot_use_mm_for_euclid_dist")
    gaps.fill_diagonal_(1.0)
    if len(at) and float(gaps.min()) < SAME:
        r = int(gaps.min(1).values.argmin())
        raise AlphaError(
            f"anchors: two are trained at {at[r].tolist()}. Keep one, or hand in the mean of their parameters."
        )
