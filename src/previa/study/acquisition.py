"""How much one more evaluation at a weighting is worth, from what a surrogate says of it (numpy only).

What is predicted is normal, several scores are independent. No draws: the same data give the same numbers, in whatever order
tasks and weightings are.
"""

import math

import numpy as np
from numpy.typing import NDArray

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


def all_above(mean: Array, sd: Array, floors: Array) -> Array:
    """The probability that every score keeps its floor, prod_t P(s_t >= floor_t), of mean and sd [C, F]: [C]."""
    return np.asarray(above(mean, sd, floors).prod(axis=1))


def gain_of_the_worst(
    mean: Array, sd: Array, best: float, floors: Array, counted: NDArray[np.bool_]
) -> Array:
    """E max(0, min_t s_t - best) with floors, over the tasks that are counted [T]; mean and sd [C, T]: [C].

    Exactly, for independent scores: int_best^inf prod_t P(s_t >= max(u, floor_t)) du, u of counted tasks only.
    """
    top = (mean + FAR * sd)[:, counted].min(axis=1)  # no value of the worst task is above it
    span = np.maximum(top - best, 0.0)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    found = np.zeros(len(mean))
    some = np.flatnonzero(span > 0)
    for x, w in zip(nodes, weights, strict=True):
        u = best + span[some] * (x + 1) / 2
        level = np.where(counted, np.maximum(u[:, None], floors), floors)
        found[some] += w / 2 * span[some] * all_above(mean[some], sd[some], level)
    return found


def straddle(margins: Array, sd: Array) -> Array:
    """How unsure it is whether a weighting is in the set where all margins m are positive: 1.96 sd_m - |margin_m|, [C].

    Of margins [C, M] above their levels, the one that is the most likely missed decides. Bryan et al. 2005, of one margin.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(sd > 0, margins / sd, np.sign(margins) * np.inf)
    z = np.where(np.isnan(z), 0.0, z)  # known to lie on the level
    first = np.argmin(z, axis=1)[:, None]
    margin, deviation = (np.take_along_axis(x, first, axis=1)[:, 0] for x in (margins, sd))
    return np.asarray(WIDE * deviation - np.abs(margin))
