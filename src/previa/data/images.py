"""A picture as data sets hold it, opened: an image, its bytes, its file, or its pixels."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from previa.errors import FileError, InputError, MissingExtraError


def open_image(value: Any, folder: str | Path = ".") -> Any:
    """A PIL image in RGB of an image, {"bytes": ..., "path": ...} as parquet has it, a file's name, or pixels [H, W(, 3)].

    A file's name counts from ``folder``. Raises FileError for one that is not there or no picture, InputError for anything else,
    MissingExtraError without Pillow.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pictures need Pillow: pip install pillow.") from error
    if isinstance(value, Mapping) and value.get("bytes") is not None:
        value = Image.open(io.BytesIO(value["bytes"]))
    elif isinstance(value, Mapping):
        value = value.get("path")
    if isinstance(value, str | Path):
        file = Path(folder) / value
        try:
            value = Image.open(file)
            value.load()
        except OSError as error:
            raise FileError(
                f"{file}: no picture that can be read ({error}). Names of files count from {Path(folder).resolve()}."
            ) from error
    if isinstance(value, list | np.ndarray):
        value = Image.fromarray(np.asarray(value, dtype=np.uint8))
    if not isinstance(value, Image.Image):
        raise InputError(
            f"a picture is {type(value).__name__}; expected an image, its bytes, a file's name, or pixels from 0 to 255."
        )
    return value.convert("RGB")
