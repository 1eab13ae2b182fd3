"""Gaussian whose precision is a low-rank matrix and a multiple of the identity: curvature from a few examples' gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import final

import torch
from torch import Tensor

from previa.core.conjugate_gradients import Elementwise, Map, System, definite
from previa.core.params import Flat, Layout, Params
from previa.core.posterior import Products
from previa.errors import NotFiniteError, ParamsError, PrecisionError

ALIKE = 1e-9  # of each entry: diagonals that differ by less share a preconditioner


@final
@dataclass(frozen=True)
class LowRankGaussian:
    """N(theta | mean, H^-1) with H = U U' + delta I, U [P, r]: as n examples' gradients g_i / sqrt(n) in its columns.

    Sums of these are no short form: ``previa.modes`` finds their modes by conjugate gradients, preconditioned by the sum's own
    inverse (Woodbury), so in a step or two. ``gradients_by_example`` in previa.fit.centre gives U.
    Raises ParamsError where U has no row for each parameter, NotFiniteError, PrecisionError unless delta > 0.
    """

    mean: Params
    U: Tensor
    delta: float

    def __post_init__(self) -> None:
        mean = Flat.of(self.mean, where="LowRankGaussian: the mean")
        if self.U.dim() != 2 or len(self.U) != mean.layout.size or mean.vector.dim() > 1:
            raise ParamsError(
                f"LowRankGaussian: U has shape {tuple(self.U.shape)}; expected ({mean.layout.size}, r), a row for each parameter "
                "of one model."
            )
        if not bool(torch.isfinite(self.U).all()):
            raise NotFiniteError("LowRankGaussian: U holds NaN or infinity.")
        if not (self.delta > 0 and math.isfinite(self.delta)):
            raise PrecisionError(
                f"LowRankGaussian: delta is {self.delta}, but it must be finite and above zero: r columns leave other directions "
                "without curvature."
            )
        object.__setattr__(self, "mean", mean)

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""
        return self.mode().layout

    def mode(self) -> Flat:
        """The mean."""
        return Flat.of(self.mean)

    def times(self, v: Tensor) -> Tensor:
        """H v for v [..., P]."""
        U = self.U.to(v)
        return (v @ U) @ U.mT + self.delta * v

    def diagonal(self) -> Tensor:
        """The diagonal of H, [P] in float64."""
        return self.U.double().square().sum(1) + self.delta

    @cached_property
    def _log_det(self) -> Tensor:
        """log det H = P log delta + log det (I + U'U / delta)."""
        U = self.U.double()
        inner = torch.eye(U.shape[1]).to(U) + U.mT @ U / self.delta
        L = torch.linalg.cholesky(inner)
        log_det: Tensor = self.layout.size * math.log(self.delta) + 2 * L.diagonal().log().sum()
        return log_det

    def log_density(self, theta: Params) -> Tensor:
        """-P/2 log 2 pi + 1/2 log det H - 1/2 (theta - mean)' H (theta - mean), float64; theta [A] gives [A]."""
        d = Flat.of(theta, self.layout).vector.double() - self.mode().vector.double()
        density: Tensor = 0.5 * (
            self._log_det - self.layout.size * math.log(2 * math.pi) - (d * self.times(d)).sum(-1)
        )
        return density

    def systems(self, members: Sequence[Products]) -> list[System] | None:
        """One system, where all members are of this family or elementwise."""
        if not all(isinstance(q, LowRankGaussian | Elementwise) for q in members):
            return None
        Us = [q.U.double() if isinstance(q, LowRankGaussian) else None for q in members]
        h = torch.stack([_elementwise(q) for q in members])
        width = 4 * self.layout.size + sum(U.numel() for U in Us if U is not None)
        return [System(slice(None), [q.times for q in members], partial(_at, Us, h), width)]


def _elementwise(q: Products) -> Tensor:
    """The part of a member's precision that is no low-rank matrix, [P] float64."""
    if isinstance(q, LowRankGaussian):
        return torch.full((q.layout.size,), q.delta, dtype=torch.float64, device=q.U.device)
    return q.diagonal().double()


def _at(Us: Sequence[Tensor | None], h: Tensor, weights: Tensor) -> tuple[Map, Map]:
    """sum_k w_k H_k = V V' + D with V = [sqrt(w_k) U_k], and its inverse D^-1 - D^-1 V (I + V' D^-1 V)^-1 V' D^-1, row by row."""
    D = definite(weights @ h)
    used = [(k, U) for k, U in enumerate(Us) if U is not None]
    V = torch.cat([U for _, U in used], 1)
    roots = torch.cat([weights[:, k : k + 1].clamp_min(0).sqrt().expand(-1, U.shape[1]) for k, U in used], 1)
    eye = torch.eye(V.shape[1]).to(V)
    shared = V.mT @ (V / D[0][:, None]) if torch.allclose(D, D[:1].expand_as(D), rtol=ALIKE) else None
    grams = (shared if shared is not None else V.mT @ (V / d[:, None]) for d in D)
    inner: list[Tensor] = [
        torch.linalg.cholesky(eye + root[:, None] * gram * root)
        for root, gram in zip(roots, grams, strict=True)
    ]

    def times(v: Tensor) -> Tensor:
        return (v @ V * roots.square()) @ V.mT + D * v

    def inverse(r: Tensor) -> Tensor:
        scaled = r / D
        right = (scaled @ V * roots).unsqueeze(-1)
        solved = torch.stack([torch.cholesky_solve(b, L) for b, L in zip(right, inner, strict=True)])
        return scaled - (solved.squeeze(-1) * roots) @ V.mT / D

    return times, inverse
