"""Which joint runs to train next: a mixture design, chosen one run at a time by what it leaves uncertain (numpy only).

What a preview misses is thought of as a Gaussian process over the simplex that is known to be 0 at the corners, where the
tasks' own runs are. Its covariance has the terms by which anchored previews interpolate, Scheffe's, and a smooth rest, all in
warped weights w ~ alpha^p: truths saturate, so what matters is which tasks have any weight rather than how much.
"""

from collections.abc import Iterator
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import AlphaError, InputError
from previa.study import simplex

Array = NDArray[np.float64]

POWER = 0.35  # of the weights: about what joint losses choose in small studies
PAIR, TRIPLE, REST = 1.0, 3.0, 0.1  # prior variances of terms of two tasks, of three, and of the rest
COMMON = (
    0.5  # the share of those variances that all terms have in common: previews miss to one side, they are low
)
WIDTH = 0.5  # of the rest's kernel, in sqrt(w): the middles of two edges are 1 apart
NOISE = 0.05  # variance of one run: another seed at the same weights, other test items
POINTS = 800  # weightings over which the variance is averaged, at most
TIE = 1e-9  # gains that differ by less than this share are one


def covariance(w: Array, v: Array) -> Array:
    """k(w, v) [A, B] of what previews by the tasks' own runs miss at warped weights w [A, T] and v [B, T]; 0 at corners.

    Scheffe's terms, 1 at the middle of their tasks, are phi_st = 4 w_s w_t and phi_stu = 27 w_s w_t w_u; their coefficients have
    the variances PAIR and TRIPLE and the correlation c = COMMON among pairs and among triples, so that

    k = PAIR ((1 - c) sum_{s<t} phi_st(w) phi_st(v) + c sum_{s<t} phi_st(w) sum_{s<t} phi_st(v)) + the same of triples
        + REST (1 - |w|^2) (1 - |v|^2) exp(-|sqrt w - sqrt v|^2 / 2 WIDTH^2).
    """
    pairs, triples = _of_twos_and_threes(w @ v.T, w**2 @ (v**2).T, w**3 @ (v**3).T)
    of_w, of_v = (_of_twos_and_threes(*(np.sum(x**k, axis=1) for k in (1, 2, 3))) for x in (w, v))
    inside = np.outer(1 - (w**2).sum(axis=1), 1 - (v**2).sum(axis=1))
    near = np.sqrt(w) @ np.sqrt(v).T - 1  # -|sqrt w - sqrt v|^2 / 2, as rows sum to one
    return np.asarray(
        PAIR * 4**2 * ((1 - COMMON) * pairs + COMMON * np.outer(of_w[0], of_v[0]))
        + TRIPLE * 27**2 * ((1 - COMMON) * triples + COMMON * np.outer(of_w[1], of_v[1]))
        + REST * inside * np.exp(near / WIDTH**2)
    )


def _of_twos_and_threes(one: Array, two: Array, three: Array) -> tuple[Array, Array]:
    """sum_{s<t} x_s x_t and sum_{s<t<u} x_s x_t x_u from the power sums sum_t x_t^k, k = 1, 2, 3."""
    return (one**2 - two) / 2, (one**3 - 3 * one * two + 2 * three) / 6


def variance(alphas: ArrayLike, runs: ArrayLike = (), *, p: float = POWER) -> Array:
    """What the runs [n, T] leave uncertain at alphas [A, T]: the posterior variance of the process above, [A].

    v(a) = k(a, a) - k(a, R) (k(R, R) + NOISE)^-1 k(R, a), all at weights ^ p: 0 at corners, 1 or more at the middle of two
    tasks without any run. Runs at corners tell nothing new.
    Raises AlphaError where a row is no weighting, InputError unless p > 0.
    """
    a = np.atleast_2d(np.asarray(alphas, dtype=np.float64))
    T = a.shape[1]
    w, R = warped(_checked(a, T, "alphas"), p), warped(_checked(runs, T, "runs"), p)
    prior = np.array([covariance(row, row)[0, 0] for row in w[:, None]])
    if not len(R):
        return prior
    cross = covariance(w, R)
    explained = np.linalg.solve(covariance(R, R) + NOISE * np.eye(len(R)), cross.T)
    return np.asarray(np.maximum(prior - (cross * explained.T).sum(axis=1), 0.0))


def propose(T: int, budget: int, done: ArrayLike = (), *, p: float = POWER) -> Array:
    """The next ``budget`` joint runs of T tasks [budget, T], the most telling first, given those ``done`` at any weightings.

    The centroid first (unless it is done), since a run at equal weights is wanted anyway; then, one at a time, the candidate
    that leaves the least mean ``variance`` over a lattice. Candidates are the middles of two and more tasks, the points
    halfway from the centroid to a corner, and thirds; when all are taken sixths, twelfths, and so on. Equal gains go to the
    lexicographically first; a corner, or a weighting twice, is never proposed. So a larger budget only adds runs.
    Three tasks: the centroid, the middles of the edges, then the points halfway to the corners. Five: the centroid, the
    middles of all but one, of three, of two. p: the power of the previews, where it is known.
    Raises InputError for fewer than two tasks, a budget under one, or one with too few candidates; AlphaError for wrong ``done``.
    """
    for name, value, least in (("T", T, 2), ("budget", budget, 1)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InputError(
                f"propose: {name} should be a whole number of at least {least}. Found {value!r}."
            )
    runs = _checked(done, T, "propose: done")
    found = np.zeros((0, T))
    steps = 3
    while len(found) < budget:
        known = np.concatenate([runs, found])
        if steps > 3 and comb(steps + T - 1, T - 1) > POINTS:
            raise InputError(
                f"propose: {budget} more runs are wanted of {T} tasks, but there are {len(found)} weightings to choose from, "
                f"beside the {len(runs)} done."
            )
        candidates = _candidates(T, steps, known)
        order = _greedy(candidates, known, p, budget - len(found))
        found = np.concatenate([found, candidates[order]])
        steps *= 2
    return found


def warped(alphas: Array, p: float) -> Array:
    """w_t = alpha_t^p / sum_s alpha_s^p [A, T], as `core.warp`. Raises InputError unless p > 0."""
    if not isinstance(p, int | float) or not 0 < p < np.inf:
        raise InputError(f"design: the power p should be a positive number. Found {p!r}.")
    if not len(alphas):
        return alphas
    w = (alphas / alphas.max(axis=1, keepdims=True)) ** p
    return np.asarray(w / w.sum(axis=1, keepdims=True))


def _greedy(candidates: Array, runs: Array, p: float, number: int) -> list[int]:
    """The ``number`` of candidates [C, T] (all, where they are fewer) that in turn lower the mean variance most: rows."""
    C, T = candidates.shape
    w, R = warped(np.concatenate([candidates, lattice(T)]), p), warped(runs, p)
    k = covariance(w, w[:C])  # of candidates and lattice with candidates, [C + L, C]
    if len(R):
        noisy = covariance(R, R) + NOISE * np.eye(len(R))
        k = k - covariance(w, R) @ np.linalg.solve(noisy, covariance(R, w[:C]))
    chosen: list[int] = []
    centre = simplex.find(candidates, simplex.uniform(T))
    while len(chosen) < min(number, C):
        own = np.diag(k[:C]) + NOISE
        gain = (k[C:] ** 2).sum(axis=0) / own
        gain[chosen] = -1.0
        first = int(np.argmax(gain >= gain.max() * (1 - TIE)))
        best = centre if centre is not None and not chosen else first
        chosen.append(best)
        k = k - np.outer(k[:, best], k[best]) / own[best]
    return chosen


def lattice(T: int) -> Array:
    """The finest grid of up to POINTS weightings of T tasks, in at most 20 steps."""
    steps = max((n for n in range(2, 21) if comb(n + T - 1, T - 1) <= POINTS), default=2)
    return simplex.grid(T, steps)


def _candidates(T: int, steps: int, runs: Array) -> Array:
    """The weightings that may be proposed, without the runs, in lexicographic order: [C, T]."""
    rows = [simplex.uniform(T)[None], (np.eye(T) + simplex.uniform(T)) / 2, *_middles(T)]
    if comb(steps + T - 1, T - 1) <= POINTS:
        rows.append(simplex.grid(T, steps))
    every = np.concatenate(rows)
    every = every[every.max(axis=1) < 1 - 10.0**-simplex.DIGITS]  # no corners
    every = every[np.unique(np.round(every, simplex.DIGITS), axis=0, return_index=True)[1]]
    return np.asarray(every[[not len(runs) or simplex.find(runs, row) is None for row in every]])


def _middles(T: int) -> Iterator[Array]:
    """The middles of every k tasks, 1 < k < T, where those are not too many to weigh up: [C(T, k), T] each."""
    for k in range(2, T):
        if comb(T, k) <= POINTS:
            some = np.array(list(combinations(range(T), k)), dtype=np.intp)
            rows = np.zeros((len(some), T))
            np.put_along_axis(rows, some, 1 / k, axis=1)
            yield rows


def _checked(alphas: ArrayLike, T: int, where: str) -> Array:
    """Checked weightings [n, T] whose rows sum to one exactly; n may be 0."""
    if not np.size(np.asarray(alphas, dtype=object)):
        return np.zeros((0, T))
    rows = simplex.check_alphas(alphas, T, where=where)
    if rows.ndim != 2:
        raise AlphaError(
            f"{where}: expected rows of weights [n, {T}]. Found one weighting {simplex.show(rows)}."
        )
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))
