"""Whose labels a squared gradient is taken at: the data's, one drawn from the model, or all of them, weighted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor
from torch.nn import Module, functional

from previa.errors import InputError

Function = Callable[[Module, Any], Tensor]
"""(model, batch) -> one row an example: losses [B], or logits [B, C]."""


class Labels(Protocol):
    """The labels of a squared gradient, as the losses whose squared gradients add up to one example's."""

    @property
    def mode(self) -> str:
        """The word that provenance keeps: "given", "sampled" or "expected"."""
        ...

    def outputs(self, model: Module, batch: Any, examples: int) -> Any:
        """One forward pass of B = ``examples``: what the next two take. Raises InputError at shapes they do not take."""
        ...

    def targets(self, outputs: Any) -> Tensor | None:
        """Labels [B] or [B, T] drawn for these outputs; None where nothing is drawn."""
        ...

    def losses(self, outputs: Any, targets: Tensor | None) -> list[Tensor]:
        """Losses, each [B]: an example's squared gradient is the sum over this list of (d loss_i)^2."""
        ...


@final
@dataclass(frozen=True)
class Given:
    """The labels of the data (the empirical Fisher): F = mean_i (d/dtheta loss_i)^2 (arXiv 2412.08147, AdamW-SG).

    ``loss(model, batch)`` returns one loss an example, [B], as ``cross_entropy(..., reduction="none")`` does.
    """

    loss: Function
    mode = "given"

    def outputs(self, model: Module, batch: Any, examples: int) -> Tensor:
        """The losses [B]. Raises InputError when the function returns another shape."""
        losses = self.loss(model, batch)
        if tuple(losses.shape) != (examples,):
            raise InputError(
                f"the loss of Given(loss) has shape {tuple(losses.shape)}, but the batch has {examples} examples. "
                f"Expected ({examples},), one loss an example: use reduction='none', and the mean over tokens "
                "inside each example."
            )
        return losses

    def targets(self, outputs: Tensor) -> Tensor | None:
        """Nothing is drawn."""
        return None

    def losses(self, outputs: Tensor, targets: Tensor | None) -> list[Tensor]:
        """The losses themselves."""
        return [outputs]


@final
@dataclass(frozen=True)
class Sampled:
    """One label an example, drawn from the model (Daheim et al. 2024): y_i ~ softmax(logits_i), loss_i = -log p(y_i).

    Unbiased for the Fisher, in one backward pass. Draws invert the cumulative distribution, one uniform number an
    example in order, so that they do not depend on how the examples are cut into batches.
    """

    logits: Function
    generator: torch.Generator
    mode = "sampled"

    def outputs(self, model: Module, batch: Any, examples: int) -> Tensor:
        """The logits [B, C]. Raises InputError when the function returns another shape."""
        return _logits(self.logits(model, batch), examples, "Sampled")

    def targets(self, outputs: Tensor) -> Tensor:
        """y [B]: the first class whose cumulative probability exceeds a uniform number."""
        generator = self.generator
        uniform = torch.rand(
            len(outputs), 1, generator=generator, device=generator.device, dtype=torch.float64
        )
        cumulative = outputs.detach().to(torch.float64).softmax(1).cumsum(1)
        classes = (uniform.to(outputs.device) >= cumulative).sum(1)
        return classes.clamp_(max=outputs.shape[1] - 1)  # a sum that rounds to just below one

    def losses(self, outputs: Tensor, targets: Tensor | None) -> list[Tensor]:
        """-log p(y_i) at the drawn labels."""
        assert targets is not None
        return [functional.cross_entropy(outputs, targets, reduction="none")]


@final
@dataclass(frozen=True)
class Expected:
    """All labels, weighted by the model (the exact Fisher diagonal): F_i = sum_c p_ic (d/dtheta -log p_ic)^2.

    C backward passes through one forward pass: the loss of class c is sqrt(p_ic) * (-log p_ic), the root held fixed.
    """

    logits: Function
    mode = "expected"

    def outputs(self, model: Module, batch: Any, examples: int) -> Tensor:
        """The logits [B, C]. Raises InputError when the function returns another shape."""
        return _logits(self.logits(model, batch), examples, "Expected")

    def targets(self, outputs: Tensor) -> Tensor | None:
        """Nothing is drawn."""
        return None

    def losses(self, outputs: Tensor, targets: Tensor | None) -> list[Tensor]:
        """C losses: -sqrt(p_ic) log p_ic, differentiated through the logarithm only."""
        log_p = outputs.log_softmax(1)
        weighted = -log_p * log_p.detach().div(2).exp()
        return list(weighted.unbind(1))


def _logits(logits: Tensor, examples: int, who: str) -> Tensor:
    if logits.dim() != 2 or len(logits) != examples:
        raise InputError(
            f"the logits of {who}(logits) have shape {tuple(logits.shape)}, but the batch has {examples} examples. "
            f"Expected ({examples}, C), one row of classes an example; for sequences use Given(loss)."
        )
    return logits
