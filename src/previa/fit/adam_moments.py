"""Adam's second moment as a precision: squared gradients that training leaves behind, without a pass over the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from previa.core.params import Flat, Layout
from previa.errors import InputError, NotFiniteError
from previa.fit.ivon_posterior import named_members
from previa.fit.parameter_order import check_names, group_names

_STATE = {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}  # of torch.optim.Adam and AdamW
_WHAT = "adam_moments()"


@final
@dataclass(frozen=True)
class AdamMoments:
    """(B v_hat)^power of each trainable parameter; ``mean`` [P] in float32, by name as in model.named_parameters().

    ``unused`` names the parameters that never had a gradient: the optimizer has no state for them, and they are zero here.
    """

    mean: Flat
    batch_size: int
    power: float
    beta2: float
    steps: int
    unused: tuple[str, ...] = ()

    @property
    def provenance(self) -> dict[str, str | int | float]:
        """The fields of a posterior file's provenance that these numbers know."""
        return {
            "source": "adam_moments",
            "batch_size": self.batch_size,
            "power": self.power,
            "beta2": self.beta2,
            "steps": self.steps,
        }


def adam_moments(
    source: torch.optim.Optimizer | Mapping[str, Any],
    model: nn.Module,
    *,
    batch_size: int,
    power: float = 1.0,
    names: Sequence[Sequence[str]] | None = None,
) -> AdamMoments:
    """(B v_hat)^power, v_hat = v / (1 - beta2^n), from Adam's or AdamW's second moment v after n steps.

    v is a moving average of squared *batch* gradients. Where those are noise around zero, E v_hat = F/B for the mean F of squared
    gradients of single examples, so B v_hat estimates F: near a minimum, for losses averaged over the batch. Far from one it
    estimates F + (B-1) (mean gradient)^2, which is too large. B, ``batch_size``, is the number of examples behind one step:
    devices and accumulation steps multiply it. Gradients that were clipped, as the Hugging Face Trainer does by default, make
    F smaller by the square of what was clipped away. ``power`` 1 is an estimate of F; 0.5 that of Adam's own preconditioner,
    whose square root tempers the differences between parameters.

    source: the optimizer, or its state_dict (previa.io.open_optimizer reads one from a file). A state_dict numbers its
    parameters; previa.fit.parameter_order says how they are named, unless ``names`` does, one list an optimizer's group.
    Numbers and shapes are all that can be checked: where the optimizer was given the parameters in an order of its own, as
    AdamW([*head.parameters(), *body.parameters()]), layers of one shape are silently swapped. Pass the optimizer or ``names`` then.
    AMSGrad's running maximum is left alone: v is used. With Adam's own weight_decay (not AdamW's) v holds the decay's gradient too.
    Like squared gradients this may be zero: add a prior with previa.damped.

    Raises InputError: another optimizer's state (8-bit Adam, Adafactor, ...), one that never stepped, groups with two beta2, a
    trainable parameter that is not in it, numbers that can be named in two ways, a batch size or power that cannot be; ParamsError
    where names or shapes do not fit the model; NotFiniteError naming the tensor.
    """
    if not (1 <= batch_size < float("inf") and 0 < power <= 1):
        raise InputError(
            f"{_WHAT}: batch_size is {batch_size} and power {power}; expected at least 1, and above 0 up to 1."
        )
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups, states = _named_states(source, model, names)
    beta2 = _beta2(groups)
    layout, steps, unused = Layout.of(trainable), 0, []
    mean = torch.zeros(layout.size)
    for name, (start, stop, _) in layout.places.items():
        if not states[name]:
            unused.append(name)
            continue
        n, v = int(states[name]["step"]), _second_moment(states[name], name)
        if n < 1:
            raise InputError(
                f"{_WHAT}: the optimizer did no step yet, so that it knows no gradient of {name!r}."
            )
        v = v.detach().double() / (1 - beta2**n)
        mean[start:stop] = (batch_size * v).pow(power).flatten()
        steps = max(steps, n)
    if not steps:
        raise InputError(
            f"{_WHAT}: the optimizer holds no state for any parameter. Did it step? Hand in the one that trained."
        )
    return AdamMoments(Flat(layout, mean), batch_size, float(power), beta2, steps, tuple(unused))


def _named_states(
    source: torch.optim.Optimizer | Mapping[str, Any], model: nn.Module, names: Sequence[Sequence[str]] | None
) -> tuple[Sequence[Mapping[str, Any]], dict[str, Mapping[str, Any]]]:
    """The groups, and by the name of each trainable parameter its state, with the step in it; empty where there is none."""
    if not isinstance(source, Mapping):
        if names is not None:
            raise InputError(f"{_WHAT}: names are for a state_dict; an optimizer knows its own parameters.")
        members = named_members(source, model, _WHAT)
        return source.param_groups, {
            name: _state(source.state.get(p, {}), group, name) for name, (p, group) in members.items()
        }
    groups, state = source.get("param_groups"), source.get("state")
    if not groups or not isinstance(state, Mapping) or not all("params" in group for group in groups):
        raise InputError(
            f"{_WHAT}: a mapping with the keys {', '.join(sorted(map(str, source))[:5])}; expected an optimizer's state_dict, "
            "which has 'state' and 'param_groups'."
        )
    numbers = [(number, group) for group in groups for number in group["params"]]
    found = [_state(state.get(number, {}), group, f"parameter {number}") for number, group in numbers]
    shapes = [tuple(one["exp_avg_sq"].shape) if one else None for one in found]
    named = [list(one) for one in names] if names is not None else group_names(groups, model, shapes, _WHAT)
    check_names(named, groups, model, shapes, _WHAT)
    by_name = dict(zip((name for one in named for name in one), found, strict=True))
    lacking = [name for name, p in model.named_parameters() if p.requires_grad and name not in by_name]
    if lacking:
        raise InputError(
            f"{_WHAT}: the trainable parameter {lacking[0]!r} of the model is not in the optimizer. It was not trained with it: "
            "freeze it by requires_grad_(False)."
        )
    return groups, by_name


def _state(state: Mapping[str, Any], group: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A parameter's state, checked to be Adam's, with the step in it (some fused Adams keep one step a group)."""
    if not state:
        return {}
    found = {**({"step": group["step"]} if "step" in group else {}), **state}
    other = sorted(set(map(str, found)) - _STATE)
    v = found.get("exp_avg_sq")
    if other or "step" not in found or type(v) is not Tensor or len(group.get("betas", ())) != 2:
        kind = "" if v is None or type(v) is Tensor else f" (a {type(v).__name__})"
        raise InputError(
            f"{_WHAT}: the state of {name} holds {', '.join(sorted(map(str, found)))}{kind}. Only that of Adam and AdamW can be "
            "read, with 'step' and 'exp_avg_sq' as a plain tensor: an 8-bit or another optimizer keeps something else. "
            "previa.squared_gradients needs no optimizer, one pass over the data instead."
        )
    return found


def _second_moment(state: Mapping[str, Any], name: str) -> Tensor:
    v: Tensor = state["exp_avg_sq"]
    if not bool(torch.isfinite(v).all()) or bool((v < 0).any()):
        raise NotFiniteError(
            f"{_WHAT}: the second moment of {name!r} holds NaN, infinity or negative numbers. Did training diverge?"
        )
    return v


def _beta2(groups: Sequence[Mapping[str, Any]]) -> float:
    found = {float(group["betas"][1]) for group in groups if "betas" in group}
    if len(found) != 1:
        raise InputError(
            f"{_WHAT}: the optimizer's groups have the beta2 {sorted(found)}; expected one for all, as Adam's have. Moments "
            "over different times are not of one scale."
        )
    return found.pop()
