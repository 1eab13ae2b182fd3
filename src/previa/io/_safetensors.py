"""One safetensors file: its header, its tensors one at a time, and a file that takes its name only when it is whole.

The format (https://github.com/huggingface/safetensors): 8 bytes of header length, a JSON header, the tensors' bytes.
The public library checks every header here; it can neither write a tensor at a time nor read without mapping the whole
file into memory, which a merge of checkpoints larger than memory needs, so bytes are read and written here.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from previa.errors import FileError, NotFiniteError, ParamsError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
HEADER_LIMIT = 100_000_000  # bytes, the format's own
CODES = {dtype: code for code, dtype in DTYPES.items()}
PICKLED = {b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}  # torch.save's zip, and bare pickles
CONVERT = (
    "it is a pickle, which can run code when it is read; expected safetensors. If you trust it, convert it once: "
    'previa.io.save_checkpoint("model.safetensors", torch.load("{name}", map_location="cpu", weights_only=True)). '
    "previa merge --allow-pickle reads it as it is."
)


@final
@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in a file: its first byte, counted from the start of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@final
@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself; ``stamp`` tells whether it is still the same file."""

    path: Path
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    stamp: tuple[int, int, int]


def read_header(path: Path) -> Header:
    """The header of the file at ``path``, checked. Raises FileError: missing, empty, cut short, damaged, or a pickle."""
    try:
        with path.open("rb") as file:
            stamp = _stamp(file)
            length = int.from_bytes(file.read(8), "little")
            raw = file.read(length if length <= min(stamp[1], HEADER_LIMIT) else 16)
    except FileNotFoundError:
        raise FileError(
            f"{path}: there is no such file; expected a safetensors file. Check the path."
        ) from None
    except OSError as error:
        raise FileError(
            f"{path}: cannot be read ({error.strerror}). Check the path and its permissions."
        ) from error
    start = length.to_bytes(8, "little")[: stamp[1]]
    if stamp[1] == 0:
        raise FileError(f"{path}: the file is empty; expected safetensors. Copy, download or save it again.")
    if (start + raw).startswith(b"version "):
        raise FileError(
            f"{path}: this is a Git LFS pointer, not the weights. Run `git lfs pull` in its folder."
        )
    if raw[:1] != b"{" and start[:2] in PICKLED:
        raise FileError(f"{path}: {CONVERT.format(name=path.name)}")
    try:
        with safe_open(str(path), framework="pt"):
            header = json.loads(raw)
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        raise FileError(
            f"{path}: not a whole safetensors file{_shortfall(length, raw, stamp[1])} ({error}). "
            "It was cut short or damaged: copy, download or save it again."
        ) from error
    metadata = header.pop("__metadata__", None) or {}
    return Header(
        path, {name: _entry(path, name, item, 8 + length) for name, item in header.items()}, metadata, stamp
    )


def _entry(path: Path, name: str, item: Mapping[str, Any], data: int) -> Entry:
    if item["dtype"] not in DTYPES:
        raise FileError(
            f"{path}: tensor {name!r} has dtype {item['dtype']}, which previa cannot merge; expected one of "
            f"{', '.join(DTYPES)}. Save the checkpoint unquantised."
        )
    return Entry(DTYPES[item["dtype"]], tuple(item["shape"]), data + item["data_offsets"][0])


def _shortfall(length: int, raw: bytes, size: int) -> str:
    """How many bytes the header promises, where it can still be read."""
    if length > size - 8:
        return f": the header alone should be {length} bytes long, but the file has {size}"
    try:
        items = [item for name, item in json.loads(raw).items() if name != "__metadata__"]
        promised = 8 + length + max(item["data_offsets"][1] for item in items)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    return f": its header promises {promised} bytes, but the file has {size}" if promised != size else ""


def read(file: Header, name: str, start: int = 0, stop: int | None = None) -> Tensor:
    """Elements ``start`` to ``stop`` of a tensor, counted row by row, as a fresh vector. Raises FileError."""
    entry = file.entries[name]
    start, stop, _ = slice(start, stop).indices(entry.size)
    width = entry.dtype.itemsize
    buffer = torch.empty(max(0, stop - start) * width, dtype=torch.uint8)
    try:
        with file.path.open("rb") as source:
            if _stamp(source) != file.stamp:
                raise FileError(f"{file.path}: the file has changed since it was opened. Open it again.")
            source.seek(entry.start + start * width)
            count = source.readinto(buffer.numpy().data)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{file.path}: tensor {name!r} cannot be read ({error.strerror}).") from error
    if count != len(buffer):
        raise FileError(
            f"{file.path}: tensor {name!r} was cut short: {count} of {len(buffer)} bytes. Copy it again."
        )
    return buffer.view(entry.dtype)


def check_finite(tensor: Tensor, where: str) -> None:
    """Raise NotFiniteError, beginning with ``where``, for NaN or infinity in a floating-point tensor."""
    if tensor.is_floating_point() and tensor.numel():
        wide = tensor.float() if tensor.dtype.itemsize < 4 else tensor
        if not bool(torch.isfinite(wide.sum())) and not bool(torch.isfinite(wide).all()):
            bad = int((~torch.isfinite(wide)).sum())
            raise NotFiniteError(
                f"{where} holds NaN or infinity in {bad} of {tensor.numel()} entries read; expected finite numbers. "
                "Its training diverged, or the file is damaged: go back to an earlier checkpoint."
            )


Specs = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


def aligned(specs: Specs) -> list[str]:
    """Names by falling element size: an order of the data in which all tensors are aligned."""
    return sorted(specs, key=lambda name: -specs[name][0].itemsize)


def header_bytes(specs: Specs, order: Sequence[str], metadata: Mapping[str, str]) -> bytes:
    """The first bytes of a file that lists ``specs`` and whose data lie in ``order``."""
    place, start = {}, 0
    for name in order:
        dtype, shape = specs[name]
        place[name] = [start, start + math.prod(shape) * dtype.itemsize]
        start = place[name][1]
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, (dtype, shape) in specs.items():
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": place[name]}
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def write(path: Path, specs: Specs, tensor: Callable[[str], Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, asking ``tensor(name)`` for one tensor at a time; see written_beside.

    Names keep the order of ``specs`` in the header; the data lie by falling element size, so that all are aligned.
    Raises FileError; ParamsError where a tensor is not what ``specs`` promised.
    """
    order = aligned(specs)
    with written_beside(path) as file:
        file.write(header_bytes(specs, order, metadata))
        for name in order:
            value, (dtype, shape) = tensor(name).detach().cpu(), specs[name]
            if tuple(value.shape) != shape:
                raise ParamsError(
                    f"{path}: tensor {name!r} has shape {tuple(value.shape)}, announced as {shape}."
                )
            file.write(as_bytes(value.to(dtype)))


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, row by row, as they lie in a file."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


@contextmanager
def written_beside(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the name ``path`` when the block ends, on disk and whole, and is removed when it raises.

    What had the name before stays untouched until then. A killed process leaves at most a hidden ``.part`` file.
    Raises FileError where the folder is missing or cannot be written, or the disk is full.
    """
    if path.is_dir():
        raise FileError(
            f"{path}: this is a folder; expected the name of a file, such as {path / 'model.safetensors'}."
        )
    if not path.parent.is_dir():
        raise FileError(
            f"{path}: its folder {path.parent} does not exist. Make the folder first, or check the path."
        )
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        if os.name == "posix":  # the new name itself must reach the disk; elsewhere folders cannot be opened
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except FileError:
        raise
    except OSError as error:
        raise FileError(
            f"{path}: cannot be written ({error.strerror}). Check the folder's permissions and free space; nothing under "
            "this name was changed."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _stamp(file: BinaryIO) -> tuple[int, int, int]:
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns
