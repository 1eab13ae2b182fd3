"""Warped weights: corners, sums and equal weights stay, small weights grow; and every family can be merged at them."""

from functools import partial

import pytest
import torch

from families import FAMILIES, families, tolerance
from previa.core.modes import modes
from previa.core.warp import warp, warped
from previa.errors import AlphaError, InputError

ROWS = torch.tensor([[0.2, 0.3, 0.5], [0.05, 0.05, 0.9], [0.0, 0.4, 0.6]], dtype=torch.float64)
POWERS = (0.12, 0.3, 0.5, 1.0, 2.0)
powers = pytest.mark.parametrize("p", POWERS)
ROUNDED = {"rtol": 1e-14, "atol": 0.0}  # a power, a sum and a quotient in float64


@powers
def test_the_weights_are_normalised_powers(p):
    expected = [
        [a**p * sum(row) / sum(b**p for b in row if b) if a else 0.0 for a in row] for row in ROWS.tolist()
    ]
    torch.testing.assert_close(warp(ROWS, p), torch.tensor(expected, dtype=torch.float64), **ROUNDED)


def test_the_power_one_is_the_identity_bit_for_bit():
    assert torch.equal(warp(ROWS, 1), ROWS)
    assert torch.equal(warp(ROWS.float(), 1.0), ROWS.float().double())


@powers
def test_corners_and_equal_weights_stay(p):
    eye = torch.eye(4, dtype=torch.float64)
    assert torch.equal(warp(eye, p), eye)
    assert torch.equal(warp([0.5, 0.5, 0.0], p), torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    third = torch.full((3,), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(warp(third, p), third, **ROUNDED)


@powers
def test_the_sum_is_kept_so_gamma_is_and_the_scale_of_alpha_goes_through(p):
    for scale in (0.3, 1.0, 2.5):
        w = warp(scale * ROWS, p)
        torch.testing.assert_close(w.sum(-1), (scale * ROWS).sum(-1), **ROUNDED)
        torch.testing.assert_close(w, scale * warp(ROWS, p), **ROUNDED)


@powers
def test_the_order_of_tasks_goes_through(p):
    order = [2, 0, 1]
    torch.testing.assert_close(warp(ROWS[:, order], p), warp(ROWS, p)[:, order], **ROUNDED)


def test_two_warps_are_one_with_the_product_of_their_powers():
    torch.testing.assert_close(warp(warp(ROWS, 0.6), 0.5), warp(ROWS, 0.3), **ROUNDED)


def test_powers_below_one_raise_small_weights_and_keep_the_order_of_sizes():
    for row in ROWS:
        w = warp(row, 0.3)
        assert torch.equal(w.argsort(), row.argsort())
        assert w.max() < row.max()
        assert w[row > 0].min() > row[row > 0].min()


def test_a_task_without_weight_gets_none():
    assert warp([0.0, 1e-6, 1.0], 0.01)[0] == 0
    assert float(warp([0.0, 1e-6, 1.0], 0.01)[1]) == pytest.approx(10**-0.06 / (1 + 10**-0.06))


@families
def test_every_family_is_merged_at_the_warped_weights_and_gives_a_task_at_its_corner(family):
    posteriors = [FAMILIES[family](seed) for seed in range(3)]
    method = partial(modes, posteriors=posteriors)
    found = warped(method, 0.3)(ROWS).params.vector
    assert torch.equal(found, method(warp(ROWS, 0.3)).params.vector)
    corners = warped(method, 0.3)(torch.eye(3, dtype=torch.float64)).params.vector
    own = torch.stack([q.mode().vector for q in posteriors])
    torch.testing.assert_close(corners, own, **tolerance(family))


@pytest.mark.parametrize("p", [0, -1.0, float("nan"), float("inf"), "0.3", None])
def test_a_power_that_is_none_is_refused_before_any_work(p):
    with pytest.raises(InputError, match=r"the power p is .*; expected a positive number, such as 0\.3"):
        warp(ROWS, p)
    with pytest.raises(InputError, match="the power p"):
        warped(partial(modes, posteriors=[]), p)


@pytest.mark.parametrize("alpha", [[0.5, -0.1, 0.6], [0.0, 0.0, 0.0], [0.5, float("nan"), 0.5]])
def test_weights_that_are_none_are_refused(alpha):
    with pytest.raises(AlphaError, match="positive for one task at least; found"):
        warp(alpha, 0.3)


def test_what_rounding_leaves_of_a_zero_is_no_task():
    dust = 1 - 0.7 - 0.2 - 0.1
    assert 0 < dust < 1e-16
    assert warp([0.7, 0.3, dust], 0.12)[2] == 0.0
    assert warp([0.7, 0.3 - 1e-6, 1e-6], 0.12)[2] > 0.05  # a small weight that is meant counts
