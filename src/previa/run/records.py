"""What a finished run rests on and took, in a small JSON file beside its tensors: it appears last, when all is there."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from previa.errors import FileError, InputError
from previa.fit.batches import tensors
from previa.run.draws import Source
from previa.run.scoring import describe

ROWS = 16  # examples, evenly spaced, that stand for a data set which is read one by one


@runtime_checkable
class Named(Protocol):
    """Data that has a name of its own for what it holds."""

    def digest(self) -> str:
        """Other numbers or texts have another one."""
        ...


def digest_of(values: Iterable[Any]) -> str:
    """A name for values of any kind: numbers, text, tensors, arrays, pictures and what nests them."""
    total = hashlib.blake2b(digest_size=8)
    for value in values:
        _add(total, value)
    return total.hexdigest()


def write_record(path: Path, facts: Mapping[str, Any], **found: Any) -> None:
    """Write {"facts": facts, **found} to ``path``, whole or not at all. Raises FileError where it cannot be written."""
    text = json.dumps({"facts": facts, **found}, indent=1, sort_keys=True, allow_nan=False)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise FileError(f"{path}: cannot be written: {error.strerror}.") from error


def read_record(path: Path, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """What write_record wrote for the same facts; None where there is nothing, or it rests on others."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # missing, or damaged: the run is done again
        return None
    same = isinstance(found, dict) and found.get("facts") == json.loads(json.dumps(facts))
    return found if same else None


def make_folder(path: Path) -> Path:
    """The folder, made when missing. Raises FileError where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"{path}: the folder cannot be made: {error.strerror}. Choose one that you may write."
        ) from error
    return path


def digest(*parts: Tensor) -> str:
    """A name for these numbers: other numbers have another one."""
    total = hashlib.blake2b(digest_size=8)
    for part in parts:
        total.update(f"{part.dtype}{tuple(part.shape)}".encode())
        total.update(part.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def digest_of_data(name: str, data: Any) -> str:
    """The same of a task's training examples: all of a tree of tensors or a list, ROWS of another data set.

    A data set whose examples differ from read to read, as with random augmentation, is known by its length only, and the
    digest says so. Raises InputError naming the task where the data is of no known form, or an example cannot be read.
    """
    source = Source(name, data)
    if source.tree:
        return digest(*tensors(source.data))
    if isinstance(data, Named):
        return data.digest()
    try:
        return _digest_of_rows(source.data)
    except Exception as error:
        raise InputError(f"task {name!r}: reading its data set failed: {describe(error)}.") from error


def digest_of_test(data: Any) -> str:
    """The same of test data, which only the score function has to understand: the name of its type where all else fails."""
    if isinstance(data, Named):
        return data.digest()
    sized = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    try:
        if sized and not isinstance(data, Mapping | tuple | Tensor | np.ndarray | str | bytes):
            return _digest_of_rows(data)
        total = hashlib.blake2b(digest_size=8)
        _add(total, data)
        return total.hexdigest()
    except Exception:  # it is the user's own type
        return type(data).__name__


def _digest_of_rows(data: Any) -> str:
    N = len(data)
    rows = (
        range(N) if isinstance(data, list) else sorted({round(i * (N - 1) / (ROWS - 1)) for i in range(ROWS)})
    )
    reads = []
    for read in range(2):
        total = hashlib.blake2b(f"{N}".encode(), digest_size=8)
        with _seeded(read):  # so that what is random differs, the same way in every process
            for row in rows if N else ():
                _add(total, data[row])
        reads.append(total.hexdigest())
    return reads[0] if reads[0] == reads[1] else f"{N} examples, other ones at each read"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Inside, the global random states are of this seed; outside, as before."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


def _add(total: hashlib.blake2b, value: Any) -> None:
    """Add a value to a digest: numbers, text, tensors, arrays and what nests them; of another type only its name."""
    if isinstance(value, Tensor):
        total.update(digest(value).encode())
    elif isinstance(value, Mapping):
        total.update(f"{{{len(value)}".encode())
        for key, part in value.items():
            _add(total, key)
            _add(total, part)
    elif isinstance(value, tuple | list):
        total.update(f"[{len(value)}".encode())
        for part in value:
            _add(total, part)
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes):
        total.update(f"{type(value).__name__} {value!r};".encode())
    elif hasattr(value, "__array__") or hasattr(value, "__array_interface__"):  # a picture, too
        array = np.asarray(value)
        if array.dtype.kind == "O":
            _add(total, array.tolist())
        else:
            total.update(f"{array.dtype}{array.shape}".encode())
            total.update(array.tobytes())
    else:
        total.update(type(value).__name__.encode())


def digest_of_code(module: ModuleType) -> str | None:
    """A name for what a module's source does: comments, layout and docstrings do not count; None where it has no file."""
    file = getattr(module, "__file__", None)
    try:
        source = Path(file).read_bytes() if file is not None else None
    except OSError:
        return None
    if source is None:
        return None
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # compiled, not written in Python
        return f"version {hashlib.blake2b(source, digest_size=8).hexdigest()}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            del node.body[0]
    return f"version {hashlib.blake2b(ast.dump(tree).encode(), digest_size=8).hexdigest()}"
