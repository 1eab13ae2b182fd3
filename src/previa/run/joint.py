"""Joint finetuning: the true scores that previews are judged by, and the run at the weighting that was chosen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.core.params import Flat
from previa.errors import InputError, ScoreError
from previa.io.checkpoint import save_checkpoint
from previa.run.bench import Bench, bench_of
from previa.run.evaluate import Found
from previa.run.executors import map_processes
from previa.run.finetune import Finetuned
from previa.run.fit import Runs
from previa.run.jobs import adopt, bench_here, set_up, state_of
from previa.run.live import live
from previa.run.own_scores import scored_run
from previa.run.pipeline import all_methods, methods, previewed
from previa.run.records import make_folder
from previa.run.resolve import Ingredients
from previa.run.sweep import Progress
from previa.run.work import Work, joint_recipe
from previa.study.preview import Preview
from previa.study.quality import ranking
from previa.study.simplex import check_alphas, key, show
from previa.study.truth import JOINT


@dataclass(frozen=True)
class Joint:
    """One joint finetuning that was asked for: its checkpoint, its scores, and the name they have in the store."""

    alpha: tuple[float, ...]
    path: Path
    method: str
    scores: dict[str, float]
    """the mean of each task's; those of the test items are in the store"""
    seconds: float


def truth(
    work: Work, *, more: Iterable[ArrayLike] = (), workers: int = 1, progress: Progress | None = None
) -> Preview | None:
    """Joint finetuning at the study's [truth] grid, uniform, size-proportional and ``more`` weightings, each scored.

    By the recipe of the tasks' own runs, in ``workers`` processes; one transaction a weighting, under "joint", and only what
    is missing is trained. A run that fails is recorded, and the others go on. None where [truth] asks for no run and
    ``more`` is empty. Raises ScoreError where every run failed.
    """
    extra = [check_alphas(alpha, len(work.study.tasks), where="truth") for alpha in more]
    if not work.study.truth.steps and not extra:
        return None
    if work.ingredients.folders is not None:
        work.ingredients.folders.check_start()
    alphas = work.alphas(work.study.truth.steps, *extra) if work.study.truth.steps else np.stack(extra)
    bench, store = bench_of(work.ingredients, progress), work.store
    _declare(work, bench)
    missing = store.missing(JOINT, alphas)
    done, failures = len(alphas) - len(missing), []
    if progress is not None:
        progress(JOINT, done, len(alphas))
    items = [tuple(alphas[row].tolist()) for row in missing]
    start, args = (adopt, (bench,)) if workers == 1 else (set_up, (work.study,))
    with closing(map_processes(_train_and_score, items, workers, start, args)) as outcomes:
        for outcome in outcomes:
            scores, failure, seconds = outcome.value or ({}, outcome.failure, 0.0)
            if failure is None:
                store.record(JOINT, outcome.item, scores, seconds=seconds)
            else:
                store.fail(JOINT, outcome.item, failure, seconds=seconds)
                failures.append(f"at {show(outcome.item)}: {failure}")
            done += 1
            if progress is not None:
                progress(JOINT, done, len(alphas))
    if failures and len(failures) == len(alphas):
        raise ScoreError(f"{JOINT}: all {len(alphas)} joint runs failed; {failures[0]}")
    return store.preview(JOINT).at(alphas)


def finetune_at(
    work: Work,
    alpha: ArrayLike,
    *,
    runs: Runs | None = None,
    warm_start: str | None = None,
    path: str | Path | None = None,
    progress: Progress | None = None,
) -> Joint:
    """One joint finetuning at ``alpha``, written as an ordinary checkpoint, and scored into the store.

    The checkpoint is a safetensors file, in a study of folders a folder that from_pretrained loads.

    warm_start: the method whose preview at alpha it starts from (then ``runs`` are needed, and the scores are recorded as
    "joint_from_<method>": it is another recipe than the truth's); by default the base, as every joint run. path: of the
    checkpoint; by default finetuned/<method>-<weights>(.safetensors) in the study's folder.
    Raises AlphaError, InputError for a method the study does not have, NotFiniteError, ScoreError, FileError.
    """
    weights = check_alphas(alpha, len(work.study.tasks), where="finetune")
    if work.ingredients.folders is not None:
        work.ingredients.folders.check_start(from_preview=warm_start is not None)
    bench, name = bench_of(work.ingredients, progress), JOINT
    if warm_start is not None:
        known = methods(work.study, runs) if runs is not None else {}
        if runs is not None and warm_start not in known:
            known = all_methods(work, runs, progress=progress)
        if warm_start not in known:
            raise InputError(
                f"finetune: there is no preview by {warm_start!r} to start from; there is {list(known)}."
            )
        begin = previewed(work, known[warm_start], weights)
        bench, name = _from(bench, begin), f"{JOINT}_from_{warm_start}"
    else:
        _declare(work, bench)
    found = bench.train(bench.ingredients.train, weights, joint_recipe(work.study), progress=progress)
    slug = "-".join(f"{weight:.4g}" for weight in weights)
    folders = work.ingredients.folders
    usual = f"{name}-{slug}" + (".safetensors" if folders is None else "")
    path = Path(path) if path is not None else work.study.out / "finetuned" / usual
    make_folder(path.parent)
    facts = {"tasks": work.study.names(), "alpha": weights.tolist(), "convention": work.study.convention}
    if folders is None:
        save_checkpoint(path, state_of(bench.ingredients, found), {"previa.finetune": json.dumps(facts)})
    else:
        with live(work.ingredients.model, found.params.layout) as place:
            place(found.params.vector)
            folders.write(work.ingredients.model, path, facts)
    scores, failure, seconds = _scored(bench.ingredients, found)
    if failure is not None:
        work.store.fail(name, weights, failure, seconds=found.seconds + seconds)
        raise ScoreError(f"{name} at {show(weights)} is written to {path}, but its scoring failed: {failure}")
    work.store.record(name, weights, scores, seconds=found.seconds + seconds)
    means = {task: float(np.mean(score)) for task, score in scores.items()}
    return Joint(tuple(weights.tolist()), path, name, means, found.seconds + seconds)


def _from(bench: Bench, begin: Flat) -> Bench:
    return bench.start_at(begin)


def _declare(work: Work, bench: Bench) -> None:
    work.store.declare(JOINT, {"base": bench.digest, "recipe": asdict(joint_recipe(work.study))})


def picks(previews: Mapping[str, Preview], weights: Mapping[str, float]) -> list[NDArray[np.float64]]:
    """The weighting that each preview picks, each once: train them too, and their regret is that of the real picks."""
    found = {}
    for preview in previews.values():
        good = preview.rows(preview.ok)
        alpha = good.alphas[ranking(good.weighted(weights), good.alphas)[0]]
        found[key(alpha)] = alpha
    return list(found.values())


def _scored(ingredients: Ingredients, found: Finetuned) -> tuple[Found, str | None, float]:
    """Scores of a model as it was trained; merged models are recalibrated instead, since no training made theirs."""
    return scored_run(ingredients, found.params, found.statistics)


def _train_and_score(alpha: tuple[float, ...]) -> tuple[Any, str | None, float]:
    """(scores, why there are none, seconds) of one joint run, in the process that was set up for it."""
    bench = bench_here()
    found = bench.train(bench.ingredients.train, alpha, joint_recipe(bench.study))
    scores, failure, seconds = _scored(bench.ingredients, found)
    return scores, failure, found.seconds + seconds
