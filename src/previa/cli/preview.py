"""The command `previa preview`: every weighting, or those that a search or cheap rounds leave."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from previa.cli._options import (
    FLOOR,
    OUT,
    QUIET,
    RELATIVE,
    STUDY,
    WEIGHT,
    WORKERS,
    WORST,
    cores,
    opened,
    preference_of,
    study_at,
)
from previa.cli.study import publish
from previa.terminal import bars

UNITS = {"s": 1 / 60, "min": 1.0, "h": 60.0}
ENGINES = ("previa", "botorch")
ALONE = ("method", "goal", "engine", "metric_weight", "floor", "worst", "relative", "stop_early")
"""options that say what a search or cheap rounds are for"""


@click.command(short_help="Merge and score every weighting, or a few well chosen ones.")
@STUDY
@OUT
@WORKERS
@QUIET
@click.option(
    "--budget",
    metavar="N|TIME",
    help="Search one preview: so many evaluations in all, as 20, or so long, as 90s, 15min or 2h.",
)
@click.option(
    "--goal",
    type=click.Choice(("best", "region")),
    help="What is searched: the best weighting (unless said otherwise), or where the near-best ones are.",
)
@click.option(
    "--stop-early",
    is_flag=True,
    help="End before the budget, when no gain above the noise of the test items is expected.",
)
@click.option(
    "--cheap-first",
    is_flag=True,
    help="One preview on a part of the test items first, on all for what survives.",
)
@click.option("--method", help="The preview that is searched; the one that the study follows otherwise.")
@click.option(
    "--engine", type=click.Choice(ENGINES), help="What proposes evaluations; previa's own otherwise."
)
@WEIGHT
@FLOOR
@WORST
@RELATIVE
def preview(
    study: Path, out: Path | None, workers: int | None, quiet: bool, budget: str | None, goal: Any, stop_early: bool, cheap_first: bool,
    method: str | None, engine: str | None, metric_weight: tuple[str, ...], floor: tuple[str, ...], worst: bool, relative: bool,
) -> None:  # fmt: skip
    """Merge and score every weighting by every method of the study; nothing is trained but what `fit` lacks.

    With --budget one method is scored at a few weightings that a search chooses, with --cheap-first at all of them on few test
    items and at the best on all. What was scored is kept: the command without either completes the grid.

    \b
    Examples:
      previa preview study.toml
      previa preview study.toml --budget 20 --floor safety=0.95
      previa preview study.toml --budget 15min --goal region --method simple
    """
    _check_usage(budget, cheap_first)
    from previa.run import pipeline
    from previa.run.fit import fit
    from previa.run.search_state import Aim, first_weightings

    found = study_at(study, out)
    if not (budget or cheap_first):
        with opened(found, study) as work, bars(quiet) as progress:
            runs = fit(work, workers=workers or cores(), progress=progress)
            pipeline.preview(work, runs, workers=workers or 1, progress=progress)
        publish(found, out)
        return
    limit = _budget(budget, stop_early, len(found.tasks) + 1) if budget else None
    wish = preference_of(metric_weight, floor, worst)
    wish = replace(wish, weights={**found.metric_weights(), **wish.weights})
    wish.check(found.names())
    _check_method(found, method)
    aim = Aim(goal or "best", wish, relative)
    with opened(found, study) as work, bars(quiet) as progress:
        if limit is not None:
            _check_room(limit, len(first_weightings(work)[0]))
        runs = fit(work, workers=workers or cores(), progress=progress)
        if limit is not None:
            from previa.run.search import search

            engines = {"engine": _engine(engine), "engine_name": engine} if engine else {}
            search(work, runs, limit, aim, method=method, workers=workers or 1, progress=progress, **engines)
        else:
            from previa.run.halving import halve

            halve(work, runs, aim, method=method, workers=workers or 1, progress=progress)
        name = work.store.get("method")
    publish(found, out, method=name, preference=wish, relative=relative)


def _check_usage(budget: str | None, cheap_first: bool) -> None:
    """Raise UsageError for options that have no effect together."""
    given = click.get_current_context().params
    if budget and cheap_first:
        raise click.UsageError(
            "--budget and --cheap-first are two ways to save evaluations: give one of them."
        )
    idle = [name for name in ALONE if given.get(name)]
    if idle and not (budget or cheap_first):
        raise click.UsageError(
            f"--{idle[0].replace('_', '-')} says what a search is for: give --budget or --cheap-first with it. The whole grid "
            "needs none of it: `previa recommend` weighs its scores."
        )
    if cheap_first and (given.get("goal") == "region" or given.get("engine") or given.get("stop_early")):
        raise click.UsageError(
            "--goal, --engine and --stop-early are for --budget. --cheap-first looks for the best weighting."
        )
    if given.get("goal") == "region" and given.get("stop_early"):
        raise click.UsageError(
            "--stop-early is for --goal best: it ends where no better weighting is expected. Search a region with the whole "
            "budget."
        )


def _check_method(study: Any, method: str | None) -> None:
    """Raise StudyError unless the study has this preview."""
    from previa.errors import StudyError

    if method is not None and method not in study.previews():
        raise StudyError(
            f"--method: there is no preview {method!r}: the study has {', '.join(study.previews())}. Others are named by methods in "
            "[preview]."
        )


def _check_room(budget: Any, least: int) -> None:
    """Raise BadParameter for fewer evaluations than a search begins with."""
    if budget.evaluations is not None and budget.evaluations < least:
        raise click.BadParameter(
            f"{budget.evaluations} evaluations are too few. The corners, uniform and size-proportional weights, which a "
            f"recommendation is held against, are at least {least}. Give so many, or more.",
            param_hint="--budget",
        )


def _budget(text: str, stop_early: bool, least: int) -> Any:
    """Evaluations, or minutes where there is a unit. Raises BadParameter, for fewer evaluations than ``least`` too."""
    from previa.run.search_state import Budget

    read = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h)?", text)
    if not read or (not read[2] and "." in text):
        raise click.BadParameter(
            f"{text!r} should be a number of evaluations, as 20, or a time, as 90s, 15min or 2h",
            param_hint="--budget",
        )
    if float(read[1]) == 0:
        raise click.BadParameter(
            f"{text!r} leaves nothing to search with. Give a number of evaluations, as 20, or a time, as 15min.",
            param_hint="--budget",
        )
    if read[2]:
        return Budget(minutes=float(read[1]) * UNITS[read[2]], stop_early=stop_early)
    budget = Budget(evaluations=int(read[1]), stop_early=stop_early)
    _check_room(budget, least)
    return budget


def _engine(name: str) -> Any:
    if name == "botorch":
        from previa.run import botorch

        return botorch.suggest
    from previa.study.search import suggest

    return suggest
