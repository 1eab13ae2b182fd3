"""What is merged: the checkpoints of the tasks and the base, opened and held against each other."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, final

import torch

from previa.errors import InputError, ParamsError
from previa.io.checkpoint import WEIGHTS
from previa.io.pickled import WEIGHTS as PICKLED
from previa.io.pickled import Stored, open_stored
from previa.io.posterior_file import KEY
from previa.io.tied import tied
from previa.io.weightings import Anchor

BASE = "the base model"
ONE_BASE = "All tasks must come from one base model."


@final
@dataclass(frozen=True)
class Inputs:
    """Open checkpoints whose tensors have the same names and shapes, but for those that are kept out."""

    tasks: Mapping[str, Stored]
    base: Stored | None
    kept: tuple[str, ...]  # names that are not merged, of any checkpoint
    tied: Mapping[str, str]  # name -> the tensor that it is a copy of wherever it is stored
    anchors: Mapping[str, Stored] = field(default_factory=dict)  # by what errors call them

    @property
    def everyone(self) -> dict[str, Stored]:
        """All checkpoints by what errors call them."""
        return everyone(self.tasks, self.base) | dict(self.anchors)

    @property
    def model(self) -> Stored:
        """The base, or the first task: its names, order, shapes and dtypes are the result's."""
        return next(iter(self.tasks.values())) if self.base is None else self.base

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors of the result."""
        return tuple(name for name in self.model if name not in self.kept)

    def source(self, name: str) -> str:
        """The name under which every checkpoint holds this tensor."""
        return self.tied.get(name, name)


def everyone(tasks: Mapping[str, Stored], base: Stored | None) -> dict[str, Stored]:
    """The checkpoints by what errors call them, the base first."""
    found = {} if base is None else {BASE: base}
    return found | {f"task {task!r}": checkpoint for task, checkpoint in tasks.items()}


def open_tasks(
    base: str | Path | None, tasks: Mapping[str, str | Path], *, finite: bool, allow_pickle: bool
) -> tuple[dict[str, Stored], Stored | None]:
    """The checkpoints of tasks and base. Raises FileError; InputError where there is no task, or one is a posterior file."""
    if not tasks:
        raise InputError("merge: no tasks were given; expected at least one checkpoint.")
    opened = {
        task: open_stored(path, finite=finite, allow_pickle=allow_pickle) for task, path in tasks.items()
    }
    prior = None if base is None else open_stored(base, finite=finite, allow_pickle=allow_pickle)
    _check_kinds(everyone(opened, prior))
    return opened, prior


def open_anchors(anchors: Sequence[Anchor], *, finite: bool, allow_pickle: bool) -> dict[str, Stored]:
    """The checkpoints of joint runs by what errors call them. Raises as open_tasks."""
    found = {
        anchor.name: open_stored(anchor.path, finite=finite, allow_pickle=allow_pickle) for anchor in anchors
    }
    _check_kinds(found)
    return found


def _check_kinds(checkpoints: Mapping[str, Stored]) -> None:
    for where, checkpoint in checkpoints.items():
        if KEY in checkpoint.metadata:
            raise InputError(
                f"{where}: {checkpoint.path} is a posterior file, not a checkpoint. Give the checkpoint that it was made at, "
                "and this file as the task's precision."
            )


def matched(
    tasks: Mapping[str, Stored],
    base: Stored | None,
    keep: Sequence[str] = (),
    covered: Collection[str] | None = None,
    anchors: Mapping[str, Stored] | None = None,
) -> Inputs:
    """The checkpoints as one set of inputs. keep: patterns of names that are not merged, as ``classifier.*``.

    covered: names with a precision, where there are precisions. Nothing but what seems tied is read.
    Raises ParamsError naming task, tensor and both shapes where the others differ in names, shapes or integer dtypes;
    InputError for a pattern that matches nothing, or everything.
    """
    checkpoints = everyone(tasks, base) | dict(anchors or {})
    kept = _kept(checkpoints, keep)
    inputs = Inputs(tasks, base, kept, tied(checkpoints, kept, covered), anchors or {})
    if not inputs.names:
        raise InputError(f"merge: keep = {list(keep)} leaves nothing to merge. Give narrower patterns.")
    where, first = next(iter(checkpoints.items()))
    for other, checkpoint in checkpoints.items():
        _check(other, checkpoint, f"those of {where}", first, inputs)
    return inputs


def _kept(checkpoints: Mapping[str, Stored], keep: Sequence[str]) -> tuple[str, ...]:
    names = dict.fromkeys(name for checkpoint in checkpoints.values() for name in checkpoint)
    for pattern in keep:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(
                f"merge: the pattern {pattern!r} of what is kept matches no tensor; names are such as {', '.join(list(names)[-2:])}."
            )
    return tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in keep))


def _check(where: str, found: Stored, others: str, model: Stored, inputs: Inputs) -> None:
    """Raise ParamsError unless ``found`` has the names, shapes and kinds of ``model``, but for what is kept or tied."""
    free = {*inputs.kept, *inputs.tied}
    missing = [name for name in model if name not in free and name not in found]
    extra = [name for name in found if name not in free and name not in model]
    more = f" (and {len(missing or extra) - 1} more)" if len(missing or extra) > 1 else ""
    if missing:
        raise ParamsError(
            f"{where}: tensor {missing[0]!r} is missing{more}; {others} have it. {ONE_BASE} {_remedy(missing[0], found, model)}"
        )
    if extra:
        raise ParamsError(
            f"{where}: tensor {extra[0]!r} is not in {others}{more}. {ONE_BASE} {_remedy(extra[0], found, model)}"
        )
    for name in found:
        if name in free:
            continue
        shapes = found.shape_of(name), model.shape_of(name)
        if shapes[0] != shapes[1]:
            raise ParamsError(
                f"{where}: tensor {name!r} has shape {shapes[0]}, but {others} have {shapes[1]}. "
                + (vocabularies(name, found, model) or f"{ONE_BASE} {_head(name)}")
            )
        kinds = found.dtype_of(name), model.dtype_of(name)
        if kinds[0] != kinds[1] and not all(kind.is_floating_point for kind in kinds):
            raise ParamsError(
                f"{where}: tensor {name!r} is {kinds[0]}, but {others} are {kinds[1]}. Store one dtype."
            )


def vocabularies(name: str, one: Stored, other: Stored) -> str:
    """The reason and the remedy where two shapes differ because vocabularies do; empty where they do not."""
    shapes = one.shape_of(name), other.shape_of(name)
    if not shapes[0] or not shapes[1] or shapes[0][1:] != shapes[1][1:]:
        return ""
    rows = shapes[0][0], shapes[1][0]
    said = tuple(_setting(checkpoint, "vocab_size") for checkpoint in (one, other))
    if said != rows and not any(
        word in name.lower() for word in ("embed", "wte", "lm_head", "shared.weight")
    ):
        return ""
    return (
        f"Their vocabularies have {rows[0]} and {rows[1]} tokens, so tokens were added for one of them, and rows of one have no "
        "partner in the other. If the first rows mean the same tokens, bring all to one size before finetuning "
        f"(model.resize_token_embeddings({max(rows)})) or, where the added tokens are not needed, cut the larger one "
        f"(model.resize_token_embeddings({min(rows)})) and save it again with the common tokenizer."
    )


def settings(checkpoint: Stored) -> Mapping[str, Any]:
    """What config.json beside a checkpoint says; empty where there is none that can be read."""
    folder = home(checkpoint.path)
    try:
        found = json.loads((folder / "config.json").read_text("utf-8")) if folder else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def home(path: Path) -> Path | None:
    """The model's folder: the path itself, or that of a weights file with a usual name."""
    if path.is_dir():
        return path
    return path.parent if path.name in (*WEIGHTS, *PICKLED) else None


def _setting(checkpoint: Stored, name: str) -> Any:
    found = settings(checkpoint)
    nested = found.get("text_config")
    return found.get(name, nested.get(name) if isinstance(nested, dict) else None)


def _remedy(name: str, *both: Stored) -> str:
    """What to do about a tensor that one of two checkpoints lacks."""
    ties = [_setting(checkpoint, "tie_word_embeddings") for checkpoint in both]
    words = ("lm_head", "embed", "decoder.weight")
    if any(word in name.lower() for word in words) and ties != [None, None]:
        said = ["nothing" if tie is None else str(tie).lower() for tie in ties]
        return (
            f"Its config.json says tie_word_embeddings = {said[0]}, the other one {said[1]}: a tied tensor is stored "
            "once, under the embeddings' name, and here the stored one is no copy of them. Tie or untie it in all tasks "
            "(model.config.tie_word_embeddings), finetune, and save again."
        )
    return _head(name)


def _head(name: str) -> str:
    module = name.rpartition(".")[0] or name
    return (
        "Was a token or a class added for one of them? A head that tasks do not share is kept, not merged: "
        f"keep=['{module}*'] (--keep '{module}*')."
    )


def check_dtype(dtype: torch.dtype | None) -> None:
    """Raise InputError for a dtype that weights cannot have."""
    if dtype is not None and not dtype.is_floating_point:
        raise InputError(
            f"merge: dtype is {dtype}; expected one for weights, such as torch.float32 or torch.bfloat16."
        )
