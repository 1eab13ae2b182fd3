"""Modes of Gaussians known by their products: (sum_k w_k H_k) theta = sum_k w_k H_k theta_k by conjugate gradients (eq. 10)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from previa.core.diagonal import Diagonal
from previa.core.isotropic import Isotropic
from previa.core.params import Flat, Layout
from previa.core.posterior import Bounded, Posterior, Products
from previa.errors import InputError, ParamsError, PrecisionError

TOLERANCE = 1e-6  # of the residual, relative to the plain average's
HELD = 1 << 25  # float64 numbers held for a chunk of weightings: 256 MB

Map = Callable[[Tensor], Tensor]

NOT_DEFINITE = (
    "modes: the weighted sum of the precisions is not positive definite. Add damping; with a prior, let alpha sum to at "
    "most one, so that gamma = 1 - sum(alpha) is not negative."
)


@final
@dataclass(frozen=True)
class System:
    """Equations sum_k w_k H_k (x - mean_k) = 0 over some entries of the parameter vector, independent of all others."""

    entries: Tensor | slice
    """which n of them; all vectors of the system are in this order"""
    products: Sequence[Map]
    """for each member k: v [A, n] -> H_k v"""
    at: Callable[[Tensor], tuple[Map, Map]]
    """w [A, K] -> (v -> sum_k w_k H_k v, r -> M^-1 r), with M near that sum; PrecisionError where M is not positive definite"""
    width: int
    """how many numbers one row of weights needs at a time"""


@runtime_checkable
class Separable(Products, Protocol):
    """Products whose weighted sums fall into independent systems, with preconditioners of the family's own."""

    def systems(self, members: Sequence[Products]) -> Sequence[System] | None:
        """Systems that tile the vector, for ``members``, of which this is one; None where those do not go together."""
        ...


def products_modes(
    weights: Tensor, members: Sequence[Posterior | Bounded | Products], max_iterations: int
) -> tuple[Flat, dict[str, Tensor]]:
    """The mode of prod_k q_k^w_k for each row of weights [A, K]: theta [A, P], and [A] iterations, converged, residual.

    Starts at the plain average c = sum_k w_k mean_k / sum_k w_k, so that a single weight returns its member exactly.
    residual: |r| / |r at c| in the norm of M^-1, of the worst system; converged where it is at most 1e-6. Results have
    the means' dtype, all that leads to them is float64.
    Raises InputError for families without products, ParamsError, PrecisionError where the sum is not positive definite.
    """
    qs = [as_products(q) for q in members]
    means = _means(qs)
    weights = weights.to(means.device)
    theta = torch.empty(len(weights), means.shape[-1], dtype=means.dtype, device=means.device)
    iterations, residual = weights.new_zeros(len(weights)), weights.new_zeros(len(weights))
    for system in systems_of(qs):
        mean = means[:, system.entries].double()
        n = max(1, HELD // max(1, system.width))
        for some in (slice(start, start + n) for start in range(0, len(weights), n)):
            x, steps, rest = _solve(system, weights[some], mean, max_iterations)
            theta[some, system.entries] = x.to(theta)
            iterations[some] = torch.maximum(iterations[some], steps)
            residual[some] = torch.maximum(residual[some], rest)
    stats = {"iterations": iterations, "converged": (residual <= TOLERANCE).double(), "residual": residual}
    return Flat(qs[0].layout, theta), {name: value.cpu() for name, value in stats.items()}


def conjugate_gradients(
    times: Map, precondition: Map, b: Tensor, max_iterations: int, tolerance: float = TOLERANCE
) -> tuple[Tensor, Tensor, Tensor]:
    """H x = b for each row of b [A, n], from x = 0: (x, iterations [A], relative residual [A]).

    Preconditioned conjugate gradients (Hestenes and Stiefel 1952): a row rests once |r| = sqrt(r' M^-1 r) is at most
    ``tolerance`` times |b|. Raises PrecisionError where H has a direction without positive curvature.
    """
    x, r = torch.zeros_like(b), b.clone()
    z = precondition(r)
    p, rz = z.clone(), (r * z).sum(-1)
    first, iterations = rz.clone(), torch.zeros_like(rz)
    residual = (first > 0).to(first)
    for _ in range(max_iterations):
        busy = residual > tolerance
        if not bool(busy.any()):
            break
        Hp = times(p)
        curvature = (p * Hp).sum(-1)
        if not bool((curvature > 0)[busy].all()):
            raise PrecisionError(NOT_DEFINITE)
        step = torch.where(busy, rz / curvature, 0.0).unsqueeze(-1)
        x += step * p
        r -= step * Hp
        z = precondition(r)
        new = (r * z).sum(-1)
        p = z + torch.where(busy, new / rz, 0.0).unsqueeze(-1) * p
        rz = new
        residual = torch.where(first > 0, (rz / first).clamp_min(0).sqrt(), 0.0)
        iterations += busy
    return x, iterations, residual


def as_products(q: Posterior | Bounded | Products) -> Products:
    """``q`` itself, or a Diagonal or Isotropic by its products. Raises InputError for other families."""
    if isinstance(q, Products):
        return q
    if isinstance(q, Diagonal | Isotropic):
        return Elementwise(q)
    raise InputError(
        f"modes: {type(q).__name__} cannot be merged with a posterior that is known by its products. Tasks and priors "
        "beside it may be Diagonal or Isotropic."
    )


@final
class Elementwise:
    """A Diagonal or Isotropic by its products: h [P], or [1] where all entries have the same."""

    def __init__(self, q: Diagonal | Isotropic) -> None:
        self._q = q
        self.h = q.natural()[0].double()

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""
        return self._q.layout

    def mode(self) -> Flat:
        """The mean."""
        return self._q.mode()

    def times(self, v: Tensor) -> Tensor:
        """h v."""
        return self.h * v

    def diagonal(self) -> Tensor:
        """h [P]."""
        return self.h.expand(self.layout.size)


def elementwise_system(entries: Tensor | slice, h: Tensor) -> System:
    """The system of members with precisions h [K, n]: its preconditioner is the sum itself."""

    def at(weights: Tensor) -> tuple[Map, Map]:
        total = definite(weights @ h)
        return (lambda v: total * v), (lambda r: r / total)

    return System(entries, [partial(torch.mul, hk) for hk in h], at, 8 * h.shape[-1])


def definite(diagonal: Tensor) -> Tensor:
    """``diagonal`` itself. Raises PrecisionError unless it is above zero everywhere."""
    if not bool((diagonal > 0).all()):
        raise PrecisionError(NOT_DEFINITE)
    return diagonal


def _solve(
    system: System, weights: Tensor, mean: Tensor, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    centre = weights @ mean / weights.sum(-1, keepdim=True)
    times, precondition = system.at(weights)
    if bool(
        (weights < 0).any()
    ):  # the sum may be indefinite where the posteriors' own equations do not show it
        probe = torch.randn(mean.shape[-1], dtype=mean.dtype, generator=torch.Generator().manual_seed(0))
        conjugate_gradients(times, precondition, probe.to(mean.device).expand_as(centre), max_iterations)
    b = torch.zeros_like(centre)
    for w, m, product in zip(weights.T, mean, system.products, strict=True):
        b += w[:, None] * product(m - centre)
    x, iterations, residual = conjugate_gradients(times, precondition, b, max_iterations)
    return centre + x, iterations, residual


def systems_of(qs: Sequence[Products]) -> Sequence[System]:
    """The systems of the first family that knows its own; else one, with the diagonal as its preconditioner."""
    for q in qs:
        if isinstance(q, Separable):
            found = q.systems(qs)
            if found is not None:
                return found
    h = torch.stack([q.diagonal().double() for q in qs])

    def at(weights: Tensor) -> tuple[Map, Map]:
        total = definite(weights @ h)
        return partial(_weighted, qs, weights), (lambda r: r / total)

    return [System(slice(None), [q.times for q in qs], at, 8 * h.shape[-1])]


def _weighted(qs: Sequence[Products], weights: Tensor, v: Tensor) -> Tensor:
    total = torch.zeros_like(v)
    for w, q in zip(weights.T, qs, strict=True):
        total += w[:, None] * q.times(v)
    return total


def _means(qs: Sequence[Products]) -> Tensor:
    """The means [K, P]. Raises ParamsError where tensors differ."""
    layout = qs[0].layout
    for k, q in enumerate(qs):
        if q.layout != layout:
            layout.check(q.mode(), f"posterior {k}", "posterior 0")
            raise ParamsError(f"posterior {k}: its tensors are in another order than in posterior 0.")
    return torch.stack([q.mode().vector for q in qs])
