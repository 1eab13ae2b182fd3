"""The scores of a few runs interpolated over the simplex: what previews that merge the same runs must beat."""

import warnings

import numpy as np
from numpy.typing import NDArray

from previa.core.scheffe import cardinals
from previa.core.warp import warp

Array = NDArray[np.float64]


def by_terms(corners: Array, at: Array, scores: Array, alphas: Array, p: float) -> Array:
    """Scheffe's polynomial of the scores at w = alpha^p: [A, T] from the tasks' own runs [T, T] and runs at [n, T]."""
    w, w_at = (warp(a, p) for a in (alphas, at))
    rest = scores - w_at.numpy() @ corners
    return np.asarray(w.numpy() @ corners + cardinals(w, w_at).numpy() @ rest)


def by_process(corners: Array, at: Array, scores: Array, alphas: Array) -> Array:
    """A Gaussian process (Matern 5/2) on sqrt(alpha), one a task: [A, T]."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    T = corners.shape[1]
    X, Y = np.sqrt(np.vstack([np.eye(T), at])), np.vstack([corners, scores])
    found = []
    for y in Y.T:
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(0.7, (0.1, 10.0), nu=2.5)
        kernel += WhiteKernel(1e-3, (1e-6, 1e-1))
        process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found.append(process.fit(X, y).predict(np.sqrt(alphas)))
    return np.stack(found, 1)
