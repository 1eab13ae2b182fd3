"""How far experts are from the base and from one another, and how far their precisions overlap: one pass, in chunks, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

CHUNK = 1 << 20  # parameters at a time: 8 MB a task in float64


@dataclass(frozen=True, eq=False)
class TaskVectors:
    """d_t = theta_t - theta_0: norms |d_t| [T], cosines of d_s and d_t [T, T] (nan where one is zero), distances |d_s - d_t| [T, T].

    base: |theta_0|; to_base: the cosine of theta_t and theta_0 [T].
    """

    norms: Array
    cosines: Array
    distances: Array
    base: float
    to_base: Array


def task_vectors(base: Tensor, means: Sequence[Tensor]) -> TaskVectors:
    """Of the vectors [P] of the base and of T experts."""
    T = len(means)
    gram, with_base, square = np.zeros((T, T)), np.zeros(T), 0.0
    for start in range(0, len(base), CHUNK):
        theta_0 = base[start : start + CHUNK].double()
        d = torch.stack([mean[start : start + CHUNK].double() - theta_0 for mean in means])
        gram += (d @ d.T).cpu().numpy()
        with_base += (d @ theta_0).cpu().numpy()
        square += float(theta_0 @ theta_0)
    norms = np.sqrt(np.diag(gram))
    squares = norms[:, None] ** 2 + norms**2 - 2 * gram
    theta = np.sqrt(square + 2 * with_base + norms**2)  # |theta_0 + d_t|
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = gram / np.outer(norms, norms)
        to_base = (square + with_base) / (np.sqrt(square) * theta)
    return TaskVectors(norms, cosines, np.sqrt(np.maximum(squares, 0.0)), float(np.sqrt(square)), to_base)


def overlaps(precisions: Sequence[Tensor]) -> Array:
    """Bhattacharyya's coefficient of normalised precisions, sum_i sqrt(h_si h_ti) / sqrt(sum h_s sum h_t): [T, T], 1 on the diagonal.

    1: both tasks are steep in the same parameters, in the same proportions; 0: in none together. precisions [P] each, positive.
    """
    T = len(precisions)
    sums = np.zeros((T, T))
    for start in range(0, len(precisions[0]), CHUNK):
        root = torch.stack([h[start : start + CHUNK].double().sqrt() for h in precisions])
        sums += (root @ root.T).cpu().numpy()
    total = np.sqrt(np.diag(sums))
    return np.asarray(sums / np.outer(total, total))
