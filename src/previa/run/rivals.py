"""What anchored previews are held to: the scores of the same runs interpolated, and each anchor left out in turn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from previa.core.anchored import left_out
from previa.core.modes import Modes
from previa.core.params import Flat
from previa.core.warp import warped
from previa.run.anchors import Anchor, scored_runs
from previa.run.fit import Runs
from previa.run.run_scores import by_gaussian_process, by_scores, choose_power_of_scores
from previa.run.sharpen import Family, Sharpened
from previa.run.sweep import Progress, sweep
from previa.run.work import Work
from previa.study.band import band
from previa.study.preview import Preview
from previa.study.settings import ANCHORED
from previa.study.simplex import find

RIVALS = ("scores", "scores_gp")
LEFT_OUT = "left_out"
"""The store's method of the scores, at each anchor, of the preview by all other runs."""


def rivals(
    work: Work,
    runs: Runs,
    anchors: Sequence[Anchor],
    families: Mapping[str, Family],
    sharpened: Mapping[str, Sharpened],
    alphas: NDArray[np.float64],
    *,
    progress: Progress | None = None,
) -> dict[str, Preview]:
    """The previews "scores" and "scores_gp" by the scores of the same runs, at alphas; none where nothing is anchored.

    Into the store go the facts "anchors" and "left_out", see `_note`, and "band". Raises ScoreError where a run cannot be scored.
    """
    names = [name for name, one in sharpened.items() if one.facts["anchors"]]
    if not names:
        return {}
    main = sharpened[ANCHORED if ANCHORED in names else names[-1]]
    scored = scored_runs(work, runs, anchors, progress=progress)
    rests = {"runs": work.store.get("scored_runs"), "p": main.p}
    found = {}
    for name, by in (
        ("scores", partial(by_scores, otherwise=main.p)),
        ("scores_gp", by_gaussian_process),
    ):
        work.store.declare(name, rests)
        if len(missing := work.store.missing(name, alphas)):
            _record(work, name, alphas[missing], by(scored, alphas[missing]), scored)
        found[name] = work.store.preview(name).at(alphas)
    family = families[main.family]
    left = _left_out(work, family, main, anchors, progress)
    _note(work, anchors, scored, left, main.p)
    name = next(name for name in names if sharpened[name] is main)
    own = scored.rows(range(len(work.study.tasks), len(scored)))
    _note_band(work, name, main, family, own, left, alphas)
    return found


def _record(work: Work, name: str, alphas: NDArray[np.float64], preview: Preview, scored: Preview) -> None:
    """Into the store; a process on mean scores gives each test item the mean, since all previews have the same items."""
    for row, alpha in enumerate(alphas):
        scores: dict[str, Any] = {}
        for t, (task, own, items) in enumerate(zip(preview.tasks, preview.items, scored.items, strict=True)):
            mean = float(preview.scores[row, t])
            if own is not None:
                scores[task] = own[row]
            else:
                scores[task] = mean if items is None else np.full(items.shape[1], mean, dtype=np.float32)
        stats = {key: float(values[row]) for key, values in preview.stats.items()}
        work.store.record(name, alpha, scores, seconds=preview.seconds / len(preview), stats=stats)


def _left_out(
    work: Work, family: Family, main: Sharpened, anchors: Sequence[Anchor], progress: Progress | None
) -> Preview:
    """At each anchor the scores of the preview by all other runs, in the anchors' order."""
    at = np.array([anchor.alpha for anchor in anchors])

    def method(alphas: torch.Tensor) -> Modes:
        params = left_out(family.method, [anchor.run for anchor in anchors], p=main.p)
        order = [find(at, alpha) for alpha in alphas.numpy()]
        rows = torch.stack([params[r].vector for r in order if r is not None])
        return Modes(Flat(params[0].layout, rows), {})

    work.store.declare(LEFT_OUT, main.facts)
    ingredients = work.ingredients
    return sweep(
        ingredients.model,
        method,
        ingredients.scorer,
        at,
        store=work.store,
        name=LEFT_OUT,
        recalibrate=ingredients.recalibrate,
        progress=progress,
    )


def _note(work: Work, anchors: Sequence[Anchor], scored: Preview, left: Preview, p: float) -> None:
    """The store's facts "anchors", a list, and "left_out": the errors, of mean scores, of each anchor left out in turn."""
    tasks, T = work.study.names(), len(work.study.tasks)
    own = scored.rows(range(T, len(scored)))
    work.store.put(
        "anchors",
        [
            {
                "alpha": list(anchor.alpha), "from": anchor.origin, "steps": anchor.steps, "share": anchor.share,
                "scores": _by_task(tasks, own.scores[r]), "left_out": _by_task(tasks, left.scores[r]),
            }
            for r, anchor in enumerate(anchors)
        ],
    )  # fmt: skip
    weights = work.study.metric_weights()
    true = own.weighted(weights)
    p, by_score = choose_power_of_scores(scored, otherwise=p).p, []
    for r in range(len(anchors)):
        others = scored.rows([*range(T), *(T + s for s in range(len(anchors)) if s != r)])
        by_score.append(float(by_scores(others, scored.alphas[T + r], p=p).weighted(weights)[0] - true[r]))
    errors = {"anchored": left.weighted(weights) - true, "scores": np.array(by_score)}
    work.store.put(
        "left_out", {name: float(np.sqrt(np.nanmean(np.square(error)))) for name, error in errors.items()}
    )
    work.note_seconds("anchors", sum(anchor.seconds for anchor in anchors))


def _note_band(
    work: Work,
    name: str,
    main: Sharpened,
    family: Family,
    own: Preview,
    left: Preview,
    alphas: NDArray[np.float64],
) -> None:
    """The store's fact "band", made once for the same runs and previews; none where an anchor could not be previewed."""
    rests = {**main.facts, "runs": work.store.get("scored_runs"), "weights": work.study.metric_weights()}
    rests = json.loads(json.dumps({**rests, "weightings": len(alphas)}))
    if (work.store.get("band") or {}).get("rests_on") == rests:
        return
    ingredients = work.ingredients
    alone = sweep(
        ingredients.model,
        warped(family.method, main.p),
        ingredients.scorer,
        own.alphas,
        tasks=own.tasks,
        recalibrate=ingredients.recalibrate,
    )
    preview = work.store.preview(name).at(alphas)
    if not (alone.ok.all() and left.ok.all() and preview.ok.any()):
        work.store.put("band", None)
        return
    made = band(preview.rows(preview.ok), own, left, alone, p=main.p, weights=work.study.metric_weights())
    work.store.put("band", {**made.facts(name), "rests_on": rests})


def _by_task(tasks: Sequence[str], scores: NDArray[np.float64]) -> dict[str, float | None]:
    return {task: float(s) if np.isfinite(s) else None for task, s in zip(tasks, scores, strict=True)}
