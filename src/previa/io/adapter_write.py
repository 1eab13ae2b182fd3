"""Several adapter folders written side by side, in one pass over what they are made of; each appears only when whole."""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from previa.errors import FileError, NotFiniteError
from previa.io._safetensors import CODES, Specs, written_beside
from previa.io.adapter_folder import WEIGHTS
from previa.io.adapter_rows import Rows


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A new folder that takes the name ``path`` when the block ends, and is removed when it raises.

    A killed process leaves at most a hidden ``.part`` folder. Raises FileError where the name is taken by anything but an
    empty folder, or the parent is missing or cannot be written.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileError(
            f"{path}: there is something under this name; expected none, or an empty folder. Choose another name."
        )
    if not path.parent.is_dir():
        raise FileError(
            f"{path}: its folder {path.parent} does not exist. Make the folder first, or check the path."
        )
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.mkdir()
        yield part
        if path.exists():
            path.rmdir()
        part.rename(path)
        if os.name == "posix":  # the new name itself must reach the disk
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except FileError:
        raise
    except OSError as error:
        raise FileError(
            f"{path}: cannot be written ({error.strerror}). Check the parent folder's permissions and free space; nothing under "
            "this name was changed."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_weights(folders: Sequence[Path], rows: Rows, metadata: Sequence[Mapping[str, str]]) -> None:
    """Write every row's weights into its folder, all files growing together, a piece of a tensor at a time.

    Values are rounded once, to the dtype of their row's specs. Raises FileError, NotFiniteError where a value does not fit.
    """
    specs = [rows.specs(row) for row in range(len(folders))]
    names = dict.fromkeys(name for one in specs for name in one)
    order = sorted(names, key=lambda name: -max(one[name][0].itemsize for one in specs if name in one))
    with ExitStack() as stack:
        files = [stack.enter_context(written_beside(folder / WEIGHTS)) for folder in folders]
        for file, one, strings in zip(files, specs, metadata, strict=True):
            file.write(_header(one, [name for name in order if name in one], {"format": "pt", **strings}))
        for name in order:
            targets = [(file, one[name][0]) for file, one in zip(files, specs, strict=True) if name in one]
            for values in rows.pieces(name):
                for (file, dtype), value in zip(targets, values, strict=True):
                    _append(file, value, dtype, name)


def _header(specs: Specs, order: Sequence[str], metadata: Mapping[str, str]) -> bytes:
    """The header of a safetensors file whose data lie in this order; see previa.io._safetensors."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name in order:
        dtype, shape = specs[name]
        stop = start + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def _append(file: BinaryIO, value: torch.Tensor, dtype: torch.dtype, name: str) -> None:
    rounded = value.to(dtype).contiguous()
    if value.is_floating_point() and not bool(torch.isfinite(rounded.double()).all()):
        raise NotFiniteError(
            f"merged tensor {name!r}: {value.abs().max().item():.3g} does not fit {dtype}. Ask for another dtype, such as "
            "float32."
        )
    file.write(rounded.reshape(-1).view(torch.uint8).numpy().data)


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` as JSON that a person can read."""
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", "utf-8")
