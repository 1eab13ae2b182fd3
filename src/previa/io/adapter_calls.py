"""Calls of merge_adapters that have no answer: said before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from previa.errors import AlphaError, InputError, ParamsError
from previa.io.adapter_folder import Adapter, weights_file
from previa.io.adapter_match import Initialisation
from previa.io.posterior_file import open_posterior
from previa.io.weightings import ROUNDING


def check_call(
    tasks: Mapping[str, str | Path],
    alphas: Sequence[Sequence[float]],
    outs: Sequence[str | Path],
    precisions: Mapping[str, str | Path] | None,
    product: bool,
    rank: int | None,
) -> None:
    """Raise InputError where there is nothing to merge, no folder for each weighting, or an option of the other way."""
    if not tasks:
        raise InputError("merge: no tasks were given; expected at least one adapter folder.")
    if len(outs) != len(alphas) or len({Path(out).absolute() for out in outs}) < len(outs):
        raise InputError(
            f"merge: {len(alphas)} weightings and {len(outs)} folders to write, {[str(out) for out in outs]}; expected one "
            "folder of its own for each weighting."
        )
    if rank is not None and (not product or rank < 1):
        raise InputError(
            f"merge: rank is {rank}; expected at least 1, and only with product=True (--product): averages keep their rank."
        )
    if product and precisions is not None:
        raise InputError(
            "merge: precisions are of A and B, not of their product. Leave them out, or average A and B (without product)."
        )


def check_averages(
    adapters: Mapping[str, Adapter],
    base: Adapter | None,
    rows: Sequence[Sequence[float]],
    initialisation: Initialisation,
    precisions: Mapping[str, str | Path] | None,
    prior_precision: float | None,
) -> None:
    """Raise InputError, AlphaError, ParamsError where factors should not be merged as any checkpoint's tensors."""
    if initialisation.verdict == "unlikely":
        raise InputError(
            f"{initialisation.sentence}. Averages of A and of B mean something only near one common A: B A is the same for B R "
            "and R^-1 A. Either the adapters started from two, or training has left nothing of a common one. Merge the products "
            "B A instead (product=True, --product), or train again, from one adapter folder saved before the first step."
        )
    odd = next((sum(row) for row in rows if abs(1 - sum(row)) > ROUNDING), None)
    if odd is not None and base is None:
        raise AlphaError(
            f"alpha sums to {odd:g}; without a base it must sum to 1. Divide the weights by their sum, give the adapter that "
            "training started from as base, or merge the products B A (product=True, --product), which are zero there."
        )
    if prior_precision is not None and (base is None or precisions is None):
        raise InputError(
            "prior_precision is that of the prior at the base, beside the tasks' precisions. Give base and precisions too."
        )
    for task in set(precisions or ()) & set(adapters):
        _check_names(task, (precisions or {})[task], adapters[task])


def _check_names(task: str, file: str | Path, adapter: Adapter) -> None:
    odd = [name for name in open_posterior(file).layout.places if name not in adapter.tensors]
    if odd:
        raise ParamsError(
            f"precision of task {task!r}: tensor {odd[0]!r} is not in {weights_file(adapter)}. Names must be those of that file: "
            "previa.io.adapter_folder.saved_names takes PEFT's adapter name out of those of a live model."
        )
