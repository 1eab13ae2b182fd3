"""Isotropic Gaussian: merging it is simple averaging (eq. 2) and, with a prior at the base model, task arithmetic (eq. 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from previa.core.params import Flat, Layout, Params
from previa.core.quadratic import squared_distances
from previa.errors import PrecisionError


@final
@dataclass(frozen=True)
class Isotropic:
    """N(theta | mean, I / precision), with one precision p > 0 for all parameters.

    lambda = (p, p*mean), T(theta) = (-theta.theta/2, theta). Raises PrecisionError, NotFiniteError, ParamsError.
    """

    mean: Params
    precision: float | Tensor = 1.0

    def __post_init__(self) -> None:
        mean = Flat.of(self.mean, where="Isotropic: the mean")
        precision = torch.as_tensor(self.precision, dtype=mean.vector.dtype, device=mean.vector.device)
        if not bool((precision > 0).all()) or not bool(torch.isfinite(precision).all()):
            raise PrecisionError(
                f"Isotropic: the precision is {self.precision}, but it must be finite and above zero."
            )
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "precision", precision)

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""
        return self._m.layout

    def natural(self) -> tuple[Tensor, Tensor]:
        """(p [..., 1], p*mean [..., P])."""
        p = self._p.unsqueeze(-1)
        return p, p * self._m.vector

    def from_natural(self, natural: tuple[Tensor, ...]) -> Self:
        """p and mean from (p, p*mean), unchecked: a positive sum of valid ones is valid."""
        p, pm = natural
        return self._make(Flat(self.layout, pm / p), p.squeeze(-1))

    def mode(self) -> Flat:
        """The mean."""
        return self._m

    def log_density(self, theta: Params) -> Tensor:
        """-P/2 log 2 pi + P/2 log p - p/2 |theta - mean|^2, float64."""
        P = self.layout.size
        p = self._p.double()
        x = Flat.of(theta, self.layout)
        return (
            -0.5 * P * math.log(2 * math.pi)
            + 0.5 * P * p.log()
            - 0.5 * p * squared_distances(x.vector, self._m.vector)
        )

    def part(self, start: int, stop: int) -> Self:
        """The posterior of entries start..stop."""
        return self._make(self._m.part(start, stop), self._p)

    def mode_of(self, natural: tuple[Tensor, ...]) -> Tensor:
        """(p*mean) / p, in the memory of p*mean."""
        return natural[1].div_(natural[0])

    @classmethod
    def _make(cls, mean: Flat, precision: Tensor) -> Self:
        self = object.__new__(cls)  # without the checks of __init__, which cost a pass over the parameters
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "precision", precision)
        return self

    @property
    def _m(self) -> Flat:
        return Flat.of(self.mean)

    @property
    def _p(self) -> Tensor:
        return torch.as_tensor(self.precision)
