"""Merge model folders as transformers saves them into folders that it loads, for several weightings in one pass."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import final

import torch

from previa.errors import InputError
from previa.io.carry import Carried, carry, find_carried
from previa.io.folder import check_free, folder_beside
from previa.io.heads import FOLDER, write_heads
from previa.io.inputs import home
from previa.io.merging import Merging, Sources, prepare, write_merged
from previa.io.shards import SHARD_SIZE, shards_of, write_index
from previa.io.tokens import check_tokens

RECORD = "previa.json"


@final
@dataclass(frozen=True)
class Form:
    """What the merged folders are like. Raises InputError for a size below one byte.

    dtype: of floating-point tensors; None is the base's, or the first task's. shard_size: bytes of a file at most.
    replace: a folder that has the name is moved aside to ``<name>.old``.
    """

    dtype: torch.dtype | None = None
    shard_size: int = SHARD_SIZE
    replace: bool = False

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise InputError(f"merge: shard_size is {self.shard_size}; expected bytes, such as {SHARD_SIZE}.")


PLAIN = Form()


@final
@dataclass(frozen=True)
class MergedFolder:
    """A folder that was written, and what is to be said of it; the same is in its previa.json."""

    out: Path
    alpha: Mapping[str, float]
    gamma: float  # 1 - sum(alpha), the weight of the base
    p: float  # the tasks' weights are alpha^p, normalised
    anchors: tuple[Mapping[str, object], ...]
    """{"alpha": what it was trained at, "from": its path, "weight": how much what is missed there counts here} of each"""
    files: int  # safetensors files of the model
    kept: tuple[str, ...]  # tensors that are not in the model, but in heads/<task>.safetensors
    tied: Mapping[str, str]  # tensor -> the one that it is a copy of in every checkpoint that stores it
    notes: tuple[str, ...]  # sentences


def merge_folders(
    sources: Sources, alphas: Sequence[Sequence[float]], outs: Sequence[str | Path], form: Form = PLAIN
) -> tuple[MergedFolder, ...]:
    """Write a folder with the preview model at each of ``alphas``: the mode of p0^gamma * prod_t q_t^alpha_t (eq. 5).

    sources: base, tasks, precisions, prior, p and anchors as merge_checkpoints has them, each a folder or a file; ``keep`` are patterns of
    tensors that tasks do not share, such as ``classifier.*``: they are not averaged, and each task's are written to
    heads/<task>.safetensors (see unshared for finding them). alphas: [A, T], in the order of tasks. outs: [A].
    Every input tensor is read once for all weightings, a piece at a time, and summed in float64. config.json and the
    tokenizer's files come from the base, or from the first task that has them; config.json then says the dtype written.
    A folder takes its name when it is whole; what a killed run leaves is hidden and named ``.<name>.<...>.part``.
    Raises FileError, AlphaError, ParamsError, NotFiniteError, PrecisionError, InputError; then no folder is left.
    """
    paths = [_named(Path(out)) for out in outs]
    if len(paths) != len(alphas) or len({path.absolute() for path in paths}) < len(paths):
        raise InputError(
            f"merge: {len(alphas)} weightings and {len(paths)} folders to write, {[str(path) for path in paths]}; expected one "
            "folder of its own for each weighting."
        )
    for path in paths:
        check_free(path, replace=form.replace)
    merging = prepare(sources, alphas, form.dtype)
    homes = _homes(merging)
    check_tokens(homes)
    carried = find_carried(list(homes.values()))
    shards = shards_of(merging.specs, form.shard_size)
    with ExitStack() as stack:
        folders = [stack.enter_context(folder_beside(path, replace=form.replace)) for path in paths]
        write_merged(merging, shards, [[folder / shard.file for shard in shards] for folder in folders])
        found = []
        for row, (folder, path) in enumerate(zip(folders, paths, strict=True)):
            write_index(folder, shards)
            carry(carried, folder, merging.specs)
            heads = write_heads(folder, merging.inputs.tasks, merging.inputs.kept, form.dtype)
            merged = MergedFolder(
                path,
                merging.weights.alpha(row),
                merging.weights.gammas[row],
                merging.weights.p,
                merging.weights.anchors_at(row),
                len(shards),
                merging.inputs.kept,
                merging.inputs.tied,
                _notes(merging, carried, homes, heads),
            )
            _write_record(folder, merged, sources)
            found.append(merged)
    return tuple(found)


def _homes(merging: Merging) -> dict[str, Path]:
    """The model folders of the inputs by what errors call them, the base first. Raises InputError for an adapter."""
    found = {}
    for where, checkpoint in merging.inputs.everyone.items():
        folder = home(checkpoint.path)
        if folder is not None and (folder / "adapter_config.json").is_file():
            raise InputError(
                f"{where}: {folder} is an adapter of peft, not a model. Merge adapters with previa.io.adapter.merge_adapters "
                "(previa merge takes it when all tasks are adapters), or save the tasks with merge_and_unload()."
            )
        if folder is not None:
            found[where] = folder
    return found


def _notes(
    merging: Merging, carried: Carried, homes: Mapping[str, Path], heads: Sequence[str]
) -> tuple[str, ...]:
    inputs, notes = merging.inputs, []
    if inputs.kept:
        size = sum(
            math.prod(inputs.tasks[task].shape_of(n))
            for task in heads
            for n in inputs.kept
            if n in inputs.tasks[task]
        )
        where = (
            ", ".join(f"{FOLDER}/{task}.safetensors" for task in heads)
            or "no file, since only the base has them"
        )
        notes.append(
            f"Kept for each task, not averaged: {', '.join(inputs.kept)} ({size:,} entries), in {where}."
        )
    notes.extend(
        f"Tied: {name} is a copy of {target} wherever it is stored, and is merged as that."
        for name, target in inputs.tied.items()
    )
    if merging.weights.p != 1:
        notes.append(f"The tasks' weights are alpha^{merging.weights.p:g}, normalised.")
    if merging.weights.anchors:
        notes.append(
            f"Anchored at joint runs: {', '.join(str(anchor.path) for anchor in merging.weights.anchors)}."
        )
    names = {folder: where for where, folder in reversed(tuple(homes.items()))}
    if carried.config is None:
        notes.append(
            "No config.json beside the base or a task, so from_pretrained cannot load the folder: copy the model's into it."
        )
    else:
        notes.append(f"config.json is that of {names[carried.config]}.")
    if carried.tokenizer is not None:
        notes.append(f"Tokenizer files are those of {names[carried.tokenizer]}.")
    return tuple(notes)


def _write_record(folder: Path, merged: MergedFolder, sources: Sources) -> None:
    """previa.json: what the folder holds, for people and other programs."""
    record = {
        "previa": version("previa"),
        "alpha": dict(merged.alpha),
        "gamma": merged.gamma,
        "p": merged.p,
        "anchors": list(merged.anchors),
        "precisions": sources.precisions is not None,
        "prior_precision": sources.prior_precision,
        "kept": list(merged.kept),
        "tied": dict(merged.tied),
        "notes": list(merged.notes),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _named(path: Path) -> Path:
    """The path with a name of its own: what ``.`` and ``..`` stand for."""
    return path.resolve() if path.name in ("", "..") else path
