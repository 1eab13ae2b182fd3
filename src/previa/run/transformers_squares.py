"""From a model's folder and its data to a posterior file of squared gradients."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from torch.nn import Module

from previa.errors import FileError, InputError
from previa.io.provenance import Provenance
from previa.run.precision_file import Prior, save_precision
from previa.run.resolve import resolve
from previa.run.rows import FUNCTION, rows_of
from previa.run.square_pass import Examples, Measured, examples_of, pass_over
from previa.run.sweep import Progress
from previa.run.transformers_model import Loaded, load_model, on_device
from previa.run.transformers_tasks import auto_class, task_of

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_ENDS = 1 << 20  # bytes of each end of a weights file that name it


@final
@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What squared gradients are taken of, and how."""

    model: str
    """folder of a checkpoint or an adapter, or module:function"""
    data: str
    """see previa.run.rows.rows_of"""
    task_type: str
    labels: str = "given"
    reduction: str = "mean"
    batch_size: int = 8
    max_examples: int | None = None
    seed: int = 0
    dtype: str = "fp32"
    device: str = "cpu"
    base: str | None = None
    tokenizer: str | None = None
    max_length: int | None = None
    config: str | None = None
    split: str = "train"
    columns: Mapping[str, str] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    """patterns of the names of parameters that were not trained, or are not shared, and get no precision"""


@final
@dataclass(frozen=True)
class Made:
    """What became of it, for a person to read."""

    provenance: Provenance
    examples: Examples
    measured: Measured

    def sentences(self) -> list[str]:
        """Numbers of examples, ways, prior; and what to look at."""
        n, N = self.measured.examples, self.examples.rows
        ways = Counter(self.measured.ways.values())
        by = {"hook": "by hooks", "replay": "by running a module again", "loop": "by the loop over examples"}
        told = [
            f"{n} examples"
            + (f" of {N}, drawn by the seed" if n < N else "")
            + f", {self.provenance.label_mode} labels, "
            f"{self.provenance.reduction} of the losses",
            "tensors " + ", ".join(f"{by[way]}: {count}" for way, count in sorted(ways.items())),
            f"the prior is {100 * (self.provenance.prior_share or 0):.0f} % of the precision on average",
        ]
        if self.measured.note:
            told.append(f"the loop was needed: {self.measured.note}")
        if self.measured.resumed:
            told.append(f"went on after {self.measured.resumed} examples of a stopped pass")
        if self.examples.cut:
            told.append(f"examples longer than the model takes, cut: {self.examples.cut}")
        if self.examples.empty:
            told.append(f"rows with nothing to predict, left out: {self.examples.empty}")
        return told


def transformers_squares(
    wanted: Wanted, out: str | Path, prior: Prior, progress: Progress | None = None
) -> Made:
    """Write F = mean_i (d loss_i)^2 of a model over its data, plus a prior, as the precision of a posterior file at ``out``.

    Under "sum" N F, with N the number of all rows, also where only some were drawn. The mean is left to the checkpoint. A pass
    that was stopped goes on from out's partial file.
    Raises FileError, InputError, ParamsError, StudyError, MissingExtraError, NotFiniteError, PrecisionError.
    """
    out = Path(out)
    check_place(out)
    auto = auto_class(wanted.task_type)
    if wanted.dtype not in DTYPES:
        raise InputError(f"--dtype {wanted.dtype}: expected {' or '.join(DTYPES)}.")
    rows, folder = rows_of(wanted.data, config=wanted.config, split=wanted.split)
    loaded = model_of(wanted, auto)
    freeze(loaded.model, wanted.frozen)
    task = task_of(
        wanted.task_type, loaded, rows, columns=wanted.columns, folder=folder, tokenizer=wanted.tokenizer,
        max_length=wanted.max_length,
    )  # fmt: skip
    task.labels(wanted.labels, torch.Generator())  # what it cannot give is said before the data is read
    examples = examples_of(rows, task, at_most=wanted.max_examples, seed=wanted.seed, progress=progress)
    partial = out.with_name(f".{out.name}.partial")
    facts = {
        **asdict(wanted),
        "columns": dict(wanted.columns),
        "frozen": list(wanted.frozen),
        "weights": ends_of(loaded.folder),
    }
    for same in ("reduction", "device", "labels", "batch_size", "seed", "data"):
        facts.pop(same)  # told by the pass itself, or of no consequence for its sums
    measured = pass_over(
        loaded.model, examples, task, mode=wanted.labels, batch_size=wanted.batch_size, seed=wanted.seed, partial=partial,
        facts=facts, progress=progress,
    )  # fmt: skip
    N = examples.rows if wanted.reduction == "sum" else 1
    provenance = Provenance(
        family="diagonal", source="squared_gradients", reduction=wanted.reduction, examples=examples.rows,
        batch_size=wanted.batch_size, label_mode=wanted.labels,
    )  # fmt: skip
    made = {**asdict(wanted), "used": measured.examples, "ways": dict(Counter(measured.ways.values()))}
    squares = Scaled(loaded.in_files(measured.total), N / measured.examples)
    provenance = save_precision(out, squares, prior, provenance, made)
    partial.unlink(missing_ok=True)
    return Made(provenance, examples, measured)


def model_of(wanted: Wanted, auto: str | None) -> Loaded:
    """The model in a folder, or what the user's own function returns, in evaluation mode."""
    dtype = DTYPES[wanted.dtype]
    if not Path(wanted.model).is_dir() and FUNCTION.fullmatch(wanted.model):
        model = resolve(wanted.model, ".", "--model")()
        if not isinstance(model, Module):
            raise InputError(
                f"--model {wanted.model} returned {type(model).__name__}; expected a torch.nn.Module with trained parameters."
            )
        return Loaded(on_device(model, wanted.device, dtype), Path(), Path(), dict)
    return load_model(wanted.model, auto, base=wanted.base, dtype=dtype, device=wanted.device)


def freeze(model: Module, patterns: Sequence[str], what: str = "--frozen") -> None:
    """Take away the gradient of parameters whose names match. Raises InputError for a pattern that matches none."""
    for pattern in patterns:
        try:
            matching = [p for name, p in model.named_parameters() if re.search(pattern, name)]
        except re.error as error:
            raise InputError(f"{what} {pattern!r}: no regular expression ({error}).") from error
        if not matching:
            raise InputError(
                f"{what} {pattern!r}: matches no parameter; they are called as {next(iter(model.named_parameters()))[0]!r}."
            )
        for parameter in matching:
            parameter.requires_grad_(False)


@final
@dataclass(frozen=True, eq=False)
class Scaled(Mapping[str, Tensor]):
    """Values times one number, on the CPU; each made when it is asked for."""

    of: Mapping[str, Tensor]
    scale: float

    def __getitem__(self, name: str) -> Tensor:
        return self.of[name].cpu() * self.scale

    def __iter__(self) -> Iterator[str]:
        return iter(self.of)

    def __len__(self) -> int:
        return len(self.of)


def check_place(out: Path) -> None:
    """Raise FileError now, not after hours, where the result cannot be written."""
    if out.is_dir():
        raise FileError(
            f"{out}: this is a folder; expected the name of a file, such as {out / 'posterior.safetensors'}."
        )
    if not out.parent.is_dir():
        raise FileError(f"{out}: its folder does not exist. Make it first, or check the path.")


def ends_of(folder: Path) -> str:
    """A name for the weights in a folder: their files' sizes and both ends."""
    total = hashlib.blake2b(digest_size=16)
    for file in sorted(folder.glob("*.safetensors")) if str(folder) != "." else []:
        with file.open("rb") as read:
            size = file.stat().st_size
            total.update(f"{file.name} {size}".encode() + read.read(_ENDS))
            read.seek(max(0, size - _ENDS))
            total.update(read.read(_ENDS))
    return total.hexdigest()
