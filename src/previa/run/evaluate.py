"""Score many vectors of parameters, one after another in one live model, or in worker processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module

from previa.core.modes import Modes
from previa.core.params import Flat, Layout
from previa.errors import InputError, NotFiniteError
from previa.run.executors import map_processes
from previa.run.live import Place, Recalibrate, live
from previa.run.scoring import Scorer, describe, scored

PreviewMethod = Callable[[Tensor], Modes]
"""alphas [A, T] float64 -> parameters [A, P]"""
Found = Mapping[str, float | NDArray[Any]]
"""task -> a number, or one number per item"""


@dataclass(frozen=True)
class Evaluation:
    """What it takes to score a vector of parameters; goes to each worker once."""

    model: Module
    score: Scorer
    tasks: tuple[str, ...]
    recalibrate: Recalibrate | None = None

    def run(self, place: Place, vector: Tensor) -> tuple[Found, str | None, float]:
        """(scores, None, seconds) of the model with parameters ``vector`` [P], or ({}, why there are none, seconds)."""
        start = time.perf_counter()
        try:
            if not bool(torch.isfinite(vector.sum())) and not bool(torch.isfinite(vector).all()):
                raise NotFiniteError("the merged parameters hold NaN or infinity.")
            place(vector)
            if self.recalibrate is not None:
                self.recalibrate(self.model)
            found, failure = scored(self.model, self.score, self.tasks), None
        except (Exception, SystemExit) as error:  # a score that calls exit() ends no sweep
            found, failure = {}, describe(error)
        return found, failure, time.perf_counter() - start


@dataclass(frozen=True)
class Merged:
    """One weighting's parameters, a row of a block; ``seconds`` is its share of merging the block."""

    row: int
    params: Flat
    stats: dict[str, float]
    seconds: float


def merged(merge: PreviewMethod, alphas: NDArray[Any], missing: Sequence[int], size: int) -> Iterator[Merged]:
    """The missing rows of alphas [A, T], merged in blocks of ``size`` of all rows.

    A block is merged whole even where only some of its rows are missing: EM starts from neighbouring weightings, and a
    resumed sweep must find what an uninterrupted one finds. Raises InputError where ``merge`` returns another batch.
    """
    for start in range(0, len(alphas), size):
        block = alphas[start : start + size]
        rows = [row for row in missing if start <= row < start + size]
        if not rows:
            continue
        tick = time.perf_counter()
        found = merge(torch.from_numpy(block))
        share = (time.perf_counter() - tick) / len(rows)
        shape = tuple(found.params.vector.shape[:-1])
        if shape != (len(block),):
            raise InputError(
                f"the preview method returned parameters of batch {shape} for {len(block)} weightings."
            )
        stats = {name: values.tolist() for name, values in found.stats.items()}
        for row in rows:
            at = row - start
            yield Merged(row, found.params.row(at), {name: float(stats[name][at]) for name in stats}, share)


def evaluated(
    job: Evaluation, rows: Iterator[Merged], workers: int = 1
) -> Generator[tuple[Merged, Found, str | None, float], None, None]:
    """(merged row, scores, failure or None, seconds) of each row, in this process or in workers.

    Raises ParamsError where the merged parameters are not the model's; InputError where it cannot be sent to workers.
    """
    first = next(rows, None)
    if first is None:
        return
    rows = chain([first], rows)
    with live(job.model, first.params.layout) as place:
        if workers == 1:
            for row in rows:
                yield row, *job.run(place, row.params.vector)
            return
    flying: dict[int, Merged] = {}

    def shipped() -> Iterator[tuple[int, NDArray[Any]]]:
        for row in rows:
            flying[row.row] = row
            yield row.row, row.params.vector.cpu().numpy()  # a tensor's pickle would hold the whole block

    start = (job, first.params.layout)
    with closing(map_processes(_score, shipped(), workers, _set_up, start)) as outcomes:
        for outcome in outcomes:
            yield flying.pop(outcome.item[0]), *(outcome.value or ({}, outcome.failure, 0.0))


_here: list[tuple[Evaluation, Place]] = []  # of a worker process


def _set_up(job: Evaluation, layout: Layout) -> None:
    _here.append((job, live(job.model, layout).__enter__()))


def _score(item: tuple[int, NDArray[Any]]) -> tuple[Found, str | None, float]:
    job, place = _here[0]
    return job.run(place, torch.from_numpy(item[1]))
