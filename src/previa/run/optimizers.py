"""The optimizer of a recipe, on a model's trainable parameters."""

from __future__ import annotations

import math

import torch
from torch.nn import Module
from torch.optim import Optimizer

from previa.errors import InputError
from previa.fit.ivon import IVON
from previa.run.draws import generator
from previa.run.live import trainable
from previa.run.recipe import AdamWRecipe, IvonRecipe


def optimizer_of(model: Module, recipe: IvonRecipe | AdamWRecipe, *, ess: float, seed: int) -> Optimizer:
    """AdamW or IVON over the parameters that require gradients, in the model's order; IVON's noise is of ``seed`` alone.

    ess: IVON's; the recipe's own where it has one. The same seed gives the same noise in every process.
    Raises ParamsError where no parameter is trainable, InputError as IVON.
    """
    params = list(trainable(model).values())
    if isinstance(recipe, AdamWRecipe):
        return torch.optim.AdamW(params, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
    return IVON(
        params,
        lr=recipe.lr,
        ess=ess if recipe.ess is None else recipe.ess,
        hess_init=recipe.hess_init,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        clip_radius=math.inf if recipe.clip_radius is None else recipe.clip_radius,
        generator=generator(seed, "noise"),
    )


def plain(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside the wrappers that Accelerate puts around it."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def ivon_in(optimizer: Optimizer) -> IVON:
    """The IVON inside the wrappers. Raises InputError where it is another optimizer."""
    found = plain(optimizer)
    if not isinstance(found, IVON):
        raise InputError(f"expected previa's IVON as the optimizer; found {type(found).__name__}.")
    return found


def check_whole(distribution: object, where: str) -> None:
    """Raise InputError where Accelerate's ``distributed_type`` cuts parameters into pieces: each would get the same noise."""
    kind = str(getattr(distribution, "value", distribution))
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "XLA"):
        raise InputError(
            f"{where}: parameters are cut between processes by {kind}, but every process needs them whole. Use plain data "
            "parallelism: `accelerate launch --multi_gpu`."
        )
