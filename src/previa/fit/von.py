"""VON, the variational online Newton method: a full Gaussian posterior (Khan & Rue 2023, section 1.3.2; App. B.2)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from previa.core.full import Full
from previa.core.params import Flat, Params
from previa.errors import InputError
from previa.fit.derivatives import Derivatives, evaluated

Watch = Callable[[int, float], object]
"""Called after each step with (its number from 1, the estimate of the ELBO before it): progress, and how well the fit goes."""


def von(
    derivatives: Derivatives,
    start: Params,
    *,
    precision: float | Tensor,
    lr: float = 0.1,
    samples: int = 3,
    steps: int = 25,
    averaged: float = 0.5,
    generator: Generator,
    watch: Watch | None = None,
) -> Full:
    """N(m, S^-1) that minimises E_q[l] - entropy(q), i.e. KL(q || exp(-l)/Z) (eq. 7), for l = SUM loss - log p0.

    z_s ~ N(m, S^-1);  S <- (1-lr) S + lr mean Hess l(z_s);  m <- m - lr S^-1 mean grad l(z_s), with the new S.
    From N(start, precision^-1), ``precision`` a number or a matrix [P, P]; all in float64, one Cholesky factor a step.
    Where that S is not positive definite (l is not convex) the step is S + lr G + lr^2/2 G S^-1 G, G = mean Hess l - S,
    which always is (Lin, Schmidt, Khan 2020).
    averaged: the share of the steps, the last ones, whose natural parameters (S, S m) are averaged; 0 keeps the last iterate.
    Raises InputError for a bad setting, ParamsError and NotFiniteError for bad derivatives, PrecisionError for a bad precision.
    """
    check_settings("von", lr=lr, samples=samples, steps=steps)
    if not 0 <= averaged <= 1:
        raise InputError(f"von: averaged is {averaged}, but a share of the steps lies between 0 and 1.")
    q = Full(start, as_matrix(precision, start))
    m, S = Flat.of(q.mean).vector, q.precision
    L = torch.linalg.cholesky(S)
    natural = torch.zeros_like(S), torch.zeros_like(m)
    kept = max(1, math.floor(averaged * steps))
    for step in range(1, steps + 1):
        eps = torch.randn(samples, len(m), dtype=m.dtype, generator=generator, device=generator.device).to(m)
        z = m + torch.linalg.solve_triangular(L.mT, eps.mT, upper=True).mT
        loss, g, H = torch.zeros_like(m[0]), torch.zeros_like(m), torch.zeros_like(S)
        for _, some, gs, Hs in evaluated(derivatives, z, f"von, step {step}"):
            loss += some.sum() / samples
            g += gs.sum(0) / samples
            H += Hs.sum(0) / samples
        entropy = 0.5 * len(m) * (1 + math.log(2 * math.pi)) - L.diagonal().log().sum()
        S, L = stepped(S, L, 0.5 * (H + H.mT) - S, lr)
        m = m - lr * torch.cholesky_solve(g.unsqueeze(-1), L).squeeze(-1)
        if step > steps - kept:
            natural[0].add_(S, alpha=1 / kept)
            natural[1].add_(S @ m, alpha=1 / kept)
        if watch is not None:
            watch(step, float(entropy - loss))
    return q.from_natural((natural[0].flatten(), natural[1]))


def stepped(S: Tensor, L: Tensor, G: Tensor, lr: float) -> tuple[Tensor, Tensor]:
    """(new S, its Cholesky factor): S + lr G where that is positive definite, else S + lr G + lr^2/2 G S^-1 G. L L' = S."""
    new = S + lr * G
    factor, info = torch.linalg.cholesky_ex(new)
    if int(info):
        half = torch.linalg.solve_triangular(L, G, upper=False)
        new = new + 0.5 * lr**2 * half.mT @ half
        factor = torch.linalg.cholesky(new)
    return new, factor


def as_matrix(precision: float | Tensor, start: Params) -> Tensor:
    """precision times the identity [P, P] for a number; a matrix as it is."""
    precision = torch.as_tensor(precision).detach().double()
    if precision.dim():
        return precision
    P = Flat.of(start).layout.size
    return precision.to(Flat.of(start).vector.device) * torch.eye(P, dtype=torch.float64)


def check_settings(who: str, *, lr: float, samples: int, steps: int) -> None:
    """Raise InputError unless 0 < lr <= 1 and there is a sample and a step."""
    if not 0 < lr <= 1:
        raise InputError(f"{who}: lr is {lr}, but a step of natural gradient lies in (0, 1].")
    if samples < 1 or steps < 1:
        raise InputError(f"{who}: {samples} samples and {steps} steps, but it needs at least one of each.")
