"""What a posterior is: an exponential family, seen as a vector of natural parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor

from previa.core.params import Flat, Layout, Params
from previa.errors import InputError, ParamsError


@runtime_checkable
class Posterior(Protocol):
    """q(theta) proportional to exp(lambda . T(theta)): a task's surrogate loss is -log q (eq. 8, 11).

    A family validates in ``__post_init__`` and raises PrecisionError for parameters that are no density with a mode.
    Every tensor may carry leading batch dimensions; a batch [K] of posteriors is a stack of K of them.
    """

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""
        ...

    def natural(self) -> tuple[Tensor, ...]:
        """lambda, a tensor [..., n] for each sufficient statistic."""
        ...

    def from_natural(self, natural: tuple[Tensor, ...]) -> Self:
        """The member of this family, with this layout, that has the natural parameters ``natural``.

        Valid for positive sums of natural parameters of valid members; ``merge`` checks other sums.
        """
        ...

    def mode(self) -> Flat:
        """argmax_theta q(theta), with this posterior's batch dimensions."""
        ...

    def log_density(self, theta: Params) -> Tensor:
        """log q(theta) in float64: theta [A] and q [K] give [A, K]; a missing batch dimension is left out."""
        ...


@runtime_checkable
class Factorised(Posterior, Protocol):
    """A posterior that is a product over parameters, so that a chunk of them can be merged alone."""

    def part(self, start: int, stop: int) -> Self:
        """The posterior of entries start..stop of the parameter vector."""
        ...

    def mode_of(self, natural: tuple[Tensor, ...]) -> Tensor:
        """The mode [..., P] of the member with these natural parameters, whose memory it may overwrite."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """A posterior that is no exponential family, but is touched from below by a weighted sum of members of one."""

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""
        ...

    @property
    def components(self) -> Sequence[Posterior]:
        """The K members of the exponential family."""
        ...

    def bound(self, theta: Params) -> tuple[Tensor, Tensor]:
        """(log q(theta) [A], w [A, K]): sum_k w_k log q_k(.) + const touches log q at theta and lies below it elsewhere."""
        ...

    def start(self) -> Tensor:
        """w [K] before anything is known: where EM starts."""
        ...

    def part(self, start: int, stop: int) -> Self:
        """The posterior of entries start..stop of the parameter vector."""
        ...


@runtime_checkable
class Products(Protocol):
    """A Gaussian N(mean, H^-1) known by its products H v: for precisions whose weighted sums have no short form.

    ``previa.modes`` solves sum_t alpha_t H_t (theta - theta_t) = 0 (eq. 10) for them by conjugate gradients.
    """

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""
        ...

    def mode(self) -> Flat:
        """The mean, [P]."""
        ...

    def times(self, v: Tensor) -> Tensor:
        """H v for each row of v [A, P], float64 as v; H is symmetric and positive definite."""
        ...

    def diagonal(self) -> Tensor:
        """The diagonal of H, [P], above zero: it conditions the equations."""
        ...


Q = TypeVar("Q", bound=Posterior)


def naturals(posteriors: Sequence[Posterior]) -> tuple[Tensor, ...]:
    """The natural parameters of K posteriors of one family and layout, each statistic [K, ..., n].

    Raises InputError where families differ, ParamsError where tensors do.
    """
    first = posteriors[0]
    for number, q in enumerate(posteriors):
        if type(q) is not type(first):
            raise InputError(
                f"posterior {number} is {type(q).__name__}, but posterior 0 is {type(first).__name__}. Only one "
                "family can be merged: for example Diagonal(mean, 1.0) stands for Isotropic(mean, 1.0)."
            )
        if q.layout is not first.layout and q.layout != first.layout:
            first.layout.check(q.mode(), f"posterior {number}", "posterior 0")
            raise ParamsError(f"posterior {number}: its tensors are in another order than in posterior 0.")
    return tuple(torch.stack(rows) for rows in zip(*(q.natural() for q in posteriors), strict=True))


def stack(posteriors: Sequence[Q]) -> Q:
    """K posteriors of one family and layout as one with a batch dimension [K]. Raises as naturals."""
    return posteriors[0].from_natural(naturals(posteriors))
