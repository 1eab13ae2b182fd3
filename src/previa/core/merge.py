"""merge: the weighted sum of natural parameters (eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from previa.core.posterior import Posterior, naturals
from previa.errors import AlphaError, InputError, PrecisionError

# of 1 - sum(alpha), relative to sum(alpha) = 1: what float64 leaves of weights that sum to one
ROUNDING = 1e-12

Alphas = Tensor | Sequence[float] | Sequence[Sequence[float]]


def as_alphas(alpha: Alphas, T: int) -> Tensor:
    """``alpha`` as float64 [T] or [A, T]. Raises AlphaError: wrong number, negative, not finite, or all zero."""
    a = torch.as_tensor(alpha, dtype=torch.float64)
    if a.dim() not in (1, 2) or a.shape[-1] != T:
        raise AlphaError(
            f"alpha has shape {tuple(a.shape)}, but {T} tasks need ({T},), or (A, {T}) for A weightings."
        )
    if not bool(torch.isfinite(a).all()):
        raise AlphaError(f"alpha holds NaN or infinity: {a.tolist()}.")
    if bool((a < 0).any()):
        raise AlphaError(f"alpha must not be negative; found {a.min().item():g}.")
    if not bool((a.sum(-1) > 0).all()):
        raise AlphaError("alpha is zero for every task: give at least one of them weight.")
    return a


def with_prior(
    alpha: Tensor, posteriors: Sequence[Posterior], prior: Posterior | None
) -> tuple[Tensor, list[Posterior]]:
    """Weights and members of the sum: alpha, and gamma = 1 - sum(alpha) for the prior where there is one."""
    if prior is None:
        return alpha, list(posteriors)
    gamma = 1 - alpha.sum(-1, keepdim=True)
    gamma = torch.where(gamma.abs() < ROUNDING, 0.0, gamma)
    return torch.cat([alpha, gamma], -1), [*posteriors, prior]


def merge(alpha: Alphas, posteriors: Sequence[Posterior], prior: Posterior | None = None) -> Posterior:
    """The merged posterior p0^gamma * prod_t q_t^alpha_t: lambda = gamma*lambda_0 + sum_t alpha_t*lambda_t (eq. 5).

    alpha: [T], or [A, T] for a batch of A merged posteriors (one matrix product). prior: None is the flat prior, gamma = 0.
    Its ``.mode()`` is the preview model at alpha. For mixtures and Student-t use ``modes``, which runs EM.
    Raises AlphaError; InputError for families that differ; ParamsError; PrecisionError where gamma < 0 outweighs the tasks.
    """
    if not posteriors:
        raise InputError("merge: there are no posteriors.")
    if not all(isinstance(q, Posterior) for q in posteriors):
        kind = next(type(q).__name__ for q in posteriors if not isinstance(q, Posterior))
        raise InputError(f"merge: products of {kind} posteriors have no closed form; use previa.modes.")
    weights, members = with_prior(as_alphas(alpha, len(posteriors)), posteriors, prior)
    merged = members[0].from_natural(tuple(weighted_sum(weights, lam) for lam in naturals(members)))
    if bool((weights < 0).any()):
        check_negative_gamma(weights, merged)
    return merged


def check_layouts(members: Sequence[Posterior]) -> None:
    """Raise ParamsError, naming what differs, unless all have the first one's tensors."""
    layout = members[0].layout
    if any(q.layout is not layout and q.layout != layout for q in members):
        naturals(members)


def check_negative_gamma(weights: Tensor, merged: Posterior) -> None:
    """Raise PrecisionError where a prior of negative weight leaves no valid posterior: its own checks are run again."""
    try:
        getattr(merged, "__post_init__", bool)()
    except PrecisionError as error:
        total = float(weights[..., :-1].sum(-1).max())
        raise PrecisionError(
            f"merge: with sum(alpha) = {total:g} the prior has the negative weight gamma = {1 - total:g}, and no merged "
            f"posterior is left ({error}). Lower alpha or the prior's precision."
        ) from error


def weighted_sum(weights: Tensor, natural: Tensor) -> Tensor:
    """weights [K] or [A, K] times natural [K, n], in natural's own dtype."""
    return weights.to(natural) @ natural
