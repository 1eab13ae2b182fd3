"""The joint loss of a study at given parameters: what joint training minimises, on a few training examples of each task."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import Module

from previa.errors import InputError
from previa.run.draws import Source, batch_length, generator, moved
from previa.run.finetune import Loss
from previa.run.live import headed
from previa.run.resolve import Ingredients
from previa.run.work import seed_of

WITHOUT_GRADIENTS = 4  # as many examples as in a batch of training fit into the memory of a forward pass


@dataclass(frozen=True)
class TrainingLosses:
    """A scorer of losses: model -> {task: l_t}, lower is better. ``counts``: how many examples of each task it looks at."""

    loss: Loss
    batches: Mapping[str, tuple[Any, ...]]
    scale: Mapping[str, float]
    """what a mean loss is multiplied by: 1, or N_t where the study's convention is the sum"""
    heads: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """How many examples of each task are looked at."""
        return {task: sum(map(batch_length, parts)) for task, parts in self.batches.items()}

    def __call__(self, model: Module) -> dict[str, float]:
        """l_t = the mean of the losses of the task's examples, in float64, times its scale. Raises InputError naming the task."""
        device = next(model.parameters()).device
        found = {}
        for task, parts in self.batches.items():
            with headed(model, self.heads[task]) if task in self.heads else nullcontext():
                losses = [self._each(task, model, part, device) for part in parts]
            found[task] = self.scale[task] * float(torch.cat(losses).mean())
        return found

    def _each(self, task: str, model: Module, batch: Any, device: torch.device) -> torch.Tensor:
        losses = self.loss(model, moved(batch, device))
        if losses.shape != (batch_length(batch),):
            raise InputError(
                f"joint loss of task {task!r}: the loss has shape {tuple(losses.shape)} for a batch of {batch_length(batch)} "
                "examples; expected one number per example. Use reduction='none'."
            )
        return losses.detach().double().cpu()


def training_losses(ingredients: Ingredients, examples: int) -> TrainingLosses:
    """The study's own loss on ``examples`` training examples of each task, or all of fewer: a fixed subset by the seed.

    They are read once, in batches. With the convention "sum" l_t is N_t times their mean.
    """
    study, sizes = ingredients.study, ingredients.sizes
    batches: dict[str, tuple[Any, ...]] = {}
    for task, train in ingredients.train.items():
        source = Source(task, train)
        stream = generator(seed_of(study), "joint loss", task)
        rows = torch.randperm(len(source), generator=stream)[:examples].sort().values
        with torch.random.fork_rng(devices=[]):  # data may be augmented at random
            torch.manual_seed(seed_of(study))
            batches[task] = tuple(
                source.batch(part) for part in rows.split(WITHOUT_GRADIENTS * study.finetune.batch_size)
            )
    scale = {task: float(sizes[task]) if study.convention == "sum" else 1.0 for task in batches}
    heads = {} if ingredients.folders is None else ingredients.folders.heads
    return TrainingLosses(ingredients.loss, batches, scale, heads)
