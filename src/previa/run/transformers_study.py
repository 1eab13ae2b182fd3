"""A study's ingredients from folders of transformers: base or adapter, rows, scorers, and every task's own checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

from torch import Tensor
from torch.nn import Module, Parameter

from previa.data.files import Rows
from previa.errors import FileError, InputError, StudyError
from previa.run.folders import Folders, is_head
from previa.run.held_out import HeldOut, held_out
from previa.run.hf_rows import loss_of
from previa.run.one_base import check_adapters, check_words
from previa.run.records import digest_of, digest_of_code
from previa.run.resolve import Ingredients, examples, importable, modules
from previa.run.rows import FUNCTION, rows_of
from previa.run.square_pass import Task, examples_of
from previa.run.text_scores import Scored, score_of, scored_alone
from previa.run.tokens import Example
from previa.run.transformers_model import ADAPTER, Loaded, import_transformers, load_model
from previa.run.transformers_squares import DTYPES, freeze
from previa.run.transformers_tasks import auto_class, task_of
from previa.study.file import Study
from previa.study.settings import TaskSettings, TransformersSettings


@final
@dataclass(frozen=True)
class TaskRows:
    """A task's training examples, tokenised: a data set that collates its own batches."""

    task: Task
    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    def collate(self, chosen: Sequence[Example]) -> Any:
        """The batch that the losses take."""
        return self.task.collate(chosen)

    def digest(self) -> str:
        """A name for what the examples hold; pictures in files count by their names."""
        return digest_of(dict(example.inputs) for example in self.examples)


def load_folders(study: Study) -> Ingredients:
    """The ingredients of a study with [transformers].

    Raises StudyError, FileError, InputError, ParamsError, MissingExtraError: what is wrong with a folder, a key or a row.
    """
    settings = study.transformers
    assert settings is not None
    auto = auto_class(settings.task_type)
    check_adapters(study)
    loaded, reason = _model(study, settings, auto)
    freeze(loaded.model, settings.frozen, "[transformers] frozen:")
    heads = _heads(study, settings, loaded, auto)
    tasks: dict[str, Task] = {}
    data: dict[str, tuple[Any, Any]] = {}
    with importable(study.folder):
        for task in study.tasks:
            tasks[task.name], train, test = _read(study, task, loaded, heads.get(task.name, {}))
            named = task.score or study.score
            own = score_of(named, settings.task_type, study.folder, max_new_tokens=settings.max_new_tokens)
            data[task.name] = train, Scored(test, own, heads.get(task.name, {}))
    rows = [place for task in study.tasks for place in (task.data, task.train, task.test)]
    code = _code(settings.task_type, *rows)
    check_words(study, settings, loaded)
    folders = Folders(loaded, settings, auto, tasks, code, heads, _no_start(settings, reason))
    scores = [study.score, *(task.score for task in study.tasks)]
    loss = loss_of(next(iter(tasks.values())))
    return Ingredients(study, loaded.model, data, loss, scored_alone, {**code, **_code(*scores)}, folders)


def _model(study: Study, settings: TransformersSettings, auto: str | None) -> tuple[Loaded, str | None]:
    """The live model: the base, or the adapter on it, as it was before any training; and why nothing can start from it.

    Where there is no such model, the first checkpoint instead: it has the head, the classes and the adapter's settings.
    """
    base = study.folder / study.model
    if not (base / "config.json").is_file():
        raise FileError(
            f"{base}: no folder with a config.json; expected the base model's, as save_pretrained wrote it, for model in [study]."
        )
    brought = [task.checkpoint for task in study.tasks if task.checkpoint is not None]
    trained = study.truth.steps > 0 or len(brought) < len(study.tasks)
    read = partial(load_model, auto=auto, dtype=DTYPES[settings.dtype], device=settings.device)
    if settings.dtype != "fp32" and trained:
        raise StudyError(
            f"[transformers] dtype = {settings.dtype!r}: for previews of checkpoints only, since training here is in fp32. Leave "
            "dtype out, or set steps = 0 in [truth] and give every task its checkpoint."
        )
    reason = None
    if settings.adapter is not None:
        return read(settings.adapter, base=base), None
    if any((path / ADAPTER).is_file() for path in brought):
        reason = (
            "adapter is missing in [transformers]. Training and task arithmetic start from the adapter as it was before any "
            "training: save it with get_peft_model(...).save_pretrained(folder), train every task from it, and set adapter to "
            "that folder."
        )
    else:
        try:
            loaded = read(base)
            theirs = _config(brought[0]) if brought else loaded.model.config
            if getattr(theirs, "num_labels", 0) == getattr(loaded.model.config, "num_labels", 0):
                return loaded, None
            reason = f"{base}: has another number of classes than the tasks' checkpoints."
        except InputError as error:
            if not brought:
                raise
            reason = str(error)
    if trained or "task_arithmetic" in study.preview.methods:
        raise StudyError(f"model in [study]: {reason}")
    folder = brought[0]
    return read(folder, base=base if (folder / ADAPTER).is_file() else None), reason


def _config(folder: Path) -> Any:
    return import_transformers().AutoConfig.from_pretrained(folder, local_files_only=True)


def _no_start(settings: TransformersSettings, reason: str | None) -> tuple[str | None, str | None]:
    always = None
    if settings.heads:
        always = "with heads of their own, tasks are previewed, not trained here. Leave heads out of [transformers] to train."
    elif settings.dtype != "fp32":
        always = f"dtype = {settings.dtype!r} is for previews only. Leave it out of [transformers] to train."
    return always, reason


def _heads(
    study: Study, settings: TransformersSettings, loaded: Loaded, auto: str | None
) -> dict[str, dict[str, Tensor]]:
    """Each task's own head, and the model's frozen. Raises StudyError where a head would have to be trained."""
    if not settings.heads:
        return {}
    if (loaded.folder / ADAPTER).is_file():
        raise StudyError(
            "[transformers] heads: only of whole models; classifiers in an adapter are merged with it (modules_to_save)."
        )
    own: dict[str, Parameter] = {
        name: p for name, p in loaded.model.named_parameters() if is_head(name, settings.heads)
    }
    for head in settings.heads:
        if not any(is_head(name, [head]) for name in own):
            raise StudyError(
                f"[transformers] heads: {head!r} begins no name of the model's parameters, such as "
                f"{next(iter(loaded.model.named_parameters()))[0]!r}."
            )
    lacking = [task.name for task in study.tasks if task.checkpoint is None]
    if lacking or study.truth.steps:
        raise StudyError(
            "[transformers] heads: with heads of their own, tasks are previewed, not trained here. "
            + (f"Give task {lacking[0]!r} its checkpoint." if lacking else "Set steps = 0 in [truth].")
        )
    for parameter in own.values():
        parameter.requires_grad_(False)
    found = {}
    for task in study.tasks:
        assert task.checkpoint is not None
        theirs = load_model(task.checkpoint, auto).model
        found[task.name] = {
            name: p.detach() for name, p in theirs.named_parameters() if is_head(name, settings.heads)
        }
    return found


def _read(
    study: Study, task: TaskSettings, loaded: Loaded, head: Mapping[str, Tensor]
) -> tuple[Task, TaskRows, HeldOut]:
    settings = study.transformers
    assert settings is not None
    if task.data is not None:
        train, test = examples(f"data of task {task.name!r}", task.data, study.folder)
        places = (study.folder, study.folder)
    else:
        assert task.train is not None
        assert task.test is not None
        train, one = _rows(study, task, "train", task.train, task.train_split)
        test, other = _rows(study, task, "test", task.test, task.test_split)
        places = (one, other)
    reading = loaded
    if head and task.checkpoint is not None:  # classes are the task's own
        reading = _with_config(loaded, task.checkpoint)
    kinds = []
    for rows, folder in zip((train, test), places, strict=True):
        try:
            kinds.append(
                task_of(
                    settings.task_type, reading, rows, columns=task.columns or {}, folder=folder,
                    tokenizer=settings.tokenizer, max_length=settings.max_length,
                )
            )  # fmt: skip
        except InputError as error:
            raise InputError(f"task {task.name!r}: {error}") from error
    where = f"task {task.name!r}"
    try:
        chosen = examples_of(train, kinds[0]).chosen
    except InputError as error:
        raise InputError(f"{where}, train: {error}") from error
    kept = held_out(test, kinds[1], at_most=settings.test_items, seed=study.seed, where=f"{where}, test")
    return kinds[0], TaskRows(kinds[0], chosen), kept


def _rows(study: Study, task: TaskSettings, key: str, data: str, split: str) -> tuple[Rows, Path]:
    return rows_of(
        data, config=task.config, split=split, beside=study.folder, what=f"task {task.name!r}, {key}"
    )


def _code(*references: str | None) -> dict[str, str]:
    """module -> the version of its source, of the user's own that were imported for these."""
    names = modules(*(name for name in references if name and FUNCTION.fullmatch(name)))
    found = {name: digest_of_code(sys.modules[name]) for name in names if name in sys.modules}
    return {name: version for name, version in found.items() if version is not None}


def _with_config(loaded: Loaded, folder: Path) -> Loaded:
    """The same model, whose labels are those of another folder's configuration."""
    return Loaded(_Configured(_config(folder)), folder, loaded.base, loaded.in_files)


class _Configured(Module):
    """Stands for a model where only its configuration is looked at."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
