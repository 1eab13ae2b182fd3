"""How large a task is: the rows of its data file, and the mean number of supervised tokens in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from previa.errors import FileError, InputError, MissingExtraError
from previa.export.layouts import layout_of, supervised
from previa.export.sources import rows

Counter = Callable[[Sequence[str]], int]
"""The number of tokens in some texts together."""
_BATCH = 1000


@dataclass(frozen=True)
class Size:
    """rows N_t; tokens L_t, or None where no column is known to be learnt; columns of the first row; how L_t was counted."""

    rows: int
    tokens: float | None
    columns: tuple[str, ...]
    how: str


def words(texts: Sequence[str]) -> int:
    """Pieces between whitespace: right for shares where the tasks' texts are of one kind and language."""
    return sum(len(text.split()) for text in texts)


def tokenizer(folder: str | Path) -> Counter:
    """The tokens of a tokenizer folder, by its tokenizer.json, special tokens not counted. Raises FileError, MissingExtraError."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtraError(
            "--tokenizer needs the tokenizers library: pip install 'previa[hf]'."
        ) from error
    file = Path(folder) / "tokenizer.json"
    if not file.is_file():
        raise FileError(f"{file}: there is no such file. A tokenizer's folder should hold tokenizer.json.")
    try:
        read = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no exception of its own
        raise FileError(f"{file}: this tokenizer cannot be read: {error}.") from error
    read.no_truncation()
    read.no_padding()

    def count(texts: Sequence[str]) -> int:
        return sum(len(e.ids) for e in read.encode_batch(list(texts), add_special_tokens=False))

    return count


def size_of(name: str, path: str | Path, counter: Counter = words, *, column: str | None = None) -> Size:
    """One pass over a task's data file, with no more than some rows in memory.

    column: the one that is learnt; otherwise that of the layout of the first row: assistant turns, a completion, or text.
    Raises FileError; InputError where a row has no such column.
    """
    count, total, batch = 0, 0, list[str]()
    columns: tuple[str, ...] = ()
    learnt, turns = column, False
    for count, row in enumerate(rows(path), start=1):
        if count == 1:
            columns = tuple(row)
            layout = layout_of(columns)
            if layout and not column:
                learnt = layout.column
                turns = layout.kind == "chat"
        if learnt is None:
            continue
        if learnt not in row:
            raise InputError(
                f"task {name!r}: row {count} of {path} has no column {learnt!r}; found {', '.join(row)}. Its tokens cannot be "
                f"counted: name another column (--column {name}=COLUMN), or give their mean number (--tokens {name}=N)."
            )
        batch += supervised(row[learnt])
        if len(batch) >= _BATCH:
            total += counter(batch)
            batch.clear()
    if not count:
        raise InputError(f"task {name!r}: {path} has no rows.")
    total += counter(batch)
    if learnt is None:
        return Size(count, None, columns, "not counted")
    if not total:
        raise InputError(
            f"task {name!r}: column {learnt!r} of {path} holds no text that is learnt in any row. Name another one "
            f"(--column {name}=COLUMN), or give the mean number of tokens (--tokens {name}=N)."
        )
    what = "words" if counter is words else "tokens"
    return Size(
        count, total / count, columns, f"{what} in {'assistant turns of ' if turns else ''}{learnt!r}"
    )
