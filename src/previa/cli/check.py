"""The command that looks before anything long is started."""

from __future__ import annotations

from pathlib import Path

import click

from previa.cli._options import OUT, QUIET, STUDY, opened, study_at
from previa.terminal import bars

MARKS = {"ok": "ok", "note": "note", "warning": "WARNING"}


@click.command(short_help="What to know before anything long, without training.")
@STUDY
@OUT
@QUIET
@click.option("--json", "as_json", is_flag=True, help="All numbers as JSON.")
def check(study: Path, out: Path | None, quiet: bool, as_json: bool) -> None:
    """Pre-flight checks on what is there: the same base, distances between experts, overlap of curvature, barriers, memory of
    hess_init, and what the test sets can tell. Nothing is trained.

    \b
    Example:
      previa check study.toml
    """
    import json
    import shutil
    import textwrap

    from previa.run.preflight import preflight

    found = study_at(study, out)
    with opened(found, study) as work, bars(quiet) as progress:
        checks = preflight(work, progress=progress)
        stored = work.store.get("preflight")
    if as_json:
        click.echo(json.dumps(stored, indent=1))
        return
    width = min(shutil.get_terminal_size().columns, 110)
    wide = max(len(one.name) for one in checks)
    for one in checks:
        head = f"{MARKS[one.level]:<7}  {one.name:<{wide}}  "
        click.echo(
            textwrap.fill(
                one.sentence,
                width,
                initial_indent=head,
                subsequent_indent=" " * len(head),
                break_on_hyphens=False,
            )
        )
    levels: list[str] = [one.level for one in checks]
    counts = [
        f"{levels.count(level)} {level}{'s' if level != 'ok' and levels.count(level) != 1 else ''}"
        for level in MARKS
    ]
    click.echo(f"\n{', '.join(counts)}. --json has the numbers.")
