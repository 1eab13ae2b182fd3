"""How much anchors count: cardinal functions of any design, that stay small where runs lie close together or beside a corner."""

from itertools import combinations, product

import pytest
import torch

from previa.core.scheffe import RANK, cardinals, terms
from previa.core.warp import warp
from previa.errors import AlphaError, InputError

CLOSE = {"rtol": 0.0, "atol": 1e-10}  # a pseudo-inverse and a solve in float64


def lattice(T, steps):
    rows = [row for row in product(range(steps + 1), repeat=T) if sum(row) == steps]
    return torch.tensor(rows, dtype=torch.float64) / steps


def complete(T):
    """The middles of every two and three tasks: a run for each term."""
    eye = torch.eye(T, dtype=torch.float64)
    return torch.stack(
        [eye[list(some)].mean(0) for k in (2, 3) if k <= T for some in combinations(range(T), k)]
    )


def drawn(T, n, seed):
    rows = -torch.rand(n, T, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log()
    return rows / rows.sum(-1, keepdim=True)


def test_a_term_is_one_at_the_middle_of_its_tasks_and_zero_at_corners_and_on_edges_without_them():
    at = complete(4)
    found = terms(at)
    assert found.shape == (10, 10)
    torch.testing.assert_close(found.diagonal(), torch.ones(10, dtype=torch.float64), **CLOSE)
    assert not terms(torch.eye(4, dtype=torch.float64)).any()
    pairs = list(combinations(range(4), 2))
    assert float(found[pairs.index((0, 1)), pairs.index((2, 3))]) == 0
    assert terms(torch.ones(1, 1, dtype=torch.float64)).shape == (1, 0)


@pytest.mark.parametrize("T", [2, 3, 4, 5])
def test_a_complete_design_gives_scheffes_special_cubic(T):
    """Fitted by hand: y = sum_t beta_t w_t + sum over pairs and triples, through corners and middles."""
    at, w = complete(T), lattice(T, 6)
    assert float(torch.linalg.svdvals(terms(at))[-1]) > RANK
    y = torch.randn(len(at), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    every = torch.cat([torch.eye(T, dtype=torch.float64), at])
    design = torch.cat([every, terms(every)], 1)
    beta = torch.linalg.solve(design, torch.cat([torch.zeros(T, dtype=torch.float64), y]))
    torch.testing.assert_close(cardinals(w, at) @ y, torch.cat([w, terms(w)], 1) @ beta, **CLOSE)


DESIGNS = {
    "one in the middle": torch.tensor([[1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64),
    "one anywhere": drawn(3, 1, 1),
    "fewer than terms": drawn(3, 3, 2),
    "as many as terms": drawn(3, 4, 3),
    "more than terms": drawn(3, 9, 4),
    "all on one edge": torch.tensor([[0.2, 0.8, 0.0], [0.5, 0.5, 0.0], [0.7, 0.3, 0.0]], dtype=torch.float64),
    "two that nearly coincide": torch.tensor(
        [[0.3, 0.3, 0.4], [0.3001, 0.2999, 0.4], [0.1, 0.1, 0.8]], dtype=torch.float64
    ),
    "beside a corner": torch.tensor([[0.999, 0.001, 0.0], [0.99, 0.0, 0.01]], dtype=torch.float64),
    "two tasks": torch.tensor([[0.1, 0.9], [0.12, 0.88]], dtype=torch.float64),
    "five tasks": drawn(5, 12, 5),
    "twelve tasks": torch.cat([torch.full((1, 12), 1 / 12, dtype=torch.float64), drawn(12, 3, 6)]),
}
designs = pytest.mark.parametrize("name", DESIGNS)
powers = pytest.mark.parametrize("p", [1.0, 0.3, 0.12])


@designs
@powers
def test_each_is_one_at_its_anchor_and_zero_at_the_others_and_at_corners(name, p):
    at = warp(DESIGNS[name], p)
    n, T = at.shape
    eye = torch.eye(T, dtype=torch.float64)
    assert torch.equal(
        cardinals(torch.cat([at, eye]), at), torch.cat([torch.eye(n), torch.zeros(T, n)]).double()
    )


@designs
@powers
def test_they_go_on_smoothly_from_anchors_and_corners(name, p):
    """What is exact there could hide: a step of 3e-6 moves them by little, in every direction."""
    at = warp(DESIGNS[name], p)
    n, T = at.shape
    runs = torch.cat([at, torch.eye(T, dtype=torch.float64)])
    inwards = 0.999997 * runs + 3e-6 / T
    expected = torch.cat([torch.eye(n), torch.zeros(T, n)]).double()
    # slopes: those of sqrt(w) at a weight of zero, where a step of 1e-6 is one of 1e-3; between anchors 1e-4 apart, 1e4 / WIDTH
    torch.testing.assert_close(cardinals(inwards, at), expected, rtol=0, atol=0.1)


@designs
@powers
def test_no_residual_is_counted_many_times(name, p):
    """What a run misses by chance would be, too. Two runs 1e-4 apart would else count 1e4 times each."""
    at = warp(DESIGNS[name], p)
    T = at.shape[1]
    w = torch.cat([lattice(T, 20 if T == 3 else 4 if T < 12 else 2), drawn(T, 200, 7)])
    assert float(cardinals(w, at).abs().sum(-1).max()) < 6


@pytest.mark.parametrize("T", [2, 3, 5])
def test_random_designs_of_any_size_stay_small_too(T):
    w = drawn(T, 300, 1)
    for seed in range(20):
        for n in (1, 2, 4, 8, 16):
            at = warp(drawn(T, n, 100 + seed), (1.0, 0.3)[seed % 2])
            b = cardinals(w, at)
            assert float(b.abs().sum(-1).max()) < 8, (seed, n)


@pytest.mark.parametrize("p", [1.0, 0.3])
def test_anchors_anywhere_help_or_do_little_harm(p):
    """A truth that saturates, theta = alpha^0.5, and runs that miss it by a tenth of what plain merging does."""
    w, ratios = drawn(3, 400, 1), []
    plain = warp(w, p)
    truth = warp(w, 0.5)
    missed = float((plain - truth).square().mean())
    for seed in range(30):
        at = drawn(3, (2, 4, 7)[seed % 3], 200 + seed)
        chance = torch.randn(at.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        residuals = warp(at, 0.5) + 0.1 * missed**0.5 * chance - warp(at, p)
        found = plain + cardinals(plain, warp(at, p)) @ residuals
        ratios.append(float((found - truth).square().mean()) / missed)
    assert max(ratios) < 2  # over 4000 where terms count that anchors hardly identify
    assert sorted(ratios[2::3])[5] < 0.6  # with seven anchors
    assert sorted(ratios)[15] < 0.9


def test_the_order_of_anchors_and_of_tasks_goes_through():
    w, order, turn = drawn(3, 20, 0), [4, 2, 0, 1, 3], [2, 0, 1]
    for at in (drawn(3, 5, 3), complete(3)):
        some = order[: len(at)] if len(at) == 5 else [3, 1, 0, 2]
        expected = cardinals(w, at)
        torch.testing.assert_close(cardinals(w, at[some]), expected[:, some], **CLOSE)
        torch.testing.assert_close(cardinals(w[:, turn], at[:, turn]), expected, **CLOSE)


def test_no_anchors_count_nothing():
    assert cardinals(lattice(3, 2), torch.zeros(0, 3, dtype=torch.float64)).shape == (6, 0)


def test_anchors_at_corners_twice_or_of_other_tasks_are_refused():
    w = lattice(3, 2)
    with pytest.raises(
        AlphaError, match=r"\[0\.0, 1\.0, 0\.0\] is a corner of the simplex.*as that task's posterior"
    ):
        cardinals(w, torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64))
    with pytest.raises(
        AlphaError, match=r"two are trained at \[0\.5, 0\.5, 0\.0\].*the mean of their parameters"
    ):
        cardinals(w, torch.tensor([[0.5, 0.5, 0.0], [0.5 + 1e-7, 0.5 - 1e-7, 0.0]], dtype=torch.float64))
    with pytest.raises(InputError, match=r"w is \(6, 3\) and at is \(1, 2\)"):
        cardinals(w, torch.tensor([[0.5, 0.5]], dtype=torch.float64))
