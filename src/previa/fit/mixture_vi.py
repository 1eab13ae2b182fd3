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
from previa.fit.von import Watch, check_generator, check_settings, normal, stepped

GOLDEN = (math.sqrt(5) - 1) / 2  # steps of this length modulo 1 visit all parts of [0, 1) as evenly as can be
NEGLIGIBLE = 1e-16  # of a responsibility, where all of them sum to 1: below it none changes a sum in float64


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

    With h = log q + l and E_c the expectation over z ~ N_c (the defaults are the settings of App. B.2):
        P_c  <- P_c + lr E_c[Hess h]            (where P_c would lose more than half, as von.stepped)
        mu_c <- mu_c - lr P_c^-1 E_c[grad h]    (with the new P_c)
        log(pi_c/pi_K) <- log(pi_c/pi_K) - lr_weights (E_c[h] - E_K[h])
        r_c = pi_c N_c/q,  a_c = P_c (mu_c - z),  grad log q = gq = sum r_c a_c
        Hess log q = - sum r_c P_c + sum r_c a_c a_c' - gq gq'
    ``samples`` z are drawn from all components equally often and serve all: E_c[f] is the mean of delta_c f, delta_c = N_c/qbar
    with qbar = sum_k N_k/K. With pi = 1/K that is the paper's z ~ q and delta_c = N_c/q; but N_c/q grows as 1/pi_c, and threw
    components of little weight far away. In every stretch of steps each component is drawn as often as any other, give or take
    one or two: one left out would stay as it started, broad, and EM would fall back on it wherever theta is far from the others.
    A component that is drawn alone takes a step of lr K/samples. h counts from its mean, which changes no E_c[h] - E_K[h].

    All components move from the same q, in float64 and in logs. With many parameters components do not overlap: those without
    a sample are skipped, so a step costs two Cholesky factors per component that moves. It holds some 3 K P^2 numbers.
    Raises InputError for a bad setting, ParamsError and NotFiniteError for bad derivatives or starts, PrecisionError as von.
    """
    check_settings("mixture_vi", lr=lr, samples=samples, steps=steps)
    if not isinstance(starts, Sequence):
        raise InputError(
            f"mixture_vi: starts is a {type(starts).__name__}; expected a list of Full Gaussians."
        )
    K = len(starts)
    if not starts:
        raise InputError("mixture_vi: it needs at least one component to start from, as `scattered` gives.")
    if not (lr_weights >= 0 and math.isfinite(lr_weights)):
        raise InputError(f"mixture_vi: lr_weights is {lr_weights}, but it must be finite and not negative.")
    if lr * K > samples:
        most = samples / K
        scale = 10.0 ** (1 - math.floor(math.log10(most)))  # two digits, rounded down
        raise InputError(
            f"mixture_vi: lr {lr} x {K} components / {samples} samples is the step of a component that is drawn alone, and "
            f"must not be above 1: lower lr to {math.floor(most * scale) / scale:g} or take more samples, best a multiple of {K}."
        )
    for number, q in enumerate(starts):
        if not isinstance(q, Full):
            raise InputError(
                f"mixture_vi: component {number} is {type(q).__name__}, but only Full Gaussians are fitted."
            )
    layout = starts[0].layout
    for number, q in enumerate(starts):
        layout.check(q.mean, f"mixture_vi: component {number}", "component 0")
        if q.layout != layout:
            raise ParamsError(
                f"mixture_vi: component {number} has its tensors in another order than component 0."
            )
    mu = torch.stack([Flat.of(q.mean).vector for q in starts])  # [K, P]
    P = torch.stack([torch.as_tensor(q.precision) for q in starts])  # [K, P, P]
    L = torch.linalg.cholesky(P)
    log_pi = torch.full((K,), -math.log(K)).to(mu)
    check_generator(generator)
    first = float(torch.rand((), dtype=mu.dtype, generator=generator, device=generator.device))
    for step in range(1, steps + 1):
        where = f"mixture_vi, step {step}"
        z = _draw(mu, L, samples, (first + GOLDEN * step) % 1, generator)
        log_n, a = _log_densities(z, mu, L)
        log_qbar = torch.logsumexp(log_n, -1) - math.log(K)
        log_q = torch.logsumexp(log_pi + log_n, -1)
        delta = (log_n - log_qbar[:, None]).exp()
        delta[delta < NEGLIGIBLE] = 0.0
        delta = delta / samples  # so that sums over samples are means
        active = (delta > 0).any(0).nonzero().flatten()
        r = (log_pi + log_n - log_q[:, None]).exp()
        grad_q = torch.einsum("sk,skp->sp", r, a)
        h, g = log_q.clone(), torch.zeros_like(mu)
        G = mu.new_zeros(len(active), P[0].numel())
        for rows, loss, gradient, H in evaluated(derivatives, z, where):
            h[rows] += loss
            g += delta[rows].mT @ (gradient + grad_q[rows])
            hess_h = H + _hessian_of_log_q(r[rows], a[rows], grad_q[rows], P)
            G.addmm_(delta[rows][:, active].mT, hess_h.flatten(1))
        for some in chunks(len(active), mu.shape[1]):
            c, Gc = active[some], G[some].unflatten(-1, P.shape[1:])
            P[c], L[c] = stepped(P[c], L[c], 0.5 * (Gc + Gc.mT), lr, where)
            mu[c] -= lr * torch.cholesky_solve(g[c].unsqueeze(-1), L[c]).squeeze(-1)
        mean_h = (log_q - log_qbar).softmax(0) @ h  # over z ~ q
        log_pi = (log_pi - lr_weights * delta.mT @ (h - mean_h)).log_softmax(-1)
        if watch is not None:
            watch(step, -float(mean_h))
    pi = log_pi.exp()
    return Mixture([Full(Flat(layout, mu[c]), P[c]) for c in range(K) if pi[c] > 0], pi[pi > 0])


def scattered(q: Full, components: int, *, spread: float = 1.0, generator: Generator) -> list[Full]:
    """``components`` Gaussians to start a mixture from, of q's precision H, their means drawn from N(mean, spread^2 H^-1)."""
    if not isinstance(q, Full) or not isinstance(components, int) or components < 1:
        raise InputError(
            f"scattered: {type(q).__name__} and {components!r} components; expected a Full Gaussian and a whole number from 1 on."
        )
    m, H = Flat.of(q.mean).vector, torch.as_tensor(q.precision)
    eps = normal(components, m, generator)
    means = m + spread * torch.linalg.solve_triangular(torch.linalg.cholesky(H).mT, eps.mT, upper=True).mT
    return [q.from_natural((H.flatten(), H @ mean)) for mean in means]  # they share H's memory


def _draw(mu: Tensor, L: Tensor, samples: int, offset: float, generator: Generator) -> Tensor:
    """z [S, P] ~ qbar: of each component S/K samples, rounded up or down by the offset in [0, 1) (systematic sampling)."""
    c = ((offset + torch.arange(samples).to(mu)) * len(mu) / samples).long().clamp_max(len(mu) - 1)
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
    H: Tensor = -(r @ P.flatten(1)).unflatten(-1, P.shape[1:])
    H.baddbmm_((r.unsqueeze(-1) * a).mT, a)
    H.baddbmm_(grad_q.unsqueeze(-1), grad_q.unsqueeze(1), alpha=-1)
    return H
