"""Which weighting to evaluate next: a map, or its best region, from few evaluations (numpy only).

A start that covers the simplex, then a Gaussian process (`surrogate`) and the candidate whose evaluation is worth most
(`acquisition`). The process is that of the preference's value: where one task's gain is another's loss, processes of single
tasks do not know how sure their sum is, and searches ended up to 13 points short. Scores of all tasks are kept, so that another
preference fits another process to the same evaluations. The worst task, and floors, have one for each task.
"""

from collections.abc import Callable, Sequence
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import InputError
from previa.study import acquisition, simplex
from previa.study._sobol import sobol
from previa.study.preference import Preference
from previa.study.surrogate import gaussian_process

Array = NDArray[np.float64]
Goal = Literal["best", "region"]
Engine = Callable[..., int]
"""any function with the signature of `suggest`"""

Predict = Callable[[Array, Array, Array], tuple[Array, Array]]
"""(alphas [n, T], scores [n, m], at [C, T]) -> mean and deviation of every score there, [C, m] each"""

GOALS: tuple[Goal, ...] = ("best", "region")
MOST = 4000  # candidates: a suggestion looks at each, within half a second
SPREAD = 1000  # Sobol points among them where the grid is coarser than the study's
RANGE = 0.05  # near-best without per-item scores: within this share of the range of the values seen
SELDOM = (
    1e-3  # floors that every candidate keeps with less than this probability are out of reach, as it seems
)
ON_GRID = 1e-9  # of a step: weights that are multiples of it but for rounding are not taken for less
TIE = 1e-9  # of the largest worth: what differs by less is the same
PLAIN = Preference()


def number_to_start(T: int) -> int:
    """Evaluations before the first suggestion: corners, centroid and T // 2 Sobol points.

    Measured on previews of digits and MNIST: with T + 1 Sobol points, searches of 20 evaluations of three tasks ended ten times as
    far from the best.
    """
    return T + 1 + T // 2


def start(T: int, number: int, *, seed: int) -> Array:
    """The first weightings to evaluate: the T corners, the centroid, then Sobol points of the simplex, [number, T].

    Points of the cube become weights as the gaps between 0, their sorted coordinates, and 1, which keeps them uniform. A larger
    number only adds points. Raises InputError for fewer than two tasks, or a number without room for corners and centroid.
    """
    if isinstance(T, bool) or not isinstance(T, int) or T < 2:
        raise InputError(f"start: a search weighs at least two tasks. Found {T!r}.")
    if isinstance(number, bool) or not isinstance(number, int) or number < T + 1:
        raise InputError(
            f"start: the corners and the centroid of {T} tasks are {T + 1} evaluations. Found {number!r}."
        )
    return np.concatenate([np.eye(T), simplex.uniform(T)[None], spread(T, number - T - 1, seed=seed)])


def spread(T: int, number: int, *, seed: int) -> Array:
    """Sobol points of the simplex: [number, T]."""
    cuts = np.sort(sobol(number, T - 1, seed=seed), axis=1)
    gaps = np.diff(cuts, axis=1, prepend=0.0, append=1.0)
    return np.asarray(gaps / gaps.sum(axis=1, keepdims=True))


def candidates(T: int, steps: int) -> Array:
    """The weightings a search chooses among, all multiples of 1 / steps: [C, T] in lexicographic order.

    The whole grid where it has at most MOST weightings. Else the finest coarser grid whose points are all points of that grid
    and which leaves room for SPREAD Sobol points, rounded to it: a coarse grid of many tasks has no points with a weight on
    every task. `neighbours` adds what is beside the best. Raises InputError as `simplex.grid`.
    """
    if T < 1 or steps < 1 or small_grid(T, steps):
        return simplex.grid(T, steps)
    coarse = max(
        (n for n in range(1, steps) if steps % n == 0 and comb(n + T - 1, T - 1) <= MOST - SPREAD),
        default=1,
    )
    parts = simplex.grid(T, coarse) * steps
    return (
        np.unique(np.concatenate([np.rint(parts), _rounded(spread(T, SPREAD, seed=0), steps)]), axis=0)
        / steps
    )


def distinct(alphas: Array) -> Array:
    """The weightings [n, T] each once, to the ninth digit, in their order."""
    first = {simplex.key(row): i for i, row in reversed(list(enumerate(alphas)))}
    return np.asarray(alphas[sorted(first.values())])


def small_grid(T: int, steps: int) -> bool:
    """Whether the grid of T tasks has at most MOST weightings."""
    return comb(steps + T - 1, T - 1) <= MOST


def neighbours(alpha: ArrayLike, steps: int) -> Array:
    """The weightings of the grid that are one step from alpha: 1 / steps moved from one task to another, [N, T].

    alpha itself is rounded to the grid first, and is among them where that moved it. Raises AlphaError.
    """
    a = np.asarray(alpha, dtype=np.float64)
    simplex.check_alphas(a, a.shape[-1], where="neighbours")
    here = _rounded(a[None], steps)[0]
    T = len(here)
    rows = [] if simplex.same(here / steps, a) else [here]
    for s in range(T):
        for t in range(T):
            if s != t and here[s] > 0:
                rows.append(here - np.eye(T)[s] + np.eye(T)[t])
    return np.array(rows).reshape(-1, T) / steps


def suggest(
    alphas: ArrayLike,
    scores: ArrayLike,
    tasks: Sequence[str],
    candidates: ArrayLike,
    *,
    preference: Preference = PLAIN,
    goal: Goal = "best",
    tolerance: float | None = None,
    predict: Predict | None = None,
) -> int:
    """The row of candidates [C, T] to evaluate next, given scores [n, T] at alphas [n, T]; never one of those.

    goal "best": the largest expected gain over the best value seen that keeps all floors; where none does, the largest
    probability to keep them. "region": the weighting of which it is least sure whether its value is within ``tolerance`` (by
    default RANGE of the range of values seen) of the best. Ties go to the nearest to uniform; where nothing is worth anything,
    the farthest from all that was seen. The same data give the same row. predict: another surrogate than `gaussian_process`.
    Raises InputError where nothing was evaluated, or every candidate; for an unknown goal, a negative tolerance, shapes that do
    not fit; as `Preference.check`, `gaussian_process`.
    """
    a, y, c = checked(alphas, scores, tasks, candidates)
    preference.check(tasks)
    free = unseen(c, a)
    if not len(free):
        raise InputError(f"suggest: all {len(c)} candidates were evaluated already.")
    worth = _worth(a, y, tuple(tasks), c[free], preference, goal, tolerance, predict or smooth)
    if not worth.max() > 0 and goal == "best" and best_of(y, tasks, preference) is not None:
        worth = np.linalg.norm(np.sqrt(c[free])[:, None] - np.sqrt(a)[None], axis=2).min(axis=1)
    order = simplex.by_safety(c[free])
    top = worth[order].max()
    return int(free[order[np.argmax(worth[order] >= top - TIE * abs(top))]])


def expected_gain(
    alphas: ArrayLike, scores: ArrayLike, tasks: Sequence[str], candidates: ArrayLike, *, preference: Preference = PLAIN
) -> Array:  # fmt: skip
    """The expected gain of value over the best seen at each candidate, 0 at those evaluated: [C].

    Infinite where no evaluated weighting keeps the floors. Raises as `suggest`.
    """
    a, y, c = checked(alphas, scores, tasks, candidates)
    preference.check(tasks)
    free = unseen(c, a)
    found = np.zeros(len(c))
    if best_of(y, tasks, preference) is None:
        found[free] = np.inf
    elif len(free):
        found[free] = _worth(a, y, tuple(tasks), c[free], preference, "best", None, smooth)
    return found


def smooth(alphas: Array, scores: Array, at: Array) -> tuple[Array, Array]:
    """What one `gaussian_process` a score says: mean and deviation at weightings, [C, m] each."""
    return gaussian_process(alphas, scores).predict(at)


def best_of(scores: Array, tasks: Sequence[str], preference: Preference) -> float | None:
    """The best value of scores [n, T] that keep all floors, None where none do."""
    kept = preference.keeps(scores, tasks)
    return float(preference.value(scores, tasks)[kept].max()) if kept.any() else None


def checked(
    alphas: ArrayLike, scores: ArrayLike, tasks: Sequence[str], candidates: ArrayLike
) -> tuple[Array, Array, Array]:
    """Arguments of `suggest` as arrays. Raises InputError, AlphaError."""
    T = len(tasks)
    y = np.array(scores, dtype=np.float64)
    a = np.array(alphas, dtype=np.float64)
    if a.ndim != 2 or not len(a) or y.shape != a.shape or a.shape[1] != T:
        raise InputError(
            f"suggest: expected alphas and scores [n, {T}] with n of at least 1. Found {a.shape} and {y.shape}."
        )
    a = simplex.check_alphas(a, T, where="suggest")
    return a, y, np.atleast_2d(simplex.check_alphas(candidates, T, where="suggest: candidates"))


def unseen(candidates: Array, alphas: Array) -> NDArray[np.intp]:
    """The rows of candidates [C, T] that are none of alphas [n, T], to the ninth digit."""
    known = {simplex.key(alpha) for alpha in alphas}
    return np.array([i for i, row in enumerate(candidates) if simplex.key(row) not in known], dtype=np.intp)


def near_level(values: Array, tolerance: float | None) -> float:
    """The value from which a weighting is near-best, of values seen [n]. Raises InputError."""
    t = RANGE * float(np.ptp(values)) if tolerance is None else tolerance
    if not 0 <= t < np.inf:
        raise InputError(f"suggest: the tolerance should be a number of at least 0. Found {tolerance!r}.")
    return float(values.max()) - t


def _worth(
    a: Array, y: Array, tasks: tuple[str, ...], c: Array, preference: Preference, goal: Goal, tolerance: float | None,
    predict: Predict,
) -> Array:  # fmt: skip
    """What an evaluation of each of c is worth: [C]."""
    if goal not in GOALS:
        raise InputError(f"suggest: the goal should be one of {', '.join(GOALS)}. Found {goal!r}.")
    seen, value, best = preference.seen(y, tasks), preference.value(y, tasks), best_of(y, tasks, preference)
    floors = np.array([float(preference.floors.get(task, -np.inf)) for task in tasks])
    counted, bound = preference.w(tasks) > 0, np.isfinite(floors)
    if goal == "region" and best is not None:
        level = near_level(value[preference.keeps(y, tasks)], tolerance)
    if preference.worst:
        mean, sd = predict(a, seen, c)
        if best is not None and goal == "best":
            return acquisition.gain_of_the_worst(mean, sd, best, floors, counted)
        if best is not None:
            some = counted | bound
            levels = np.where(counted, np.maximum(level, floors), floors)[some]
            return acquisition.straddle(mean[:, some] - levels, sd[:, some])
        mean, sd = mean[:, bound], sd[:, bound]
    else:
        both, doubt = predict(a, np.column_stack([value, seen[:, bound]]), c)
        mean, sd = both[:, 1:], doubt[:, 1:]
        if best is not None and goal == "best":
            kept = acquisition.all_above(mean, sd, floors[bound])
            return acquisition.expected_improvement(both[:, 0], doubt[:, 0], best) * kept
        if best is not None:
            return acquisition.straddle(both - [level, *floors[bound]], doubt)
    worth = acquisition.all_above(mean, sd, floors[bound])
    if worth.max() >= SELDOM:
        return worth
    return np.asarray(-np.maximum(floors[bound] - mean, 0.0).sum(axis=1))  # out of reach, as it seems


def _rounded(alphas: Array, steps: int) -> Array:
    """Weightings [n, T] as whole numbers of steps that sum to ``steps``, by the largest remainders."""
    parts = alphas * steps
    whole = np.floor(parts + ON_GRID)
    left = np.rint(steps - whole.sum(axis=1)).astype(int)
    rank = np.argsort(np.argsort(-(parts - whole), axis=1, kind="stable"), axis=1)
    return np.asarray(whole + (rank < left[:, None]))
