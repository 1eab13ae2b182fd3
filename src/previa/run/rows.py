"""A task's rows from what the user wrote: a file, a saved folder, module:function, or a data set on the hub."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from previa.data.files import READERS, Rows, read_rows
from previa.data.hub import hub_rows, saved_rows
from previa.errors import InputError, StudyError
from previa.run.resolve import importable, resolve
from previa.run.scoring import describe

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def rows_of(
    data: str,
    *,
    config: str | None = None,
    split: str = "train",
    beside: str | Path = ".",
    what: str = "--data",
) -> tuple[Rows, Path]:
    """(rows, the folder that names of files in them count from).

    data: a file of rows; a folder of datasets.save_to_disk; module:function, whose function takes nothing and returns the rows;
    else the name of a data set on the Hugging Face hub. beside: the folder that paths and modules count from. what: the name
    of this data in errors.
    Raises FileError, InputError, MissingExtraError; StudyError for a function that cannot be found or fails.
    """
    path = Path(beside) / data
    if path.is_dir():
        return saved_rows(path, split=split), path
    if path.exists() or path.suffix.lower() in READERS:
        return read_rows(path), path.parent
    if FUNCTION.fullmatch(data):
        return _called(data, beside, what), Path(beside)
    return hub_rows(data, config=config, split=split), Path()


def _called(reference: str, beside: str | Path, what: str) -> Rows:
    function = resolve(reference, beside, what)
    try:
        with importable(beside):
            found = function()
    except Exception as error:
        raise StudyError(f"{what} {reference} raised {describe(error)}") from error
    if not (hasattr(found, "__len__") and hasattr(found, "__getitem__")) and isinstance(found, Iterable):
        found = list(found)
    if isinstance(found, str | bytes | dict) or not hasattr(found, "__getitem__"):
        raise InputError(
            f"{what} {reference} returned {type(found).__name__}; expected rows: anything with len() and [number]."
        )
    if not len(found):
        raise InputError(f"{what} {reference} returned no rows.")
    return found  # type: ignore[no-any-return]
