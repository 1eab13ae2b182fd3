"""A Gaussian process on scores: what a few scored weightings say of all others, and how sure they are (numpy only).

The length and the noise are not set to the single best values, which a handful of runs make far too sure, but averaged over
by their marginal likelihood; the level and the scale of the scores are integrated out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import InputError, NotFiniteError
from previa.study import simplex
from previa.study.preview import Preview

Array = NDArray[np.float64]

LENGTHS = np.geomspace(0.1, 5.0, 14)  # of the kernel, in sqrt(alpha): corners are sqrt 2 apart
NOISES = np.geomspace(1e-7, 0.3, 10)  # variance of one measurement, in those of the process
NEGLIGIBLE = (
    1e-3  # a length and a noise whose likelihood is less than this share of the best pair's are left out
)
FLAT = 1e-9  # scores that differ by less than this share of the largest are all the same


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A Gaussian process for each of m metrics, fitted to n weightings of T tasks.

    alphas [n, T], scores [n, m]; weights [m, L, N]: how likely each of LENGTHS with each of NOISES is, summing to one for each
    metric; noises [m]: the standard deviation of one measurement.
    """

    alphas: Array
    scores: Array
    weights: Array
    noises: Array

    def predict(self, alphas: ArrayLike) -> tuple[Array, Array]:
        """Posterior mean and standard deviation of the scores at alphas [A, T]: [A, m] each.

        The deviation is that of the smooth score, without the noise of one more measurement. Raises AlphaError.
        """
        a = np.atleast_2d(simplex.check_alphas(alphas, self.alphas.shape[1], where="surrogate"))
        centre = self.scores.mean(axis=0)
        first, second = np.zeros(
            (2, len(a), len(centre))
        )  # moments about the centre, over lengths and noises
        for i, length in enumerate(LENGTHS):
            if not self.weights[:, i].any():
                continue
            fit = _Fit.of(self.alphas, self.scores, float(length))
            seen, prior = fit.seen(a)
            for noise, w in zip(NOISES, self.weights[:, i].T, strict=True):
                if w.any():
                    mean, variance = fit.posterior(seen, prior, float(noise))
                    first += w * mean
                    second += w * (variance + mean**2)
        return centre + first, np.sqrt(np.maximum(second - first**2, 0.0))


@dataclass(frozen=True, eq=False)
class Interpolated:
    """What a surrogate of few evaluated weightings says of many: a preview without items, and how sure it is, sd [A, T]."""

    preview: Preview
    sd: Array


def interpolated(preview: Preview, alphas: ArrayLike) -> Interpolated:
    """Posterior mean and deviation of every task's score at alphas [A, T], from the scored weightings of a preview.

    Between evaluations only: nothing was measured there. Raises InputError where nothing was scored, AlphaError.
    """
    rows = np.atleast_2d(simplex.check_alphas(alphas, len(preview.tasks), where="interpolated"))
    good = preview.rows(preview.ok)
    if not len(good):
        raise InputError(f"interpolated: none of {len(preview)} weightings was scored.")
    mean, sd = gaussian_process(good.alphas, good.scores).predict(rows)
    return Interpolated(Preview(preview.tasks, rows, mean, provenance=preview.provenance), sd)


def gaussian_process(alphas: ArrayLike, scores: ArrayLike) -> Surrogate:
    """Fit y_t = f_t(alpha) + noise, f_t ~ GP(c, s^2 matern), to scores [n, m] at alphas [n, T], each metric on its own.

    c and log s have flat priors and are integrated out; length and noise have flat priors over the logarithms of LENGTHS and
    NOISES and are averaged over. No search, so the same data give the same fit, and no extra is needed. A metric whose scores
    are all the same, as with a single weighting, is predicted as that constant with deviation 0: nothing says how it varies.
    Raises InputError for shapes that do not fit, AlphaError, NotFiniteError.
    """
    shape = np.shape(np.asarray(alphas))
    y = np.array(scores, dtype=np.float64)
    if len(shape) != 2 or not shape[0] or y.ndim != 2 or len(y) != shape[0] or not y.shape[1]:
        raise InputError(
            f"surrogate: expected alphas [n, T] and scores [n, m] with n and m of at least 1. Found {shape} and {y.shape}."
        )
    a = simplex.check_alphas(alphas, shape[1], where="surrogate")
    if not np.isfinite(y).all():
        row = int(np.argmax(~np.isfinite(y).all(axis=1)))
        raise NotFiniteError(
            f"surrogate: scores should be finite. Found {y[row].tolist()} at {simplex.show(a[row])}. Leave out weightings "
            "that failed, as by preview.rows(preview.ok)."
        )
    likely, noise = np.zeros((2, y.shape[1], len(LENGTHS), len(NOISES)))
    flat = np.ptp(y, axis=0) <= FLAT * np.abs(y).max(axis=0)
    if not flat.all():
        log = np.zeros_like(likely)
        for i, length in enumerate(LENGTHS):
            fit = _Fit.of(a, y[:, ~flat], float(length))
            for j, share in enumerate(NOISES):
                log[~flat, i, j] = fit.log_evidence(float(share))
                noise[~flat, i, j] = share * fit.squares(float(share)) / fit.n1
        likely = np.exp(log - log.max(axis=(1, 2), keepdims=True))
        likely[(likely < NEGLIGIBLE) | flat[:, None, None]] = 0.0
        likely /= np.where(flat, 1.0, likely.sum(axis=(1, 2)))[:, None, None]
    return Surrogate(a, y, likely, np.sqrt((likely * noise).sum(axis=(1, 2))))


def matern(a: Array, b: Array, length: float) -> Array:
    """(1 + r + r^2 / 3) exp(-r) with r = sqrt 5 |sqrt a - sqrt b| / length, Matern's covariance of order 5/2: [A, B].

    sqrt puts the weightings on a sphere and so stretches the edges of the simplex, where scores are steep.
    """
    x, y = np.sqrt(a), np.sqrt(b)
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    r = np.sqrt(5 * np.maximum(squares, 0.0)) / length
    return np.asarray((1 + r + r**2 / 3) * np.exp(-r))


@dataclass(frozen=True, eq=False)
class _Fit:
    """One length. Contrasts Q'y [n - 1, m] (Q'1 = 0) do not see the level c; in the eigenvectors U of their covariance

    Q'KQ = U diag(values) U' they are independent: z = U'Q'y ~ N(0, s^2 (values + noise)).
    """

    alphas: Array
    length: float
    contrasts: Array  # Q U, [n, n - 1]
    values: Array
    z: Array
    means: Array  # of K's columns, [n]

    @classmethod
    def of(cls, alphas: Array, scores: Array, length: float) -> "_Fit":
        """The kernel of this length at alphas [n, T], diagonal in the contrasts that no common level moves."""
        K = matern(alphas, alphas, length)
        n = len(K)
        Q = np.linalg.qr(np.column_stack([np.ones(n), np.eye(n)[:, : n - 1]]))[0][:, 1:]
        values, U = np.linalg.eigh(Q.T @ K @ Q)
        contrasts = Q @ U
        return cls(alphas, length, contrasts, np.maximum(values, 0.0), contrasts.T @ scores, K.mean(axis=0))

    @property
    def n1(self) -> int:
        return len(self.values)

    def squares(self, noise: float) -> Array:
        """sum_i z_i^2 / (values_i + noise): (n - 1) s^2, [m]."""
        return np.asarray((self.z**2 / (self.values + noise)[:, None]).sum(axis=0))

    def log_evidence(self, noise: float) -> Array:
        """log p(Q'y | length, noise) with s integrated out, up to a constant: [m]."""
        return np.asarray(
            -0.5 * np.log(self.values + noise).sum() - 0.5 * self.n1 * np.log(self.squares(noise))
        )

    def seen(self, a: Array) -> tuple[Array, Array]:
        """Of f(a) - mean(f), in units of s: its covariance with z [A, n - 1], and its prior variance [A]."""
        k = matern(a, self.alphas, self.length)
        return (k - self.means) @ self.contrasts, 1 - 2 * k.mean(axis=1) + float(self.means.mean())

    def posterior(self, seen: Array, prior: Array, noise: float) -> tuple[Array, Array]:
        """Mean and variance of f(a) - mean(y): [A, m] each, with E s^2 = squares / (n - 3), or squares for fewer than five runs."""
        precision = 1 / (self.values + noise)
        unexplained = prior + noise / (self.n1 + 1) - (seen**2) @ precision
        s2 = self.squares(noise) / max(self.n1 - 2, 1)
        return (seen * precision) @ self.z, np.maximum(unexplained, 0.0)[:, None] * s2
