"""What a study has already, without training anything: its base, the tasks' own runs, and their precisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from previa.core.params import Flat
from previa.errors import StudyError
from previa.io.posterior_file import open_posterior
from previa.io.provenance import Provenance
from previa.run.bench import Bench, Job, bench_of, first_mean, ivon_files, read_params
from previa.run.fit import SQUARES, fit, jobs_of
from previa.run.given import given_mean, settings_of
from previa.run.resolve import Ingredients
from previa.run.work import Work
from previa.study.preview import Preview


class _NotThereError(Exception):
    """The base would have to be pretrained."""


@dataclass(frozen=True)
class There:
    """base: None where it is not pretrained yet; means: parameters of the tasks that have a run; missing: the other tasks.

    ivon and squares: precisions by task, only where all runs are there; provenance: of these, by kind ("ivon" or
    "squared_gradients") and task; problem: why the study's methods cannot be fitted, or None.
    """

    base: Flat | None
    means: Mapping[str, Flat]
    missing: tuple[str, ...]
    ivon: Mapping[str, Flat] = field(default_factory=dict)
    squares: Mapping[str, Flat] = field(default_factory=dict)
    provenance: Mapping[tuple[str, str], Provenance] = field(default_factory=dict)
    problem: str | None = None


def base_there(ingredients: Ingredients) -> Bench | None:
    """The bench of a study whose base needs no training any more; None where it would be pretrained."""
    if ingredients.study.pretrain is not None:
        if not (ingredients.study.out / "base" / "pretrain.json").is_file():
            return None

        def stop(what: str, done: int, total: int) -> None:
            raise _NotThereError  # what is kept rests on other facts: a first step was taken, and is thrown away

        try:
            return bench_of(ingredients, stop)
        except _NotThereError:
            return None
    return bench_of(ingredients)


def there(work: Work) -> There:
    """All that is there of the tasks' own runs. Nothing is trained, and no pass over data is made.

    Raises FileError, ParamsError, InputError for checkpoints and posteriors that are not of the study's model and base.
    """
    ingredients, study = work.ingredients, work.study
    brought = {
        task.name: given_mean(ingredients, task.name) for task in study.tasks if task.checkpoint is not None
    }
    bench = base_there(ingredients)
    if bench is None:
        return There(None, brought, tuple(name for name in study.names() if name not in brought))
    try:
        jobs = jobs_of(bench)
    except StudyError as error:
        missing = tuple(name for name in study.names() if name not in brought)
        return There(bench.base, brought, missing, problem=str(error))
    if all(bench.done(job) for job in jobs):
        return _whole(work, bench)
    means = {**brought, **{name: mean for name in study.names() if (mean := _own(bench, name)) is not None}}
    means = {name: means[name] for name in study.names() if name in means}
    missing = tuple(
        name for name in study.names() if not all(bench.done(job) for job in jobs if job.task == name)
    )
    return There(bench.base, means, missing)


def _own(bench: Bench, task: str) -> Flat | None:
    """The end of a run of a task that is finetuned here."""
    if settings_of(bench.ingredients, task).checkpoint is not None:
        return None
    if bench.done(Job("ivon", task)):
        return first_mean(bench, task)
    if bench.done(Job("adamw", task)):
        return read_params(bench.folder(task) / "adamw.safetensors", bench)
    return None


def _whole(work: Work, bench: Bench) -> There:
    runs = fit(work)  # reads them
    ivon = {name: one.ivon[0][-1].natural()[0] for name, one in runs.tasks.items() if one.ivon}
    squares = {name: one.squares.natural()[0] for name, one in runs.tasks.items() if one.squares is not None}
    layout = bench.ingredients.layout
    provenance: dict[tuple[str, str], Provenance] = {}
    for task in work.study.tasks:
        files: dict[str, Path | None] = {}
        if task.name in ivon:
            files["ivon"] = task.posterior or ivon_files(bench, task.name, 0)[-1]
        if task.name in squares:
            written = bench.folder(task.name) / f"{SQUARES}.safetensors"
            files[SQUARES] = written if written.is_file() else task.posterior
        provenance |= {
            (kind, task.name): open_posterior(file).provenance for kind, file in files.items() if file
        }
    return There(
        bench.base,
        {name: one.mean for name, one in runs.tasks.items()},
        (),
        {name: Flat(layout, h) for name, h in ivon.items()},
        {name: Flat(layout, h) for name, h in squares.items()},
        provenance,
    )


def previewed(work: Work) -> Preview | None:
    """The preview that the study follows, of what was scored; None where nothing was."""
    name = work.study.followed(work.store.methods())
    if name not in work.store.methods():
        return None
    found = work.store.preview(name)
    return found.rows(found.ok) if found.ok.any() else None
