"""What IVON keeps from the samples of one step: displacements theta - m, gradients, and their sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from previa.errors import InputError


@dataclass(slots=True)
class _Draw:
    """One parameter's share of the samples."""

    hold: Tensor  # m while the sample is in a float32 parameter; theta - m once its context has closed
    grad: Tensor | None = None  # of the last sample: the very tensor in .grad, so that clipping it counts
    version: int = 0  # of that tensor when its context closed
    sums: tuple[Tensor, Tensor] | None = (
        None  # of g_hat and g_hat*(theta-m) over earlier samples; a buffer if none
    )
    summed: int = 0  # how many samples these are


@final
class Samples:
    """Samples since the last step. Buffers stay between steps: 4 bytes a parameter, 12 if a step has several samples."""

    def __init__(self) -> None:
        self.open = False
        self._count = 0
        self._draws: dict[Tensor, _Draw] = {}

    def require_closed(self, what: str) -> None:
        """Raise InputError inside a sampling context, where the parameters are theta and not m."""
        if self.open:
            raise InputError(
                f"{what} inside `with optimizer.sampled()`, where parameters hold a sample: leave it first."
            )

    def require_none(self, what: str) -> None:
        """Raise InputError from the opening of a context to the step that uses its sample."""
        self.require_closed(what)
        if self._count:
            raise InputError(
                f"{what} between a sample and its step() would lose the sample: call step() first."
            )

    def hold(self, p: Tensor, dtype: torch.dtype) -> Tensor:
        """The buffer of p's displacement."""
        draw = self._draws.get(p)
        if draw is None or (draw.hold.shape, draw.hold.device, draw.hold.dtype) != (p.shape, p.device, dtype):
            draw = self._draws[p] = _Draw(torch.empty_like(p, dtype=dtype, requires_grad=False))
        return draw.hold

    def take(self, params: list[Tensor]) -> None:
        """Take the gradients of the sample whose context has closed; without any, the sample does not count."""
        grads = {p: p.grad for p in params if p.grad is not None}
        if any(grad.is_sparse for grad in grads.values()):
            raise InputError(
                "IVON needs dense gradients, but one is sparse: build the embedding with sparse=False."
            )
        for p, grad in grads.items():
            self._draws[p].grad, self._draws[p].version = grad, grad._version
        self._count += bool(grads)

    @torch.no_grad()
    def bank(self) -> None:
        """Add the last sample to the sums. Raises InputError when its gradients are not what its context left."""
        for draw in self._draws.values():
            if draw.grad is None:
                continue
            if draw.grad._version != draw.version:
                self.clear()
                raise InputError(
                    "the gradients of a sample were changed after its context closed, and another sample follows in the "
                    "same step. Clip or unscale inside `with optimizer.sampled()`; call zero_grad() with set_to_none=True; "
                    "call step() after each sample that is not to be averaged with the next. The samples were dropped."
                )
            grad = draw.grad.to(draw.hold.dtype)
            if draw.sums is None:
                draw.sums = torch.empty_like(draw.hold), torch.empty_like(draw.hold)
            grads, products = draw.sums
            if draw.summed:
                grads.add_(grad)
                products.addcmul_(grad, draw.hold)
            else:
                grads.copy_(grad)
                torch.mul(grad, draw.hold, out=products)
            draw.grad = None
            draw.summed += 1

    @torch.no_grad()
    def means(self) -> tuple[dict[Tensor, tuple[Tensor, Tensor]], bool]:
        """p -> (mean[g_hat], mean[g_hat*(theta-m)]) for the parameters with a gradient in any sample, and True.

        Of a single sample p -> (g_hat, theta-m), with p's present gradient as g_hat, and False: the product is left to
        do. The mean is over all samples: one in which p got no gradient counts as zero. Raises InputError without
        samples, and as ``bank``.
        """
        if not self._count:
            raise InputError(
                "step() found no gradients taken at a sample. Compute them in the context: "
                "`with optimizer.sampled(): loss.backward()`, then step()."
            )
        if not any(draw.summed for draw in self._draws.values()):
            single = {p: (draw.grad, draw.hold) for p, draw in self._draws.items() if draw.grad is not None}
            return {
                p: (grad if p.grad is None else p.grad, hold) for p, (grad, hold) in single.items()
            }, False
        self.bank()
        sums = {p: draw.sums for p, draw in self._draws.items() if draw.summed and draw.sums is not None}
        for grads, products in sums.values():
            grads.div_(self._count)
            products.div_(self._count)
        return sums, True

    def clear(self) -> None:
        """Forget the samples, keep the buffers."""
        self._count = 0
        for draw in self._draws.values():
            draw.grad, draw.summed = None, 0
