"""Weighted joint finetuning of sum_t alpha_t l_t; a task's own finetuning is the corner alpha = e_t."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import cross_entropy

from previa.core.diagonal import Diagonal
from previa.core.params import Flat, Layout, Params
from previa.errors import InputError, NotFiniteError
from previa.fit.ivon import IVON
from previa.run.draws import Draws, Source, batch_length, generator, joined, moved
from previa.run.live import running_statistics, trainable
from previa.run.recipe import AdamWRecipe, Recipe
from previa.study.simplex import check_alphas, show

Loss = Callable[[Module, Any], Tensor]
"""loss(model, batch) -> one number per example, [B]"""


@dataclass(frozen=True)
class Finetuned:
    """One finetuning: where it was trained (alpha), what came out, and what it took."""

    alpha: tuple[float, ...]
    params: Flat
    """[P], of the trainable parameters; with IVON the mean m"""
    posterior: Diagonal | None
    """IVON's, precision ess*(h+delta), at the end; None with AdamW"""
    snapshots: tuple[Diagonal, ...]
    """IVON's after each of the recipe's ``snapshots`` steps"""
    losses: Tensor
    """[steps], the weighted loss of each step's batch"""
    seconds: float
    ess: float | None = None
    memory: float | None = None
    """what is left of hess_init in h (IVON.memory): near 1, merging the precisions is simple averaging"""
    statistics: Params = field(default_factory=dict)
    """running statistics after training, where the model has any"""


def class_loss(model: Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of each example, [B], for batch = (inputs, classes)."""
    inputs, targets = batch
    return cross_entropy(model(inputs), targets, reduction="none")


def finetune(
    model: Module,
    data: Mapping[str, Any],
    alpha: ArrayLike | Tensor,
    recipe: Recipe,
    *,
    loss: Loss = class_loss,
    seed: int = 0,
    start: Params | Diagonal | None = None,
    start_ess: float | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Finetuned:
    """Minimise sum_t alpha_t l_t from the model's parameters, or from ``start``; the model is left as it came.

    data: task -> (inputs, targets) or any tensors with the examples along axis 0, or a map-style data set. alpha [T] in
    the order of data. l_t is the mean or the sum over the task's examples, as ``recipe.convention`` says; with "sum" the
    objective is divided by S = sum_t alpha_t N_t, so that a step is as long as with "mean", and IVON's ess is S.
    start: parameters (a preview's, for a warm start), or a posterior, whose precision IVON goes on from;
    start_ess: the ess of the run that made it, by default this run's.
    The result depends on ``seed``, the tasks' names and these arguments only, never on the global random state.
    Raises AlphaError; InputError for data or losses of the wrong form; NotFiniteError naming task, weighting and step.
    """
    sources = {task: Source(task, examples) for task, examples in data.items()}
    alpha = alpha.tolist() if isinstance(alpha, Tensor) else alpha
    weights = check_alphas(alpha, len(sources), where="finetune")
    shares = recipe.shares(weights.tolist(), [len(source) for source in sources.values()])
    counts = recipe.counts(shares, generator(seed, "tasks"))
    draws = Draws(sources, counts, seed)
    each = torch.tensor(shares.example).repeat_interleave(
        counts[0]
    )  # by sampling one number, by loss the same each step
    where = f"finetune at {show(weights)}"
    with training(model, seed):
        if start is not None:
            _load(model, start.mode() if isinstance(start, Diagonal) else start)
        optimizer = _optimizer(model, recipe, shares.ess, seed)
        started = time.perf_counter()  # a process's first optimizer imports a second's worth of torch
        if isinstance(start, Diagonal) and isinstance(optimizer, IVON):
            optimizer.load_posterior(model, start, ess=start_ess)
        run = _Steps(model, loss, each, where)
        losses, snapshots = torch.empty(draws.steps, dtype=torch.float64), []
        for step in range(draws.steps):
            batches = [(task, sources[task].batch(rows)) for task, rows in draws.step(step)]
            losses[step] = _update(optimizer, recipe, partial(run.backward, batches, step))
            if step + 1 in recipe.snapshots and isinstance(optimizer, IVON):
                snapshots.append(optimizer.posterior(model))
            if progress is not None:
                progress(where, step + 1, draws.steps)
        found = Flat.of({name: p.detach() for name, p in trainable(model).items()}, where=where)
        ivon = optimizer if isinstance(optimizer, IVON) else None
        return Finetuned(
            alpha=tuple(weights.tolist()),
            params=Flat(found.layout, found.vector.clone()),
            posterior=ivon.posterior(model) if ivon else None,
            snapshots=tuple(snapshots),
            losses=losses,
            seconds=time.perf_counter() - started,
            ess=shares.ess if ivon else None,
            memory=ivon.memory if ivon else None,
            statistics=_statistics(model),
        )


@contextmanager
def training(model: Module, seed: int) -> Iterator[None]:
    """Training mode and a random state of its own inside; outside, the model and the global random state are as before."""
    own = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    grads = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(seed)
        model.train()
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, values in own:
                    tensor.copy_(values)
            for parameter, grad in grads:
                parameter.grad = grad
            for module, mode in modes:
                module.training = mode


class _Steps:
    """Forward and backward of one batch of every task: in one pass where their shapes allow it."""

    def __init__(self, model: Module, loss: Loss, each: Tensor, where: str) -> None:
        self.model, self.loss, self.where = model, loss, where
        self.device = next(model.parameters()).device
        self.each = each.to(self.device)
        self.together = True

    def backward(self, batches: list[tuple[str, Any]], step: int) -> float:
        """Add the gradient of sum_i each_i loss_i, and return its value. Raises InputError, NotFiniteError."""
        tasks, parts = [task for task, _ in batches], [batch for _, batch in batches]
        sizes = [batch_length(part) for part in parts]
        if self.together and len(parts) > 1:
            whole = joined(parts)
            self.together = whole is not None
            parts = [whole] if self.together else parts
        total, done = 0.0, 0
        for part, size in zip(parts, [sum(sizes)] if len(parts) == 1 else sizes, strict=True):
            losses = self.loss(self.model, moved(part, self.device))
            if losses.shape != (size,):
                raise InputError(
                    f"{self.where}: the loss has shape {tuple(losses.shape)} for a batch of {size} examples; expected one "
                    f"number per example, ({size},). Use reduction='none'."
                )
            value = torch.dot(losses, self.each[done : done + size].to(losses))
            number = float(value.detach())
            if not math.isfinite(number):
                bad = done + int((~torch.isfinite(losses)).int().argmax())
                owner = next(task for t, task in enumerate(tasks) if bad < sum(sizes[: t + 1]))
                raise NotFiniteError(
                    f"{self.where}: the loss of task {owner!r} is NaN or infinite at step {step + 1}. Lower the learning "
                    "rate, or look for bad examples in its data."
                )
            torch.autograd.backward(value)
            total, done = total + number, done + size
        return total


def _update(optimizer: torch.optim.Optimizer, recipe: Recipe, backward: Callable[[], float]) -> float:
    """One step of the optimizer; the mean of the losses at its samples."""
    if not isinstance(optimizer, IVON) or isinstance(recipe.optimizer, AdamWRecipe):
        optimizer.zero_grad()
        value = backward()
        optimizer.step()
        return value
    values = []
    for _ in range(recipe.optimizer.samples):
        with optimizer.sampled():
            values.append(backward())
    optimizer.step()
    return sum(values) / len(values)


def _optimizer(model: Module, recipe: Recipe, ess: float, seed: int) -> torch.optim.Optimizer:
    chosen, params = recipe.optimizer, list(trainable(model).values())
    if isinstance(chosen, AdamWRecipe):
        return torch.optim.AdamW(params, lr=chosen.lr, betas=chosen.betas, weight_decay=chosen.weight_decay)
    return IVON(
        params,
        lr=chosen.lr,
        ess=ess,
        hess_init=chosen.hess_init,
        betas=chosen.betas,
        weight_decay=chosen.weight_decay,
        clip_radius=math.inf if chosen.clip_radius is None else chosen.clip_radius,
        generator=generator(seed, "noise"),
    )


def _load(model: Module, start: Params) -> None:
    named = trainable(model)
    Layout.of(named).check(start, "start", "the model's trainable parameters")
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(start[name])


def _statistics(model: Module) -> dict[str, Tensor]:
    running = {id(buffer) for buffer in running_statistics(model)}
    return {name: buffer.clone() for name, buffer in model.named_buffers() if id(buffer) in running}
