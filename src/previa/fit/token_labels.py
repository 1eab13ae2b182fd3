"""Labels of sequences for squared gradients: one drawn from the model at every supervised token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module, functional

from previa.errors import InputError

Supervised = tuple[Tensor, Tensor]
"""(logits [B, T, V], which of the tokens are supervised [B, T])"""

_DRAWN = 1 << 22  # probabilities in float64 held at a time: 32 MB


@final
@dataclass(frozen=True)
class SampledTokens:
    """One label a supervised token, drawn from the model: y_it ~ softmax(logits_it), loss_i = mean_t -log p(y_it).

    The tokens before each stay those of the data. Draws take one uniform number a supervised token, example by example, so
    that neither padding nor the cut into batches changes them. ``logits(model, batch)`` gives logits and mask; examples are
    padded on the right.
    """

    logits: Callable[[Module, Any], Supervised]
    generator: torch.Generator
    mode = "sampled"

    def outputs(self, model: Module, batch: Any, examples: int) -> Supervised:
        """Logits [B, T, V] and mask [B, T]. Raises InputError at other shapes, or where an example has no such token."""
        logits, mask = self.logits(model, batch)
        if logits.dim() != 3 or mask.shape != logits.shape[:2] or len(logits) != examples:
            raise InputError(
                f"SampledTokens(logits) gave shapes {tuple(logits.shape)} and {tuple(mask.shape)} for {examples} examples; "
                "expected (B, T, V) and (B, T)."
            )
        if not bool(mask.any(1).all()):
            raise InputError(
                "SampledTokens: an example has no supervised token, and so no loss. Leave it out."
            )
        return logits, mask

    def targets(self, outputs: Supervised) -> Tensor:
        """y [B, T]: at each supervised token the first label whose cumulative probability exceeds a uniform number."""
        logits, mask = outputs
        rows = logits.detach()[mask]
        generator = self.generator
        uniform = torch.rand(len(rows), 1, generator=generator, device=generator.device, dtype=torch.float64)
        uniform = uniform.to(rows.device)
        drawn = mask.new_zeros(len(rows), dtype=torch.long)
        n = max(1, _DRAWN // rows.shape[1])
        for start in range(0, len(rows), n):
            part = slice(start, start + n)
            cumulative = rows[part].to(torch.float64).softmax(1).cumsum(1)
            drawn[part] = (uniform[part] >= cumulative).sum(1)
        targets = mask.new_zeros(mask.shape, dtype=torch.long)
        targets[mask] = drawn.clamp_(max=rows.shape[1] - 1)  # a sum that rounds to just below one
        return targets

    def losses(self, outputs: Supervised, targets: Tensor | None) -> list[Tensor]:
        """The mean over each example's supervised tokens of -log p(y_it)."""
        assert targets is not None
        logits, mask = outputs
        targets = targets[:, : mask.shape[1]]  # of a longer batch: the rest is padding
        each = functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
        return [(each * mask).sum(1) / mask.sum(1)]
