"""Gaussian whose precision is a Kronecker product in every layer: the Laplace posterior of K-FAC, and RegMean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from previa.core.conjugate_gradients import Elementwise, System, elementwise_system
from previa.core.kronecker_block import Block, block_system
from previa.core.params import Flat, Layout, Params
from previa.core.posterior import Products
from previa.errors import InputError, NotFiniteError, ParamsError, PrecisionError

Factors = Mapping[str, tuple[Tensor, Tensor | None]]
"""(A, B) by the weight's name; B = None is the identity"""


@final
@dataclass(frozen=True)
class Kronecker:
    """N(theta | mean, H^-1), H block-diagonal: B (x) A + delta I in each layer with factors, a diagonal for the rest.

    A layer's block is W = [weight, bias] as a matrix [out, in+1] (of a convolution [out, in*k*k]): H W = B W A + delta W
    (K-FAC, Martens and Grosse 2015). factors: by the weight's name A [in, in], or [in+1, in+1] where the bias is part of the
    block, and B [out, out], None for the identity. rest: precisions of the parameters outside all blocks (others may be
    there, too), or one number for them. damping: delta by the weight's name, absolute, as ``kronecker_damping`` gives
    it; a layer left out has none.

    Sums of these are no Kronecker products: ``previa.modes`` finds their modes by conjugate gradients.
    Raises ParamsError where names or shapes do not fit, InputError where rest is of another type, NotFiniteError,
    PrecisionError where H is not positive definite.
    """

    mean: Params
    factors: Factors
    rest: Params | float | None = None
    damping: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        mean = Flat.of(self.mean)
        if mean.vector.dim() > 1:
            raise ParamsError(
                f"Kronecker: the mean is a batch of shape {tuple(mean.vector.shape[:-1])}; pass one model, mean.row(i)."
            )
        if not isinstance(self.rest, Mapping | int | float | None):
            raise InputError(
                f"Kronecker: rest is a {type(self.rest).__name__}; expected precisions by name, or one number."
            )
        object.__setattr__(self, "mean", mean)
        _ = self._blocks, self._h  # checks them

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""
        return self._m.layout

    def mode(self) -> Flat:
        """The mean."""
        return self._m

    def times(self, v: Tensor) -> Tensor:
        """H v for v [..., P]."""
        out = torch.empty_like(v)
        out[..., self._outside] = v[..., self._outside] * self._h.to(v)
        for block in self._blocks.values():
            out[..., block.entries] = block.times(v[..., block.entries])
        return out

    def diagonal(self) -> Tensor:
        """The diagonal of H, [P] in float64."""
        h = torch.empty_like(self._m.vector, dtype=torch.float64)
        h[self._outside] = self._h
        for block in self._blocks.values():
            h[block.entries] = block.diagonal()
        return h

    def log_density(self, theta: Params) -> Tensor:
        """-P/2 log 2 pi + 1/2 log det H - 1/2 (theta - mean)' H (theta - mean), float64; theta [A] gives [A]."""
        d = Flat.of(theta, self.layout).vector.double() - self._m.vector.double()
        log_det = self._h.log().sum()
        for block in self._blocks.values():
            log_det = log_det + block.log_det
        square = (d * self.times(d)).sum(-1)
        density: Tensor = -0.5 * self.layout.size * math.log(2 * math.pi) + 0.5 * (log_det - square)
        return density

    def systems(self, members: Sequence[Products]) -> Iterator[System] | None:
        """A system for each layer and one for the rest, where ``members`` have the same layers or are elementwise."""
        shapes = {name: block.shape for name, block in self._blocks.items()}
        for q in members:
            if not isinstance(q, Kronecker | Elementwise):
                return None
            if isinstance(q, Kronecker) and {name: b.shape for name, b in q._blocks.items()} != shapes:
                return None
        return self._systems(members)

    def _systems(self, members: Sequence[Products]) -> Iterator[System]:
        for name, block in self._blocks.items():
            parts = [
                q._blocks[name] if isinstance(q, Kronecker) else q.diagonal()[block.entries] for q in members
            ]
            yield block_system(block.entries, parts)
        h = torch.stack([q._h if isinstance(q, Kronecker) else q.diagonal()[self._outside] for q in members])
        yield elementwise_system(self._outside, h)

    @cached_property
    def _blocks(self) -> dict[str, Block]:
        damping, layout = self.damping or {}, self.layout
        unknown = [name for name in damping if name not in self.factors]
        if unknown:
            raise ParamsError(f"Kronecker: damping for {unknown[0]!r}, which has no factors.")
        return {
            name: Block(
                name,
                _entries(layout, name, A, B).to(self._m.vector.device),
                A,
                B,
                float(damping.get(name, 0.0)),
            )
            for name, (A, B) in self.factors.items()
        }

    @cached_property
    def _outside(self) -> Tensor:
        outside = torch.ones_like(self._m.vector, dtype=torch.bool)
        for block in self._blocks.values():
            outside[block.entries] = False
        return outside.nonzero()[:, 0]

    @cached_property
    def _h(self) -> Tensor:
        """Precisions of the entries outside all blocks, float64."""
        n = len(self._outside)
        if isinstance(self.rest, int | float):
            h = torch.full((n,), float(self.rest), dtype=torch.float64, device=self._m.vector.device)
        else:
            h = _rest(self.layout, self._outside, self.rest or {})
        if not bool(torch.isfinite(h).all()):
            raise NotFiniteError("Kronecker: rest holds NaN or infinity; expected finite numbers above zero.")
        if not bool((h > 0).all()):
            raise PrecisionError(
                f"Kronecker: the smallest precision in rest is {h.min().item():.3g}, but it must be above zero. Squared gradients "
                "are zero where a parameter is unused: add a prior precision (previa.damped)."
            )
        return h

    @property
    def _m(self) -> Flat:
        return Flat.of(self.mean)


def kronecker_damping(factors: Sequence[Factors], relative: float) -> dict[str, float]:
    """delta = relative * (mean over tasks and entries of diag(B (x) A)) for each layer: one common prior for all tasks.

    ``factors`` [T], one mapping a task. Relative to the layer's own scale, as ``previa.damped`` is; a layer where every
    task's factors are zero gets the smallest delta of the others.
    Raises InputError where relative is not finite and above zero, there are no tasks or layers, or tasks have factors for
    different layers; PrecisionError where all are zero.
    """
    if not 0 < relative < math.inf:
        raise InputError(f"kronecker_damping: relative must be above zero and finite; found {relative}.")
    if not factors or not factors[0]:
        what = "task 0 has factors for no layer" if factors else "there are the factors of no task"
        raise InputError(
            f"kronecker_damping: {what}; expected one mapping a task, as kronecker_factors gives."
        )
    names = list(factors[0])
    for t, one in enumerate(factors):
        if set(one) != set(names):
            different = sorted(set(one) ^ set(names))
            raise InputError(
                f"kronecker_damping: task {t} and task 0 differ in having factors for {different[0]!r}."
            )
    scale = {name: sum(_scale(*one[name]) for one in factors) / len(factors) for name in names}
    above = [value for value in scale.values() if value > 0]
    if not above:
        raise PrecisionError("kronecker_damping: the factors of all layers are zero.")
    return {name: relative * (value or min(above)) for name, value in scale.items()}


def regmean(
    mean: Params,
    moments: Mapping[str, Tensor],
    *,
    off_diagonal: float = 0.9,
    rest: Params | float = 1.0,
    damping: Mapping[str, float] | None = None,
) -> Kronecker:
    """RegMean's posterior (Jin et al. 2023, arXiv 2212.09849): B = I, and A the inputs' second moments by the weight's name.

    H_t = I (x) A_t is the Hessian of half the squared error of a linear layer's outputs. ``off_diagonal`` multiplies the
    moments off the diagonal; the paper's 0.9 (0.1 for T5) makes A better conditioned, 1.0 leaves A as it is. All else,
    with the same ``rest`` in each task, is averaged plainly. An input that is always zero needs damping, and under
    ``off_diagonal`` 1 linearly dependent inputs do, or fewer examples than inputs: kronecker_damping of {name: (A, None)}. Raises as Kronecker, InputError unless 0 <= off_diagonal <= 1.
    """
    if not 0 <= off_diagonal <= 1:
        raise InputError(f"regmean: off_diagonal must be from 0 to 1; found {off_diagonal}.")
    factors = {
        name: (off_diagonal * A + (1 - off_diagonal) * torch.diag(A.diagonal()), None)
        for name, A in moments.items()
    }
    return Kronecker(mean, factors, rest, damping)


def _scale(A: Tensor, B: Tensor | None) -> float:
    """The mean of diag(B (x) A)."""
    return float(A.diagonal().double().mean() * (1.0 if B is None else B.diagonal().double().mean()))


def _entries(layout: Layout, weight: str, A: Tensor, B: Tensor | None) -> Tensor:
    """The places of [weight, bias] in the vector, row by row. Raises ParamsError where A or B have no shape for it."""
    if weight not in layout.places:
        raise ParamsError(f"Kronecker: there are factors for {weight!r}, which is no parameter of the mean.")
    start, stop, shape = layout.places[weight]
    if len(shape) < 2:
        raise ParamsError(f"Kronecker: {weight!r} has shape {shape}; only matrices and kernels have factors.")
    places = torch.arange(start, stop).view(shape[0], -1)
    out, n = places.shape
    if tuple(A.shape) == (n + 1, n + 1):
        bias = weight.removesuffix("weight") + "bias"
        first, last, size = layout.places.get(bias, (0, 0, ()))
        if size != (out,):
            raise ParamsError(
                f"Kronecker: factor A of {weight!r} has {n + 1} rows, one for a bias, but no {bias!r} of shape ({out},) is there."
            )
        places = torch.cat([places, torch.arange(first, last)[:, None]], 1)
    elif tuple(A.shape) != (n, n):
        raise ParamsError(
            f"Kronecker: factor A of {weight!r} has shape {tuple(A.shape)}; expected ({n}, {n}), or ({n + 1}, {n + 1}) with a bias."
        )
    if B is not None and tuple(B.shape) != (out, out):
        raise ParamsError(
            f"Kronecker: factor B of {weight!r} has shape {tuple(B.shape)}; expected ({out}, {out})."
        )
    return places.flatten()


def _rest(layout: Layout, outside: Tensor, rest: Params) -> Tensor:
    """The entries ``outside`` of the precisions ``rest``. Raises ParamsError naming a parameter that has neither."""
    h = torch.full((layout.size,), torch.nan, dtype=torch.float64, device=outside.device)
    for name, (start, stop, shape) in layout.places.items():
        if name in rest:
            if tuple(rest[name].shape) != shape:
                raise ParamsError(
                    f"Kronecker: the precision of {name!r} has shape {tuple(rest[name].shape)}; expected {shape}."
                )
            if not bool(torch.isfinite(rest[name]).all()):
                raise NotFiniteError(f"Kronecker: the precision of {name!r} holds NaN or infinity.")
            h[start:stop] = rest[name].detach().double().flatten()
    h = h[outside]
    if bool(h.isnan().any()):
        place = int(outside[h.isnan()][0])
        name = next(name for name, (start, stop, _) in layout.places.items() if start <= place < stop)
        raise ParamsError(
            f"Kronecker: {name!r} has neither factors nor a precision. Pass rest=, for example from squared_gradients."
        )
    return h
