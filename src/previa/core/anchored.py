"""anchored: previews that go through joint runs: whatever a method misses at an anchor is added, and faded out around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from previa.core.merge import as_alphas
from previa.core.modes import Modes
from previa.core.params import Flat
from previa.core.runs import Run
from previa.core.scheffe import cardinals
from previa.core.warp import Method, warp
from previa.errors import InputError


def anchored(method: Method, anchors: Sequence[Run], *, p: float = 1.0) -> Method:
    """theta(alpha) = m(w) + sum_r b_r(w) (theta_r - m(w_r)), w = alpha^p and w_r = alpha_r^p, normalised (``warp``).

    m: the method, such as ``partial(modes, posteriors=...)``, unwarped; theta_r [P]: the anchors' parameters; b: Scheffe's
    ``cardinals``, 1 at their own anchor, 0 at the others and at corners. So every anchor and every task's own run is
    reproduced. With Isotropic posteriors this is Scheffe's interpolation of all runs; other families bend the way between them.
    m is asked for the anchors once, here. alphas must sum to one: no anchor says what a base's share does.
    Raises AlphaError for anchors at corners or two at one weighting; ParamsError where their tensors are not the tasks'.
    """
    if not anchors:
        warp([1.0], p)
        return lambda alphas: method(warp(alphas, p))
    at = warp([anchor.alpha for anchor in anchors], p)
    _check_sums(at, "anchors")
    cardinals(at, at)  # before any work
    found = method(at)
    flat = found.params
    theta = torch.stack(
        [
            Flat.of(anchor.params, flat.layout, f"anchor {tuple(anchor.alpha)}").vector.to(flat.vector)
            for anchor in anchors
        ]
    )
    residuals = theta - flat.vector

    def preview(alphas: Tensor) -> Modes:
        w = warp(as_alphas(alphas, at.shape[-1]).view(-1, at.shape[-1]), p)
        _check_sums(w, "alphas")
        merged = method(w)
        corrected = merged.params.vector + cardinals(w, at).to(residuals) @ residuals
        return Modes(Flat(merged.params.layout, corrected), merged.stats)

    return preview


def left_out(method: Method, anchors: Sequence[Run], *, p: float = 1.0) -> list[Flat]:
    """At each anchor the preview by the others and the tasks' own runs: [P] each, what leave-one-anchor-out is judged by.

    Raises as ``anchored``.
    """
    found = []
    for r, anchor in enumerate(anchors):
        others = [*anchors[:r], *anchors[r + 1 :]]
        found.append(
            anchored(method, others, p=p)(torch.tensor([anchor.alpha], dtype=torch.float64)).params.row(0)
        )
    return found


def _check_sums(w: Tensor, where: str) -> None:
    off = (w.sum(-1) - 1).abs()
    if bool((off > 1e-6).any()):
        raise InputError(
            f"anchored: {where}: weights sum to {float(w.sum(-1)[off.argmax()]):g}; with anchors every weighting should sum to 1."
        )
