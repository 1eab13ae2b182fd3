"""Scheffe's polynomials of a mixture: how much each anchor counts at a weighting."""

from __future__ import annotations

import math
from itertools import combinations
from typing import cast

import torch
from torch import Tensor

from previa.errors import AlphaError, InputError

ORDER = 3  # blends of up to so many tasks have a term
# Singular values of the anchors' terms below this say too little: 1 / RANK bounds how often a residual is counted. Complete
# designs, a run in the middle of every two and three tasks, have 0.69 for three tasks, 0.54 for five, 0.492 for six. With
# 2, 4 and 7 anchors anywhere (tests/test_scheffe.py) squared errors are 1.1, 0.7 and 0.5 of those without anchors, 1.8 at
# worst; where every term counts that is identified at all, 1.2, 18 and 1.4, and over 4000 at worst.
RANK = 0.49
EXACT = 1e-9  # of 1, a cardinal at its own anchor: what rounding leaves of a polynomial that goes through every anchor
SAME = 1e-6  # of the sum of weights, 1: weightings that differ by less are one, as they often come as text of six digits
WIDTH = 1.0  # of the rest's kernel, in sqrt(w): the distance between the middles of two edges


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
    """b_r(w) [A, n]: b_r is exactly 1 at anchor r, and exactly 0 at the other anchors and at the corners.

    w [A, T]: where to interpolate; at [n, T]: the anchors' weightings, both float64 rows that sum to one.
    b(w) = phi(w) Phi^+ + k(w, R) k(R, R)^-1 [I - Phi Phi^+; 0], with Phi = phi(at) [n, F] and R = [at; corners].
    The first part is the least-squares polynomial, of least norm where anchors are too few to identify every term: one
    anchor at the centre bulges evenly towards all edges. What anchors hardly identify, as two that lie close together or one
    beside a corner, is left out of it (RANK). The second part carries the rest to every anchor, by a Gaussian process that
    is 0 at the corners, with k(w, w') = exp(-|sqrt w - sqrt w'| / WIDTH). Its paths are rough, so anchors that nearly
    coincide and disagree make a step between them, and not a slope that goes on: sum_r |b_r| stays below 8.
    Raises AlphaError for an anchor at a corner, or two at one weighting.
    """
    if w.dim() != 2 or at.dim() != 2 or w.shape[1] != at.shape[1]:
        raise InputError(
            f"cardinals: w is {tuple(w.shape)} and at is {tuple(at.shape)}; expected [A, T] and [n, T] of the same tasks."
        )
    _check(at)
    if not len(at):
        return w.new_zeros(len(w), 0)
    Phi = terms(at)
    inverse: Tensor = torch.linalg.pinv(Phi, atol=RANK, rtol=0.0)
    rest = torch.eye(len(at), dtype=at.dtype) - Phi @ inverse
    b = terms(w) @ inverse
    if float(rest.abs().amax()) > EXACT:  # the polynomial does not go through every anchor
        corners = torch.eye(at.shape[1], dtype=at.dtype)
        runs = torch.cat([at, corners])
        left = torch.cat([rest, at.new_zeros(len(corners), len(at))])
        b += _kernel(w, runs) @ cast(Tensor, torch.linalg.solve(_kernel(runs, runs), left))
    b[w.amax(-1) > 1 - SAME] = 0.0
    for a, r in met(w, at):
        b[a] = torch.eye(len(at), dtype=b.dtype)[r]
    return b


def met(w: Tensor, at: Tensor) -> list[tuple[int, int]]:
    """(row of w, row of at) wherever the two are one weighting."""
    return [(a, r) for a, r in (_gaps(w, at) < SAME).nonzero().tolist()]


def _kernel(w: Tensor, other: Tensor) -> Tensor:
    """k(w, w') [A, B]."""
    one, two = w.clamp_min(0).sqrt(), other.clamp_min(0).sqrt()
    return torch.exp(-torch.cdist(one, two, compute_mode="donot_use_mm_for_euclid_dist") / WIDTH)


def _gaps(w: Tensor, at: Tensor) -> Tensor:
    """The largest difference of any weight, [A, n]."""
    return torch.cdist(w, at, p=math.inf)


def _check(at: Tensor) -> None:
    corner = at.amax(-1) > 1 - SAME
    if bool(corner.any()):
        raise AlphaError(
            f"anchors: {at[corner][0].tolist()} is a corner of the simplex. A run there is a task's own finetuning: hand it in "
            "as that task's posterior."
        )
    gaps = _gaps(at, at).fill_diagonal_(1.0)
    if len(at) and float(gaps.min()) < SAME:
        r = int(gaps.min(1).values.argmin())
        raise AlphaError(
            f"anchors: two are trained at {at[r].tolist()}. Keep one, or hand in the mean of their parameters."
        )
