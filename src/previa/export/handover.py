"""Hand a plan over: the stack's own files, the mixed data where it is asked for, and a lock file of what they rest on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path

from previa import __version__
from previa.errors import FileError
from previa.export.indexed import index_of
from previa.export.materialise import COLUMN, Progress, materialise
from previa.export.plan import Plan
from previa.export.stack import MIXED, Handover, Stack


@dataclass(frozen=True, kw_only=True)
class Options:
    """counted: task -> how its tokens were; mixed: write the mixed data, too, with ``column`` for the task's name;
    overwrite: files of other content may be replaced. progress(what, done, total) is told of the mixed data's rows."""

    counted: Mapping[str, str]
    mixed: bool = False
    column: str = COLUMN
    overwrite: bool = False
    progress: Progress | None = None


def write(stack: Stack, plan: Plan, made: Handover, folder: str | Path, options: Options) -> tuple[Path, ...]:
    """Write what ``stack.export(plan, folder)`` made, and the lock file, last; their paths.

    The same plan gives the same bytes. Each file appears whole or not at all. Raises FileError, where a file of other content
    is there already, too, before anything is written; InputError of `materialise`.
    """
    folder, mixed = Path(folder), options.mixed or stack.mixed
    texts = {folder / name: text for name, text in made.files.items()}
    if not options.overwrite:
        _check_free(texts, folder / MIXED if mixed else None)
    written = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if mixed:
            written[folder / MIXED] = materialise(
                plan, folder / MIXED, column=options.column, progress=options.progress
            )
        for path, text in texts.items():
            written[path] = _put(path, text)
        lock = folder / f"{stack.name}.lock.json"
        digests = {path.relative_to(folder).as_posix(): digest for path, digest in written.items()}
        facts = {**facts_of(stack, plan, made, options.counted), "written": digests}
        _put(lock, json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    except FileError:
        raise
    except OSError as error:
        raise FileError(
            f"{error.filename or folder}: this cannot be written: {error.strerror}. Choose another folder with --out."
        ) from error
    return (*written, lock)


def facts_of(stack: Stack, plan: Plan, made: Handover, counted: Mapping[str, str]) -> dict[str, object]:
    """What a hand-over rests on, for its lock file: settings, and for each task sizes, share, rows drawn and its data's sha256."""
    return {
        "previa": __version__,
        "stack": stack.name,
        "number_means": stack.number,
        "alpha": {task.name: task.alpha for task in plan.tasks},
        "convention": plan.convention,
        "average": plan.average,
        "seed": plan.seed,
        "draw": plan.draw,
        "tasks": [
            {
                "name": part.task.name,
                "path": part.task.path,
                "sha256": digest_of(part.task.path),
                "rows": part.task.rows,
                "tokens_per_row": part.task.tokens,
                "counted": counted.get(part.task.name, "given"),
                "share": part.share,
                "token_share": part.token_share,
                "count": part.count,
                "epochs": part.epochs,
                "number": made.numbers.get(part.task.name),
            }
            for part in plan.all_parts
        ],
    }


def digest_of(path: str) -> str | None:
    """The sha256 of a data file, or of the index of a Megatron data set; None for what is not here. Raises FileError."""
    file = next((each for each in (Path(path), index_of(path)) if each.is_file()), None)
    if file is None:
        return None
    try:
        with file.open("rb") as stream:
            return file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise FileError(f"{file}: this data file cannot be read: {error.strerror}.") from error


def _check_free(texts: Mapping[Path, str], mixed: Path | None) -> None:
    for path, text in texts.items():
        if path.exists() and not (path.is_file() and path.read_bytes() == text.encode()):
            raise FileError(
                f"{path}: it is there already, with other content. Choose another folder with --out, or replace it with "
                "--overwrite."
            )
    if mixed is not None and mixed.exists():
        raise FileError(
            f"{mixed}: mixed data is there already. Choose another folder with --out, or replace it with --overwrite."
        )


def _put(path: Path, text: str) -> str:
    data = text.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)  # gone already where all went well
    return sha256(data).hexdigest()
