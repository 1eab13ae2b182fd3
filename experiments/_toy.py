"""The 2-D toy of figure 2 (paper, B.1): three losses log sum_i exp(a_i.theta + b_i), their minimisers, and posteriors of them.

A loss has no data: exp(-l_t) itself is the density that the posteriors approximate, and its Hessian is known.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial import ConvexHull
from scipy.special import logsumexp, softmax
from torch import Tensor

from previa import Flat, Full, Mixture
from previa.fit.derivatives import Derivatives

Array = NDArray[np.float64]

T, N = 3, 10  # tasks, and terms of each loss (the paper does not say how many)
B = 5.0  # scale of b, so that the terms that matter change over the plane (not in the paper either)


def draw_losses(seed: int) -> tuple[Array, Array]:
    """(a [3, N, 2], b [3, N]): normal for tasks 0 and 1, uniform for task 2; drawn again until each has a minimiser."""
    rng = np.random.default_rng(seed)

    def one(t: int) -> tuple[Array, Array]:
        while True:
            if t < 2:
                a, b = rng.normal(size=(N, 2)), B * rng.normal(size=N)
            else:
                a, b = rng.uniform(-1, 1, (N, 2)), B * rng.uniform(-1, 1, N)
            if (ConvexHull(a).equations[:, -1] < -0.05).all():  # 0 inside the hull of the a_i, not on its rim
                return a, b

    parts = [one(t) for t in range(T)]
    return np.stack([a for a, _ in parts]), np.stack([b for _, b in parts])


def loss(a: Array, b: Array, theta: Array) -> Array:
    """l(theta) for theta [..., 2]."""
    return logsumexp(theta @ a.T + b, axis=-1)


def losses(a: Array, b: Array, theta: Array) -> Array:
    """The losses of all tasks, [..., T]."""
    return np.stack([loss(a[t], b[t], theta) for t in range(len(a))], -1)


def minimiser(a: Array, b: Array, alpha: Sequence[float] | Array) -> Array:
    """argmin_theta sum_t alpha_t l_t(theta): the truth that previews aim at."""
    weights = np.asarray(alpha)

    def total(x: Array) -> tuple[float, Array]:
        p = softmax(a @ x + b, axis=-1)  # [T, N]
        return float(losses(a, b, x) @ weights), np.einsum("t,tn,tnj->j", weights, p, a)

    return minimize(total, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-8}).x


def hessian(a: Array, b: Array, theta: Array) -> Array:
    """Hess l(theta) = sum_i p_i a_i a_i' - (sum p_i a_i)(sum p_i a_i)'."""
    p = softmax(a @ theta + b)
    return (a.T * p) @ a - np.outer(p @ a, p @ a)


def derivatives(a: Array, b: Array) -> Derivatives:
    """theta [S, 2] -> (l, its gradient, its Hessian), as variational fits ask for them."""
    A, c = torch.from_numpy(a), torch.from_numpy(b)

    def of(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = theta @ A.T + c
        p = z.softmax(-1)
        g = p @ A
        H = torch.einsum("si,ij,ik->sjk", p, A, A) - g[:, :, None] * g[:, None, :]
        return z.logsumexp(-1), g, H

    return of


def laplace(a: Array, b: Array) -> Full:
    """N(theta_t, H_t^-1) with the Hessian at the minimiser."""
    m = minimiser(a[None], b[None], [1.0])
    return Full({"theta": torch.from_numpy(m)}, torch.from_numpy(hessian(a, b, m)))


def grid_mixture(a: Array, b: Array, seed: int, K: int = 10, side: int = 61, steps: int = 250) -> Mixture:
    """K full Gaussians and their weights that minimise KL(q || exp(-l)/Z) (eq. 7) on a grid around the minimiser.

    By gradient descent and without samples: a reference for what mixtures can do, possible in two dimensions only.
    """
    centre = minimiser(a[None], b[None], [1.0])
    spread = 6 * np.sqrt(np.linalg.inv(hessian(a, b, centre) + 0.02 * np.eye(2)).diagonal().max())
    axis = torch.linspace(-spread, spread, side, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    points = points + torch.from_numpy(centre)
    log_p = torch.from_numpy(-loss(a, b, points.numpy()))
    log_p = log_p - log_p.logsumexp(0)
    generator = torch.Generator().manual_seed(seed)
    mean = points[torch.multinomial(log_p.exp(), K, generator=generator)].clone().requires_grad_()
    L = (torch.eye(2, dtype=torch.float64).repeat(K, 1, 1) * 4 / spread).requires_grad_()
    logits = torch.zeros(K, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([mean, L, logits], lr=0.05)
    for _ in range(steps):
        z = torch.einsum("kij,nkj->nki", L.tril().mT, points[:, None] - mean)
        logdet = L.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
        log_q = (logits.log_softmax(0) - z.square().sum(-1) / 2 + logdet).logsumexp(-1)
        log_q = log_q - log_q.logsumexp(0)  # on the grid
        divergence = (log_q.exp() * (log_q - log_p)).sum()
        optimizer.zero_grad()
        divergence.backward()
        optimizer.step()
    H = L.tril() @ L.tril().mT
    return Mixture([Full({"theta": m}, h) for m, h in zip(mean, H, strict=True)], logits.softmax(0).detach())


def em_by_hand(alphas: Tensor, mixtures: Sequence[Mixture], theta: Tensor, iterations: int) -> list[Tensor]:
    """F(theta) = sum_t alpha_t log q_t(theta), [A], before each step of eq. 12 as it is printed, from theta [A, 2].

    The library's own EM starts from several places and stops rows that have settled: this one is there to check it.
    """
    found = []
    for _ in range(iterations):
        F, H, Hm = torch.zeros(len(theta)).double(), torch.zeros(1).double(), torch.zeros(1).double()
        for alpha, q in zip(alphas.T, mixtures, strict=True):
            log_q, r = q.bound(Flat(q.layout, theta))
            P = torch.stack([component.precision for component in q.components])
            m = torch.stack([component.mode().vector for component in q.components])
            F = F + alpha * log_q
            H = H + torch.einsum("a,ak,kij->aij", alpha, r, P)
            Hm = Hm + torch.einsum("a,ak,kij,kj->ai", alpha, r, P, m)
        found.append(F)
        theta = torch.linalg.solve(H, Hm)
    return found
