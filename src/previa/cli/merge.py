"""The command that merges checkpoints and adapters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from previa.cli._options import paths, weights_of

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
AUTO = "auto"


@click.command(short_help="Merge model folders, adapters or files.")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    required=True,
    metavar="NAME=PATH",
    help="A task's model folder, adapter folder or safetensors file, as often as there are tasks.",
)
@click.option(
    "--alpha",
    "alphas",
    multiple=True,
    required=True,
    metavar="A,B,...",
    help="One weight per --task, in their order; give it again for more weightings in the same pass.",
)
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
    "--power",
    type=float,
    default=1.0,
    show_default=True,
    metavar="P",
    help="Warp the weights to alpha^P, normalised: below 1 a little weight on a task counts for more, as in joint finetuning.",
)
@click.option(
    "--anchor",
    "anchors",
    multiple=True,
    metavar="A,B,...=PATH",
    help="A joint run and the weights it was trained at, one per --task: the merge goes through it. As often as there are runs.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="PATTERN|auto",
    help="Tensors that tasks do not share, as 'classifier.*': not averaged, but kept in heads/ for each task. "
    "auto: those whose names or shapes differ.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Of the result; the inputs' otherwise.",
)
@click.option(
    "--shard-size", default="5GB", show_default=True, metavar="SIZE", help="Of a file of the result, at most."
)
@click.option("--replace", is_flag=True, help="Move an existing folder aside, to OUT.old.")
@click.option(
    "--allow-pickle", is_flag=True, help="Read pytorch_model.bin too, with torch.load(weights_only=True)."
)
@click.option(
    "--product", is_flag=True, help="Adapters: sum the updates B A exactly, instead of averaging A and B."
)
@click.option(
    "--rank", type=click.IntRange(1), help="Adapters with --product: cut the sum to this rank at most."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The merged folder, or *.safetensors file. Of several weightings: the folder that theirs go into, or names with "
    "{alpha} or {TASK} in them.",
)
def merge(
    tasks: tuple[str, ...],
    alphas: tuple[str, ...],
    precisions: tuple[str, ...],
    base: Path | None,
    prior_precision: float | None,
    power: float,
    anchors: tuple[str, ...],
    keep: tuple[str, ...],
    dtype: str | None,
    shard_size: str,
    replace: bool,
    allow_pickle: bool,
    product: bool,
    rank: int | None,
    out: Path,
) -> None:
    """Merge models, a piece of a tensor at a time: memory does not grow with their size.

    Folders are those of save_pretrained, and so is the result: config and tokenizer come from the base, or from the first
    task. Folders of PEFT's LoRA adapters are merged into such a folder.

    \b
    Examples:
      previa merge --base base --task de=de --task fr=fr --alpha 0.4,0.6 --out merged
      previa merge --task de=de --task fr=fr --alpha 0.5,0.5 --alpha 0.4,0.6 --out 'merged/de{de}'
      previa merge --task de=de --task fr=fr --power 0.3 --anchor 0.5,0.5=joint --alpha 0.4,0.6 --out merged
      previa merge --task de=de/model.safetensors --task fr=fr/model.safetensors --alpha 0.4,0.6 --out merged.safetensors
    """
    import torch

    from previa.io.inputs import home
    from previa.io.merging import Sources

    given = paths("--task", tasks)
    rows = [weights_of(text, list(given)) for text in alphas]
    outs = out_paths(out, list(given), rows)
    files = paths("--precision", precisions) if precisions else None
    joint = [_anchor(text, list(given)) for text in anchors]
    kind = getattr(torch, dtype) if dtype else None
    sizes = bytes_of(shard_size)
    folders = [home(path) for path in given.values()]
    if folders and all(folder and (folder / "adapter_config.json").is_file() for folder in folders):
        _only("models, not adapters", {"--keep": keep, "--replace": replace, "--allow-pickle": allow_pickle})
        prior = {} if prior_precision is None else {"prior_precision": prior_precision}
        how: dict[str, Any] = {
            "product": product,
            "rank": rank,
            "dtype": kind,
            "p": power,
            "anchors": joint,
            **prior,
        }
        _adapters(given, rows, outs, base=base, precisions=files, **how)
        return
    _only("adapters, and these are models", {"--product": product, "--rank": rank})
    if out.suffix == ".safetensors":
        _only("folders, not a single file", {"--keep": keep, "--replace": replace})
        _file(Sources(base, given, files, prior_precision, (), allow_pickle, power, joint), rows, outs, kind)
        return
    from previa.io.heads import unshared
    from previa.io.merge_folders import Form, merge_folders

    patterns = [pattern for pattern in keep if pattern != AUTO]
    if AUTO in keep:
        patterns += unshared(base, given, anchors=joint, allow_pickle=allow_pickle)
    sources = Sources(base, given, files, prior_precision, tuple(patterns), allow_pickle, power, joint)
    merged = merge_folders(sources, rows, outs, Form(kind, sizes, replace))
    for each in merged:
        click.echo(f"Model: {each.out}")
    for note in merged[0].notes:
        click.echo(note)


def _anchor(text: str, tasks: Sequence[str]) -> Any:
    """A joint run of --anchor A,B,...=PATH. Raises BadParameter, and AlphaError for more or fewer weights."""
    from previa.io.weightings import Anchor

    weights, equals, path = text.partition("=")
    if not (equals and path):
        raise click.BadParameter(
            f"{text!r} should be the weights that a joint run was trained at and its path, as 0.5,0.5=joint",
            param_hint="--anchor",
        )
    return Anchor(tuple(weights_of(weights, tasks, option="--anchor")), Path(path))


def _file(sources: Any, rows: Sequence[Sequence[float]], outs: Sequence[Path], dtype: Any) -> None:
    """One safetensors file at one weighting."""
    from previa.io import merge_checkpoints

    if len(rows) > 1:
        raise click.BadParameter("several weightings go into folders, not into a file", param_hint="--out")
    merge_checkpoints(
        sources.base,
        sources.tasks,
        rows[0],
        outs[0],
        precisions=sources.precisions,
        prior_precision=sources.prior_precision,
        dtype=dtype,
        allow_pickle=sources.allow_pickle,
        p=sources.p,
        anchors=sources.anchors,
    )
    click.echo(f"Model: {outs[0]}")


def _adapters(
    tasks: Mapping[str, Path], rows: Sequence[Sequence[float]], outs: Sequence[Path], **how: Any
) -> None:
    """Adapter folders, by what merges those, and what it says of them."""
    from previa.io.adapter import merge_adapters

    for path in outs:
        path.parent.mkdir(parents=True, exist_ok=True)
    merged = merge_adapters(tasks, rows, outs, **how)
    for each in merged:
        error = "" if each.error is None else f", {each.error:.2g} of its norm cut off"
        click.echo(f"Adapter: {each.out} (rank {each.rank}{error})")
    if merged[0].initialisation is not None:
        click.echo(merged[0].initialisation.sentence)


def _only(what: str, options: Mapping[str, object]) -> None:
    """Raise UsageError where an option was given that is for something else."""
    for option, value in options.items():
        if value:
            raise click.UsageError(f"{option} is for {what}.")


def out_paths(out: Path, tasks: Sequence[str], rows: Sequence[Sequence[float]]) -> list[Path]:
    """A path for each weighting. Raises BadParameter where two are the same."""
    text = str(out)
    holes = [name for name in ("alpha", *tasks) if f"{{{name}}}" in text]
    if not holes and len(rows) == 1:
        return [out]
    found = []
    for row in rows:
        shown = dict(zip(tasks, (f"{weight:.6g}" for weight in row), strict=False))
        name = "-".join(f"{task}{weight}" for task, weight in shown.items())
        filled = text if holes else str(out / "{alpha}")
        for hole, value in {**shown, "alpha": name}.items():
            filled = filled.replace(f"{{{hole}}}", value)
        found.append(Path(filled))
    twice = [path for path in found if found.count(path) > 1]
    if twice:
        raise click.BadParameter(
            f"two weightings would be written to {twice[0]}; use {{alpha}} for names that tell all weights",
            param_hint="--out",
        )
    return found


def bytes_of(text: str) -> int:
    """The bytes of 5GB, 500MB or 2GiB. Raises BadParameter."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if not found or found[2].upper() not in UNITS:
        raise click.BadParameter(
            f"{text!r} should be a size, as 5GB, 500MB or 2GiB", param_hint="--shard-size"
        )
    return int(float(found[1]) * UNITS[found[2].upper()])
