"""An optimizer's state_dict from the file that a trainer wrote beside its checkpoint."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from previa.errors import FileError

OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "optimizer.pth")


def open_optimizer(path: str | Path, *, allow_pickle: bool = False) -> Mapping[str, Any]:
    """The state_dict in ``path``, or in the optimizer.pt, .bin or .pth of a folder, as torch.save wrote it; on the CPU.

    Such files are pickles, and there is no safetensors form of them that trainers write. They are read only with
    ``allow_pickle=True``, and then with weights_only=True, which builds tensors and plain containers and runs no code. Tensors
    stay on disk until they are used. A file of a whole training, {"model": ..., "optimizer": ...}, gives its optimizer; so does
    a Lightning checkpoint, {"optimizer_states": [...], ...}, of one optimizer.
    Raises FileError: missing, a pickle without leave, damaged, with other things than tensors, not of one optimizer.
    """
    path = Path(path)
    file = (
        next((path / name for name in OPTIMIZERS if (path / name).is_file()), path) if path.is_dir() else path
    )
    if not file.is_file():
        raise FileError(
            f"{file}: expected an optimizer's file"
            + (f", or a folder with {', '.join(OPTIMIZERS)}" if path.is_dir() else "")
            + ". Check the path; a trainer may have been told to save the model only."
        )
    if not allow_pickle:
        raise FileError(
            f"{file}: it is a pickle, which can run code when it is read. If you trust it, pass allow_pickle=True (--allow-pickle): it is then "
            "read with weights_only=True, which builds tensors only."
        )
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (
        pickle.UnpicklingError,
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        LookupError,
        AttributeError,
    ) as error:
        raise FileError(
            f"{file}: cannot be read as tensors and plain containers ({_reason(error):.200}). It is damaged, or holds other things than "
            "an optimizer's state: save optimizer.state_dict() alone."
        ) from error
    states = _states(found)
    if len(states) != 1:
        raise FileError(
            f"{file}: holds {len(states)} optimizers' states; expected one, with 'state' and 'param_groups'. Save "
            "optimizer.state_dict() alone."
        )
    return states[0]


def _states(found: object) -> list[Mapping[str, Any]]:
    """``found`` if it is an optimizer's state_dict, and those of its values, or of Lightning's list, that are."""
    if not isinstance(found, Mapping):
        return []
    listed = found.get("optimizer_states")
    every = [found, *found.values(), *(listed if isinstance(listed, list) else [])]
    every = [one for one in every if isinstance(one, Mapping)]
    return [one for one in every if {"state", "param_groups"} <= set(one)]


def _reason(error: Exception) -> str:
    """The sentence that says what is wrong: torch's comes after advice on other ways to load, in a terminal's bold letters."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split("WeightsUnpickler error:")[-1].strip()
    return text.splitlines()[0].split(". ")[0].strip().rstrip(".") if text else type(error).__name__
