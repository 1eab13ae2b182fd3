"""All that a person is given of a study, written from its store alone: summary, table, figures and the report."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from previa.errors import FileError
from previa.show._look import write
from previa.show.figures import figures
from previa.show.report_of import report_of
from previa.show.results import Results
from previa.study.store import Store

__all__ = ["Results", "publish"]


def publish(store: Store, found: Results, folder: Path) -> list[Path]:
    """Write preview.csv, summary.json, the figures (where matplotlib is installed) and report.html; what was written.

    The folder is made when missing. Raises FileError where it, or a file in it, cannot be written.
    """
    from previa.show.report import write_report

    made = [folder / "preview.csv", folder / "summary.json"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"{folder}: the folder cannot be made: {error.strerror}. Choose another with --out."
        ) from error
    store.export_csv(made[0])
    write(made[1], (json.dumps(found.summary, indent=1, allow_nan=False) + "\n").encode())
    notes = []
    if find_spec("matplotlib") and find_spec("mpltern"):
        made += figures(store, found, folder)
    else:
        notes.append("No PNG figures: `pip install 'previa[plot]'` brings them.")
    write_report(folder / "report.html", **report_of(store, found, notes=notes))
    return [*made, folder / "report.html"]
