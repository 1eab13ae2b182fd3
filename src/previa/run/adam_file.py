"""From a Trainer's optimizer to a posterior file of Adam's second moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from previa.errors import InputError
from previa.fit.adam_moments import adam_moments
from previa.io.checkpoint import open_checkpoint
from previa.io.optimizer_file import open_optimizer
from previa.io.provenance import Provenance
from previa.run.precision_file import Prior, save_precision
from previa.run.trainer_checkpoint import trainer_facts
from previa.run.transformers_model import in_files, skeleton
from previa.run.transformers_squares import Scaled, check_place, freeze


@final
@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user says of the training; None is read from the checkpoint's folder."""

    batch_size: int | None = None
    steps: int | None = None
    examples: int | None = None
    power: float = 1.0
    reduction: str = "mean"
    base: str | None = None
    frozen: tuple[str, ...] = ()


def adam_file(
    optimizer: str | Path,
    model: str | Path | None,
    out: str | Path,
    asked: Asked,
    prior: Prior,
    *,
    allow_pickle: bool = False,
) -> list[str]:
    """Write (B v_hat)^power of a Trainer's optimizer, plus a prior, as the precision of a posterior file; sentences on it.

    optimizer: optimizer.pt or its folder. model: the checkpoint's or adapter's folder, None for the optimizer's; its weights are
    not read, only their names and shapes. See previa.adam_moments for what the numbers are worth.
    Raises FileError (a pickle without leave), InputError where batch size or examples are neither said nor found or where steps
    disagree, ParamsError, NotFiniteError, PrecisionError.
    """
    path, out = Path(optimizer), Path(out)
    folder = path if path.is_dir() else path.parent
    check_place(out)
    state = open_optimizer(path, allow_pickle=allow_pickle)
    facts = trainer_facts(folder)
    batch_size = asked.batch_size or facts.batch_size
    if batch_size is None:
        raise InputError(
            f"{folder}: neither trainer_state.json with training_args.bin there tells how many examples are behind one step. Say it "
            "with --batch-size: rows a device, times accumulation steps, times devices."
        )
    at = Path(model) if model is not None else folder
    network = skeleton(at, asked.base)
    freeze(network, asked.frozen)
    found = adam_moments(_with_steps(state, asked.steps), network, batch_size=batch_size, power=asked.power)
    for steps, who in ((asked.steps, "--steps says"), (facts.steps, "trainer_state.json says")):
        if steps is not None and steps != found.steps:
            raise InputError(
                f"{path}: Adam did {found.steps} steps, but {who} {steps}. Are these files of one checkpoint? A training that went on "
                "without its optimizer begins to count anew: give --steps of the optimizer, and its file in a folder of its own."
            )
    examples = asked.examples or facts.examples
    if examples is None:
        raise InputError(
            f"{folder}: nothing there tells how many training examples there were. Say it with --examples."
        )
    written = in_files(network, open_checkpoint(at), at)
    N = examples if asked.reduction == "sum" else 1
    squares = Scaled(written(found.mean), float(N))
    own: dict[str, Any] = dict(found.provenance)
    provenance = Provenance(family="diagonal", reduction=asked.reduction, examples=examples, **own)
    made = {"optimizer": str(path), "model": str(at), "unused": list(found.unused)}
    provenance = save_precision(out, squares, prior, provenance, made)
    told = [
        f"Adam's second moments after {found.steps} steps of beta2 = {found.beta2}, times {batch_size} examples a step"
        + (f" ({facts.how})" if asked.batch_size is None else "")
        + ("" if asked.power == 1 else f", to the power {asked.power:g}"),
        f"{examples} training examples" + ("" if asked.examples else ", estimated from the Trainer's epochs"),
        f"the prior is {100 * (provenance.prior_share or 0):.0f} % of the precision on average",
    ]
    if found.unused:
        told.append(
            f"{len(found.unused)} tensors never had a gradient, {found.unused[0]!r} first: all of theirs is the prior"
        )
    return told


def _with_steps(state: Mapping[str, Any], steps: int | None) -> Mapping[str, Any]:
    """The state with a count of steps in its groups, for parameters that have none of their own."""
    if steps is None:
        return state
    groups = [{"step": steps, **group} for group in state["param_groups"]]
    return {**state, "param_groups": groups}
