"""What the report of a store says: the arguments of `report_page`, whether it goes to a file or is served."""

from collections.abc import Sequence
from typing import Any

from previa import __version__
from previa.show.results import Results
from previa.study.preview import Preview
from previa.study.store import Store


def report_of(store: Store, found: Results, *, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The keyword arguments of `write_report` for a store and what follows from it; notes: of the place where it is made."""
    comparison = found.comparison.to_dict() if found.comparison else None
    if comparison is not None:  # the page shows what a method costs in all, its finetunings included
        for method, quality in comparison["methods"].items():
            quality["seconds"] = found.summary["methods"][method]["seconds"]
    failed = {m: len(store.failures(m)) for m in store.methods() if store.failures(m)}
    facts = {
        "warnings": found.summary["warnings"],
        "notes": list(notes),
        "unit": store.get("unit", "score"),
        "method": found.method,
        "study": store.get("study_file"),
        "sizes": store.get("sizes", {}),
        "test_sizes": _test_sizes(found.previews[found.method]),
        "failures": failed,
        "seconds": found.summary["seconds"],
        "sharpened": found.summary["sharpened"],
        "searches": store.get("searches") or {},
        "preflight": store.get("preflight") or [],
        "validation": store.get("validation"),
        "version": __version__,
    }
    made = found.corrected
    return {
        "name": str(store.provenance.get("name", store.path.parent.name)),
        "tasks": store.tasks,
        "convention": store.convention,
        "truth": found.truth,
        "previews": dict(found.previews) | ({} if made is None else {"corrected": made.preview}),
        "comparison": comparison,
        "recommendation": found.recommendation.to_dict(),
        "facts": facts,
        "fronts": found.fronts,
        "preference": found.preference,
        "surrogates": {
            m: {"alphas": one.preview.alphas, "scores": one.preview.scores, "sd": one.sd}
            for m, one in found.surrogates.items()
        },
        "disagreement": found.disagreement,
    }


def _test_sizes(preview: Preview) -> dict[str, int]:
    """How many test items each task is scored on, where that is known."""
    return {task: i.shape[1] for task, i in zip(preview.tasks, preview.items, strict=True) if i is not None}
