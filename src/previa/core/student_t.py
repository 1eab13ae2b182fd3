"""Student-t: a Gaussian with heavy tails, so that a far task pulls less; merged by MM (METHOD 1, not in the paper)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self, final

import torch
from torch import Tensor

from previa.core.diagonal import Diagonal
from previa.core.params import Flat, Layout, Params
from previa.core.posterior import Posterior
from previa.core.quadratic import log_sums, squared_distances
from previa.errors import InputError


@final
@dataclass(frozen=True)
class StudentT:
    """t_nu(theta | mean, diag(1/h)), nu > 0 degrees of freedom; nu to infinity is Diagonal(mean, h).

    Raises as Diagonal, and InputError where nu is no finite number above zero.
    """

    mean: Params
    precision: Params | float
    nu: float

    def __post_init__(self) -> None:
        if not (isinstance(self.nu, int | float) and 0 < self.nu < math.inf):
            raise InputError(
                f"StudentT: nu must be finite and above zero; found {self.nu!r}. For nu = inf use Diagonal."
            )
        object.__setattr__(self, "_gaussian", Diagonal(self.mean, self.precision))

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""
        return self._q.layout

    @property
    def components(self) -> tuple[Posterior]:
        """The Gaussian N(mean, diag(1/h)) whose weight the tails change."""
        return (self._q,)

    def log_density(self, theta: Params) -> Tensor:
        """log Gamma((nu+P)/2) - log Gamma(nu/2) - P/2 log(nu pi) + 1/2 sum log h - (nu+P)/2 log(1 + d^2/nu), float64."""
        nu, P = self.nu, self.layout.size
        h, m = (part.vector for part in (Flat.of(self._q.precision), self._q.mode()))  # type: ignore[arg-type]
        d2 = squared_distances(Flat.of(theta, self.layout).vector, m, h)
        norm = math.lgamma((nu + P) / 2) - math.lgamma(nu / 2) - 0.5 * P * math.log(nu * math.pi)
        return norm + 0.5 * log_sums(h) - 0.5 * (nu + P) * torch.log1p(d2 / nu)

    def bound(self, theta: Params) -> tuple[Tensor, Tensor]:
        """(log q(theta) [A], w [A, 1]) with w = (nu + P)/(nu + d^2): a Gaussian of that weight touches log q at theta."""
        h, m = (part.vector for part in (Flat.of(self._q.precision), self._q.mode()))  # type: ignore[arg-type]
        d2 = squared_distances(Flat.of(theta, self.layout).vector, m, h)
        return self.log_density(theta), ((self.nu + self.layout.size) / (self.nu + d2)).unsqueeze(-1)

    def start(self) -> Tensor:
        """[1.0]: EM starts from the Gaussian merge."""
        return torch.ones(1, dtype=torch.float64)

    def mode(self, **_: Any) -> Flat:
        """The mean."""
        return self._q.mode()

    def part(self, start: int, stop: int) -> Self:
        """The posterior of entries start..stop."""
        part = self._q.part(start, stop)
        return type(self)(part.mean, part.precision, self.nu)

    @property
    def _q(self) -> Diagonal:
        return self.__dict__["_gaussian"]  # type: ignore[no-any-return]
