"""All that a person is given of a study, written from its store alone: summary, table, figures and the report."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from previa import __version__
from previa.errors import FileError
from previa.show._look import write
from previa.show.results import Results
from previa.show.sharpened import drawn
from previa.study.preview import Preview
from previa.study.store import Store

__all__ = ["Results", "publish"]


def publish(store: Store, found: Results, folder: Path) -> list[Path]:
    """Write preview.csv, summary.json, the figures (where matplotlib is installed) and report.html; what was written.

    The folder is made when missing. Raises FileError where it, or a file in it, cannot be written.
    """
    from previa.show.report import write_report

    name = str(store.provenance.get("name", store.path.parent.name))
    unit = store.get("unit", "score")
    weights = found.weights if len(set(found.weights.values())) > 1 else None  # a plain mean is called so
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
        made += _figures(found, folder, title=name, unit=unit, preference=found.preference)
    else:
        notes.append("No PNG figures: `pip install 'previa[plot]'` brings them.")
    facts = {
        "warnings": found.summary["warnings"],
        "notes": notes,
        "unit": unit,
        "method": found.method,
        "study": store.get("study_file"),
        "sizes": store.get("sizes", {}),
        "test_sizes": _test_sizes(found.previews[found.method]),
        "failures": {m: len(store.failures(m)) for m in store.methods() if store.failures(m)},
        "seconds": found.summary["seconds"],
        "metric_weights": weights,
        "sharpened": found.summary["sharpened"],
        "version": __version__,
    }
    comparison = found.comparison.to_dict() if found.comparison else None
    if comparison is not None:  # the page shows what a method costs in all, its finetunings included
        for m, quality in comparison["methods"].items():
            quality["seconds"] = found.summary["methods"][m]["seconds"]
    write_report(
        folder / "report.html",
        name=name,
        tasks=store.tasks,
        convention=store.convention,
        truth=found.truth,
        previews=found.previews,
        comparison=comparison,
        recommendation=found.recommendation.to_dict(),
        facts=facts,
        fronts=found.fronts,
    )
    return [*made, folder / "report.html"]


def _figures(found: Results, folder: Path, **options: Any) -> list[Path]:
    from previa.show.contours import contours
    from previa.show.histograms import histograms
    from previa.show.pareto import pareto
    from previa.show.per_task import per_task

    paths = [folder / "contours.png", folder / "histograms.png", folder / "per_task.png"]
    anchors, band = drawn(found.summary["sharpened"])
    contours(found.truth, found.previews, paths[0], anchors=anchors, band=band, **options)
    for draw, path in zip((histograms, per_task), paths[1:], strict=True):
        draw(found.truth, found.previews, path, **options)
    del options["preference"]  # a front does not depend on how much each task counts
    pareto(found.truth, found.previews, folder / "pareto.png", **options)
    return [*paths, folder / "pareto.png"]


def _test_sizes(preview: Preview) -> dict[str, int]:
    """How many test items each task is scored on, where that is known."""
    return {task: i.shape[1] for task, i in zip(preview.tasks, preview.items, strict=True) if i is not None}
