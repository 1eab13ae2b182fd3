"""Keys of a study file that must go together: what single sections cannot know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from previa.errors import StudyError
from previa.study import _checks
from previa.study._checks import reference
from previa.study.settings import ANCHORED, TaskSettings

if TYPE_CHECKING:
    from previa.study.file import Study

ROWS = ("train", "test", "columns", "config", "train_split", "test_split", "score")
"""Keys of a [[task]] whose data are rows."""


def check_kind(study: Study, where: str) -> None:
    """Raise StudyError where keys of a study of functions and of one of folders are mixed."""
    if study.transformers is None:
        keys = {"model": study.model, "score": study.score}
        for name, value in keys.items():
            try:
                _ = value if value is None else reference(value)
            except _checks.WrongValueError as wrong:
                also = (
                    " A folder of transformers needs the section [transformers]." if name == "model" else ""
                )
                raise StudyError(
                    f"{where}, [study]: {name} should be {wrong}. Found {value!r:.80}.{also}"
                ) from wrong
        for i, task in enumerate(study.tasks, start=1):
            if task.data is None:
                raise StudyError(
                    f"{where}, [[task]] number {i}: the key 'data' is missing. Add a line: data = ..."
                )
            rows = [k for k in ROWS if getattr(task, k) != getattr(TaskSettings(""), k)]
            if rows:
                raise StudyError(
                    f"{where}, [[task]] {task.name!r}: {rows[0]} is for rows of a study with the section [transformers]; here "
                    "data = 'module:function' gives both."
                )
        return
    for name in ("loss", "pretrain"):
        if getattr(study, name) is not None:
            raise StudyError(
                f"{where}: {name} is for models made by a function. With [transformers] the loss is that of task_type, or "
                "your own as task_type = 'module:loss', and the base is what the folder holds."
            )
    for task in study.tasks:
        both, any_rows = task.train and task.test, task.train or task.test
        if any_rows if task.data is not None else not both:
            raise StudyError(
                f"{where}, [[task]] {task.name!r}: give train = ... and test = ..., a file of rows or a data set each, or "
                "data = 'module:function' for both."
            )


def check_subsets(study: Study, where: str) -> None:
    """Raise StudyError where subsets of the mixture are not of its snapshots, or nothing previews them."""
    if study.mixture.subsets and "mixture" not in study.preview.methods:
        raise StudyError(
            f"{where}: subsets are previewed as mixtures, but methods of [preview] has no 'mixture'. Add it there, or leave "
            "subsets out."
        )
    kept = study.snapshot_steps()
    sizes = {len(kept)}
    for steps in study.mixture.subsets:
        for step in steps:
            if step not in kept:
                raise StudyError(
                    f"{where}: subsets holds step {step}, after which no snapshot is kept. With these steps of [finetune] "
                    f"and snapshots they are kept after {', '.join(map(str, kept))}."
                )
        if len(steps) in sizes:
            raise StudyError(
                f"{where}: subsets should be of different sizes, by which they are named, and smaller than all "
                f"{len(kept)} snapshots. Found {len(steps)} snapshots, {list(steps)}."
            )
        sizes.add(len(steps))


def check_previews(study: Study, where: str) -> None:
    """Raise StudyError where a sharpened preview lacks its family, which is always previewed beside it, or anchors theirs."""
    for name in study.sharpened():
        family = name.rpartition("_")[0]
        if family and family not in study.families():
            raise StudyError(
                f"{where}: methods has {name!r}, but not {family!r}, at p = 1 beside it. Add {family!r}."
            )
    if study.anchors and not any(name.endswith(ANCHORED) for name in study.sharpened()):
        raise StudyError(
            f"{where}: there is an [[anchor]], but methods has no 'anchored', which is what anchors serve. Add it."
        )
    if not study.families():
        raise StudyError(
            f"{where}: methods has no family of posteriors to build on, only {', '.join(study.previews())}. Add one, such as "
            "'simple'."
        )
