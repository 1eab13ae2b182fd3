"""The 2-D toy of figure 2 (METHOD 5): three losses logsumexp_i(a_i.theta + b_i), their posteriors, and how far previews end.

The posterior mixtures minimise KL(q || exp(-loss)) (eq. 7) by gradient descent on a grid: a slow way that needs no sampling.
"""

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.spatial import ConvexHull
from scipy.special import logsumexp

from previa import Full, Isotropic, Mixture, modes
from previa.study.simplex import grid

N = 10  # terms of each loss


def draw_losses(seed: int):
    """(a [3, N, 2], b [3, N]): normal for tasks 0 and 1, uniform for task 2; drawn again until each has a minimiser."""
    rng = np.random.default_rng(seed)

    def one(t: int):
        while True:
            a, b = (
                (rng.normal(size=(N, 2)), 5 * rng.normal(size=N))
                if t < 2
                else (rng.uniform(-1, 1, (N, 2)), 5 * rng.uniform(-1, 1, N))
            )
            if (
                ConvexHull(a).equations[:, -1] < -0.05
            ).all():  # 0 lies inside the hull of the a_i, and not on its rim
                return a, b

    parts = [one(t) for t in range(3)]
    return np.stack([a for a, _ in parts]), np.stack([b for _, b in parts])


def loss(a, b, theta):
    """l(theta) for theta [..., 2]."""
    return logsumexp(theta @ a.T + b, axis=-1)


def minimiser(a, b, alpha):
    """argmin_theta sum_t alpha_t l_t(theta)."""
    total = lambda x: sum(w * loss(a[t], b[t], x) for t, w in enumerate(alpha))  # noqa: E731
    return minimize(total, np.zeros(2), method="BFGS", options={"gtol": 1e-8}).x


def hessian(a, b, theta):
    """Hess l(theta) = sum_i p_i a_i a_i' - (sum p_i a_i)(sum p_i a_i)'."""
    z = a @ theta + b
    p = np.exp(z - logsumexp(z))
    return (a.T * p) @ a - np.outer(p @ a, p @ a)


def mixture(a, b, seed: int, K: int = 10) -> Mixture:
    """K full Gaussians and their weights that minimise KL(q || exp(-l)/Z) on a grid around the minimiser."""
    centre = minimiser(a[None], b[None], [1.0])
    spread = 6 * np.sqrt(np.linalg.inv(hessian(a, b, centre) + 0.02 * np.eye(2)).diagonal().max())
    axis = torch.linspace(-spread, spread, 61, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2) + torch.from_numpy(
        centre
    )
    log_p = torch.from_numpy(-loss(a, b, points.numpy()))
    log_p = log_p - log_p.logsumexp(0)
    generator = torch.Generator().manual_seed(seed)
    mean = points[torch.multinomial(log_p.exp(), K, generator=generator)].clone().requires_grad_()
    L = (torch.eye(2, dtype=torch.float64).repeat(K, 1, 1) * 4 / spread).requires_grad_()
    logits = torch.zeros(K, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([mean, L, logits], lr=0.05)
    for _ in range(250):
        z = torch.einsum("kij,nkj->nki", L.tril().mT, points[:, None] - mean)
        log_q = (
            logits.log_softmax(0) - z.square().sum(-1) / 2 + L.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
        )
        log_q = log_q.logsumexp(-1)
        log_q = log_q - log_q.logsumexp(0)  # on the grid
        divergence = (log_q.exp() * (log_q - log_p)).sum()
        optimizer.zero_grad()
        divergence.backward()
        optimizer.step()
    H = L.tril() @ L.tril().mT
    return Mixture([Full({"theta": m}, h) for m, h in zip(mean, H, strict=True)], logits.softmax(0).detach())


def excess_losses(seed: int) -> dict[str, float]:
    """Mean over 66 weightings of sum_t alpha_t l_t(preview) minus its minimum, for three posteriors."""
    a, b = draw_losses(seed)
    alphas = grid(3, 10)
    best = np.array([minimiser(a, b, alpha) for alpha in alphas])
    own = [minimiser(a, b, np.eye(3)[t]) for t in range(3)]
    weighted = lambda theta: sum(alphas[:, t] * loss(a[t], b[t], theta) for t in range(3))  # noqa: E731
    floor = weighted(best)
    posteriors = {
        "simple": [Isotropic({"theta": torch.from_numpy(m)}) for m in own],
        "laplace": [
            Full({"theta": torch.from_numpy(m)}, torch.from_numpy(hessian(a[t], b[t], m)))
            for t, m in enumerate(own)
        ],
        "mixture": [mixture(a[t], b[t], seed) for t in range(3)],
    }
    return {
        name: float((weighted(modes(torch.from_numpy(alphas), qs).params.vector.numpy()) - floor).mean())
        for name, qs in posteriors.items()
    }
