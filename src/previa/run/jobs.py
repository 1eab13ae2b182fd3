"""The finetunings of single tasks, as jobs for this process or for workers: each leaves files and a record of them."""

from __future__ import annotations

import time

from torch import Tensor

from previa.core.params import Flat
from previa.io.checkpoint import save_checkpoint
from previa.run.bench import Bench, Job, bench_of, first_mean, fisher_file, inputs_file, model_file, save_ivon
from previa.run.finetune import Finetuned
from previa.run.given import given_mean
from previa.run.live import live
from previa.run.records import make_folder, write_record
from previa.run.resolve import Ingredients, load
from previa.run.squares import mean_inputs, mean_squares
from previa.run.work import adamw_recipe, ivon_recipe, snapshot_steps
from previa.study.file import Study

_here: list[Bench] = []  # of this process


def set_up(study: Study) -> None:
    """Make a worker process ready for ``do``: it loads the study's ingredients and the base for itself."""
    adopt(bench_of(load(study)))


def adopt(bench: Bench) -> None:
    """Make this process ready for ``do``."""
    _here[:] = [bench]


def bench_here() -> Bench:
    """The bench of this process, set up before."""
    return _here[0]


def do(job: Job) -> dict[str, float]:
    """Run the job, write its files and then its record; the seconds by name."""
    bench = _here[0]
    study, record = bench.study, bench.record(job)
    folder, facts = make_folder(record.parent), bench.facts(job)
    record.unlink(missing_ok=True)  # of other facts
    data = {job.task: bench.ingredients.train[job.task]}
    size = bench.ingredients.sizes[job.task]
    if job.kind == "ivon":
        recipe = ivon_recipe(study, snapshots=snapshot_steps(study))
        found = bench.train(data, (1.0,), recipe, job.number)
        for step, posterior in zip(recipe.snapshots, found.snapshots, strict=True):
            save_ivon(
                folder / f"ivon-{job.number}-{step}.safetensors", posterior, study, found, recipe, size, step
            )
        if not job.number:
            save_checkpoint(model_file(bench, job.task), state_of(bench.ingredients, found))
        seconds = {"train": found.seconds}
    elif job.kind == "adamw":
        found = bench.train(data, (1.0,), adamw_recipe(study))
        save_checkpoint(folder / "adamw.safetensors", found.params)
        seconds = {"train": found.seconds, "squares": _squares(bench, job.task, found.params)}
    elif job.kind == "inputs":
        seconds = {"inputs": _inputs(bench, job.task, first_mean(bench, job.task))}
    else:
        seconds = {"squares": _squares(bench, job.task, given_mean(bench.ingredients, job.task))}
    write_record(record, facts, seconds=seconds)
    return seconds


def state_of(ingredients: Ingredients, found: Finetuned) -> dict[str, Tensor]:
    """The whole state_dict of the model as it was finetuned: frozen tensors and buffers too."""
    with live(ingredients.model, found.params.layout) as place:
        place(found.params.vector)
        state = {name: tensor.detach().clone() for name, tensor in ingredients.model.state_dict().items()}
    return {**state, **found.statistics}


def _squares(bench: Bench, task: str, at: Flat) -> float:
    """Write the task's mean squared gradients at these parameters; the seconds they took."""
    started = time.perf_counter()
    save_checkpoint(fisher_file(bench, task), mean_squares(bench.ingredients, task, at))
    return time.perf_counter() - started


def _inputs(bench: Bench, task: str, at: Flat) -> float:
    """Write the second moments of the task's layers' inputs at these parameters; the seconds they took."""
    started = time.perf_counter()
    save_checkpoint(inputs_file(bench, task), mean_inputs(bench.ingredients, task, at))
    return time.perf_counter() - started
