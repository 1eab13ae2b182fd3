"""Expansions: every task's loss seen from one merged model, by its gradient and curvature there. Each is a Gaussian posterior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from previa.core.conjugate_gradients import Elementwise, conjugate_gradients, systems_of
from previa.core.diagonal import Diagonal
from previa.core.full import Full
from previa.core.merge import Alphas, as_alphas
from previa.core.modes import Modes
from previa.core.params import Flat, Layout, Params
from previa.core.posterior import Posterior, Products
from previa.errors import InputError

HELD = 1 << 25  # float64 numbers of merged matrices and of systems held at a time: 256 MB
TOLERANCE = 1e-8  # of the residual, relative to that of no step: smaller than usual, as steps add up over re-centrings


@final
@dataclass(frozen=True)
class Expansion:
    """l(theta) = l(c) + g.(theta - c) + 1/2 (theta - c)' H (theta - c) + ...: up to a constant -log N(c - H^-1 g, H^-1).

    curvature: N(c, H^-1), a Full, a Diagonal, or a Gaussian known by its products (Kronecker, LowRankGaussian); its mode is
    the centre c. gradient: g, by the same names. Raises InputError for other families; ParamsError, NotFiniteError.
    """

    curvature: Posterior | Products
    gradient: Params

    def __post_init__(self) -> None:
        if not isinstance(self.curvature, Full | Diagonal | Products):
            raise InputError(
                f"Expansion: the curvature is a {type(self.curvature).__name__}; expected a Full, a Diagonal, or a Gaussian "
                "known by its products, such as Kronecker, with the centre as its mean."
            )
        gradient = Flat.of(self.gradient, self.curvature.layout, "Expansion: the gradient")
        object.__setattr__(self, "gradient", gradient)

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""
        return self.curvature.layout

    @property
    def centre(self) -> Flat:
        """c [P]."""
        return self.curvature.mode()

    @property
    def g(self) -> Tensor:
        """The gradient [P], float64."""
        return Flat.of(self.gradient).vector.double()

    @cached_property
    def diagonal(self) -> Tensor:
        """The diagonal of H, [P] in float64."""
        q = self.curvature
        if isinstance(q, Full):
            return torch.as_tensor(q.precision).diagonal()
        return (q if isinstance(q, Products) else Elementwise(_diagonal(q))).diagonal().double()

    def times(self, v: Tensor) -> Tensor:
        """H v for each row of v [A, P], float64."""
        q = self.curvature
        if isinstance(q, Full):
            return v @ torch.as_tensor(q.precision)
        return q.times(v) if isinstance(q, Products) else self.diagonal * v

    def posterior(self) -> Full | Diagonal:
        """The same as a posterior with mean c - H^-1 g, for ``merge`` and ``modes``: natural parameters (H, H c - g).

        Raises InputError where only products with H are known: use ``steps``, which needs no inverse of each task's own H.
        """
        q = self.curvature
        if not isinstance(q, Full | Diagonal):
            raise InputError(
                f"Expansion: a {type(q).__name__} is known by its products only; use previa.core.expansion.steps."
            )
        H, Hc = q.natural()
        return q.from_natural((H, Hc - self.g.to(Hc)))


def steps(
    alphas: Alphas, expansions: Sequence[Expansion], *, damping: float = 0.0, max_iterations: int = 500
) -> Modes:
    """x(alpha) [A, P] = -(sum_t alpha_t H_t + damping D)^-1 sum_t alpha_t g_t: from the centre to where the expansions' sum is least.

    So c + x(alpha) is ``modes(alphas, [e.posterior() for e in expansions])``, with a prior N(c, D^-1) of weight ``damping``
    beside the tasks. D (``scale``) is each tensor's own mean curvature, so that damping has no unit. Float64.
    Raises InputError for centres or families that differ, or damping that is negative; AlphaError; PrecisionError where the sum
    is not positive definite.
    """
    check(expansions)
    if not (damping >= 0 and math.isfinite(damping)):
        raise InputError(f"steps: damping is {damping}; expected a finite number from 0 on.")
    T = len(expansions)
    alpha = as_alphas(alphas, T).view(-1, T).to(expansions[0].g.device)
    b = -(alpha @ torch.stack([e.g for e in expansions]))
    prior = damping * scale(expansions)
    layout, first = expansions[0].layout, expansions[0].curvature
    if isinstance(first, Diagonal):
        return Modes(Flat(layout, b / (alpha @ torch.stack([e.diagonal for e in expansions]) + prior)), {})
    if isinstance(first, Full):
        return Modes(Flat(layout, _dense(alpha, expansions, prior, b)), {})
    x, stats = _products(alpha, expansions, prior, b, max_iterations)
    return Modes(Flat(layout, x), stats)


def promised(alphas: Alphas, expansions: Sequence[Expansion], x: Tensor) -> Tensor:
    """The decrease [A] of sum_t alpha_t l_t that the expansions promise at c + x [A, P]: -g.x - 1/2 x' H x."""
    alpha = as_alphas(alphas, len(expansions)).view(len(x), -1).to(x.device)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for w, e in zip(alpha.T, expansions, strict=True):
        total -= w * (x @ e.g + 0.5 * (x * e.times(x)).sum(-1))
    return total


def scale(expansions: Sequence[Expansion]) -> Tensor:
    """D [P]: of each tensor the mean over tasks and entries of the curvatures' diagonals; without any, the least of the others."""
    mean = torch.stack([e.diagonal for e in expansions]).mean(0)
    D = torch.empty_like(mean)
    for start, stop, _ in expansions[0].layout.places.values():
        D[start:stop] = mean[start:stop].mean() if stop > start else 0.0
    above = D[D > 0]
    return torch.where(D > 0, D, above.min() if len(above) else 1.0)


def check(expansions: Sequence[Expansion]) -> None:
    """Raise InputError unless there are expansions, all of one family's matrices and about one centre."""
    if not expansions:
        raise InputError("expansions: there are none; expected one a task.")
    first = expansions[0]
    for t, e in enumerate(expansions):
        if isinstance(e.curvature, Products) != isinstance(first.curvature, Products) or (
            not isinstance(e.curvature, Products) and type(e.curvature) is not type(first.curvature)
        ):
            raise InputError(
                f"expansions: the curvature of task {t} is a {type(e.curvature).__name__}, but that of task 0 is a "
                f"{type(first.curvature).__name__}. Use one family for all tasks."
            )
        if e.layout != first.layout or not torch.equal(e.centre.vector, first.centre.vector):
            raise InputError(
                f"expansions: task {t} is expanded about another model than task 0. Take all gradients and curvatures at one centre."
            )


def _dense(alpha: Tensor, expansions: Sequence[Expansion], prior: Tensor, b: Tensor) -> Tensor:
    H = torch.stack(
        [torch.as_tensor(e.curvature.precision) for e in expansions if isinstance(e.curvature, Full)]
    )
    P, x = H.shape[-1], torch.empty_like(b)
    for some in torch.arange(len(b)).split(max(1, HELD // (P * P))):
        total = torch.tensordot(alpha[some], H, 1)
        total.diagonal(dim1=-2, dim2=-1).add_(prior)
        like = Full.__new__(Full)
        object.__setattr__(like, "mean", expansions[0].centre)
        x[some] = like.from_natural((total.flatten(-2), b[some])).mode().vector
    return x


def _products(
    alpha: Tensor, expansions: Sequence[Expansion], prior: Tensor, b: Tensor, max_iterations: int
) -> tuple[Tensor, dict[str, Tensor]]:
    members: list[Products] = [e.curvature for e in expansions if isinstance(e.curvature, Products)]
    weights = alpha
    if bool((prior > 0).any()):
        centre = Flat(expansions[0].layout, expansions[0].centre.vector.double())
        members.append(Elementwise(Diagonal(centre, Flat(centre.layout, prior))))
        weights = torch.cat([alpha, torch.ones_like(alpha[:, :1])], 1)
    x = torch.zeros_like(b)
    iterations, residual = torch.zeros_like(alpha[:, 0]), torch.zeros_like(alpha[:, 0])
    for system in systems_of(members):
        for some in torch.arange(len(b)).split(max(1, HELD // max(1, system.width))):
            times, precondition = system.at(weights[some])
            part, taken, left = conjugate_gradients(
                times, precondition, b[some][:, system.entries], max_iterations, TOLERANCE
            )
            x[some[:, None], _columns(system.entries, x)] = part
            iterations[some] = torch.maximum(iterations[some], taken)
            residual[some] = torch.maximum(residual[some], left)
    stats = {"iterations": iterations, "converged": (residual <= TOLERANCE).double(), "residual": residual}
    return x, {name: value.cpu() for name, value in stats.items()}


def _columns(entries: Tensor | slice, x: Tensor) -> Tensor:
    return torch.arange(x.shape[-1])[entries] if isinstance(entries, slice) else entries


def _diagonal(q: Posterior | Products) -> Diagonal:
    assert isinstance(q, Diagonal)
    return q
