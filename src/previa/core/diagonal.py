"""Gaussian with a diagonal precision: merging it is Hessian-weighted averaging (eq. 10)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from previa.core.params import Flat, Layout, Params
from previa.core.quadratic import log_sums, squared_distances
from previa.errors import NotFiniteError, PrecisionError


@final
@dataclass(frozen=True)
class Diagonal:
    """N(theta | mean, diag(1/h)), with a precision h > 0 for each parameter (or one number for all).

    lambda = (h, h*mean), T(theta) = (-theta^2/2, theta). Raises PrecisionError naming the tensor where h <= 0,
    ParamsError where mean and precision do not match, NotFiniteError.
    """

    mean: Params
    precision: Params | float

    def __post_init__(self) -> None:
        mean = Flat.of(self.mean, where="Diagonal: the mean")
        if isinstance(self.precision, int | float):
            p = torch.tensor(float(self.precision), dtype=torch.float64).to(
                mean.vector
            )  # infinite if too large
            h = Flat(mean.layout, p.expand_as(mean.vector).clone())
        else:
            h = Flat.of(self.precision, mean.layout, "precision")
        if not bool(torch.isfinite(h.vector).all()):
            name = next(name for name in h if not bool(torch.isfinite(h[name]).all()))
            raise NotFiniteError(
                f"precision of tensor {name!r} holds NaN or infinity; expected finite numbers above zero."
            )
        if not bool((h.vector > 0).all()):
            name = next(name for name in h if not bool((h[name] > 0).all()))
            raise PrecisionError(
                f"precision of tensor {name!r}: the smallest entry is {h[name].min().item():.3g}, but it must be above "
                "zero. Squared gradients are zero where a parameter is unused: add a prior precision (previa.damped)."
            )
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "precision", h)

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""
        return self._m.layout

    def natural(self) -> tuple[Tensor, Tensor]:
        """(h [..., P], h*mean [..., P])."""
        return self._h.vector, self._h.vector * self._m.vector

    def from_natural(self, natural: tuple[Tensor, ...]) -> Self:
        """h and mean from (h, h*mean), unchecked: a positive sum of valid ones is valid."""
        h, hm = natural
        return self._make(Flat(self.layout, hm / h), Flat(self.layout, h))

    def mode(self) -> Flat:
        """The mean."""
        return self._m

    def log_density(self, theta: Params) -> Tensor:
        """-P/2 log 2 pi + 1/2 sum log h - 1/2 sum h (theta - mean)^2, float64."""
        h, m = self._h.vector, self._m.vector
        x = Flat.of(theta, self.layout).vector
        return (
            -0.5 * self.layout.size * math.log(2 * math.pi)
            + 0.5 * log_sums(h)
            - 0.5 * squared_distances(x, m, h)
        )

    def part(self, start: int, stop: int) -> Self:
        """The posterior of entries start..stop."""
        return self._make(self._m.part(start, stop), self._h.part(start, stop))

    def mode_of(self, natural: tuple[Tensor, ...]) -> Tensor:
        """(h*mean) / h, in the memory of h*mean."""
        return natural[1].div_(natural[0])

    @classmethod
    def _make(cls, mean: Flat, precision: Flat) -> Self:
        self = object.__new__(cls)  # without the checks of __init__, which cost a pass over the parameters
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "precision", precision)
        return self

    @property
    def _m(self) -> Flat:
        return Flat.of(self.mean)

    @property
    def _h(self) -> Flat:
        assert not isinstance(self.precision, int | float)
        return Flat.of(self.precision)
