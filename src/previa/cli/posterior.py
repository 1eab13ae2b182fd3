"""Commands that make or look at posterior files."""

from __future__ import annotations

from pathlib import Path

import click

from previa.cli._options import OUT, QUIET, STUDY, WORKERS, InOrder, cores, opened, study_at
from previa.terminal import bars


@click.group(cls=InOrder)
def posterior() -> None:
    """Make or look at posterior files.

    \b
    Example:
      previa posterior show demo-out/base/posterior.safetensors
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


@posterior.command("squared-gradients", short_help="Exact squared gradients of every task.")
@STUDY
@OUT
@WORKERS
@QUIET
def posterior_squared_gradients(study: Path, out: Path | None, workers: int | None, quiet: bool) -> None:
    """Exact per-example squared gradients of every task, at its checkpoint or after an AdamW run.

    \b
    Example:
      previa posterior squared-gradients study.toml
    """
    from dataclasses import replace

    from previa.run.fit import SQUARES, fit

    found = study_at(study, out)
    found = replace(found, preview=replace(found.preview, methods=("squared_gradients",)))
    with opened(found, study) as work, bars(quiet) as progress:
        fit(work, workers=workers or cores(), progress=progress)
    for task in found.tasks:
        made = found.out / "runs" / task.name / f"{SQUARES}.safetensors"
        click.echo(f"{task.name}: {made if made.exists() else task.posterior}")
