"""IVON's posterior beside a checkpoint of transformers or peft: under the names of its file, with its provenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Module

from previa.core.diagonal import Diagonal
from previa.core.params import Flat, Layout, Params
from previa.errors import InputError
from previa.fit.ivon import IVON
from previa.io.posterior_file import save_posterior
from previa.io.provenance import Provenance
from previa.run.live import trainable

FILE = "posterior.safetensors"
MUCH = 0.5  # of hess_init left in h: more than half of the Hessian then is what it was set to


def write_posterior(folder: str | Path, model: Module, optimizer: IVON, provenance: Provenance) -> Path:
    """Write posterior.safetensors into the folder of ``model``'s checkpoint; returns its path.

    Its tensors have the names that they have in the checkpoint. The mean is in the file only where the checkpoint rounds it
    (half precision): elsewhere the checkpoint holds it. Raises InputError as IVON.posterior and ``in_file``, FileError.
    """
    path = Path(folder) / FILE
    rounded = any(p.dtype in (torch.bfloat16, torch.float16) for p in trainable(model).values())
    save_posterior(path, posterior_for_file(model, optimizer), provenance, with_mean=rounded)
    return path


def posterior_for_file(model: Module, optimizer: IVON) -> Diagonal:
    """IVON's posterior under the names, and cut into the tensors, of the checkpoint's file."""
    posterior, renamed = optimizer.posterior(model), in_file(model)
    precision = Flat(posterior.layout, posterior.natural()[0])
    return Diagonal(renamed(posterior.mode()), renamed(precision))


def posterior_for_model(model: Module, posterior: Diagonal) -> Diagonal:
    """The reverse: a posterior from a file under the names that the parameters have in ``model``. Raises ParamsError."""
    layout = Layout.of({name: p.detach() for name, p in trainable(model).items()})
    numbers = Flat(layout, torch.arange(layout.size))
    places = in_file(model)(numbers)  # for each entry in the file, which of the model's it is
    Layout.of(places).check(posterior.mode(), "the posterior", "the model's trainable parameters")
    order = torch.cat([places[name].flatten() for name in posterior.layout.places])
    parts = []
    for vector in (posterior.mode().vector, posterior.natural()[0]):
        parts.append(Flat(layout, torch.empty_like(vector).index_copy_(0, order.to(vector.device), vector)))
    return Diagonal(*parts)


def in_file(model: Module) -> Callable[[Params], dict[str, Tensor]]:
    """From values by the model's names of its trainable parameters to what ``save_pretrained`` would write of them.

    An adapter's file leaves out the adapter's own name; transformers keeps the names, and the cut into tensors, that a kind of
    model had first. Squares, precisions and numbers are rearranged as the weights are.
    Raises InputError naming a trainable parameter that an adapter's file leaves out: its training would be lost.
    """
    if hasattr(model, "peft_config"):
        names = names_in_adapter(model)
        return lambda values: {names[name]: value for name, value in values.items()}
    if not hasattr(model, "save_pretrained"):
        return dict
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before 5.0 files had the model's names
        return dict
    return lambda values: dict(revert_weight_conversion(model, dict(values)))  # type: ignore[arg-type]


def names_in_adapter(model: Module) -> dict[str, str]:
    """Name of a trainable parameter -> its name in the adapter's file. Raises InputError for one that the file leaves out."""
    from peft import get_peft_model_state_dict

    saved: Mapping[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    by_place = {_place(tensor): name for name, tensor in saved.items()}
    for name, parameter in trainable(model).items():
        if _place(parameter) not in by_place:
            raise InputError(
                f"{name!r} is trainable, but it is no part of the adapter's file, so that its training would be lost. Freeze "
                "it, or name its module in modules_to_save of the adapter's configuration."
            )
    return {name: by_place[_place(parameter)] for name, parameter in trainable(model).items()}


def ivon_provenance(
    optimizer: IVON, *, reduction: Literal["mean", "sum"], examples: int, batch_size: int
) -> Provenance:
    """What the precisions of this optimizer mean (METHOD 2). Raises InputError where its groups have different options."""
    group, *others = (
        {key: value for key, value in g.items() if key != "params"} for g in optimizer.param_groups
    )
    for other in others:
        for key in ("ess", "weight_decay", "hess_init", "betas"):
            if other[key] != group[key]:
                raise InputError(
                    f"IVON's groups have {key} {group[key]} and {other[key]}, but a posterior file names one. Use one value "
                    "for all parameters."
                )
    return Provenance(
        family="diagonal",
        source="ivon",
        reduction=reduction,
        examples=examples,
        batch_size=batch_size,
        ess=float(group["ess"]),
        delta=float(group["weight_decay"]),
        beta2=float(group["betas"][1]),
        steps=steps_done(optimizer),
        hess_init=float(group["hess_init"]),
    )


def steps_done(optimizer: IVON) -> int:
    """The most steps that any parameter took."""
    states: list[dict[str, Any]] = list(optimizer.state.values())
    return max((int(state["step"]) for state in states), default=0)


def memory_note(memory: float) -> str | None:
    """What to tell a user whose Hessian is mostly its initial value; None where it is not."""
    if memory <= MUCH:
        return None
    return (
        f"IVON's Hessian is still {100 * memory:.0f} % its initial value (beta2 to the number of steps): merging by it is then "
        "close to simple averaging. Lower the second of betas, or train longer."
    )


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape)
