"""Tasks of lm-eval as scores: its own model class around the live model, and one value for each of its items."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import logging
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from previa.errors import InputError, MissingExtraError
from previa.run.generation import tokenizer_in
from previa.run.held_out import HeldOut
from previa.run.records import digest_of
from previa.run.scoring import describe

SAME = 1e-6  # of the largest value: how far a sum in another order, or in float32, may be from lm-eval's mean
PREFIX = "lm-eval:"
BATCH = 16  # requests of one forward pass where lm-eval cannot try what fits: it can on a GPU


@final
@dataclass(frozen=True)
class LmEval:
    """[n], n = min(len(test), items of the task): lm-eval's first n items in its order, each one's metric, higher is better.

    test gives their number and the tokenizer; its rows are not looked at. The mean is lm-eval's own result, or minus it
    where lower is better.
    """

    task: str
    metric: str
    filter: str | None
    folder: Path

    def __call__(self, model: Module, test: HeldOut) -> Tensor:
        """Raises InputError where the metric has no number an item, whose mean is the result."""
        task = task_in(self.task, self.folder)
        with _quiet(), _seeded(next(model.parameters()).device):
            found = _evaluated(model, tokenizer_in(test), task, len(test))
        samples = found["samples"][task.task_name]
        chosen = self.filter or samples[0]["filter"]
        ordered = sorted((s for s in samples if s["filter"] == chosen), key=lambda s: s["doc_id"])
        values = [s.get(self.metric) for s in ordered]
        result = found["results"][task.task_name].get(f"{self.metric},{chosen}")
        if not _averages(values, result):
            metrics = sorted({metric for s in samples for metric in s["metrics"]})
            filters = sorted({s["filter"] for s in samples})
            raise InputError(
                f"score {PREFIX}{self.task}: {self.metric} ({chosen}) is not a mean of one number an item. Name another metric as "
                f"{PREFIX}{self.task}:METRIC or METRIC,FILTER; it has {', '.join(metrics)}, filtered as {', '.join(filters)}."
            )
        sign = 1.0 if task.higher_is_better().get(self.metric, True) else -1.0
        return sign * torch.tensor([float(v) for v in values], dtype=torch.float64)

    def digest(self) -> str:
        """A name for the task's settings and all its items: a study that scores anew when they change asks for it."""
        task = task_in(self.task, self.folder)
        return digest_of([task.dump_config(), *(dict(doc) for doc in task.eval_docs)])


def lm_eval_score(name: str, folder: Path) -> LmEval:
    """The score ``lm-eval:TASK``, of the task's first metric, or ``lm-eval:TASK:METRIC``, or ``lm-eval:TASK:METRIC,FILTER``.

    TASK is defined in a YAML file anywhere in ``folder``, or one of lm-eval's own. The task and its data are read here.
    Raises InputError for a task or a metric that is not there, MissingExtraError without lm-eval.
    """
    task, _, rest = name.removeprefix(PREFIX).partition(":")
    metric, _, chosen = rest.partition(",")
    known = list(task_in(task, folder.resolve()).higher_is_better())
    if metric and metric not in known:
        raise InputError(f"score {name}: no metric {metric!r}; expected one of {', '.join(known)}.")
    return LmEval(task, metric or known[0], chosen or None, folder.resolve())


@functools.cache
def task_in(name: str, folder: Path) -> Any:
    """lm-eval's task of this name, read once a process; one in ``folder`` goes before lm-eval's own.

    Names of data files count from ``folder``. Raises InputError where there is none, it is a group or it cannot be read.
    """
    _import()
    from lm_eval.tasks import TaskManager

    with _quiet(), _seeded(), contextlib.chdir(folder):
        manager = TaskManager(include_path=folder, include_defaults=False)
        if name not in manager.all_tasks:
            manager = TaskManager(include_path=folder)
        if name not in manager.all_tasks:
            raise InputError(
                f"score {PREFIX}{name}: no task of lm-eval has this name, and no YAML file in {folder} says task: {name}. "
                "`lm_eval ls tasks` lists lm-eval's own."
            )
        try:
            tasks = manager.load([name])["tasks"]
        except Exception as error:
            raise InputError(f"score {PREFIX}{name}: the task cannot be read: {describe(error)}") from error
    if list(tasks) != [name]:
        raise InputError(
            f"score {PREFIX}{name}: a group of {len(tasks)} tasks; name one, such as {next(iter(tasks))}."
        )
    task = tasks[name]
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    return task


def _evaluated(model: Any, tokenizer: Any, task: Any, limit: int) -> Mapping[str, Any]:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    on_gpu = next(model.parameters()).device.type == "cuda"
    made: Any = HFLM(
        pretrained=model,
        tokenizer=copy.deepcopy(tokenizer),  # which it may give another padding token
        batch_size="auto" if on_gpu else BATCH,
        softmax_dtype=torch.float32,
    )
    task.set_fewshot_seed(
        seed=1234
    )  # lm-eval's own, so that the examples shown are the same at every weighting
    found: Mapping[str, Any] = evaluate(
        lm=made,
        task_dict={"tasks": {task.task_name: task}},
        limit=limit,
        log_samples=True,
        bootstrap_iters=0,
    )
    return found


def _averages(values: list[Any], result: Any) -> bool:
    """Whether values are numbers with this mean."""
    if not all(isinstance(v, bool | int | float | np.number | np.bool_) for v in [*values, result]):
        return False
    mean = sum(map(float, values)) / len(values)
    return math.isclose(mean, float(result), rel_tol=SAME, abs_tol=SAME * max(map(abs, map(float, values))))


def _import() -> None:
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"scores {PREFIX}TASK need lm-eval ({error}): python -m pip install 'previa[lm-eval]'"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, lm-eval neither logs nor draws bars: errors are raised."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def _seeded(device: torch.device | None = None) -> Iterator[None]:
    """Inside, the random states are those that lm-eval begins with; outside, as before."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng([device] if device is not None and device.type == "cuda" else []):
        random.seed(0)
        np.random.seed(1234)  # noqa: NPY002
        torch.manual_seed(1234)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
