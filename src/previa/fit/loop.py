"""The slow and obvious way, one example at a time: the fallback, and what the fast way is held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from previa.fit.labels import Labels


def one_by_one(
    model: Module,
    examples: Sequence[Any],
    labels: Labels,
    into: Mapping[str, Tensor],
    targets: Tensor | None = None,
) -> Tensor:
    """into[name] += sum_i (d/dtheta loss_i)^2 by a forward and a backward pass for each example; losses [C, B].

    ``into`` names trainable parameters of ``model``; ``targets`` [B] are labels drawn before, drawn here when None.
    """
    found = []
    for i, example in enumerate(examples):
        outputs = labels.outputs(model, example, 1)
        target = labels.targets(outputs) if targets is None else targets[i : i + 1]
        terms = labels.losses(outputs, target)
        for c, loss in enumerate(terms):
            _add_square(model, loss.sum(), into, retain=c + 1 < len(terms))
        found.append(torch.cat([loss.detach() for loss in terms]))
    return torch.stack(found, 1)


def within_batch(model: Module, terms: Sequence[Tensor], into: Mapping[str, Tensor], examples: int) -> None:
    """into[name] += sum_i (d/dtheta loss_i)^2 of the first examples of ``terms``, by as many passes through one graph.

    The batch's own arithmetic: a ReLU whose input is zero up to rounding may open alone and not in the batch.
    """
    for losses in terms:
        for i in range(examples):
            _add_square(model, losses[i], into, retain=True)


def _add_square(model: Module, loss: Tensor, into: Mapping[str, Tensor], retain: bool) -> None:
    if not loss.requires_grad:
        return
    params = [model.get_parameter(name) for name in into]
    grads = torch.autograd.grad(loss, params, retain_graph=retain, allow_unused=True)
    for total, grad in zip(into.values(), grads, strict=True):
        if grad is not None:
            grad = (grad.to_dense() if grad.is_sparse else grad).to(total.dtype)
            total.addcmul_(grad, grad)
