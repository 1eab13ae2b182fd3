"""What counts as good: how scores of several tasks become one number, and which scores no task may fall below.

A preference is asked after the fact: it needs no evaluation beyond the scores that a preview has already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import InputError
from previa.study import simplex
from previa.study.preview import Preview, metric_weights

Array = NDArray[np.float64]

SLACK = 64 * float(
    np.finfo(np.float64).eps
)  # of the largest score: sums in another order differ by less, and miss no floor
_NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Preference:
    """The value of scores s [T]: sum_t w_t s_t, or min_t s_t of the tasks with w_t > 0; and floors, s_t >= floor_t.

    weights: how much each task counts, 1 where not named (w sums to 1). floors: by task. worst: the minimum instead of the
    mean. relative_to: each task's score of its own expert, by which scores are divided first, so that 1 is as good as the
    expert; floors are then shares of it, too. Empty: scores as they are.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: _NOTHING)
    floors: Mapping[str, float] = field(default_factory=lambda: _NOTHING)
    worst: bool = False
    relative_to: Mapping[str, float] = field(default_factory=lambda: _NOTHING)

    def w(self, tasks: Sequence[str]) -> Array:
        """The weights of these tasks, summing to one: [T]. Raises InputError as `metric_weights` does."""
        return metric_weights(tuple(tasks), self.weights)

    def check(self, tasks: Sequence[str]) -> None:
        """Raise InputError where weights, floors or experts are of no task, or are no numbers to compare with."""
        self.w(tasks)
        self._floors(tasks)
        self._experts(tasks)

    def seen(self, scores: ArrayLike, tasks: Sequence[str]) -> Array:
        """The scores [..., T] as they are compared: divided by the experts' where they are relative."""
        return np.asarray(np.asarray(scores, dtype=np.float64) / self._experts(tasks))

    def value(self, scores: ArrayLike, tasks: Sequence[str]) -> Array:
        """The one number of scores [..., T]: [...]; NaN where a score is. Raises InputError as `check`."""
        w, s = self.w(tasks), self.seen(scores, tasks)
        return np.asarray(s[..., w > 0].min(axis=-1) if self.worst else s @ w)

    def shortfall(self, scores: ArrayLike, tasks: Sequence[str]) -> Array:
        """By how much floors are missed, sum_t max(0, floor_t - s_t): [...], 0 where all are kept; NaN where a score is."""
        floors, s = self._floors(tasks), self.seen(scores, tasks)
        with np.errstate(invalid="ignore"):
            missed = np.maximum(floors - s, 0.0)
        missed[missed <= SLACK * np.maximum(np.abs(s), 1.0)] = 0.0
        return np.asarray(np.where(np.isnan(s).any(axis=-1), np.nan, missed.sum(axis=-1)))

    def keeps(self, scores: ArrayLike, tasks: Sequence[str]) -> NDArray[np.bool_]:
        """Which scores [..., T] keep all floors: [...]."""
        return np.asarray(self.shortfall(scores, tasks) == 0)

    def draws(self, parts: Sequence[Array | None], tasks: Sequence[str]) -> Array | None:
        """The value of resampled scores, one array [B, A] a task (None where unknown): [B, A]; None if one that counts is."""
        w, experts = self.w(tasks), self._experts(tasks)
        counted = [
            None if part is None else (part / e, weight)
            for part, weight, e in zip(parts, w, experts, strict=True)
            if weight > 0
        ]
        known = [pair for pair in counted if pair is not None]
        if len(known) < len(counted):
            return None
        if self.worst:
            return np.asarray(np.minimum.reduce([part for part, _ in known]))
        return np.asarray(np.sum([part * weight for part, weight in known], axis=0))

    @property
    def plain(self) -> bool:
        """Whether this is a (weighted) mean of the scores as they are, without floors."""
        return not (self.worst or self.floors or self.relative_to)

    def _floors(self, tasks: Sequence[str]) -> Array:
        return _by_task(self.floors, tasks, "floors", -np.inf)

    def _experts(self, tasks: Sequence[str]) -> Array:
        if not self.relative_to:
            return np.ones(len(tasks))
        experts = _by_task(self.relative_to, tasks, "experts' scores", np.nan)
        if not (experts > 0).all():
            task = tasks[int(np.argmin(np.nan_to_num(experts, nan=-np.inf) > 0))]
            raise InputError(
                f"task {task!r}: scores relative to the task's own expert need a positive score of it. Found "
                f"{self.relative_to.get(task, 'none')}. Use scores as they are, with metric weights and floors."
            )
        return experts


def experts_of(preview: Preview) -> dict[str, float]:
    """Each task's score of its own expert: of the run at its corner, where a preview *is* that run.

    Raises InputError where a corner was not previewed.
    """
    found = {}
    for t, task in enumerate(preview.tasks):
        row = simplex.find(preview.alphas, np.eye(len(preview.tasks))[t])
        if row is None or not preview.ok[row]:
            raise InputError(
                f"task {task!r}: its own expert has no score, since the weighting with all weight on it was not previewed. "
                "Preview the corners, too, or use scores as they are."
            )
        found[task] = float(preview.scores[row, t])
    return found


def _by_task(given: Mapping[str, float], tasks: Sequence[str], what: str, otherwise: float) -> Array:
    if unknown := sorted(set(given) - set(tasks)):
        raise InputError(f"{what} should be of the tasks {list(tasks)}. Found {unknown[0]!r}.")
    numbers = np.array([float(given.get(task, otherwise)) for task in tasks])
    if bad := [task for task in given if not np.isfinite(given[task])]:
        raise InputError(f"{what} should be finite numbers. Found {given[bad[0]]} of task {bad[0]!r}.")
    return numbers
