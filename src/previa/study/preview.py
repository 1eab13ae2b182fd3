"""A preview: scores at many weightings, as plain arrays; every picture and table is drawn from one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import AlphaError, InputError
from previa.study import simplex

Array = NDArray[np.float64]
Items = NDArray[np.float32]

ITEM_SLACK = 1e-4  # of the largest score: a mean of float32 numbers in whatever order
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Preview:
    """Scores of every task at A weightings of T tasks, higher is better; the truth is one too, named "joint".

    alphas [A, T]; scores [A, T], NaN where a weighting failed; items: per task the scores of its N_t test items
    [A, N_t] float32, whose mean is the score, or None where the scorer gave only a number; stats: name -> [A];
    seconds: what its evaluations (or trainings) took. Arrays are copied and read-only.
    Raises InputError when shapes do not fit or items contradict scores, AlphaError when a row is no weighting.
    """

    tasks: tuple[str, ...]
    alphas: Array
    scores: Array
    items: tuple[Items | None, ...] = ()
    stats: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    seconds: float = 0.0
    provenance: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tasks = tuple(self.tasks)
        T = len(tasks)
        if len(set(tasks)) != T or not T:
            raise InputError(f"tasks should be different names, at least one. Found {list(tasks)}.")
        alphas = self.alphas if np.size(self.alphas) else np.zeros((0, T))
        alphas = np.atleast_2d(simplex.check_alphas(alphas, T, where="preview"))
        scores = np.array(self.scores, dtype=np.float64)
        if scores.size == 0:
            scores = scores.reshape(-1, T)
        if scores.shape != alphas.shape:
            raise InputError(
                f"scores should be [A, T] = {alphas.shape}, as alphas are. Found {scores.shape}."
            )
        if np.isinf(scores).any():
            raise InputError("scores should be finite, or NaN where a weighting failed. Found an infinity.")
        scores[np.isnan(scores).any(axis=1)] = np.nan  # a weighting fails as a whole
        items = tuple(self.items) or (None,) * T
        if len(items) != T:
            raise InputError(f"items should have one entry a task, {T}. Found {len(items)}.")
        items = tuple(_checked(i, scores[:, t], tasks[t]) for t, i in enumerate(items))
        stats = {name: np.array(value) for name, value in self.stats.items()}
        for name, value in stats.items():
            if value.shape != (len(alphas),):
                raise InputError(f"stats {name!r} should be [A] = ({len(alphas)},). Found {value.shape}.")
        for array in (alphas, scores, *stats.values(), *(i for i in items if i is not None)):
            array.flags.writeable = False
        final: dict[str, object] = {
            "tasks": tasks, "alphas": alphas, "scores": scores, "items": items, "stats": stats,
            "seconds": float(self.seconds), "provenance": dict(self.provenance),
        }  # fmt: skip
        for name, kept in final.items():
            object.__setattr__(self, name, kept)

    def __len__(self) -> int:
        return len(self.alphas)

    @property
    def mean(self) -> Array:
        """The plain mean over tasks at each weighting: [A], NaN where it failed."""
        return np.asarray(self.scores.mean(axis=1), dtype=np.float64)

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Which weightings were scored: [A]."""
        return np.asarray(np.isfinite(self.scores).all(axis=1))

    def weighted(self, weights: Mapping[str, float] | None = None) -> Array:
        """The mean over tasks under these metric weights (normalised; None: all the same): [A]. Raises InputError."""
        return self.scores @ metric_weights(self.tasks, weights)

    def index(self, alpha: ArrayLike) -> int:
        """The row of this weighting. Raises AlphaError when it is not among them, naming the nearest."""
        alpha = simplex.check_alphas(alpha, len(self.tasks))
        row = simplex.find(self.alphas, alpha)
        if row is None:
            near = simplex.show(self.alphas[simplex.nearest(self.alphas, alpha)]) if len(self) else "none"
            raise AlphaError(
                f"{simplex.show(alpha)} is not among the {len(self)} weightings of this preview. The nearest is {near}."
            )
        return row

    def rows(self, indices: ArrayLike) -> "Preview":
        """The preview at these rows (numbers or a mask) only, in this order; the seconds stay those of the whole."""
        i = np.asarray(indices)
        i = i.astype(np.intp) if i.size == 0 and i.dtype != np.bool_ else i
        return Preview(
            self.tasks, self.alphas[i], self.scores[i], tuple(None if x is None else x[i] for x in self.items),
            {name: value[i] for name, value in self.stats.items()}, self.seconds, self.provenance,
        )  # fmt: skip

    def at(self, alphas: ArrayLike) -> "Preview":
        """The preview at these weightings [A', T] only, in this order. Raises AlphaError when one is missing."""
        wanted = np.atleast_2d(simplex.check_alphas(alphas, len(self.tasks)))
        return self.rows([self.index(alpha) for alpha in wanted])


def metric_weights(tasks: tuple[str, ...], weights: Mapping[str, float] | None) -> Array:
    """How much each task counts in the mean score: [T], summing to 1; a task not named counts 1, None: all the same.

    Raises InputError when a name is no task, or a weight is negative or not finite, or none is positive.
    """
    weights = _NOTHING if weights is None else weights
    if unknown := sorted(set(weights) - set(tasks)):
        raise InputError(f"metric weights should be of the tasks {list(tasks)}. Found {unknown[0]!r}.")
    w = np.array([float(weights.get(task, 1.0)) for task in tasks])
    if not np.isfinite(w).all() or (w < 0).any() or w.sum() == 0:
        raise InputError(
            f"metric weights should be finite, not negative, and one positive. Found {dict(weights)}."
        )
    return np.asarray(w / w.sum())


def _checked(items: Items | None, scores: Array, task: str) -> Items | None:
    if items is None:
        return None
    out = np.array(items, dtype=np.float32)
    if out.ndim != 2 or len(out) != len(scores) or out.shape[1] == 0:
        raise InputError(f"task {task!r}: items should be [A, N] with A = {len(scores)}. Found {out.shape}.")
    good = np.isfinite(scores)
    if good.any():
        means = out[good].mean(axis=1, dtype=np.float64)
        largest = np.abs(out[good]).max()
        if not np.isfinite(means).all() or np.abs(means - scores[good]).max() > ITEM_SLACK * largest:
            raise InputError(f"task {task!r}: a score should be the mean of its items' scores. Found others.")
    return out
