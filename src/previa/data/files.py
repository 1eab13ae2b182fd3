"""Rows from a file on this machine: json, jsonl, csv, tsv, parquet or text, each row a mapping from column to value."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from previa.errors import FileError, MissingExtraError

Rows = Sequence[Mapping[str, Any]]
"""Rows of a data set, read by number; each a mapping from column to value."""

_LARGEST_FIELD = (
    1 << 27
)  # characters of one csv field; the module's own limit of 131072 is below a long document


def read_rows(path: str | Path) -> Rows:
    """The rows of a file, in its order.

    .json: a list of objects, or {"data": [...]}. .jsonl or .ndjson: an object a line. .csv and .tsv: a header, then values as
    text. .parquet: needs pyarrow, which the extra [data] brings. .txt: one text a line, as column "text". Blank lines of the
    text formats are left out: they hold nothing.
    Raises FileError: missing, another kind of file, no rows, unreadable, with its line where a line is at fault;
    MissingExtraError without pyarrow.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise FileError(f"{path}: {found}; expected a file of rows, {', '.join(READERS)}. Check the path.")
    if reader is None:
        raise FileError(
            f"{path}: a file ending in {path.suffix!r}; expected one of {', '.join(READERS)}. Convert or rename it, or give "
            "module:function, a function that returns the rows."
        )
    try:
        rows = reader(path)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            f"{path}: cannot be read ({error.strerror or error}). Check its permissions."
        ) from error
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}). Convert it."
        ) from error
    if not len(rows):
        raise FileError(f"{path}: holds no rows. Was the right file given?")
    return rows


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of the lines that are not blank."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip("\r\n")


def _text(path: Path) -> Rows:
    return [{"text": line} for _, line in _lines(path)]


def _json_lines(path: Path) -> Rows:
    rows = []
    for number, line in _lines(path):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise FileError(
                f"{path}, line {number}: not JSON ({error}). Expected one object a line."
            ) from error
        rows.append(_object(row, f"{path}, line {number}"))
    return rows


def _json(path: Path) -> Rows:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        if str(error).startswith("Extra data"):  # an object a line under the other name, as many sets have it
            return _json_lines(path)
        raise FileError(
            f"{path}: not JSON ({error}). Expected a list of objects, or an object a line."
        ) from error
    if isinstance(found, Mapping) and isinstance(found.get("data"), list):
        found = found["data"]
    if isinstance(found, Mapping):
        found = [found]
    if not isinstance(found, list):
        raise FileError(
            f"{path}: holds a {type(found).__name__}; expected a list of objects, or an object a line."
        )
    return [_object(row, f"{path}, row {number}") for number, row in enumerate(found, 1)]


def _object(row: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise FileError(f"{where}: {type(row).__name__} {str(row)[:40]!r}; expected an object with columns.")
    return row


def _table(separator: str) -> Callable[[Path], Rows]:
    def reader(path: Path) -> Rows:
        csv.field_size_limit(_LARGEST_FIELD)
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, delimiter=separator, strict=True)
            try:
                header = next(lines, [])
                if len(set(header)) != len(header) or "" in header:
                    raise FileError(f"{path}: the header is {header}; expected one name a column, each once.")
                rows = []
                for row in lines:
                    if len(row) != len(header) and row:
                        raise FileError(
                            f"{path}, line {lines.line_num}: {len(row)} fields, but the header has {len(header)}. Is a field "
                            f"with {separator!r} in it without quotes?"
                        )
                    if row:
                        rows.append(dict(zip(header, row, strict=True)))
            except csv.Error as error:
                raise FileError(
                    f"{path}, line {lines.line_num}: {error}. Expected quotes in pairs."
                ) from error
        return rows

    return reader


def _parquet(path: Path) -> Rows:
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError(
            f"{path}: reading parquet needs pyarrow; install previa[data], or give the rows as .jsonl or .csv."
        ) from error
    try:
        return parquet.read_table(path).to_pylist()  # type: ignore[no-any-return]
    except (ArrowException, ValueError) as error:
        raise FileError(f"{path}: not a whole parquet file ({error}). Copy or download it again.") from error


READERS: dict[str, Callable[[Path], Rows]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": _parquet,
    ".txt": _text,
}
