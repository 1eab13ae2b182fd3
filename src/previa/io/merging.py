"""One pass over checkpoints, in which the merged models of all weightings are written side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from previa.core.merge import ROUNDING as EXACT
from previa.core.merge import as_alphas
from previa.core.params import Layout
from previa.errors import AlphaError, InputError, NotFiniteError, PrecisionError
from previa.io._safetensors import CODES, Specs, aligned, as_bytes, header_bytes, written_beside
from previa.io.inputs import Inputs, check_dtype, matched, open_tasks
from previa.io.pickled import Stored
from previa.io.pieces import Averages, Members, Posteriors, Row, common, pieces, rounded
from previa.io.posterior_file import PosteriorFile, open_posterior
from previa.io.provenance import check_conventions
from previa.io.shards import Shard

# of 1 - sum(alpha): weights often come as text of a few digits, and without a prior no gamma is meant; with one it is what is left
ROUNDING = 1e-5

Paths = Mapping[str, str | Path]


@final
@dataclass(frozen=True)
class Sources:
    """The files that are merged. precisions: posterior files of all tasks, or None; prior_precision: around the base."""

    base: str | Path | None
    tasks: Paths
    precisions: Paths | None = None
    prior_precision: float | None = None
    keep: Sequence[str] = ()
    allow_pickle: bool = False


@final
@dataclass(frozen=True)
class Merging:
    """Open inputs and the sums to make of them, everything checked that can be checked before a tensor is read."""

    inputs: Inputs
    members: Members
    alphas: tuple[Row, ...]  # [A, T], those near one in sum made to sum to one
    gammas: Row  # [A]
    parameters: frozenset[str]  # names of the tensors that are merged; the others are common to all tasks
    specs: Specs  # dtype and shape of every tensor of the result

    def record(self, row: int) -> dict[str, object]:
        """What was merged, for the header of the file."""
        return {
            "alpha": dict(zip(self.inputs.tasks, self.alphas[row], strict=True)),
            "gamma": self.gammas[row],
        }


def prepare(sources: Sources, alphas: Sequence[Sequence[float]], dtype: torch.dtype | None) -> Merging:
    """Open and check everything. Raises as merge_checkpoints."""
    tasks, base = open_tasks(
        sources.base, sources.tasks, finite=False, allow_pickle=sources.allow_pickle
    )  # NaN shows in the sums
    check_dtype(dtype)
    rows, gammas = _weights(alphas, sources, base is not None)
    posteriors = {} if sources.precisions is None else _open_posteriors(sources.precisions, tasks)
    covered = set(next(iter(posteriors.values())).layout.places) if posteriors else None
    inputs = matched(tasks, base, sources.keep, covered)
    _check_precisions(posteriors, inputs)
    model = inputs.model
    merged = [name for name in inputs.names if covered is None or inputs.source(name) in covered]
    return Merging(
        inputs,
        _members(inputs, posteriors, rows, gammas, sources.prior_precision),
        rows,
        gammas,
        frozenset(name for name in merged if model.dtype_of(name).is_floating_point),
        {name: (_written(model, name, dtype), model.shape_of(name)) for name in inputs.names},
    )


def write_merged(merging: Merging, shards: Sequence[Shard], outs: Sequence[Sequence[Path]]) -> None:
    """Write the shards of every weighting, outs [A][shards], reading every tensor of the inputs once.

    Raises FileError, NotFiniteError, ParamsError, PrecisionError; a file appears only when it is whole.
    """
    for number, shard in enumerate(shards):
        order = aligned(shard.specs)
        with ExitStack() as stack:
            files = [stack.enter_context(written_beside(files[number])) for files in outs]
            for row, file in enumerate(files):
                metadata = {"format": "pt", "previa.merge": json.dumps(merging.record(row))}
                file.write(header_bytes(shard.specs, order, metadata))
            for name in order:
                dtype, shape = shard.specs[name]
                for piece in pieces(math.prod(shape), len(files)):
                    if name not in merging.parameters:
                        value = as_bytes(rounded(common(merging.inputs, name, piece), dtype, name))
                        for file in files:
                            file.write(value)
                        continue
                    for file, exact in zip(files, merging.members.modes(name, piece), strict=True):
                        try:
                            file.write(as_bytes(rounded(exact, dtype, name)))
                        except NotFiniteError:
                            merging.members.blame(name, piece)
                            raise


def _weights(
    alphas: Sequence[Sequence[float]], sources: Sources, has_base: bool
) -> tuple[tuple[Row, ...], Row]:
    """alphas [A, T] and the prior's weights gamma [A]. Raises AlphaError, InputError where the prior is not known."""
    weights = as_alphas(alphas, len(sources.tasks))
    if weights.dim() != 2:
        raise AlphaError(
            f"merge: alphas have shape {tuple(weights.shape)}; expected rows of one weight for each of {list(sources.tasks)}."
        )
    totals = weights.sum(-1, keepdim=True)
    prior_is_known = has_base and (sources.precisions is None or sources.prior_precision is not None)
    near = (1 - totals).abs() <= (EXACT if prior_is_known else ROUNDING)
    weights = torch.where(near, weights / totals, weights)
    gammas = torch.where(near, 0.0, 1 - totals).flatten().tolist()
    for gamma in gammas:
        _check_gamma(gamma, has_base, sources.precisions is not None, sources.prior_precision)
    return tuple(map(tuple, weights.tolist())), tuple(gammas)


def _check_gamma(gamma: float, has_base: bool, has_precisions: bool, prior_precision: float | None) -> None:
    """Raise AlphaError, InputError or PrecisionError where the prior of weight gamma is not known, or none."""
    if not has_base and gamma:
        raise AlphaError(
            f"alpha sums to {1 - gamma:g}; without a base model it must sum to 1. Divide the weights by their sum, or give the "
            "base model that the tasks were finetuned from."
        )
    if not has_base and prior_precision is not None:
        raise InputError(
            "prior_precision is the precision around the base model, and none was given. Give the base."
        )
    if has_precisions and gamma and prior_precision is None:
        raise InputError(
            f"alpha sums to {1 - gamma:g}, so the base model counts with gamma = {gamma:g}, but its precision is not known. "
            "Give prior_precision, in the scale of the tasks' precisions, or weights that sum to 1."
        )
    p = 1.0 if prior_precision is None else prior_precision
    if not (math.isfinite(p) and p > 0):
        raise PrecisionError(
            f"the base model: the prior's precision is {p:g}, but it must be finite and above zero."
        )
    if not has_precisions and 1 - gamma + gamma * p <= 0:
        raise PrecisionError(
            f"merge: with sum(alpha) = {1 - gamma:g} the prior has the negative weight gamma = {gamma:g}, and with precision {p:g} "
            "no merged posterior is left. Lower alpha or the prior's precision."
        )


def _members(
    inputs: Inputs, files: Mapping[str, PosteriorFile], rows: tuple[Row, ...], gammas: Row, p: float | None
) -> Members:
    if files:
        return Posteriors(inputs, files, rows, p if any(gammas) else None)
    if not any(gammas):
        return Averages(inputs, rows)
    # precisions are 1 of every task and p of the prior: mode = (sum_t alpha_t theta_t + gamma p theta_0) / (sum_t alpha_t + gamma p)
    weights = [(*row, gamma * (1.0 if p is None else p)) for row, gamma in zip(rows, gammas, strict=True)]
    return Averages(
        inputs, tuple(tuple(w / sum(row) for w in row) if sum(row) != 1 else row for row in weights)
    )


def _written(model: Stored, name: str, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype asked for, or that of the base, or of the first task."""
    found = model.dtype_of(name)
    target = dtype if dtype is not None and found.is_floating_point else found
    if target not in CODES:
        raise InputError(
            f"merge: tensor {name!r} is {target}; expected one of {', '.join(map(str, CODES))}. Convert it first."
        )
    return target


def _open_posteriors(precisions: Paths, tasks: Mapping[str, Stored]) -> dict[str, PosteriorFile]:
    """Every task's posterior file. Raises InputError where tasks, conventions or families differ."""
    if set(precisions) != set(tasks):
        odd = sorted(set(precisions) ^ set(tasks))
        raise InputError(
            f"precisions are given for {sorted(precisions)}, but the tasks are {sorted(tasks)}; {odd[0]!r} has no "
            "partner. Give one posterior file for each task."
        )
    opened = {task: open_posterior(precisions[task]) for task in tasks}
    check_conventions({task: each.provenance for task, each in opened.items()})
    first, one = next(iter(opened.items()))
    for task, each in opened.items():
        if each.provenance.family != one.provenance.family:
            raise InputError(
                f"task {task!r}: its posterior is {each.provenance.family}, but that of {first!r} is "
                f"{one.provenance.family}. Make all of one family."
            )
    return opened


def _check_precisions(posteriors: Mapping[str, PosteriorFile], inputs: Inputs) -> None:
    """Raise ParamsError where names or shapes of precisions differ from each other or from the checkpoints, but for what is kept."""
    shapes = {
        task: [item for item in each.layout.shapes if item[0] not in inputs.kept]
        for task, each in posteriors.items()
    }
    for task, found in shapes.items():
        where, first = f"precision of task {task!r}", next(iter(shapes))
        _check_layout(Layout(tuple(found)), Layout(tuple(shapes[first])), where, f"those of task {first!r}")
        names = dict(found)
        same = [item for item in inputs.tasks[task].layout.shapes if item[0] in names]
        _check_layout(Layout(tuple(found)), Layout(tuple(same)), where, "those of its checkpoint")


def _check_layout(found: Layout, expected: Layout, where: str, other: str) -> None:
    """Raise ParamsError naming the tensor and both shapes; tensors without data stand for the files'."""
    expected.check({name: torch.empty(shape, device="meta") for name, shape in found.shapes}, where, other)
