"""Weighted sums of low-rank matrices, kept as factors: exact by concatenation, or cut to a rank by an SVD of small matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from previa.errors import InputError


@final
@dataclass(frozen=True)
class LowRank:
    """The matrix B A [m, n] by its factors B [m, r] and A [r, n], which is never formed."""

    B: Tensor
    A: Tensor

    @property
    def rank(self) -> int:
        """r, the number of columns of B: at least the matrix's rank."""
        return self.A.shape[0]


@final
@dataclass(frozen=True)
class Truncation:
    """A sum cut to a rank: what is left, and squared Frobenius norms of what was lost and of the whole."""

    kept: LowRank
    lost: float
    whole: float


def low_rank_sum(weights: Sequence[float], products: Sequence[LowRank]) -> LowRank:
    """sum_t w_t B_t A_t = [w_1 B_1 ... w_T B_T] [A_1; ...; A_T], exactly: ranks add up, and a weight of zero adds none.

    weights: any sign. The factors A are kept as they are. Raises InputError where every weight is zero.
    """
    used = [(w, product) for w, product in zip(weights, products, strict=True) if w != 0]
    if not used:
        raise InputError("low_rank_sum: every weight is zero; expected at least one other.")
    return LowRank(torch.cat([w * q.B for w, q in used], 1), torch.cat([q.A for _, q in used], 0))


def truncated_sums(
    weights: Sequence[Sequence[float]], products: Sequence[LowRank], rank: int
) -> list[Truncation]:
    """The best approximation of rank ``rank`` to each sum_t w_t B_t A_t (Eckart, Young), one for each row of weights [A, T].

    With [B_1 ... B_T] = Q_B R_B and [A_1; ...; A_T]^T = Q_A R_A, once for all rows, and the SVD U S V^T of the small matrix
    R_B diag(w) R_A^T, it is (Q_B U_k S_k^1/2) (S_k^1/2 V_k^T Q_A^T): the singular values are shared evenly by both factors.
    A sum of at most that rank is low_rank_sum itself. Raises InputError where rank < 1 or every weight of a row is zero.
    """
    if rank < 1:
        raise InputError(f"truncated_sums: rank is {rank}; expected at least 1.")
    Q_B, R_B = torch.linalg.qr(torch.cat([q.B for q in products], 1))
    Q_A, R_A = torch.linalg.qr(torch.cat([q.A for q in products], 0).T)
    found = []
    for row in weights:
        columns = torch.cat(
            [torch.full((q.rank,), w, dtype=R_B.dtype) for w, q in zip(row, products, strict=True)]
        )
        U, S, Vh = torch.linalg.svd((R_B * columns) @ R_A.T, full_matrices=False)
        exact, whole = low_rank_sum(row, products), float(S.double().square().sum())
        if exact.rank <= rank:
            found.append(Truncation(exact, 0.0, whole))
            continue
        root = S[:rank].sqrt()
        kept = LowRank(Q_B @ (U[:, :rank] * root), (root.unsqueeze(1) * Vh[:rank]) @ Q_A.T)
        found.append(Truncation(kept, float(S[rank:].double().square().sum()), whole))
    return found
