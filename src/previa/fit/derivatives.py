"""What a variational fit asks of a loss: its value, gradient and Hessian at a batch of parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.func import grad_and_value, jacrev, vmap

from previa.errors import InputError, NotFiniteError, ParamsError

Derivatives = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""theta [S, P] float64 -> (l [S], gradient [S, P], Hessian [S, P, P]) of l = SUM loss - log p0, -log of the density to be fitted."""

ENTRIES = 1 << 25  # of Hessians at a time: 256 MB in float64


def by_autograd(loss: Callable[[Tensor], Tensor]) -> Derivatives:
    """The derivatives of ``loss`` (theta [P] -> scalar) by torch.func: exact, and P times the cost of a gradient.

    ``loss`` must be written for torch.func.vmap: no branches on values, no .item(), data in float64. A Hessian that a formula
    gives is faster. The derivatives raise InputError where torch cannot differentiate it.
    """

    def gradient(theta: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        g, value = grad_and_value(loss)(theta)
        return g, (g, value)

    def one(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        H, (g, value) = jacrev(gradient, has_aux=True)(theta)
        return value, g, H

    def derivatives(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        try:
            with (
                torch.no_grad()
            ):  # torch.func differentiates all the same; the loss's own parameters keep no graph
                value, g, H = vmap(one)(theta)
        except RuntimeError as error:
            raise InputError(
                f"by_autograd: the loss cannot be differentiated: {error}. It gets theta [P] in {theta.dtype} and must return a "
                "single number, written for torch.func.vmap, from data of the same dtype (data.double())."
            ) from error
        return value, g, H

    return derivatives


def evaluated(
    derivatives: Derivatives, theta: Tensor, where: str
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """(rows, l, gradient, Hessian) for theta [S, P], a few rows at a time, so that their Hessians fit in 256 MB.

    Raises ParamsError where shapes are not [S], [S, P], [S, P, P]; NotFiniteError saying ``where`` for NaN or infinity.
    """
    S, P = theta.shape
    for rows in chunks(S, P):
        n = rows.stop - rows.start
        parts = derivatives(theta[rows])
        shapes = {"loss": (n,), "gradient": (n, P), "Hessian": (n, P, P)}
        if not isinstance(parts, tuple) or len(parts) != len(shapes):
            raise ParamsError(
                f"{where}: the derivatives returned {_found(parts)}, but must return a tuple of three tensors "
                "(loss [S], gradient [S, P], Hessian [S, P, P]); previa.by_autograd makes them from a loss."
            )
        for (name, shape), part in zip(shapes.items(), parts, strict=True):
            if not isinstance(part, Tensor):
                raise ParamsError(
                    f"{where}: the {name} is {type(part).__name__}, but must be a torch tensor."
                )
            if part.shape != shape:
                raise ParamsError(
                    f"{where}: the {name} has shape {tuple(part.shape)}, but {n} samples of {P} parameters need "
                    f"{shape}. Derivatives return (loss [S], gradient [S, P], Hessian [S, P, P]) for theta [S, P]."
                )
            if not bool(torch.isfinite(part.sum())) and not bool(torch.isfinite(part).all()):
                raise NotFiniteError(
                    f"{where}: the {name} holds NaN or infinity. Start nearer to the minimum, with a larger "
                    "precision, or take smaller steps."
                )
        loss, gradient, H = (part.detach().to(theta) for part in parts)
        yield rows, loss, gradient, H


def chunks(matrices: int, P: int) -> Iterator[slice]:
    """Ranges of so many matrices [P, P] as fit in 256 MB."""
    size = max(1, ENTRIES // max(1, P * P))
    return (slice(start, min(start + size, matrices)) for start in range(0, matrices, size))


def _found(parts: object) -> str:
    """What came instead of three tensors, for an error."""
    return (
        f"{type(parts).__name__} of length {len(parts)}"
        if isinstance(parts, tuple | list)
        else type(parts).__name__
    )
