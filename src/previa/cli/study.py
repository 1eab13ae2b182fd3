"""Commands on whole studies: each stopped at any point goes on from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from previa.cli._options import OUT, QUIET, STUDY, WORKERS, cores, opened, study_at
from previa.terminal import advice, bars, paragraph, quality_table


@click.command(short_help="The whole job on handwritten digits.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo-out"),
    show_default=True,
    help="Folder for results.",
)
@WORKERS
@QUIET
def demo(out: Path, workers: int | None, quiet: bool) -> None:
    """The whole job on scikit-learn's handwritten digits: three tasks, seven previews of 231 weightings, and the truth.

    \b
    Example:
      previa demo --out demo-out
    """
    from importlib import resources

    from previa.errors import FileError

    file = out / "study.toml"  # of the user's own, to look at and to name in further commands
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            text = (resources.files("previa.data") / "digits.toml").read_text(encoding="utf-8")
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(
            f"{out}: the folder cannot be written: {error.strerror}. Choose another with --out."
        ) from error
    import torch

    torch.set_num_threads(
        1
    )  # the network is tiny: more threads only wait, and would round its numbers otherwise
    _run(file, None, workers, quiet)


@click.command(short_help="The whole job on a study of your own.")
@STUDY
@OUT
@WORKERS
@QUIET
def run(study: Path, out: Path | None, workers: int | None, quiet: bool) -> None:
    """Everything a study asks for: finetune, preview, train the truth, compare, recommend, report.

    Stopped at any point, the same command does only what is missing.

    \b
    Example:
      previa run study.toml --workers 2
    """
    _run(study, out, workers, quiet)


def _run(file: Path, out: Path | None, workers: int | None, quiet: bool) -> None:
    from previa.run.anchors import anchors_folder
    from previa.run.fit import fit
    from previa.run.joint import picks, truth
    from previa.run.pipeline import preview
    from previa.study.settings import ANCHORED

    study = study_at(file, out)
    with opened(study, file) as work:
        previewed, trained = (len(work.alphas(steps)) for steps in (study.preview.steps, study.truth.steps))
        joint = f"{trained} joint runs and one at each pick" if study.truth.steps else "no joint runs"
        anchors = "" if study.anchors or anchors_folder(work).is_dir() else ANCHORED
        methods = sum(not (anchors and name.endswith(anchors)) for name in study.previews())
        click.echo(f"{len(study.tasks)} tasks: {previewed} weightings by {methods} previews; {joint}.")
        with bars(quiet) as progress:
            count = workers or cores()
            runs = fit(work, workers=count, progress=progress)
            previews = preview(work, runs, progress=progress)
            if study.truth.steps:
                truth(work, more=picks(previews, study.metric_weights()), workers=count, progress=progress)
    publish(study, out)


@click.command(short_help="Finetune each task once; keep checkpoints and posteriors.")
@STUDY
@OUT
@WORKERS
@QUIET
def fit(study: Path, out: Path | None, workers: int | None, quiet: bool) -> None:
    """Finetune each task once and keep its checkpoints and posteriors.

    \b
    Example:
      previa fit study.toml
    """
    from previa.run import fit as room

    found = study_at(study, out)
    with opened(found, study) as work, bars(quiet) as progress:
        room.fit(work, workers=workers or cores(), progress=progress)
    click.echo(f"Checkpoints and posteriors are in {found.out / 'runs'}. Next: previa preview {study}")


def publish(study: Any, out: Path | None = None, **wish: Any) -> None:
    """Write the outputs of a study's store, and print what they say: the table, the pick, how the preview was sharpened.

    out: the option --out, for the commands that are proposed. wish: as of `Results.of`.
    """
    from previa.show import outputs
    from previa.show.outputs import Results
    from previa.study.store import Store

    with Store.read(study.out / "study.db") as store:
        results = Results.of(store, **wish)
        made = outputs.publish(store, results, study.out)
        hint = _hint(study, store, out)
    if results.comparison is not None:
        quality_table(results)
        click.echo()
    advice(results)
    for sentence in (results.summary["sharpened"] or {}).get("sentences", []):
        paragraph(sentence)
    for warning in results.summary["warnings"]:
        paragraph(f"Note: {warning}")
    if hint:
        paragraph(hint)
    if not any(path.suffix == ".png" for path in made):
        paragraph("Note: no PNG figures were drawn; `pip install 'previa[plot]'` brings what they need.")
    click.echo()
    page = next(path for path in made if path.suffix == ".html")
    click.echo(f"Open the report: {page}")


def _hint(study: Any, store: Any, out: Path | None) -> str | None:
    """The command that anchors the preview; None where there are anchors, or nothing can be trained."""
    from shlex import quote

    from previa.study.settings import ANCHORED

    folders = study.transformers
    previews_only = folders is not None and (folders.heads or folders.dtype != "fp32")
    if ANCHORED not in study.preview.methods or store.get("anchors") or previews_only:
        return None
    there = "" if out is None else f" --out {quote(str(out))}"
    command = f"previa anchors {quote(store.get('study_file'))} --budget 4{there}"
    return f"A few short joint runs can anchor the preview: {command}"
