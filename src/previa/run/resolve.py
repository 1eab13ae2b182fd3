"""From the names in a study file to the user's own model, data, loss and score."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Module

from previa.core.params import Flat, Layout
from previa.errors import PreviaError, StudyError
from previa.run.draws import Source, arrays_to_tensors, moved
from previa.run.finetune import Loss, class_loss
from previa.run.live import Recalibrate, recalibrated, running_statistics, trainable
from previa.run.records import digest_of_code
from previa.run.scoring import Score, Scorer, accuracy, describe, scorer
from previa.study.file import Study

if TYPE_CHECKING:
    from previa.run.folders import Folders

RECALIBRATION_ROWS = 512  # examples of each task's training data that bring running statistics up to date


@dataclass(frozen=True)
class Ingredients:
    """A study's own objects: the base model as it was built, and every task's (train, test)."""

    study: Study
    model: Module
    data: Mapping[str, tuple[Any, Any]]
    loss: Loss
    score: Score
    code: Mapping[str, str]
    """module -> the version of its source, of those that the study file names"""
    folders: Folders | None = None
    """of a study with [transformers]"""

    @property
    def train(self) -> dict[str, Any]:
        """The training examples of every task."""
        return {task: train for task, (train, _) in self.data.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """N_t, the number of training examples of every task."""
        return {task: len(Source(task, train)) for task, train in self.train.items()}

    @property
    def scorer(self) -> Scorer:
        """Every task's score on its test data."""
        return scorer({task: (self.score, test) for task, (_, test) in self.data.items()})

    @property
    def base(self) -> Flat:
        """The parameters as they were built, before any pretraining; a copy."""
        return Flat.of(
            {name: p.detach().clone() for name, p in trainable(self.model).items()}, where="the model"
        )

    @property
    def layout(self) -> Layout:
        """Names and shapes of the trainable parameters."""
        return Layout.of(trainable(self.model))

    @property
    def recalibrate(self) -> Recalibrate | None:
        """For a model with running statistics: a batch of each task's training data; None for others."""
        if not running_statistics(self.model):
            return None
        sources = [Source(task, train) for task, train in self.train.items()]
        batches = [source.batch(torch.arange(min(len(source), RECALIBRATION_ROWS))) for source in sources]
        device = next(self.model.parameters()).device
        return recalibrated([moved(batch, device) for batch in batches], self.loss)


def load(study: Study) -> Ingredients:
    """Build the model and read the data that ``study`` names, under the study's seed.

    Raises StudyError naming the key of the study file and what is wrong with what it points at; see load_folders for a study
    with [transformers].
    """
    if study.transformers is not None:
        from previa.run.transformers_study import load_folders

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(study.seed)
            return load_folders(study)
    with importable(study.folder), torch.random.fork_rng(devices=[]):
        torch.manual_seed(study.seed)
        model = _called("model", study.model, study.folder)
        if not isinstance(model, Module):
            raise StudyError(
                f"model = {study.model!r} returned {type(model).__name__}; expected a torch.nn.Module with the base "
                "parameters."
            )
        data = {
            task.name: examples(f"data of task {task.name!r}", task.data, study.folder)
            for task in study.tasks
            if task.data is not None  # read_study sees to it
        }
        loss = resolve(study.loss, study.folder, "loss") if study.loss else class_loss
        score = resolve(study.score, study.folder, "score") if study.score else accuracy
        if score is accuracy:  # a score of the user's own gets the test data as it came
            data = {task: (train, arrays_to_tensors(test)) for task, (train, test) in data.items()}
        code = _code(study)
    return Ingredients(study, model, data, loss, score, code)


def modules(*references: str | None) -> tuple[str, ...]:
    """The user's own modules in these references, each once: previa's have a version of their own."""
    names = dict.fromkeys(reference.partition(":")[0] for reference in references if reference)
    return tuple(name for name in names if name.partition(".")[0] != "previa")


def examples(what: str, reference: str, folder: Path) -> tuple[Any, Any]:
    """(train, test) from a data function. Raises StudyError where it returns anything else."""
    with importable(folder):
        found = _called(what, reference, folder)
    if not isinstance(found, tuple | list) or len(found) != 2:
        size = f" of {len(found)}" if isinstance(found, tuple | list) else ""
        raise StudyError(
            f"{what} = {reference!r} returned {type(found).__name__}{size}; expected the pair (train, test)."
        )
    return found[0], found[1]


def resolve(reference: str, folder: str | Path = ".", what: str = "function") -> Callable[..., Any]:
    """The function that ``"module:name"`` means; modules in ``folder`` and the current directory count, too.

    Raises StudyError: no such module, no such name in it (with the nearest), or not callable.
    """
    module_name, _, path = reference.partition(":")
    if not module_name or not path:
        raise StudyError(f"{what} = {reference!r} should be written 'module:name'.")
    with importable(folder):
        found: Any = _module(module_name, reference, Path(folder), what)
    for name in path.split("."):
        if not hasattr(found, name):
            near = difflib.get_close_matches(name, dir(found), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise StudyError(f"{what} = {reference!r}: module {module_name!r} has no {name!r}.{hint}")
        found = getattr(found, name)
    if not callable(found):
        raise StudyError(f"{what} = {reference!r} is {type(found).__name__}, not a function.")
    return found  # type: ignore[no-any-return]


@contextmanager
def importable(folder: str | Path) -> Iterator[None]:
    """Modules in ``folder`` and in the current directory can be imported inside."""
    added = [str(Path(folder).resolve()), str(Path.cwd())]
    sys.path[:0] = added
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for path in added:
            sys.path.remove(path)


def _code(study: Study) -> dict[str, str]:
    pretraining = study.pretrain.data if study.pretrain else None
    names = modules(study.model, study.loss, study.score, *(task.data for task in study.tasks), pretraining)
    if pretraining is not None:
        resolve(pretraining, study.folder, "data of [pretrain]")
    found = {name: digest_of_code(sys.modules[name]) for name in names}
    return {name: version for name, version in found.items() if version is not None}


def _module(name: str, reference: str, folder: Path, what: str) -> Any:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise StudyError(
                f"{what} = {reference!r}: module {name!r} needs {error.name!r}, which is not installed."
            ) from error
        beside = [path.stem for path in folder.glob("*.py")]
        near = difflib.get_close_matches(name, beside, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise StudyError(
            f"{what} = {reference!r}: there is no module {name!r} in {folder.resolve()}, in the current directory, or "
            f"installed.{hint}"
        ) from error
    except PreviaError:
        raise
    except Exception as error:
        raise StudyError(f"{what} = {reference!r}: importing {name!r} failed: {describe(error)}") from error
    own = folder.resolve().joinpath(*name.split(".")).with_suffix(".py")
    held = getattr(module, "__file__", None)
    if own.is_file() and held is not None and Path(held).resolve() != own:
        raise StudyError(
            f"{what} = {reference!r}: {own} would be meant, but {name!r} is {held} already. Rename one of the two modules."
        )
    return module


def _called(what: str, reference: str, folder: Path) -> Any:
    function = resolve(reference, folder, what)
    try:
        return function()
    except PreviaError:
        raise
    except Exception as error:
        raise StudyError(f"{what} = {reference!r} raised {describe(error)}") from error
