"""A posterior in a safetensors file beside its checkpoint, with its provenance in the header."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from previa.core.diagonal import Diagonal
from previa.core.isotropic import Isotropic
from previa.core.params import Flat, Layout, Params
from previa.errors import FileError, InputError, NotFiniteError, ParamsError, PrecisionError
from previa.io.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from previa.io.provenance import Provenance, from_strings, to_strings

FORMAT = "1"
KEY = "previa.posterior"  # its value is the format's version; the provenance's fields follow as "previa.<field>"
MEAN, PRECISION = "mean/", "precision/"  # a slash: no module's parameter has one in its name


@final
@dataclass(frozen=True)
class PosteriorFile:
    """An open posterior file: tensors "mean/<name>" and, of a diagonal one, "precision/<name>", read when asked for.

    precision: the one number of an isotropic posterior, else None.
    """

    file: Checkpoint
    provenance: Provenance
    precision: float | None

    @property
    def has_mean(self) -> bool:
        """Whether the mean is in the file, and not only in the checkpoint beside it."""
        return any(name.startswith(MEAN) for name in self.file)

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters that have a precision."""
        prefix = MEAN if self.precision is not None else PRECISION
        shapes = [(name, self.file.shape_of(name)) for name in self.file if name.startswith(prefix)]
        return Layout(tuple((name.removeprefix(prefix), shape) for name, shape in shapes))


def save_posterior(
    path: str | Path, posterior: Isotropic | Diagonal, provenance: Provenance, *, with_mean: bool = True
) -> None:
    """Write a posterior and its provenance as one safetensors file, whole or not at all.

    The precision is stored in float32 (float16 would flush a quarter of a Fisher to zero), the mean in its own dtype;
    with_mean=False leaves the mean of a diagonal posterior to the checkpoint beside it.
    Raises InputError for other families, a batch, or a provenance of another family; PrecisionError where float32 cannot
    hold the precision; FileError where the path cannot be written.
    """
    family = type(posterior).__name__.lower()
    if not isinstance(posterior, Isotropic | Diagonal):
        raise InputError(
            f"{path}: {type(posterior).__name__} cannot be stored; expected Isotropic or Diagonal. Store the components "
            "of a mixture as one file each."
        )
    if provenance.family != family:
        raise InputError(
            f"{path}: the posterior is {family}, but its provenance says {provenance.family!r}. Make them agree."
        )
    mean = posterior.mode()
    if mean.vector.dim() > 1:
        raise InputError(
            f"{path}: a batch of {len(mean.vector)} posteriors; expected one. Store one file each."
        )
    header = {KEY: FORMAT, **{f"previa.{name}": text for name, text in to_strings(provenance).items()}}
    if isinstance(posterior, Isotropic):
        if not with_mean:
            raise InputError(
                f"{path}: an isotropic posterior without its mean is one number. Store the mean too."
            )
        header["previa.precision"] = repr(float(posterior.precision))
        save_checkpoint(path, _Prefixed(mean, {}), header)
        return
    h = Flat(posterior.layout, posterior.natural()[0].float())
    for name, tensor in h.items():
        if not bool(((tensor > 0) & torch.isfinite(tensor)).all()):
            raise PrecisionError(
                f"{path}: the precision of tensor {name!r} does not fit float32 (its range is 1e-45 to 3e38). Scale all "
                "tasks' precisions by one number."
            )
    save_checkpoint(path, _Prefixed(mean if with_mean else {}, h), header)


def open_posterior(path: str | Path) -> PosteriorFile:
    """The posterior file at ``path``, with nothing read but its header.

    Raises FileError: unreadable, not a posterior file, of another format version, or with a damaged provenance.
    """
    file = open_checkpoint(path, finite=True)
    header = file.metadata
    if KEY not in header:
        raise FileError(
            f"{path}: a safetensors file without a posterior's provenance; expected one that previa wrote. What its "
            "numbers mean cannot be guessed: write it again with previa.io.save_posterior."
        )
    if header[KEY] != FORMAT:
        raise FileError(
            f"{path}: a posterior file of format {header[KEY]!r}; this previa reads format {FORMAT!r}. Use the version "
            f"that wrote it, {header.get('previa.version', 'unknown')}."
        )
    strings = {key.removeprefix("previa."): text for key, text in header.items() if key.startswith("previa.")}
    number = strings.pop("precision", None)
    del strings["posterior"]
    try:
        provenance = from_strings(strings)
        precision = None if number is None else float(number)
    except (InputError, ValueError) as error:
        raise FileError(f"{path}: {error}; the header is damaged. Write the posterior again.") from error
    opened = PosteriorFile(file, provenance, precision)
    found = "isotropic" if precision is not None else "diagonal"
    if found != provenance.family:
        raise FileError(
            f"{path}: the provenance says {provenance.family!r}, but the precision is {found}. Write the posterior again."
        )
    means = {name for name in file if name.startswith(MEAN)}
    if not opened.layout.shapes or means not in (set(), {MEAN + name for name in opened.layout.places}):
        raise FileError(
            f"{path}: {len(opened.layout.shapes)} tensors have a precision and {len(means)} a mean; expected the same "
            "ones, or precisions only. Write the posterior again."
        )
    return opened


def load_posterior(path: str | Path, mean: Params | None = None) -> tuple[Isotropic | Diagonal, Provenance]:
    """The posterior in a file and its provenance.

    mean: the checkpoint's parameters, for a file that holds precisions only; buffers without a precision are left out.
    Raises FileError; InputError where the mean is missing or given twice; ParamsError where it does not match;
    NotFiniteError and PrecisionError naming file and tensor.
    """
    opened = open_posterior(path)
    names = list(opened.layout.places)
    if opened.has_mean and mean is not None:
        raise InputError(f"{path}: holds its own mean, and another one was given. Leave out one of them.")
    if opened.has_mean:
        mean = {name: opened.file[MEAN + name] for name in names}
    if mean is None:
        raise InputError(
            f"{path}: holds precisions only. Give mean=open_checkpoint(...) of the checkpoint beside it."
        )
    missing = [name for name in names if name not in mean]
    if missing:
        raise ParamsError(
            f"{path}: tensor {missing[0]!r} has a precision here, but the mean lacks it. Was this posterior made from "
            "another checkpoint?"
        )
    stored = {name: mean[name] for name in names}
    if opened.precision is None:
        precision = {name: opened.file[PRECISION + name] for name in names}
    try:
        if opened.precision is not None:
            return Isotropic(stored, opened.precision), opened.provenance
        return Diagonal(stored, precision), opened.provenance
    except (NotFiniteError, ParamsError, PrecisionError) as error:
        raise type(error)(f"{path}: {error}") from error


class _Prefixed(Mapping[str, Tensor]):
    """mean and precision side by side under their prefixes, without copies."""

    def __init__(self, mean: Params, precision: Params) -> None:
        self._parts = {MEAN: mean, PRECISION: precision}

    def __getitem__(self, name: str) -> Tensor:
        prefix, _, rest = name.partition("/")
        return self._parts[f"{prefix}/"][rest]

    def __iter__(self) -> Iterator[str]:
        return (prefix + name for prefix, part in self._parts.items() for name in part)

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts.values())
