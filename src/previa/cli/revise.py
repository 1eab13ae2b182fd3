"""The command for a study whose tasks changed."""

from __future__ import annotations

from pathlib import Path

import click

from previa.cli._options import OUT, STUDY, study_at


@click.command(short_help="Tasks were added, dropped or changed: keep what still holds.")
@STUDY
@OUT
@click.option("--dry-run", is_flag=True, help="Only say what would be kept, and what is to be done.")
def revise(study: Path, out: Path | None, dry_run: bool) -> None:
    """Go on with a study whose tasks were added, dropped, changed or put in another order, and keep what still holds exactly.

    The old results are put aside as study-before-1.db; nothing is deleted and nothing trained.

    \b
    Examples:
      previa revise study.toml --dry-run
      previa revise study.toml
    """
    from previa.cli.validate import time_of
    from previa.run import revise as room

    found_study = study_at(study, out)
    found = room.revise(found_study, dry_run=dry_run)
    for line in room.said(found, found_study):
        click.echo(line)
    for what, seconds in found.seconds.items():
        click.echo(
            f"to do: {what}" + ("" if seconds is None else f", about {time_of(seconds)} in one process")
        )
    if dry_run:
        click.echo("Nothing was changed.")
        return
    click.echo(f"The old results are {found.moved}. Next: previa preview {study}")
