"""Posteriors of models trained with the public ivon-opt package (GPL-3.0): its objects are read, never imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from previa.core.diagonal import Diagonal
from previa.errors import InputError, ParamsError
from previa.fit.ivon_posterior import named_members

_FIELDS = {"hess", "ess", "weight_decay"}


def read_ivon_opt(source: torch.optim.Optimizer | Mapping[str, Any], model: nn.Module) -> Diagonal:
    """N(m, 1/(ess*(hess+weight_decay))) from an ``ivon.IVON`` or its ``state_dict()``, and the model that it trained.

    Each of its groups holds ``hess`` as one vector over the group's parameters in their order; m is what the model
    holds **outside** ``sampled_params``. Frozen parameters, which ivon-opt treats like any other, are left out. A
    state_dict names parameters by number only, so it is read as that of an optimizer with one group, made from
    model.parameters() or from those of them that are trainable. How many steps it did, and so how much of hess still
    is hess_init (beta2^steps), is in the object as ``current_step``, but not in its state_dict.

    Raises InputError where the source is no ivon-opt or a trainable parameter is not in it, ParamsError where sizes
    do not fit the model, PrecisionError where a precision is not positive, NotFiniteError.
    """
    groups = (
        source.get("param_groups") if isinstance(source, Mapping) else getattr(source, "param_groups", None)
    )
    if not groups or not all(group.keys() >= _FIELDS for group in groups):
        raise InputError(
            f"read_ivon_opt(): the groups of this {type(source).__name__} do not hold 'hess', 'ess' and 'weight_decay', "
            "so it is no ivon-opt optimizer or its state. A previa IVON gives its posterior: optimizer.posterior(model)."
        )
    if isinstance(source, Mapping):
        named: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
        members = [_numbered(groups, model)]
    else:
        named = {name: p for name, (p, _) in named_members(source, model, "read_ivon_opt()").items()}
        members = [group["params"] for group in groups]
    precisions: dict[Tensor, Tensor] = {}
    for group, params in zip(groups, members, strict=True):
        sizes = [p.numel() for p in params]
        if group["hess"].numel() != sum(sizes):
            raise ParamsError(
                f"read_ivon_opt(): 'hess' has {group['hess'].numel()} entries, but the {len(sizes)} parameters of its "
                f"group have {sum(sizes)}. Hand in the model that this optimizer trained."
            )
        for p, h in zip(params, torch.split(group["hess"].detach().flatten(), sizes), strict=True):
            precisions[p] = group["ess"] * (h.view(p.shape) + group["weight_decay"])
    return Diagonal(
        mean={name: p.detach() for name, p in named.items()},
        precision={name: precisions[p] for name, p in named.items()},
    )


def _numbered(groups: list[dict[str, Any]], model: nn.Module) -> list[nn.Parameter]:
    """The parameters that a state_dict's numbers mean."""
    if len(groups) > 1:
        raise InputError(
            f"read_ivon_opt(): a state_dict of {len(groups)} groups does not say which parameter of the model each number "
            "means. Hand in the optimizer itself."
        )
    count = len(groups[0]["params"])
    every = list(model.parameters())
    for params in (every, [p for p in every if p.requires_grad]):
        if len(params) == count:
            return params
    raise ParamsError(
        f"read_ivon_opt(): the state_dict has {count} parameters, but the model has {len(every)}. Hand in the model that "
        "this optimizer trained."
    )
