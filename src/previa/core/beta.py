"""Beta distribution: the paper's example of a family that is not Gaussian (App. A.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from previa.core.params import Flat, Layout, Params
from previa.errors import PrecisionError


@final
@dataclass(frozen=True)
class Beta:
    """Beta(theta | a, b) for each parameter in (0, 1), with a mode inside: a > 1 and b > 1.

    lambda = (a - 1, b - 1), T(theta) = (log theta, log(1 - theta)). Raises PrecisionError where a <= 1 or b <= 1,
    ParamsError where they do not match or are no tensors by name.
    """

    a: Params
    b: Params

    def __post_init__(self) -> None:
        a = Flat.of(self.a, where="Beta: a")
        b = Flat.of(self.b, a.layout, "Beta: b")
        if not bool((a.vector > 1).all()) or not bool((b.vector > 1).all()):
            raise PrecisionError(
                "Beta: a and b must be above 1 everywhere, or the density has no mode inside (0, 1)."
            )
        object.__setattr__(self, "a", a)
        object.__setattr__(self, "b", b)

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""
        return Flat.of(self.a).layout

    def natural(self) -> tuple[Tensor, Tensor]:
        """(a - 1, b - 1), each [..., P]."""
        return Flat.of(self.a).vector - 1, Flat.of(self.b).vector - 1

    def from_natural(self, natural: tuple[Tensor, ...]) -> Self:
        """a and b from (a - 1, b - 1)."""
        return type(self)(Flat(self.layout, natural[0] + 1), Flat(self.layout, natural[1] + 1))

    def mode(self) -> Flat:
        """(a - 1) / (a + b - 2); the paper's App. A.2 prints a log too many here."""
        a, b = self.natural()
        return Flat(self.layout, a / (a + b))

    def log_density(self, theta: Params) -> Tensor:
        """sum (a-1) log theta + (b-1) log(1-theta) - log B(a, b), float64; -inf outside of (0, 1)."""
        x = Flat.of(theta, self.layout).vector.double()
        a, b = (part.double() for part in self.natural())
        if x.dim() > 1 and a.dim() > 1:
            x = x.unsqueeze(-2)
        norm = torch.lgamma(a + 1) + torch.lgamma(b + 1) - torch.lgamma(a + b + 2)
        inside = (x > 0) & (x < 1)
        safe = torch.where(inside, x, 0.5)
        each = a * safe.log() + b * torch.log1p(-safe) - norm
        return torch.where(inside, each, -torch.inf).sum(-1)

    def part(self, start: int, stop: int) -> Self:
        """The posterior of entries start..stop."""
        return type(self)(Flat.of(self.a).part(start, stop), Flat.of(self.b).part(start, stop))

    def mode_of(self, natural: tuple[Tensor, ...]) -> Tensor:
        """a / (a + b) for natural parameters a, b, in their memory."""
        return natural[0].div_(natural[1].add_(natural[0]))
