"""What a study of folders knows of its model: parameters and posteriors under the files' names, heads, and where to write."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from torch import Generator, Tensor
from torch.nn import Module

from previa.core.diagonal import Diagonal
from previa.core.params import Flat, Params
from previa.errors import FileError, InputError, ParamsError, StudyError
from previa.fit.labels import Labels
from previa.io.adapter_folder import open_adapter
from previa.io.adapter_match import check_same_factors, check_settings
from previa.io.carry import Carried, carry, find_carried
from previa.io.checkpoint import open_checkpoint
from previa.io.folder import folder_beside
from previa.run.ivon_checkpoint import in_file, names_in_adapter, posterior_for_model
from previa.run.live import headed
from previa.run.one_base import check_config
from previa.run.square_pass import Task
from previa.run.transformers_model import ADAPTER, Loaded, load_model
from previa.study.settings import TransformersSettings


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
        found = open_checkpoint(path, finite=True)
        return {name: found[file] for name, file in names_in_adapter(self.loaded.model).items()}

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


def is_head(name: str, heads: Sequence[str]) -> bool:
    """Whether a parameter's name is one of these, or begins with one at a dot."""
    return any(name == head or name.startswith(f"{head}.") for head in heads)
