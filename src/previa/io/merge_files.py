"""Merge checkpoints into one, a piece of a tensor at a time, so that models larger than memory can be merged."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from previa.core.diagonal import Diagonal
from previa.core.isotropic import Isotropic
from previa.core.merge import as_alphas, merge
from previa.core.params import Layout
from previa.errors import AlphaError, InputError, NotFiniteError, ParamsError, PrecisionError
from previa.io.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from previa.io.posterior_file import KEY, MEAN, PRECISION, PosteriorFile, open_posterior
from previa.io.provenance import check_conventions

# Entries merged at a time: 2 MB of each task in float64, which stay in the processor's cache; reads are long enough.
PIECE = 2**18
ROUNDING = 1e-5  # relative to sum(alpha) = 1: weights often come as text of a few digits

Gaussian = Isotropic | Diagonal


def merge_checkpoints(
    base: str | Path | None,
    tasks: Mapping[str, str | Path],
    alpha: Sequence[float],
    out: str | Path,
    *,
    precisions: Mapping[str, str | Path] | None = None,
    prior_precision: float | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the preview model at ``alpha``: the mode of p0^gamma * prod_t q_t^alpha_t, gamma = 1 - sum(alpha) (eq. 5).

    base: checkpoint of the pretrained model, mean of the prior, or None for a flat prior, where alpha must sum to one.
    tasks: name -> checkpoint (see open_checkpoint). alpha: [T], in the order of tasks.
    precisions: name -> posterior file of every task, for Hessian-weighted merging (eq. 10); None is simple averaging (eq. 2)
    or, with a base, task arithmetic (eq. 3).
    prior_precision: of N(base, I/prior_precision): 1 without precisions; needed with them where alpha does not sum to one.
    dtype: of floating-point tensors in ``out``; by default the base's, else the first task's. Sums are in float64, so that
    every entry of ``out`` is the exact one rounded once.
    Integers, booleans, and (with precisions) tensors without a precision must be equal in all tasks.
    Raises FileError, AlphaError, ParamsError, NotFiniteError, PrecisionError, InputError; ``out`` appears only when whole.
    """
    if not tasks:
        raise InputError("merge: no tasks were given; expected at least one checkpoint.")
    weights = as_alphas(alpha, len(tasks))
    if weights.dim() != 1:
        raise AlphaError(
            f"merge: alpha has shape {tuple(weights.shape)}; expected one weight for each of {list(tasks)}."
        )
    gamma = _gamma(float(weights.sum()), base is not None, precisions is not None, prior_precision)
    checkpoints = {task: open_checkpoint(path, finite=True) for task, path in tasks.items()}
    model = next(iter(checkpoints.values())) if base is None else open_checkpoint(base, finite=True)
    first = f"those of {'task ' + repr(next(iter(tasks))) if base is None else 'the base model'}"
    for task, checkpoint in checkpoints.items():
        _check_model(checkpoint, model, f"task {task!r}", first)
    posteriors = {} if precisions is None else _open_posteriors(precisions, checkpoints)
    prior = model if gamma else None
    parts = _Parts(checkpoints, posteriors, prior, 1.0 if prior_precision is None else prior_precision)
    covered = next(iter(posteriors.values())).layout.places if posteriors else model
    parameters = frozenset(name for name in covered if model.dtype_of(name).is_floating_point)
    merged = _Merged(parts, parameters, model, tuple(weights.tolist()), dtype)
    record = {"alpha": dict(zip(tasks, merged.alpha, strict=True)), "gamma": gamma}
    save_checkpoint(out, merged, {"previa.merge": json.dumps(record)})


@final
@dataclass(frozen=True)
class _Parts:
    """Open files, read a piece of one tensor at a time as the posterior of that piece."""

    checkpoints: Mapping[str, Checkpoint]
    posteriors: Mapping[str, PosteriorFile]  # none for simple averaging and task arithmetic
    base: Checkpoint | None  # the prior's mean, where the prior has weight
    prior_precision: float

    def posterior(self, task: str, name: str, piece: slice) -> Gaussian:
        """q_t of entries ``piece`` of one tensor: a posterior of one tensor is a posterior."""
        with _naming(f"task {task!r}"):
            theta = self.checkpoints[task].slice_of(name, piece.start, piece.stop)
            if not self.posteriors:
                return Isotropic({name: theta.double()})
            opened = self.posteriors[task]
            if opened.has_mean:
                mean = opened.file.slice_of(MEAN + name, piece.start, piece.stop)
                if not torch.equal(mean.to(theta.dtype), theta):
                    raise ParamsError(
                        f"tensor {name!r} is not the mean that {opened.file.path} holds. Was that posterior made from "
                        "another checkpoint?"
                    )
                theta = mean  # float32 where the checkpoint may be rounded
            if opened.precision is not None:
                return Isotropic({name: theta.double()}, opened.precision)
            h = opened.file.slice_of(PRECISION + name, piece.start, piece.stop)
            return Diagonal({name: theta.double()}, {name: h})

    def prior(self, name: str, piece: slice, like: Gaussian) -> Gaussian | None:
        """p0 of entries ``piece`` of one tensor, of the tasks' family; None is flat."""
        if self.base is None:
            return None
        with _naming("the base model"):
            theta = self.base.slice_of(name, piece.start, piece.stop)
            return type(like)({name: theta.double()}, self.prior_precision)

    def common(self, name: str, piece: slice) -> Tensor:
        """Entries ``piece`` of a tensor that is no parameter. Raises ParamsError unless it is equal in all tasks."""
        values = {}
        for task, checkpoint in self.checkpoints.items():
            with _naming(f"task {task!r}"):
                values[task] = checkpoint.slice_of(name, piece.start, piece.stop)
        first, *others = values
        for task in others:
            if not torch.equal(values[task], values[first]):
                why = "has no precision" if values[task].is_floating_point() else f"is {values[task].dtype}"
                raise ParamsError(
                    f"task {task!r}: tensor {name!r} {why} and so cannot be averaged, but it differs from that of task "
                    f"{first!r}; expected equal values. Store one of them in every task's checkpoint, and recalibrate "
                    "running statistics after the merge."
                )
        return values[first]


@final
@dataclass(frozen=True, eq=False)
class _Merged(Mapping[str, Tensor]):
    """The merged model: each tensor is made when it is asked for, a piece at a time, and not kept."""

    parts: _Parts
    parameters: frozenset[str]  # names of the tensors that are merged; the others are common to all tasks
    model: Checkpoint  # the base or the first task: names, shapes, dtypes
    alpha: tuple[float, ...]
    dtype: torch.dtype | None

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape in the base, or in the first task."""
        return self.model.shape_of(name)

    def dtype_of(self, name: str) -> torch.dtype:
        """The dtype asked for, or that of the base, or of the first task."""
        found = self.model.dtype_of(name)
        return self.dtype if self.dtype is not None and found.is_floating_point else found

    def __getitem__(self, name: str) -> Tensor:
        out = torch.empty(math.prod(self.shape_of(name)), dtype=self.dtype_of(name))
        value = self._mode if name in self.parameters else self.parts.common
        for start in range(0, len(out), PIECE):
            piece = slice(start, min(start + PIECE, len(out)))
            exact = value(name, piece)
            out[piece] = exact
            if exact.is_floating_point() and not bool(torch.isfinite(out[piece].double()).all()):
                raise NotFiniteError(
                    f"merged tensor {name!r}: {exact.abs().max().item():.3g} does not fit {out.dtype}. Ask for another "
                    "dtype, such as float32."
                )
        return out.reshape(self.shape_of(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.model)

    def __len__(self) -> int:
        return len(self.model)

    def _mode(self, name: str, piece: slice) -> Tensor:
        qs = [self.parts.posterior(task, name, piece) for task in self.parts.checkpoints]
        if sum(self.alpha) == 1 and 1 in self.alpha:
            return qs[self.alpha.index(1)].mode()[name]  # q^1 is q, without the rounding of (h theta) / h
        prior = self.parts.prior(name, piece, qs[0])
        with _naming(f"tensor {name!r}"):
            return merge(self.alpha, qs, prior).mode()[name]


def _gamma(total: float, has_base: bool, has_precisions: bool, prior_precision: float | None) -> float:
    """The prior's weight 1 - sum(alpha). Raises AlphaError and InputError where the prior it belongs to is not known."""
    gamma = 1 - total if abs(1 - total) > ROUNDING else 0.0
    if not has_base and gamma:
        raise AlphaError(
            f"alpha sums to {total:g}; without a base model it must sum to 1. Divide the weights by their sum, or give the "
            "base model that the tasks were finetuned from."
        )
    if not has_base and prior_precision is not None:
        raise InputError(
            "prior_precision is the precision around the base model, and none was given. Give the base."
        )
    if has_precisions and gamma and prior_precision is None:
        raise InputError(
            f"alpha sums to {total:g}, so the base model counts with gamma = {gamma:g}, but its precision is not known. "
            "Give prior_precision, in the scale of the tasks' precisions, or weights that sum to 1."
        )
    return gamma


def _check_layout(found: Layout, expected: Layout, where: str, other: str) -> None:
    """Raise ParamsError naming the tensor and both shapes; tensors without data stand for the files'."""
    expected.check({name: torch.empty(shape, device="meta") for name, shape in found.shapes}, where, other)


def _check_model(checkpoint: Checkpoint, model: Checkpoint, where: str, other: str) -> None:
    """Raise ParamsError where names, shapes or integer dtypes differ, InputError for a posterior; nothing is read."""
    if KEY in checkpoint.metadata:
        raise InputError(
            f"{where}: {checkpoint.path} is a posterior file, not a checkpoint. Give the checkpoint that it was made at, and "
            "this file as the task's precision."
        )
    _check_layout(checkpoint.layout, model.layout, where, other)
    for name in model:
        kinds = checkpoint.dtype_of(name), model.dtype_of(name)
        if kinds[0] != kinds[1] and not all(kind.is_floating_point for kind in kinds):
            raise ParamsError(
                f"{where}: tensor {name!r} is {kinds[0]}, but {other} are {kinds[1]}. Store one dtype."
            )


def _open_posteriors(
    precisions: Mapping[str, str | Path], checkpoints: Mapping[str, Checkpoint]
) -> dict[str, PosteriorFile]:
    """Every task's posterior file. Raises InputError, ParamsError where tasks, conventions, names or shapes differ."""
    if set(precisions) != set(checkpoints):
        odd = sorted(set(precisions) ^ set(checkpoints))
        raise InputError(
            f"precisions are given for {sorted(precisions)}, but the tasks are {sorted(checkpoints)}; {odd[0]!r} has no "
            "partner. Give one posterior file for each task."
        )
    opened = {task: open_posterior(precisions[task]) for task in checkpoints}
    check_conventions({task: each.provenance for task, each in opened.items()})
    first, one = next(iter(opened.items()))
    for task, each in opened.items():
        if each.provenance.family != one.provenance.family:
            raise InputError(
                f"task {task!r}: its posterior is {each.provenance.family}, but that of {first!r} is "
                f"{one.provenance.family}. Make all of one family."
            )
        where = f"precision of task {task!r}"
        _check_layout(each.layout, one.layout, where, f"those of task {first!r}")
        same = [item for item in checkpoints[task].layout.shapes if item[0] in each.layout.places]
        _check_layout(each.layout, Layout(tuple(same)), where, "those of its checkpoint")
    return opened


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Begin the errors of the block with ``where``."""
    try:
        yield
    except (NotFiniteError, ParamsError, PrecisionError) as error:
        raise type(error)(f"{where}: {error}") from error
