"""A study's anchors: joint runs at weightings inside the simplex, brought in the study file or trained here, with their scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from previa.core.params import Flat
from previa.core.runs import Run
from previa.core.scheffe import SAME
from previa.errors import AlphaError, FileError, ScoreError
from previa.io.checkpoint import open_checkpoint
from previa.run.bench import Bench, bench_of
from previa.run.fit import Runs, TaskRuns
from previa.run.given import given_params
from previa.run.own_scores import scored_run, statistics_in
from previa.run.records import digest, read_record
from previa.run.sweep import Progress
from previa.run.work import Work
from previa.study.preview import Preview
from previa.study.simplex import SUM_SLACK, key, show

DENOMINATOR = 60  # the largest of a weight that is taken for a fraction
SCORED = "anchors"
"""The store's method of the scores of anchors and of the tasks' own runs, at the corners: a run may be short, so no truth."""


@dataclass(frozen=True)
class Anchor:
    """A joint run: the weighting it was trained at, its parameters, and what is known of how they came."""

    alpha: tuple[float, ...]
    params: Flat
    origin: str
    """"base" or "preview", where a run of this study started; the path of a checkpoint that was brought"""
    steps: int | None = None
    share: float | None = None
    """its cost in joint runs of this study"""
    seconds: float = 0.0
    statistics: Mapping[str, Tensor] | None = None
    """running statistics after its training; None where they are not known"""

    @property
    def run(self) -> Run:
        """The run that previews are anchored at."""
        return Run(self.alpha, self.params)

    @cached_property
    def digest(self) -> str:
        """A name for its parameters."""
        return digest(self.params.vector)


def anchors_of(work: Work, more: Sequence[Run] = ()) -> tuple[list[Anchor], list[str]]:
    """Those of the study file, ``more`` and those trained earlier, each weighting once; and sentences on what is not used.

    Raises AlphaError for two at one weighting, or one at a corner, to within SAME; FileError, InputError or ParamsError for a
    checkpoint that is not of the study's model and base.
    """
    found = [_given(work, anchor.checkpoint, anchor.alpha) for anchor in work.study.anchors]
    layout = work.ingredients.layout
    for run in more:
        flat = Flat.of(run.params, layout, f"anchor {show(run.alpha)}")
        found.append(Anchor(exact(run.alpha), flat, "memory"))
    said = []
    brought = list(found)
    trained, unused = trained_anchors(work)
    for anchor in trained:
        if any(near(one.alpha, anchor.alpha) for one in brought):
            said.append(
                f"the run trained here at {show(anchor.alpha)} is not used: the study brings an anchor there."
            )
        else:
            found.append(anchor)
    _check_apart(found)
    return found, [*said, *unused]


def near(alpha: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two weightings are one to previews that are anchored there."""
    return max(abs(a - b) for a, b in zip(alpha, other, strict=True)) < SAME


def is_corner(alpha: Sequence[float]) -> bool:
    """Whether to such previews this weighting is one task alone."""
    return max(alpha) > 1 - SAME


def _check_apart(anchors: Sequence[Anchor]) -> None:
    for r, anchor in enumerate(anchors):
        at = f"{anchor.origin} at ({', '.join(f'{weight:.9g}' for weight in anchor.alpha)})"
        if is_corner(anchor.alpha):
            raise AlphaError(
                f"anchors: {at} is a corner of the simplex, where a task's own run is already. Leave it out."
            )
        for other in anchors[:r]:
            if near(other.alpha, anchor.alpha):
                raise AlphaError(
                    f"anchors: {at} and {other.origin} at ({', '.join(f'{weight:.9g}' for weight in other.alpha)}) are at one "
                    "weighting. Keep one."
                )


def exact(alpha: Sequence[float]) -> tuple[float, ...]:
    """The weighting that was meant: thirds written with six digits are thirds, as in the study's own weightings."""
    near = [Fraction(float(weight)).limit_denominator(DENOMINATOR) for weight in alpha]
    written = all(abs(float(weight) - part) < SUM_SLACK for weight, part in zip(alpha, near, strict=True))
    return tuple(float(part) for part in near) if written and sum(near) == 1 else tuple(map(float, alpha))


def anchors_folder(work: Work) -> Path:
    """Where anchors that are trained here are kept."""
    return work.study.out / "anchors"


def trained_anchors(work: Work, bench: Bench | None = None) -> tuple[list[Anchor], list[str]]:
    """The anchors trained here, in the order of their names; and a sentence for each of another recipe, base or data."""
    records = sorted(anchors_folder(work).glob("*.json"))
    if not records:
        return [], []
    bench = bench or bench_of(work.ingredients)
    found, said = [], []
    for path in records:
        anchor = read_anchor(bench, path)
        if anchor is not None:
            found.append(anchor)
        else:
            said.append(
                f"{path} is not used as an anchor: it is damaged, or was trained with other settings, data or code. Remove it, or "
                "train it again with `previa anchors --alpha`."
            )
    return found, said


def read_anchor(bench: Bench, record: Path) -> Anchor | None:
    """The anchor of this record; None where there is none, or it rests on other facts than the study's now."""
    try:
        alpha = json.loads(record.read_text(encoding="utf-8"))["facts"]["alpha"]
        found = read_record(record, bench.joint_facts(alpha))
        tensors = open_checkpoint(record.with_suffix(".safetensors"), finite=True) if found else None
    except (OSError, ValueError, LookupError, TypeError, FileError):
        return None
    if found is None or tensors is None:
        return None
    layout = bench.ingredients.layout
    params = Flat.of({name: tensors[name] for name in layout.places}, layout, str(record))
    return Anchor(
        tuple(alpha), params, found["from"], found["steps"], found["share"], found["seconds"],
        statistics_in(tensors, bench.ingredients.model),
    )  # fmt: skip


def scored_runs(
    work: Work, runs: Runs, anchors: Sequence[Anchor], *, progress: Progress | None = None
) -> Preview:
    """The scores of the tasks' own runs, at the corners, and of the anchors, in that order; only new ones are scored.

    Each as it was trained, under SCORED in the store. Raises ScoreError where a run cannot be scored.
    """
    store = work.store
    T = len(work.study.tasks)
    rows: list[tuple[tuple[float, ...], Flat, Mapping[str, Tensor] | None]] = [
        (tuple(np.eye(T)[t]), task.mean, _own_statistics(work, name, task))
        for t, (name, task) in enumerate(runs.tasks.items())
    ]
    rows += [(anchor.alpha, anchor.params, anchor.statistics) for anchor in anchors]
    now = {key(alpha): digest(params.vector) for alpha, params, _ in rows}
    before: dict[str, Any] = store.get("scored_runs", {})
    if not set(before) <= set(now):  # one was taken away
        number = (store.facts(SCORED) or {"sets": 0})["sets"]
        store.declare(SCORED, {"sets": number + 1})
        before = {}
    store.declare(SCORED, store.facts(SCORED) or {"sets": 0})
    missing = set(store.missing(SCORED, [alpha for alpha, _, _ in rows]).tolist())
    for number, (alpha, params, statistics) in enumerate(rows):
        name = key(alpha)
        if number in missing or before.get(name) != now[name]:
            scores, failure, seconds = scored_run(work.ingredients, params, statistics)
            if failure is not None:
                store.fail(SCORED, alpha, failure, seconds=seconds)
                raise ScoreError(f"the run at {show(alpha)} could not be scored: {failure}")
            store.record(SCORED, alpha, scores, seconds=seconds)
            before = {**before, name: now[name]}
            store.put("scored_runs", before)
        if progress is not None:
            progress("scores of runs", number + 1, len(rows))
    return store.preview(SCORED).at(np.array([alpha for alpha, _, _ in rows]))


def _given(work: Work, path: Path, alpha: tuple[float, ...]) -> Anchor:
    where = f"anchor {show(alpha)}, {path}"
    params = given_params(work.ingredients, path, where)
    statistics = None
    if work.ingredients.folders is None:
        statistics = statistics_in(open_checkpoint(path), work.ingredients.model)
    short = path.relative_to(work.study.folder) if path.is_relative_to(work.study.folder) else path
    return Anchor(exact(alpha), params, short.as_posix(), statistics=statistics)


def _own_statistics(work: Work, name: str, own: TaskRuns) -> dict[str, Tensor] | None:
    """The running statistics of a task's own run, from its checkpoint; None where that has none."""
    settings = next(one for one in work.study.tasks if one.name == name)
    trained_otherwise = settings.checkpoint is None and not own.ivon
    if work.ingredients.folders is not None or work.ingredients.recalibrate is None or trained_otherwise:
        return None
    path = settings.checkpoint or work.study.out / "runs" / name / "model.safetensors"
    return statistics_in(open_checkpoint(path), work.ingredients.model) if path.is_file() else None
