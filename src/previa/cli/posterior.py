"""Commands that make or look at posterior files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from previa.cli._options import OUT, QUIET, WORKERS, InOrder, cores, opened, pairs, paths, study_at
from previa.terminal import bars

TYPES = "sequence-classification|causal-lm|seq2seq|image-classification|my_module:loss"
PRIOR = click.option(
    "--prior",
    type=float,
    default=1.0,
    show_default=True,
    help="Added to every precision, relative to each tensor's mean.",
)
FROZEN = click.option(
    "--frozen",
    multiple=True,
    metavar="PATTERN",
    help="Parameters without a precision: never trained, or not shared.",
)
REDUCTION = click.option(
    "--reduction",
    type=click.Choice(["mean", "sum"]),
    default="mean",
    show_default=True,
    help="Joint training weighs the mean, or the sum, of a task's losses.",
)
BASE = click.option("--base", help="Base model's folder, for an adapter; the adapter's own word otherwise.")


@click.group(cls=InOrder)
def posterior() -> None:
    """Make or look at posterior files.

    \b
    Examples:
      previa posterior squared-gradients --model de --data de.jsonl --task-type causal-lm --out de.safetensors
      previa posterior show de.safetensors
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


@posterior.command(
    "squared-gradients", short_help="Exact squared gradients of a model, or of a study's tasks."
)
@click.argument("study", type=click.Path(path_type=Path), metavar="[STUDY.toml]", required=False)
@click.option("--model", metavar="DIR", help="A checkpoint's or adapter's folder, or module:function.")
@click.option(
    "--data",
    metavar="DATA",
    help="A json, jsonl, csv, tsv, parquet or txt file, a saved data set, module:function, or a hub name.",
)
@click.option("--task-type", metavar=TYPES, help="What the model was finetuned for; or a loss of your own.")
@OUT
@click.option("--split", default="train", show_default=True, help="Of a data set with several.")
@click.option("--data-config", help="Of a hub's data set with several configurations.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="PART=NAME",
    help="As text=sentence, label=stars, source=translation.de.",
)
@click.option(
    "--labels",
    type=click.Choice(["given", "sampled", "expected"]),
    default="given",
    show_default=True,
    help="The data's, drawn from the model, or all of them weighted by it.",
)
@REDUCTION
@PRIOR
@click.option("--max-examples", type=click.IntRange(1), help="So many rows, drawn by the seed.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option(
    "--max-length", type=click.IntRange(1), help="Tokens an example; what the model takes otherwise."
)
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of the model; sums are fp32 or better.",
)
@click.option("--device", default="cpu", show_default=True, help="As cuda or cuda:1.")
@click.option("--seed", type=int, default=0, show_default=True)
@BASE
@click.option("--tokenizer", help="Tokenizer's folder; the model's otherwise.")
@FROZEN
@WORKERS
@QUIET
def posterior_squared_gradients(
    study: Path | None,
    out: Path | None,
    workers: int | None,
    quiet: bool,
    **given: Any,
) -> None:
    """Exact per-example squared gradients, plus a prior, as a posterior file (--out FILE) beside the model's checkpoint.

    Stopped at any point, the same command goes on from there. With STUDY.toml instead: of every task of a study, at its
    checkpoint or after an AdamW run, in the study's folder; of the other options only --out, --workers and --quiet apply.

    \b
    Examples:
      previa posterior squared-gradients --model sst2 --data sst2.csv --task-type sequence-classification --out sst2.safetensors
      previa posterior squared-gradients study.toml
    """
    context = click.get_current_context()
    if study is not None:
        _check_study_form(context, given)
        _of_study(study, out, workers, quiet)
        return
    lacking = [name for name in ("model", "data", "task_type") if given[name] is None] + ["out"] * (
        out is None
    )
    if lacking:
        option = lacking[0].replace("_", "-")
        raise click.UsageError(f"Missing option '--{option}' (or give STUDY.toml alone).", context)
    if workers is not None:
        raise click.UsageError("--workers is for STUDY.toml: one model is one process.", context)
    from previa.run.precision_file import Prior
    from previa.run.transformers_squares import Wanted, transformers_squares

    prior, columns = Prior(relative=given.pop("prior")), pairs("--column", given.pop("columns"))
    wanted = Wanted(columns=columns, config=given.pop("data_config"), **given)
    assert out is not None
    with bars(quiet) as progress:
        made = transformers_squares(wanted, out, prior, progress)
    for sentence in made.sentences():
        click.echo(sentence)
    click.echo(f"Posterior: {out}")


def _check_study_form(context: click.Context, given: dict[str, Any]) -> None:
    """Raise UsageError where an option was given that a study says itself."""
    from click.core import ParameterSource

    for name in given:
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            option = {"columns": "column"}.get(name, name).replace("_", "-")
            raise click.UsageError(f"--{option} does not go with STUDY.toml, which says it itself.", context)


def _of_study(study: Path, out: Path | None, workers: int | None, quiet: bool) -> None:
    from dataclasses import replace

    from previa.run.fit import SQUARES, fit

    found = study_at(study, out)
    found = replace(found, preview=replace(found.preview, methods=("squared_gradients",)))
    with opened(found, study) as work, bars(quiet) as progress:
        fit(work, workers=workers or cores(), progress=progress)
    for task in found.tasks:
        made = found.out / "runs" / task.name / f"{SQUARES}.safetensors"
        click.echo(f"{task.name}: {made if made.exists() else task.posterior}")


@posterior.command("adam", short_help="Adam's second moments from a Trainer's checkpoint.")
@click.option(
    "--optimizer",
    type=click.Path(path_type=Path),
    required=True,
    help="optimizer.pt, or the checkpoint's folder.",
)
@click.option("--model", metavar="DIR", help="The model's folder; the optimizer's otherwise.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The posterior file.")
@click.option(
    "--batch-size", type=click.IntRange(1), help="Examples behind one step; read where the Trainer left it."
)
@click.option("--steps", type=click.IntRange(1), help="Steps that Adam did; its state says it, as a rule.")
@click.option(
    "--examples",
    type=click.IntRange(1),
    help="Training examples N; estimated from the Trainer's epochs otherwise.",
)
@click.option(
    "--power",
    type=float,
    default=1.0,
    show_default=True,
    help="1: squared gradients; 0.5: Adam's own preconditioner.",
)
@REDUCTION
@PRIOR
@BASE
@FROZEN
@click.option(
    "--allow-pickle", is_flag=True, help="Read the optimizer's pickle: tensors and plain containers only."
)
def posterior_adam(
    optimizer: Path,
    out: Path,
    model: str | None,
    reduction: str,
    prior: float,
    base: str | None,
    frozen: tuple[str, ...],
    allow_pickle: bool,
    **numbers: Any,
) -> None:
    """Adam's second moments, which training left behind, as a posterior file: no pass over the data.

    \b
    Example:
      previa posterior adam --optimizer run/checkpoint-500 --out run.safetensors --allow-pickle
    """
    from previa.run.adam_file import Asked, adam_file
    from previa.run.precision_file import Prior

    asked = Asked(reduction=reduction, base=base, frozen=frozen, **numbers)
    made = adam_file(optimizer, model, out, asked, Prior(relative=prior), allow_pickle=allow_pickle)
    for sentence in made:
        click.echo(sentence)
    click.echo(f"Posterior: {out}")


@posterior.command("damp", short_help="Give several tasks' precisions one common prior.")
@click.argument("files", nargs=-1, required=True, metavar="TASK=FILE...")
@click.option("--prior", type=float, help="Relative to each tensor's mean over all tasks.")
@click.option("--prior-precision", type=float, help="One precision for all instead.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for a file of each task.")
def posterior_damp(
    files: tuple[str, ...], prior: float | None, prior_precision: float | None, out: Path
) -> None:
    """Replace the prior of each task's own in files of squared gradients or Adam's moments by one common to all.

    A prior of a task's own makes a task with large gradients count for more even where nothing is known. Do this before merging.

    \b
    Example:
      previa posterior damp de=de.safetensors fr=fr.safetensors --prior 10 --out damped
    """
    from previa.run.precision_file import Prior, damp

    out.mkdir(parents=True, exist_ok=True)
    shares = damp(paths("TASK=FILE", files), Prior(prior, prior_precision), out)
    for task, share in shares.items():
        click.echo(f"{task}: {out / task}.safetensors, {100 * share:.0f} % of it the prior")
