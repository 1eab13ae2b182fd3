"""The command for joint finetuning: of a study at one weighting, or of model folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from previa.cli._options import OUT, QUIET, alpha_of, check_writable, opened, pairs, study_at
from previa.terminal import bars

TYPES = "sequence-classification|causal-lm|seq2seq|image-classification|my_module:loss"
STUDY_ONLY = ("warm_start", "checkpoint")
IVON_ONLY = ("ess", "hess_init", "samples", "snapshots", "start")
OPTION = {"tasks": "task", "columns": "column"}
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}


@click.command(short_help="Joint finetuning at one weighting.")
@click.argument("study", type=click.Path(path_type=Path), metavar="[STUDY.toml]", required=False)
@click.option("--alpha", metavar="A,B,...", help="One weight per task, in their order, summing to one.")
@OUT
@QUIET
@click.option(
    "--warm-start", metavar="METHOD", help="Of a study: start from this method's preview instead of the base."
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Of a study: where to write the model; in the study's folder otherwise.",
)
@click.option(
    "--model",
    metavar="DIR",
    help="The base's folder, or a merged preview's for a warm start; of an adapter, only the adapter is trained.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="NAME=DATA",
    help="A json, jsonl, csv, tsv, parquet or txt file, a saved data set, module:function, or a hub name; once a task.",
)
@click.option("--task-type", metavar=TYPES, help="What the tasks are; or a loss of your own.")
@click.option("--steps", type=click.IntRange(1), help="Updates.")
@click.option("--lr", type=click.FloatRange(0), help="Learning rate.")
@click.option(
    "--optimizer",
    type=click.Choice(["adamw", "ivon"]),
    default="adamw",
    show_default=True,
    help="ivon: a posterior beside the checkpoint.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Rows of a step, on all devices together; with --sampling loss of every task.",
)
@click.option(
    "--micro-batch",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Rows of a forward pass on one device.",
)
@click.option(
    "--sampling",
    type=click.Choice(["sample", "loss"]),
    default="sample",
    show_default=True,
    help="Draw rows by the weights, or weigh the losses.",
)
@click.option(
    "--convention",
    type=click.Choice(["mean", "sum"]),
    default="mean",
    show_default=True,
    help="The weights are of the mean, or the sum, of a task's losses.",
)
@click.option(
    "--per-token", is_flag=True, help="Every supervised token counts alike, as in the Trainer; not every row."
)
@click.option(
    "--schedule",
    type=click.Choice(["constant", "linear", "cosine"]),
    default="linear",
    show_default=True,
    help="Of the learning rate.",
)
@click.option(
    "--warmup",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Steps in which the learning rate rises.",
)
@click.option(
    "--clip-norm",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="The longest gradient; inf: none is cut.",
)
@click.option("--weight-decay", type=click.FloatRange(0), default=0.0, show_default=True, help="IVON: delta.")
@click.option(
    "--beta2",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.999,
    show_default=True,
    help="IVON: of the Hessian.",
)
@click.option(
    "--ess",
    type=click.FloatRange(0, min_open=True),
    help="IVON: one number for all tasks; with --convention sum none.",
)
@click.option(
    "--hess-init",
    type=click.FloatRange(0, min_open=True),
    default=0.1,
    show_default=True,
    help="IVON: the first Hessian.",
)
@click.option(
    "--samples", type=click.IntRange(1), default=1, show_default=True, help="IVON: draws of theta a step."
)
@click.option("--snapshots", metavar="STEP,...", help="IVON: posteriors to keep after these steps, too.")
@click.option(
    "--start",
    type=click.Path(path_type=Path),
    help="IVON: a posterior file whose precision it goes on from.",
)
@click.option(
    "--dtype",
    type=click.Choice(list(PRECISIONS)),
    default="fp32",
    show_default=True,
    help="Of the weights; IVON keeps its mean in fp32.",
)
@click.option(
    "--mixed-precision",
    type=click.Choice(["no", "bf16"]),
    help="Of the forward passes; as `accelerate` is configured otherwise.",
)
@click.option(
    "--save-every",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Steps between two states to resume from.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--base", help="Base model's folder, for an adapter; the adapter's own word otherwise.")
@click.option("--split", default="train", show_default=True, help="Of a data set with several.")
@click.option("--data-config", help="Of a hub's data set with several configurations.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="PART=NAME",
    help="As text=sentence, label=stars, source=translation.de.",
)
@click.option("--tokenizer", help="Tokenizer's folder; the model's otherwise.")
@click.option(
    "--max-length", type=click.IntRange(1), help="Tokens an example; what the model takes otherwise."
)
def finetune(study: Path | None, alpha: str | None, out: Path | None, quiet: bool, **given: Any) -> None:
    """Joint finetuning at one weighting; writes an ordinary checkpoint. Stopped at any point, the same command goes on.

    With STUDY.toml: by the study's recipe and in its convention, and scored; only --alpha, --warm-start, --checkpoint, --out
    and --quiet apply. With --model: a folder of transformers or PEFT, on one device, or on many by `accelerate launch -m previa
    finetune ...`; --out is the new folder. A single --task needs no --alpha: it is the task's own finetuning.

    \b
    Examples:
      previa finetune study.toml --alpha 0.35,0.25,0.40 --warm-start mixture
      previa finetune --model merged --task de=de.jsonl --task fr=fr.jsonl --task-type causal-lm --alpha 0.4,0.6 --steps 500 --lr 2e-5 --out joint
    """
    context = click.get_current_context()
    if study is not None:
        _check_form(context, given, "does not go with STUDY.toml", but=STUDY_ONLY)
        if alpha is None:
            raise click.UsageError("Missing option '--alpha'.", context)
        _of_study(study, alpha, out, quiet, **{name: given[name] for name in STUDY_ONLY})
        return
    _check_form(
        context, {name: given[name] for name in STUDY_ONLY}, "goes with STUDY.toml only; start from a merged folder as --model"
    )  # fmt: skip
    lacking = [name for name in ("model", "tasks", "task_type", "steps", "lr") if given[name] in (None, ())]
    lacking += ["out"] * (out is None)
    if lacking:
        raise click.UsageError(
            f"Missing option '{_option(lacking[0])}' (or give STUDY.toml instead of --model).", context
        )
    if given["optimizer"] != "ivon":
        _check_form(context, {name: given[name] for name in IVON_ONLY}, "is for --optimizer ivon")
    assert out is not None
    _of_folder(alpha, out, quiet, given)


def _of_study(
    file: Path, alpha: str, out: Path | None, quiet: bool, *, warm_start: str | None, checkpoint: Path | None
) -> None:
    from previa.errors import StudyError
    from previa.run.fit import fit
    from previa.run.joint import finetune_at

    found = study_at(file, out)
    weights = alpha_of(alpha, found.names())  # all that can be wrong is seen before any training
    check_writable(checkpoint)
    if warm_start not in (None, *found.previews()):
        raise StudyError(
            f"--warm-start {warm_start}: the study has no such preview. Its methods are {', '.join(found.previews())}."
        )
    with opened(found, file) as work, bars(quiet) as progress:
        runs = fit(work, progress=progress) if warm_start else None
        made = finetune_at(
            work, weights, runs=runs, warm_start=warm_start, path=checkpoint, progress=progress
        )
    click.echo(f"Scores: {', '.join(f'{task} {score:.4g}' for task, score in made.scores.items())}")
    click.echo(f"Model: {made.path}")


def _of_folder(alpha: str | None, out: Path, quiet: bool, given: Mapping[str, Any]) -> None:
    data = pairs("--task", given["tasks"])
    if alpha is None and len(data) > 1:
        raise click.UsageError(
            "Missing option '--alpha': one weight per --task.", click.get_current_context()
        )
    weights = [1.0] if alpha is None else alpha_of(alpha, list(data))
    columns = pairs("--column", given["columns"])
    import torch

    from previa.run.accelerate_loop import accelerator_of
    from previa.run.accelerate_step import Loop
    from previa.run.hf_finetune import finetune_folder
    from previa.run.hf_rows import Reading
    from previa.run.recipe import AdamWRecipe, IvonRecipe, Recipe

    betas, decay = (0.9, given["beta2"]), given["weight_decay"]
    optimizer: AdamWRecipe | IvonRecipe = AdamWRecipe(lr=given["lr"], betas=betas, weight_decay=decay)
    if given["optimizer"] == "ivon":
        optimizer = IvonRecipe(
            lr=given["lr"], ess=given["ess"], hess_init=given["hess_init"], betas=betas, weight_decay=decay,
            samples=given["samples"],
        )  # fmt: skip
    recipe = Recipe(
        optimizer=optimizer, steps=given["steps"], batch_size=given["batch_size"], convention=given["convention"],
        sampling=given["sampling"], snapshots=_steps(given["snapshots"]),
    )  # fmt: skip
    reading = Reading(
        task_type=given["task_type"], base=given["base"], columns=columns, config=given["data_config"],
        split=given["split"], tokenizer=given["tokenizer"], max_length=given["max_length"],
        dtype=getattr(torch, PRECISIONS[given["dtype"]]), per_token=given["per_token"],
    )  # fmt: skip
    loop = Loop(
        **{name: given[name] for name in ("micro_batch", "clip_norm", "schedule", "warmup", "save_every")}
    )
    accelerator = accelerator_of(given["mixed_precision"])
    with bars(quiet or not accelerator.is_main_process) as progress:
        made = finetune_folder(
            given["model"], data, weights, recipe, out, reading=reading, loop=loop, seed=given["seed"],
            start=given["start"], accelerator=accelerator, progress=progress if accelerator.is_main_process else None,
        )  # fmt: skip
    if accelerator.is_main_process:
        for sentence in made.sentences():
            click.echo(sentence)
        click.echo(f"Model: {made.path}")
    accelerator.end_training()


def _steps(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} should be steps with commas between, as 100,200", param_hint="--snapshots"
        ) from error


def _check_form(
    context: click.Context, given: Mapping[str, Any], fault: str, *, but: tuple[str, ...] = ()
) -> None:
    """Raise UsageError where an option of the other form was given."""
    from click.core import ParameterSource

    for name in given:
        if name not in but and context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{_option(name)} {fault}.", context)


def _option(name: str) -> str:
    return "--" + OPTION.get(name, name).replace("_", "-")
