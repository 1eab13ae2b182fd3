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
from previa.errors import AlphaError, InputError, NotFiniteError, PrecisionError
from previa.io._safetensors import CODES, Specs, aligned, as_bytes, header_bytes, written_beside
from previa.io.inputs import BASE, Inputs, check_dtype, everyone, matched, open_anchors, open_tasks
from previa.io.pickled import Stored
from previa.io.pieces import Averages, Members, Posteriors, common, pieces, rounded
from previa.io.posterior_file import PosteriorFile
from previa.io.precisions import check_precisions, open_precisions
from previa.io.shards import Shard
from previa.io.weightings import ROUNDING, Anchor, Weightings, weightings
from previa.io.workers import side_by_side

Paths = Mapping[str, str | Path]


@final
@dataclass(frozen=True)
class Sources:
    """The files that are merged, and how.

    precisions: posterior files of all tasks, or None; prior_precision: around the base; p: the weights are alpha^p, normalised;
    anchors: joint runs that the merge goes through (see core.anchored).
    """

    base: str | Path | None
    tasks: Paths
    precisions: Paths | None = None
    prior_precision: float | None = None
    keep: Sequence[str] = ()
    allow_pickle: bool = False
    p: float = 1.0
    anchors: Sequence[Anchor] = ()


@final
@dataclass(frozen=True)
class Merging:
    """Open inputs and the sums to make of them, everything checked that can be checked before a tensor is read."""

    inputs: Inputs
    members: Members
    weights: Weightings
    parameters: frozenset[str]  # names of the tensors that are merged; the others are common to all tasks
    specs: Specs  # dtype and shape of every tensor of the result


def prepare(sources: Sources, alphas: Sequence[Sequence[float]], dtype: torch.dtype | None) -> Merging:
    """Open and check everything. Raises as merge_checkpoints."""
    tasks, base = open_tasks(
        sources.base, sources.tasks, finite=False, allow_pickle=sources.allow_pickle
    )  # NaN shows in the sums
    check_dtype(dtype)
    weights = _weights(alphas, sources, base is not None)
    anchors = open_anchors(sources.anchors, finite=False, allow_pickle=sources.allow_pickle)
    posteriors = {} if sources.precisions is None else open_precisions(sources.precisions, tasks)
    covered = set(next(iter(posteriors.values())).layout.places) if posteriors else None
    inputs = matched(tasks, base, sources.keep, covered, anchors)
    check_precisions(posteriors, inputs)
    model = inputs.model
    merged = [name for name in inputs.names if covered is None or inputs.source(name) in covered]
    return Merging(
        inputs,
        _members(inputs, posteriors, weights, sources.prior_precision),
        weights,
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
        metadata = {"format": "pt", "previa.merge": json.dumps(merging.weights.record(row))}
        header = header_bytes(shard.specs, order, metadata)
        file.write(header)
        places.append(_Place(file, len(header), Lock()))
    offset = 0
    for name in order:
        dtype, shape = shard.specs[name]
        for entries in pieces(math.prod(shape), len(files) + len(merging.inputs.anchors)):
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


def _weights(alphas: Sequence[Sequence[float]], sources: Sources, has_base: bool) -> Weightings:
    """Raises as weightings, and InputError where the prior is not known but counts."""
    prior_is_known = has_base and (sources.precisions is None or sources.prior_precision is not None)
    near = EXACT if prior_is_known and not sources.anchors else ROUNDING
    found = weightings(alphas, list(sources.tasks), near=near, p=sources.p, anchors=sources.anchors)
    for gamma in found.gammas:
        _check_gamma(gamma, has_base, sources.precisions is not None, sources.prior_precision)
    return found


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
    inputs: Inputs, files: Mapping[str, PosteriorFile], weights: Weightings, p: float | None
) -> Members:
    if files:
        return Posteriors(inputs, files, weights, p if any(weights.gammas) else None)
    tasks = everyone(inputs.tasks, None)
    if not any(weights.gammas):
        return Averages(inputs, tasks | dict(inputs.anchors), weights.runs)
    # precisions are 1 of every task and p of the prior: mode = (sum_t w_t theta_t + gamma p theta_0) / (sum_t w_t + gamma p)
    rows = [
        (*row, gamma * (1.0 if p is None else p))
        for row, gamma in zip(weights.warped, weights.gammas, strict=True)
    ]
    shares = tuple(tuple(w / sum(row) for w in row) if sum(row) != 1 else row for row in rows)
    assert inputs.base is not None  # where gamma counts
    return Averages(inputs, tasks | {BASE: inputs.base}, shares)


def _written(model: Stored, name: str, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype asked for, or that of the base, or of the first task."""
    found = model.dtype_of(name)
    target = dtype if dtype is not None and found.is_floating_point else found
    if target not in CODES:
        raise InputError(
            f"merge: tensor {name!r} is {target}; expected one of {', '.join(map(str, CODES))}. Convert it first."
        )
    return target
