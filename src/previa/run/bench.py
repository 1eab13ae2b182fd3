"""What every run of a study starts from, the files that its finetunings leave, and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from previa.core.diagonal import Diagonal
from previa.core.params import Flat
from previa.errors import FileError
from previa.io.checkpoint import open_checkpoint, save_checkpoint
from previa.io.posterior_file import load_posterior, save_posterior
from previa.io.provenance import Provenance
from previa.run.draws import Source
from previa.run.finetune import Finetuned, finetune
from previa.run.given import given_mean, settings_of
from previa.run.recipe import Recipe
from previa.run.records import digest, digest_of_data, make_folder, read_record, write_record
from previa.run.resolve import Ingredients, examples, modules
from previa.run.sweep import Progress
from previa.run.work import joint_recipe, pretrain_recipe, seed_of, snapshot_steps
from previa.study.file import Study


@dataclass(frozen=True)
class Job:
    """One task's IVON run of this number, its AdamW run with squared gradients, or what is measured at its parameters:
    squared gradients at the checkpoint it brings, its layers' inputs at that or at the end of its first run.
    """

    kind: Literal["ivon", "adamw", "squares", "inputs"]
    task: str
    number: int = 0

    def __str__(self) -> str:
        what = {
            "ivon": f"IVON run {self.number}",
            "adamw": "AdamW run",
            "squares": "squared gradients",
            "inputs": "input moments",
        }
        return f"task {self.task!r}, {what[self.kind]}"


@dataclass(frozen=True)
class Bench:
    """What every run of a study starts from: its ingredients, and the base model, pretrained or as it was built."""

    ingredients: Ingredients
    base: Flat
    posterior: Diagonal | None = None
    ess: float | None = None
    pretrain_seconds: float = 0.0

    @property
    def study(self) -> Study:
        """The study file's settings."""
        return self.ingredients.study

    def folder(self, task: str) -> Path:
        """Where the runs of this task are."""
        return self.study.out / "runs" / task

    def record(self, job: Job) -> Path:
        """The file that appears when this job is done."""
        name = {"ivon": f"ivon-{job.number}", "squares": "fisher"}.get(job.kind, job.kind)
        return self.folder(job.task) / f"{name}.json"

    def files(self, job: Job) -> list[Path]:
        """What else is there when this job is done."""
        if job.kind == "ivon":
            first = [] if job.number else [model_file(self, job.task)]
            return [*first, *ivon_files(self, job.task, job.number)]
        if job.kind == "inputs":
            return [inputs_file(self, job.task)]
        squares = [fisher_file(self, job.task)]
        return squares if job.kind == "squares" else [self.folder(job.task) / "adamw.safetensors", *squares]

    def done(self, job: Job) -> bool:
        """Whether the job's record is of these facts, and its files are whole."""
        record = self.record(
            job
        )  # without one the facts need not be known: they may rest on a run that is not there
        found = record.is_file() and read_record(record, self.facts(job)) is not None
        return found and all(map(_whole, self.files(job)))

    def facts(self, job: Job) -> dict[str, Any]:
        """All that the job's result rests on."""
        study = self.study
        facts = {
            "task": job.task, "data": self._data[job.task], "model": study.model, "loss": study.loss, "seed": study.seed,
            "convention": study.convention, "base": self.digest,
            "code": _code(self.ingredients, settings_of(self.ingredients, job.task).data),
        }  # fmt: skip
        if job.kind == "ivon":
            return {
                **facts,
                "number": job.number,
                "finetune": asdict(study.finetune),
                "snapshots": snapshot_steps(study),
            }
        if job.kind == "inputs":
            return {**facts, "mean": digest(first_mean(self, job.task).vector)}
        adamw = {name: value for name, value in asdict(study.adamw).items() if name != "prior"}
        if job.kind == "squares":
            mean = given_mean(self.ingredients, job.task)
            return {**facts, "labels": adamw["labels"], "mean": digest(mean.vector)}
        return {**facts, "adamw": adamw, "batch_size": study.finetune.batch_size}

    def joint_facts(self, alpha: Sequence[float]) -> dict[str, Any]:
        """All that a joint run at ``alpha`` rests on, but where it started and how long it was."""
        study = self.study
        recipe = {name: value for name, value in asdict(joint_recipe(study)).items() if name != "steps"}
        code = [_code(self.ingredients, task.data) for task in study.tasks]
        return {
            "alpha": list(alpha), "data": self._data, "model": study.model, "loss": study.loss, "seed": study.seed,
            "convention": study.convention, "base": self.digest, "recipe": recipe,
            "code": {name: version for one in code for name, version in one.items()},
        }  # fmt: skip

    def start_at(self, begin: Flat) -> Bench:
        """The same with other parameters to start from; a pretrained posterior keeps its precision."""
        if self.posterior is None:
            return replace(self, base=begin)
        precision, _ = self.posterior.natural()
        return replace(self, base=begin, posterior=Diagonal(begin, Flat(begin.layout, precision)))

    def train(
        self,
        data: dict[str, Any],
        alpha: Any,
        recipe: Recipe,
        number: int = 0,
        progress: Progress | None = None,
    ) -> Finetuned:
        """A finetuning from the base, as every one of this study starts."""
        return finetune(
            self.ingredients.model,
            data,
            alpha,
            recipe,
            loss=self.ingredients.loss,
            seed=seed_of(self.study, number),
            start=self.posterior or self.base,
            start_ess=self.ess,
            progress=progress,
        )

    @cached_property
    def digest(self) -> str:
        """A name for the parameters and the precision that runs start from."""
        return digest(self.base.vector, *(self.posterior.natural()[:1] if self.posterior else ()))

    @cached_property
    def _data(self) -> dict[str, str]:
        return {task: digest_of_data(task, train) for task, train in self.ingredients.train.items()}


def bench_of(ingredients: Ingredients, progress: Progress | None = None) -> Bench:
    """The base of a study: [pretrain] is done once, its posterior kept in the folder ``base``, or the model as it is built."""
    study, base = ingredients.study, ingredients.base
    if study.pretrain is None:
        return Bench(ingredients, base)
    folder = make_folder(study.out / "base")
    train, _ = examples("data of [pretrain]", study.pretrain.data, study.folder)
    recipe = pretrain_recipe(study)
    facts = {
        "data": digest_of_data("[pretrain]", train), "model": study.model, "loss": study.loss, "seed": study.seed,
        "convention": study.convention, "built": digest(base.vector), "recipe": asdict(recipe),
        "code": _code(ingredients, study.pretrain.data),
    }  # fmt: skip
    record, file = folder / "pretrain.json", folder / "posterior.safetensors"
    done = read_record(record, facts)
    if done is None or not _whole(file):
        found = finetune(
            ingredients.model,
            {"pretraining": train},
            (1.0,),
            recipe,
            loss=ingredients.loss,
            seed=seed_of(study),
            progress=progress and (lambda what, done, total: progress("pretrain", done, total)),
        )
        save_checkpoint(folder / "model.safetensors", found.params)
        save_ivon(file, found.posterior, study, found, recipe, len(Source("pretraining", train)))
        done = {"seconds": found.seconds}
        write_record(record, facts, **done)
    posterior, provenance = load_posterior(file)
    assert isinstance(posterior, Diagonal)
    return Bench(ingredients, posterior.mode(), posterior, provenance.ess, done["seconds"])


def fisher_file(bench: Bench, task: str) -> Path:
    """Where a task's mean squared gradients are, as they come: not damped, not scaled."""
    return bench.folder(task) / "fisher.safetensors"


def inputs_file(bench: Bench, task: str) -> Path:
    """Where the second moments of a task's layers' inputs are, by the weight's name."""
    return bench.folder(task) / "inputs.safetensors"


def first_mean(bench: Bench, task: str) -> Flat:
    """The parameters of the checkpoint that a task brings, or at the end of its first run, which must be done."""
    if settings_of(bench.ingredients, task).checkpoint is not None:
        return given_mean(bench.ingredients, task)
    posterior, _ = load_posterior(ivon_files(bench, task, 0)[-1])
    return posterior.mode()


def model_file(bench: Bench, task: str) -> Path:
    """An ordinary checkpoint: the model at the end of the task's first run, of which ivon_files has the posterior."""
    return bench.folder(task) / "model.safetensors"


def ivon_files(bench: Bench, task: str, number: int) -> list[Path]:
    """The posteriors along this IVON run, the last at its end."""
    return [bench.folder(task) / f"ivon-{number}-{step}.safetensors" for step in snapshot_steps(bench.study)]


def read_params(path: Path, bench: Bench) -> Flat:
    """The parameters in a checkpoint that previa wrote. Raises FileError, ParamsError."""
    return Flat.of(dict(open_checkpoint(path, finite=True)), bench.ingredients.layout, str(path))


def _code(ingredients: Ingredients, data: str | None) -> dict[str, str]:
    """The versions of the modules that a run with this data rests on; the score's is not among them."""
    if ingredients.folders is not None:
        return dict(ingredients.folders.code)
    names = modules(ingredients.study.model, ingredients.study.loss, data)
    return {name: ingredients.code[name] for name in names if name in ingredients.code}


def _whole(file: Path) -> bool:
    """Whether a safetensors file is there and as long as its header says."""
    try:
        open_checkpoint(file)
    except FileError:
        return False
    return True


def save_ivon(
    path: Path,
    posterior: Diagonal | None,
    study: Study,
    found: Finetuned,
    recipe: Recipe,
    size: int,
    step: int | None = None,
) -> None:
    """Write the posterior of an IVON run, or of a snapshot after ``step``, with its provenance."""
    assert posterior is not None
    provenance = Provenance(
        family="diagonal",
        source="ivon",
        reduction=study.convention,
        examples=size,
        batch_size=recipe.batch_size,
        ess=found.ess,
        delta=study.finetune.weight_decay,
        beta2=study.finetune.betas[1],
        steps=step or recipe.steps,
        hess_init=study.finetune.hess_init,
    )
    save_posterior(path, posterior, provenance)
