"""Whether per-example gradients exist at all, and whether two ways of computing them agree up to rounding."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Module, MultiheadAttention, RNNBase
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from previa.core.params import Params
from previa.errors import InputError


def require_per_example(model: Module) -> None:
    """Raise InputError naming the module that makes a loss depend on chance or on the rest of the batch."""
    for name, module in model.named_modules():
        trouble = _trouble(module)
        if trouble:
            raise InputError(
                f"module {name or 'model'!r} ({type(module).__name__}) {trouble}, so the gradient of one example's "
                "loss does not exist. Call model.eval() first."
            )


def _trouble(module: Module) -> str:
    if isinstance(module, _BatchNorm) and module.running_mean is None:
        return "normalises by the batch's statistics even in eval mode (track_running_stats=False)"
    if not module.training:
        return ""
    if isinstance(module, _BatchNorm):
        return "normalises by the batch's statistics in training mode"
    if isinstance(module, _NormBase) and module.track_running_stats:
        return "changes its running statistics in training mode"
    drops = isinstance(module, _DropoutNd) and module.p > 0
    drops = drops or (isinstance(module, MultiheadAttention) and module.dropout > 0)
    drops = drops or (isinstance(module, RNNBase) and module.dropout > 0 and module.num_layers > 1)
    return "drops activations at random in training mode" if drops else ""


def rounding(params: Iterable[Tensor]) -> float:
    """The unit roundoff of the coarsest arithmetic in use; an accelerator may use TF32, of 11 bits, for float32."""
    eps = []
    for tensor in params:
        tf32 = tensor.device.type != "cpu" and tensor.dtype == torch.float32
        eps.append(2.0**-11 if tf32 else torch.finfo(tensor.dtype).eps)
    return max(eps)


def same_losses(together: Tensor, alone: Tensor, eps: float) -> bool:
    """Whether losses agree within sqrt(eps) of the largest; what is not finite is left to the gradients' own check."""
    if not (torch.isfinite(together).all() and torch.isfinite(alone).all()):
        return True
    scale = torch.maximum(together.abs(), alone.abs()).amax()
    return bool(((together - alone).abs() <= eps**0.5 * scale).all())


def differing(fast: Params, slow: Params, eps: float) -> list[str]:
    """Names of the tensors whose root squared gradients differ by more than rounding.

    Allowed is sqrt(eps) of the tensor's own largest gradient, plus 32 eps of the model's largest: a gradient that is
    zero in exact arithmetic (an attention's key bias) is noise of that size either way.
    """
    largest = {name: tensor.max().sqrt() for name, tensor in slow.items() if tensor.numel()}
    noise = 32 * eps * max((float(value) for value in largest.values()), default=0.0)
    return [
        name
        for name, scale in largest.items()
        if not bool((fast[name].sqrt() - slow[name].sqrt()).abs().max() <= eps**0.5 * scale + noise)
    ]
