"""How much one more evaluation at a weighting is worth, from what a surrogate says of each task's score (numpy only).

All tasks' scores at a weighting are thought of as independent normals, s_t ~ N(mean_t, sd_t^2). No draws: the same data give
the same numbers, in whatever order tasks and weightings are.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from previa.study.preference import Preference

Array = NDArray[np.float64]

NODES = 32  # of the quadrature over values of the worst task
FAR = 8.0  # deviations beyond which a normal has nothing that counts
WIDE = 1.96  # deviations of a 95 % interval

_erfc = np.frompyfunc(math.erfc, 1, 1)


def normal_cdf(z: Array) -> Array:
    """Phi(z) = erfc(-z / sqrt 2) / 2, exact in both tails."""
    return np.asarray(_erfc(-z / math.sqrt(2)), dtype=np.float64) / 2


def expected_improvement(mean: Array, sd: Array, best: float) -> Array:
    """E max(0, v - best) = d Phi(d / sd) + sd phi(d / sd) with d = mean - best, of v ~ N(mean, sd^2): [C]."""
    d = mean - best
    known = sd <= 0
    s = np.where(known, 1.0, sd)
    z = np.clip(d / s, -38.0, 38.0)  # phi is the smallest number there
    gain = d * normal_cdf(z) + s * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return np.asarray(np.maximum(np.where(known, d, gain), 0.0))


def above(mean: Array, sd: Array, level: Array) -> Array:
    """P(s >= level) of s ~ N(mean, sd^2), elementwise; 0 or 1 where sd is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (mean - level) / sd
    return normal_cdf(np.where(sd > 0, z, np.where(mean >= level, np.inf, -np.inf)))


def value_of(mean: Array, sd: Array, tasks: Sequence[str], preference: Preference) -> tuple[Array, Array]:
    """Mean and deviation of sum_t w_t s_t, scores as the preference sees them: [C] each."""
    w = preference.w(tasks)
    return mean @ w, np.sqrt(sd**2 @ w**2)


def gain(mean: Array, sd: Array, best: float | None, tasks: Sequence[str], preference: Preference) -> Array:
    """The expected gain of value over the best that keeps all floors, where floors are kept: [C].

    mean, sd [C, T] of scores, as the preference sees them. For the mean of tasks E max(0, v - best) times the probability
    that all floors are kept; for the worst task, exactly,
    E max(0, min_t s_t - best) with floors = int_best^inf prod_t P(s_t >= max(u, floor_t)) du.
    best None: nothing that keeps the floors is known; then the probability that all are kept alone.
    """
    floors = floors_of(tasks, preference)
    if best is None:
        return np.asarray(above(mean, sd, floors).prod(axis=1))
    counted = preference.w(tasks) > 0
    if not preference.worst:
        bound = np.isfinite(floors)
        kept = above(mean[:, bound], sd[:, bound], floors[bound]).prod(axis=1)
        return np.asarray(expected_improvement(*value_of(mean, sd, tasks, preference), best) * kept)
    top = (mean + FAR * sd)[:, counted].min(axis=1)  # no value of the worst task is above it
    span = np.maximum(top - best, 0.0)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    found = np.zeros(len(mean))
    some = np.flatnonzero(span > 0)
    for x, w in zip(nodes, weights, strict=True):
        u = best + span[some] * (x + 1) / 2
        level = np.where(counted, np.maximum(u[:, None], floors), floors)
        found[some] += w / 2 * span[some] * above(mean[some], sd[some], level).prod(axis=1)
    return found


def straddle(mean: Array, sd: Array, level: float, tasks: Sequence[str], preference: Preference) -> Array:
    """How unsure it is whether a weighting is in the near-best set {value >= level, floors kept}: 1.96 sd_m - |mean_m|, [C].

    The set is where all margins m are positive: value - level (for the worst task s_t - level of each task that counts) and
    s_t - floor_t. The margin that is the most likely missed decides. Bryan et al. 2005, of one margin.
    """
    floors = floors_of(tasks, preference)
    w = preference.w(tasks)
    if preference.worst:
        bounds = np.maximum(np.where(w > 0, level, -np.inf), floors)
        margins, deviations = mean - bounds, sd
    else:
        v, deviation = value_of(mean, sd, tasks, preference)
        margins = np.column_stack([v - level, mean - floors])
        deviations = np.column_stack([deviation, sd])
    some = np.isfinite(margins).all(axis=0)  # a task without a floor bounds nothing
    margins, deviations = margins[:, some], deviations[:, some]
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(deviations > 0, margins / deviations, np.sign(margins) * np.inf)
    z = np.where(np.isnan(z), 0.0, z)  # known to lie on the level
    first = np.argmin(z, axis=1)[:, None]
    margin, deviation = (np.take_along_axis(x, first, axis=1)[:, 0] for x in (margins, deviations))
    return np.asarray(WIDE * deviation - np.abs(margin))


def floors_of(tasks: Sequence[str], preference: Preference) -> Array:
    """Each task's floor, -inf where it has none: [T]."""
    return np.array([float(preference.floors.get(task, -np.inf)) for task in tasks])
