"""One pass over checkpoints, in which the merged models of all weightings are written side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import BinaryIO, final

import torch
from torch import Tensor

from previa.core.merge import ROUNDING as EXACT
from previa.core.merge import as_alphas
from previa.errors import AlphaError, InputError, NotFiniteError, PrecisionError
from previa.io._safetensors import CODES, Specs, aligned, as_bytes, header_bytes, written_beside
from previa.io.inputs import Inputs, check_dtype, matched, open_tasks
from previa.io.pickled import Stored
from previa.io.pieces import Averages, Members, Posteriors, Row, common, pieces, rounded
from previa.io.posterior_file import PosteriorFile
from previa.io.precisions import check_precisions, open_precisions
from previa.io.shards import Shard
from previa.io.workers import side_by_side

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
    posteriors = {} if sources.precisions is None else open_precisions(sources.precisions, tasks)
    covered = set(next(iter(posteriors.values())).layout.places) if posteriors else None
    inputs = matched(tasks, base, sources.keep, covered)
    check_precisions(posteriors, inputs)
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
        with ExitStack() as stack:
            files = [stack.enter_context(written_beside(files[number])) for files in outs]
            side_by_side(partial(_write_piece, merging), _pieces(merging, shard, files))


@final
@dataclass(frozen=True)
class _Place:
    """A file that grows in several places."""

    file: BinaryIO
    start: int  # of the tensors' bytes
    lock: AbstractContextManager[bool]

    def write(self, offset: int, value: Tensor) -> None:
        with self.lock:
            self.file.seek(self.start + offset)
            self.file.write(as_bytes(value))


@final
@dataclass(frozen=True)
class _Piece:
    """Entries of one tensor, and where they go: the same bytes of every weighting's file."""

    name: str
    dtype: torch.dtype
    entries: slice
    offset: int
    places: Sequence[_Place]


def _pieces(merging: Merging, shard: Shard, files: Sequence[BinaryIO]) -> Iterator[_Piece]:
    """The pieces of all tensors of a shard, after the files' headers."""
    order, places = aligned(shard.specs), []
    for row, file in enumerate(files):
        metadata = {"format": "pt", "previa.merge": json.dumps(merging.record(row))}
        header = header_bytes(shard.specs, order, metadata)
        file.write(header)
        places.append(_Place(file, len(header), Lock()))
    offset = 0
    for name in order:
        dtype, shape = shard.specs[name]
        for entries in pieces(math.prod(shape), len(files)):
            yield _Piece(name, dtype, entries, offset, places)
            offset += (entries.stop - entries.start) * dtype.itemsize


def _write_piece(merging: Merging, piece: _Piece) -> None:
    if piece.name not in merging.parameters:
        value = rounded(common(merging.inputs, piece.name, piece.entries), piece.dtype, piece.name)
        for place in piece.places:
            place.write(piece.offset, value)
        return
    modes = merging.members.modes(piece.name, piece.entries)
    for place, exact in zip(piece.places, modes, strict=True):
        try:
            value = rounded(exact, piece.dtype, piece.name)
        except NotFiniteError:
            merging.members.blame(piece.name, piece.entries)
            raise
        place.write(piece.offset, value)


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
