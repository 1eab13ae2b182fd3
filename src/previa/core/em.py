"""EM for products of mixtures, and MM for heavy tails: each M-step is a merge (eq. 12, 14, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from previa.core.isotropic import Isotropic
from previa.core.merge import ROUNDING, with_prior
from previa.core.mixture import Mixture
from previa.core.params import Flat
from previa.core.posterior import Bounded, Factorised, Posterior
from previa.core.weighted import weighted_merge, weighted_modes
from previa.errors import AlphaError

SETTLED = 1e-8  # largest change of a weight, relative to the row's largest, at which EM has converged
NEGLIGIBLE = 1e-20  # a weight relative to the row's largest that is taken as zero: precisions may differ by 1e4 and no sum sees it
REMEMBERED = 1 << 28  # bytes of solutions that are kept for weights that come again
STALLED = 1e-12  # rise of F, relative to |F|, at which it has too: float32 parameters never settle to SETTLED


def em(
    alpha: Tensor, posteriors: Sequence[Posterior | Bounded], prior: Posterior | None, max_iterations: int
) -> tuple[Flat, dict[str, Tensor]]:
    """A local maximum of F(theta) = sum_t alpha_t log q_t(theta) + gamma log p0(theta) for each row of alpha [A, T].

    E-step w_tk = q_t.bound(theta); M-step theta = mode of sum_tk alpha_t w_tk lambda_tk + gamma lambda_0. F never falls.
    It is not concave: starts are the merge with each mixture's own weights (0), the plain average of all components (1), and
    the solution of the nearest other weighting (2); the best is kept. Returns theta [A, P] and, [A] each: iterations,
    converged (0 or 1), objective F, effective_k (1/sum r^2, averaged over tasks by alpha), start.
    Raises AlphaError where gamma is negative: F has no bound then.
    """
    if prior is not None and bool((alpha.sum(-1) > 1 + ROUNDING).any()):
        raise AlphaError(
            "alpha sums to more than one: with mixtures or Student-t a prior of negative weight has no maximum."
        )
    qs = [q if isinstance(q, Bounded) else Mixture([q]) for q in posteriors]
    product = _Product(alpha, qs, prior)
    weights = torch.cat([a[:, None] * q.start().to(a) for a, q in zip(alpha.T, qs, strict=True)], -1)
    plain = [Isotropic(q.mode()) for q in product.members]
    best = _ascend(product, product.merge_of_merges(), max_iterations)
    best["start"] = torch.zeros(len(alpha))
    _keep_better(best, _ascend(product, weighted_modes(weights, plain), max_iterations), 1)
    if len(alpha) > 1:
        apart = torch.cdist(alpha, alpha).fill_diagonal_(torch.inf)
        neighbours = Flat(product.layout, best["theta"][apart.argmin(1)])
        _keep_better(best, _ascend(product, neighbours, max_iterations), 2)
    return Flat(product.layout, best.pop("theta")), best


class _Product:
    """F(theta) for all rows of alpha, its E-step and its M-step."""

    def __init__(self, alpha: Tensor, qs: Sequence[Bounded], prior: Posterior | None) -> None:
        self.alpha, self.qs, self.prior = alpha, qs, prior
        self.members = [component for q in qs for component in q.components]
        self.layout = qs[0].layout
        self._solved: dict[bytes, Tensor] = {}

    def e_step(self, theta: Flat, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(F [a], alpha_t w_tk [a, sum K], effective K [a]) at theta [a, P], for these rows of alpha."""
        alpha = self.alpha[rows]
        F, K = torch.zeros(len(alpha)).double(), torch.zeros(len(alpha)).double()
        parts = []
        for a, q in zip(alpha.T, self.qs, strict=True):
            log_q, w = (part.to(a) for part in q.bound(theta))
            F += a * log_q
            r = w / w.sum(-1, keepdim=True)
            K += a * r.square().sum(-1).reciprocal()
            parts.append(a[:, None] * w)
        if self.prior is not None:
            F += (1 - alpha.sum(-1)) * self.prior.log_density(theta).to(alpha)
        weights = torch.cat(parts, -1)
        weights = torch.where(weights < NEGLIGIBLE * weights.amax(-1, keepdim=True), 0.0, weights)
        return F, weights, K / alpha.sum(-1)

    def m_step(self, weights: Tensor, rows: Tensor | None = None) -> Flat:
        """The merge of all components with these weights [a, sum K], and of the prior with gamma = 1 - sum(alpha)."""
        members = self.members
        if self.prior is not None:
            alpha = self.alpha if rows is None else self.alpha[rows]
            gamma, _ = with_prior(alpha, [], self.prior)
            weights, members = torch.cat([weights, gamma[:, -1:]], -1), [*members, self.prior]
        if isinstance(members[0], Factorised):
            return weighted_modes(weights, members)
        return self._remembered(weights, members)

    def _remembered(self, weights: Tensor, members: Sequence[Posterior]) -> Flat:
        """weighted_modes where a row costs a factorisation: each row is solved once, for saturated weights come again."""
        keys = [row.tobytes() for row in weights.cpu().numpy()]
        new = [row for row, key in enumerate(keys) if key not in self._solved]
        if not new:
            return Flat(self.layout, torch.stack([self._solved[key] for key in keys]))
        solved = weighted_modes(weights[new], members).vector
        theta = solved.new_empty(len(weights), solved.shape[-1])
        theta[new] = solved
        for row in set(range(len(keys))) - set(new):
            theta[row] = self._solved[keys[row]]
        if len(self._solved) * solved[0].nbytes < REMEMBERED:
            self._solved |= {keys[row]: solved[i].clone() for i, row in enumerate(new)}
        return Flat(self.layout, theta)

    def merge_of_merges(self) -> Flat:
        """The merge of all components with each mixture's own weights: by linearity of one collapsed posterior a task."""
        collapsed = [weighted_merge(q.start(), q.components) for q in self.qs]
        weights, members = with_prior(self.alpha, collapsed, self.prior)
        return weighted_modes(weights, members)


def _ascend(product: _Product, start: Flat, max_iterations: int) -> dict[str, Tensor]:
    """EM from ``start`` [A, P]; rows that have settled drop out."""
    theta = start.vector.clone()
    A = len(theta)
    out = {name: torch.zeros(A).double() for name in ("iterations", "converged", "objective", "effective_k")}
    rows = torch.arange(A)
    before: Tensor | None = None
    last = torch.full((A,), -torch.inf).double()
    for iteration in range(max_iterations + 1):
        F, weights, K = product.e_step(Flat(start.layout, theta[rows]), rows)
        out["objective"][rows], out["effective_k"][rows], out["iterations"][rows] = F, K, float(iteration)
        if before is not None:
            settled = (weights - before).abs().amax(-1) <= SETTLED * weights.amax(-1)
            settled |= F - last <= STALLED * F.abs()
            out["converged"][rows[settled]] = 1.0
            rows, weights, F = rows[~settled], weights[~settled], F[~settled]
        if not len(rows) or iteration == max_iterations:
            break
        theta[rows] = product.m_step(weights, rows).vector.to(theta)
        before, last = weights, F
    return {"theta": theta, **out}


def _keep_better(best: dict[str, Tensor], found: dict[str, Tensor], start: int) -> None:
    better = found["objective"] > best["objective"]
    for name, values in found.items():
        best[name][better] = values[better]
    best["start"][better] = float(start)
