"""The command `previa view`: the report of a store while it grows, in a browser on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from previa.cli._options import RESULTS


@click.command(short_help="Look at a study while it runs.")
@RESULTS
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Of this machine; 0: any free one.",
)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def view(results: Path, port: int, no_browser: bool) -> None:
    """Serve the report of a study's store on this machine, and nowhere else; it follows the store while a run goes on.

    The page loads itself again when there is something new and keeps its view. Ctrl+C ends it.

    \b
    Example:
      previa view study.toml
    """
    import webbrowser
    from functools import partial

    from previa.show.serve import HOST, server

    path = store_of(results)
    with server(
        path, partial(page, study_file=results if results.suffix == ".toml" else None), port=port
    ) as running:
        address = f"http://{HOST}:{running.server_address[1]}/"
        click.echo(f"{path} is shown at {address} until Ctrl+C.")
        if not no_browser:
            webbrowser.open(address)
        try:
            running.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            click.echo("Ended; the study itself goes on where it runs.")


def store_of(results: Path) -> Path:
    """The store of a study file, of a folder of results, or the file itself; it need not be there yet."""
    from previa.errors import FileError
    from previa.study.file import read_study

    if results.suffix == ".toml":
        return read_study(results).out / "study.db"
    if results.is_dir():
        return results / "study.db"
    if not results.is_file():
        raise FileError(f"{results}: there is no such study file, folder or store.")
    return results


def page(store: Any, stamp: str, *, study_file: Path | None = None) -> bytes:
    """The page of a store as it is now; a study file's metric weights and method count as it stands."""
    from previa.show.report import report_page
    from previa.show.report_of import report_of
    from previa.show.results import Results
    from previa.study.file import read_study
    from previa.study.preference import Preference

    method, weights = None, {}
    if study_file is not None:
        study = read_study(study_file)
        weights = {task: w for task, w in study.metric_weights().items() if task in store.tasks}
        own = study.recommend.method
        method = own if own in store.methods() and store.preview(own).ok.any() else None
    found = Results.of(store, method=method, preference=Preference(weights=weights))
    return report_page(**report_of(store, found), stamp=stamp)
