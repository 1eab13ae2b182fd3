"""How to finetune: the same recipe serves a task's own run and every joint one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from previa.errors import InputError


@dataclass(frozen=True, kw_only=True)
class IvonRecipe:
    """IVON's options, as in previa.IVON; ``samples`` draws of theta a step.

    ess: one number common to all tasks with mean losses; None with summed losses, where it is sum_t alpha_t N_t.
    clip_radius: None is no clipping.
    """

    lr: float
    ess: float | None = None
    hess_init: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip_radius: float | None = None
    samples: int = 1


@dataclass(frozen=True, kw_only=True)
class AdamWRecipe:
    """torch.optim.AdamW's options."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Shares:
    """What alpha means for a step: ``task`` [T] sums to one; ``example`` [T] is the weight of one example's loss."""

    task: tuple[float, ...]
    example: tuple[float, ...]
    ess: float


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Steps, batches and optimizer of a finetuning of sum_t alpha_t l_t.

    convention: l_t is the "mean" or the "sum" of the losses of the task's examples (METHOD 2).
    sampling: "loss": each step takes ``batch_size`` examples of every task with alpha_t > 0 and weighs their losses;
    "sample": it takes ``batch_size`` in all, each one's task drawn with probability alpha_t ("mean"), or in proportion to
    alpha_t N_t ("sum"), METHOD 8. Both have the same expected gradient; ``sample`` costs the same at every weighting.
    snapshots: after which steps IVON's posterior is kept. Raises InputError.
    """

    optimizer: IvonRecipe | AdamWRecipe
    steps: int
    batch_size: int = 32
    convention: Literal["mean", "sum"] = "mean"
    sampling: Literal["loss", "sample"] = "loss"
    snapshots: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise InputError(
                f"Recipe: steps and batch_size must be at least 1; found {self.steps} and {self.batch_size}."
            )
        if self.convention not in ("mean", "sum") or self.sampling not in ("loss", "sample"):
            raise InputError(
                f"Recipe: convention {self.convention!r} must be 'mean' or 'sum', sampling {self.sampling!r} 'loss' or "
                "'sample'."
            )
        late = [step for step in self.snapshots if not 1 <= step <= self.steps]
        if late:
            raise InputError(
                f"Recipe: a snapshot after step {late[0]}, but there are steps 1 to {self.steps}."
            )
        ess = self.optimizer.ess if isinstance(self.optimizer, IvonRecipe) else None
        if isinstance(self.optimizer, IvonRecipe) and (ess is None) != (self.convention == "sum"):
            raise InputError(
                "Recipe: with mean losses IVON needs one ess common to all tasks; with summed losses it is "
                f"sum_t alpha_t N_t and must not be given. Found convention {self.convention!r} and ess = {ess}."
            )

    def shares(self, alpha: Sequence[float], sizes: Sequence[int]) -> Shares:
        """The tasks' shares q_t of the objective, alpha_t or alpha_t N_t / S, and the weight of one example, for alpha [T]."""
        total = [a * (n if self.convention == "sum" else 1) for a, n in zip(alpha, sizes, strict=True)]
        S = sum(total)
        q = tuple(part / S for part in total)
        example = [part if self.sampling == "loss" else 1.0 for part in q]
        ess = self.optimizer.ess if isinstance(self.optimizer, IvonRecipe) and self.optimizer.ess else S
        return Shares(q, tuple(part / self.batch_size for part in example), ess)

    def counts(self, shares: Shares, stream: Generator) -> Tensor:
        """How many examples of each task each step takes, [steps, T]; ``stream`` is used for sampling only."""
        q = torch.tensor(shares.task, dtype=torch.float64)
        if self.sampling == "loss":
            return (q > 0).long().mul(self.batch_size).expand(self.steps, -1)
        drawn = torch.multinomial(q, self.steps * self.batch_size, replacement=True, generator=stream)
        return torch.nn.functional.one_hot(drawn, len(q)).view(self.steps, self.batch_size, -1).sum(1)
