"""Kronecker factors of a trained model: second moments of each layer's inputs and of its outputs' gradients (K-FAC)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from previa.errors import InputError
from previa.fit.agreement import require_per_example
from previa.fit.batches import Examples
from previa.fit.labels import Labels
from previa.fit.layer_moments import (
    Expand,
    Layer,
    Positions,
    agreeing,
    by_example,
    layers_of,
    once,
    output_gradients,
    recorded,
    use,
)

_EXPAND = Expand()


@final
@dataclass(frozen=True)
class KroneckerFactors:
    """(A, B) by the weight's name, float32 (float64 where the weight is): what core's Kronecker takes.

    A [in, in], or [in+1, in+1] where the layer's bias is trained too, its row and column last; B [out, out].
    """

    mean: Mapping[str, tuple[Tensor, Tensor]]
    """B (x) A is the precision of [W, bias] under mean losses"""
    examples: int
    label_mode: str
    rest: tuple[str, ...]
    """trainable parameters without factors; squared_gradients has precisions for them"""

    @property
    def sum(self) -> dict[str, tuple[Tensor, Tensor]]:
        """(A, N B): the factors under summed losses."""
        return {name: (A, B * self.examples) for name, (A, B) in self.mean.items()}


def kronecker_factors(
    model: Module, batches: Iterable[Any], labels: Labels, *, positions: Positions = _EXPAND
) -> KroneckerFactors:
    """A = mean_i a_i a_i', B = mean_i g_i g_i' of every Linear and Conv2d: its input a (and 1), its output's gradient g.

    g_i is the gradient of example i's own loss, so that a layer's Fisher mean_i vec(g_i a_i') vec(g_i a_i')' becomes
    B (x) A (K-FAC, Martens and Grosse 2015): exact for one example, and where a a' and g g' are uncorrelated. ``labels``
    as in squared_gradients; Expected adds the classes up in B. ``positions``: what becomes of a sequence's or an image's
    positions, of which masked ones count in A. Sums are float64 over batches. The model stays as it was.

    Factors belong to nn.Linear, and to nn.Conv2d with one group and zero padding given in numbers: exactly these types,
    used once in a forward pass, examples along axis 0. In the first batch the gradients that a and g give are held to
    autograd's, and example i's loss may reach row i of the output alone: a layer that differs (its weight is tied, or used
    by another module as well; positions come before examples) has no factors.

    Raises InputError as squared_gradients, and where a later batch uses a layer otherwise; NotFiniteError.
    """
    require_per_example(model)
    layers, count = layers_of(model), 0
    with torch.enable_grad():
        for index, batch in enumerate(batches):
            B = len(Examples(batch))
            if not B:
                continue
            with recorded(layers) as calls:
                outputs = labels.outputs(model, batch, B)
            terms = labels.losses(outputs, labels.targets(outputs))
            if not count:
                layers = [layer for layer in layers if once(calls, layer, B)]
                layers = by_example(agreeing(layers, calls, terms[0], index), calls, terms[0])
            inputs, outs = _uses(layers, calls, B, index)
            for losses in terms:
                for layer, g in zip(layers, output_gradients(losses, outs), strict=True):
                    layer.add_gradients(g, positions)
            _add_inputs(layers, inputs, positions, index)
            count += B
    _require(count, "kronecker_factors")
    owned = {name for layer in layers for name in layer.names}
    rest = [name for name, p in model.named_parameters() if p.requires_grad and name not in owned]
    mean = {layer.weight: layer.moments(count) for layer in layers}
    return KroneckerFactors(mean, count, labels.mode, tuple(rest))


def input_moments(
    model: Module,
    batches: Iterable[Any],
    forward: Callable[[Module, Any], Any],
    *,
    positions: Positions = _EXPAND,
) -> dict[str, Tensor]:
    """A = mean_i a_i a_i' alone, by the weight's name: what RegMean needs. No labels, no gradients.

    ``forward(model, batch)`` runs the model; its result is not used. Layers are those of kronecker_factors, but a weight
    that another module uses as well goes unnoticed here, and so do positions along axis 0 where they are as many as the
    examples (Expand gives the same moments then, Reduce does not). Raises InputError, NotFiniteError.
    """
    require_per_example(model)
    layers, count = layers_of(model), 0
    with torch.no_grad():
        for index, batch in enumerate(batches):
            B = len(Examples(batch))
            if not B:
                continue
            with recorded(layers) as calls:
                forward(model, batch)
            if not count:
                layers = [layer for layer in layers if once(calls, layer, B)]
            _add_inputs(layers, _uses(layers, calls, B, index)[0], positions, index)
            count += B
    _require(count, "input_moments")
    return {layer.weight: layer.moments(count)[0] for layer in layers}


def _uses(
    layers: Sequence[Layer], calls: Any, examples: int, index: int
) -> tuple[list[Tensor], list[Tensor]]:
    pairs = [use(calls, layer, examples, index) for layer in layers]
    return [a for a, _ in pairs], [out for _, out in pairs]


def _add_inputs(layers: Sequence[Layer], inputs: Sequence[Tensor], positions: Positions, index: int) -> None:
    for layer, a in zip(layers, inputs, strict=True):
        layer.add_inputs(a, positions)
        layer.check_finite(index)


def _require(count: int, who: str) -> None:
    if not count:
        raise InputError(f"{who} got no examples: the iterable of batches is empty, or was used up before.")
