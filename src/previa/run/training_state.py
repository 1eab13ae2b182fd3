"""All that a stopped training needs to go on bit for bit, in one safetensors file that is there whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from previa.errors import FileError, InputError
from previa.io.checkpoint import Checkpoint, open_checkpoint, save_checkpoint

KEY = "previa.training"
FORMAT = 1


def save_state(
    path: Path, step: int, model: Module, optimizer: Optimizer, losses: Tensor, facts: Mapping[str, Any]
) -> None:
    """Write the model's trainable parameters and buffers, the optimizer's state, and ``facts``: what run this is.

    Raises FileError where the path cannot be written.
    """
    state = optimizer.state_dict()
    tensors = {f"model/{name}": tensor for name, tensor in _changing(model).items()}
    numbers: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                numbers.setdefault(str(index), {})[name] = value
    noise = state.get("noise")
    tensors |= {f"noise/{name}": stream for name, stream in noise["streams"].items()} if noise else {}
    header = {
        "format": FORMAT,
        "step": step,
        "facts": facts,
        "groups": state["param_groups"],
        "numbers": numbers,
        "seed": noise["seed"] if noise else None,
    }
    save_checkpoint(path, {**tensors, "losses": losses}, {KEY: json.dumps(header)})


def load_state(
    path: Path, model: Module, optimizer: Optimizer, losses: Tensor, facts: Mapping[str, Any]
) -> int:
    """Bring model, optimizer and losses to where ``save_state`` wrote them; the steps done then, 0 where there is no file.

    Raises InputError naming the fact in which that run differs from this one, FileError where the file is none of ours.
    """
    if not path.exists():
        return 0
    file = open_checkpoint(path)
    header = _header(file)
    _check_facts(path, header["facts"], json.loads(json.dumps(facts)))
    own = _changing(model)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(file[f"model/{name}"])
    state: dict[int, dict[str, Any]] = {int(index): dict(found) for index, found in header["numbers"].items()}
    for name in file:
        kind, _, rest = name.partition("/")
        if kind == "optimizer":
            index, _, entry = rest.partition("/")
            state.setdefault(int(index), {})[entry] = file[name]
    whole: dict[str, Any] = {"state": state, "param_groups": header["groups"]}
    if header["seed"] is not None:
        streams = {name.partition("/")[2]: file[name] for name in file if name.startswith("noise/")}
        whole["noise"] = {"seed": header["seed"], "streams": streams}
    optimizer.load_state_dict(whole)
    done = file["losses"]
    losses[: len(done)] = done
    return int(header["step"])


def _changing(model: Module) -> dict[str, Tensor]:
    """What training changes: all of the state but frozen parameters."""
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def _header(file: Checkpoint) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads(file.metadata[KEY])
    except (KeyError, ValueError) as error:
        raise FileError(f"{file.path}: not the state of a training. Choose another --out.") from error
    if header["format"] != FORMAT:
        raise FileError(
            f"{file.path}: a training's state of format {header['format']}; this previa reads {FORMAT}. Delete it to begin anew."
        )
    return header


def _check_facts(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name in {**wanted, **found}:
        one, other = found.get(name), wanted.get(name)
        if isinstance(one, dict) and isinstance(other, dict) and one != other:
            _check_facts(
                path,
                {f"{name}, {k}": v for k, v in one.items()},
                {f"{name}, {k}": v for k, v in other.items()},
            )
        elif one != other:
            raise InputError(
                f"{path}: here is a training that was stopped, but of another run: its {name} is {one!r}, and {other!r} was "
                "asked for. Repeat its command to go on, or delete the file to begin anew."
            )
