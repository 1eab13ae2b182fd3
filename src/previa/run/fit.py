"""fit: the finetunings that a study's previews need, each made once, and their posteriors."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from previa.core.damping import damped
from previa.core.diagonal import Diagonal
from previa.core.kronecker import Kronecker, kronecker_damping, regmean
from previa.core.params import Flat
from previa.core.runs import Run
from previa.errors import PreviaError, StudyError
from previa.io.checkpoint import open_checkpoint
from previa.io.posterior_file import load_posterior, save_posterior
from previa.io.provenance import Provenance, check_conventions
from previa.run.bench import Bench, Job, bench_of, fisher_file, inputs_file, ivon_files, read_params
from previa.run.executors import map_processes
from previa.run.given import given_mean, given_posterior
from previa.run.jobs import adopt, do, set_up
from previa.run.records import read_record
from previa.run.sweep import Progress
from previa.run.work import Work

SQUARES = "squared_gradients"
REGMEAN = "regmean"
INPUTS_PRIOR = (
    1e-3  # of regmean, relative to each layer's own scale: inputs that are always zero have no moment
)


@dataclass(frozen=True)
class TaskRuns:
    """A task's own finetunings, as posteriors."""

    mean: Flat
    """parameters of the task's first run, or of the checkpoint it brings"""
    ivon: tuple[tuple[Diagonal, ...], ...] = ()
    """[run][snapshot], the last snapshot at the run's end"""
    squares: Diagonal | None = None
    """squared gradients, damped"""
    inputs: Kronecker | None = None
    """RegMean's, from the moments of the layers' inputs"""


@dataclass(frozen=True)
class Runs:
    """All tasks' runs, in the study's order, and the base that they started from."""

    base: Flat
    tasks: Mapping[str, TaskRuns]
    warnings: tuple[str, ...] = ()

    @property
    def corners(self) -> tuple[Run, ...]:
        """Each task's first run as a Run at its corner of the simplex, with the best posterior it has."""
        names = list(self.tasks)
        return tuple(
            Run(
                tuple(float(other == name) for other in names),
                runs.mean,
                runs.ivon[0][-1] if runs.ivon else runs.squares or Diagonal(runs.mean, 1.0),
            )
            for name, runs in self.tasks.items()
        )


def fit(work: Work, *, workers: int = 1, progress: Progress | None = None) -> Runs:
    """Pretrain and finetune what is not there yet, in ``workers`` processes; then the posteriors of every task.

    Files are under runs/<task>/ in the study's folder; a run counts as done where its record names the same facts.
    Raises PreviaError naming the run that failed (the others are kept), StudyError where a task's own checkpoint does not
    serve the study's methods, InputError where precisions are not of one scale, FileError.
    """
    for task in work.study.tasks:
        if task.checkpoint is not None:
            given_mean(
                work.ingredients, task.name
            )  # what is wrong with it is said before anything is trained
    bench = bench_of(work.ingredients, progress)
    jobs = jobs_of(bench)
    trained = [job for job in jobs if job.kind != "inputs"]
    what = "squared gradients" if trained and all(job.kind == "squares" for job in trained) else "finetune"
    _do(work, bench, trained, workers, progress, what)
    measured = [job for job in jobs if job.kind == "inputs"]  # at the ends of runs, which are there now
    if measured:
        _do(work, bench, measured, workers, progress, "input moments")
    _note_seconds(work, bench, jobs)
    return _read(bench)


def _do(
    work: Work, bench: Bench, jobs: list[Job], workers: int, progress: Progress | None, what: str
) -> None:
    """Those jobs that are not done yet. Raises PreviaError naming one that failed, after the others."""
    missing = [job for job in jobs if not bench.done(job)]
    done, failures = len(jobs) - len(missing), []
    if progress is not None:
        progress(what, done, len(jobs))
    start, args = (adopt, (bench,)) if workers == 1 else (set_up, (work.study,))
    with closing(map_processes(do, missing, workers, start, args)) as outcomes:
        for outcome in outcomes:
            if outcome.failure is not None:
                failures.append(f"{outcome.item}: {outcome.failure}")
            done += 1
            if progress is not None:
                progress(what, done, len(jobs))
    if failures:
        more = f" {len(failures) - 1} more failed." if len(failures) > 1 else ""
        raise PreviaError(f"{failures[0].rstrip('.')}.{more}")


def jobs_of(bench: Bench) -> list[Job]:
    """The runs that the study's preview methods need; a task with a checkpoint of its own is not finetuned.

    Raises StudyError where such a task lacks what a method needs.
    """
    study = bench.study
    methods = set(study.families())
    numbers = range(study.mixture.seeds if "mixture" in methods else 1 if methods - {SQUARES} else 0)
    jobs = []
    for task in study.tasks:
        if task.checkpoint is None:
            jobs += [Job("ivon", task.name, number) for number in numbers]
            jobs += [Job("adamw", task.name)] * (SQUARES in methods)
            jobs += [Job("inputs", task.name)] * (REGMEAN in methods)
            continue
        brought = given_posterior(bench.ingredients, task.name)
        squares = brought is not None and brought[1].source == SQUARES
        lacking = sorted(methods & {"ivon_hessian", "mixture"}) if brought is None or squares else []
        if lacking:
            raise StudyError(
                f"task {task.name!r} brings a checkpoint without an IVON posterior, needed by {' and '.join(lacking)}. Add "
                f"posterior = ..., or set methods in [preview] to others: {', '.join(sorted(methods - set(lacking)) or ['simple'])}."
            )
        jobs += [Job("squares", task.name)] * (SQUARES in methods and not squares)
        jobs += [Job("inputs", task.name)] * (REGMEAN in methods)
    return jobs


@dataclass
class _Found:
    """What there is of one task, before squared gradients are damped."""

    mean: Flat
    ivon: tuple[tuple[Diagonal, ...], ...] = ()
    squares: Diagonal | None = None
    inputs: Kronecker | None = None
    fisher: tuple[Flat, Flat] | None = None
    """(parameters, mean squared gradients there)"""
    facts: dict[str, Provenance] = field(default_factory=dict)
    """"ivon" and "squared_gradients" """


def _read(bench: Bench) -> Runs:
    """All runs from their files, or from what the tasks bring; squared gradients are damped, all tasks' together."""
    jobs = jobs_of(bench)
    found = {}
    for task in bench.study.tasks:
        own = [job for job in jobs if job.task == task.name]
        found[task.name] = (
            _finetuned(bench, task.name, own) if task.checkpoint is None else _brought(bench, task.name, own)
        )
    warnings = [
        _memory_warning(task, one.facts["ivon"])
        for task, one in found.items()
        if "ivon" in one.facts and (one.facts["ivon"].memory or 0) > 0.5
    ]
    if fishers := {task: one.fisher for task, one in found.items() if one.fisher is not None}:
        share = _damped(bench, fishers, found)
        warnings += [_prior_warning(share)] * (share > 0.9)
    if REGMEAN in bench.study.families():
        _regmeans(bench, found)
    for kind in ("ivon", SQUARES):
        check_conventions({task: one.facts[kind] for task, one in found.items() if kind in one.facts})
    tasks = {task: TaskRuns(one.mean, one.ivon, one.squares, one.inputs) for task, one in found.items()}
    return Runs(bench.base, tasks, tuple(warnings))


def _finetuned(bench: Bench, task: str, jobs: list[Job]) -> _Found:
    """The runs of a task that is finetuned here."""
    runs = [
        [_read_diagonal(file) for file in ivon_files(bench, task, job.number)]
        for job in jobs
        if job.kind == "ivon"
    ]
    fisher = None
    if any(job.kind == "adamw" for job in jobs):
        at = read_params(bench.folder(task) / "adamw.safetensors", bench)
        fisher = at, read_params(fisher_file(bench, task), bench)
    if runs:
        mean, facts = runs[0][-1][0].mode(), {"ivon": runs[0][-1][1]}
    else:
        assert fisher is not None  # every method needs one of the two
        mean, facts = fisher[0], {}
    return _Found(mean, tuple(tuple(q for q, _ in run) for run in runs), fisher=fisher, facts=facts)


def _brought(bench: Bench, task: str, jobs: list[Job]) -> _Found:
    """The checkpoint, and the posterior if there is one, that a task brings."""
    found = _Found(given_mean(bench.ingredients, task))
    if any(job.kind == "squares" for job in jobs):
        found.fisher = found.mean, read_params(fisher_file(bench, task), bench)
    if brought := given_posterior(bench.ingredients, task):
        posterior, provenance = brought
        if provenance.source == SQUARES:
            found.squares, found.facts[SQUARES] = posterior, provenance
        else:
            found.ivon, found.facts["ivon"] = ((posterior,),), provenance
    return found


def _damped(bench: Bench, fishers: Mapping[str, tuple[Flat, Flat]], found: Mapping[str, _Found]) -> float:
    """Enter precisions from each task's (parameters, mean squared gradients) into ``found``; the prior's share of them.

    Absolute under the study's convention, with the prior of [adamw]: ess*(F + delta) for mean losses, N_t F + delta for
    summed ones. Each is written beside its run; in a study of folders under the names that these have.
    """
    study, sizes = bench.study, bench.ingredients.sizes
    ess = study.finetune.ess if study.convention == "mean" else None
    scaled = [Flat(F.layout, F.vector * (ess or sizes[task])) for task, (_, F) in fishers.items()]
    precisions, share = damped(scaled, study.adamw.prior)
    for (task, (at, _)), precision in zip(fishers.items(), precisions, strict=True):
        posterior = Diagonal(at, precision)
        provenance = Provenance(
            family="diagonal",
            source=SQUARES,
            reduction=study.convention,
            examples=sizes[task],
            label_mode=study.adamw.labels,
            ess=ess,
            steps=study.adamw.steps,
            prior_relative=study.adamw.prior,
            prior_share=share,
        )
        found[task].squares, found[task].facts[SQUARES] = posterior, provenance
        folders = bench.ingredients.folders
        for_file = posterior if folders is None else folders.posterior_in_file(posterior)
        save_posterior(bench.folder(task) / f"{SQUARES}.safetensors", for_file, provenance)
    return share


def _regmeans(bench: Bench, found: Mapping[str, _Found]) -> None:
    """Enter each task's RegMean posterior: I (x) A of the mean or, by the study's convention, the sum over its examples."""
    moments = {}
    for task in found:
        N = bench.ingredients.sizes[task] if bench.study.convention == "sum" else 1
        moments[task] = {name: N * A for name, A in open_checkpoint(inputs_file(bench, task)).items()}
    prior = kronecker_damping(
        [{name: (A, None) for name, A in own.items()} for own in moments.values()], INPUTS_PRIOR
    )
    for task, own in moments.items():
        N = bench.ingredients.sizes[task] if bench.study.convention == "sum" else 1
        found[task].inputs = regmean(found[task].mean, own, rest=float(N), damping=prior)


def _read_diagonal(file: Path) -> tuple[Diagonal, Provenance]:
    posterior, provenance = load_posterior(file)
    assert isinstance(posterior, Diagonal)  # previa wrote it
    return posterior, provenance


def _memory_warning(task: str, provenance: Provenance) -> str:
    return (
        f"IVON's Hessian of task {task!r} is still {100 * (provenance.memory or 0):.0f} % its initial value: ivon_hessian is "
        "then close to simple averaging. Lower the second of betas in [finetune], or train longer."
    )


def _prior_warning(share: float) -> str:
    return (
        f"the prior is {100 * share:.0f} % of the squared gradients' precision: squared_gradients is then close to simple "
        "averaging. Lower prior in [adamw]."
    )


def _note_seconds(work: Work, bench: Bench, jobs: list[Job]) -> None:
    """The cost of all finetunings there are, by kind, into the store."""
    total = dict.fromkeys(("finetune/ivon", "finetune/ivon_more", "finetune/adamw", SQUARES, REGMEAN), 0.0)
    for job in jobs:
        record = read_record(bench.record(job), bench.facts(job)) or {"seconds": {}}
        for name, seconds in record["seconds"].items():
            kind = "ivon_more" if job.kind == "ivon" and job.number else job.kind
            measured = {"squares": SQUARES, "inputs": REGMEAN}
            total[measured.get(name, f"finetune/{kind}")] += seconds
    for name, seconds in {**total, "pretrain": bench.pretrain_seconds}.items():
        if seconds:
            work.note_seconds(name, seconds)
