"""Data files read a row at a time: JSON Lines, JSON, CSV, Parquet and text; as many rows as `datasets` finds in them."""

from __future__ import annotations

import csv
import glob
import json
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from previa.errors import FileError, InputError, MissingExtraError

LOADERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
"""Suffix -> the name of the loader in `datasets`."""
Row = dict[str, Any]
_CHUNK = 1 << 20


def is_file(path: str) -> bool:
    """Whether this is a data file of a kind that is known here, by its name alone."""
    return Path(path).suffix.lower() in LOADERS


def load_arguments(path: str) -> dict[str, str]:
    """The arguments of `datasets.load_dataset` for a data file or a folder, absolute, or for the name of a data set of the Hub.

    It takes data_files for patterns, so that characters of patterns are escaped: a?.jsonl would bring ab.jsonl, too.
    """
    if is_file(path):
        return {"path": LOADERS[Path(path).suffix.lower()], "data_files": glob.escape(absolute(path))}
    return {"path": absolute(path) if is_local(path) else path}


def is_local(path: str) -> bool:
    """Whether this is a data file, by its name, or a file or folder that is there: no name of the Hub."""
    return is_file(path) or Path(path).exists()


def absolute(path: str) -> str:
    """The whole path, for files that are read from another folder."""
    return str(Path(path).resolve())


def plain(path: str, what: str) -> str:
    """The whole path, for stacks that look for this very file and then load it as a pattern. Raises InputError where that differs."""
    if glob.escape(absolute(path)) != absolute(path):
        raise InputError(
            f"{what}: {absolute(path)} holds one of the characters *, ? and [, which this stack takes for a pattern of several "
            "files. Rename it."
        )
    return absolute(path)


def rows(path: str | Path) -> Iterator[Row]:
    """The rows of a data file, one at a time. Raises FileError naming the file and the row; MissingExtraError."""
    path = Path(path)
    read = {"json": _json, "csv": _csv, "parquet": _parquet, "text": _text}
    if path.suffix.lower() not in LOADERS:
        raise FileError(f"{path}: a data file should end in {', '.join(LOADERS)}.")
    try:
        yield from (_json_lines if path.suffix.lower() == ".jsonl" else read[LOADERS[path.suffix.lower()]])(
            path
        )
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path}: this data file cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: this data file is not text in UTF-8, near byte {error.start}.") from error


def row_of(line: bytes, where: str) -> Row:
    """One row of JSON Lines in UTF-8. Raises FileError: ``where``, and what was found."""
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:
        raise FileError(f"{where}: this is not valid JSON in UTF-8: {error}.") from error
    if not isinstance(found, dict):
        raise FileError(
            f'{where}: a row should be an object, as {{"text": ...}}. Found {type(found).__name__}.'
        )
    return found


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.isspace():
                yield row_of(line, f"{path}, line {number}")


def _json(path: Path) -> Iterator[Row]:
    """An array of objects, or objects one after another, decoded from a window over the file."""
    decoder, number = json.JSONDecoder(), 0
    with path.open(encoding="utf-8-sig") as file:
        window, at = file.read(_CHUNK), 0
        array = window.lstrip().startswith("[")
        gap = re.compile(r"[\s,]*" if array else r"\s*")
        if array:
            at = window.index("[") + 1
        while True:
            at = _end(gap, window, at)
            if array and window.startswith("]", at):
                return
            try:
                found, at = decoder.raw_decode(window, at)
            except ValueError as error:
                more = file.read(max(_CHUNK, len(window) - at))  # doubling: a long row is not decoded often
                if not more:
                    if not array and at == len(window):
                        return
                    raise FileError(f"{path}, row {number + 1}: this is not valid JSON: {error}.") from error
                window, at = window[at:] + more, 0
                continue
            number += 1
            if not isinstance(found, dict):
                raise FileError(
                    f"{path}, row {number}: a row should be an object. Found {type(found).__name__}."
                )
            yield found


def _end(gap: re.Pattern[str], window: str, at: int) -> int:
    found = gap.match(window, at)
    return found.end() if found else at


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for number, row in enumerate(reader, start=1):
                if None in row or None in row.values():
                    raise FileError(
                        f"{path}, row {number}: it has other columns than the header, {', '.join(reader.fieldnames or ())}."
                    )
                yield row
        except csv.Error as error:
            raise FileError(f"{path}, line {reader.line_num}: this is not valid CSV: {error}.") from error


def _text(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield {"text": line.rstrip("\n")}


def _parquet(path: Path) -> Iterator[Row]:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError(
            f"{path}: reading Parquet needs pyarrow: pip install 'previa[data]'."
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                yield from batch.to_pylist()
    except arrow.ArrowException as error:
        raise FileError(f"{path}: this is no readable Parquet file: {error}.") from error
