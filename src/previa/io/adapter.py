"""Merge PEFT LoRA folders: the factors averaged (the paper), or the updates B A summed exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from previa.core.merge import ROUNDING, as_alphas
from previa.errors import AlphaError, InputError, ParamsError
from previa.io.adapter_folder import CONFIG, WEIGHTS, Adapter, open_adapter, weights_file
from previa.io.adapter_match import (
    Initialisation,
    check_products,
    check_same_factors,
    check_settings,
    common_initialisation,
)
from previa.io.adapter_product import Products, whole_tensors, write_products
from previa.io.adapter_settings import average_settings, product_settings
from previa.io.carry import Carried, carry, find_carried
from previa.io.folder import folder_beside
from previa.io.merging import ROUNDING as TEXT
from previa.io.merging import Merging, Sources, prepare, write_merged
from previa.io.posterior_file import open_posterior
from previa.io.shards import Shard
from previa.io.tokens import check_tokens

RECORD = "previa.json"


@final
@dataclass(frozen=True)
class MergedAdapter:
    """What was written to one folder, and what is known of it; the same is in its previa.json."""

    out: Path
    alpha: Mapping[str, float]
    gamma: float  # 1 - sum(alpha), the weight of the base
    initialisation: Initialisation | None  # of averages; sums of products need no common one
    rank: int  # the largest of a module's
    error: float | None
    """of a sum cut to a rank: |kept - exact| / |exact|, Frobenius norms over all modules; else None"""
    worst: tuple[str, float] | None
    """the module with the largest such error of its own"""


def merge_adapters(
    tasks: Mapping[str, str | Path],
    alphas: Sequence[Sequence[float]],
    outs: Sequence[str | Path],
    *,
    base: str | Path | None = None,
    precisions: Mapping[str, str | Path] | None = None,
    prior_precision: float | None = None,
    product: bool = False,
    rank: int | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[MergedAdapter, ...]:
    """Write one adapter folder for each weighting: the mode of p0^gamma * prod_t q_t^alpha_t, gamma = 1 - sum(alpha) (eq. 5).

    tasks: name -> LoRA folder. alphas: [A, T], in the order of tasks. outs: [A], folders that do not exist yet.
    By default q_t = N((A_t, B_t), I): A and B are averaged (eq. 2), or, with ``base``, an adapter folder of the common
    initialisation, as in task arithmetic (eq. 3). precisions: name -> posterior file, with the names of the adapters' tensors,
    for Hessian-weighted averages (eq. 10); prior_precision: that of N(base, I/prior_precision), where alpha does not sum to 1.
    Averaging factors needs one initialisation, rank and scaling of all tasks: an unlikely one is an error.
    product: q_t = N(s_t B_t A_t, I) in the space of weights instead: updates are summed exactly, sum_t alpha_t s_t B_t A_t, by
    concatenated factors. Ranks add up, weights may be negative and need not sum to one. rank: cut the sum to this rank at most.
    Heads, biases and embeddings that adapters store whole are averaged either way.
    dtype: of floating-point tensors; by default the base's, else the first task's. Sums are in float64, rounded once.
    Tokenizer files are those of the base, or of the first task that has them.
    Raises FileError, AlphaError, ParamsError, NotFiniteError, PrecisionError, InputError; folders appear only when whole.
    """
    _check_call(tasks, alphas, outs, precisions, product, rank)
    weights = (_signed if product else as_alphas)(alphas, len(tasks)).view(-1, len(tasks))
    rows = tuple(map(tuple, weights.tolist()))
    adapters = {task: open_adapter(path) for task, path in tasks.items()}
    start = None if base is None else open_adapter(base)
    everyone = {f"task {task!r}": adapter for task, adapter in adapters.items()}
    if start is not None:
        everyone = {"the base adapter": start, **everyone}
    check_settings(everyone)
    check_tokens({where: adapter.path for where, adapter in everyone.items()})
    if product:
        check_products(everyone)
        dense = whole_tensors(adapters, start, rows, dtype)
        merging: Merging | Products = Products(adapters, rows, start, rank, dtype, dense)
        initialisation = None
    else:
        check_same_factors(everyone)
        initialisation = common_initialisation(everyone)
        merging = _averages(adapters, start, rows, initialisation, (precisions, prior_precision), dtype)
    carried = Carried(None, find_carried([adapter.path for adapter in everyone.values()]).tokenizer)
    with ExitStack() as stack:
        folders = [stack.enter_context(folder_beside(Path(out))) for out in outs]
        files = [folder / WEIGHTS for folder in folders]
        found = []
        if isinstance(merging, Products):
            headers = [json.dumps({"alpha": dict(zip(tasks, row, strict=True))}) for row in rows]
            write_products(merging, files, [{"previa.merge": header} for header in headers])
        else:
            write_merged(merging, [Shard(WEIGHTS, merging.specs)], [[file] for file in files])
        for row, (folder, out) in enumerate(zip(folders, outs, strict=True)):
            merged = _record(merging, everyone, row, Path(out), initialisation)
            settings = (
                product_settings(merging, row)
                if isinstance(merging, Products)
                else average_settings(adapters)
            )
            _write_json(folder / CONFIG, settings)
            _write_json(
                folder / RECORD,
                asdict(merged) | {"out": Path(out).name, "product": product, "previa": version("previa")},
            )
            carry(carried, folder, {})
            found.append(merged)
    return tuple(found)


def _check_call(
    tasks: Mapping[str, str | Path],
    alphas: Sequence[Sequence[float]],
    outs: Sequence[str | Path],
    precisions: Mapping[str, str | Path] | None,
    product: bool,
    rank: int | None,
) -> None:
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


def _signed(alphas: Sequence[Sequence[float]], T: int) -> Tensor:
    """Weights of either sign, float64 [A, T]. Raises AlphaError: wrong number, not finite, or all zero."""
    weights = torch.as_tensor(alphas, dtype=torch.float64)
    as_alphas(weights.abs(), T)
    return weights


def _averages(
    adapters: Mapping[str, Adapter],
    base: Adapter | None,
    rows: Sequence[Sequence[float]],
    initialisation: Initialisation,
    precise: tuple[Mapping[str, str | Path] | None, float | None],
    dtype: torch.dtype | None,
) -> Merging:
    """Factors merged as any checkpoint's tensors. Raises InputError, AlphaError where they should not be, and as prepare."""
    if initialisation.verdict == "unlikely":
        raise InputError(
            f"{initialisation.sentence}. Averages of A and of B mean something only near one common A: B A is the same for B R "
            "and R^-1 A. Either the adapters started from two, or training has left nothing of a common one. Merge the products "
            "B A instead (product=True, --product), or train again, from one adapter folder saved before the first step."
        )
    odd = next((sum(row) for row in rows if abs(1 - sum(row)) > TEXT), None)
    if odd is not None and base is None:
        raise AlphaError(
            f"alpha sums to {odd:g}; without a base it must sum to 1. Divide the weights by their sum, give the adapter that "
            "training started from as base, or merge the products B A (product=True, --product), which are zero there."
        )
    precisions, prior_precision = precise
    if prior_precision is not None and (base is None or precisions is None):
        raise InputError(
            "prior_precision is that of the prior at the base, beside the tasks' precisions. Give base and precisions too."
        )
    for task in set(precisions or ()) & set(adapters):
        _check_names(task, (precisions or {})[task], adapters[task])
    files = {task: weights_file(adapter) for task, adapter in adapters.items()}
    sources = Sources(None if base is None else weights_file(base), files, precisions, prior_precision)
    return prepare(sources, rows, dtype)


def _check_names(task: str, file: str | Path, adapter: Adapter) -> None:
    odd = [name for name in open_posterior(file).layout.places if name not in adapter.tensors]
    if odd:
        raise ParamsError(
            f"precision of task {task!r}: tensor {odd[0]!r} is not in {weights_file(adapter)}. Names must be those of that file: "
            "previa.io.adapter_folder.saved_names takes PEFT's adapter name out of those of a live model."
        )


def _record(
    merging: Merging | Products,
    adapters: Mapping[str, Adapter],
    row: int,
    out: Path,
    initialisation: Initialisation | None,
) -> MergedAdapter:
    """What is known of a row once it has been written."""
    if not isinstance(merging, Products):
        alpha = dict(zip(merging.inputs.tasks, merging.alphas[row], strict=True))
        model = next(iter(adapters.values()))
        rank = max(model.rank(module) for module in model.pairs)
        return MergedAdapter(out, alpha, merging.gammas[row], initialisation, rank, None, None)
    alpha = dict(zip(merging.tasks, merging.alphas[row], strict=True))
    gamma, rank = 1 - math.fsum(alpha.values()), max(merging.ranks(row).values())
    gamma = gamma if abs(gamma) > ROUNDING else 0.0
    cut = {module: norms for (at, module), norms in merging.lost.items() if at == row}
    if not cut:
        return MergedAdapter(out, alpha, gamma, None, rank, None, None)
    errors = {module: _relative(*norms) for module, norms in cut.items()}
    worst = max(errors, key=lambda module: errors[module])
    error = _relative(*(sum(norms) for norms in zip(*cut.values(), strict=True)))
    return MergedAdapter(out, alpha, gamma, None, rank, error, (worst, errors[worst]))


def _relative(lost: float, whole: float) -> float:
    return math.sqrt(lost / whole) if whole else 0.0


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    """In order: the first of several patterns that match counts."""
    file.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
