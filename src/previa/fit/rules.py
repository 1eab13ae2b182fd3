"""Per-example gradients of the usual layers, from a layer's input a and its output's gradient g.

A rule is ``rule(module, a, g, wanted) -> {"weight": [B, *shape], "bias": ...}`` for the wanted parameters, where g is
the gradient of the SUM of the batch's losses, so that row b of g belongs to example b alone. A layer whose squares
come cheaper than its gradients has its own way in ``squares.py``. Each is the layer's own backward pass, with the sum over examples left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.nn import Module, functional
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

Rule = Callable[[Module, Tensor, Tensor, Collection[str]], dict[str, Tensor]]


def linear(module: Module, a: Tensor, g: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """y = W a + b: G_W = sum_t g_t a_t^T, G_b = sum_t g_t over the axes between the first and the last."""
    a, g = over_tokens(a), over_tokens(g)
    grads = {"weight": torch.bmm(g.transpose(1, 2), a)} if "weight" in wanted else {}
    if "bias" in wanted:
        grads["bias"] = g.sum(1)
    return grads


def transposed_linear(module: Module, a: Tensor, g: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """y = a W + b, as GPT-2 has it: G_W = sum_t a_t g_t^T, G_b = sum_t g_t."""
    grads = linear(module, a, g, wanted)
    return {name: grad.transpose(1, 2) if name == "weight" else grad for name, grad in grads.items()}


def over_tokens(x: Tensor) -> Tensor:
    """[B, ..., n] as [B, T, n]; T = 1 where there is no axis between."""
    return x.unsqueeze(1) if x.dim() == 2 else x.flatten(1, -2)


def embedding(module: Module, tokens: Tensor, g: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """y_t = W[token_t]: G_W[v] = sum over t with token_t = v of g_t; the padding row gets none."""
    assert isinstance(module, nn.Embedding)
    B, V, D = len(tokens), module.num_embeddings, module.embedding_dim
    keys = example_tokens(tokens, V)
    grads = g.new_zeros(B * V, D).index_add_(0, keys, g.reshape(-1, D)).view(B, V, D)
    if module.padding_idx is not None:
        grads[:, module.padding_idx] = 0
    return {"weight": grads}


def example_tokens(tokens: Tensor, V: int) -> Tensor:
    """One number b*V + token for each token of each example b, [B*T]."""
    tokens = tokens.flatten(1) if tokens.dim() > 1 else tokens.unsqueeze(1)
    return (tokens + V * torch.arange(len(tokens), device=tokens.device).unsqueeze(1)).flatten()


def conv(module: Module, a: Tensor, g: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """y = W * a + b: one convolution whose B*groups groups are the examples; G_b = sum over positions of g."""
    assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    grads = {}
    if "weight" in wanted:
        B, weight = len(a), module.weight
        a, padding = _padded(module, a)
        weight_gradient = (conv1d_weight, conv2d_weight, conv3d_weight)[a.dim() - 3]
        grads["weight"] = weight_gradient(  # type: ignore[no-untyped-call]
            a.reshape(1, -1, *a.shape[2:]),
            (B * weight.shape[0], *weight.shape[1:]),
            g.reshape(1, -1, *g.shape[2:]),
            module.stride,
            padding,
            module.dilation,
            B * module.groups,
        ).view(B, *weight.shape)
    if "bias" in wanted:
        grads["bias"] = g.flatten(2).sum(2)
    return grads


def _padded(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, a: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The input and the zeros still to be put around it: other modes and the uneven "same" are padded here."""
    none = (0,) * len(module.kernel_size)
    if module.padding == "valid":
        return a, none
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]
    else:
        assert not isinstance(module.padding, str)
        if module.padding_mode == "zeros":
            return a, module.padding
        sides = [(p, p) for p in module.padding]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return functional.pad(a, [p for side in reversed(sides) for p in side], mode=mode), none


def layer_norm(module: Module, a: Tensor, g: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """y = gamma * x_hat + beta: G_gamma = sum_t g_t * x_hat_t, G_beta = sum_t g_t over the axes not normalised."""
    assert isinstance(module, nn.LayerNorm)
    shape = module.normalized_shape
    return _over_tokens(functional.layer_norm(a, shape, None, None, module.eps), g, shape, wanted)


def rms_norm(module: Module, a: Tensor, g: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """y = gamma * x_hat with x_hat = x / rms(x): G_gamma = sum_t g_t * x_hat_t."""
    assert isinstance(module, nn.RMSNorm)
    shape = tuple(module.normalized_shape)
    return _over_tokens(functional.rms_norm(a, list(shape), None, module.eps), g, shape, wanted)


def batch_norm(module: Module, a: Tensor, g: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """y = gamma * x_hat + beta, x_hat by the running statistics: sums over the positions of each channel."""
    assert isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d))
    mean, variance = module.running_mean, module.running_var
    assert mean is not None
    assert variance is not None
    x_hat = functional.batch_norm(a, mean.to(a.dtype), variance.to(a.dtype), eps=module.eps)
    return _over_positions(x_hat, g, wanted)


def group_norm(module: Module, a: Tensor, g: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """y = gamma * x_hat + beta, x_hat within each group of channels: sums over the positions of each channel."""
    assert isinstance(module, nn.GroupNorm)
    return _over_positions(functional.group_norm(a, module.num_groups, eps=module.eps), g, wanted)


def _over_tokens(
    x_hat: Tensor, g: Tensor, shape: tuple[int, ...], wanted: Collection[str]
) -> dict[str, Tensor]:
    grads = {}
    if "weight" in wanted:
        grads["weight"] = (g * x_hat).reshape(len(g), -1, *shape).sum(1)
    if "bias" in wanted:
        grads["bias"] = g.reshape(len(g), -1, *shape).sum(1)
    return grads


def _over_positions(x_hat: Tensor, g: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    grads = {}
    if "weight" in wanted:
        grads["weight"] = (g * x_hat).flatten(2).sum(2) if g.dim() > 2 else g * x_hat
    if "bias" in wanted:
        grads["bias"] = g.flatten(2).sum(2) if g.dim() > 2 else g
    return grads


RULES: dict[type[Module], Rule] = {
    nn.Linear: linear,
    nn.Embedding: embedding,
    nn.Conv1d: conv,
    nn.Conv2d: conv,
    nn.Conv3d: conv,
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: rms_norm,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.BatchNorm3d: batch_norm,
    nn.GroupNorm: group_norm,
}
"""Exact types only: a subclass may compute anything (Gemma's scaled embedding)."""

NAMED: dict[str, Rule] = {"transformers.pytorch_utils.Conv1D": transposed_linear}
"""Layers of a package that is not imported for their sake."""


def rule_of(module: Module) -> Rule | None:
    """The rule of a module's exact type, whether or not it applies to this one."""
    kind = type(module)
    return RULES.get(kind) or NAMED.get(f"{kind.__module__}.{kind.__qualname__}")


def has_rule(module: Module) -> bool:
    """Whether ``module`` is exactly a layer with a rule, and computes what that type computes."""
    plain = (
        rule_of(module) is not None
        and "forward" not in vars(module)
        and not any(True for _ in module.children())
    )
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq):
        return False
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)) and module.training:
        return False
    return plain and set(dict(module.named_parameters(recurse=False))) <= {"weight", "bias"}
