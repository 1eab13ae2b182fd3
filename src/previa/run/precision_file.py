"""Squared gradients into a posterior file, a tensor at a time, with a prior that makes every precision positive."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from previa.core.params import Params
from previa.errors import FileError, InputError, NotFiniteError, PrecisionError
from previa.io.checkpoint import save_checkpoint
from previa.io.posterior_file import FORMAT, KEY, PRECISION, PosteriorFile, open_posterior
from previa.io.provenance import Provenance, check_conventions, to_strings

MADE = "made"
"""Of the header: how the file was made, as JSON; "prior" in it is the prior's precision of each tensor."""


@final
@dataclass(frozen=True)
class Prior:
    """delta_b of tensor b: ``relative`` times the tensor's mean squared gradient, or one ``precision`` for all.

    Raises InputError unless exactly one is given, above zero.
    """

    relative: float | None = None
    precision: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.relative, self.precision) if value is not None]
        if len(given) != 1 or not 0 < given[0] < float("inf"):
            raise InputError(
                f"the prior is {self.relative} relative and {self.precision} absolute; expected one of them, above zero."
            )

    def of(self, means: Mapping[str, float]) -> dict[str, float]:
        """delta_b from each tensor's mean; a tensor without any squared gradient gets the smallest of the others'.

        Raises PrecisionError where all are zero.
        """
        if self.precision is not None:
            return dict.fromkeys(means, self.precision)
        assert self.relative is not None
        smallest = min((mean for mean in means.values() if mean > 0), default=0.0)
        if not smallest:
            raise PrecisionError(
                "all squared gradients are zero. Is the model's loss constant, or its data's?"
            )
        return {name: self.relative * (mean or smallest) for name, mean in means.items()}


def save_precision(
    path: str | Path, squares: Params, prior: Prior, provenance: Provenance, made: Mapping[str, Any]
) -> Provenance:
    """Write the precision h = squares + delta of a diagonal posterior, its mean left to the checkpoint; what its file says.

    squares: F under mean losses, N F under summed ones, by the checkpoint's names; read a tensor at a time. made: further facts
    for the header. Raises NotFiniteError, PrecisionError naming the tensor, FileError.
    """
    deltas = prior.of(
        {name: _mean(tensor, f"{path}: the squared gradient of {name!r}") for name, tensor in squares.items()}
    )
    share = _share(path, squares, deltas)
    provenance = replace(
        provenance, prior_relative=prior.relative, prior_precision=prior.precision, prior_share=share
    )
    header = {KEY: FORMAT, **{f"previa.{name}": text for name, text in to_strings(provenance).items()}}
    save_checkpoint(
        path, _Precision(squares, deltas), {**header, MADE: json.dumps({**made, "prior": deltas})}
    )
    return provenance


def damp(files: Mapping[str, str | Path], prior: Prior, out: str | Path) -> dict[str, float]:
    """Give the precisions of several tasks one prior, in the place of each one's own: out/<task>.safetensors; each share.

    delta_b is relative to the mean over the tasks, as previa.damped has it: a task whose gradients are large does not count for
    more where nothing is known. files: task -> file that save_precision wrote.
    Raises FileError for others, InputError where conventions differ, ParamsError where names or shapes do.
    """
    opened = {task: open_posterior(path) for task, path in files.items()}
    check_conventions({task: each.provenance for task, each in opened.items()})
    squares = {task: _Squares(each, _made(each)["prior"]) for task, each in opened.items()}
    first, layout = next((task, each.layout) for task, each in opened.items())
    for task, each in opened.items():
        shapes = {name: torch.empty(shape, device="meta") for name, shape in each.layout.shapes}
        layout.check(shapes, f"task {task!r}", f"those of task {first!r}")
    means = {
        name: sum(_mean(each[name], f"task {task!r}: {name!r}") for task, each in squares.items())
        / len(squares)
        for name in layout.places
    }
    deltas = prior.of(means)
    folder = Path(out)
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder; expected one for a file of each task. Make it first.")
    shares = {}
    for task, each in opened.items():
        path = folder / f"{task}.safetensors"
        if path.resolve() == Path(files[task]).resolve():
            raise FileError(f"{path}: would replace the file that it is made from. Choose another folder.")
        shares[task] = _share(path, squares[task], deltas)
        provenance = replace(
            each.provenance,
            prior_relative=prior.relative,
            prior_precision=prior.precision,
            prior_share=shares[task],
        )
        header = {KEY: FORMAT, **{f"previa.{name}": text for name, text in to_strings(provenance).items()}}
        made = {**_made(each), "prior": deltas, "prior_of": list(files)}
        save_checkpoint(path, _Precision(squares[task], deltas), {**header, MADE: json.dumps(made)})
    return shares


@final
@dataclass(frozen=True, eq=False)
class _Precision(Mapping[str, Tensor]):
    """h_b = squares_b + delta_b in float32, each made when it is asked for."""

    squares: Params
    deltas: Mapping[str, float]

    def shape_of(self, name: str) -> tuple[int, ...]:
        return tuple(self.squares[name.removeprefix(PRECISION)].shape)

    def dtype_of(self, name: str) -> torch.dtype:
        return torch.float32

    def __getitem__(self, name: str) -> Tensor:
        name = name.removeprefix(PRECISION)
        return (self.squares[name].double() + self.deltas[name]).float()

    def __iter__(self) -> Iterator[str]:
        return (PRECISION + name for name in self.squares)

    def __len__(self) -> int:
        return len(self.squares)


@final
@dataclass(frozen=True, eq=False)
class _Squares(Mapping[str, Tensor]):
    """The squared gradients in a file: its precision without the prior; never below zero."""

    file: PosteriorFile
    deltas: Mapping[str, float]

    def __getitem__(self, name: str) -> Tensor:
        return (self.file.file[PRECISION + name].double() - self.deltas[name]).clamp_(min=0)

    def __iter__(self) -> Iterator[str]:
        return iter(self.file.layout.places)

    def __len__(self) -> int:
        return len(self.file.layout.places)


def _made(opened: PosteriorFile) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(opened.file.metadata.get(MADE, "{}"))
    if "prior" not in made:
        raise FileError(
            f"{opened.file.path}: does not say which part of its precision is the prior; expected a file of previa posterior "
            "squared-gradients or adam. Make it again."
        )
    return made


def _mean(tensor: Tensor, where: str) -> float:
    """The mean in float64. Raises NotFiniteError, PrecisionError."""
    if not tensor.numel():
        return 0.0
    mean = float(tensor.mean(dtype=torch.float64))
    if not torch.isfinite(torch.tensor(mean)):
        raise NotFiniteError(f"{where} holds NaN or infinity. Did training diverge?")
    if float(tensor.min()) < 0:
        raise PrecisionError(f"{where} is negative somewhere: squares cannot be.")
    return mean


def _share(path: str | Path, squares: Params, deltas: Mapping[str, float]) -> float:
    """The mean over parameters of delta/h. Raises PrecisionError where float32 cannot hold a precision."""
    total, count = 0.0, 0
    for name, tensor in squares.items():
        h = tensor.double() + deltas[name]
        stored = h.float()
        if h.numel() and not (float(stored.min()) > 0 and bool(torch.isfinite(stored.max()))):
            raise PrecisionError(
                f"{path}: the precision of tensor {name!r}, {float(h.min()):.3g} to {float(h.max()):.3g}, does not fit float32 "
                "(1e-45 to 3e38). A stronger prior keeps it above zero."
            )
        total += float((deltas[name] / h).sum())
        count += h.numel()
    return total / count
