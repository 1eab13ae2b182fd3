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
from previa.fit.derivatives import Derivatives, chunks, evaluated
from previa.fit.von import Watch, check_settings, normal, stepped

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
    """q = sum_c pi_c N(mu_c, P_c^-1) that minimises KL(q || exp(-l)/Z) (eq. 7), from K components ``starts``, pi = 1/K.

    With h = log q + l, delta_c = N_c/q and E the mean over samples z ~ q (the defaults are the settings of App. B.2):
        P_c  <- P_c + lr E[delta_c Hess h]            (where this is not positive definite, the step of von.stepped)
        mu_c <- mu_c - lr P_c^-1 E[delta_c grad h]    (with the new P_c)
        log(pi_c/pi_K) <- log(pi_c/pi_K) - lr_weights E[(delta_c - delta_K) h]
        r_c = pi_c delta_c,  a_c = P_c (mu_c - z),  grad log q = gq = sum r_c a_c
        Hess log q = - sum r_c P_c + sum r_c a_c a_c' - gq gq'
    Samples are spread over the components in proportion to pi (systematic sampling: the same expectation, less noise), so with
    equal weights and ``samples`` a multiple of K each component has as many. h counts from its mean: E[delta_c - delta_K] = 0.
    All components move from the same q, in float64 and in logs. Responsibilities saturate when P is large: components with
    none of the samples are skipped, so a step costs one Cholesky factor per component that moves, and 3 P^2 (K + samples) numbers.
    Raises InputError for a bad setting, ParamsError and NotFiniteError for bad derivatives or starts.
    """
    check_settings("mixture_vi", lr=lr, samples=samples, steps=steps)
    if not (lr_weights >= 0 and math.isfinite(lr_weights)):
        raise InputError(f"mixture_vi: lr_weights is {lr_weights}, but it must be finite and not negative.")
    if not starts:
        raise InputError("mixture_vi: it needs at least one component to start from, as `scattered` gives.")
    layout = starts[0].layout
    for number, q in enumerate(starts):
        layout.check(q.mean, f"component {number}", "component 0")
        if q.layout != layout:
            raise ParamsError(
                f"mixture_vi: component {number} has its tensors in another order than component 0."
            )
    mu = torch.stack([Flat.of(q.mean).vector for q in starts])  # [K, P]
    P = torch.stack([q.precision for q in starts])  # [K, P, P]
    L = torch.linalg.cholesky(P)
    log_pi = torch.full((len(starts),), -math.log(len(starts))).to(mu)
    for step in range(1, steps + 1):
        z = _draw(mu, L, log_pi, samples, generator)
        log_n, a = _log_densities(z, mu, L)
        log_q = torch.logsumexp(log_pi + log_n, -1)
        r = (log_pi + log_n - log_q[:, None]).exp()
        r[r < NEGLIGIBLE] = 0.0
        delta = r / log_pi.exp() / samples  # so that sums over samples are means
        active = (delta > 0).any(0).nonzero().flatten()
        grad_q = torch.einsum("sk,skp->sp", r, a)
        h, g = log_q.clone(), torch.zeros_like(mu)
        G = mu.new_zeros(len(active), P[0].numel())
        for rows, loss, gradient, H in evaluated(derivatives, z, f"mixture_vi, step {step}"):
            h[rows] += loss
            g += delta[rows].mT @ (gradient + grad_q[rows])
            hess_h = H + _hessian_of_log_q(r[rows], a[rows], grad_q[rows], P)
            G.addmm_(delta[rows][:, active].mT, hess_h.flatten(1))
        for some in chunks(len(active), mu.shape[1]):
            c, Gc = active[some], G[some].unflatten(-1, P.shape[1:])
            P[c], L[c] = stepped(P[c], L[c], 0.5 * (Gc + Gc.mT), lr)
            mu[c] -= lr * torch.cholesky_solve(g[c].unsqueeze(-1), L[c]).squeeze(-1)
        log_pi = (log_pi - lr_weights * delta.mT @ (h - h.mean())).log_softmax(-1)
        if watch is not None:
            watch(step, -float(h.mean()))
    pi = log_pi.exp()
    return Mixture([Full(Flat(layout, mu[c]), P[c]) for c in range(len(mu)) if pi[c] > 0], pi[pi > 0])


def scattered(q: Full, components: int, *, spread: float = 1.0, generator: Generator) -> list[Full]:
    """``components`` Gaussians to start a mixture from, of q's precision H, their means drawn from N(mean, spread^2 H^-1)."""
    m, H = Flat.of(q.mean).vector, q.precision
    eps = normal(components, m, generator)
    means = m + spread * torch.linalg.solve_triangular(torch.linalg.cholesky(H).mT, eps.mT, upper=True).mT
    return [q.from_natural((H.flatten(), H @ mean)) for mean in means]  # they share H's memory


def _draw(mu: Tensor, L: Tensor, log_pi: Tensor, samples: int, generator: Generator) -> Tensor:
    """z [S, P] ~ q, components by systematic sampling: component c is drawn S pi_c times, rounded up or down."""
    u = torch.rand((), dtype=mu.dtype, generator=generator, device=generator.device).to(mu)
    places = (u + torch.arange(samples).to(mu)) / samples
    c = torch.searchsorted(log_pi.exp().cumsum(0), places, right=True).clamp_max(len(mu) - 1)
    eps = normal(samples, mu, generator)
    z = torch.empty_like(eps)
    for k in c.unique().tolist():
        white = eps[c == k].mT
        z[c == k] = mu[k] + torch.linalg.solve_triangular(L[k].mT, white, upper=True).mT
    return z


def _log_densities(z: Tensor, mu: Tensor, L: Tensor) -> tuple[Tensor, Tensor]:
    """(log N_c(z_s) [S, K], a_c(z_s) = P_c (mu_c - z_s) [S, K, P])."""
    white = (mu[:, None] - z) @ L  # [K, S, P]: rows are (L' (mu - z))'
    logdet = L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    norm = 0.5 * mu.shape[1] * math.log(2 * math.pi)
    return logdet - norm - 0.5 * white.square().sum(-1).mT, (white @ L.mT).transpose(0, 1)


def _hessian_of_log_q(r: Tensor, a: Tensor, grad_q: Tensor, P: Tensor) -> Tensor:
    """- sum r_c P_c + sum r_c a_c a_c' - gq gq' [S, P, P], from r [S, K], a [S, K, P] and gq = sum r_c a_c [S, P]."""
    H = -(r @ P.flatten(1)).unflatten(-1, P.shape[1:])
    H.baddbmm_((r.unsqueeze(-1) * a).mT, a)
    H.baddbmm_(grad_q.unsqueeze(-1), grad_q.unsqueeze(1), alpha=-1)
    return H
