"""modes: the preview parameters for every weighting: in closed form, by conjugate gradients or by EM (eq. 10, 12, 14)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from previa.core.conjugate_gradients import products_modes
from previa.core.em import em
from previa.core.merge import Alphas, as_alphas, with_prior
from previa.core.params import Flat
from previa.core.posterior import Bounded, Posterior, Products
from previa.core.weighted import weighted_modes, weighted_parts
from previa.errors import InputError

Blocks = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Modes:
    """Preview parameters of A weightings, and what finding them took."""

    params: Flat
    """[A, P]"""
    stats: Mapping[str, Tensor]
    """[A] each: empty for a closed form; for conjugate gradients iterations, converged, residual; for EM iterations,
    converged, objective, effective_k, start"""


def modes(
    alphas: Alphas,
    posteriors: Sequence[Posterior | Bounded | Products],
    prior: Posterior | Products | None = None,
    *,
    blocks: Blocks | None = None,
    max_iterations: int = 500,
) -> Modes:
    """argmax_theta log p0(theta)*gamma + sum_t alpha_t log q_t(theta), for each row of alphas [A, T] (eq. 8).

    Exponential families: one matrix product per chunk of parameters. Gaussians known by their products (Kronecker), with
    Diagonal or Isotropic beside them or as prior: conjugate gradients. Mixtures and Student-t: EM from several starts.
    blocks: (start, stop) ranges that tile the parameter vector, as Layout.blocks() gives; a mixture is then taken as a product
    of mixtures, one a block, with responsibilities of its own (for mixtures and Student-t only).
    EM is a local search, of which the best of several starts is kept; one of them is the solution at the nearest other weighting,
    so what is found at a weighting depends on which others are asked for with it. Where responsibilities saturate, it can end
    below the best choice of one component a task: on a hard synthetic case at half of the weightings, by a median of 1.7 nats.
    Raises AlphaError, InputError, ParamsError, PrecisionError as ``merge``.
    """
    if not posteriors:
        raise InputError("modes: there are no posteriors.")
    if not isinstance(max_iterations, int) or max_iterations < 1:
        raise InputError(f"modes: max_iterations is {max_iterations!r}; expected a whole number from 1 on.")
    if blocks is not None and all(isinstance(q, Posterior | Products) for q in posteriors):
        raise InputError(
            f"modes: blocks are for mixtures and Student-t, whose responsibilities they part; {type(posteriors[0]).__name__} "
            "has none. Leave blocks out."
        )
    alpha = as_alphas(alphas, len(posteriors)).view(-1, len(posteriors))
    if isinstance(prior, Products) or any(isinstance(q, Products) for q in posteriors):
        weights, _ = with_prior(alpha, [], cast("Posterior | None", prior))  # it only counts
        members = [*posteriors, *([] if prior is None else [prior])]
        return Modes(*products_modes(weights, members, max_iterations))
    if all(isinstance(q, Posterior) for q in posteriors):
        weights, closed = with_prior(alpha, [q for q in posteriors if isinstance(q, Posterior)], prior)
        return Modes(weighted_modes(weights, closed), {})
    others = [q for q in posteriors if not isinstance(q, Products)]
    if any(isinstance(c, Products) for q in others if isinstance(q, Bounded) for c in q.components):
        raise InputError(
            "modes: a mixture's components must be members of an exponential family, such as Diagonal."
        )
    if blocks is None:
        return Modes(*em(alpha, others, prior, max_iterations))
    return _blockwise(alpha, others, prior, blocks, max_iterations)


def mode_parts(
    alphas: Alphas, posteriors: Sequence[Posterior], prior: Posterior | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """The closed-form modes of all weightings in chunks: (entries, values [A, chunk]), for models too large for [A, P].

    Each yielded tensor is overwritten by the next. Raises as ``modes``, and InputError for families without a closed form.
    """
    open_ = [q for q in [*posteriors, prior] if q is not None and not isinstance(q, Posterior)]
    if open_:
        raise InputError(f"mode_parts: {type(open_[0]).__name__} has no closed form; use previa.modes.")
    alpha = as_alphas(alphas, len(posteriors)).view(-1, len(posteriors))
    weights, members = with_prior(alpha, posteriors, prior)
    return weighted_parts(weights, members)


def _blockwise(
    alpha: Tensor,
    posteriors: Sequence[Posterior | Bounded],
    prior: Posterior | None,
    blocks: Blocks,
    max_iterations: int,
) -> Modes:
    layout = posteriors[0].layout
    ends = [0, *(stop for _, stop in blocks)]
    tiled = [start for start, _ in blocks] == ends[:-1] and ends[-1] == layout.size
    if not tiled or any(start >= stop for start, stop in blocks):
        raise InputError(
            f"modes: blocks must tile the {layout.size} parameters in order without gaps; found {list(blocks)[:5]}."
        )
    theta, stats = [], []
    for start, stop in blocks:
        parts = [_part(q, start, stop) for q in posteriors]
        prior_part = None if prior is None else _part(prior, start, stop)
        assert prior_part is None or isinstance(prior_part, Posterior)
        flat, stat = em(alpha, parts, prior_part, max_iterations)
        theta.append(flat.vector)
        stats.append(stat)
    rows = {name: torch.stack([stat[name] for stat in stats]) for name in stats[0]}
    joined = {
        "iterations": rows["iterations"].amax(0),
        "converged": rows["converged"].amin(0),
        "objective": rows["objective"].sum(0),
        "effective_k": rows["effective_k"].mean(0),
        "start": rows["start"].mode(0).values,
    }
    return Modes(Flat(layout, torch.cat(theta, -1)), joined)


def _part(q: Posterior | Bounded, start: int, stop: int) -> Posterior | Bounded:
    if not hasattr(q, "part"):
        raise InputError(
            f"modes: {type(q).__name__} does not factorise over parameters, so it has no blocks."
        )
    return q.part(start, stop)
