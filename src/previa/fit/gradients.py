"""A model's gradients as it is: the mean over a task's examples, and each example's own, which are low-rank curvature."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from previa.core.params import Flat, Layout
from previa.errors import InputError, NotFiniteError
from previa.fit.agreement import require_per_example
from previa.fit.batches import Examples
from previa.fit.labels import Function, Given, Labels


@final
@dataclass(frozen=True)
class MeanGradient:
    """g = d/dtheta mean_i loss_i over ``examples`` examples, [P] float64, and that mean."""

    mean: Flat
    loss: float
    examples: int


def mean_gradient(model: Module, batches: Iterable[Any], loss: Function) -> MeanGradient:
    """The gradient of a task's mean loss in one pass: what an expansion needs beside curvature.

    ``loss(model, batch)`` returns one loss an example, as for Given; how examples are cut into batches does not change the
    result. All trainable parameters, in the order of model.named_parameters(); those the loss does not reach have none, 0.
    Raises InputError for losses of another shape, a model in training mode with dropout or BatchNorm, or without
    examples; NotFiniteError saying which batch.
    """
    require_per_example(model)
    params, given = _trainable(model), Given(loss)
    total, value, N = [torch.zeros_like(p, dtype=torch.float64) for p in params.values()], 0.0, 0
    for index, batch in enumerate(batches):
        with torch.enable_grad():
            losses = given.outputs(model, batch, B := len(Examples(batch)))
            summed = losses.sum()
        if not B:
            continue
        for sum_, part in zip(total, _gradients(summed, params), strict=True):
            sum_ += part
        value, N = value + float(losses.detach().double().sum()), N + B
        if not all(bool(torch.isfinite(sum_.sum())) for sum_ in total):
            raise NotFiniteError(
                f"mean_gradient: batch {index}: the gradient holds NaN or infinity. Is the centre far from all tasks' models?"
            )
    _some(N, "mean_gradient")
    layout = Layout.of(params)
    return MeanGradient(Flat(layout, torch.cat([t.flatten() for t in total]) / N), value / N, N)


def gradients_by_example(model: Module, batches: Iterable[Any], labels: Labels) -> Tensor:
    """U [P, N] with U U' = mean_i of example i's squared gradients as matrices: a column g_i / sqrt(N), for ``LowRankGaussian``.

    ``labels``: Sampled is unbiased for the Fisher, a column an example; Given the empirical Fisher; Expected is the Fisher (of
    a softmax: the Gauss-Newton matrix) itself, C columns an example. One backward pass a column, P numbers held for each:
    hand in a few hundred examples at most. Raises as mean_gradient.
    """
    require_per_example(model)
    params, columns, N = _trainable(model), [], 0
    for batch in batches:
        for example in Examples(batch):
            with torch.enable_grad():
                outputs = labels.outputs(model, example, 1)
                terms = [term.sum() for term in labels.losses(outputs, labels.targets(outputs))]
            for number, term in enumerate(terms):
                found = _gradients(term, params, retain=number + 1 < len(terms))
                columns.append(torch.cat([g.flatten() for g in found]))
            N += 1
    _some(N, "gradients_by_example")
    U: Tensor = torch.stack(columns, 1) / N**0.5
    if not bool(torch.isfinite(U.sum())):
        raise NotFiniteError("gradients_by_example: a gradient holds NaN or infinity.")
    return U


def _trainable(model: Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise InputError(f"{type(model).__name__} has no parameter that requires a gradient.")
    return found


def _gradients(loss: Tensor, params: dict[str, Tensor], retain: bool = False) -> list[Tensor]:
    if not loss.requires_grad:
        return [torch.zeros_like(p) for p in params.values()]
    grads = torch.autograd.grad(loss, list(params.values()), retain_graph=retain, allow_unused=True)
    return [
        torch.zeros_like(p) if g is None else (g.to_dense() if g.is_sparse else g).detach()
        for p, g in zip(params.values(), grads, strict=True)
    ]


def _some(N: int, who: str) -> None:
    if not N:
        raise InputError(f"{who} got no examples: the iterable of batches is empty, or was used up before.")
