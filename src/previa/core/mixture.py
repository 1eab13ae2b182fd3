"""Mixture of posteriors of one family: more flexible than each, merged by EM (eq. 11 to 14, Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, final

import torch
from torch import Tensor

from previa.core.params import Flat, Layout, Params
from previa.core.posterior import Factorised, Posterior, stack
from previa.errors import AlphaError, InputError


@final
@dataclass(frozen=True)
class Mixture:
    """sum_k pi_k q_k(theta), K components of one family; pi = 1/K when ``weights`` is None.

    ``temperature`` tau > 0 tempers the surrogate, log q_tau = tau log sum_k exp((log pi_k + log q_k)/tau): responsibilities
    saturate with the number of parameters, and tau > 1 lets more components share (METHOD 4). tau = 1 is the mixture.
    """

    components: Sequence[Posterior]
    weights: Sequence[float] | Tensor | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.components, Posterior) or not isinstance(self.components, Sequence):
            raise InputError(
                f"Mixture: components is a {type(self.components).__name__}; expected a list of posteriors."
            )
        if not self.components:
            raise InputError("Mixture: it needs at least one component.")
        if any(not isinstance(q, Posterior) for q in self.components):
            raise InputError(
                "a mixture's components must be members of an exponential family, such as Diagonal; found "
                f"{', '.join(sorted({type(q).__name__ for q in self.components}))}."
            )
        _check_alike(self.components)
        K = len(self.components)
        try:
            pi = torch.full((K,), 1 / K) if self.weights is None else torch.as_tensor(self.weights)
            pi, tau = pi.double(), float(self.temperature)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"Mixture: weights and temperature must be numbers; found {self.weights!r} and {self.temperature!r}."
            ) from error
        if pi.shape != (K,):
            raise AlphaError(f"Mixture: {tuple(pi.shape)} weights for {K} components.")
        if not bool((pi > 0).all()) or not abs(float(pi.sum()) - 1) <= 1e-4:
            raise AlphaError(f"Mixture: the weights must be above zero and sum to one; found {pi.tolist()}.")
        if not 0 < tau < math.inf:
            raise InputError(
                f"Mixture: the temperature must be above zero and finite; found {self.temperature}."
            )
        object.__setattr__(self, "components", tuple(self.components))
        object.__setattr__(self, "weights", pi / pi.sum())

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""
        return self.components[0].layout

    @cached_property
    def stacked(self) -> Posterior:
        """The components as one posterior with a batch dimension [K]."""
        return stack(self.components)

    def log_joint(self, theta: Params) -> Tensor:
        """log pi_k + log q_k(theta), [A, K] (or [K]) in float64."""
        log_pi = self._pi.log().to(Flat.of(theta).vector.device)
        return log_pi + self.stacked.log_density(theta)

    def log_density(self, theta: Params) -> Tensor:
        """tau log sum_k exp((log pi_k + log q_k(theta)) / tau), [A] in float64."""
        tau = self.temperature
        return tau * torch.logsumexp(self.log_joint(theta) / tau, -1)

    def bound(self, theta: Params) -> tuple[Tensor, Tensor]:
        """(log q(theta) [A], r [A, K]): the responsibilities r = softmax((log pi_k + log q_k)/tau) of eq. 12.

        The sum_k r_k log q_k that they weigh touches log q at ``theta`` and lies below it elsewhere, up to a constant.
        """
        scaled = self.log_joint(theta) / self.temperature
        return self.temperature * torch.logsumexp(scaled, -1), torch.softmax(scaled, -1)

    def start(self) -> Tensor:
        """pi [K]: the weights from which EM starts."""
        return self._pi

    def mode(self, **options: Any) -> Flat:
        """The mode that EM finds (previa.modes with this posterior alone)."""
        from previa.core.modes import modes

        return modes([[1.0]], [self], **options).params.row(0)

    def part(self, start: int, stop: int) -> Self:
        """The mixture over entries start..stop alone: one block of a product of mixtures.

        Raises InputError where the components do not factorise.
        """
        parts = [_factorised(q).part(start, stop) for q in self.components]
        return type(self)(parts, self.weights, self.temperature)

    @property
    def _pi(self) -> Tensor:
        return torch.as_tensor(self.weights)


def _check_alike(components: Sequence[Posterior]) -> None:
    """Raise InputError, ParamsError unless all are single posteriors of one family over the same parameters."""
    first = components[0]
    for number, q in enumerate(components):
        if type(q) is not type(first):
            raise InputError(
                f"Mixture: component {number} is {type(q).__name__}, but component 0 is {type(first).__name__}; all must be of "
                "one family."
            )
        mode = q.mode()
        if mode.vector.dim() > 1:
            raise InputError(
                f"Mixture: component {number} is a batch of shape {tuple(mode.vector.shape[:-1])}; hand in its rows as components."
            )
        first.layout.check(mode, f"Mixture: component {number}", "component 0")


def _factorised(q: Posterior) -> Factorised:
    if not isinstance(q, Factorised):
        raise InputError(f"{type(q).__name__} does not factorise over parameters, so it has no blocks.")
    return q
