"""anchored: previews that go through joint runs: whatever a method misses at an anchor is added, and faded out around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from previa.core.merge import Alphas, as_alphas
from previa.core.modes import Modes
from previa.core.params import Flat
from previa.core.runs import Run
from previa.core.scheffe import cardinals, met
from previa.core.warp import Method, warp
from previa.errors import AlphaError, InputError

ROUNDING = 1e-5  # of 1 - sum(alpha): weightings often come as text of a few digits


def anchored(method: Method, anchors: Sequence[Run], *, p: float = 1.0) -> Method:
    """theta(alpha) = m(w) + sum_r b_r(w) (theta_r - m(w_r)), w = alpha^p and w_r = alpha_r^p, normalised (``warp``).

    m: the method, such as ``partial(modes, posteriors=...)``, unwarped; theta_r [P]: the anchors' parameters; b: Scheffe's
    ``cardinals``, 1 at their own anchor, 0 at the others and at corners. So every task's own run is reproduced, and every
    anchor bit for bit (in m's dtype). With Isotropic posteriors this is Scheffe's interpolation of all runs; other families
    bend the way between them.
    m is asked for the anchors once, here. Where it is a local search, as EM for mixtures that lie far apart, what it finds there
    may not be what it finds near there in other company, and by that the preview beside an anchor is off. Beside what m
    returns, a call takes memory for [A, P] once more. alphas must sum to one: no anchor says what a base's share does.
    Raises AlphaError for anchors at corners, two at one weighting, or weights that are not one for each task; ParamsError where
    their tensors are not the tasks'.
    """
    if not anchors:
        warp([1.0], p)
        return lambda alphas: method(warp(alphas, p))
    T = len(anchors[0].alpha)
    for anchor in anchors:
        if len(anchor.alpha) != T:
            raise AlphaError(
                f"anchored: one anchor is trained at {tuple(anchors[0].alpha)}, another at {tuple(anchor.alpha)}; expected "
                "one weight for each task."
            )
    at = _weights([anchor.alpha for anchor in anchors], p, T, "anchors")
    cardinals(at, at)  # before any work
    found = method(at).params
    residuals = torch.empty_like(found.vector)
    for r, residual in enumerate(residuals):
        torch.sub(_theta(anchors[r], found), found.vector[r], out=residual)
    layout = found.layout
    del found

    def preview(alphas: Tensor) -> Modes:
        """m(w) + sum_r b_r(w) (theta_r - m(w_r)) at alphas [A, T]."""
        w = _weights(alphas, p, T, "alphas")
        merged = method(w)
        theta = torch.addmm(merged.params.vector, cardinals(w, at).to(residuals), residuals)
        corrected = Flat(layout, theta)
        for a, r in met(w, at):  # without the rounding of m + (theta_r - m)
            theta[a] = _theta(anchors[r], corrected)
        return Modes(corrected, merged.stats)

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


def _theta(anchor: Run, like: Flat) -> Tensor:
    """The anchor's parameters [P] in the layout, dtype and place of ``like``."""
    return Flat.of(anchor.params, like.layout, f"anchor {tuple(anchor.alpha)}").vector.to(like.vector)


def _weights(alphas: Alphas, p: float, T: int, where: str) -> Tensor:
    """w [A, T], warped; what rounding takes from a sum of 1 is given back. Raises AlphaError; InputError for other sums."""
    a = as_alphas(alphas, T).view(-1, T)
    total = a.sum(-1, keepdim=True)
    off = (total - 1).abs()
    if bool((off > ROUNDING).any()):
        raise InputError(
            f"anchored: {where}: weights sum to {float(total[off.argmax()]):g}; with anchors every weighting should sum to 1."
        )
    return warp(a / total, p)
