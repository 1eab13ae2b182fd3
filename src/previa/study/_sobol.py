"""Sobol's points: they fill a cube more evenly than random ones do (numpy only; Joe and Kuo's direction numbers of 2008)."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BITS = 30  # of a coordinate
DIRECTIONS: tuple[tuple[int, tuple[int, ...]], ...] = (
    (0, (1,)), (1, (1, 3)), (1, (1, 3, 1)), (2, (1, 1, 1)), (1, (1, 1, 3, 3)), (4, (1, 3, 5, 13)), (2, (1, 1, 5, 5, 17)),
    (4, (1, 1, 5, 5, 5)), (7, (1, 1, 7, 11, 19)), (11, (1, 1, 5, 1, 1)), (13, (1, 1, 1, 3, 11)), (14, (1, 3, 5, 5, 31)),
    (1, (1, 3, 3, 9, 7, 49)), (13, (1, 1, 1, 15, 21, 21)), (16, (1, 3, 1, 13, 27, 49)), (19, (1, 1, 1, 15, 7, 5)),
    (22, (1, 3, 1, 15, 13, 25)), (25, (1, 1, 5, 5, 19, 61)), (1, (1, 3, 7, 11, 23, 15, 103)), (4, (1, 3, 7, 13, 13, 15, 69)),
)  # fmt: skip
"""of each dimension after the first: its primitive polynomial's inner coefficients as bits, and its first direction numbers"""

DIMENSIONS = len(DIRECTIONS) + 1


def sobol(number: int, dimensions: int, *, seed: int | None = None) -> Array:
    """The first ``number`` points of Sobol's sequence after the origin, in the open cube (0, 1)^dimensions: [number, dimensions].

    x_n = xor of the direction numbers v_i at the bits of n's Gray code. With a seed all points are moved by one random digital
    shift (xor), which keeps how evenly they lie; each then lies in the middle of its cell of 2^-30. For more than DIMENSIONS
    dimensions the others are independent draws of the seed.
    """
    n = np.arange(1, number + 1, dtype=np.int64)
    gray = n ^ (n >> 1)
    known = min(dimensions, DIMENSIONS)
    x = np.zeros((number, known), dtype=np.int64)
    for d in range(known):
        for i, v in enumerate(_directions(d)):
            x[:, d] ^= np.where(gray >> i & 1, v, 0)
    if seed is None:
        more = np.random.default_rng(0).random((number, dimensions - known))
        return np.concatenate([x / 2**BITS, more], axis=1)
    rng = np.random.default_rng(seed)
    x ^= rng.integers(2**BITS, size=known)
    return np.concatenate([(x + 0.5) / 2**BITS, rng.random((number, dimensions - known))], axis=1)


def _directions(d: int) -> list[int]:
    """The direction numbers of dimension d, as whole numbers of BITS bits."""
    if d == 0:
        return [1 << (BITS - 1 - i) for i in range(BITS)]
    inner, m = DIRECTIONS[d - 1]
    s = len(m)
    v = [m[i] << (BITS - 1 - i) for i in range(s)]
    for i in range(s, BITS):
        new = v[i - s] ^ (v[i - s] >> s)
        for k in range(1, s):
            new ^= (inner >> (s - 1 - k) & 1) * v[i - k]
        v.append(new)
    return v
