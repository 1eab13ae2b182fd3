"""One step of a weighted finetuning, shared out to processes and micro-batches, the same whatever their number."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from previa.errors import InputError, NotFiniteError
from previa.fit.ivon import IVON
from previa.run.draws import generator, moved
from previa.run.finetune import Loss
from previa.run.joint_data import Mixture, Row
from previa.run.recipe import IvonRecipe
from previa.study.simplex import show

if TYPE_CHECKING:
    from accelerate import Accelerator

Collate = Callable[[list[Any]], Any]
"""Tokenised rows -> one padded batch, with the examples along axis 0."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """How a run is cut into forward passes, clipped, scheduled and kept; none of it changes what is minimised.

    micro_batch: rows of a forward pass on one device. clip_norm: the longest gradient of a step; math.inf: no clipping.
    schedule: of the learning rate after ``warmup`` steps in which it rises from 0; "linear" and "cosine" fall to 0.
    save_every: steps between two writes of the state file. Raises InputError.
    """

    micro_batch: int = 8
    clip_norm: float = 1.0
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: int = 0
    save_every: int = 200

    def __post_init__(self) -> None:
        for name, least in (("micro_batch", 1), ("warmup", 0), ("save_every", 1)):
            if getattr(self, name) < least:
                raise InputError(f"Loop: {name} is {getattr(self, name)}, but it should be at least {least}.")
        if not self.clip_norm > 0:
            raise InputError(
                f"Loop: clip_norm is {self.clip_norm}, but it should be above 0 (math.inf: no clipping)."
            )
        if self.schedule not in ("constant", "linear", "cosine"):
            raise InputError(
                f"Loop: schedule is {self.schedule!r}, but it should be 'constant', 'linear' or 'cosine'."
            )

    def factor(self, step: int, steps: int) -> float:
        """What the learning rate is multiplied by in the step after ``step`` of ``steps``: that of transformers' schedulers."""
        if step < self.warmup:
            return step / self.warmup
        done = (step - self.warmup) / max(1, steps - self.warmup)
        return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[
            self.schedule
        ]


@final
@dataclass(frozen=True)
class Steps:
    """The steps of a run in one process: this process's rows of each, and what all processes do together."""

    accelerator: Accelerator
    model: Module
    """as Accelerate wraps it"""
    wrapped: Any
    """the optimizer, as Accelerate wraps it"""
    optimizer: Optimizer
    mixture: Mixture
    loss: Loss
    collate: Collate
    loop: Loop

    def take(self, number: int) -> float:
        """One step; the weighted loss of its rows, with IVON the mean over its samples."""
        _seed(self.mixture.seed, number, self.accelerator.process_index)
        self.model.train()
        rows, chosen = self.mixture.rows(number), self.mixture.recipe.optimizer
        if not (isinstance(self.optimizer, IVON) and isinstance(chosen, IvonRecipe)):
            self.wrapped.zero_grad()
            value = self._gradient(rows, number)
            self.wrapped.step()
            return value
        values = []
        for _ in range(chosen.samples):
            with self.optimizer.sampled():
                values.append(self._gradient(rows, number))
        self.wrapped.step()
        return sum(values) / len(values)

    def _gradient(self, rows: Sequence[Row], number: int) -> float:
        """Add the clipped gradient of sum_i w_i loss_i over the rows of all processes; the sum's value.

        Every process takes as many rows as any other, some of weight zero, since their backward passes meet. Gradients are
        averaged over the processes, so each multiplies its own by their number.
        """
        accelerator, world = self.accelerator, self.accelerator.num_processes
        mine = list(rows[accelerator.process_index :: world])
        mine += [rows[0]._replace(weight=0.0)] * (-(-len(rows) // world) - len(mine))
        found = [
            self._backward(
                mine[i : i + self.loop.micro_batch], world, meet=i + self.loop.micro_batch >= len(mine)
            )
            for i in range(0, len(mine), self.loop.micro_batch)
        ]
        losses = torch.cat(found).cpu().double()
        weights = torch.tensor([row.weight for row in mine], dtype=torch.float64)
        tasks = torch.tensor([self.mixture.tasks.index(row.task) for row in mine])
        bad = torch.where(torch.isfinite(losses), -1, tasks).max()
        status = torch.stack([torch.dot(losses, weights), bad.double()]).float().to(accelerator.device)
        values, worst = accelerator.gather(status[None]).cpu().double().T
        self._check_finite(int(worst.max()), number)
        norm = accelerator.clip_grad_norm_(
            [p for p in self.model.parameters() if p.requires_grad], self.loop.clip_norm
        )
        if accelerator.scaler is None and not math.isfinite(float(norm)):
            raise NotFiniteError(
                f"finetune at {show(self.mixture.alpha)}: the gradient is NaN or infinite at step {number + 1}, though the losses "
                "are finite. Lower the learning rate."
            )
        return float(values.sum())

    def _backward(self, rows: Sequence[Row], world: int, *, meet: bool) -> Tensor:
        """Add the gradient of a micro-batch; its losses, [B]. meet: exchange gradients afterwards."""
        batch = moved(self.collate([self.mixture.features(row) for row in rows]), self.accelerator.device)
        with nullcontext() if meet else self.accelerator.no_sync(self.model):
            losses = self.loss(self.model, batch)
            if losses.shape != (len(rows),):
                raise InputError(
                    f"the loss has shape {tuple(losses.shape)} for a batch of {len(rows)} examples; expected one number per "
                    f"example, ({len(rows)},). Use reduction='none'."
                )
            losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
            weights = torch.tensor([row.weight for row in rows]).to(losses)
            self.accelerator.backward(torch.dot(losses, weights) * world)
        return losses.detach()

    def _check_finite(self, worst: int, number: int) -> None:
        if worst >= 0:
            raise NotFiniteError(
                f"finetune at {show(self.mixture.alpha)}: the loss of task {self.mixture.tasks[worst]!r} is NaN or infinite at step "
                f"{number + 1}. Lower the learning rate, or look for bad examples in its data."
            )


def _seed(seed: int, step: int, process: int) -> None:
    """Every step begins with random states of its own, so that a resumed run needs none from a file."""
    number = generator(seed, "step", str(step), str(process)).initial_seed()
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002
