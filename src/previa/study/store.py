"""The results of one study in one SQLite file: one transaction a weighting, so that a kill loses at most that one.

Tables are in `_database`, facts in `_facts`, the bytes of per-item scores in `_items`. Others may read while one writes.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import InputError, StoreError
from previa.study import _database, _facts, _items, simplex
from previa.study.preview import Preview
from previa.study.table import write_csv

_NO_STATS: dict[str, float] = {}


class Store:
    """A study's results: `Store.open` to write, `Store.read` to read; a context manager that closes it."""

    def __init__(self, path: Path, connection: sqlite3.Connection, *, write: bool) -> None:
        """For `open` and `read`."""
        self.path, self._connection, self._write = path, connection, write
        self.tasks = tuple(str(name) for (name,) in self._rows("SELECT name FROM task ORDER BY position"))
        self.convention: str = self._fact("study", "convention", "")
        self.fingerprint: dict[str, Any] = self._fact("study", "fingerprint", {})
        self.provenance: dict[str, Any] = self._fact("study", "provenance", {})
        if not self.tasks or not self.convention:
            raise StoreError(
                f"{path}: this store names no tasks; the run that made it was ended early. Run it again."
            )

    @classmethod
    def open(
        cls, path: str | Path, *, tasks: Sequence[str], convention: str, fingerprint: Mapping[str, object],
        provenance: Mapping[str, object] | None = None,
    ) -> Self:  # fmt: skip
        """The store of the study with these facts, made when missing; provenance is added to what is noted already.

        Raises StoreError when the file is another study's (naming the facts that differ), of another schema, damaged
        or no store; FileError when it cannot be written.
        """
        path = Path(path)
        if isinstance(tasks, str) or not tasks or len(set(tasks)) != len(tasks):
            raise InputError(f"tasks should be different names, at least one. Found {tasks!r}.")
        if convention not in ("mean", "sum"):
            raise InputError(f"the convention should be 'mean' or 'sum'. Found {convention!r}.")
        facts = {"tasks": list(tasks), "convention": convention, "fingerprint": dict(fingerprint)}
        connection = _database.connect(path, write=True)
        try:
            with _database.guard(path), _database.transaction(connection):
                _facts.identify(connection, path, {**facts, "provenance": dict(provenance or {})})
            return cls(path, connection, write=True)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """An existing store, whatever study it is of, for reading only. Raises FileError or StoreError as `open` does."""
        path = Path(path)
        connection = _database.connect(path, write=False)
        try:
            return cls(path, connection, write=False)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Let go of the file; the store cannot be used afterwards."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def methods(self) -> tuple[str, ...]:
        """The methods of which anything is recorded, failures too, by name."""
        return tuple(name for (name,) in self._rows("SELECT DISTINCT method FROM weighting ORDER BY method"))

    def missing(self, method: str, alphas: ArrayLike) -> NDArray[np.intp]:
        """Which rows of alphas [A, T] this method has no score for; failed ones are missing. Raises AlphaError."""
        wanted = np.atleast_2d(simplex.check_alphas(alphas, len(self.tasks), where=method))
        done = {
            k for (k,) in self._rows("SELECT key FROM weighting WHERE method = ? AND message IS NULL", method)
        }
        return np.array(
            [i for i, alpha in enumerate(wanted) if simplex.key(alpha) not in done], dtype=np.intp
        )

    def record(
        self, method: str, alpha: ArrayLike, scores: Mapping[str, Any], *, seconds: float,
        stats: Mapping[str, float] = _NO_STATS,
    ) -> None:  # fmt: skip
        """Keep the scores of one weighting, in place of any that it had; safe from a kill when this returns.

        scores: each task's, higher is better, a number or one for each test item [N_t]. Raises NotFiniteError, ScoreError
        or InputError naming method, alpha and task; InputError also when N_t is not that of the method's other weightings.
        """
        row = self._weighting(method, alpha, None, seconds, stats)
        where = f"{method} at {simplex.show(alpha)}"
        values = _items.checked(scores, self.tasks, where=where)
        counts = [0 if items is None else len(items) for _, items in values]
        with self._change() as db:
            before = _counts(db, method)
            for task, n, had in zip(self.tasks, counts, before or counts, strict=True):
                if n != had:
                    raise InputError(
                        f"{where}, task {task!r}: found {n or 'no'} scores of test items, but earlier weightings have "
                        f"{had or 'none'}. If the test data changed, give the study another folder."
                    )
            if before is None:
                db.execute("INSERT OR REPLACE INTO fact VALUES ('items', ?, ?)", (method, json.dumps(counts)))
            number = _replace(db, row)
            cells = [(number, t, s, None if i is None else _items.pack(i)) for t, (s, i) in enumerate(values)]
            db.executemany("INSERT INTO score VALUES (?, ?, ?, ?)", cells)

    def fail(self, method: str, alpha: ArrayLike, message: str, *, seconds: float) -> None:
        """Keep why this weighting could not be scored; it stays missing. A score that it had is forgotten."""
        row = self._weighting(method, alpha, message or "failed", seconds, _NO_STATS)
        with self._change() as db:
            _replace(db, row)

    def failures(self, method: str) -> list[tuple[tuple[float, ...], str]]:
        """The weightings that failed, sorted, and why."""
        select = "SELECT alpha, message FROM weighting WHERE method = ? AND message IS NOT NULL"
        with _database.guard(self.path):
            return sorted(
                (tuple(json.loads(alpha)), message) for alpha, message in self._rows(select, method)
            )

    def declare(self, method: str, facts: Mapping[str, object]) -> int:
        """Say what this method's results rest on; if something else was said before, they are removed: how many.

        One transaction. Results recorded before anything was declared count as resting on something else.
        """
        new = _facts.to_json(dict(facts), f"the facts of {method}")
        with self._change() as db:
            old = db.execute(
                "SELECT value FROM fact WHERE kind = 'method' AND name = ?", (method,)
            ).fetchone()
            if old == (new,):
                return 0
            removed = db.execute("DELETE FROM weighting WHERE method = ?", (method,)).rowcount
            db.execute("INSERT OR REPLACE INTO fact VALUES ('method', ?, ?)", (method, new))
        return removed

    def facts(self, method: str) -> Any:
        """What was declared of this method, or None."""
        return self._fact("method", method, None)

    def preview(self, method: str) -> Preview:
        """All that is recorded of a method, sorted by alpha; failed weightings are NaN, seconds of each in its stats.

        Raises InputError when nothing is recorded of it, StoreError when what is stored cannot be read back.
        """
        select = (
            "SELECT id, alpha, seconds, stats FROM weighting WHERE method = ? ORDER BY key"  # as alpha does
        )
        with self._one_moment():
            rows = self._rows(select, method)
            cells = self._rows(
                "SELECT weighting, task, score, items FROM score JOIN weighting ON id = weighting WHERE method = ?",
                method,
            )
            with _database.guard(self.path):
                counts = _counts(self._connection, method) or []
        if not rows:
            raise InputError(
                f"{self.path}: nothing is recorded of {method!r}, only of {list(self.methods())}."
            )
        provenance = {**self.provenance, "method": method, "facts": self.facts(method)}
        provenance["convention"] = self.convention
        with _database.guard(self.path):
            return _items.assembled(self.tasks, counts or [0] * len(self.tasks), rows, cells, provenance)

    def add_seconds(self, name: str, seconds: float) -> None:
        """Add to the cost of a piece of work that is not a weighting, as "finetune/ivon"."""
        add = "INSERT INTO seconds VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
        with self._change() as db:
            db.execute(add, (name, float(seconds)))

    def seconds(self) -> dict[str, float]:
        """What was added by `add_seconds`, by name."""
        return dict(self._rows("SELECT name, value FROM seconds ORDER BY name"))

    def put(self, name: str, value: object) -> None:
        """Keep a small JSON fact, in place of any of that name. Raises InputError when it is no JSON data."""
        text = _facts.to_json(value, name)
        with self._change() as db:
            db.execute("INSERT OR REPLACE INTO fact VALUES ('user', ?, ?)", (name, text))

    def get(self, name: str, default: Any = None) -> Any:
        """The fact of this name, or the default."""
        return self._fact("user", name, default)

    def export_csv(self, path: str | Path) -> None:
        """All but the scores of single items as one table, see `table.write_csv`. Raises FileError."""
        write_csv(path, {method: self.preview(method) for method in self.methods()})

    def _weighting(
        self, method: str, alpha: ArrayLike, message: str | None, seconds: float, stats: Mapping[str, float]
    ) -> tuple[object, ...]:
        alpha = simplex.check_alphas(alpha, len(self.tasks), where=method)
        numbers = {k: float(v) if np.isfinite(v) else None for k, v in stats.items()}
        text = _facts.to_json(alpha, "alpha"), _facts.to_json(numbers, "stats")
        return method, simplex.key(alpha), text[0], message, float(seconds), text[1]

    def _fact(self, kind: str, name: str, default: Any) -> Any:
        rows = self._rows("SELECT value FROM fact WHERE kind = ? AND name = ?", kind, name)
        with _database.guard(self.path):
            return json.loads(rows[0][0]) if rows else default

    def _rows(self, select: str, *values: object) -> list[tuple[Any, ...]]:
        with _database.guard(self.path):
            return self._connection.execute(select, values).fetchall()

    @contextmanager
    def _one_moment(self) -> Iterator[None]:
        """Several selects that see the same rows, whatever is written meanwhile."""
        with _database.guard(self.path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        if not self._write:
            raise StoreError(
                f"{self.path}: this store was opened for reading (Store.read). Use Store.open to write."
            )
        with _database.guard(self.path), _database.transaction(self._connection):
            yield self._connection


def _replace(db: sqlite3.Connection, row: tuple[object, ...]) -> int | None:
    db.execute("DELETE FROM weighting WHERE method = ? AND key = ?", row[:2])
    insert = "INSERT INTO weighting (method, key, alpha, message, seconds, stats) VALUES (?, ?, ?, ?, ?, ?)"
    return db.execute(insert, row).lastrowid


def _counts(db: sqlite3.Connection, method: str) -> list[int] | None:
    """How many test items each task of a method has scores of, 0: only their mean; None where none is scored yet."""
    scored = "SELECT 1 FROM weighting WHERE method = ? AND message IS NULL LIMIT 1"
    if db.execute(scored, (method,)).fetchone() is None:
        return None
    known = db.execute("SELECT value FROM fact WHERE kind = 'items' AND name = ?", (method,)).fetchone()
    if known is not None:
        return [int(n) for n in json.loads(known[0])]
    older = db.execute("SELECT items FROM task ORDER BY position").fetchall()  # one number for all methods
    return [int(n or 0) for (n,) in older]
