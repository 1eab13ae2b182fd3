"""The command line: thin commands over the library, imports inside them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from previa import __version__
from previa.errors import PreviaError
from previa.terminal import bars, paragraph, quality_table


class InOrder(click.Group):
    """Commands are listed in the order of the work, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """As they were defined."""
        return list(self.commands)


STUDY = click.argument("study", type=click.Path(path_type=Path), metavar="STUDY.toml")
RESULTS = click.argument("results", type=click.Path(path_type=Path), metavar="STUDY.toml|FOLDER|study.db")
OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for results; the study file's `out` otherwise."
)
WORKERS = click.option("--workers", type=click.IntRange(1), help="Processes; one per core otherwise.")
QUIET = click.option("--quiet", is_flag=True, help="One line per piece of work instead of progress bars.")
WEIGHT = click.option(
    "--metric-weight", multiple=True, metavar="TASK=W", help="How much a task counts in the mean score."
)


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def cli() -> None:
    """Previews of multitask finetuning for every task weighting.

    Finetune each task once, keep a posterior, and merge them for all weightings.

    \b
    Examples:
      previa demo --out demo-out     the whole job on handwritten digits, in about a minute
      previa run study.toml          the same for your own model and tasks
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 an error in one sentence, 2 wrong usage, 130 stopped."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given  # wherever it stands
    try:
        code = cli.main(
            [word for word in given if word != "--debug"], prog_name="previa", standalone_mode=False
        )
    except click.UsageError as error:
        error.show()
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("previa: stopped. What is done is kept; the same command goes on from there.", err=True)
        code = 130
    except PreviaError as error:
        if debug:
            raise
        click.echo("previa: " + " ".join(str(error).split()), err=True)
        code = 1
    except BrokenPipeError:
        code = 1
    except Exception as error:
        if debug:
            raise
        message = " ".join(str(error).split())
        click.echo(
            f"previa: an error that should not happen, {type(error).__name__}: {message}. "
            "Run again with --debug for the traceback, and please report it.",
            err=True,
        )
        code = 1
    return int(code or 0)


# Whole studies ------------------------------------------------------------------------------------------------------------


@cli.command(short_help="The whole job on handwritten digits.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo-out"),
    show_default=True,
    help="Folder for results.",
)
@WORKERS
@QUIET
def demo(out: Path, workers: int | None, quiet: bool) -> None:
    """The whole job on scikit-learn's handwritten digits: three tasks, five previews of 231 weightings, and the truth.

    \b
    Example:
      previa demo --out demo-out
    """
    from importlib import resources

    from previa.errors import FileError

    file = out / "study.toml"  # of the user's own, to look at and to name in further commands
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            text = (resources.files("previa.data") / "digits.toml").read_text(encoding="utf-8")
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(
            f"{out}: the folder cannot be written: {error.strerror}. Choose another with --out."
        ) from error
    import torch

    torch.set_num_threads(
        1
    )  # the network is tiny: more threads only wait, and would round its numbers otherwise
    _run(file, None, workers, quiet)


@cli.command(short_help="The whole job on a study of your own.")
@STUDY
@OUT
@WORKERS
@QUIET
def run(study: Path, out: Path | None, workers: int | None, quiet: bool) -> None:
    """Everything a study asks for: finetune, preview, train the truth, compare, recommend, report.

    Stopped at any point, the same command does only what is missing.

    \b
    Example:
      previa run study.toml --workers 2
    """
    _run(study, out, workers, quiet)


def _run(file: Path, out: Path | None, workers: int | None, quiet: bool) -> None:
    from previa.run.fit import fit
    from previa.run.joint import picks, truth
    from previa.run.pipeline import preview

    study = _study(file, out)
    with _opened(study, file) as work:
        previewed, trained = (len(work.alphas(steps)) for steps in (study.preview.steps, study.truth.steps))
        joint = f"{trained} joint runs and one at each pick" if study.truth.steps else "no joint runs"
        methods = len(study.previews())
        click.echo(f"{len(study.tasks)} tasks: {previewed} weightings by {methods} previews; {joint}.")
        with bars(quiet) as progress:
            cores = workers or _cores()
            runs = fit(work, workers=cores, progress=progress)
            previews = preview(work, runs, progress=progress)
            if study.truth.steps:
                truth(work, more=picks(previews, study.metric_weights()), workers=cores, progress=progress)
    _publish(study)


@cli.command(short_help="Finetune each task once; keep checkpoints and posteriors.")
@STUDY
@OUT
@WORKERS
@QUIET
def fit(study: Path, out: Path | None, workers: int | None, quiet: bool) -> None:
    """Finetune each task once and keep its checkpoints and posteriors.

    \b
    Example:
      previa fit study.toml
    """
    from previa.run import fit as room

    found = _study(study, out)
    with _opened(found, study) as work, bars(quiet) as progress:
        room.fit(work, workers=workers or _cores(), progress=progress)
    click.echo(f"Checkpoints and posteriors are in {found.out / 'runs'}. Next: previa preview {study}")


@cli.command(short_help="Merge and score every weighting.")
@STUDY
@OUT
@WORKERS
@QUIET
def preview(study: Path, out: Path | None, workers: int | None, quiet: bool) -> None:
    """Merge and score every weighting by every method of the study; nothing is trained but what `fit` lacks.

    \b
    Example:
      previa preview study.toml
    """
    from previa.run import pipeline
    from previa.run.fit import fit

    found = _study(study, out)
    with _opened(found, study) as work, bars(quiet) as progress:
        runs = fit(work, workers=workers or _cores(), progress=progress)
        pipeline.preview(work, runs, workers=workers or 1, progress=progress)
    _publish(found)


@cli.command(short_help="Which weighting to use, and how sure that is.")
@RESULTS
@click.option("--method", help="The preview to follow; the study's own choice otherwise.")
@WEIGHT
@click.option("--json", "as_json", is_flag=True, help="The whole recommendation as JSON.")
def recommend(results: Path, method: str | None, metric_weight: tuple[str, ...], as_json: bool) -> None:
    """Which weighting to use, how wide the near-best region is, and whether uniform weights would do as well.

    \b
    Example:
      previa recommend study.toml --metric-weight safety=3
    """
    with _results(results, metric_weight, method) as (_, found):
        advice = found.recommendation
    click.echo(_json(advice)) if as_json else paragraph(advice.sentence)


@cli.command(short_help="How good each preview is, where joint runs tell.")
@RESULTS
@WEIGHT
@click.option("--json", "as_json", is_flag=True, help="The whole comparison as JSON.")
def compare(results: Path, metric_weight: tuple[str, ...], as_json: bool) -> None:
    """How good each preview is, where joint runs tell: regret first, mean squared error last.

    \b
    Example:
      previa compare study.toml
    """
    from previa.errors import StudyError

    with _results(results, metric_weight) as (_, found):
        pass
    if found.comparison is None:
        raise StudyError(
            f"{results}: fewer than three weightings have a joint run and a preview, so nothing can be compared. "
            "`previa run` trains them at the weightings of [truth]."
        )
    click.echo(_json(found.comparison)) if as_json else quality_table(found)


@cli.command(short_help="Write report, summary, table and figures again.")
@RESULTS
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for the report; beside the results otherwise."
)
@WEIGHT
def report(results: Path, out: Path | None, metric_weight: tuple[str, ...]) -> None:
    """Write report.html, summary.json, preview.csv and the figures again from stored results.

    \b
    Example:
      previa report demo-out/study.db
    """
    from previa.show.outputs import publish

    with _results(results, metric_weight) as (store, found):
        made = publish(store, found, out or store.path.parent)
    click.echo("\n".join(str(path) for path in made))


@cli.command(short_help="Joint finetuning at one weighting.")
@STUDY
@click.option(
    "--alpha",
    required=True,
    metavar="A,B,...",
    help="One weight per task, in the study's order, summing to one.",
)
@click.option(
    "--warm-start", metavar="METHOD", help="Start from this method's preview instead of from the base."
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Where to write the model; in the study's folder otherwise.",
)
@OUT
@QUIET
def finetune(
    study: Path, alpha: str, warm_start: str | None, checkpoint: Path | None, out: Path | None, quiet: bool
) -> None:
    """Joint finetuning at one weighting, in the study's convention; writes an ordinary checkpoint and its true scores.

    \b
    Example:
      previa finetune study.toml --alpha 0.35,0.25,0.40 --warm-start mixture
    """
    from previa.errors import StudyError
    from previa.run.fit import fit
    from previa.run.joint import finetune_at

    found = _study(study, out)
    weights = _alpha(alpha, found.names())  # all that can be wrong is seen before any training
    _writable(checkpoint)
    if warm_start not in (None, *found.previews()):
        raise StudyError(
            f"--warm-start {warm_start}: the study has no such preview. Its methods are {', '.join(found.previews())}."
        )
    with _opened(found, study) as work, bars(quiet) as progress:
        runs = fit(work, progress=progress) if warm_start else None
        made = finetune_at(
            work, weights, runs=runs, warm_start=warm_start, path=checkpoint, progress=progress
        )
    click.echo(f"Scores: {_scores(made.scores)}")
    click.echo(f"Model: {made.path}")


# Files --------------------------------------------------------------------------------------------------------------------


@cli.command(short_help="Merge checkpoint files at one weighting.")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    required=True,
    metavar="NAME=PATH",
    help="A task's checkpoint, as often as there are tasks.",
)
@click.option("--alpha", required=True, metavar="A,B,...", help="One weight per --task, in their order.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    metavar="NAME=PATH",
    help="A task's posterior file: Hessian-weighted merging.",
)
@click.option(
    "--base",
    type=click.Path(path_type=Path),
    help="The base model: task arithmetic; weights need not sum to one.",
)
@click.option(
    "--prior-precision", type=float, help="Precision of the prior at the base, with --precision and --base."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Of the result; the inputs' otherwise.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The merged safetensors file.")
def merge(
    tasks: tuple[str, ...],
    alpha: str,
    precisions: tuple[str, ...],
    base: Path | None,
    prior_precision: float | None,
    dtype: str | None,
    out: Path,
) -> None:
    """Merge checkpoints at one weighting into a safetensors file, tensor by tensor.

    \b
    Example:
      previa merge --task de=de/model.safetensors --task fr=fr/model.safetensors --alpha 0.4,0.6 --out merged.safetensors
    """
    import torch

    from previa.io import merge_checkpoints

    merge_checkpoints(
        base,
        _paths("--task", tasks),
        _numbers(alpha),
        out,
        precisions=_paths("--precision", precisions) if precisions else None,
        prior_precision=prior_precision,
        dtype=getattr(torch, dtype) if dtype else None,
    )
    click.echo(f"Model: {out}")


@cli.group(cls=InOrder)
def posterior() -> None:
    """Make or look at posterior files.

    \b
    Example:
      previa posterior show demo-out/base/posterior.safetensors
    """


@posterior.command("show", short_help="Where a posterior file comes from, and its scale.")
@click.argument("path", type=click.Path(path_type=Path))
def posterior_show(path: Path) -> None:
    """Where a posterior file comes from, its convention and scale.

    \b
    Example:
      previa posterior show demo-out/base/posterior.safetensors
    """
    from dataclasses import asdict

    from previa.io import open_posterior

    found = open_posterior(path)
    said = {"convention" if k == "reduction" else k: v for k, v in asdict(found.provenance).items()}
    rows = {name: value for name, value in said.items() if value is not None}
    if found.provenance.memory is not None:
        rows["memory of hess_init"] = found.provenance.memory
    rows |= {
        "parameters": found.layout.size,
        "tensors": len(found.layout.shapes),
        "mean stored": found.has_mean,
    }
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        click.echo(f"{name:<{width}}  {f'{value:.6g}' if isinstance(value, float) else value}")


@posterior.command("squared-gradients", short_help="Exact squared gradients of every task.")
@STUDY
@OUT
@WORKERS
@QUIET
def posterior_squared_gradients(study: Path, out: Path | None, workers: int | None, quiet: bool) -> None:
    """Exact per-example squared gradients of every task, at its checkpoint or after an AdamW run.

    \b
    Example:
      previa posterior squared-gradients study.toml
    """
    from dataclasses import replace

    from previa.run.fit import SQUARES, fit

    found = _study(study, out)
    found = replace(found, preview=replace(found.preview, methods=("squared_gradients",)))
    with _opened(found, study) as work, bars(quiet) as progress:
        fit(work, workers=workers or _cores(), progress=progress)
    for task in found.tasks:
        made = found.out / "runs" / task.name / f"{SQUARES}.safetensors"
        click.echo(f"{task.name}: {made if made.exists() else task.posterior}")


# Helpers ------------------------------------------------------------------------------------------------------------------


def _study(file: Path, out: Path | None) -> Any:
    from dataclasses import replace

    from previa.study.file import read_study

    study = read_study(file)
    return study if out is None else replace(study, out=out.resolve())


@contextmanager
def _opened(study: Any, file: Path) -> Iterator[Any]:
    """The study at work; what only its file knows, and reports made from the store need, is noted in the store."""
    from previa.run.work import opened

    with opened(study) as work:
        work.store.put("method", study.recommend.method)
        work.store.put("unit", "accuracy" if study.score is None else "score")
        work.store.put("study_file", str(file))
        yield work


def _cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _results(
    path: Path, metric_weight: Sequence[str], method: str | None = None
) -> Iterator[tuple[Any, Any]]:
    """The store of a study file, in a folder of results, or the store file itself; and what follows from it.

    A study file's metric weights and method count as it stands now, the options given before them.
    """
    from previa.show.outputs import Results
    from previa.study.file import read_study
    from previa.study.store import Store

    given = _weights(metric_weight)
    study = read_study(path) if path.suffix == ".toml" else None
    if study is not None:
        path = study.out
    with Store.read(path / "study.db" if path.is_dir() or study is not None else path) as store:
        weights: dict[str, float] = {}
        if study is not None:
            weights = {task: w for task, w in study.metric_weights().items() if task in store.tasks}
            own = study.recommend.method
            if method is None and own in store.methods() and store.preview(own).ok.any():
                method = own
        yield store, Results.of(store, method=method, weights={**weights, **given})


def _publish(study: Any) -> None:
    from previa.show.outputs import Results, publish
    from previa.study.store import Store

    with Store.read(study.out / "study.db") as store:
        results = Results.of(store)
        made = publish(store, results, study.out)
    if results.comparison is not None:
        quality_table(results)
        click.echo()
    paragraph(results.recommendation.sentence)
    for warning in results.summary["warnings"]:
        paragraph(f"Note: {warning}")
    if not any(path.suffix == ".png" for path in made):
        paragraph("Note: no PNG figures were drawn; `pip install 'previa[plot]'` brings what they need.")
    click.echo()
    page = next(path for path in made if path.suffix == ".html")
    click.echo(f"Open the report: {page}")


def _alpha(text: str, tasks: Sequence[str]) -> Any:
    """The weights of these tasks. Raises AlphaError where they are no point of the simplex."""
    from previa.errors import AlphaError
    from previa.study.simplex import check_alphas

    numbers = _numbers(text)
    if len(numbers) != len(tasks):
        raise AlphaError(
            f"--alpha {text}: {len(numbers)} weights; expected {len(tasks)}, one for each of {', '.join(tasks)}."
        )
    return check_alphas(numbers, len(tasks), where="--alpha")


def _writable(file: Path | None) -> None:
    """Raise FileError unless a file can be written there; its folder is made when missing."""
    from previa.errors import FileError
    from previa.run.records import make_folder

    if file is None:
        return
    if file.is_dir():
        raise FileError(f"{file}: this is a folder; expected the name of a file to write.")
    if not os.access(make_folder(file.parent), os.W_OK):
        raise FileError(f"{file}: its folder is read-only. Choose a folder that you may write.")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} should be numbers with commas between, as 0.4,0.6", param_hint="--alpha"
        ) from error


def _paths(option: str, pairs: Sequence[str]) -> dict[str, Path]:
    return {name: Path(value) for name, value in _pairs(option, pairs).items()}


def _weights(pairs: Sequence[str]) -> Mapping[str, float]:
    found = {}
    for name, value in _pairs("--metric-weight", pairs).items():
        try:
            found[name] = float(value)
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is no number", param_hint="--metric-weight") from error
    return found


def _pairs(option: str, pairs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise click.BadParameter(f"{pair!r} should be NAME=VALUE", param_hint=option)
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice", param_hint=option)
        found[name] = value
    return found


def _scores(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{task} {score:.4g}" for task, score in scores.items())


def _json(found: Any) -> str:
    import json

    return json.dumps(found.to_dict(), indent=1, allow_nan=False)


def run_main() -> None:
    """The entry point of the `previa` command."""
    code = main()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, as `head`, has had enough: what is left has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
