"""The modes of all weightings for one piece of one tensor: small enough for the processor's cache, read once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from previa.core.diagonal import Diagonal
from previa.core.isotropic import Isotropic
from previa.core.modes import mode_parts
from previa.errors import NotFiniteError, ParamsError, PrecisionError
from previa.io._safetensors import check_finite
from previa.io.inputs import BASE, Inputs, everyone
from previa.io.pickled import Stored
from previa.io.posterior_file import MEAN, PRECISION, PosteriorFile
from previa.io.weightings import Row, Weightings

# Entries read at a time: 1 MB of each task in float64, which stay in the processor's cache; reads are long enough.
PIECE = 2**17


class Members(Protocol):
    """What is summed for the tensors that are merged."""

    def modes(self, name: str, piece: slice) -> Iterator[Tensor]:
        """For each weighting, the mode of entries ``piece`` of a tensor: valid until the next one is asked for."""
        ...

    def blame(self, name: str, piece: slice) -> None:
        """Raise NotFiniteError naming the task whose entries hold NaN or infinity, where one does."""
        ...


@final
@dataclass(frozen=True)
class Averages:
    """theta_a = sum_k W_ak theta_k over tasks and base (eq. 2, 3), or over tasks and anchors: modes of isotropic posteriors."""

    inputs: Inputs
    members: Mapping[str, Stored]  # by what errors call them
    weights: tuple[Row, ...]  # [A, K]; rows sum to one

    def modes(self, name: str, piece: slice) -> Iterator[Tensor]:
        """In float64; at a task's corner, and at an anchor, its own piece."""
        source = self.inputs.source(name)
        thetas = [one.slice_of(source, piece.start, piece.stop) for one in self.members.values()]
        wide = [theta.double() for theta in thetas]
        total = torch.empty_like(wide[0])
        for row in self.weights:
            if corner(row) is not None:
                yield thetas[row.index(1)]
                continue
            torch.mul(wide[0], row[0], out=total)
            for weight, theta in zip(row[1:], wide[1:], strict=True):
                total.add_(theta, alpha=weight)
            yield total

    def blame(self, name: str, piece: slice) -> None:
        """Reads the piece again."""
        for where, one in self.members.items():
            theta = one.slice_of(self.inputs.source(name), piece.start, piece.stop)
            check_finite(theta, f"{where}: {one.path}: tensor {name!r}")


@final
@dataclass(frozen=True)
class Posteriors:
    """m_a = (sum_t w_at H_t)^-1 sum_t w_at H_t theta_t, with a prior gamma_a of it (eq. 5, 10), + sum_r b_ar (theta_r - m_r)."""

    inputs: Inputs
    files: Mapping[str, PosteriorFile]
    weights: Weightings
    prior_precision: float | None  # of the prior at the base; None is a flat one

    def modes(self, name: str, piece: slice) -> Iterator[Tensor]:
        """In float64; at a task's corner its own mean, at an anchor its own piece."""
        weights, A = self.weights, len(self.weights.warped)
        qs = [self._posterior(task, name, piece) for task in self.files]
        thetas = [self._anchor(where, name, piece) for where in self.inputs.anchors]
        prior = None
        if self.inputs.base is not None and self.prior_precision is not None:
            with naming(BASE):
                theta = self.inputs.base.slice_of(self.inputs.source(name), piece.start, piece.stop)
                prior = type(qs[0])({name: theta.double()}, self.prior_precision)
        with naming(f"tensor {name!r}"):
            parts = [
                values if values.shape[-1] == qs[0].layout.size else values.clone()
                for _, values in mode_parts([*weights.warped, *weights.at], qs, prior)
            ]
        values = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        if thetas:
            residuals = torch.stack(thetas).sub_(values[A:])
            values[:A].addmm_(torch.tensor(weights.shares, dtype=values.dtype), residuals)
        for row, value in zip(weights.runs, values[:A], strict=True):
            k = corner(row)
            if k is None:
                yield value
            else:  # q^1 is q, without the rounding of (h theta) / h
                yield qs[k].mode().vector if k < len(qs) else thetas[k - len(qs)]

    def blame(self, name: str, piece: slice) -> None:
        """Posteriors have looked at every entry."""

    def _anchor(self, where: str, name: str, piece: slice) -> Tensor:
        checkpoint = self.inputs.anchors[where]
        theta = checkpoint.slice_of(self.inputs.source(name), piece.start, piece.stop)
        check_finite(theta, f"{where}: {checkpoint.path}: tensor {name!r}")
        return theta.double()

    def _posterior(self, task: str, name: str, piece: slice) -> Isotropic | Diagonal:
        """q_t of entries ``piece`` of one tensor: a posterior of one tensor is a posterior."""
        source, opened, checkpoint = self.inputs.source(name), self.files[task], self.inputs.tasks[task]
        with naming(f"task {task!r}"):
            theta = checkpoint.slice_of(source, piece.start, piece.stop)
            check_finite(theta, f"{checkpoint.path}: tensor {name!r}")
            if opened.has_mean:
                mean = opened.file.slice_of(MEAN + source, piece.start, piece.stop)
                if not torch.equal(mean.to(theta.dtype), theta):
                    raise ParamsError(
                        f"tensor {name!r} is not the mean that {opened.file.path} holds. Was that posterior made from "
                        "another checkpoint?"
                    )
                theta = mean  # float32 where the checkpoint may be rounded
            if opened.precision is not None:
                return Isotropic({name: theta.double()}, opened.precision)
            h = opened.file.slice_of(PRECISION + source, piece.start, piece.stop)
            return Diagonal({name: theta.double()}, {name: h.double()})


def corner(row: Row) -> int | None:
    """The task, or the anchor after all tasks, that has all the weight, where one has."""
    return (
        row.index(1)
        if 1 in row and not any(weight not in (0, 1) for weight in row) and sum(row) == 1
        else None
    )


def common(inputs: Inputs, name: str, piece: slice) -> Tensor:
    """Entries ``piece`` of a tensor that is no parameter. Raises ParamsError unless it is equal in all tasks and anchors."""
    first: tuple[str, Tensor] | None = None
    for where, checkpoint in (everyone(inputs.tasks, None) | dict(inputs.anchors)).items():
        value = checkpoint.slice_of(name, piece.start, piece.stop)
        check_finite(value, f"{where}: {checkpoint.path}: tensor {name!r}")
        if first is None:
            first = where, value
        elif not torch.equal(value, first[1]):
            why = "has no precision" if value.is_floating_point() else f"is {value.dtype}"
            raise ParamsError(
                f"{where}: tensor {name!r} {why} and so cannot be averaged, but it differs from that of "
                f"{first[0]}; expected equal values. Store one of them in every task's checkpoint, or keep it out of the "
                f"merged model (keep=['{name}'], --keep '{name}'), and recalibrate running statistics after the merge."
            )
    assert first is not None
    return first[1]


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Begin the errors of the block with ``where``."""
    try:
        yield
    except (NotFiniteError, ParamsError, PrecisionError) as error:
        raise type(error)(f"{where}: {error}") from error


def rounded(value: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """``value`` in its dtype in the file. Raises NotFiniteError where it does not fit."""
    found = value.to(dtype)
    if dtype.is_floating_point and value.numel():
        wide = found.float() if dtype.itemsize < 4 else found
        if not bool(torch.isfinite(wide.sum())) and not bool(torch.isfinite(wide).all()):
            raise NotFiniteError(
                f"merged tensor {name!r}: {value.abs().max().item():.3g} does not fit {dtype}. Ask for another dtype, such as "
                "float32."
            )
    return found


def pieces(size: int, weightings: int) -> Sequence[slice]:
    """Ranges that tile a tensor of ``size`` entries, shorter for many weightings, so that memory stays what it is for few."""
    length = max(1, min(PIECE, PIECE * 16 // weightings))
    return [slice(start, min(start + length, size)) for start in range(0, size, length)]
