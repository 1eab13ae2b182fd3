"""Prior precision for Fishers: the cure for 0/0 where a parameter is unused (METHOD 2: no bare epsilon)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from previa.core.params import Flat, Params
from previa.errors import InputError, PrecisionError


def damped(fishers: Sequence[Params], relative: float = 10.0) -> tuple[list[Flat], float]:
    """F_t + delta_b for each task t: delta_b = relative * (mean of all tasks' Fishers over tensor b), one common prior.

    Relative to each tensor's own scale, since Fishers of large models span 1e-19 to 1e0. A tensor that no task uses has a
    zero Fisher in all: it gets the smallest delta of the others, so that it is averaged plainly.
    Returns the damped precisions and the prior's share of the total precision, averaged over parameters and tasks (0 to 1).
    Raises InputError where relative <= 0, PrecisionError where a Fisher is negative or zero everywhere.
    """
    if not relative > 0:
        raise InputError(f"damped: relative must be above zero; found {relative}.")
    flats = [
        Flat.of(fisher, Flat.of(fishers[0]).layout, f"Fisher of task {t}") for t, fisher in enumerate(fishers)
    ]
    for t, flat in enumerate(flats):
        if bool((flat.vector < 0).any()) or not bool((flat.vector > 0).any()):
            raise PrecisionError(f"damped: the Fisher of task {t} is negative somewhere or zero everywhere.")
    layout = flats[0].layout
    scale = {
        name: float(torch.stack([flat[name].double().mean() for flat in flats]).mean())
        if flats[0][name].numel()
        else 0.0
        for name in layout.places
    }
    smallest = min(value for value in scale.values() if value > 0)
    delta = torch.cat(
        [
            torch.full((stop - start,), relative * (scale[name] or smallest))
            for name, (start, stop, _) in layout.places.items()
        ]
    )
    precisions = [Flat(layout, _add(flat.vector, delta)) for flat in flats]
    share = torch.stack([(delta.to(p.vector) / p.vector).double().mean() for p in precisions]).mean()
    return precisions, float(share)


def _add(fisher: Tensor, delta: Tensor) -> Tensor:
    return fisher + delta.to(fisher)
