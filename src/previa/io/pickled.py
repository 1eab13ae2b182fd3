"""Checkpoints that torch.save wrote, read only where the user allows it: memory-mapped, and without running code."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from previa.core.params import Layout
from previa.errors import FileError
from previa.io._safetensors import check_finite
from previa.io.checkpoint import PICKLES, Checkpoint, open_checkpoint, weights_in

WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")


@final
class PickledCheckpoint(Mapping[str, Tensor]):
    """Parameters in one or several pickles: as a Checkpoint, but memory-mapped, so that the system may drop what was read."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], finite: bool) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self._tensors = dict(tensors)
        self._finite = finite

    @property
    def layout(self) -> Layout:
        """Names and shapes."""
        return Layout.of(self._tensors)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, without reading it. Raises KeyError."""
        return tuple(self._tensors[name].shape)

    def dtype_of(self, name: str) -> torch.dtype:
        """The tensor's dtype, without reading it. Raises KeyError."""
        return self._tensors[name].dtype

    def slice_of(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the tensor flattened row by row, as a fresh vector [stop - start]."""
        piece = self._tensors[name].reshape(-1)[start:stop].clone()
        if self._finite:
            check_finite(piece, f"{self.path}: tensor {name!r}")
        return piece

    def __getitem__(self, name: str) -> Tensor:
        return self.slice_of(name, 0, self._tensors[name].numel()).reshape(self.shape_of(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    __eq__ = object.__eq__  # Mapping's would read and compare every tensor
    __hash__ = object.__hash__


Stored = Checkpoint | PickledCheckpoint
"""Parameters in files, read a slice at a time."""


def open_stored(path: str | Path, *, finite: bool = False, allow_pickle: bool = False) -> Stored:
    """The parameters at ``path``: safetensors, as open_checkpoint; or, with ``allow_pickle``, files of torch.save.

    Pickles are read with ``torch.load(weights_only=True, mmap=True)``; a folder's safetensors come first.
    Raises FileError as open_checkpoint, and where a pickle holds anything but tensors, or was written before torch 1.6.
    """
    path = Path(path)
    file = path
    if allow_pickle and path.is_dir() and weights_in(path) is None:
        found = [path / name for name in WEIGHTS if (path / name).is_file()]
        file = found[0] if found else path
    if not allow_pickle or not (file.suffix in PICKLES or file.name == WEIGHTS[1]):
        return open_checkpoint(path, finite=finite)
    shards = _shards(file) if file.name == WEIGHTS[1] else [file]
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors |= _load(shard)
    return PickledCheckpoint(path, tensors, finite)


def _shards(index: Path) -> list[Path]:
    try:
        names = dict.fromkeys(
            str(name) for name in json.loads(index.read_text("utf-8"))["weight_map"].values()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise FileError(f"{index}: not an index of shards ({error}). Copy or download it again.") from error
    odd = [name for name in names if Path(name).name != name]
    if odd:
        raise FileError(
            f"{index}: names the shard {odd[0]!r}; expected the plain name of a file beside the index."
        )
    return [index.parent / name for name in names]


def _load(file: Path) -> dict[str, Tensor]:
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise FileError(f"{file}: there is no such file. Copy or download it too.") from None
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise FileError(
            f"{file}: torch.load(weights_only=True, mmap=True) cannot read it ({str(error).splitlines()[0]}). Load it where it "
            "was made, and save it as safetensors: model.save_pretrained(folder)."
        ) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise FileError(
            f"{file}: holds more than tensors by their names; expected a model's state_dict. Save "
            "model.state_dict() alone, as safetensors if you can."
        )
    return {str(name): tensor.detach() for name, tensor in found.items()}
