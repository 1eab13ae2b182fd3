"""Between IVON's state and a posterior: names, and the curvature to start from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from previa.core.diagonal import Diagonal
from previa.errors import InputError

Member = tuple[Tensor, dict[str, Any]]
"""A parameter and the group of options that it belongs to."""


def named_members(optimizer: torch.optim.Optimizer, model: nn.Module, what: str) -> dict[str, Member]:
    """name -> (parameter, group) of the trainable parameters of ``model``; frozen ones are no part of a posterior.

    Raises InputError, said by ``what``, unless these are the trainable parameters of ``optimizer`` as well.
    """
    groups = {p: group for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    missing = [name for name, p in named.items() if p not in groups]
    if missing:
        raise InputError(
            f"{what}: trainable parameters of the model are not in the optimizer: {', '.join(map(repr, missing))}. They "
            "have no posterior: hand all of them to the optimizer, or freeze these by requires_grad_(False)."
        )
    if len(groups) > len(named):
        raise InputError(
            f"{what}: {len(groups) - len(named)} parameters of the optimizer are not in this model. Hand in the whole "
            "model that it trains."
        )
    return {name: (p, groups[p]) for name, p in named.items()}


def starting_curvature(posterior: Diagonal, named: dict[str, Member], ess: float | None) -> dict[str, Tensor]:
    """name -> h+delta = precision/ess; ``ess`` None stands for the group's own.

    h alone may be negative, as in any IVON run: only h+delta > 0 is needed, and a precision gives it.
    Raises ParamsError where names or shapes differ, InputError for an ess that is not positive.
    """
    posterior.layout.check({name: p for name, (p, _) in named.items()}, "the model", "the posterior")
    if ess is not None and not ess > 0:
        raise InputError(f"load_posterior(): ess is {ess}, but an effective sample size is above zero.")
    precision, _ = posterior.natural()
    H = {}
    for name, (_, group) in named.items():
        start, stop, shape = posterior.layout.places[name]
        H[name] = precision[start:stop].view(shape) / (group["ess"] if ess is None else ess)
    return H
