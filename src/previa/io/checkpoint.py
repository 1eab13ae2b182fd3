"""Checkpoints: safetensors files and folders of them, read lazily; a checkpoint is a Params like any other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast, final, runtime_checkable

import torch
from torch import Tensor

from previa.core.params import Layout, Params
from previa.errors import FileError, InputError, ParamsError
from previa.io._safetensors import CODES, CONVERT, Entry, Header, check_finite, read, read_header, write

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
PICKLES = {".bin", ".pt", ".pth", ".th", ".ckpt", ".pkl"}


@runtime_checkable
class Described(Protocol):
    """Parameters that tell shape and dtype of a tensor without making it: what is saved a tensor at a time."""

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The tensor's shape."""
        ...

    def dtype_of(self, name: str) -> torch.dtype:
        """The tensor's dtype."""
        ...


@final
class Checkpoint(Mapping[str, Tensor]):
    """Parameters in one or several safetensors files; each access reads the tensor anew and keeps nothing.

    Names, shapes and dtypes are known without reading. Reading raises FileError where a file has changed or cannot be
    read, and NotFiniteError, naming file and tensor, when opened with ``finite=True``.
    """

    def __init__(
        self, path: Path, places: Mapping[str, Header], metadata: Mapping[str, str], finite: bool
    ) -> None:
        self.path = path
        self.metadata = dict(
            metadata
        )  # the strings in the header; of several files, the first one's word counts
        self._places = dict(places)
        self._finite = finite

    @property
    def layout(self) -> Layout:
        """Names and shapes, without reading a tensor."""
        return Layout(tuple((name, self.shape_of(name)) for name in self))

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, without reading it. Raises KeyError."""
        return self._entry(name).shape

    def dtype_of(self, name: str) -> torch.dtype:
        """The tensor's dtype, without reading it. Raises KeyError."""
        return self._entry(name).dtype

    def slice_of(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the tensor flattened row by row, [stop - start]; only they are read."""
        tensor = read(self._places[name], name, start, stop)
        if self._finite:
            check_finite(tensor, f"{self._places[name].path}: tensor {name!r}")
        return tensor

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shape_of(name)
        return self.slice_of(name, 0, self._entry(name).size).reshape(shape)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {len(self)} tensors)"

    __eq__ = object.__eq__  # Mapping's would read and compare every tensor
    __hash__ = object.__hash__

    def _entry(self, name: str) -> Entry:
        return self._places[name].entries[name]


def open_checkpoint(path: str | Path, *, finite: bool = False) -> Checkpoint:
    """The parameters in a safetensors file, a folder with one, or a sharded folder, read only when asked for.

    path: the file, its index (``*.index.json``), or a folder with model.safetensors, model.safetensors.index.json or
    adapter_model.safetensors. finite: refuse NaN and infinity on read.
    Raises FileError: missing, empty, cut short, damaged, a pickle, a folder without weights or with two kinds of them,
    an index that does not match its shards.
    """
    path = Path(path)
    file = _weights_in(path) if path.is_dir() else path
    if file.name.endswith(".index.json"):
        places, metadata = _sharded(file)
        return Checkpoint(path, places, metadata, finite)
    header = read_header(file)
    return Checkpoint(path, dict.fromkeys(header.entries, header), header.metadata, finite)


def save_checkpoint(
    path: str | Path,
    params: Params,
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write ``params`` as one safetensors file, a tensor at a time; the name appears only when the file is whole.

    Views, tied and non-contiguous tensors are each written in full under their own name (tied ones are no longer tied
    when read back). Dtypes are kept, or floating-point ones become ``dtype``. metadata: strings for the header, beside
    "format": "pt", which other readers ask for.
    Raises FileError where the path cannot be written, ParamsError where a value is no tensor that can be stored.
    """
    path = Path(path)
    metadata = {"format": "pt", **(metadata or {})}
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise InputError(f"{path}: the header's metadata must be strings by strings; found {metadata}.")
    if dtype is not None and not dtype.is_floating_point:
        raise InputError(
            f"{path}: dtype is {dtype}; expected one for weights, such as torch.float32 or torch.bfloat16."
        )
    if "__metadata__" in params:
        raise ParamsError(
            f"{path}: a tensor is called '__metadata__', which safetensors keeps for itself. Rename it."
        )
    write(path, {name: _spec(path, params, name, dtype) for name in params}, params.__getitem__, metadata)


def _spec(
    path: Path, params: Params, name: str, dtype: torch.dtype | None
) -> tuple[torch.dtype, tuple[int, ...]]:
    """(dtype in the file, shape) of a tensor to be written."""
    if isinstance(params, Described):
        found, shape = params.dtype_of(name), params.shape_of(name)
    else:
        tensor = cast(object, params[name])
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
            raise ParamsError(
                f"{path}: {name!r} is {_kind(tensor)}; expected a dense tensor. Hand in model.state_dict(), or its "
                "tensors made dense."
            )
        found, shape = tensor.dtype, tuple(tensor.shape)
    target = dtype if dtype is not None and found.is_floating_point else found
    if target not in CODES:
        raise ParamsError(
            f"{path}: tensor {name!r} is {target}; expected one of {', '.join(str(kind) for kind in CODES)}. Convert it."
        )
    return target, shape


def _kind(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return "a tensor without data (device 'meta')" if value.is_meta else f"a tensor of layout {value.layout}"


def weights_in(folder: Path) -> Path | None:
    """The one weights file, or index, in a folder; None where there is none. Raises FileError: two kinds of them."""
    found = [name for name in WEIGHTS if (folder / name).is_file()]
    if len(found) > 1:
        raise FileError(
            f"{folder}: holds both {' and '.join(found)}. Give the path of the file that you mean."
        )
    return folder / found[0] if found else None


def _weights_in(folder: Path) -> Path:
    """The one weights file, or index, in a folder. Raises FileError, saying what is there instead."""
    found = weights_in(folder)
    if found is not None:
        return found
    expected = f"expected {', '.join(WEIGHTS[:-1])} or {WEIGHTS[-1]}"
    others = sorted(file.name for file in folder.iterdir() if file.suffix == ".safetensors")
    if others:
        raise FileError(f"{folder}: {expected}; found {_some(others)}. Give the path of the file itself.")
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise FileError(f"{folder}: {expected}; found {_some(pickles)}: {CONVERT.format(name=pickles[0])}")
    raise FileError(
        f"{folder}: the folder holds no weights; {expected}. Is it the folder that training wrote?"
    )


def _sharded(index: Path) -> tuple[dict[str, Header], dict[str, str]]:
    """name -> header of its shard, and the headers' strings, with index and shards held against each other."""
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
        pairs = [(str(name), str(shard)) for name, shard in weight_map.items()]
    except OSError as error:
        raise FileError(f"{index}: cannot be read ({error.strerror}). Check the path.") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise FileError(
            f'{index}: not an index of shards ({error}); expected JSON with a "weight_map" from tensor to file name. Copy '
            "or download it again."
        ) from error
    headers = {shard: _shard(index, shard) for shard in dict.fromkeys(shard for _, shard in pairs)}
    for name, shard in pairs:
        if name not in headers[shard].entries:
            raise FileError(
                f"{index}: tensor {name!r} should be in {shard}, which does not hold it. Index and shards come from "
                "different checkpoints: copy or download the folder again."
            )
    for shard, header in headers.items():
        extra = [name for name in header.entries if weight_map.get(name) != shard]
        if extra:
            raise FileError(
                f"{header.path}: holds {_some(extra)}, which {index.name} does not list there. Index and shards come from "
                "different checkpoints: copy or download the folder again."
            )
    metadata: dict[str, str] = {}
    for header in headers.values():
        metadata = {**header.metadata, **metadata}
    return {name: headers[shard] for name, shard in pairs}, metadata


def _shard(index: Path, shard: str) -> Header:
    if Path(shard).name != shard:
        raise FileError(
            f"{index}: names the shard {shard!r}; expected the plain name of a file beside the index."
        )
    if not (index.parent / shard).exists():
        raise FileError(
            f"{index}: names the shard {shard}, which is not in the folder. Copy or download it too."
        )
    return read_header(index.parent / shard)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
