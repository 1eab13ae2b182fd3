"""Tensors that tasks do not share, such as classifiers of their own labels: found, and written for each task by itself."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from previa.errors import ParamsError
from previa.io.checkpoint import save_checkpoint
from previa.io.inputs import ONE_BASE, everyone, home, open_anchors, open_tasks, vocabularies
from previa.io.pickled import Stored
from previa.io.tied import tied
from previa.io.weightings import Anchor

FOLDER = "heads"


def unshared(
    base: str | Path | None,
    tasks: Mapping[str, str | Path],
    *,
    anchors: Sequence[Anchor] = (),
    allow_pickle: bool = False,
) -> tuple[str, ...]:
    """Names of the tensors that cannot be merged: ``merge_folders(keep=unshared(base, tasks))`` keeps them for each task.

    These are the tensors that some task, anchor or the base lacks, and those whose shape differs: heads for other labels, a head
    that finetuning added to the base, a pretraining head that it dropped. A head of one shape in all tasks and in the base
    is not among them, whatever its labels mean: name such ones yourself. Tied copies of shared tensors are not, either.
    Raises FileError; ParamsError where shapes differ because vocabularies do: those rows are shared, and do not match.
    """
    opened, prior = open_tasks(base, tasks, finite=False, allow_pickle=allow_pickle)
    checkpoints = everyone(opened, prior) | open_anchors(anchors, finite=False, allow_pickle=allow_pickle)
    copies = tied(checkpoints, (), None)
    names = dict.fromkeys(name for checkpoint in checkpoints.values() for name in checkpoint)
    found = []
    for name in names:
        holders = {where: checkpoint for where, checkpoint in checkpoints.items() if name in checkpoint}
        (where, first), *others = holders.items()
        for other, checkpoint in others:
            why = vocabularies(name, checkpoint, first)
            if checkpoint.shape_of(name) != first.shape_of(name) and why:
                raise ParamsError(
                    f"{other}: tensor {name!r} has shape {checkpoint.shape_of(name)}, but that of {where} has "
                    f"{first.shape_of(name)}. {why}"
                )
        alike = len({checkpoint.shape_of(name) for checkpoint in holders.values()}) == 1
        if name not in copies and not (alike and len(holders) == len(checkpoints)):
            found.append(name)
    if len(found) == len(names):
        raise ParamsError(
            f"merge: no tensor has one name and shape in all of {', '.join(checkpoints)}. {ONE_BASE} Was one of them saved "
            "without its head, under names without a prefix?"
        )
    return tuple(found)


def write_heads(
    folder: Path, tasks: Mapping[str, Stored], kept: Collection[str], dtype: torch.dtype | None
) -> tuple[str, ...]:
    """Write each task's kept tensors to folder/heads/<task>.safetensors, and its config.json beside it; the tasks with any."""
    written = []
    for task, checkpoint in tasks.items():
        own = [name for name in checkpoint if name in kept]
        if not own:
            continue
        (folder / FOLDER).mkdir(exist_ok=True)
        save_checkpoint(folder / FOLDER / f"{task}.safetensors", _Some(checkpoint, own), dtype=dtype)
        source = home(checkpoint.path)
        if source is not None and (source / "config.json").is_file():
            shutil.copyfile(source / "config.json", folder / FOLDER / f"{task}.json")
        written.append(task)
    return tuple(written)


@final
class _Some(Mapping[str, Tensor]):
    """Some tensors of a checkpoint, read when asked for."""

    def __init__(self, checkpoint: Stored, names: list[str]) -> None:
        self._checkpoint, self._names = checkpoint, names
        self.shape_of, self.dtype_of = checkpoint.shape_of, checkpoint.dtype_of

    def __getitem__(self, name: str) -> Tensor:
        return self._checkpoint[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
