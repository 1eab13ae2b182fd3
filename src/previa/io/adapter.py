"""Merge PEFT LoRA folders: the factors averaged (the paper), or the updates B A summed exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import torch

from previa.core.merge import ROUNDING, as_alphas
from previa.io.adapter_calls import check_averages, check_call
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
from previa.io.merging import Merging, Sources, prepare, write_merged
from previa.io.shards import Shard
from previa.io.tokens import check_tokens
from previa.io.weightings import ROUNDING as TEXT
from previa.io.weightings import Anchor, Weightings, weightings

RECORD = "previa.json"


@final
@dataclass(frozen=True)
class MergedAdapter:
    """What was written to one folder, and what is known of it; the same is in its previa.json."""

    out: Path
    alpha: Mapping[str, float]
    gamma: float  # 1 - sum(alpha), the weight of the base
    p: float  # the tasks' weights are alpha^p, normalised
    anchors: tuple[Mapping[str, object], ...]
    """{"alpha": what it was trained at, "from": its path, "weight": how much what is missed there counts here} of each"""
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
    p: float = 1.0,
    anchors: Sequence[Anchor] = (),
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
    p: the tasks' weights are w ~ alpha^p, normalised. anchors: adapters of joint runs, Anchor(alpha, folder), that the merge goes
    through, as merge_checkpoints has them; they must fit the tasks' as these fit each other, and with ``product`` their ranks
    add up, too.
    Tokenizer files are those of the base, or of the first task that has them.
    Raises FileError, AlphaError, ParamsError, NotFiniteError, PrecisionError, InputError; folders appear only when whole.
    """
    check_call(tasks, alphas, outs, precisions, product, rank)
    adapters = {task: open_adapter(path) for task, path in tasks.items()}
    joint = {anchor.name: open_adapter(anchor.path) for anchor in anchors}
    start = None if base is None else open_adapter(base)
    everyone = {f"task {task!r}": adapter for task, adapter in adapters.items()} | joint
    if start is not None:
        everyone = {"the base adapter": start, **everyone}
    check_settings(everyone)
    check_tokens({where: adapter.path for where, adapter in everyone.items()})
    if product:
        weights = _signed(alphas, list(tasks), p, anchors)
        check_products(everyone)
        dense = whole_tensors(adapters, start, weights.alphas, dtype, p=p, anchors=_files(anchors, joint))
        merging: Merging | Products = Products(adapters | joint, weights.runs, start, rank, dtype, dense)
        initialisation = None
    else:
        rows = tuple(map(tuple, as_alphas(alphas, len(tasks)).view(-1, len(tasks)).tolist()))
        check_same_factors(everyone)
        initialisation = common_initialisation(everyone)
        check_averages(adapters, start, rows, initialisation, precisions, prior_precision)
        weights_of = {task: weights_file(adapter) for task, adapter in adapters.items()}
        sources = Sources(
            start and weights_file(start),
            weights_of,
            precisions,
            prior_precision,
            p=p,
            anchors=_files(anchors, joint),
        )
        merging = prepare(sources, rows, dtype)
        weights = replace(merging.weights, anchors=tuple(anchors))  # by their folders
        merging = replace(merging, weights=weights)
    carried = Carried(None, find_carried([adapter.path for adapter in everyone.values()]).tokenizer)
    with ExitStack() as stack:
        folders = [stack.enter_context(folder_beside(Path(out))) for out in outs]
        files = [folder / WEIGHTS for folder in folders]
        found = []
        if isinstance(merging, Products):
            headers = [json.dumps(weights.record(row)) for row in range(len(outs))]
            write_products(merging, files, [{"previa.merge": header} for header in headers])
        else:
            write_merged(merging, [Shard(WEIGHTS, merging.specs)], [[file] for file in files])
        for row, (folder, out) in enumerate(zip(folders, outs, strict=True)):
            merged = _record(merging, weights, next(iter(everyone.values())), row, Path(out), initialisation)
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


def _signed(
    alphas: Sequence[Sequence[float]], tasks: Sequence[str], p: float, anchors: Sequence[Anchor]
) -> Weightings:
    """Weights of products: of either sign where they are neither warped nor anchored. Raises as weightings."""
    if p != 1 or anchors:
        return weightings(alphas, tasks, near=TEXT if anchors else ROUNDING, p=p, anchors=anchors)
    weights = torch.as_tensor(alphas, dtype=torch.float64)
    as_alphas(weights.abs(), len(tasks))  # wrong number, not finite, or all zero
    rows = tuple(map(tuple, weights.view(-1, len(tasks)).tolist()))
    gammas = (1 - math.fsum(row) for row in rows)
    none = tuple(() for _ in rows)
    gamma = tuple(gamma if abs(gamma) > ROUNDING else 0.0 for gamma in gammas)
    return Weightings(tuple(tasks), (), rows, gamma, 1.0, rows, (), none, rows)


def _files(anchors: Sequence[Anchor], joint: Mapping[str, Adapter]) -> list[Anchor]:
    """The anchors by their weights' files."""
    return [Anchor(anchor.alpha, weights_file(joint[anchor.name])) for anchor in anchors]


def _record(
    merging: Merging | Products,
    weights: Weightings,
    model: Adapter,
    row: int,
    out: Path,
    initialisation: Initialisation | None,
) -> MergedAdapter:
    """What is known of a row once it has been written."""
    known = (out, weights.alpha(row), weights.gammas[row], weights.p, weights.anchors_at(row), initialisation)
    if not isinstance(merging, Products):
        return MergedAdapter(*known, max(model.rank(module) for module in model.pairs), None, None)
    rank = max(merging.ranks(row).values())
    cut = {module: norms for (at, module), norms in merging.lost.items() if at == row}
    if not cut:
        return MergedAdapter(*known, rank, None, None)
    errors = {module: _relative(*norms) for module, norms in cut.items()}
    worst = max(errors, key=lambda module: errors[module])
    error = _relative(*(sum(norms) for norms in zip(*cut.values(), strict=True)))
    return MergedAdapter(*known, rank, error, (worst, errors[worst]))


def _relative(lost: float, whole: float) -> float:
    return math.sqrt(lost / whole) if whole else 0.0


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    """In order: the first of several patterns that match counts."""
    file.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
