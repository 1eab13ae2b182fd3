"""The mixed data itself, as JSON Lines with a column for the task: for stacks without weights, and for any trainer."""

from __future__ import annotations

import json
import mmap
import os
import tempfile
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, final

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from previa.errors import FileError, InputError
from previa.export.plan import Part, Plan
from previa.export.sources import is_file, row_of, rows

COLUMN = "task"
Progress = Callable[[str, int, int], None]
"""progress(what, done, total)"""


def materialise(
    plan: Plan, path: str | Path, *, column: str = COLUMN, progress: Progress | None = None
) -> str:
    """Write the ``plan.draw`` rows of a mixture to ``path``, k_t of each task, in an order that the seed decides; its sha256.

    A task's rows come in a random order, none a second time before each came once, and then in another order. ``column`` is
    added to each row, with the task's name. The seed and a task's name decide the order of its rows, whatever the others are.
    Some 16 bytes a row of the data and 2 a row of the mixture are held in memory, never the rows; formats other than JSON
    Lines take the room of a copy beside ``path`` while it is written. It appears whole or not at all.

    Raises FileError; InputError where a task has no file, another number of rows than planned, or such a column already.
    """
    path = Path(path)
    part_file = path.with_name(f"{path.name}.{os.getpid()}.part")
    for part in plan.parts:
        if not is_file(part.task.path):
            raise InputError(
                f"task {part.task.name!r}: mixed data can only be written from data files, but {part.task.path!r} is none. "
                f"Write its rows to a .jsonl file and give that: --data {part.task.name}=FILE."
            )
    digest = sha256()
    try:
        with ExitStack() as stack:
            lines = [stack.enter_context(_Lines(part, path.parent)) for part in plan.parts]
            draws = [
                _passes(len(each), _stream(plan.seed, part.task.name))
                for each, part in zip(lines, plan.parts, strict=True)
            ]
            out = stack.enter_context(part_file.open("wb"))
            for done, t in enumerate(_order(plan), start=1):
                line = lines[t].labelled(next(draws[t]), column)
                digest.update(line)
                out.write(line)
                if progress and (done % 4096 == 0 or done == plan.draw):
                    progress("mix rows", done, plan.draw)
        part_file.replace(path)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: the mixed data cannot be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            part_file.unlink(missing_ok=True)  # gone already where all went well
    return digest.hexdigest()


def _order(plan: Plan) -> Iterator[int]:
    """Which part each row of the mixture comes from: k_t times t, shuffled."""
    counts = [part.count for part in plan.parts]
    order = np.repeat(np.arange(len(counts), dtype=np.uint16), counts)
    _stream(plan.seed).shuffle(order)
    for start in range(0, len(order), 1 << 16):
        yield from order[start : start + (1 << 16)].tolist()


def _passes(N: int, stream: Generator) -> Iterator[int]:
    """The numbers 0 .. N - 1 in a random order, then in another one, for ever."""
    while True:
        order = stream.permutation(N)
        for start in range(0, N, 1 << 16):
            yield from order[start : start + (1 << 16)].tolist()


def _stream(seed: int, *names: str) -> Generator:
    digest = sha256("/".join((str(seed), "materialise", *names)).encode()).digest()
    return default_rng(int.from_bytes(digest[:16]))


@final
class _Lines:
    """The rows of a task's data file as lines of JSON at any place, by their offsets in the file, or in a copy of it."""

    def __init__(self, part: Part, folder: Path) -> None:
        self.task, self.folder = part.task, folder
        self._open = ExitStack()

    def __enter__(self) -> _Lines:
        file = self._open.enter_context(self._file())
        starts = np.fromiter(_starts(file), np.int64)
        self.starts: NDArray[np.int64] = starts
        if len(starts) != self.task.rows:
            self._open.close()
            raise InputError(
                f"task {self.task.name!r}: {self.task.path} has {len(starts):,} rows, not {self.task.rows:,} as planned. Has it "
                f"changed, or is --rows {self.task.name}=N wrong?"
            )
        self.bytes = self._open.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __len__(self) -> int:
        return len(self.starts)

    def labelled(self, row: int, column: str) -> bytes:
        """The row with the task's name in front, everything else as it is in the file, and a line end."""
        start = int(self.starts[row])
        end = self.bytes.find(b"\n", start)
        line = self.bytes[start : end if end >= 0 else None].removeprefix(BOM_UTF8).strip()
        found = row_of(line, f"{self.task.path}, row {row + 1}")
        if column in found:
            raise InputError(
                f"task {self.task.name!r}: its rows have a column {column!r} already. Name the one for the task otherwise: "
                "--task-column NAME."
            )
        label = json.dumps({column: self.task.name}, ensure_ascii=False)[:-1].encode()
        rest = line[1:].lstrip()
        return label + (b", " if found else b"") + rest + b"\n"

    def _file(self) -> IO[bytes]:
        path = Path(self.task.path)
        if path.suffix.lower() == ".jsonl":
            try:
                return path.open("rb")
            except OSError as error:
                raise FileError(f"{path}: this data file cannot be read: {error.strerror}.") from error
        copy = tempfile.TemporaryFile(dir=self.folder, prefix=".previa-")  # noqa: SIM115  it is handed on
        try:
            for row in rows(path):
                copy.write(_json_line(row, self.task.name) + b"\n")
            copy.flush()
            copy.seek(0)
        except BaseException:
            copy.close()
            raise
        return copy


def _starts(file: IO[bytes]) -> Iterator[int]:
    at = 0
    for line in file:
        if not line.isspace():
            yield at
        at += len(line)


def _json_line(row: dict[str, object], task: str) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError(
            f"task {task!r}: its rows hold a value that JSON cannot: {error}. Leave that column out, or write it as text."
        ) from error
