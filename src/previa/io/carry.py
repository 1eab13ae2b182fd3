"""What goes with the weights: config, tokenizer and processor files of the base, or of the first task that has them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, final

import torch

from previa.errors import FileError, InputError
from previa.io._safetensors import Specs

CONFIG = "config.json"
MODEL = ("generation_config.json", "*.py", "LICENSE*", "NOTICE*")
TOKENS = (
    "tokenizer*.json", "tokenizer.model", "*.spm", "spiece.model", "*.tiktoken", "vocab.*", "merges.txt", "added_tokens.json",
    "special_tokens_map.json", "chat_template.*", "*preprocessor_config.json", "processor_config.json",
)  # fmt: skip
TEMPLATES = "additional_chat_templates"  # a folder
FLOATS = {"float64", "float32", "float16", "bfloat16"}


@final
@dataclass(frozen=True)
class Carried:
    """Where config.json and the tokenizer's files come from; None where no folder has any."""

    config: Path | None
    tokenizer: Path | None


def find_carried(folders: Sequence[Path]) -> Carried:
    """The first of the folders with a config.json, and the first with tokenizer files. Raises FileError: not JSON.

    Raises InputError for a quantised model: its integers are not its weights.
    """
    config = next((folder for folder in folders if (folder / CONFIG).is_file()), None)
    for folder in folders:
        if "quantization_config" in _read(folder):
            raise InputError(
                f"{folder / CONFIG}: has a quantization_config, so the stored numbers are no weights that could be averaged. "
                "Save the model unquantised (model.dequantize()) and merge that."
            )
    return Carried(config, next((folder for folder in folders if _matching(folder, TOKENS)), None))


def carry(carried: Carried, folder: Path, specs: Specs) -> None:
    """Copy the files into ``folder``; config.json says the dtype that the weights have there."""
    if carried.config is not None:
        for file in _matching(carried.config, MODEL):
            shutil.copyfile(file, folder / file.name)
        config = _with_dtype(_read(carried.config), main_dtype(specs))
        (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    if carried.tokenizer is not None:
        for file in _matching(carried.tokenizer, TOKENS):
            shutil.copyfile(file, folder / file.name)
        if (carried.tokenizer / TEMPLATES).is_dir():
            shutil.copytree(carried.tokenizer / TEMPLATES, folder / TEMPLATES)


def main_dtype(specs: Specs) -> str | None:
    """The name of the floating-point dtype that most entries have."""
    count: Counter[torch.dtype] = Counter()
    for dtype, shape in specs.values():
        if dtype.is_floating_point:
            count[dtype] += torch.Size(shape).numel()
    return str(count.most_common(1)[0][0]).removeprefix("torch.") if count else None


def _with_dtype(config: Mapping[str, Any], dtype: str | None) -> dict[str, Any]:
    """The config with ``dtype`` wherever it, or a part of it such as text_config, names one; at least at the top."""
    if dtype not in FLOATS:
        return dict(config)
    changed = _replaced(config, dtype)
    if not {"dtype", "torch_dtype"} & set(changed):
        changed["torch_dtype"] = dtype  # every version of transformers reads this name
    return changed


def _replaced(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key in {"dtype", "torch_dtype"} and (value is None or value in FLOATS):
            found[key] = dtype
        else:
            found[key] = _replaced(value, dtype) if isinstance(value, dict) else value
    return found


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    return [file for file in files if any(fnmatchcase(file.name, pattern) for pattern in patterns)]


def _read(folder: Path) -> dict[str, Any]:
    """config.json of a folder; empty where there is none."""
    file = folder / CONFIG
    try:
        found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise FileError(f"{file}: cannot be read as JSON ({error}). Copy or download it again.") from error
    if not isinstance(found, dict):
        raise FileError(f"{file}: holds a JSON {type(found).__name__}; expected the settings of a model.")
    return found
