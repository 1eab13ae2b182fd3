"""One layer's block B (x) A + delta I of a precision, and weighted sums of such blocks with their preconditioner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import final

import torch
from torch import Tensor

from previa.core.conjugate_gradients import Map, System, definite
from previa.errors import NotFiniteError, ParamsError, PrecisionError

ROUNDING = 1e-6  # of its trace: how negative eigenvalues of a Gram matrix may be that was kept in float32


@final
@dataclass(frozen=True)
class Block:
    """H W = B W A + delta W for a matrix W [out, n] in row-major order; B = None is the identity.

    Raises NotFiniteError, ParamsError where a factor is not symmetric, PrecisionError where H is not positive definite.
    """

    weight: str
    entries: Tensor
    """places of W's entries in the parameter vector, [out * n]"""
    A: Tensor
    B: Tensor | None
    delta: float

    def __post_init__(self) -> None:
        if not (self.delta >= 0 and math.isfinite(self.delta)):
            raise PrecisionError(
                f"the damping of {self.weight!r} is {self.delta}, but it must be finite and not negative."
            )
        for what, matrix in self._matrices:
            if not bool(torch.isfinite(matrix).all()):
                raise NotFiniteError(f"factor {what} of {self.weight!r} holds NaN or infinity.")
            if bool((matrix - matrix.T).abs().max() > ROUNDING * matrix.abs().max()):
                raise ParamsError(f"factor {what} of {self.weight!r} is not symmetric.")
        _ = self.log_det  # checks that H is positive definite

    @property
    def shape(self) -> tuple[int, int]:
        """(out, n)."""
        return len(self.entries) // len(self.A), len(self.A)

    def times(self, v: Tensor) -> Tensor:
        """H v for v [..., out * n]."""
        return product(v, self.A.to(v), None if self.B is None else self.B.to(v)) + self.delta * v

    def diagonal(self) -> Tensor:
        """diag(B) (x) diag(A) + delta, [out * n] in float64."""
        a = self.A.diagonal().double()
        b = torch.ones_like(a[:1]).expand(self.shape[0]) if self.B is None else self.B.diagonal().double()
        return torch.outer(b, a).flatten() + self.delta

    @cached_property
    def log_det(self) -> Tensor:
        """log det H = sum_ij log(lambda_i(B) lambda_j(A) + delta), float64. Raises PrecisionError."""
        out, n = self.shape
        if not self.delta:  # det (B (x) A) = det(A)^out det(B)^n
            total = out * _log_det(self.A, f"A of {self.weight!r}")
            return total if self.B is None else total + n * _log_det(self.B, f"B of {self.weight!r}")
        a, b = _eigenvalues(self.A, f"A of {self.weight!r}"), torch.ones(1).to(self.A).double().expand(out)
        if self.B is not None:
            b = _eigenvalues(self.B, f"B of {self.weight!r}")
        smallest = torch.outer(b[[0, -1]], a[[0, -1]]).min()  # of B (x) A: below zero by rounding alone
        if not bool(smallest + self.delta > 0):
            raise PrecisionError(
                f"the damping of {self.weight!r} is {self.delta:.3g}, but rounding of its factors leaves eigenvalues of "
                f"{smallest.item():.3g}. Pass more (kronecker_damping), or factors in float64."
            )
        return (torch.outer(b, a) + self.delta).log().sum()

    @property
    def _matrices(self) -> list[tuple[str, Tensor]]:
        return [("A", self.A)] + ([] if self.B is None else [("B", self.B)])


def _log_det(matrix: Tensor, what: str) -> Tensor:
    """log det of a matrix that is positive definite beyond its rounding, float64. Raises PrecisionError for others.

    The smallest eigenvalue counts once the diagonal is scaled to ones, which leaves rounding as it is, relative to each entry:
    one that is not above ROUNDING n may be a zero in float32.
    """
    scale = matrix.diagonal().double()
    if bool((scale > 0).all()):
        scaled = matrix.double() / torch.outer(scale.sqrt(), scale.sqrt())
        slack = ROUNDING * len(matrix) * torch.eye(len(matrix)).to(scaled)
        if not int(torch.linalg.cholesky_ex(scaled - slack).info):
            L = torch.linalg.cholesky(scaled)
            log_det: Tensor = 2 * L.diagonal().log().sum() + scale.log().sum()
            return log_det
    raise PrecisionError(
        f"factor {what} is not positive definite beyond rounding: inputs that are always zero or depend on each other "
        "linearly, and fewer examples than inputs, leave directions without curvature; so does a softmax, whose gradients "
        "sum to zero. Pass damping (kronecker_damping)."
    )


def _eigenvalues(matrix: Tensor, what: str) -> Tensor:
    """In ascending order, float64. Raises PrecisionError where one is negative beyond rounding."""
    found: Tensor = torch.linalg.eigvalsh(matrix.double())
    if bool(found[0] < -ROUNDING * matrix.diagonal().double().sum()):
        raise PrecisionError(
            f"factor {what} is not positive definite; second moments have no negative eigenvalues: it was not made of any."
        )
    return found


def product(v: Tensor, A: Tensor, B: Tensor | None) -> Tensor:
    """(B W A) as rows for rows v [..., out * n] that hold W [out, n]."""
    W: Tensor = v.unflatten(-1, (-1, len(A))) @ A
    return (W if B is None else B @ W).flatten(-2)


def block_system(entries: Tensor, members: Sequence[Block | Tensor]) -> System:
    """The system of blocks, and of elementwise precisions h [out * n], in the block's order, beside them.

    M is the Kronecker product that has the sum's traces, its scalar part s spread over both factors: with the means a_k, b_k
    of the diagonals of A_k, B_k, c = sum_k w_k a_k b_k and s = sum_k w_k delta_k,
    M = (sum_k w_k a_k B_k / sqrt(c) + sqrt(s) I) (x) (sum_k w_k b_k A_k / sqrt(c) + sqrt(s) I).
    Where every B is I the sum is one Kronecker product, and M is the sum itself. Negative weights may leave M, but not the
    sum, indefinite: the sum's diagonal takes its place there.
    """
    blocks = [(k, q) for k, q in enumerate(members) if isinstance(q, Block)]
    out, n = blocks[0][1].shape
    plain = all(q.B is None for _, q in blocks)
    As = torch.stack([q.A.double() for _, q in blocks])
    Bs = None if plain else torch.stack([_dense(q).double() for _, q in blocks])
    own = [k for k, _ in blocks]
    shift = torch.stack([_shift(q) for q in members])
    diagonals = torch.stack([q.diagonal() if isinstance(q, Block) else q for q in members])

    def at(weights: Tensor) -> tuple[Map, Map]:
        """(the product with sum_t w_t H_t, a preconditioner for it) at weights [A, T]."""
        w, delta = weights[:, own], weights @ shift
        times = partial(_sum, w, As, Bs, delta)
        left, right, good = _inverses(w, As, Bs, delta.mean(-1))
        if bool(good.all()):
            return times, partial(_apply, left, right)
        h = definite(weights @ diagonals)
        return times, lambda r: torch.where(good[:, None], _apply(left, right, r), r / h)

    width = 8 * out * n + 3 * n * n + 3 * out * out
    return System(entries, [partial(_times, q) for q in members], at, width)


def _shift(q: Block | Tensor) -> Tensor:
    """The elementwise part of a member's precision, [out * n]."""
    return torch.full_like(q.entries, q.delta, dtype=torch.float64) if isinstance(q, Block) else q


def _inverses(w: Tensor, As: Tensor, Bs: Tensor | None, s: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """The inverses of M's two factors for each row, [A, n, n] and [A, out, out], and [A] whether M is positive definite."""
    if Bs is None:
        left, good = _inverse(torch.einsum("ak,kij->aij", w, As), s)
        return left, None, good
    a, b = (_mean_diagonals(m) for m in (As, Bs))
    c = (w * a * b).sum(-1, keepdim=True)
    scale = torch.where(c > 0, c, 1.0).rsqrt()  # c = 0 where no member with factors has weight
    root = s.clamp_min(0).sqrt()
    left, one = _inverse(torch.einsum("ak,kij->aij", w * b * scale, As), root)
    right, other = _inverse(torch.einsum("ak,kij->aij", w * a * scale, Bs), root)
    return left, right, one & other & (s >= 0)


def _inverse(matrices: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of each matrix + shift I, and whether that is positive definite; if it is not, I."""
    eye = torch.eye(matrices.shape[-1]).to(matrices)
    L, info = torch.linalg.cholesky_ex(matrices + shift[:, None, None] * eye)
    good: Tensor = info == 0
    return torch.cholesky_inverse(torch.where(good[:, None, None], L, eye)), good


def _apply(left: Tensor, right: Tensor | None, r: Tensor) -> Tensor:
    """right R left for each row, as rows."""
    R: Tensor = r.unflatten(-1, (-1, left.shape[-1])) @ left
    return (R if right is None else right @ R).flatten(-2)


def _sum(w: Tensor, As: Tensor, Bs: Tensor | None, delta: Tensor, v: Tensor) -> Tensor:
    """sum_k w_k (B_k V A_k) + delta V for each row."""
    total = delta * v
    for k in range(len(As)):
        total += w[:, k : k + 1] * product(v, As[k], None if Bs is None else Bs[k])
    return total


def _times(q: Block | Tensor, v: Tensor) -> Tensor:
    return q.times(v) if isinstance(q, Block) else q * v


def _dense(q: Block) -> Tensor:
    return torch.eye(q.shape[0], dtype=q.A.dtype, device=q.A.device) if q.B is None else q.B


def _mean_diagonals(matrices: Tensor) -> Tensor:
    means: Tensor = matrices.diagonal(dim1=-2, dim2=-1).mean(-1)
    return means
