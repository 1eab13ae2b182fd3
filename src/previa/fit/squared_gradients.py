"""Exact per-example squared gradients: the diagonal Fisher of a trained model, the precision of ADAMW-SG."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.nn import Module

from previa.fit.batches import Examples
from previa.fit.labels import Labels
from previa.fit.square_sums import Split, SquaredGradients, SquareSums

__all__ = ["Split", "SquareSums", "SquaredGradients", "squared_gradients"]


def squared_gradients(
    model: Module, batches: Iterable[Any], labels: Labels, *, check: int = 2, split: Split = Examples
) -> SquaredGradients:
    """F = mean_i (d/dtheta loss_i)^2, exact for each example, over all trainable parameters (the Fisher of AdamW-SG).

    ``batches`` are handed to ``labels`` (Given, Sampled, SampledTokens or Expected) as they are; how examples are cut into
    batches does not change the result. Sums are float32 over a batch, or some 256 examples in smaller ones (float64 if a
    parameter is), and float64 beyond; squares below 1e-38 lose digits. Layers with a rule go by hooks with frozen parameters,
    other modules are run again. The first ``check`` examples are held to the loop over single examples, for which ``split``
    cuts a batch; a parameter that differs goes by a replay of the module that encloses its uses, or of one further out, and
    by the loop where none is left. The model, its modes, gradients and flags stay as they were.

    Assumed: the other examples go the same way through the model. One that uses a parameter outside its module (as
    ``layer.weight`` in another's forward) for some later examples only would go unnoticed: make ``check`` larger. It
    counts examples of the first batch, which should then hold such ones.

    Raises InputError where per-example gradients do not exist (training mode with dropout or BatchNorm; losses that
    depend on the rest of the batch), for unusable batches, or without trainable parameters; NotFiniteError naming the
    tensor and the batch.
    """
    sums = SquareSums(model, labels, check=check, split=split)
    for batch in batches:
        sums.add(batch)
    return sums.result()
