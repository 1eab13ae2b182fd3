"""What a finished run rests on and took, in a small JSON file beside its tensors: it appears last, when all is there."""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from previa.errors import FileError
from previa.fit.batches import tensors
from previa.run.draws import Source


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
    """The same of a task's examples; of a data set that is no tensors, only its length."""
    source = Source(name, data)
    return digest(*tensors(data)) if source.tree else f"{len(source)} examples"


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
