"""Commands that train a little more for a better preview: joint runs as anchors, and steps of joint training from previews."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from previa.cli._options import OUT, QUIET, STUDY, WORKERS, alpha_of, cores, opened, study_at
from previa.cli.study import publish
from previa.terminal import bars, paragraph


@click.command(short_help="Train a few joint runs as anchors of the preview.")
@STUDY
@OUT
@WORKERS
@QUIET
@click.option(
    "--budget",
    type=click.IntRange(1),
    help="So many anchors in all, with those there are; 4 otherwise. The next ones are proposed.",
)
@click.option(
    "--alpha",
    "alphas",
    multiple=True,
    metavar="A,B,...",
    help="Train at this weighting instead; may be repeated.",
)
@click.option(
    "--from",
    "start",
    type=click.Choice(["preview", "base"]),
    default="preview",
    show_default=True,
    help="Where they start.",
)
@click.option(
    "--steps",
    metavar="N|full",
    help="Updates of each; from the preview a third of a joint run's otherwise, from the base all.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be trained.")
def anchors(
    study: Path,
    out: Path | None,
    workers: int | None,
    quiet: bool,
    budget: int | None,
    alphas: tuple[str, ...],
    start: str,
    steps: str | None,
    dry_run: bool,
) -> None:
    """Train a few joint runs as anchors, and preview again: there the preview is the run itself.

    They are short, and start from the warped preview: `--from base --steps full` gives plain joint runs. Stopped at any
    point, the same command does only what is missing.

    \b
    Examples:
      previa anchors study.toml --budget 4
      previa anchors study.toml --alpha 0.5,0.5,0 --steps 100
    """
    from previa.errors import StudyError
    from previa.run import pipeline
    from previa.run.anchor_runs import plan_anchors, train_anchors
    from previa.run.fit import fit
    from previa.study.settings import ANCHORED
    from previa.study.simplex import show

    if budget is not None and alphas:
        raise click.UsageError("--budget proposes weightings, --alpha names them: give one of the two.")
    found = study_at(study, out)
    if not any(name.endswith(ANCHORED) for name in found.sharpened()):
        raise StudyError(
            f"{study}: methods of [preview] has no 'anchored', which is what anchors serve. Add it."
        )
    rows = [alpha_of(text, found.names()).tolist() for text in alphas] or None
    with opened(found, study) as work:
        plan = plan_anchors(
            work, budget=budget, alphas=rows, steps=_steps(steps, found), start="base" if start == "base" else "preview"
        )  # fmt: skip
        for sentence in plan.said:
            paragraph(f"Note: {sentence}")
        for anchor in plan.there:
            click.echo(f"there: {show(anchor.alpha)} from {anchor.origin}")
        cost = f"{plan.steps} steps from the {plan.start}, {plan.share:.2g} of a joint run"
        for alpha in plan.wanted:
            click.echo(f"to train: {show(alpha)}, {cost}")
        if dry_run:
            total = len(plan.wanted) * plan.share
            click.echo(f"{len(plan.wanted)} runs, {total:.2g} joint runs in all. Nothing was trained.")
            return
        with bars(quiet) as progress:
            count = workers or cores()
            runs = fit(work, workers=count, progress=progress)
            train_anchors(work, runs, plan, workers=count, progress=progress)
            pipeline.preview(work, runs, workers=workers or 1, progress=progress)
    publish(found, out)


@click.command(short_help="A few steps of joint training from the preview.")
@STUDY
@OUT
@QUIET
@click.option(
    "--alpha", "alphas", multiple=True, required=True, metavar="A,B,...", help="A weighting; may be repeated."
)
@click.option(
    "--steps",
    default="10,25,50",
    show_default=True,
    metavar="K,K,...",
    help="After which steps it is scored.",
)
def refine(study: Path, out: Path | None, quiet: bool, alphas: tuple[str, ...], steps: str) -> None:
    """Train jointly from the preview for a few steps at a few weightings: how much each step buys, from preview to truth.

    \b
    Example:
      previa refine study.toml --alpha 0.5,0.3,0.2 --steps 10,25,50
    """
    from previa.run import refine as room
    from previa.run.fit import fit
    from previa.study.preview import metric_weights
    from previa.study.simplex import show

    found = study_at(study, out)
    rows = [alpha_of(text, found.names()).tolist() for text in alphas]
    wanted = room.rising(
        [_whole(part, "--steps") for part in steps.split(",")]
    )  # said before anything is trained
    said: list[str] = []
    with opened(found, study) as work, bars(quiet) as progress:
        runs = fit(work, workers=cores(), progress=progress)
        refined = room.refine(work, runs, rows, steps=wanted, progress=progress, tell=said.append)
    weights = metric_weights(found.names(), found.metric_weights())
    width = max(len(show(one.alpha)) for one in refined)
    click.echo(f"{'weights':<{width}}  steps   score  over the preview  joint runs")
    for one in refined:
        means = one.mean(weights)
        for k, mean, share in zip(one.steps, means, one.shares, strict=True):
            click.echo(
                f"{show(one.alpha):<{width}}  {k:>5}  {mean:>6.3f}  {mean - means[0]:>+16.3f}  {share:>10.2f}"
            )
    paragraph(
        "Each row costs all steps up to it; the preview itself, at 0 steps, costs none. The truth is a joint run from the base."
    )
    for sentence in said:
        paragraph(f"Note: {sentence}")


def _steps(text: str | None, study: Any) -> int | None:
    """The number of --steps; those of a joint run for "full"."""
    from previa.run.work import joint_recipe

    if text is None:
        return None
    return joint_recipe(study).steps if text == "full" else _whole(text, "--steps")


def _whole(text: str, option: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise click.BadParameter(f"{text!r} should be a whole number from 1 up", param_hint=option)
    return int(text)
