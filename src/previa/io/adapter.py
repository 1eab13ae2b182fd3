"""Merge PEFT LoRA folders: the factors averaged (the paper), or the updates B A summed exactly."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from previa.core.merge import as_alphas
from previa.errors import AlphaError, InputError, ParamsError
from previa.io.adapter_folder import Adapter, open_adapter, settings_key
from previa.io.adapter_match import (
    KNOWN_OR_NOT,
    Initialisation,
    check_products,
    check_same_factors,
    check_settings,
    common_initialisation,
)
from previa.io.adapter_rows import Averages, Products
from previa.io.adapter_write import folder_beside, write_json, write_weights
from previa.io.posterior_file import PosteriorFile, open_posterior
from previa.io.provenance import check_conventions

ROUNDING = 1e-5  # relative to sum(alpha) = 1: weights often come as text of a few digits
TARGETS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


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
    Raises FileError, AlphaError, ParamsError, NotFiniteError, PrecisionError, InputError; folders appear only when whole.
    """
    _check_call(tasks, alphas, outs, precisions, product, rank)
    weights = (_signed if product else as_alphas)(alphas, len(tasks)).view(-1, len(tasks))
    rows = [tuple(row) for row in weights.tolist()]
    gammas = [gamma if abs(gamma) > ROUNDING else 0.0 for gamma in (1 - weights.sum(-1)).tolist()]
    adapters = {task: open_adapter(path) for task, path in tasks.items()}
    start = None if base is None else open_adapter(base)
    everyone = {f"task {task!r}": adapter for task, adapter in adapters.items()}
    if start is not None:
        everyone["the base adapter"] = start
    check_settings(everyone)
    initialisation = None
    if product:
        check_products(everyone)
    else:
        check_same_factors(everyone)
        initialisation = common_initialisation(everyone)
        _check_average(initialisation, gammas, start, precisions, prior_precision)
    averages = Averages(
        adapters,
        rows,
        gammas,
        start,
        {} if precisions is None else _open_posteriors(precisions, adapters),
        1.0 if prior_precision is None else prior_precision,
        dtype,
    )
    products = Products(averages, rank) if product else None
    records: list[dict[str, Any]] = [
        {"alpha": dict(zip(tasks, row, strict=True)), "gamma": gamma, "initialisation": initialisation}
        for row, gamma in zip(rows, gammas, strict=True)
    ]
    found = []
    with ExitStack() as stack:
        folders = [stack.enter_context(folder_beside(Path(out))) for out in outs]
        headers = [{"previa.merge": json.dumps({k: r[k] for k in ("alpha", "gamma")})} for r in records]
        write_weights(folders, products or averages, headers)
        for row, (folder, out) in enumerate(zip(folders, outs, strict=True)):
            config = _config(adapters)
            if products is not None:
                config |= _product_config(products, row)
            merged = MergedAdapter(Path(out), **records[row], **_ranks(products, averages, row))
            write_json(folder / "adapter_config.json", config)
            write_json(folder / "previa.json", asdict(merged) | {"out": Path(out).name, "product": product})
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


def _check_average(
    initialisation: Initialisation,
    gammas: Sequence[float],
    base: Adapter | None,
    precisions: Mapping[str, str | Path] | None,
    prior_precision: float | None,
) -> None:
    """Raise InputError or AlphaError where factors should not be averaged, or the prior is not known."""
    if initialisation.verdict == "unlikely":
        raise InputError(
            f"{initialisation.sentence}. Averages of A and of B mean something only if all adapters started from one A: B A is "
            "the same for B R and R^-1 A. Merge the products B A instead (product=True, --product), or train again from one "
            "adapter folder, saved before the first step."
        )
    gamma = max(gammas, key=abs)
    if gamma and base is None:
        raise AlphaError(
            f"alpha sums to {1 - gamma:g}; without a base it must sum to 1. Divide the weights by their sum, give the adapter "
            "that training started from as base, or merge the products B A (product=True, --product), which are zero there."
        )
    if gamma and precisions is not None and prior_precision is None:
        raise InputError(
            f"alpha sums to {1 - gamma:g}, so the base counts with gamma = {gamma:g}, but its precision is not known. Give "
            "prior_precision, in the scale of the tasks' precisions, or weights that sum to 1."
        )
    if prior_precision is not None and (base is None or precisions is None):
        raise InputError(
            "prior_precision is that of the prior at the base, beside the tasks' precisions. Give base and precisions too."
        )


def _open_posteriors(
    precisions: Mapping[str, str | Path], adapters: Mapping[str, Adapter]
) -> dict[str, PosteriorFile]:
    """Every task's posterior file. Raises InputError, ParamsError where tasks, conventions, names or shapes differ."""
    if set(precisions) != set(adapters):
        odd = sorted(set(precisions) ^ set(adapters))
        raise InputError(
            f"precisions are given for {sorted(precisions)}, but the tasks are {sorted(adapters)}; {odd[0]!r} has no partner. "
            "Give one posterior file for each task."
        )
    opened = {task: open_posterior(precisions[task]) for task in adapters}
    check_conventions({task: each.provenance for task, each in opened.items()})
    first, one = next(iter(opened.items()))
    for task, each in opened.items():
        if each.provenance.family != one.provenance.family:
            raise InputError(
                f"task {task!r}: its posterior is {each.provenance.family}, but that of {first!r} is {one.provenance.family}. "
                "Make all of one family."
            )
        for name, shape in (*each.layout.shapes, *one.layout.shapes):
            tensors = adapters[task].tensors
            if name not in tensors or tensors.shape_of(name) != shape or name not in each.layout.places:
                raise ParamsError(
                    f"precision of task {task!r}: tensor {name!r} {shape} is not in both the posterior and the adapter, as in the "
                    "other tasks' files. Names must be those of adapter_model.safetensors: previa.io.adapter_folder.saved_names "
                    "takes PEFT's adapter name out of those of a live model."
                )
    return opened


def _config(adapters: Mapping[str, Adapter]) -> dict[str, Any]:
    """The first task's settings, with what only another task's PEFT was told."""
    configs = [dict(adapter.config) for adapter in adapters.values()]
    told = {key: next((c[key] for c in configs if c.get(key)), None) for key in sorted(KNOWN_OR_NOT)}
    return {**configs[0], **told, "inference_mode": True}


def _product_config(products: Products, row: int) -> dict[str, Any]:
    """Ranks, a scaling of 1 for each, and the modules: what a sum of products changes in the settings."""
    ranks = products.ranks(row)
    most, _ = Counter(ranks.values()).most_common(1)[0]
    other = [settings_key(module) for module, rank in ranks.items() if rank != most]
    # PEFT takes the first pattern that a module's name ends with: longer names come first, and what would end with a
    # shorter one is named too.
    pattern = {
        key: rank
        for key, rank in sorted(
            ((settings_key(m), r) for m, r in ranks.items()), key=lambda pair: -len(pair[0])
        )
        if any(key == name or key.endswith(f".{name}") for name in other)
    }
    same = next((a.config for a in products.dense.tasks.values() if set(a.pairs) == set(ranks)), None)
    targets = dict.fromkeys(TARGETS) | {"target_modules": sorted({settings_key(m) for m in ranks})}
    if same is not None:
        targets = {key: same.get(key) for key in TARGETS}
    return (
        targets
        | {
            "r": most,
            "lora_alpha": most,
            "use_rslora": False,
            "rank_pattern": pattern,
            "alpha_pattern": pattern,
            "init_lora_weights": True,  # what loading overwrites anyway; others may change the base weights by the rank
            "eva_config": None,
        }
    )


def _ranks(products: Products | None, averages: Averages, row: int) -> dict[str, Any]:
    """rank, error and worst of MergedAdapter, once all modules have been written."""
    if products is None:
        model = averages.model
        return {"rank": max(model.rank(module) for module in model.pairs), "error": None, "worst": None}
    rank = max(products.ranks(row).values())
    cut = {module: norms for (at, module), norms in products.lost.items() if at == row}
    if not cut:
        return {"rank": rank, "error": None, "worst": None}
    errors = {module: math.sqrt(lost / whole) if whole else 0.0 for module, (lost, whole) in cut.items()}
    worst = max(errors, key=lambda module: errors[module])
    lost, whole = (sum(norms) for norms in zip(*cut.values(), strict=True))
    return {"rank": rank, "error": math.sqrt(lost / whole) if whole else 0.0, "worst": (worst, errors[worst])}
