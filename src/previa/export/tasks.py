"""A task from what a person says of it: counted where its data can be read, taken as given where not."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from previa.errors import FileError, InputError
from previa.export.counting import Counter, Size, size_of, words
from previa.export.indexed import index_of, size_of_index
from previa.export.plan import Task
from previa.export.sources import LOADERS, is_file
from previa.export.sources import rows as rows_of


@dataclass(frozen=True)
class Given:
    """What a person says of a task's data: its ``rows`` and mean ``tokens``, None to count them, and the ``column`` learnt."""

    rows: int | None = None
    tokens: float | None = None
    column: str | None = None


def task_of(
    name: str, path: str, alpha: float, given: Given | None = None, *, counter: Counter = words
) -> tuple[Task, str]:
    """The task, and how its tokens were counted.

    path: a data file, the prefix of a Megatron data set, or anything else that only the stack can read, with ``given.rows``.
    Raises FileError; InputError where the size is neither to be counted nor given, or is given otherwise than counted.
    """
    given = given or Given()
    if is_file(path):
        size = _of_file(name, path, given, counter)
    elif index_of(path).is_file():
        size = size_of_index(path)
    elif given.rows is None:
        raise InputError(
            f"task {name!r}: {path!r} is no data file ({', '.join(LOADERS)}) and no prefix of a Megatron data set (there is no "
            f"{index_of(path)}), so its rows cannot be counted. Give their number, --rows {name}=N, and the mean number of "
            f"supervised tokens in them, --tokens {name}=L."
        )
    else:
        size = Size(given.rows, None, (), "not counted")
    if given.rows is not None and given.rows != size.rows:
        raise InputError(f"task {name!r}: {path} has {size.rows:,} rows, but {given.rows:,} are given.")
    tokens, how = (size.tokens, size.how) if given.tokens is None else (given.tokens, "given")
    return Task(name, path, size.rows, tokens, alpha, size.columns), how


def _of_file(name: str, path: str, given: Given, counter: Counter) -> Size:
    if not Path(path).is_file():
        raise FileError(f"task {name!r}: there is no file {path}.")
    if given.rows is None or given.tokens is None:
        return size_of(name, path, counter, column=given.column)
    for row in islice(
        rows_of(path), 1
    ):  # a large file is not read where all is said of it, but for its columns
        return Size(given.rows, given.tokens, tuple(row), "given")
    raise InputError(f"task {name!r}: {path} has no rows.")
