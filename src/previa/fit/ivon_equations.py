"""The equations of IVON (Shen et al. 2024, alg. 1) on lists of tensors, in place and in few passes; H = h+delta throughout.

``theta`` are the parameters themselves and ``hold`` a buffer each. In full precision theta holds m, and ``m`` is not
needed. In half precision ``m`` is kept in float32 beside it, and theta is its rounding.
"""

import math

import torch
from torch import Tensor

from previa.fit.noise import Noise

Tensors = list[Tensor]


def settled(p: Tensor, m: Tensor) -> Tensor:
    """``m`` where the parameter p is its rounding, else p: somebody wrote other weights into the model."""
    return torch.where(p == m.to(p.dtype), m, p.to(m.dtype))


@torch.no_grad()
def keep(theta: Tensors, hold: Tensors, m: Tensors) -> None:
    """Before a sample: m into ``hold`` (full precision), or ``m`` brought up to date with theta (half)."""
    if _half(theta, hold):
        torch._foreach_copy_(m, [settled(p, mean) for p, mean in zip(theta, m, strict=True)])
    else:
        torch._foreach_copy_(hold, theta)


@torch.no_grad()
def perturb(theta: Tensors, hold: Tensors, m: Tensors, H: Tensors, ess: float, noise: Noise) -> None:
    """theta = m + eps/sqrt(ess*H), after ``keep``.

    In half precision ``hold`` takes eps/sqrt(ess*H) before rounding: where sigma is below theta's resolution, the
    rounded theta - m is no noise but the rounding error of m, and g_hat times it no estimate of curvature.
    """
    inverse_sigma = torch._foreach_mul(H, ess)
    torch._foreach_sqrt_(inverse_sigma)
    if _half(theta, hold):
        noise.fill(hold)
        torch._foreach_div_(hold, inverse_sigma)
        torch._foreach_copy_(theta, torch._foreach_add(m, hold))
    else:
        noise.fill(theta)
        torch._foreach_div_(theta, inverse_sigma)
        torch._foreach_add_(theta, hold)


@torch.no_grad()
def restore(theta: Tensors, hold: Tensors, m: Tensors) -> None:
    """m back into theta, bit by bit, whatever became of theta since ``keep``; ``hold`` is theta - m from here on."""
    if _half(theta, hold):
        torch._foreach_copy_(theta, m)
    else:
        displacement = torch._foreach_sub(theta, hold)
        torch._foreach_copy_(theta, hold)
        torch._foreach_copy_(hold, displacement)


@torch.no_grad()
def update(
    theta: Tensors,
    m: Tensors,
    H: Tensors,
    g: Tensors,
    g_hat: Tensors,
    product: Tensors,
    *,
    multiplied: bool,
    lr: float,
    betas: tuple[float, float],
    ess: float,
    delta: float,
    xi: float,
    t: int,
) -> None:
    """Step t of g, H and m, from g_hat and product = mean[g_hat*(theta-m)] (theta-m alone until ``multiplied``).

    g <- b1*g + (1-b1)*g_hat
    h <- b2*h + (1-b2)*h_hat + (1-b2)^2*(h-h_hat)^2/(2*H), h_hat = ess*H*product; divided by H this reads
    H <- H*(1 + v + v^2/2), v = (1-b2)*(h_hat-h)/H = (1-b2)*(ess*product - 1 + delta/H)
    m <- m - lr*clip((g/(1-b1^t) + delta*m)/H, +-xi)

    1 + v + v^2/2 = ((1+v)^2 + 1)/2 is at least 1/2, so H never falls below half of itself, whatever the gradients.
    H is stored, not h: near h = -delta the sum of the two would round to zero.
    """
    b1, b2 = betas
    debias = 1 - b1**t
    if _half(theta, m):
        g_hat = [tensor.to(mean.dtype) for tensor, mean in zip(g_hat, m, strict=True)]
    if not multiplied:
        torch._foreach_mul_(product, g_hat)

    torch._foreach_lerp_(g, g_hat, 1 - b1)

    v = torch._foreach_mul(product, (1 - b2) * ess)
    torch._foreach_sub_(v, 1 - b2)
    if delta:
        torch._foreach_add_(v, torch._foreach_reciprocal(H), alpha=(1 - b2) * delta)
    torch._foreach_addcmul_(v, v, v, 0.5)  # v + v^2/2
    torch._foreach_addcmul_(H, H, v)

    ascent = (
        torch._foreach_add(g, m, alpha=debias * delta) if delta else g
    )  # all times debias, to save a pass
    if math.isinf(xi):
        torch._foreach_addcdiv_(m, ascent, H, -lr / debias)
    else:
        ratio = torch._foreach_div(ascent, H)
        torch._foreach_clamp_min_(ratio, -xi * debias)
        torch._foreach_clamp_max_(ratio, xi * debias)
        torch._foreach_add_(m, ratio, alpha=-lr / debias)
    if _half(theta, m):
        torch._foreach_copy_(theta, m)


def _half(theta: Tensors, wide: Tensors) -> bool:
    return theta[0].dtype != wide[0].dtype
