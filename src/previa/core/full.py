"""Gaussian with a full precision matrix, for small models: Hessian-weighted merging as the paper writes it (eq. 10)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Self, final

import torch
from torch import Tensor

from previa.core.params import Flat, Layout, Params
from previa.errors import NotFiniteError, ParamsError, PrecisionError

ASYMMETRY = 1e-5  # of the largest entry: what rounding in float32 leaves between two opposite entries


@final
@dataclass(frozen=True)
class Full:
    """N(theta | mean, H^-1), H a symmetric positive definite matrix [P, P] in the order of ``mean``'s tensors.

    A number serves as that times the identity. lambda = (H, H mean), T(theta) = (-theta theta'/2, theta). Held in float64.
    Raises ParamsError where the shapes do not match or H is not symmetric, NotFiniteError, PrecisionError where H is not
    positive definite.
    """

    mean: Params
    precision: Tensor | float

    def __post_init__(self) -> None:
        mean = Flat.of(self.mean, where="Full: the mean")
        P = mean.layout.size
        H = _matrix(self.precision, mean.vector)
        if H.shape[-2:] != (P, P):
            raise ParamsError(
                f"Full: the precision has shape {tuple(H.shape)}, but {P} parameters need ({P}, {P})."
            )
        if not bool(torch.isfinite(H).all()):
            raise NotFiniteError("Full: the precision holds NaN or infinity; expected finite numbers.")
        uneven = (H - H.mT).abs().amax()
        if bool(uneven > ASYMMETRY * H.abs().amax()):
            raise ParamsError(
                f"Full: the precision is not symmetric: two opposite entries differ by {float(uneven):.3g}, the largest entry "
                f"is {float(H.abs().amax()):.3g}. A Hessian is symmetric; was a matrix transposed or put together wrongly?"
            )
        H = 0.5 * (H + H.mT)
        if bool((torch.linalg.cholesky_ex(H).info != 0).any()):
            raise PrecisionError(
                "Full: the precision is not positive definite. A Hessian away from a minimum has negative directions: "
                "use a Gauss-Newton matrix, or add a prior precision."
            )
        object.__setattr__(self, "mean", Flat(mean.layout, mean.vector.double()))
        object.__setattr__(self, "precision", H)

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""
        return self._m.layout

    def natural(self) -> tuple[Tensor, Tensor]:
        """(H as a vector [..., P*P], H mean [..., P])."""
        return self._precision.flatten(-2), (self._precision @ self._m.vector.unsqueeze(-1)).squeeze(-1)

    def from_natural(self, natural: tuple[Tensor, ...]) -> Self:
        """H and mean = H^-1 (H mean). Raises PrecisionError where H is not positive definite."""
        P = self.layout.size
        H, Hm = natural[0].view((*natural[0].shape[:-1], P, P)), natural[1]
        L, info = torch.linalg.cholesky_ex(H)
        if bool((info != 0).any()):
            raise PrecisionError("Full: the weighted sum of precisions is not positive definite.")
        merged = object.__new__(type(self))  # without the second factorisation of __init__
        object.__setattr__(
            merged, "mean", Flat(self.layout, torch.cholesky_solve(Hm.unsqueeze(-1), L).squeeze(-1))
        )
        object.__setattr__(merged, "precision", H)
        return merged

    def mode(self) -> Flat:
        """The mean."""
        return self._m

    def log_density(self, theta: Params) -> Tensor:
        """-P/2 log 2 pi + 1/2 log det H - 1/2 (theta - mean)' H (theta - mean), float64.

        A batch [A] against one H is one matrix product, and [A] against [K] are K of them.
        """
        x, m, H = Flat.of(theta, self.layout).vector.double(), self._m.vector, self._precision
        if m.dim() > 1:
            squares = [_square(x, mk, Hk) for mk, Hk in zip(m, H.expand(len(m), *H.shape[-2:]), strict=True)]
            square = torch.stack(squares, -1)
        else:
            square = _square(x, m, H)
        density: Tensor = -0.5 * self.layout.size * math.log(2 * math.pi) + 0.5 * (self._logdet - square)
        return density

    @cached_property
    def _logdet(self) -> Tensor:
        logdet: Tensor = 2 * torch.linalg.cholesky(self._precision).diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return logdet

    @property
    def _m(self) -> Flat:
        return Flat.of(self.mean)

    @property
    def _precision(self) -> Tensor:
        return torch.as_tensor(self.precision)


def _matrix(precision: object, mean: Tensor) -> Tensor:
    """The precision in float64 on the mean's device; a number times the identity. Raises ParamsError for anything else."""
    try:
        H = torch.as_tensor(precision).detach().to(mean.device, torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ParamsError(
            f"Full: the precision is a {type(precision).__name__}; expected a matrix [P, P] in the order of the mean's tensors, "
            "or a number. For precisions by name use Diagonal."
        ) from error
    return H if H.dim() else H * torch.eye(mean.shape[-1]).to(H)


def _square(x: Tensor, m: Tensor, H: Tensor) -> Tensor:
    """(x - m)' H (x - m) for x [..., P]."""
    d = x - m
    return (d @ H * d).sum(-1)
