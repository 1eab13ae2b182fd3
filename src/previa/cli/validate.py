"""The command that holds a preview against a few true runs."""

from __future__ import annotations

from collections.abc import Sequence
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
from previa.terminal import bars, paragraph

MOST = 10  # true runs that are printed, those proposed in this call beside them


@click.command(short_help="Hold the preview against a few true runs.")
@STUDY
@OUT
@WORKERS
@QUIET
@click.option("--runs", type=click.IntRange(0), help="So many more true runs; 3, or 0 with --results.")
@click.option(
    "--results", type=click.Path(path_type=Path), metavar="CSV", help="Take true scores from this table."
)
@click.option(
    "--template",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Write the table to fill in, and train nothing.",
)
@click.option("--method", help="The preview to validate; the study's own choice otherwise.")
@WEIGHT
@FLOOR
@WORST
@RELATIVE
@click.option("--dry-run", is_flag=True, help="Only say what would be trained, and how long it takes.")
def validate(
    study: Path,
    out: Path | None,
    workers: int | None,
    quiet: bool,
    runs: int | None,
    results: Path | None,
    template: Path | None,
    method: str | None,
    metric_weight: tuple[str, ...],
    floor: tuple[str, ...],
    worst: bool,
    relative: bool,
    dry_run: bool,
) -> None:
    """Train a few true runs, or read their scores, and say how good the preview is: regret, ranking, offset.

    Proposed are the pick, the robust centre, uniform and size-proportional weights, then what tells most. Each is a joint
    run by the study's recipe, kept as the truth. Runs that were trained elsewhere come as a table: --template writes it.

    \b
    Examples:
      previa validate study.toml --runs 3
      previa validate study.toml --template runs.csv
      previa validate study.toml --results runs.csv
    """
    from previa.run import validate as room
    from previa.study.preference import experts_of
    from previa.study.runs_csv import read_runs

    if template is not None and results is not None:
        raise click.UsageError("--template writes a table, --results reads one: give one of the two.")
    found = study_at(study, out)
    given = None if results is None else read_runs(results, found.names())
    number = runs if runs is not None else 0 if given else 3
    wish = preference_of(metric_weight, floor, worst)
    wish = replace(wish, weights={**found.metric_weights(), **wish.weights})
    wish.check(found.names())
    shown = {"method": method, "preference": wish, "relative": relative}
    with opened(found, study) as work:
        room.followed(work, method)  # without a preview nothing tells what scale a table should be on
        for sentence in room.ingest(work, given) if given is not None and not dry_run else ():
            paragraph(f"Note: {sentence}")
        if relative:
            wish = replace(wish, relative_to=experts_of(room.followed(work, method)[1]))
        plan = room.plan_runs(work, number, method=method, preference=wish)
        if template is not None:
            _template(work, plan, template)
            return
        count = workers or cores()
        _plan(plan, count)
        if dry_run:
            click.echo(
                "Nothing was trained."
                if given is None
                else "Nothing was trained, nothing read into the study."
            )
            return
        with bars(quiet) as progress:
            room.train_runs(work, plan, workers=count, progress=progress)
        validation, better = room.report(work, plan, preference=wish)
    click.echo()
    _table(found.names(), validation, [one.alpha for one in plan.proposed])
    paragraph(validation.sentence)
    if better is not None:
        paragraph(_corrected(better))
    click.echo()
    publish(found, out, **shown)


def _plan(plan: Any, workers: int) -> None:
    from previa.study.simplex import show

    for one, seconds in zip(plan.proposed, plan.seconds, strict=True):
        about = "" if seconds is None else f", about {time_of(seconds)}"
        click.echo(f"to train: {show(one.alpha)}, {one.why}{about}")
    known = [seconds for seconds in plan.seconds if seconds is not None]
    if len(known) > 1:
        at_once = min(workers, len(known))
        click.echo(
            f"{len(known)} joint runs, about {time_of(sum(known) / at_once)} in all with {at_once} at once."
        )
    elif plan.proposed and not known:
        click.echo("How long they take is not known: no run of this study was timed.")


def _template(work: Any, plan: Any, template: Path) -> None:
    from previa.cli._options import check_writable
    from previa.export.shares import row_shares
    from previa.study.runs_csv import write_template

    check_writable(template)
    tasks = work.study.names()
    sizes = [work.ingredients.sizes[task] for task in tasks]
    alphas = [one.alpha for one in plan.proposed]
    shares = [row_shares(alpha, sizes, convention=work.study.convention) for alpha in alphas]
    write_template(template, tasks, alphas, [one.why for one in plan.proposed], shares=shares)
    click.echo(f"{len(alphas)} weightings are in {template}.")
    paragraph(
        "Train each in your own stack (`previa export --alpha ...` writes its settings; rows_... are shares of rows for a trainer "
        "that averages over rows), fill in the scores on this study's test data and scale, then: previa validate "
        f"{work.store.get('study_file')} --results {template}"
    )


def _table(tasks: tuple[str, ...], validation: Any, new: Sequence[Sequence[float]]) -> None:
    """The true runs, the best first, of many the MOST best and the new ones: value, the preview's, true scores of the tasks."""
    from previa.study.simplex import same, show

    runs = [
        run
        for i, run in enumerate(validation.runs)
        if i < MOST or any(same(run.alpha, alpha) for alpha in new)
    ]
    width = max(len("weights"), *(len(show(run.alpha)) for run in runs))
    columns = ["truth", "preview", "off", *tasks]
    wide = [max(7, len(name)) for name in columns]
    click.echo(f"{'weights':<{width}}" + "".join(f"  {n:>{w}}" for n, w in zip(columns, wide, strict=True)))
    for run in runs:
        cells = [
            f"{run.value:.3f}",
            f"{run.previewed:.3f}{'*' if run.interpolated else ''}",
            f"{run.previewed - run.value:+.3f}",
        ]
        cells += [f"{run.scores[task]:.3f}" for task in tasks]
        click.echo(
            f"{show(run.alpha):<{width}}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, wide, strict=True))
        )
    if left := len(validation.runs) - len(runs):
        click.echo(f"... and {left} more")
    offsets = [f"{validation.offset:+.3f}", *(f"{validation.task_offsets[task]:+.3f}" for task in tasks)]
    blank = f"  {'':>{wide[0]}}  {'':>{wide[1]}}"
    click.echo(
        f"{'preview - truth':<{width}}{blank}"
        + "".join(f"  {c:>{w}}" for c, w in zip(offsets, wide[2:], strict=True))
    )
    if any(run.interpolated for run in runs):
        click.echo("* not previewed there: interpolated from the weightings around it.")
    click.echo()


def _corrected(better: Any) -> str:
    """What the runs correct, and how well they foretell one another."""
    left = better.left_out_rms
    if left is None:
        return (
            "With fewer than three true runs inside the simplex the preview is corrected by its offset alone."
        )
    rules = {
        "none": "These runs give no reason to correct the preview",
        "offset": "What the preview misses at these runs corrects it best as one number a task",
        "process": "What the preview misses at these runs corrects it as a smooth map",
    }
    names = {"none": "uncorrected", "offset": "by the mean miss", "process": "by a smooth map"}
    errors = ", ".join(f"{error:.3f} {names[name]}" for name, error in left.items())
    return f"{rules[better.rule]}. Errors of task scores with each run left out in turn: {errors}."


def time_of(seconds: float) -> str:
    """For a person."""
    if seconds < 90:
        return f"{max(seconds, 0.1):.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
