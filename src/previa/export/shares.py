"""From task weights to row shares: sampling rows by q_t has the expected gradient of the weighted objective (METHOD 8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import InputError
from previa.study.simplex import check_alphas

Convention = Literal["mean", "sum"]
Average = Literal["rows", "tokens"]
Array = NDArray[np.float64]


def row_shares(
    alpha: ArrayLike,
    rows: Sequence[int],
    tokens: Sequence[float] | None = None,
    *,
    convention: Convention = "mean",
    average: Average = "rows",
) -> Array:
    """q [T]: the share of task t among the rows drawn, for the objective sum_t alpha_t l_t.

    alpha [T]; rows N_t [T]; tokens L_t [T], the mean number of supervised tokens in a row, for ``average="tokens"`` only.
    With g_t the mean gradient of a row's loss, or of a token's, a trainer of these rows follows in expectation

        average="rows"     sum_t q_t g_t                             l_t mean: q_t = alpha_t      sum: q_t ~ alpha_t N_t
        average="tokens"   sum_t q_t L_t g_t / sum_t q_t L_t         l_t mean: q_t ~ alpha_t/L_t  sum: q_t ~ alpha_t N_t

    since grad l_t is g_t (mean), N_t g_t (sum of rows), N_t L_t g_t (sum of tokens). Raises InputError.
    """
    T = len(rows)
    a = check_alphas(alpha, T)
    N = _positive(rows, T, "rows")
    if average == "rows":
        q = a if convention == "mean" else a * N
    else:
        if tokens is None:
            raise InputError(
                "a trainer that averages over tokens needs the mean number of supervised tokens in a row of every task."
            )
        L = _positive(tokens, T, "tokens")
        q = a / L if convention == "mean" else a * N
    return np.asarray(q / q.sum(), dtype=np.float64)


def token_shares(shares: ArrayLike, tokens: Sequence[float]) -> Array:
    """p [T]: the share of task t among the tokens, p_t ~ q_t L_t: what stacks that cut text into equal pieces sample by.

    shares q [T]; tokens L_t [T]. With mean losses of tokens p_t = alpha_t. Raises InputError.
    """
    p = np.asarray(shares, dtype=np.float64) * _positive(tokens, len(tokens), "tokens")
    return np.asarray(p / p.sum(), dtype=np.float64)


def apportion(shares: ArrayLike, total: int) -> NDArray[np.int64]:
    """Whole rows k [T] with sum_t k_t = total and |k_t - q_t total| < 1, by largest remainders; ties go to the first task."""
    exact = np.asarray(shares, dtype=np.float64) * total
    k = np.floor(exact).astype(np.int64)
    left = total - int(k.sum())
    k[np.argsort(k - exact, kind="stable")[:left]] += 1
    return k


def passes(count: int, rows: int) -> tuple[int, ...]:
    """``count`` rows out of ``rows`` as whole passes and what is left: 25 of 10 are (10, 10, 5)."""
    whole, rest = divmod(count, rows)
    return (rows,) * whole + ((rest,) if rest else ())


def _positive(values: Sequence[float], T: int, what: str) -> Array:
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (T,) or not np.isfinite(found).all() or (found <= 0).any():
        raise InputError(f"{what}: there should be one positive number a task, {T} in all. Found {values!r}.")
    return found
