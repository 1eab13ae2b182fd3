"""The pictures of a study: which ones its results call for, each by the one function that draws it."""

from pathlib import Path
from typing import Any

import numpy as np

from previa.show.results import Results
from previa.show.sharpened import drawn
from previa.study.quality import ranking
from previa.study.store import Store

MANY = range(4, 9)  # tasks of which pairs and parallel lines can be read


def figures(store: Store, found: Results, folder: Path) -> list[Path]:
    """Draw to the folder what there is, as PNG, and say what was drawn; a picture of an earlier time that is none now is removed.

    Always contours, histograms, per_task, pareto and what_if; surrogate where a search evaluated some weightings only;
    corrected where true runs correct the preview; disagreement where several methods were previewed; slices and parallel for
    four to eight tasks. Raises FileError, MissingExtraError.
    """
    from previa.show.contours import contours
    from previa.show.disagreement_map import disagreement_map
    from previa.show.histograms import histograms
    from previa.show.parallel import parallel
    from previa.show.pareto import pareto
    from previa.show.per_task import per_task
    from previa.show.slices import slices
    from previa.show.surrogate_map import surrogate_map
    from previa.show.what_if import what_if

    tasks, wish, advice = store.tasks, found.preference, found.recommendation
    named: dict[str, Any] = {"title": str(store.provenance.get("name", store.path.parent.name))}
    usual = {**named, "unit": store.get("unit", "score")}
    seen = found.previews[found.method]
    at = {name: folder / f"{name}.png" for name in NAMES}
    anchors, band = drawn(found.summary["sharpened"])
    made = ["contours", "histograms", "per_task", "pareto"]
    contours(
        found.truth, found.previews, at["contours"], anchors=anchors, band=band, preference=wish, **usual
    )
    for draw in (histograms, per_task):
        draw(found.truth, found.previews, at[draw.__name__], preference=wish, **usual)
    pareto(found.truth, found.previews, at["pareto"], **usual)
    if seen.ok.sum() >= 3:
        what_if(seen, advice.alpha, at["what_if"], preference=wish, **usual)
        made.append("what_if")
    if found.method in found.surrogates:
        between, search = found.surrogates[found.method], store.get("searches")[found.method]
        mean = wish.value(between.preview.scores, tasks)
        surrogate_map(
            seen, between.preview.alphas, mean, _deviation(found, between.sd), at["surrogate"], preference=wish,
            order=search.get("order") or (), start=int(search.get("start") or 0),
            missed=wish.shortfall(between.preview.scores, tasks) > 0, **usual,
        )  # fmt: skip
        made.append("surrogate")
    if found.corrected is not None:
        better = found.corrected.preview
        before = str(better.provenance["method"])
        both = {before: found.previews[before], "corrected": better}
        contours(found.truth, both, at["corrected"], preference=wish, **usual)
        made.append("corrected")
    if found.disagreement is not None:
        apart = found.disagreement
        best = {
            m: apart.alphas[ranking(p, apart.alphas)[0]]
            for m, p in zip(apart.methods, apart.percentile, strict=True)
        }
        disagreement_map(tasks, apart.alphas, apart.spread, at["disagreement"], picks=best, **named)
        made.append("disagreement")
    if len(tasks) in MANY:
        slices(seen, at["slices"], preference=wish, **usual)
        marked = {"pick": advice.alpha, "uniform": advice.uniform.alpha}
        marked |= {} if advice.knee is None else {"knee": advice.knee.alpha}
        parallel(seen, at["parallel"], marked=marked, preference=wish, **usual)
        made += ["slices", "parallel"]
    for name in set(NAMES) - set(made):
        at[name].unlink(missing_ok=True)
    return [at[name] for name in made]


NAMES = (
    "contours", "histograms", "per_task", "pareto", "what_if", "surrogate", "corrected", "disagreement", "slices", "parallel",
)  # fmt: skip


def _deviation(found: Results, sd: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of the value, where tasks are independent: of a mean sqrt(sum_t w_t^2 sd_t^2), of the worst task the largest."""
    wish, tasks = found.preference, found.recommendation.tasks
    w, sd = wish.w(tasks), wish.seen(sd, tasks)
    return np.asarray(sd[:, w > 0].max(axis=1) if wish.worst else np.sqrt((w * sd) ** 2 @ np.ones(len(w))))
