"""The scores of one trained model: with the running statistics that its training left, not recalibrated as merged ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import Module

from previa.core.params import Flat
from previa.run.evaluate import Evaluation, Found
from previa.run.live import live, running_statistics
from previa.run.resolve import Ingredients


def scored_run(
    ingredients: Ingredients, params: Flat, statistics: Mapping[str, Tensor] | None = None
) -> tuple[Found, str | None, float]:
    """(scores, None, seconds), or ({}, why there are none, seconds), of the study's model with these parameters.

    statistics: the running statistics of its training, by name; None where they are not known, or for a merged model:
    then they are brought up to date.
    """
    model = ingredients.model
    own = ingredients.recalibrate if statistics is None else partial(_as_trained, statistics)
    job = Evaluation(model, ingredients.scorer, ingredients.study.names(), own)
    with live(model, params.layout) as place:
        return job.run(place, params.vector)


def statistics_in(found: Mapping[str, Tensor], model: Module) -> dict[str, Tensor] | None:
    """The running statistics in a checkpoint's tensors; none for a model without any; None where some are missing."""
    running = {id(buffer) for buffer in running_statistics(model)}
    names = [name for name, buffer in model.named_buffers() if id(buffer) in running]
    return {name: found[name] for name in names} if all(name in found for name in names) else None


def _as_trained(statistics: Mapping[str, Tensor], model: Module) -> None:
    """Give the model the running statistics that a training left, which are those of its checkpoint."""
    buffers = dict(model.named_buffers())
    with torch.no_grad():
        for name, values in statistics.items():
            buffers[name].copy_(values)
