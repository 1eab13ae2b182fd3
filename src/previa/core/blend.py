"""blend: one method in the middle of the simplex, another at its corners."""

from __future__ import annotations

from torch import Tensor

from previa.core.modes import Modes
from previa.core.params import Flat
from previa.core.warp import Method, warp
from previa.errors import AlphaError, ParamsError


def mixedness(w: Tensor) -> Tensor:
    """s(w) = (1 - |w|^2) / (1 - 1/T) for w [A, T] that sum to one: 0 at corners, 1 at equal weights, [A].

    Raises AlphaError where there is one task only, which has corners but no middle.
    """
    T = w.shape[-1]
    if T < 2:
        raise AlphaError("blend: there is one task, so there is nothing between corners. Give two or more.")
    return ((1 - w.square().sum(-1)) / (1 - 1 / T)).clamp(0, 1)


def blended(corners: Method, middle: Method, *, p: float = 1.0) -> Method:
    """theta(alpha) = (1 - s) corners(w) + s middle(alpha), with w = ``warp(alpha, p)`` and s = ``mixedness(w)``.

    ``corners``: unwarped, such as ``partial(modes, posteriors=...)``, so that corners stay as exact as it is; ``middle``
    sees alpha as it is, as an expansion's weights are those of the loss. The statistics are ``middle``'s.
    Raises AlphaError; InputError unless p > 0; ParamsError where the two methods' parameters differ.
    """
    warp([1.0], p)  # a wrong p is said now

    def preview(alphas: Tensor) -> Modes:
        """The blend at alphas [A, T]."""
        w = warp(alphas, p)
        outer, inner = corners(w), middle(alphas)
        if outer.params.layout != inner.params.layout:
            raise ParamsError(
                "blended: the two methods give parameters of other names or shapes. Use one base model for both."
            )
        m, c = outer.params.vector, inner.params.vector.to(outer.params.vector)
        s = mixedness(w / w.sum(-1, keepdim=True)).to(m)[:, None]
        return Modes(Flat(outer.params.layout, m + s * (c - m)), inner.stats)

    return preview
