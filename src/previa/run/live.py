"""One live model whose parameters are pointed at one merged vector after another: no copy, no file, no second model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.modules.batchnorm import _NormBase

from previa.core.params import Flat, Layout
from previa.errors import ParamsError

Place = Callable[[Tensor], None]
"""Points a model's parameters at a vector [P]."""
Recalibrate = Callable[[Module], None]
"""Brings a merged model's running statistics up to date, in place."""


@contextmanager
def live(model: Module, layout: Layout) -> Iterator[Place]:
    """``with live(model, layout) as place: place(vector)`` points the parameters at views of vector [P].

    Where dtype and device are the model's own, nothing is copied. Inside, the model is in eval mode and no gradients are
    recorded. On leaving, also by an exception, the model has its own parameters, running statistics and modes again.
    Raises ParamsError where ``layout`` is not exactly the model's trainable parameters (frozen ones may be left out).
    """
    spots = _spots(model, layout)
    own = [(parameter, parameter.data) for parameter, _, _, _ in spots]
    kept = [(buffer, buffer.clone()) for buffer in running_statistics(model)]
    kinds = {(parameter.dtype, parameter.device) for parameter, _, _, _ in spots}

    def place(vector: Tensor) -> None:
        Flat(layout, vector)  # raises ParamsError where the length is another
        rows = {kind: vector.detach().to(kind[1], kind[0]) for kind in kinds}
        for parameter, start, stop, shape in spots:
            parameter.data = rows[parameter.dtype, parameter.device][start:stop].view(shape)

    try:
        with evaluating(model):
            yield place
    finally:
        for parameter, data in own:
            parameter.data = data
        with torch.no_grad():
            for buffer, values in kept:
                buffer.copy_(values)


@contextmanager
def headed(model: Module, head: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, these parameters have these values, by name, which may be of another shape: a head of a task's own."""
    named = dict(model.named_parameters(remove_duplicate=False)) if head else {}
    own = [(named[name], named[name].data) for name in head]
    try:
        for name, value in head.items():
            named[name].data = value.to(named[name])
        yield
    finally:
        for parameter, data in own:
            parameter.data = data


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Eval mode and no gradients inside; every module's own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def trainable(model: Module) -> dict[str, Parameter]:
    """The parameters that require gradients, tied ones once, under their first name. Raises ParamsError: there are none."""
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not found:
        raise ParamsError(f"{type(model).__name__} has no parameter that requires a gradient.")
    return found


def running_statistics(model: Module) -> list[Tensor]:
    """The buffers of normalisations that keep running statistics: a merge does not bring them up to date."""
    return [
        buffer
        for module in model.modules()
        if getattr(module, "running_mean", None) is not None
        for buffer in module.buffers(recurse=False)
    ]


def recalibrated(
    batches: Iterable[Tensor], forward: Callable[[Module, Tensor], object] = Module.__call__
) -> Recalibrate:
    """A ``recalibrate`` for sweep: running statistics become plain averages over ``batches`` of training inputs.

    Only normalisations see training mode, so dropout stays off; ``forward(model, batch)`` runs the model.
    """
    return partial(_recalibrate, list(batches), forward)


def _recalibrate(batches: list[Tensor], forward: Callable[[Module, Tensor], object], model: Module) -> None:
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative average
            norm.train()
        with torch.no_grad():
            for batch in batches:
                forward(model, batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def unchanged(model: Module) -> None:
    """A ``recalibrate`` for sweep that keeps the running statistics the model came with, because its owner says so."""


def _spots(model: Module, layout: Layout) -> list[tuple[Parameter, int, int, tuple[int, ...]]]:
    """(parameter, start, stop, shape) for each name of ``layout``; tied parameters are known by any of their names."""
    named = dict(model.named_parameters(remove_duplicate=False))
    taken: dict[int, str] = {}
    for name, (_, _, shape) in layout.places.items():
        if name not in named:
            kind = "a buffer of the model" if name in dict(model.named_buffers()) else "not in the model"
            raise ParamsError(
                f"tensor {name!r} of the posteriors is {kind}; only parameters are merged. Hand in "
                "dict(model.named_parameters()) of each task, all from this model."
            )
        if tuple(named[name].shape) != shape:
            raise ParamsError(
                f"tensor {name!r} has shape {tuple(named[name].shape)} in the model, but {shape} in the posteriors."
            )
        other = taken.setdefault(id(named[name]), name)
        if other != name:
            raise ParamsError(
                f"tensors {other!r} and {name!r} are one tied parameter of the model: keep only one of the two, as "
                "dict(model.named_parameters()) does."
            )
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in taken:
            raise ParamsError(
                f"the model's trainable parameter {name!r} is in no posterior, so every weighting would score it as it is. "
                "Freeze it (requires_grad_(False)) if that is meant, as for a head that tasks do not share."
            )
    return [(named[name], start, stop, shape) for name, (start, stop, shape) in layout.places.items()]
