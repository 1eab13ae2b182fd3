"""Scores of models of transformers by name: accuracy, log-likelihood, those of generated text, a task of lm-eval, or a function of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from previa.errors import InputError
from previa.run.classification import problem_of
from previa.run.generation import METRICS, Generated
from previa.run.held_out import HeldOut, moved, values_of
from previa.run.live import headed
from previa.run.lm_eval_scores import PREFIX, lm_eval_score
from previa.run.records import Named, digest_of
from previa.run.resolve import resolve
from previa.run.scoring import Score, Scores
from previa.run.tokens import IGNORED, forward

CLASSES = ("sequence-classification", "image-classification")
TEXTS = ("causal-lm", "seq2seq")


def usual_score(task_type: str) -> str | None:
    """The score of a task type where none is named; None for a loss of one's own."""
    return "accuracy" if task_type in CLASSES else "log-likelihood" if task_type in TEXTS else None


def score_of(name: str | None, task_type: str, folder: Path, *, max_new_tokens: int | None = None) -> Score:
    """score(model, HeldOut) by its name, or the usual one of the task type; module:function is one's own, found from ``folder``.

    Raises InputError for a name that the task type does not have, MissingExtraError without sacrebleu or lm-eval, StudyError for a function that is not there.
    """
    name = name or usual_score(task_type)
    if name == "accuracy" and task_type in CLASSES:
        return accuracy
    if name == "log-likelihood" and task_type in TEXTS:
        return LogLikelihood(task_type == "causal-lm")
    if name in METRICS and task_type in TEXTS:
        return Generated(name, task_type == "causal-lm", max_new_tokens or 64)
    if name is not None and name.startswith(PREFIX) and task_type in TEXTS:
        return lm_eval_score(name, folder)
    if name is not None and ":" in name and not name.startswith(PREFIX):
        found: Score = resolve(name, folder, "score")
        return found
    known = (
        ["accuracy"]
        if task_type in CLASSES
        else ["log-likelihood", *METRICS, f"{PREFIX}TASK"]
        if task_type in TEXTS
        else []
    )
    if name is None:
        raise InputError(
            f"score is missing: for the task type {task_type} give a function of your own, my_module:score."
        )
    raise InputError(
        f"score {name!r} for {task_type}: expected {', '.join([*known, 'or a function of your own as my_module:score'])}."
    )


@final
@dataclass(frozen=True)
class Scored:
    """A task's test examples with the score that is meant for them."""

    test: HeldOut
    score: Score
    head: Mapping[str, Tensor] = field(default_factory=dict)
    """the task's own values of parameters that are not shared, by name"""

    def __len__(self) -> int:
        return len(self.test)

    def digest(self) -> str:
        """Of the examples, and of what a score rests on beside them: the items of a task of lm-eval."""
        return (
            digest_of([self.test.digest(), self.score.digest()])
            if isinstance(self.score, Named)
            else self.test.digest()
        )


def scored_alone(model: Module, scored: Scored) -> Scores:
    """The task's own score, with its own head."""
    with headed(model, scored.head):
        return scored.score(model, scored.test)


def accuracy(model: Module, test: HeldOut) -> Tensor:
    """[N]: 1 where the largest logit is the label; for several classes the share of labels right; for numbers -(squared error)."""

    def of(numbers: Any, device: Any) -> Tensor:
        """One value for each of these examples."""
        batch = moved(test.task.collate([test.examples[n] for n in numbers]), model)
        logits, labels = forward(model, batch), batch["labels"]
        kind = problem_of(getattr(test.task, "config", model.config))
        if kind == "single":
            right = (logits.argmax(-1) == labels).double()
        elif kind == "several":
            right = ((logits > 0) == (labels > 0.5)).double().mean(1)
        else:
            right = -(logits - labels).double().square().mean(1)
        values: Tensor = right.cpu()
        return values

    return torch.stack(values_of(model, test, of))


@final
@dataclass(frozen=True)
class LogLikelihood:
    """[N]: N * (sum of log p over an item's supervised tokens) / (supervised tokens of all), in nats.

    Its mean is the mean log p of a token: minus the logarithm of the perplexity.
    """

    causal: bool

    def __call__(self, model: Module, test: HeldOut) -> Tensor:
        def of(numbers: Any, device: Any) -> Tensor:
            """(sum of log p, supervised tokens) of each of these examples, [n, 2]."""
            batch = moved(test.task.collate([test.examples[n] for n in numbers]), model)
            logits, labels = forward(model, {**batch, "use_cache": False}), batch["labels"]
            if self.causal:
                logits, labels = logits[:, :-1], labels[:, 1:]
            each = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED
            )
            return torch.stack([-each.double().sum(1), (labels != IGNORED).sum(1).double()], 1).cpu()

        sums = torch.stack(values_of(model, test, of))
        return len(test) * sums[:, 0] / sums[:, 1].sum()
