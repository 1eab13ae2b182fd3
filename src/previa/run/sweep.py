"""Sweep: merge every weighting in memory, point one live model at each, score it, keep the scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import Module

from previa.core.modes import modes
from previa.core.posterior import Bounded, Posterior
from previa.errors import AlphaError, InputError, ScoreError
from previa.run.evaluate import Evaluation, Found, PreviewMethod, evaluated, merged
from previa.run.live import Recalibrate, evaluating, running_statistics, trainable
from previa.run.scoring import Scorer, same_items
from previa.study.preview import Preview
from previa.study.simplex import check_alphas, key, show

Progress = Callable[[str, int, int], None]
"""progress(what, done, total), called whenever ``done`` has changed"""

BLOCK_BYTES = 1 << 29  # 512 MB: merged parameters that are held at a time


class Results(Protocol):
    """Where scores are kept: a Store, or memory."""

    def missing(self, method: str, alphas: Any) -> NDArray[Any]:
        """Row numbers of alphas [A, T] that are not scored yet, failed ones among them."""
        ...

    def record(
        self, method: str, alpha: Any, scores: Found, *, seconds: float, stats: Mapping[str, float]
    ) -> None:
        """Keep the scores of one weighting."""
        ...

    def fail(self, method: str, alpha: Any, message: str, *, seconds: float) -> None:
        """Keep why one weighting has no scores."""
        ...

    def preview(self, method: str) -> Preview:
        """All that is kept of this method."""
        ...


def sweep(
    model: Module,
    method: Sequence[Posterior | Bounded] | Mapping[str, Posterior | Bounded] | PreviewMethod,
    score: Scorer,
    alphas: ArrayLike | Tensor,
    *,
    store: Results | None = None,
    name: str = "preview",
    tasks: Sequence[str] | None = None,
    recalibrate: Recalibrate | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Preview:
    """Scores of the preview model (eq. 8) at every weighting of alphas [A, T], in the order of alphas.

    method: one posterior per task, or any function from alphas to parameters. tasks: their names in the order of alpha;
    taken from a mapping of posteriors, the store, or else the order in which ``score`` names them.
    With a store each weighting is one transaction, recorded under ``name``, and those it has are not scored again.
    A weighting whose scoring raises becomes NaN and is tried again next time. The model is left as it came.
    recalibrate: needed where the model keeps running statistics (live.recalibrated or live.unchanged).
    Raises AlphaError, InputError, ParamsError; ScoreError where every weighting failed.
    """
    if running_statistics(model) and recalibrate is None:
        raise InputError(
            "the model keeps running statistics (BatchNorm), which a merge does not bring up to date. Pass "
            "recalibrate=recalibrated(batches of training inputs), or recalibrate=unchanged to keep the model's own."
        )
    if isinstance(method, Mapping):
        tasks, method = tasks or tuple(method), list(method.values())
    merge = method if callable(method) else partial(modes, posteriors=list(method))
    alphas = alphas.tolist() if isinstance(alphas, Tensor) else alphas
    rows = np.atleast_2d(check_alphas(alphas, np.shape(alphas)[-1] if np.ndim(alphas) else 1, where="sweep"))
    names = tuple(tasks or getattr(store, "tasks", None) or _named_by(score, model))
    if len(names) != rows.shape[1]:
        raise AlphaError(
            f"sweep: {rows.shape[1]} weights in each alpha, but {len(names)} tasks: {list(names)}."
        )
    if tuple(getattr(store, "tasks", names)) != names:
        raise InputError(
            f"sweep: the tasks are {list(names)}, but the store's are {list(getattr(store, 'tasks', ()))}."
        )
    results = store if store is not None else Memory(names, rows)
    missing = [int(row) for row in results.missing(name, rows)]
    bytes_each = 4 * sum(parameter.numel() for parameter in trainable(model).values())
    blocks = merged(merge, rows, missing, max(1, BLOCK_BYTES // bytes_each))
    tell = progress or _silent
    tell(name, len(rows) - len(missing), len(rows))
    failures: list[str] = []
    counts: dict[str, int] = {}
    with closing(evaluated(Evaluation(model, score, names, recalibrate), blocks, workers)) as evaluations:
        for done, (row, found, failure, seconds) in enumerate(evaluations, len(rows) - len(missing) + 1):
            alpha, seconds = rows[row.row], seconds + row.seconds
            failure = failure or same_items(counts, found)
            if failure is None:
                results.record(name, alpha, found, seconds=seconds, stats=row.stats)
            else:
                results.fail(name, alpha, failure, seconds=seconds)
                failures.append(f"at {show(alpha)}: {failure}")
            tell(name, done, len(rows))
    if failures and len(failures) == len(rows):
        raise ScoreError(f"{name}: all {len(rows)} weightings failed; {failures[0]}")
    return results.preview(name).at(rows)


class Memory:
    """Results kept in memory, for a sweep without a store."""

    def __init__(self, tasks: tuple[str, ...], alphas: NDArray[Any]) -> None:
        self.tasks, self.alphas = tasks, alphas
        self.found: dict[str, tuple[Found, Mapping[str, float]]] = {}
        self.seconds = 0.0

    def missing(self, method: str, alphas: Any) -> NDArray[Any]:
        """All of them: nothing is kept from sweep to sweep."""
        return np.arange(len(alphas))

    def record(
        self, method: str, alpha: Any, scores: Found, *, seconds: float, stats: Mapping[str, float]
    ) -> None:
        """Keep the scores of one weighting."""
        self.found[key(alpha)] = scores, stats
        self.seconds += seconds

    def fail(self, method: str, alpha: Any, message: str, *, seconds: float) -> None:
        """Count what the failure took; its row stays NaN."""
        self.seconds += seconds

    def preview(self, method: str) -> Preview:
        """All weightings, in the order of alphas."""
        rows: list[tuple[Found, Mapping[str, float]]] = [
            self.found.get(key(alpha), ({}, {})) for alpha in self.alphas
        ]
        scores, items = [], []
        for task in self.tasks:
            values = [np.asarray(found.get(task, np.nan)) for found, _ in rows]
            N = max(value.size if value.ndim else 0 for value in values)
            items.append(np.stack([np.broadcast_to(value, (N,)) for value in values]) if N else None)
            scores.append([value.mean(dtype=np.float64) for value in values])
        names = sorted({name for _, stats in rows for name in stats})
        stats = {name: np.array([stats.get(name, np.nan) for _, stats in rows]) for name in names}
        return Preview(self.tasks, self.alphas, np.stack(scores, 1), tuple(items), stats, self.seconds)


def _named_by(score: Scorer, model: Module) -> tuple[str, ...]:
    """The tasks in the order in which ``score`` names them, from the model as it is."""
    with evaluating(model):
        return tuple(score(model))


def _silent(what: str, done: int, total: int) -> None:
    """The progress of a caller who does not ask for any."""
