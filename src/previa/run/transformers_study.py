"""A study's ingredients from folders of transformers: base or adapter, rows, scorers, and every task's own checkpoint."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Generator, Tensor
from torch.nn import Module, Parameter

from previa.core.diagonal import Diagonal
from previa.core.params import Flat, Params
from previa.data.files import Rows
from previa.errors import FileError, InputError, ParamsError, StudyError
from previa.fit.labels import Labels
from previa.io.adapter_folder import open_adapter
from previa.io.adapter_match import check_same_factors, check_settings, common_initialisation
from previa.io.carry import Carried, carry, find_carried
from previa.io.checkpoint import open_checkpoint
from previa.io.folder import folder_beside
from previa.run.held_out import HeldOut, held_out
from previa.run.hf_rows import loss_of
from previa.run.ivon_checkpoint import in_file, posterior_for_model
from previa.run.records import digest_of, digest_of_code
from previa.run.resolve import Ingredients, examples, importable, modules
from previa.run.rows import FUNCTION, rows_of
from previa.run.scoring import Score, Scores
from previa.run.square_pass import Task, examples_of
from previa.run.text_scores import Scored, score_of, scored_alone
from previa.run.tokens import Example, tokenizer_of
from previa.run.transformers_model import ADAPTER, Loaded, import_transformers, load_model
from previa.run.transformers_squares import DTYPES, ends_of, freeze
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


@final
@dataclass(frozen=True)
class Folders:
    """What a study of folders knows of its model, beyond the model itself."""

    loaded: Loaded
    settings: TransformersSettings
    auto: str | None
    tasks: Mapping[str, Task]
    code: Mapping[str, str]
    """module -> the version of its source, of those that losses and rows come from"""
    heads: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """task -> its own values of parameters that are not shared, by name"""
    no_start: tuple[str | None, str | None] = (None, None)
    """why nothing can be trained here; why nothing can start from the model, but from a preview"""
    kept: dict[str, Flat] = field(default_factory=dict, compare=False)
    """the parameters of the tasks' checkpoints that were read"""

    def check_start(self, *, from_preview: bool = False) -> None:
        """Raise StudyError where no joint run can be made, from the model or from a preview."""
        always, base = self.no_start
        reason = always or (None if from_preview else base)
        if reason is not None:
            raise StudyError(f"finetune: {reason}")

    def parameters(self, path: Path, where: str) -> dict[str, Tensor]:
        """The parameters in a task's folder by the model's names; trainable and frozen, but not heads.

        Raises FileError, InputError; ParamsError where it is no checkpoint of the study's model.
        """
        if self.is_adapter:
            return self._adapter(path, where)
        model = self._same_kind(path, where)
        return {name: p.detach() for name, p in model.named_parameters() if not self.is_head(name)}

    def in_file(self, values: Params) -> dict[str, Tensor]:
        """Values of the trainable parameters under the names that the checkpoints' files have, as previa merge takes them."""
        return in_file(self.loaded.model)(values)

    def posterior_in_file(self, posterior: Diagonal) -> Diagonal:
        """The same of a posterior."""
        precision = Flat(posterior.layout, posterior.natural()[0])
        return Diagonal(self.in_file(posterior.mode()), self.in_file(precision))

    def posterior_in_model(self, posterior: Diagonal, where: str) -> Diagonal:
        """The reverse. Raises ParamsError beginning with ``where``."""
        try:
            return posterior_for_model(self.loaded.model, posterior)
        except ParamsError as error:
            raise ParamsError(f"{where}: {error}") from error

    def labels(self, task: str, mode: str, draws: Generator) -> Labels:
        """Whose labels squared gradients take."""
        return self.tasks[task].labels(mode, draws)

    @contextmanager
    def headed(self, task: str) -> Iterator[None]:
        """The model has the task's own head inside."""
        with headed(self.loaded.model, self.heads.get(task, {})):
            yield

    def write(self, model: Any, path: Path, facts: Mapping[str, Any]) -> None:
        """The model as a folder that from_pretrained loads, with its tokenizer; one that was there is kept as <name>.old."""
        with folder_beside(path, replace=True) as part:
            model.save_pretrained(part)
            carry(Carried(None, find_carried([self.loaded.folder, self.loaded.base]).tokenizer), part, {})
            (part / "previa.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    @property
    def is_adapter(self) -> bool:
        """Whether an adapter is merged, and not the whole model."""
        return (self.loaded.folder / ADAPTER).is_file()

    def is_head(self, name: str) -> bool:
        """Whether a parameter is not shared."""
        return is_head(name, self.settings.heads)

    def _adapter(self, path: Path, where: str) -> dict[str, Tensor]:
        if not (path / ADAPTER).is_file():
            raise FileError(
                f"{where}: no {ADAPTER} in it, but the study merges adapters. Give the folder of an adapter, or leave adapter "
                "out of [transformers] and give whole models."
            )
        both = {"the study's adapter": open_adapter(self.loaded.folder), where: open_adapter(path)}
        check_settings(both)
        check_same_factors(both)
        trained = {name: p for name, p in self.loaded.model.named_parameters() if p.requires_grad}
        files = _names(self.loaded.model, trained)
        found = open_checkpoint(path, finite=True)
        return {name: found[file] for name, file in files.items()}

    def _same_kind(self, path: Path, where: str) -> Module:
        if (path / ADAPTER).is_file():
            raise InputError(
                f"{where}: an adapter, but the study merges whole models. Set adapter = ... in [transformers] to the adapter "
                "that the tasks started from."
            )
        theirs = load_model(path, self.auto)
        if type(theirs.model) is not type(self.loaded.model):
            raise ParamsError(
                f"{where}: a {type(theirs.model).__name__}, but the study's model is a {type(self.loaded.model).__name__}. All "
                "tasks must come from one base model."
            )
        check_config(theirs.model.config, self.loaded.model.config, where, labels=not self.settings.heads)
        return theirs.model


def load_folders(study: Study) -> Ingredients:
    """The ingredients of a study with [transformers].

    Raises StudyError, FileError, InputError, ParamsError, MissingExtraError: what is wrong with a folder, a key or a row.
    """
    settings = study.transformers
    assert settings is not None
    auto = auto_class(settings.task_type)
    _check_start(study)
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
            data[task.name] = train, Scored(test, own)
    score: Score = scored_alone
    rows = [place for task in study.tasks for place in (task.data, task.train, task.test)]
    code = _code(settings.task_type, *rows)
    _check_words(study, settings, loaded)
    folders = Folders(loaded, settings, auto, tasks, code, heads, _no_start(settings, reason))
    if heads:
        score = partial(_headed_score, folders, score)
        data = {name: (train, OfTask(name, test)) for name, (train, test) in data.items()}
    scores = [study.score, *(task.score for task in study.tasks)]
    loss = loss_of(next(iter(tasks.values())))
    return Ingredients(study, loaded.model, data, loss, score, {**code, **_code(*scores)}, folders)


@final
@dataclass(frozen=True)
class OfTask:
    """Test data that says whose it is, for a score that needs the task's own head."""

    task: str
    test: Any

    def digest(self) -> str:
        """The test data's."""
        return str(self.test.digest())


def _headed_score(folders: Folders, score: Score, model: Module, test: OfTask) -> Scores:
    with headed(model, folders.heads[test.task]):
        return score(model, test.test)


@contextmanager
def headed(model: Module, head: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, these parameters have these values, which may be of another shape."""
    named = dict(model.named_parameters(remove_duplicate=False)) if head else {}
    own = [(named[name], named[name].data) for name in head]
    try:
        for name, value in head.items():
            named[name].data = value.to(named[name])
        yield
    finally:
        for parameter, data in own:
            parameter.data = data


def is_head(name: str, heads: Sequence[str]) -> bool:
    """Whether a parameter's name is one of these, or begins with one at a dot."""
    return any(name == head or name.startswith(f"{head}.") for head in heads)


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


OF_NO_CONSEQUENCE = re.compile(
    "_name_or_path|architectures|dtype|torch_dtype|transformers_version|id2label|label2id|problem_type|.*drop.*|.*token_id|"
    "use_cache|finetuning_task|task_specific_params|output_.*|return_.*|_.*|vocab_size|.*hidden_size|intermediate_size|.*layerdrop"
)


def check_config(found: Any, expected: Any, where: str, *, labels: bool = True) -> None:
    """Raise ParamsError where two configurations of one class make other functions of the same weights.

    Shapes are compared elsewhere. labels: whether the classes must have the same names, where they have any.
    """
    one, other = found.to_dict(), expected.to_dict()
    for key in sorted(one.keys() & other.keys()):
        if one[key] != other[key] and not OF_NO_CONSEQUENCE.fullmatch(key):
            raise ParamsError(
                f"{where}: its config.json says {key} = {one[key]!r}, but the study's model has {other[key]!r}: merged weights "
                "would belong to neither. All tasks must come from one base model."
            )
    names = [dict(config.get("label2id") or {}) for config in (one, other)]
    if (
        labels
        and names[0] != names[1]
        and not any(all(str(n).startswith("LABEL_") for n in own) for own in names)
    ):
        raise ParamsError(
            f"{where}: its classes are {names[0]}, but the study's model has {names[1]}: rows of merged classifiers would mean "
            "different labels. Put the classifier's name into heads of [transformers], or use one order of labels."
        )


def _check_words(study: Study, settings: TransformersSettings, loaded: Loaded) -> None:
    """Raise InputError where a task's tokenizer has another vocabulary than the one that is used for all."""
    if settings.tokenizer is not None or settings.task_type == "image-classification":
        return
    mine: dict[str, int] | None = None
    for task in study.tasks:
        files = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json")
        if task.checkpoint is None or not any((task.checkpoint / name).is_file() for name in files):
            continue
        if mine is None:
            try:
                mine = tokenizer_of(loaded, None, None).tokenizer.get_vocab()
            except FileError:
                return  # rows bring their tokens
        found = tokenizer_of(loaded, task.checkpoint, None).tokenizer.get_vocab()
        if found != mine:
            raise InputError(
                f"task {task.name!r}, {task.checkpoint}: its tokenizer has another vocabulary than that of {loaded.folder}: the "
                "same numbers would mean other words. Train all tasks with one tokenizer, or say with tokenizer in [transformers] "
                "which folder's is right."
            )


def _no_start(settings: TransformersSettings, reason: str | None) -> tuple[str | None, str | None]:
    always = None
    if settings.heads:
        always = "with heads of their own, tasks are previewed, not trained here. Leave heads out of [transformers] to train."
    elif settings.dtype != "fp32":
        always = f"dtype = {settings.dtype!r} is for previews only. Leave it out of [transformers] to train."
    return always, reason


def _check_start(study: Study) -> None:
    """Raise InputError where the tasks' adapters did not start from one: averages of their factors would mean nothing."""
    paths = {f"task {task.name!r}": task.checkpoint for task in study.tasks if task.checkpoint is not None}
    adapters = {name: open_adapter(path) for name, path in paths.items() if (path / ADAPTER).is_file()}
    if len(adapters) < 2:
        return
    check_same_factors(adapters)
    base = study.folder / study.model
    for where, adapter in adapters.items():
        named = Path(str(adapter.config.get("base_model_name_or_path") or "."))
        if (named / "config.json").is_file() and ends_of(named) != ends_of(base):
            raise InputError(
                f"{where}: its adapter was trained on {named}, whose weights are not those of the study's model, {base}."
            )
    found = common_initialisation(adapters)
    if found.verdict == "unlikely":
        raise InputError(
            f"{found.sentence}. Averages of A and of B mean something only near one common A. Train again, each task from one "
            "adapter folder saved before the first step; `previa merge --product` merges the products B A of these."
        )


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


def _names(model: Module, trained: Mapping[str, Parameter]) -> dict[str, str]:
    """model's name -> file's, of an adapter."""
    marks = {name: torch.empty(0) for name in trained}
    renamed = in_file(model)(marks)
    back = {id(mark): name for name, mark in marks.items()}
    return {back[id(mark)]: file for file, mark in renamed.items()}
