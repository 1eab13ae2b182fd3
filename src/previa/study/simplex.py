"""The simplex of task weightings: its grid, its centre, and how weightings are checked, named and found."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import AlphaError, InputError

Array = NDArray[np.float64]

DIGITS = 9  # two weightings that agree to this many digits are one
SUM_SLACK = 1e-5  # weights written with six digits sum to 1 within this for any usual number of tasks
LARGEST_GRID = 1_000_000


def grid(tasks: int | Sequence[str], steps: int) -> Array:
    """Every weighting whose weights are multiples of 1 / steps, in lexicographic order: [A, T], float64.

    A = C(steps + T - 1, T - 1); rows sum to 1. Raises InputError when tasks or steps are no positive whole numbers or
    the grid would have over a million weightings.
    """
    T = tasks if isinstance(tasks, int) else len(tasks)
    if T < 1 or isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(
            f"a grid should have at least one task and one step. Found {T} tasks and {steps!r} steps."
        )
    A = math.comb(steps + T - 1, T - 1)
    if A > LARGEST_GRID:
        raise InputError(f"a grid of {T} tasks in {steps} steps has {A:,} weightings. Choose fewer steps.")
    parts = np.zeros((1, 0), dtype=np.int64)
    for _ in range(T - 1):  # append each value that is left to each row, smallest first: this keeps the order
        left = steps - parts.sum(axis=1)
        rows = np.repeat(np.arange(len(parts)), left + 1)
        starts = np.repeat(np.cumsum(left + 1) - (left + 1), left + 1)
        parts = np.column_stack([parts[rows], np.arange(len(rows)) - starts])
    parts = np.column_stack([parts, steps - parts.sum(axis=1)])
    return np.asarray(parts / steps, dtype=np.float64)


def largest_grid(tasks: int | Sequence[str], most: int) -> Array:
    """The grid of most steps, up to 100, that has at most so many weightings; that of one step, the corners, where none has."""
    T = tasks if isinstance(tasks, int) else len(tasks)
    fitting = (n for n in range(100, 1, -1) if math.comb(n + T - 1, T - 1) <= most)
    return grid(T, next(fitting, 1))


def uniform(T: int) -> Array:
    """The centre of the simplex, every task with the same weight: [T]."""
    return np.full(T, 1.0 / T)


def check_alphas(alphas: ArrayLike, T: int, *, where: str = "alpha") -> Array:
    """The weightings as float64 [A, T], or [T] for one. Raises AlphaError when one is no point of the simplex."""
    try:
        out = np.array(alphas, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise AlphaError(f"{where}: weights should be numbers. Found {alphas!r}.") from error
    if out.ndim not in (1, 2) or out.shape[-1] != T:
        raise AlphaError(
            f"{where}: there should be {T} weights, one a task. Found an array of shape {out.shape}."
        )
    rows = np.atleast_2d(out)
    for bad, problem in (
        (~np.isfinite(rows).all(axis=1), "be finite"),
        ((rows < 0).any(axis=1), "not be negative"),
        (np.abs(rows.sum(axis=1) - 1) > SUM_SLACK, "sum to 1"),
    ):
        if bad.any():
            row = rows[int(np.argmax(bad))]
            raise AlphaError(
                f"{where}: weights should {problem}. Found {show(row)}, which sums to {row.sum():.6g}."
            )
    return out


def key(alpha: ArrayLike) -> str:
    """The name of one weighting [T]: its weights to nine digits, so that one found again is the same one."""
    return ",".join(f"{w:.{DIGITS}f}" for w in _rounded(alpha))


def show(alpha: ArrayLike) -> str:
    """One weighting for a person, as (0.35, 0.25, 0.4)."""
    return "(" + ", ".join(f"{w:.6g}" for w in _rounded(alpha)) + ")"


def find(alphas: Array, alpha: ArrayLike) -> int | None:
    """The row of alphas [A, T] that is this weighting (no weight is off by more than the ninth digit), or None."""
    off = np.abs(alphas - np.asarray(alpha, dtype=np.float64)).max(axis=1)
    return int(np.argmin(off)) if len(off) and off.min() <= 10.0**-DIGITS else None


def same(a: ArrayLike, b: ArrayLike) -> bool:
    """Whether two weightings [T] are one, as in `find`."""
    return find(np.array([a], dtype=np.float64), b) is not None


def by_safety(alphas: Array) -> NDArray[np.intp]:
    """The rows of alphas [A, T] with the nearest to uniform first, then the lexicographically first: [A]."""
    distance = np.round(np.linalg.norm(alphas - 1.0 / alphas.shape[1], axis=1), DIGITS)
    return np.lexsort((*_rounded(alphas).T[::-1], distance))


def nearest(alphas: Array, alpha: ArrayLike) -> int:
    """The row of alphas [A, T] nearest to alpha [T]; of several, the one nearest to uniform. Needs at least one row."""
    if not len(alphas):
        raise InputError("there should be at least one weighting to look among. Found none.")
    order = by_safety(alphas)
    distance = np.round(np.linalg.norm(alphas[order] - np.asarray(alpha, dtype=np.float64), axis=1), DIGITS)
    return int(order[np.argmin(distance)])


def depth(alphas: Array, inside: NDArray[np.bool_]) -> tuple[Array, Array]:
    """How deep each weighting [A, T] lies in a region [A]: its distance to the simplex's edge, and to the next row outside.

    Euclidean distances, [A] and [A]; zero outside of the region, infinite where nothing is outside.
    """
    T = alphas.shape[1]
    edge = alphas.min(axis=1) * math.sqrt(T / (T - 1)) if T > 1 else np.zeros(len(alphas))
    out = np.full(len(alphas), np.inf)
    others = alphas[~inside]
    if len(others):
        out = np.array([np.linalg.norm(others - row, axis=1).min() for row in alphas])
    return np.where(inside, edge, 0.0), np.where(inside, out, 0.0)


def _rounded(alphas: ArrayLike) -> Array:
    return np.asarray(np.round(np.asarray(alphas, dtype=np.float64), DIGITS) + 0.0)  # no negative zero


def probes(T: int) -> Array:
    """A few unequal weightings at which merged models are looked at before the map is drawn: [A, T], T <= A <= T (T + 1).

    For each task 4/5 on it, and half on it where there are more than two, the rest spread evenly over the others; for up to
    four tasks also 4/5 and 1/5 on each ordered pair. For two tasks 9/10, 4/5 and 3/5 on each: an anchor near one of them says
    nothing of the power there. Equal weights are left out: no power moves them.
    """
    if T < 2:
        raise InputError(f"probes: weightings differ for two tasks or more. Found {T}.")
    rows = []
    for share in (0.8, 0.5) if T > 2 else (0.9, 0.8, 0.6):
        rest = np.full((T, T), (1 - share) / (T - 1))
        np.fill_diagonal(rest, share)
        rows.append(rest)
    if 2 < T <= 4:
        eye = np.eye(T)
        rows.append(np.stack([0.8 * eye[s] + 0.2 * eye[t] for s in range(T) for t in range(T) if s != t]))
    return np.concatenate(rows)
