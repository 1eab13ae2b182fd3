"""What is measured over a study's training data at given parameters: squared gradients and layers' inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from previa.core.params import Flat
from previa.errors import StudyError
from previa.fit.kronecker_factors import input_moments
from previa.fit.labels import Expected, Given, Labels, Sampled
from previa.fit.squared_gradients import squared_gradients
from previa.run.draws import Source, generator, moved
from previa.run.live import live
from previa.run.resolve import Ingredients
from previa.run.work import seed_of


def mean_squares(ingredients: Ingredients, task: str, at: Flat) -> Flat:
    """F = mean_i (d loss_i)^2 at the parameters ``at``, over the task's training examples; labels as [adamw] says.

    Batches are of the finetuning's size, which fits in memory. Raises StudyError for labels that the study's own loss does
    not allow, and as squared_gradients.
    """
    labels = labels_of(ingredients, task)
    with standing_at(ingredients, task, at) as batches:
        return squared_gradients(ingredients.model, batches, labels).mean


def mean_inputs(ingredients: Ingredients, task: str, at: Flat) -> dict[str, Tensor]:
    """A = mean_i a_i a_i' of each layer's inputs at the parameters ``at``, by the weight's name; no label is looked at.

    Raises StudyError where the model has no layer for it, and as input_moments.
    """
    with standing_at(ingredients, task, at) as batches:
        found = input_moments(ingredients.model, batches, ingredients.loss)
    if not found:
        raise StudyError(
            f"regmean: {type(ingredients.model).__name__} has no Linear or Conv2d layer of its own whose inputs could be "
            "measured. Leave regmean out of methods in [preview]."
        )
    return found


@contextmanager
def standing_at(ingredients: Ingredients, task: str, at: Flat) -> Iterator[Iterator[Any]]:
    """The task's training batches, while the model stands at ``at`` with running statistics brought up to date."""
    source, model = Source(task, ingredients.train[task]), ingredients.model
    rows, size = torch.arange(len(source)), ingredients.study.finetune.batch_size
    head = nullcontext() if ingredients.folders is None else ingredients.folders.headed(task)
    with head, live(model, at.layout) as place:
        place(at.vector)
        if ingredients.recalibrate is not None:
            ingredients.recalibrate(model)
        device = next(model.parameters()).device
        yield (moved(source.batch(rows[i : i + size]), device) for i in range(0, len(rows), size))


def labels_of(ingredients: Ingredients, task: str) -> Labels:
    """Whose labels squared gradients of this task are taken with, as [adamw] says. Raises StudyError where its loss has none."""
    study, mode = ingredients.study, ingredients.study.adamw.labels
    draws = generator(seed_of(study), "labels", task)
    if ingredients.folders is not None:
        return ingredients.folders.labels(task, mode, draws)
    if mode == "given":
        return Given(ingredients.loss)
    if study.loss is not None:
        raise StudyError(
            f"[adamw] labels = {mode!r} needs a classifier's logits, which the study's own loss does not give. Use "
            "labels = 'given', or leave loss out where it is cross-entropy of (inputs, classes)."
        )
    return Sampled(_logits, draws) if mode == "sampled" else Expected(_logits)


def _logits(model: Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    logits: Tensor = model(batch[0])
    return logits
