"""What a Trainer's checkpoint says of its training: the examples behind one step, the steps, and the size of the data."""

from __future__ import annotations

import json
import pickletools
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

ARGUMENTS = ("gradient_accumulation_steps", "per_device_train_batch_size", "_n_gpu")


@final
@dataclass(frozen=True)
class TrainerFacts:
    """None where the checkpoint does not say; ``how`` says how the batch size came about."""

    batch_size: int | None
    steps: int | None
    examples: int | None
    """of the training data, estimated: steps * batch size / epochs"""
    how: str = ""


def trainer_facts(folder: str | Path) -> TrainerFacts:
    """From trainer_state.json, training_args.bin and the random states of every process in a checkpoint's folder.

    B = rows a device, times accumulation steps, times processes. training_args.bin is a pickle: its instructions are read as
    text for three numbers, and none of them is run.
    """
    folder = Path(folder)
    state = _state(folder / "trainer_state.json")
    arguments = numbers_in_pickle(folder / "training_args.bin", ARGUMENTS)
    steps, rows = state.get("global_step"), state.get("train_batch_size")
    if rows is None and "per_device_train_batch_size" in arguments:
        rows = arguments["per_device_train_batch_size"] * max(1, arguments.get("_n_gpu", 1))
    accumulated = arguments.get("gradient_accumulation_steps")
    if not isinstance(rows, int) or accumulated is None:
        return TrainerFacts(None, steps, None)
    processes = max(1, len(list(folder.glob("rng_state_*.pth"))))
    B = rows * accumulated * processes
    how = f"{rows} rows x {accumulated} accumulated x {processes} processes"
    epoch = state.get("epoch")
    examples = round(steps * B / epoch) if steps and epoch else None
    return TrainerFacts(B, steps, examples, how)


def numbers_in_pickle(file: Path, names: Iterable[str]) -> dict[str, int]:
    """name -> the whole number that follows the name in a file of torch.save; empty where there is no such file.

    The instructions of the pickle are listed, not run.
    """
    names = set(names)
    try:
        with zipfile.ZipFile(file) as archive:
            inner = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            raw = archive.read(inner)
        found: dict[str, int] = {}
        key = None
        for code, value, _ in pickletools.genops(raw):
            if code.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
                continue
            if key is not None and type(value) is int and "INT" in code.name:
                found.setdefault(key, value)
            key = value if isinstance(value, str) and value in names else None
        return found
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError, KeyError):
        return {}


def _state(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
