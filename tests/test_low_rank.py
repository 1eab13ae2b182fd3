"""Sums of low-rank matrices: the dense matrices and their SVD are the oracle."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from previa.core.low_rank import LowRank, low_rank_sum, truncated_sums
from previa.errors import InputError

ROUNDING = 1e-12  # of float64, in sums of some hundred terms


def products(m: int = 7, n: int = 9, ranks: tuple[int, ...] = (2, 3, 1)) -> list[LowRank]:
    draw = torch.Generator().manual_seed(0)
    return [
        LowRank(
            torch.randn(m, r, generator=draw, dtype=torch.float64),
            torch.randn(r, n, generator=draw, dtype=torch.float64),
        )
        for r in ranks
    ]


def dense(weights: tuple[float, ...], members: list[LowRank]) -> Tensor:
    return torch.stack([w * q.B @ q.A for w, q in zip(weights, members, strict=True)]).sum(0)


@pytest.mark.parametrize("weights", [(0.2, 0.3, 0.5), (1.5, -0.5, 2.0), (0.0, 1.0, 0.0), (0.0, -2.0, 1.0)])
def test_the_sum_is_exact_and_ranks_add_up_where_weights_are_not_zero(weights: tuple[float, ...]) -> None:
    members = products()
    found = low_rank_sum(weights, members)
    torch.testing.assert_close(found.B @ found.A, dense(weights, members), rtol=0, atol=ROUNDING)
    assert found.rank == sum(q.rank for w, q in zip(weights, members, strict=True) if w)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_cut_sum_is_the_best_of_its_rank(rank: int) -> None:
    members, rows = products(), [(0.2, 0.3, 0.5), (1.5, -0.5, 2.0)]
    for weights, found in zip(rows, truncated_sums(rows, members, rank), strict=True):
        U, S, Vh = torch.linalg.svd(dense(weights, members), full_matrices=False)
        best = (U[:, :rank] * S[:rank]) @ Vh[:rank]
        torch.testing.assert_close(found.kept.B @ found.kept.A, best, rtol=0, atol=10 * ROUNDING)
        assert found.lost == pytest.approx(float(S[rank:].square().sum()), rel=1e-9)
        assert found.whole == pytest.approx(float(S.square().sum()), rel=1e-9)
        torch.testing.assert_close(found.kept.B.norm(dim=0), found.kept.A.norm(dim=1))  # shared evenly


def test_more_columns_than_the_matrix_has_are_cut_to_the_matrix() -> None:
    members = products(3, 4, (5, 5))
    (found,) = truncated_sums([(0.5, 0.5)], members, 8)
    assert found.kept.rank == 3
    torch.testing.assert_close(found.kept.B @ found.kept.A, dense((0.5, 0.5), members), rtol=0, atol=ROUNDING)
    assert found.lost == 0


def test_a_rank_that_is_enough_keeps_the_factors() -> None:
    members = products()
    (found,) = truncated_sums([(0.2, 0.3, 0.5)], members, 6)
    exact = low_rank_sum((0.2, 0.3, 0.5), members)
    assert torch.equal(found.kept.A, exact.A)
    assert torch.equal(found.kept.B, exact.B)


def test_nothing_to_sum_and_no_rank_are_errors() -> None:
    with pytest.raises(InputError, match="every weight is zero"):
        low_rank_sum((0.0, 0.0, 0.0), products())
    with pytest.raises(InputError, match="rank is 0; expected at least 1"):
        truncated_sums([(1.0, 1.0, 1.0)], products(), 0)
