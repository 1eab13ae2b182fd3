"""Joint finetuning from folder to folder: a model of transformers or an adapter of PEFT, data as the user has it, one checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from previa.core.diagonal import Diagonal
from previa.errors import FileError, InputError
from previa.fit.ivon import IVON
from previa.io.carry import Carried, carry, find_carried
from previa.io.checkpoint import open_checkpoint
from previa.io.posterior_file import load_posterior, open_posterior, save_posterior
from previa.run.accelerate_step import Loop
from previa.run.hf_rows import Reading, collate_of, counter_of, loss_of, read_task
from previa.run.ivon_checkpoint import (
    ivon_provenance,
    memory_note,
    posterior_for_file,
    posterior_for_model,
    write_posterior,
)
from previa.run.joint_data import Mixture
from previa.run.recipe import Recipe
from previa.run.records import make_folder, read_record, write_record
from previa.run.transformers_model import Loaded, load_model
from previa.run.transformers_tasks import auto_class

if TYPE_CHECKING:
    from accelerate import Accelerator

RECORD = "previa-finetune.json"
STATE = "state.safetensors"


@dataclass(frozen=True)
class Finished:
    """A finished finetuning: its folder, and what a person wants to know of it."""

    path: Path
    rows: Mapping[str, int]
    """taken of each task, repeats counted"""
    epochs: Mapping[str, float]
    shares: Mapping[str, float]
    """q_t of the objective"""
    empty: Mapping[str, int]
    """rows left out, with nothing to predict"""
    losses: Sequence[float]
    memory: float | None
    seconds: float
    resumed_at: int

    def sentences(self) -> list[str]:
        """A line a task, and a note where IVON's Hessian is still what it was set to."""
        lines = [
            f"{task}: share {self.shares[task]:.3g}, {self.rows[task]} rows, {self.epochs[task]:.3g} epochs"
            + (f"; {self.empty[task]} rows with nothing to predict left out" if self.empty[task] else "")
            for task in self.rows
        ]
        if len(self.losses) >= 20:
            tenth = len(self.losses) // 10
            first, last = (sum(part) / tenth for part in (self.losses[:tenth], self.losses[-tenth:]))
            lines.append(f"weighted loss: {first:.4g} over the first {tenth} steps, {last:.4g} over the last")
        note = None if self.memory is None else memory_note(self.memory)
        return lines if note is None else [*lines, f"Note: {note}"]


def finetune_folder(
    model: str | Path,
    data: Mapping[str, str],
    alpha: ArrayLike | Tensor,
    recipe: Recipe,
    out: str | Path,
    *,
    reading: Reading,
    loop: Loop | None = None,
    seed: int = 0,
    start: str | Path | None = None,
    accelerator: Accelerator | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Finished:
    """Finetune the model in a folder on sum_t alpha_t l_t, and write an ordinary checkpoint folder.

    model: the base's folder, or that of a merged preview, which is a warm start; or an adapter's, of which only the adapter is
    trained. data: task -> file, saved data set, module:function or hub name. start: a posterior file whose precision IVON goes
    on from, beside ``model`` or with its own mean.
    ``out`` appears when all is done: weights, configuration and tokenizer, previa-finetune.json with the losses and what the run
    rests on, with IVON posterior.safetensors, and snapshots/ where the recipe asks for them. Until then a killed run's state is
    in ``<out>.training``, and the same call goes on from there, bit for bit. The same call again does nothing.
    Under ``accelerate launch`` every process makes the call; the first one writes.
    Raises AlphaError, InputError, FileError, StudyError, NotFiniteError, MissingExtraError, ParamsError.
    """
    from previa.run.accelerate_loop import accelerator_of, finetune_accelerated

    accelerator = accelerator_of() if accelerator is None else accelerator
    loop = Loop() if loop is None else loop
    loaded = load_model(model, auto_class(reading.task_type), base=reading.base, dtype=reading.dtype)
    tasks, features, empty = {}, {}, {}
    for name, place in data.items():
        tasks[name], features[name], empty[name] = read_task(name, place, loaded, reading)
    kind = next(iter(tasks.values()))
    mixture = Mixture(
        features, alpha, recipe, seed=seed, tokens=counter_of(kind) if reading.per_token else None
    )
    facts = {
        **mixture.facts(),
        "model": str(model),
        "task_type": reading.task_type,
        "dtype": str(reading.dtype),
    }
    facts |= {"start": str(start)} if start is not None else {}
    out, training = Path(out), Path(f"{out}.training")
    if (known := _finished(out, facts)) is not None:
        return known
    if accelerator.is_main_process:
        make_folder(training)
    accelerator.wait_for_everyone()
    keeper = _Keeper(training, mixture, accelerator.is_main_process)
    begin, begin_ess = (None, None) if start is None else _start(Path(start), Path(model), loaded.model)
    found = finetune_accelerated(
        loaded.model, mixture, loss=loss_of(kind), collate=collate_of(tasks), loop=loop, state=training / STATE, start=begin,
        start_ess=begin_ess, accelerator=accelerator, watch=keeper.snapshot, progress=progress,
    )  # fmt: skip
    finished = Finished(
        path=out, rows=mixture.taken, epochs=mixture.epochs,
        shares=dict(zip(mixture.tasks, mixture.shares.task, strict=True)), empty=empty, losses=found.losses.tolist(),
        memory=found.memory, seconds=found.seconds, resumed_at=found.resumed_at,
    )  # fmt: skip
    if accelerator.is_main_process:
        keeper.write(out, loaded, found.optimizer, facts, finished)
    accelerator.wait_for_everyone()
    return finished


def _start(file: Path, folder: Path, model: Module) -> tuple[Diagonal, float | None]:
    """The posterior in a file, under the model's names, and the ess that it was made with."""
    mean = None if open_posterior(file).has_mean else open_checkpoint(folder)
    posterior, provenance = load_posterior(file, mean)
    if not isinstance(posterior, Diagonal):
        raise InputError(f"{file}: an isotropic posterior; expected a diagonal one, as IVON leaves it.")
    return posterior_for_model(model, posterior), provenance.ess


def _finished(out: Path, facts: Mapping[str, Any]) -> Finished | None:
    """What is in ``out`` already. Raises FileError where that is something else."""
    if not out.exists():
        return None
    record = read_record(out / RECORD, facts)
    if record is None:
        raise FileError(
            f"{out}: exists already, and is not the result of this very run. Choose another --out, or move it away."
        )
    return Finished(path=out, **{key: value for key, value in record.items() if key != "facts"})


@dataclass(frozen=True)
class _Keeper:
    """Writes what a run leaves, in the first process."""

    training: Path
    mixture: Mixture
    writes: bool

    def snapshot(self, step: int, model: Module, optimizer: Optimizer) -> None:
        """IVON's posterior after one of the recipe's snapshots, with its mean: the checkpoint is of the end."""
        if self.writes and step in self.mixture.recipe.snapshots and isinstance(optimizer, IVON):
            file = make_folder(self.training / "snapshots") / f"step-{step}.safetensors"
            save_posterior(file, posterior_for_file(model, optimizer), self._provenance(optimizer))

    def write(
        self,
        out: Path,
        loaded: Loaded,
        optimizer: Optimizer,
        facts: Mapping[str, Any],
        finished: Finished,
    ) -> None:
        """Write everything beside the state, then give it its name and remove the state."""
        part = self.training / "folder"
        shutil.rmtree(part, ignore_errors=True)
        make_folder(part)
        model: Any = loaded.model
        model.save_pretrained(part)
        carry(Carried(None, find_carried([loaded.folder, loaded.base]).tokenizer), part, {})
        if isinstance(optimizer, IVON):
            write_posterior(part, model, optimizer, self._provenance(optimizer))
        snapshots = self.training / "snapshots"
        if snapshots.is_dir():
            snapshots.rename(part / snapshots.name)
        told = {key: value for key, value in vars(finished).items() if key != "path"}
        write_record(part / RECORD, facts, **told)
        try:
            part.rename(out)
        except OSError as error:
            raise FileError(
                f"{out}: cannot be written: {error.strerror}. The result is in {part}."
            ) from error
        shutil.rmtree(self.training, ignore_errors=True)

    def _provenance(self, optimizer: IVON) -> Any:
        recipe = self.mixture.recipe
        return ivon_provenance(
            optimizer,
            reduction=recipe.convention,
            examples=self.mixture.examples,
            batch_size=recipe.batch_size,
        )
