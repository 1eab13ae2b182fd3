"""modes_into: the preview parameters written into tensors that exist, such as a model's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from previa.core.averages import averages_into, isotropic, shares
from previa.core.merge import Alphas, as_alphas, check_layouts, with_prior
from previa.core.modes import modes
from previa.core.params import Layout, Params
from previa.core.posterior import Bounded, Factorised, Posterior, Products
from previa.core.weighted import weighted_parts
from previa.errors import AlphaError, InputError, NotFiniteError, ParamsError


def modes_into(
    params: Params,
    alpha: Alphas,
    posteriors: Sequence[Posterior | Bounded | Products],
    prior: Posterior | Products | None = None,
) -> None:
    """Overwrite ``params`` with the preview parameters at ``alpha`` [T]: what ``modes`` gives, in memory that is there.

    params: contiguous tensors with the posteriors' names and shapes, of any floating-point dtypes, such as
    ``dict(model.named_parameters())``; not the posteriors' own memory. Every entry is rounded to its dtype once.
    Posteriors that factorise are merged a piece at a time, so that no other copy of the model is made: fresh memory would
    take longer than the sums.
    Raises as ``modes``; ParamsError where params do not fit; NotFiniteError where a value does not fit float16, when the
    tensors before it are those of alpha already.
    """
    if not posteriors:
        raise InputError("modes_into: there are no posteriors.")
    weights = as_alphas(alpha, len(posteriors))
    if weights.dim() != 1:
        raise AlphaError(
            f"modes_into: alpha has shape {tuple(weights.shape)}; expected ({len(posteriors)},). Call it once for each weighting."
        )
    layout = posteriors[0].layout
    outs = _flat(params, layout)
    for name, pieces in _values(outs, layout, weights.view(1, -1), posteriors, prior):
        for entries, value in pieces:
            outs[name][entries] = value
        if outs[name].dtype == torch.float16 and not bool(
            torch.isfinite(outs[name].sum(dtype=torch.float32))
        ):
            raise NotFiniteError(
                f"modes_into: tensor {name!r}: a merged value does not fit torch.float16. Hand in tensors of another dtype."
            )


def _values(
    outs: Params,
    layout: Layout,
    alpha: Tensor,
    posteriors: Sequence[Posterior | Bounded | Products],
    prior: Posterior | Products | None,
) -> Iterator[tuple[str, Iterator[tuple[slice, Tensor]]]]:
    """For each tensor, (entries, values) of what is not in place yet."""
    members = [q for q in posteriors if isinstance(q, Factorised)]
    if len(members) < len(posteriors) or not (prior is None or isinstance(prior, Factorised)):
        theta = modes(alpha, posteriors, prior).params.vector[0]
        for name, (start, stop, _) in layout.places.items():
            yield name, iter([(slice(None), theta[start:stop])])
        return
    weights, every = with_prior(alpha, members, prior)
    check_layouts(every)
    averaged = shares(weights, every) if isotropic(every) else None
    for name, (start, stop, _) in layout.places.items():
        if averaged is not None and isotropic(every):
            averages_into([outs[name]], averaged, every, start)
            yield name, iter(())
        else:
            parts = [q.part(start, stop) for q in every if isinstance(q, Factorised)]
            yield name, ((entries, values[0]) for entries, values in weighted_parts(weights, parts))


def _flat(params: Params, layout: Layout) -> dict[str, Tensor]:
    """The tensors as vectors that share their memory. Raises ParamsError where they do not fit."""
    layout.check(params, "modes_into: params", "the posteriors")
    for name in layout.places:
        if not params[name].is_floating_point() or not params[name].is_contiguous():
            raise ParamsError(
                f"modes_into: tensor {name!r} of params is {params[name].dtype} with strides {params[name].stride()}; expected "
                "floating-point numbers that lie row by row. Use previa.modes, and copy what it returns."
            )
    return {name: params[name].detach().view(-1) for name in layout.places}
