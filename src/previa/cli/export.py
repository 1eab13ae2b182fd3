"""The command that hands a weighting over to a training stack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from previa.cli._options import QUIET, alpha_of, pairs
from previa.terminal import bars

# The names of previa.export.stacks, which is not imported for --help; a test keeps them equal.
NAMES = (
    "datasets", "trl", "alignment-handbook", "open-instruct", "llama-factory", "ms-swift",
    "megatron", "nemo", "megatron-bridge", "olmo-core", "axolotl", "torchtune",
)  # fmt: skip
N = TypeVar("N", int, float)


@click.command(short_help="Hand a weighting over to a training stack.")
@click.option(
    "--alpha", required=True, metavar="A,B,...", help="One weight per task, in their order, summing to one."
)
@click.option("--to", "stack", type=click.Choice(NAMES), required=True, help="The training stack.")
@click.option(
    "--data",
    multiple=True,
    metavar="NAME=PATH",
    help="A task's training data: .jsonl, .json, .csv, .parquet, .txt, a Megatron prefix, or a name that the stack knows.",
)
@click.option(
    "--study",
    type=click.Path(path_type=Path),
    help="A study file: its tasks, their order, convention and seed.",
)
@click.option("--rows", multiple=True, metavar="NAME=N", help="A task's rows, where they cannot be counted.")
@click.option(
    "--tokens",
    multiple=True,
    metavar="NAME=L",
    help="Mean supervised tokens in a row of a task; counted otherwise.",
)
@click.option("--column", multiple=True, metavar="NAME=COLUMN", help="The column of a task that is learnt.")
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    help="A folder with tokenizer.json, to count tokens instead of words.",
)
@click.option(
    "--convention",
    type=click.Choice(["mean", "sum"]),
    help="Alpha weighs mean or summed losses; the study's, or mean.",
)
@click.option(
    "--average",
    type=click.Choice(["rows", "tokens"]),
    help="What the trainer's loss is an average of; the stack's own.",
)
@click.option("--draw", type=click.IntRange(1), metavar="N", help="Rows to draw in all.")
@click.option(
    "--epochs",
    type=click.FloatRange(0, min_open=True),
    help="Or so many passes over all tasks' rows together; 1 otherwise.",
)
@click.option(
    "--max-epochs",
    type=click.FloatRange(0, min_open=True),
    default=10,
    show_default=True,
    help="Refuse to show any task's rows more often.",
)
@click.option("--seed", type=click.IntRange(0), help="Of all that is shuffled; the study's, or 0.")
@click.option("--materialise", is_flag=True, help="Write the mixed data itself, too, as JSON Lines.")
@click.option(
    "--task-column",
    default="task",
    show_default=True,
    help="The column of the mixed data for the task's name.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the files; export-STACK otherwise.")
@click.option("--overwrite", is_flag=True, help="Replace files of other content.")
@QUIET
def export(
    alpha: str,
    stack: str,
    data: tuple[str, ...],
    study: Path | None,
    rows: tuple[str, ...],
    tokens: tuple[str, ...],
    column: tuple[str, ...],
    tokenizer: Path | None,
    convention: Any,
    average: Any,
    draw: int | None,
    epochs: float | None,
    max_epochs: float,
    seed: int | None,
    materialise: bool,
    task_column: str,
    out: Path | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Hand a weighting over to a training stack: its own files, a table of rows, tokens and epochs, and a lock file.

    \b
    Example:
      previa export --alpha 0.4,0.6 --to trl --data de=de.jsonl --data fr=fr.jsonl
    """
    from previa.export import counting
    from previa.export.handover import Options, write
    from previa.export.plan import Plan, check_epochs, rows_of_epochs
    from previa.export.stacks import STACKS
    from previa.export.table import counted, table
    from previa.export.tasks import task_of

    if draw is not None and epochs is not None:
        raise click.UsageError("--draw and --epochs both say how much is drawn: give one of them.")
    to = STACKS[stack]
    averaged = _average(to, average)  # all that can be wrong is seen before any file is read
    paths, own = _paths(data, study)
    weights = alpha_of(alpha, list(paths))
    given = _given(paths, rows, tokens, column)
    counter = counting.tokenizer(tokenizer) if tokenizer else counting.words
    found = []
    with bars(quiet) as progress:
        for (name, path), weight in zip(paths.items(), weights, strict=True):
            found.append(task_of(name, path, float(weight), given[name], counter=counter))
            progress("count rows and tokens", len(found), len(paths))
    tasks = tuple(task for task, _ in found)
    how = {task.name: way for task, way in found}
    plan = Plan(
        tasks=tasks,
        draw=draw or rows_of_epochs(tasks, epochs or 1.0),
        convention=convention or own["convention"],
        average=averaged,
        seed=own["seed"] if seed is None else seed,
    )
    folder = (out or Path(f"export-{stack}")).resolve()
    made = to.export(plan, folder)
    click.echo(table(plan, to.number, made.numbers))
    click.echo(f"{counted(how)}\n")
    check_epochs(plan, max_epochs)
    with bars(quiet) as progress:
        options = Options(
            counted=how, mixed=materialise, column=task_column, overwrite=overwrite, progress=progress
        )
        written = write(to, plan, made, folder, options)
    click.echo("\n".join(str(path) for path in written))
    click.echo(f"Use: {made.use}")
    for note in (*made.notes, *_in_memory(paths), *_columns(tasks)):
        click.echo(f"Note: {note}")


def _average(stack: Any, average: Any) -> Any:
    """What the trainer's loss is an average of: as given, or the stack's own. Raises InputError."""
    from previa.errors import InputError

    if average is None and stack.average is None:
        raise InputError(
            f"--to {stack.name}: the shares of rows depend on what the trainer's loss is an average of, and that has to be said: "
            f"--average rows, or --average tokens. {stack.why[0].upper()}{stack.why[1:]}."
        )
    if stack.only and average not in (None, stack.average):
        raise InputError(f"--to {stack.name} --average {average}: {stack.why}. Leave --average out.")
    return average or stack.average


def _paths(data: Sequence[str], file: Path | None) -> tuple[dict[str, str], dict[str, Any]]:
    """Task -> where its data is, in the order of the weights; and the study's own convention and seed."""
    given = pairs("--data", data)
    if file is None:
        if not given:
            raise click.UsageError(
                "Where is the tasks' data? Give --data NAME=PATH for each, or --study FILE."
            )
        return given, {"convention": "mean", "seed": 0}
    from previa.study.file import read_study

    study = read_study(file)
    for name in given:
        _known(name, study.names(), "--data")
    paths = {}
    for task in study.tasks:
        named = str(task.train or task.data)
        beside = study.folder / named
        paths[task.name] = given.get(task.name, str(beside if beside.is_file() else named))
    return paths, {"convention": study.convention, "seed": study.seed}


def _given(
    paths: Mapping[str, str], rows: Sequence[str], tokens: Sequence[str], columns: Sequence[str]
) -> dict[str, Any]:
    from previa.export.tasks import Given

    said: dict[str, Mapping[str, Any]] = {
        "rows": _numbers("--rows", rows, int),
        "tokens": _numbers("--tokens", tokens, float),
        "column": pairs("--column", columns),
    }
    for option, values in said.items():
        for name in values:
            _known(name, paths, f"--{option}")
    return {
        name: Given(**{option: values[name] for option, values in said.items() if name in values})
        for name in paths
    }


def _numbers(option: str, given: Sequence[str], kind: Callable[[str], N]) -> dict[str, N]:
    found = {}
    for name, value in pairs(option, given).items():
        try:
            found[name] = kind(value.replace(",", ""))
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is no number", param_hint=option) from error
    return found


def _known(name: str, names: Sequence[str] | Mapping[str, Any], option: str) -> None:
    if name not in names:
        raise click.BadParameter(
            f"there is no task {name!r}. The tasks are {', '.join(names)}.", param_hint=option
        )


def _in_memory(paths: Mapping[str, str]) -> list[str]:
    """A note for each task whose data is a function: no stack can read that."""
    return [
        f"the data of {name} is the function {path}: put the path of a data set in its place."
        for name, path in paths.items()
        if all(part.isidentifier() for part in path.replace(":", ".", 1).split(".")) and path.count(":") == 1
    ]


def _columns(tasks: Sequence[Any]) -> list[str]:
    """A note where tasks have rows of other columns: most stacks want the same ones."""
    kinds = {", ".join(sorted(task.columns)): task.name for task in tasks if task.columns and task.alpha > 0}
    if len(kinds) < 2:
        return []
    shown = "; ".join(f"{name}: {columns}" for columns, name in kinds.items())
    return [f"tasks have different columns ({shown}); most stacks want one layout for all."]
