"""One layer's block B (x) A + delta I of a precision, and weighted sums of such blocks with their preconditioner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import final

import torch
from torch import Tensor

from previa.core.conjugate_gradients import NOT_DEFINITE, Map, System, definite
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
            if self.delta and not bool(matrix.any()):
                continue
            shifted = matrix.double()
            if self.delta:
                slack = ROUNDING * shifted.diagonal().sum()
                shifted = shifted + slack * torch.eye(len(matrix)).to(shifted)
            if int(torch.linalg.cholesky_ex(shifted).info):
                cure = (
                    "second moments have no negative eigenvalues: it was not made of any."
                    if self.delta
                    else "inputs that are always zero, or fewer examples than entries, leave directions without curvature. Pass "
                    "damping (kronecker_damping)."
                )
                raise PrecisionError(f"factor {what} of {self.weight!r} is not positive definite; {cure}")

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
        """log det H = sum_ij log(lambda_i(B) lambda_j(A) + delta), float64."""
        a = torch.linalg.eigvalsh(self.A.double())
        b = torch.ones_like(a[:1]).expand(self.shape[0])
        if self.B is not None:
            b = torch.linalg.eigvalsh(self.B.double())
        total: Tensor = definite(torch.outer(b, a) + self.delta).log().sum()
        return total

    @property
    def _matrices(self) -> list[tuple[str, Tensor]]:
        return [("A", self.A)] + ([] if self.B is None else [("B", self.B)])


def product(v: Tensor, A: Tensor, B: Tensor | None) -> Tensor:
    """(B W A) as rows for rows v [..., out * n] that hold W [out, n]."""
    W: Tensor = v.unflatten(-1, (-1, len(A))) @ A
    return (W if B is None else B @ W).flatten(-2)


def block_system(entries: Tensor, members: Sequence[Block | Tensor]) -> System:
    """The system of blocks, and of elementwise precisions h [out * n], in the block's order, beside them.

    M is the Kronecker product that has the sum's traces, its scalar part s spread over both factors: with the means a_k, b_k
    of the diagonals of A_k, B_k, c = sum_k w_k a_k b_k and s = sum_k w_k delta_k,
    M = (sum_k w_k a_k B_k / sqrt(c) + sqrt(s) I) (x) (sum_k w_k b_k A_k / sqrt(c) + sqrt(s) I).
    Where every B is I the sum is one Kronecker product, and M is the sum itself.
    """
    blocks = [(k, q) for k, q in enumerate(members) if isinstance(q, Block)]
    out, n = blocks[0][1].shape
    plain = all(q.B is None for _, q in blocks)
    As = torch.stack([q.A.double() for _, q in blocks])
    Bs = None if plain else torch.stack([_dense(q).double() for _, q in blocks])
    own = [k for k, _ in blocks]
    shift = torch.stack([_shift(q) for q in members])

    def at(weights: Tensor) -> tuple[Map, Map]:
        w, delta = weights[:, own], weights @ shift
        times = partial(_sum, w, As, Bs, delta)
        s = delta.mean(-1)
        if bool((s < 0).any()):
            raise PrecisionError(NOT_DEFINITE)
        return times, partial(_apply, *_inverses(w, As, Bs, s))

    width = 8 * out * n + 3 * n * n + 3 * out * out
    return System(entries, [partial(_times, q) for q in members], at, width)


def _shift(q: Block | Tensor) -> Tensor:
    """The elementwise part of a member's precision, [out * n]."""
    return torch.full_like(q.entries, q.delta, dtype=torch.float64) if isinstance(q, Block) else q


def _inverses(w: Tensor, As: Tensor, Bs: Tensor | None, s: Tensor) -> tuple[Tensor, Tensor | None]:
    """The inverses of M's two factors for each row, [A, n, n] and [A, out, out]."""
    if Bs is None:
        return _inverse(torch.einsum("ak,kij->aij", w, As), s), None
    a, b = (_mean_diagonals(m) for m in (As, Bs))
    c = (w * a * b).sum(-1, keepdim=True)
    scale = torch.where(c > 0, c, 1.0).rsqrt()  # c = 0 where no member with factors has weight
    left = torch.einsum("ak,kij->aij", w * b * scale, As)
    right = torch.einsum("ak,kij->aij", w * a * scale, Bs)
    return _inverse(left, s.sqrt()), _inverse(right, s.sqrt())


def _inverse(matrices: Tensor, shift: Tensor) -> Tensor:
    matrices.diagonal(dim1=-2, dim2=-1).add_(shift.unsqueeze(-1))
    L, info = torch.linalg.cholesky_ex(matrices)
    if bool((info != 0).any()):
        raise PrecisionError(NOT_DEFINITE)
    return torch.cholesky_inverse(L)


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
