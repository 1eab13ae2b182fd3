"""One look from the centre of a study: every task's loss expanded at the merged model, blended with the tasks' own at corners."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from previa.core.blend import blended
from previa.core.damping import damped
from previa.core.diagonal import Diagonal
from previa.core.expansion import Expansion
from previa.core.kronecker import Kronecker, kronecker_damping
from previa.core.params import Flat
from previa.core.warp import Method
from previa.fit.centre import Centre, from_centre
from previa.fit.gradients import mean_gradient
from previa.fit.kronecker_factors import kronecker_factors
from previa.fit.squared_gradients import squared_gradients
from previa.run.joint_loss import TrainingLosses, training_losses
from previa.run.live import live
from previa.run.powers import choose_power
from previa.run.sharpen import Family, best
from previa.run.squares import labels_of, standing_at
from previa.run.sweep import Progress
from previa.run.work import Work
from previa.study.simplex import probes

RELATIVE = (
    1e-3  # damping that makes the curvature definite, of each layer's own scale; what is trusted comes on top
)
RECENTRINGS = 1


@dataclass(frozen=True)
class Seen:
    """The preview from the centre, and what was found on the way."""

    method: Method
    p: float
    found: Centre


def facts_of(work: Work, families: Mapping[str, Family], family: str) -> dict[str, Any]:
    """What the preview "centre" rests on, for Store.declare."""
    return {
        "posteriors": families[family].digest, "family": family, "recentrings": RECENTRINGS,
        "labels": work.study.adamw.labels, "power": work.study.preview.power, "relative": RELATIVE,
        "loss_examples": work.study.preview.loss_examples,
    }  # fmt: skip


def family_of(work: Work, families: Mapping[str, Family], *, progress: Progress | None = None) -> str:
    """The family whose preview of equal weights is the first centre: that of the least joint loss when warped."""
    return best(work, families, progress=progress).family


def from_the_centre(work: Work, family: Family, *, progress: Progress | None = None) -> Seen:
    """Expand at the family's preview of equal weights, over all training examples; blend with the family at corners.

    Curvature is by Kronecker blocks, squared gradients where a layer has none, with the labels of [adamw]. The power of the
    blend is that of least joint loss, or [preview]'s. Its seconds and the store's fact "centre" say what it took.
    Raises InputError where the model's layers allow no curvature, and as squared_gradients.
    """
    started, study, ingredients = time.perf_counter(), work.study, work.ingredients
    T, largest = len(study.tasks), max(ingredients.sizes.values())
    losses = training_losses(ingredients, largest)
    passes: list[int] = []  # over all training data, forward and backward, of each look

    def look(c: Flat) -> list[Expansion]:
        seen, took = _look(work, c)
        passes.append(took)
        if progress is not None:
            progress("centre, looks", len(passes), RECENTRINGS + 1)
        return seen

    found = from_centre(
        family.method, look, partial(_measured, work, losses), probes(T).tolist(), recentrings=RECENTRINGS
    )
    p, forward = study.preview.power, float(found.evaluations)
    if not isinstance(p, float):
        few = training_losses(ingredients, study.preview.loss_examples)
        chosen = choose_power(
            ingredients.model,
            {"centre": lambda q: blended(family.method, found.preview, p=q)},
            few,
            probes(T),
            tasks=study.names(),
            recalibrate=ingredients.recalibrate,
        )
        p = chosen.p
        forward += chosen.evaluations * sum(few.counts.values()) / sum(losses.counts.values())
    work.store.add_seconds("centre", time.perf_counter() - started)
    work.store.put(
        "centre",
        {
            "p": p, "damping": min(found.damping, 1e300), "reason": found.reason, "losses": list(found.losses),
            "looks": found.looks, "evaluations": found.evaluations, "passes": sum(passes) + forward / 3,  # a forward pass is a third of one with its backward pass
        },
    )  # fmt: skip
    return Seen(blended(family.method, found.preview, p=p), p, found)


def _measured(work: Work, losses: TrainingLosses, theta: Flat) -> Tensor:
    """Every task's training loss at these parameters, [T]."""
    model = work.ingredients.model
    with live(model, theta.layout) as place:
        place(theta.vector)
        if work.ingredients.recalibrate is not None:
            work.ingredients.recalibrate(model)
        found = losses(model)
    return torch.tensor([found[task] for task in work.study.names()], dtype=torch.float64)


def _look(work: Work, c: Flat) -> tuple[list[Expansion], int]:
    """Every task's gradient and curvature at c, of its mean or summed loss as the study's convention says; passes over the data."""
    ingredients = work.ingredients
    gradients, factors, rest = [], [], []
    for task in work.study.names():
        N = float(ingredients.sizes[task]) if work.study.convention == "sum" else 1.0
        labels = labels_of(ingredients, task)
        with standing_at(ingredients, task, c) as batches:
            g = Flat.of(dict(mean_gradient(ingredients.model, batches, ingredients.loss).mean), c.layout)
        with standing_at(ingredients, task, c) as batches:
            blocks = kronecker_factors(ingredients.model, batches, labels)
        gradients.append(Flat(c.layout, N * g.vector))
        factors.append({name: (A, N * B) for name, (A, B) in blocks.mean.items()})
        if blocks.rest:
            with standing_at(ingredients, task, c) as batches:
                squares = squared_gradients(ingredients.model, batches, labels_of(ingredients, task)).mean
            rest.append(Flat(squares.layout, N * squares.vector))
    wide = Flat(c.layout, c.vector.double())
    hs = damped(rest, RELATIVE)[0] if rest else None
    if not factors[0] and hs is not None:
        curvature: list[Any] = [Diagonal(wide, Flat(h.layout, h.vector.double())) for h in hs]
    else:
        delta = kronecker_damping(factors, RELATIVE)
        curvature = [
            Kronecker(wide, one, None if hs is None else hs[t], delta) for t, one in enumerate(factors)
        ]
    return [Expansion(q, g) for q, g in zip(curvature, gradients, strict=True)], 3 if rest else 2
