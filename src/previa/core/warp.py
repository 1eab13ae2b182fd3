"""warp: weights that saturate, as the truth does: a little weight on a task already buys most of its score."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from previa.core.merge import Alphas
from previa.core.modes import Modes
from previa.errors import AlphaError, InputError

DUST = 1e-9  # of the largest weight: as many digits as weightings are told apart by: 1 - 0.9 - 0.1 is -3e-17, and its power would be a task's weight
Method = Callable[[Tensor], Modes]
"""alphas [A, T] -> preview parameters [A, P]"""


def warp(alphas: Alphas, p: float) -> Tensor:
    """w_t = alpha_t^p / sum_s alpha_s^p * sum_s alpha_s, float64, of the shape of ``alphas``, [T] or [A, T].

    p = 1 returns alphas; p < 1 moves weights towards the centre of those tasks that have any. Corners, the sum (so gamma) and
    equal weights stay. 0 counts as no task: 0^p = 0, and so do weights below 1e-9 of the largest, which rounding leaves.
    Raises AlphaError for weights that are negative, not finite or all zero; InputError unless p > 0.
    """
    if not isinstance(p, int | float) or not 0 < p < float("inf"):
        raise InputError(
            f"warp: the power p is {p!r}; expected a positive number, such as 0.3; 1 changes nothing."
        )
    a = torch.as_tensor(alphas, dtype=torch.float64)
    if not bool(torch.isfinite(a).all()) or bool((a < 0).any()) or not bool((a.sum(-1) > 0).all()):
        raise AlphaError(
            f"warp: alpha must be finite, not negative, and positive for one task at least; found {a.tolist()}."
        )
    if p == 1:
        return a
    part = a / a.amax(-1, keepdim=True)  # at most 1: no power underflows for all tasks
    w = torch.where(part < DUST, 0.0, part**p)
    return w / w.sum(-1, keepdim=True) * a.sum(-1, keepdim=True)


def warped(method: Method, p: float) -> Method:
    """The preview method at warped weights: alphas -> method(warp(alphas, p)). Raises InputError unless p > 0."""
    warp([1.0], p)  # a wrong p is said now
    return lambda alphas: method(warp(alphas, p))
