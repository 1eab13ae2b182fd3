"""Commands on checkpoint files."""

from __future__ import annotations

from pathlib import Path

import click

from previa.cli._options import numbers, paths


@click.command(short_help="Merge checkpoint files at one weighting.")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    required=True,
    metavar="NAME=PATH",
    help="A task's checkpoint, as often as there are tasks.",
)
@click.option("--alpha", required=True, metavar="A,B,...", help="One weight per --task, in their order.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    metavar="NAME=PATH",
    help="A task's posterior file: Hessian-weighted merging.",
)
@click.option(
    "--base",
    type=click.Path(path_type=Path),
    help="The base model: task arithmetic; weights need not sum to one.",
)
@click.option(
    "--prior-precision", type=float, help="Precision of the prior at the base, with --precision and --base."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Of the result; the inputs' otherwise.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The merged safetensors file.")
def merge(
    tasks: tuple[str, ...],
    alpha: str,
    precisions: tuple[str, ...],
    base: Path | None,
    prior_precision: float | None,
    dtype: str | None,
    out: Path,
) -> None:
    """Merge checkpoints at one weighting into a safetensors file, tensor by tensor.

    \b
    Example:
      previa merge --task de=de/model.safetensors --task fr=fr/model.safetensors --alpha 0.4,0.6 --out merged.safetensors
    """
    import torch

    from previa.io import merge_checkpoints

    merge_checkpoints(
        base,
        paths("--task", tasks),
        numbers(alpha),
        out,
        precisions=paths("--precision", precisions) if precisions else None,
        prior_precision=prior_precision,
        dtype=getattr(torch, dtype) if dtype else None,
    )
    click.echo(f"Model: {out}")
