"""The command `previa preview`: every weighting."""

from __future__ import annotations

from pathlib import Path

import click

from previa.cli._options import OUT, QUIET, STUDY, WORKERS, cores, opened, study_at
from previa.cli.study import publish
from previa.terminal import bars


@click.command(short_help="Merge and score every weighting.")
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

    found = study_at(study, out)
    with opened(found, study) as work, bars(quiet) as progress:
        runs = fit(work, workers=workers or cores(), progress=progress)
        pipeline.preview(work, runs, workers=workers or 1, progress=progress)
    publish(found, out)
