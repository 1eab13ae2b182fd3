"""A folder that takes its name only when it is whole, and what had the name before, kept."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from previa.errors import FileError


@contextmanager
def folder_beside(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A new hidden folder that takes the name ``path`` when the block ends, and is removed when it raises.

    A killed process leaves at most this hidden ``.part`` folder. Missing parent folders are made. replace: what has the name
    is moved aside to ``<name>.old`` (or ``.old-2``, ...) in the last moment; nothing is ever deleted.
    Raises FileError where the name is taken by anything but an empty folder, or nothing can be written there.
    """
    check_free(path, replace=replace)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        yield part
        for each in (*part.rglob("*"), part):
            sync(each)
        if _taken(path):
            check_free(path, replace=replace)
            path.rename(aside(path))
        elif path.exists():
            path.rmdir()
        part.rename(path)
        sync(path.parent)
    except FileError:
        raise
    except OSError as error:
        raise FileError(
            f"{path}: cannot be written ({error.strerror}). Check the folder's permissions and free space; nothing under "
            "this name was changed."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_free(path: Path, *, replace: bool = False) -> None:
    """Raise FileError where the name is taken by a file, or by a folder with something in it that is not to be replaced."""
    if path.exists() and not path.is_dir():
        raise FileError(
            f"{path}: there is a file under this name; expected none, or a folder. Choose another name."
        )
    if _taken(path) and not replace:
        raise FileError(
            f"{path}: this folder exists and is not empty. Choose another name, or replace it (replace=True, --replace): the "
            f"old one is then moved to {aside(path).name}."
        )


def aside(path: Path) -> Path:
    """The first free name for what is replaced: path.old, path.old-2, ..."""
    number, other = 1, path.with_name(f"{path.name}.old")
    while other.exists():
        number += 1
        other = path.with_name(f"{path.name}.old-{number}")
    return other


def sync(path: Path) -> None:
    """A file, or the names in a folder, reach the disk, where the system can be told so of both."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _taken(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir())
