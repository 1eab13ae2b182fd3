"""A mixture of full Gaussians fitted to exp(-l) by natural gradients (Lin, Khan, Schmidt 2019, section 4.1; App. B.1, B.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from previa.core.full import Full
from previa.core.mixture import Mixture
from previa.core.params import Flat
from previa.errors import InputError, ParamsError
from previa.fit.derivatives import Derivatives, evaluated
from previa.fit.von import Watch, check_settings, stepped

NEGLIGIBLE = 1e-16  # a responsibility below it changes no sum in float64


def mixture_vi(
    derivatives: Derivatives,
    starts: Sequence[Full],
    *,
    lr: float = 0.02,
    lr_weights: float = 3e-6,
    samples: int = 3,
    steps: int = 25,
    generator: Generator,
    watch: Watch | None = None,
) -> Mixture:
    """q = sum_c pi_c N(mu_c, P_c^-1) that minimises KL(q || exp(-l)/Z) (eq. 7), from the K components ``starts``, pi = 1/K.

    With h = log q + l, delta_c = N_c/q and E the mean over samples z ~ q:
        P_c  <- P_c + lr E[delta_c Hess h]            (the positive definite step of ``von`` where this is not)
        mu_c <- mu_c - lr P_c^-1 E[delta_c grad h]    (with the new P_c)
        log(pi_c/pi_K) <- log(pi_c/pi_K) - lr_weights E[(delta_c - delta_K) h]
        r_c = pi_c delta_c,  a_c = P_c (mu_c - z),  grad log q = gq = sum r_c a_c
        Hess log q = - sum r_c P_c + sum r_c a_c a_c' - gq gq'
    Samples are spread over the components in proportion to pi (systematic sampling: the same expectation, less noise), so with
    ``samples`` a multiple of K and equal weights each component has as many. From h its mean is taken: E[delta_c] = 1.
    All in float64 and in logs, all components updated from the same q, one Cholesky factor per component that moves.
    Raises InputError for a bad setting, ParamsError and NotFiniteError for bad derivatives or starts of other layouts.
    """
    check_settings("mixture_vi", lr=lr, samples=samples, steps=steps)
    if not lr_weights >= 0:
        raise InputError(f"mixture_vi: lr_weights is {lr_weights}, but it must not be negative.")
    if not starts:
        raise InputError(
            "mixture_vi: it needs at least one starting component (previa.fit.mixture_vi.scattered)."
        )
    layout = starts[0].layout
    if any(q.layout != layout for q in starts):
        raise ParamsError("mixture_vi: the starting components differ in their tensors.")
    K = len(starts)
    mu = torch.stack([Flat.of(q.mean).vector for q in starts])  # [K, P]
    P = [q.precision for q in starts]
    L = [torch.linalg.cholesky(H) for H in P]
    log_pi = torch.full((K,), -math.log(K)).to(mu)
    for step in range(1, steps + 1):
        z = _draw(mu, L, log_pi, samples, generator)
        log_n, a = _log_densities(z, mu, L)  # [S, K], [K, S, P]
        log_q = torch.logsumexp(log_pi + log_n, -1)
        r = (log_pi + log_n - log_q[:, None]).exp()
        r = torch.where(r < NEGLIGIBLE, 0.0, r)
        delta = r / log_pi.exp()
        grad_q = torch.einsum("sk,ksp->sp", r, a)
        h, g = log_q.clone(), torch.zeros_like(mu)
        G: dict[int, Tensor] = {}
        for rows, loss, gradient, H in evaluated(derivatives, z, f"mixture_vi, step {step}"):
            h[rows] += loss
            g += delta[rows].mT @ (gradient + grad_q[rows]) / samples
            for Hs, s in zip(H, range(rows.start, rows.stop), strict=True):
                _add_hessian_of_log_q(Hs, r[s], a[:, s], grad_q[s], P)
                for c in r[s].nonzero().flatten().tolist():
                    weight = float(delta[s, c]) / samples
                    G[c] = G[c].add_(Hs, alpha=weight) if c in G else weight * Hs
        for c, Gc in G.items():
            P[c], L[c] = stepped(P[c], L[c], 0.5 * (Gc + Gc.mT), lr)
            mu[c] -= lr * torch.cholesky_solve(g[c].unsqueeze(-1), L[c]).squeeze(-1)
        log_pi = (log_pi - lr_weights * delta.mT @ (h - h.mean()) / samples).log_softmax(-1)
        if watch is not None:
            watch(step, -float(h.mean()))
    pi = log_pi.exp()
    alive = [c for c in range(K) if pi[c] > 0]
    return Mixture([Full(Flat(layout, mu[c]), P[c]) for c in alive], pi[alive])


def scattered(q: Full, components: int, *, spread: float = 1.0, generator: Generator) -> list[Full]:
    """``components`` Gaussians of q's precision H to start a mixture from, means drawn from N(mean, spread^2 H^-1)."""
    m, L = Flat.of(q.mean).vector, torch.linalg.cholesky(q.precision)
    eps = torch.randn(components, len(m), dtype=m.dtype, generator=generator, device=generator.device).to(m)
    means = m + spread * torch.linalg.solve_triangular(L.mT, eps.mT, upper=True).mT
    return [Full(Flat(q.layout, mean), q.precision) for mean in means]


def _draw(mu: Tensor, L: list[Tensor], log_pi: Tensor, samples: int, generator: Generator) -> Tensor:
    """z [S, P] ~ q, the components by systematic sampling: component c is drawn S pi_c times, rounded up or down."""
    u = torch.rand((), dtype=mu.dtype, generator=generator, device=generator.device).to(mu)
    places = (u + torch.arange(samples).to(mu)) / samples
    c = torch.searchsorted(log_pi.exp().cumsum(0), places, right=True).clamp_max(len(mu) - 1)
    eps = torch.randn(samples, mu.shape[1], dtype=mu.dtype, generator=generator, device=generator.device).to(
        mu
    )
    return torch.stack(
        [
            mu[k] + torch.linalg.solve_triangular(L[k].mT, e.unsqueeze(-1), upper=True).squeeze(-1)
            for k, e in zip(c.tolist(), eps, strict=True)
        ]
    )


def _log_densities(z: Tensor, mu: Tensor, L: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(log N_c(z_s) [S, K], a_c(z_s) = P_c (mu_c - z_s) [K, S, P])."""
    log_n, a = [], []
    for m, factor in zip(mu, L, strict=True):
        white = (m - z) @ factor  # rows are (L'(mu - z))'
        log_n.append(factor.diagonal().log().sum() - 0.5 * white.square().sum(-1))
        a.append(white @ factor.mT)
    return torch.stack(log_n, -1) - 0.5 * mu.shape[1] * math.log(2 * math.pi), torch.stack(a)


def _add_hessian_of_log_q(H: Tensor, r: Tensor, a: Tensor, grad_q: Tensor, P: list[Tensor]) -> None:
    """H += Hess log q(z) = - sum r_c P_c + sum r_c a_c a_c' - gq gq', for r [K] and a [K, P] at one z."""
    some = r.nonzero().flatten().tolist()
    for c in some:
        H.sub_(P[c], alpha=float(r[c]))
    if len(some) > 1:  # a single component: a a' - gq gq' = 0
        H.addmm_((r[some, None] * a[some]).mT, a[some])
        H.addr_(grad_q, grad_q, alpha=-1)
