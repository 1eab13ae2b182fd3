"""modes_into: the preview parameters written into tensors that exist, such as a model's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from previa.core.averages import averages_into, isotropic, shares
from previa.core.merge import Alphas, as_alphas, check_layouts, with_prior
from previa.core.modes import modes
from previa.core.params import Layout, Params
from previa.core.posterior import Bounded, Factorised, Posterior, Products
from previa.core.weighted import weighted_parts
from previa.errors import InputError, NotFiniteError, ParamsError


def modes_into(
    outs: Sequence[Params],
    alphas: Alphas,
    posteriors: Sequence[Posterior | Bounded | Products],
    prior: Posterior | Products | None = None,
) -> None:
    """Overwrite outs[a] with the preview parameters at alphas[a]: what ``modes`` gives, in memory that is there.

    outs: [A] mappings of contiguous tensors with the posteriors' names and shapes, of any floating-point dtype, such as
    ``[dict(model.named_parameters())]``; not the posteriors' own memory. alphas: [A, T]. Entries are rounded to their dtype once.
    Posteriors that factorise are merged a piece at a time for all weightings, so that no other copy of a model is made: fresh
    memory would take longer than the sums.
    Raises as ``modes``; InputError where outs and alphas differ in number; ParamsError where one of outs does not fit;
    NotFiniteError where a value does not fit float16, when the tensors before it are those of alphas already.
    """
    if not posteriors:
        raise InputError("modes_into: there are no posteriors.")
    weights = as_alphas(alphas, len(posteriors)).view(-1, len(posteriors))
    if isinstance(outs, Mapping) or len(outs) != len(weights):
        found = "one mapping" if isinstance(outs, Mapping) else f"{len(outs)} mappings"
        raise InputError(
            f"modes_into: outs is {found}, and there are {len(weights)} weightings; expected a list of one mapping for each."
        )
    layout = posteriors[0].layout
    flats = [_flat(params, layout, f"modes_into: outs[{a}]") for a, params in enumerate(outs)]
    for name, pieces in _values(flats, layout, weights, posteriors, prior):
        for entries, values in pieces:
            for flat, value in zip(flats, values, strict=True):
                flat[name][entries] = value
        for a, flat in enumerate(flats):
            if flat[name].dtype == torch.float16 and not bool(torch.isfinite(flat[name].float().sum())):
                raise NotFiniteError(
                    f"modes_into: outs[{a}]: tensor {name!r}: a merged value does not fit torch.float16. Hand in tensors of "
                    "another dtype."
                )


def _values(
    flats: Sequence[Mapping[str, Tensor]],
    layout: Layout,
    alphas: Tensor,
    posteriors: Sequence[Posterior | Bounded | Products],
    prior: Posterior | Products | None,
) -> Iterator[tuple[str, Iterator[tuple[slice, Tensor]]]]:
    """For each tensor, (entries, values [A, entries]) of what is not in place yet."""
    members = [q for q in posteriors if isinstance(q, Factorised)]
    if len(members) < len(posteriors) or not (prior is None or isinstance(prior, Factorised)):
        theta = modes(alphas, posteriors, prior).params.vector
        for name, (start, stop, _) in layout.places.items():
            yield name, iter([(slice(None), theta[:, start:stop])])
        return
    weights, every = with_prior(alphas, members, prior)
    check_layouts(every)
    averaged = shares(weights, every) if isotropic(every) else None
    for name, (start, stop, _) in layout.places.items():
        if averaged is not None and isotropic(every):
            averages_into([flat[name] for flat in flats], averaged, every, start)
            yield name, iter(())
        else:
            yield (
                name,
                weighted_parts(weights, [q.part(start, stop) for q in every if isinstance(q, Factorised)]),
            )


def _flat(params: Params, layout: Layout, where: str) -> dict[str, Tensor]:
    """The tensors as vectors that share their memory. Raises ParamsError where they do not fit."""
    layout.check(params, where, "the posteriors")
    for name in layout.places:
        if not params[name].is_floating_point() or not params[name].is_contiguous():
            raise ParamsError(
                f"{where}: tensor {name!r} is {params[name].dtype} with strides {params[name].stride()}; expected "
                "floating-point numbers that lie row by row. Use previa.modes, and copy what it returns."
            )
    return {name: params[name].detach().view(-1) for name in layout.places}
