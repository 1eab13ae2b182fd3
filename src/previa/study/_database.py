"""The SQLite file under a store: its tables, how it is opened, and every failure of it as one sentence."""

import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from previa.errors import FileError, PreviaError, StoreError

SCHEMA = 1
APPLICATION = 0x70726576  # "prev", in the file's header: tells a store from any other SQLite file
PATIENCE = 30.0  # seconds to wait for another process's transaction

TABLES = f"""
CREATE TABLE fact (kind TEXT, name TEXT, value TEXT, PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE TABLE task (position INTEGER PRIMARY KEY, name TEXT UNIQUE, items INTEGER);
CREATE TABLE seconds (name TEXT PRIMARY KEY, value REAL) WITHOUT ROWID;
CREATE TABLE weighting (
  id INTEGER PRIMARY KEY, method TEXT, key TEXT, alpha TEXT, message TEXT, seconds REAL, stats TEXT, UNIQUE (method, key)
);
CREATE TABLE score (
  weighting INTEGER REFERENCES weighting ON DELETE CASCADE, task INTEGER REFERENCES task, score REAL, items BLOB,
  PRIMARY KEY (weighting, task)
) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {SCHEMA};
"""


def connect(path: Path, *, write: bool) -> sqlite3.Connection:
    """A connection to the store's file, of this schema; with write, made when missing (or left empty by a kill).

    Raises FileError when the folder or file cannot be written or read, StoreError when it is no store of this schema.
    """
    if write:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{path}: its folder cannot be made: {error.strerror}.") from error
    elif not path.is_file():
        raise FileError(f"{path}: there is no such file. Has the study been run?")
    with guard(path):
        connection = _opened(path, write=write)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            if write and _empty(connection):
                _write_ahead(connection)
                with transaction(connection):
                    if _empty(connection):  # still: another process may have been first
                        for statement in TABLES.split(";\n"):
                            connection.execute(statement)
            _check(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _opened(path: Path, *, write: bool) -> sqlite3.Connection:
    uri = path.resolve().as_uri()
    connection = sqlite3.connect(
        f"{uri}?mode={'rwc' if write else 'rw'}", uri=True, timeout=PATIENCE, isolation_level=None
    )
    try:
        if write:
            connection.execute("PRAGMA synchronous = NORMAL")  # with WAL: safe against a kill at any time
        else:  # not mode=ro, which leaves its lock files beside the store
            connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return connection
    except sqlite3.DatabaseError as error:
        connection.close()
        log = path.with_name(path.name + "-wal")
        if write or _name(error) not in {"CANTOPEN", "READONLY"}:
            raise
        if log.exists() and log.stat().st_size:
            raise StoreError(
                f"{path}: its folder is read-only, and '{log.name}' beside it holds results that are not yet in it. "
                f"Copy both files to a folder where you may write, and read them there."
            ) from error
        # All is in the file itself, but SQLite may not put its lock file beside it: nobody can be writing.
        return sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True, isolation_level=None)


def _write_ahead(connection: sqlite3.Connection) -> None:
    """The journal mode of the store. SQLite does not wait for another process's lock here, so this does."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if _name(error) != "BUSY" or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _empty(connection: sqlite3.Connection) -> bool:
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return (
        not tables and not _pragma(connection, "user_version") and not _pragma(connection, "application_id")
    )


def _pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _check(connection: sqlite3.Connection, path: Path) -> None:
    if _pragma(connection, "application_id") != APPLICATION:
        what = "an empty file" if _empty(connection) else "an SQLite file of another program"
        raise StoreError(
            f"{path}: this is {what}, no result store of previa. It was left as it is; use another path."
        )
    found = _pragma(connection, "user_version")
    if found != SCHEMA:
        raise StoreError(
            f"{path}: this store has schema {found}, and this version of previa reads schema {SCHEMA}. "
            f"Use the version of previa that wrote it, or give the study another folder."
        )
    if (damage := _pragma(connection, "quick_check")) != "ok":
        raise StoreError(_damaged(path, str(damage).splitlines()[-1]))


def _damaged(path: Path, detail: str) -> str:
    return (
        f"{path}: this store is damaged ({detail}). It was left as it is; bring back a copy of it, "
        f"or move it away and run again."
    )


@contextmanager
def guard(path: Path) -> Iterator[None]:
    """Whatever SQLite says inside, as a StoreError or FileError that names the file and what to do."""
    try:
        yield
    except (PreviaError, sqlite3.ProgrammingError):  # the latter is a caller's slip: a store used once closed
        raise
    except sqlite3.Error as error:
        name = _name(error)
        if name == "NOTADB":
            raise StoreError(
                f"{path}: this is no result store of previa (no SQLite file). It was left as it is; use another path."
            ) from error
        if name in {"BUSY", "LOCKED"}:
            raise StoreError(
                f"{path}: another process has kept this store locked for {PATIENCE:.0f} s. Wait for it, or end it."
            ) from error
        if name in {"CANTOPEN", "READONLY", "PERM", "FULL"}:
            verb = "opened" if name == "CANTOPEN" else "written"
            raise FileError(
                f"{path}: this file cannot be {verb} ({error}). Is the folder writable, and the disk not full?"
            ) from error
        raise StoreError(_damaged(path, str(error))) from error
    except (ValueError, zlib.error) as error:  # what is stored does not read as what was written
        raise StoreError(_damaged(path, str(error))) from error
    except OSError as error:
        raise FileError(f"{path}: this file cannot be read or written: {error.strerror}.") from error


def _name(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", "SQLITE_ERROR")).split("_")[1]


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All inside, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
