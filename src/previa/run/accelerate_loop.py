"""Weighted joint finetuning on Accelerate: a plain loop that one process or many run alike, stopped and resumed at will."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from previa.core.diagonal import Diagonal
from previa.errors import InputError, MissingExtraError
from previa.fit.ivon import IVON
from previa.run.accelerate_step import Collate, Loop, Steps
from previa.run.finetune import Loss
from previa.run.joint_data import Mixture
from previa.run.live import trainable
from previa.run.optimizers import check_whole, optimizer_of
from previa.run.recipe import IvonRecipe
from previa.run.records import digest
from previa.run.training_state import load_state, save_state
from previa.study.simplex import show

try:
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin
except ImportError as error:
    raise MissingExtraError("this training needs accelerate: pip install 'previa[hf]'.") from error

Watch = Callable[[int, Module, Optimizer], None]
"""watch(steps done, model, optimizer) after each step, in every process; the model is at m."""


@dataclass(frozen=True)
class Trained:
    """What a run on Accelerate leaves beside the model, which holds the parameters, with IVON the mean m."""

    losses: Tensor
    """[steps], the weighted loss of each step's rows"""
    optimizer: Optimizer
    """IVON's posterior is ``trained.optimizer.posterior(model)``"""
    resumed_at: int
    """steps that were done before"""
    seconds: float

    @property
    def memory(self) -> float | None:
        """What is left of hess_init in h (IVON.memory); None with AdamW."""
        return self.optimizer.memory if isinstance(self.optimizer, IVON) else None


def finetune_accelerated(
    model: Module,
    mixture: Mixture,
    *,
    loss: Loss,
    collate: Collate,
    loop: Loop | None = None,
    state: Path | None = None,
    start: Diagonal | None = None,
    start_ess: float | None = None,
    accelerator: Accelerator | None = None,
    watch: Watch | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Trained:
    """Minimise the mixture's objective from the model's parameters; the model is trained in place, on the accelerator's device.

    loss(model, batch) -> one number per example, [B]; it may only call the model, which can be wrapped for several processes.
    The rows of a step are dealt out to the processes, and within each to micro-batches; the gradient is their weighted sum,
    whatever the number of processes. So results differ by rounding only, and by the noise of dropout, which each process
    has its own of; IVON's noise is the same in all. Within a step all micro-batches share one sample theta.
    state: the file that a stopped run goes on from, bit for bit; it must be seen by all processes. Removed by its owner.
    start: a posterior whose precision IVON goes on from (its mean is taken, too); start_ess: the ess of the run that made it.
    accelerator: by default one of this process or of ``accelerate launch``. Random states of this process stay as they are.
    Raises InputError, NotFiniteError naming task and step; FileError.
    """
    accelerator = accelerator_of() if accelerator is None else accelerator
    _check(accelerator, mixture, start)
    loop = Loop() if loop is None else loop
    recipe = mixture.recipe
    optimizer = optimizer_of(model, recipe.optimizer, ess=mixture.shares.ess, seed=mixture.seed)
    facts = {**mixture.facts(), "loop": _what_counts(loop)}
    if start is not None and isinstance(optimizer, IVON):
        optimizer.load_posterior(model, start, ess=start_ess)
        facts["posterior"] = [digest(*start.natural()), start_ess]
    losses = torch.zeros(recipe.steps, dtype=torch.float64)
    started = time.perf_counter()
    with _prepared(accelerator, model, optimizer) as (prepared, wrapped), _own_randomness(model):
        facts["start"] = digest(
            *trainable(model).values()
        )  # by now the first process's parameters are everybody's
        first = 0 if state is None else load_state(state, model, optimizer, losses, facts)
        _check_same(accelerator, first, state)
        steps = Steps(accelerator, prepared, wrapped, optimizer, mixture, loss, collate, loop)
        for step in range(first, recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.optimizer.lr * loop.factor(step, recipe.steps)
            losses[step] = steps.take(step)
            done = step + 1
            if watch is not None:
                watch(done, model, optimizer)
            due = done % loop.save_every == 0 or done == recipe.steps
            if state is not None and due and accelerator.is_main_process:
                save_state(state, done, model, optimizer, losses[:done], facts)
            if progress is not None:
                progress(f"finetune at {show(mixture.alpha)}", done, recipe.steps)
    return Trained(losses, optimizer, first, time.perf_counter() - started)


def accelerator_of(mixed_precision: Literal["no", "bf16"] | None = None, *, cpu: bool = False) -> Accelerator:
    """An Accelerator as this loop needs it; mixed_precision None: as ``accelerate launch`` or its configuration says."""
    return Accelerator(
        mixed_precision=mixed_precision,
        cpu=cpu,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the loop's weights say it all
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


@contextmanager
def _prepared(accelerator: Accelerator, model: Module, optimizer: Optimizer) -> Iterator[tuple[Module, Any]]:
    """Model and optimizer as Accelerate wraps them; afterwards the model has its own forward and modes again."""
    modes = [(module, module.training) for module in model.modules()]
    prepared = accelerator.prepare_model(model)
    try:
        yield prepared, accelerator.prepare_optimizer(optimizer)
    finally:
        accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
        vars(model).pop("_is_accelerate_prepared", None)  # or another precision would never be prepared for
        for module, training in modes:
            module.training = training


@contextmanager
def _own_randomness(model: Module) -> Iterator[None]:
    """Outside, the random states of this process are as before."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


def _what_counts(loop: Loop) -> dict[str, Any]:
    """The loop's settings that the result rests on: how often it is saved is not one, nor how it is cut."""
    return {"clip_norm": loop.clip_norm, "schedule": loop.schedule, "warmup": loop.warmup}


def _check_same(accelerator: Accelerator, first: int, state: Path | None) -> None:
    """Raise InputError where some processes found a state to go on from and others did not."""
    each = accelerator.gather(torch.tensor([first], device=accelerator.device)).tolist()
    if len(set(each)) > 1:
        raise InputError(
            f"{state}: the processes would go on from steps {each}. Let all of them see the same folder."
        )


def _check(accelerator: Accelerator, mixture: Mixture, start: Diagonal | None) -> None:
    """Raise InputError for what cannot be right, before anything is trained."""
    check_whole(accelerator.distributed_type, "finetune")
    if accelerator.gradient_accumulation_steps != 1:
        raise InputError(
            f"finetune: the accelerator divides losses by {accelerator.gradient_accumulation_steps} for accumulation, but this loop "
            "weighs them itself. Make it with gradient_accumulation_steps=1, or by accelerator_of()."
        )
    if not isinstance(mixture.recipe.optimizer, IvonRecipe):
        if start is not None:
            raise InputError(
                "finetune: AdamW cannot start from a posterior. Use IVON, or load the mean alone."
            )
    elif accelerator.scaler is not None:
        raise InputError(
            "finetune: IVON cannot be trained with fp16 and loss scaling. Use bf16, or no mixed precision."
        )
