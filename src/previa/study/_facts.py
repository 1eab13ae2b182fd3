"""Facts as JSON: what a study's results rest on, written into its store and compared when it is opened again."""

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from previa.errors import InputError, StoreError

_ABSENT = object()


def identify(connection: sqlite3.Connection, path: Path, facts: Mapping[str, Any]) -> None:
    """Write the study's facts into a new store, or compare them with those of an old one; inside a transaction.

    facts: tasks, convention, fingerprint (those must be the same), provenance (added to the old one).
    Raises StoreError naming the facts that differ.
    """
    old = dict(connection.execute("SELECT name, value FROM fact WHERE kind = 'study'").fetchall())
    had: dict[str, Any] = {k: json.loads(v) for k, v in old.items()}
    has: dict[str, Any] = {k: json.loads(to_json(v, f"the study's {k}")) for k, v in facts.items()}
    has["provenance"] = had.pop("provenance", {}) | has["provenance"]
    if had:
        before, now = (
            {"tasks": f["tasks"], "convention": f["convention"], **f["fingerprint"]} for f in (had, has)
        )
        if changed := differences(before, now):
            raise StoreError(
                f"{path}: this store holds the results of another study: {'; '.join(changed)}. "
                f"Put that back, or give the study another output folder. Where only tasks changed, `previa revise` keeps what "
                f"still holds."
            )
    else:
        connection.executemany("INSERT INTO task (position, name) VALUES (?, ?)", enumerate(has["tasks"]))
    rows = [(k, to_json(v, k)) for k, v in has.items()]
    connection.executemany("INSERT OR REPLACE INTO fact VALUES ('study', ?, ?)", rows)


def to_json(value: object, what: str) -> str:
    """Canonical JSON: sorted keys, numpy numbers and arrays as plain ones. Raises InputError naming what it was."""
    try:
        return json.dumps(value, sort_keys=True, default=_plain, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{what} should be plain JSON data (finite numbers, text, lists): {error}."
        ) from error


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"found a {type(value).__name__}")


def differences(old: object, new: object, name: str = "") -> list[str]:
    """What changed between two JSON values: one "finetune.lr was 0.1 and is 0.05" for each fact, by name."""
    if isinstance(old, list) and isinstance(new, list) and any(isinstance(v, dict) for v in (*old, *new)):
        old, new = (dict(enumerate(values, start=1)) for values in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for k in sorted({**old, **new}):
            found += differences(old.get(k, _ABSENT), new.get(k, _ABSENT), f"{name}.{k}" if name else str(k))
        return found
    if old == new:
        return []
    was, now = ("absent" if v is _ABSENT else json.dumps(v, ensure_ascii=False) for v in (old, new))
    return [f"{name} was {was} and is {now}"]
