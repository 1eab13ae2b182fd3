"""Which joint runs to train next: a mixture design, chosen one run at a time by what it leaves uncertain (numpy only).

What a preview misses is thought of as a Gaussian process over the simplex that is known to be 0 at the corners, where the
tasks' own runs are. Its covariance has the terms by which anchored previews interpolate, Scheffe's, and a smooth rest.
"""

from collections.abc import Iterator
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import AlphaError, InputError
from previa.study import simplex

Array = NDArray[np.float64]

PAIR, TRIPLE, REST = (
    1.0,
    0.25,
    0.1,
)  # prior variances of the terms of two tasks, of three, and of the rest's kernel
WIDTH = 0.5  # of the rest's kernel, in sqrt(alpha): the middles of two edges are 1 apart
NOISE = 0.01  # variance of one run: another seed at the same weights scores otherwise
POINTS = 800  # weightings over which the variance is averaged, at most
TIE = 1e-9  # gains that differ by less than this share are one


def covariance(a: Array, b: Array) -> Array:
    """k(a, b) [A, B] of what previews by the tasks' own runs miss at a [A, T] and b [B, T]; 0 at corners.

    k = PAIR sum_{s<t} phi_st(a) phi_st(b) + TRIPLE sum_{s<t<u} phi_stu(a) phi_stu(b) + REST rest(a, b), with Scheffe's terms
    phi_st = 4 a_s a_t and phi_stu = 27 a_s a_t a_u, 1 at the middle of their tasks, and
    rest(a, b) = (1 - |a|^2) (1 - |b|^2) exp(-|sqrt a - sqrt b|^2 / 2 WIDTH^2).
    """
    one, two, three = a @ b.T, a**2 @ (b**2).T, a**3 @ (b**3).T  # power sums of a_t b_t, t = 1..T
    pairs, triples = (one**2 - two) / 2, (one**3 - 3 * one * two + 2 * three) / 6
    inside = np.outer(1 - (a**2).sum(axis=1), 1 - (b**2).sum(axis=1))
    near = np.sqrt(a) @ np.sqrt(b).T - 1  # -|sqrt a - sqrt b|^2 / 2, as rows sum to one
    return np.asarray(
        PAIR * 4**2 * pairs + TRIPLE * 27**2 * triples + REST * inside * np.exp(near / WIDTH**2)
    )


def variance(alphas: ArrayLike, runs: ArrayLike = ()) -> Array:
    """What the runs [n, T] leave uncertain at alphas [A, T]: the posterior variance of the process above, [A].

    v(a) = k(a, a) - k(a, R) (k(R, R) + NOISE)^-1 k(R, a): 0 at corners, 1 or more at the middle of two tasks without any run.
    Runs at corners tell nothing new. Raises AlphaError where a row is no weighting.
    """
    a = np.atleast_2d(np.asarray(alphas, dtype=np.float64))
    a = _normalised(a, a.shape[1], "alphas")
    R = _normalised(runs, a.shape[1], "runs")
    prior = np.array([covariance(row, row)[0, 0] for row in a[:, None]])
    if not len(R):
        return prior
    cross = covariance(a, R)
    explained = np.linalg.solve(covariance(R, R) + NOISE * np.eye(len(R)), cross.T)
    return np.asarray(np.maximum(prior - (cross * explained.T).sum(axis=1), 0.0))


def propose(T: int, budget: int, done: ArrayLike = ()) -> Array:
    """The next ``budget`` joint runs of T tasks [budget, T], the most telling first, given those ``done`` at any weightings.

    The centroid first (unless it is done), since a run at equal weights is wanted anyway; then, one at a time, the candidate
    that leaves the least mean ``variance`` over a lattice. Candidates are the middles of two and of three tasks, the points
    halfway from the centroid to a corner, and thirds; when all are taken sixths, twelfths, and so on. Equal gains go to the
    lexicographically first; a corner, or a weighting twice, is never proposed. So a larger budget only adds runs.
    Three tasks: the centroid, the middles of the three edges, then the points halfway to the corners.
    Raises InputError for fewer than two tasks, a budget under one, or one with too few candidates; AlphaError for wrong ``done``.
    """
    for name, value, least in (("T", T, 2), ("budget", budget, 1)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InputError(
                f"propose: {name} should be a whole number of at least {least}. Found {value!r}."
            )
    runs = _normalised(done, T, "propose: done")
    at = lattice(T)
    found = np.zeros((0, T))
    steps = 3
    while len(found) < budget:
        known = np.concatenate([runs, found])
        if steps > 3 and comb(steps + T - 1, T - 1) > POINTS:
            raise InputError(
                f"propose: there are {len(found)} weightings to choose from for {T} tasks, beside the {len(runs)} done. "
                f"Found a budget of {budget}."
            )
        candidates = _candidates(T, steps, known)
        found = np.concatenate([found, _greedy(candidates, at, known, budget - len(found))])
        steps *= 2
    return found


def _greedy(candidates: Array, at: Array, runs: Array, number: int) -> Array:
    """The ``number`` candidates [C, T] (all, where they are fewer) that in turn lower the mean variance at [L, T] most."""
    k = _posterior(np.concatenate([candidates, at]), candidates, runs)  # [C + L, C]
    C = len(candidates)
    chosen: list[int] = []
    centre = simplex.find(candidates, simplex.uniform(candidates.shape[1]))
    while len(chosen) < min(number, C):
        noisy = np.diag(k[:C]) + NOISE
        gain = (k[C:] ** 2).sum(axis=0) / noisy
        gain[chosen] = -1.0
        first = int(np.argmax(gain >= gain.max() * (1 - TIE)))
        best = centre if centre is not None and not chosen else first
        chosen.append(best)
        k = k - np.outer(k[:, best], k[best]) / noisy[best]
    return candidates[chosen]


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
    """The middles of every two tasks, and of every three, where those are not too many to weigh up: [C(T, k), T] each."""
    for k in (2, 3):
        if comb(T, k) <= POINTS:
            some = np.array(list(combinations(range(T), k)), dtype=np.intp).reshape(-1, k)
            rows = np.zeros((len(some), T))
            np.put_along_axis(rows, some, 1 / k, axis=1)
            yield rows


def _posterior(a: Array, b: Array, runs: Array) -> Array:
    """The covariance of a and b given the runs: [A, B]."""
    k = covariance(a, b)
    if not len(runs):
        return k
    noisy = covariance(runs, runs) + NOISE * np.eye(len(runs))
    return np.asarray(k - covariance(a, runs) @ np.linalg.solve(noisy, covariance(runs, b)))


def _normalised(alphas: ArrayLike, T: int, where: str) -> Array:
    """Checked weightings [n, T] whose rows sum to one exactly; n may be 0."""
    if not np.size(np.asarray(alphas, dtype=object)):
        return np.zeros((0, T))
    rows = simplex.check_alphas(alphas, T, where=where)
    if rows.ndim != 2:
        raise AlphaError(
            f"{where}: expected rows of weights [n, {T}]. Found one weighting {simplex.show(rows)}."
        )
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))
