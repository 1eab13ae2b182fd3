"""What several commands share: options, and what is read from them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click


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
FLOOR = click.option(
    "--floor",
    multiple=True,
    metavar="TASK=S",
    help="A score that a task must keep, also as 'TASK>=S'; once for each such task.",
)
WORST = click.option("--worst", is_flag=True, help="The score of the worst task counts, not the mean.")
RELATIVE = click.option(
    "--relative", is_flag=True, help="Scores are shares of those of the tasks' own experts; floors, too."
)


def study_at(file: Path, out: Path | None) -> Any:
    """The study in a file, with its results in ``out`` where that is given."""
    from dataclasses import replace

    from previa.study.file import read_study

    study = read_study(file)
    return study if out is None else replace(study, out=out.resolve())


@contextmanager
def opened(study: Any, file: Path) -> Iterator[Any]:
    """The study at work; what only its file knows, and reports made from the store need, is noted in the store."""
    from previa.run import work as room

    with room.opened(study) as work:
        work.store.put("method", study.followed(work.store.methods()))
        work.store.put("unit", _unit(study))
        work.store.put("study_file", str(file))
        yield work


def _unit(study: Any) -> str:
    """What a score is called on axes and in tables."""
    if study.transformers is None:
        return "accuracy" if study.score is None else "score"
    from previa.run.text_scores import usual_score

    usual = study.score or usual_score(study.transformers.task_type) or ":"
    names = {task.score or usual for task in study.tasks}
    name = names.pop() if len(names) == 1 else ":"
    shown = {"log-likelihood": "log-likelihood per token", "bleu": "BLEU", "chrf": "chrF"}
    return "score" if ":" in name else shown.get(name, name)


def preference_of(
    metric_weight: Sequence[str] = (), floor: Sequence[str] = (), worst: bool = False
) -> Any:  # fmt: skip
    """The `Preference` of the options WEIGHT, FLOOR and WORST; what RELATIVE divides by only a preview knows (`experts_of`).

    Raises BadParameter where an option has another form; tasks are checked where they are known (`Preference.check`).
    """
    from previa.study.preference import Preference

    return Preference(
        weights=number_of_each("--metric-weight", metric_weight),
        floors=number_of_each("--floor", floor, sign=">="),
        worst=worst,
    )


def number_of_each(option: str, given: Sequence[str], *, sign: str = "=") -> dict[str, float]:
    """name -> number, of options NAME=NUMBER, or NAME>=NUMBER too where that is the sign: the last one, as names may have it."""
    found: dict[str, float] = {}
    for pair in given:
        left, equals, value = pair.rpartition("=")
        name = left.removesuffix(sign[:-1]).strip()
        if not (name and equals and value.strip()):
            raise click.BadParameter(f"{pair!r} should be NAME=VALUE", param_hint=option)
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice", param_hint=option)
        try:
            found[name] = float(value)
        except ValueError as error:
            raise click.BadParameter(f"{value.strip()!r} is no number", param_hint=option) from error
    return found


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def alpha_of(text: str, tasks: Sequence[str]) -> Any:
    """The weights of these tasks. Raises AlphaError where they are no point of the simplex."""
    from previa.study.simplex import check_alphas

    return check_alphas(weights_of(text, tasks), len(tasks), where="--alpha")


def weights_of(text: str, tasks: Sequence[str], option: str = "--alpha") -> list[float]:
    """One number for each of these tasks, whatever they sum to. Raises AlphaError for more or fewer."""
    from previa.errors import AlphaError

    found = numbers(text, option)
    if len(found) != len(tasks):
        raise AlphaError(
            f"{option} {text}: {len(found)} weights; expected {len(tasks)}, one for each of {', '.join(tasks)}."
        )
    return found


def check_writable(file: Path | None) -> None:
    """Raise FileError unless a file can be written there; its folder is made when missing."""
    from previa.errors import FileError
    from previa.run.records import make_folder

    if file is None:
        return
    if file.is_dir():
        raise FileError(f"{file}: this is a folder; expected the name of a file to write.")
    if not os.access(make_folder(file.parent), os.W_OK):
        raise FileError(f"{file}: its folder is read-only. Choose a folder that you may write.")


def numbers(text: str, option: str = "--alpha") -> list[float]:
    """The numbers of an option. Raises BadParameter, as the next two, where the text has another form."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} should be numbers with commas between, as 0.4,0.6", param_hint=option
        ) from error


def paths(option: str, given: Sequence[str]) -> dict[str, Path]:
    """name -> path, of options NAME=PATH."""
    return {name: Path(value) for name, value in pairs(option, given).items()}


def pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """name -> value, of options NAME=VALUE, each name once."""
    found: dict[str, str] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise click.BadParameter(f"{pair!r} should be NAME=VALUE", param_hint=option)
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice", param_hint=option)
        found[name] = value
    return found
