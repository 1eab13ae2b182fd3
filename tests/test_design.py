"""Mixture designs: what they recover, what they never do, and that every run tells something."""

from itertools import permutations, product
from math import comb

import numpy as np
import pytest
import torch

from previa.core.scheffe import terms
from previa.core.warp import warp
from previa.errors import AlphaError, InputError
from previa.study.design import covariance, lattice, propose, variance, warped
from previa.study.simplex import check_alphas, uniform

TASKS = (2, 3, 5, 8)


def as_set(rows):
    return {tuple(np.round(row, 9)) for row in rows}


def test_three_tasks_and_four_runs_give_the_centroid_and_the_edges_middles():
    assert as_set(propose(3, 4)) == as_set([[1 / 3] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])


def test_five_tasks_begin_with_the_centroid_and_the_middles_of_all_but_one():
    assert as_set(propose(5, 6)) == as_set([[0.2] * 5, *(0.25 * (1 - np.eye(5)))])


@pytest.mark.parametrize("T", TASKS)
def test_one_run_is_the_centroid_unless_it_is_done(T):
    assert np.allclose(propose(T, 1), uniform(T))
    assert not np.allclose(propose(T, 1, [uniform(T)]), uniform(T))


@pytest.mark.parametrize("T", TASKS)
def test_proposals_are_weightings_no_corners_and_never_repeat_what_is_done(T):
    done = propose(T, 3)
    rows = propose(T, 20, [*done, np.eye(T)[0]])  # a corner among those done is no harm
    check_alphas(rows, T)
    assert rows.max() < 1 - 1e-6
    assert len(as_set([*done, *rows])) == 23


@pytest.mark.parametrize("T", TASKS)
def test_a_larger_budget_only_adds_runs_and_done_ones_count_as_proposed(T):
    all_of_them = propose(T, 9)
    assert np.array_equal(propose(T, 4), all_of_them[:4])
    assert as_set(propose(T, 5, all_of_them[:4])) == as_set(all_of_them[4:])


@pytest.mark.parametrize("T", TASKS)
def test_the_mean_variance_falls_with_every_run(T):
    rows = propose(T, 10)
    v = [variance(lattice(T), rows[:n]).mean() for n in range(11)]
    assert (np.diff(v) < 0).all()


def test_the_choice_is_the_best_of_all_candidates_by_the_naive_sum():
    done = np.array([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]])
    everything = propose(3, 11, [*done, uniform(3)])
    v = [variance(lattice(3), [*done, uniform(3), row]).mean() for row in everything]
    assert v[0] <= min(v) * (1 + 1e-9)


@pytest.mark.parametrize(("T", "budget"), [(2, 1), (3, 4), (3, 7), (4, 11), (5, 6), (5, 16)])
def test_whole_designs_are_the_same_for_every_order_of_the_tasks(T, budget):
    rows = propose(T, budget)
    for order in list(permutations(range(T)))[:200:40]:
        assert as_set(rows[:, order]) == as_set(rows)


def test_permuted_runs_get_proposals_that_tell_as_much():
    done = np.array([[0.7, 0.2, 0.1, 0.0], [0.1, 0.1, 0.1, 0.7]])
    first = variance(lattice(4), [*done, *propose(4, 5, done)]).mean()
    for order in permutations(range(4)):
        other = done[:, order]
        assert variance(lattice(4), [*other, *propose(4, 5, other)]).mean() == pytest.approx(first)


@pytest.mark.parametrize("p", [1.0, 0.5, 0.2])
def test_weights_are_warped_as_previews_are(p):
    a = np.random.default_rng(2).dirichlet(np.ones(4), 5)
    assert np.allclose(warped(a, p), warp(a, p).numpy())
    assert np.allclose(variance(a, a[:2], p=p), variance(warped(a, p), warped(a[:2], p), p=1))


def test_a_run_beside_the_middle_of_an_edge_stands_for_it():
    rows = propose(3, 3, [[0.48, 0.52, 0.0]])
    assert as_set(rows) == as_set([[1 / 3] * 3, [0.5, 0, 0.5], [0, 0.5, 0.5]])


@pytest.mark.parametrize("T", TASKS)
def test_the_variance_is_zero_at_corners_and_nearly_so_at_runs(T):
    runs = propose(T, 5)
    assert variance(np.eye(T)) == pytest.approx(0, abs=1e-12)
    assert (variance(runs, runs) < 0.051).all()
    assert (variance(runs) > 0.05).all()


@pytest.mark.parametrize("T", TASKS)
def test_the_covariance_is_the_slow_sum_over_the_terms_of_anchored_previews_and_a_smooth_rest(T):
    rng = np.random.default_rng(T)
    a, b = rng.dirichlet(np.ones(T), 6), rng.dirichlet(np.ones(T), 4)
    first, second = terms(torch.tensor(a)).numpy(), terms(torch.tensor(b)).numpy()
    pairs = comb(T, 2)
    prior = np.diag([0.5] * pairs + [1.5] * comb(T, 3))
    prior[:pairs, :pairs] += 0.5
    prior[pairs:, pairs:] += 1.5
    for i, j in product(range(6), range(4)):
        rest = np.exp(-2 * np.square(np.sqrt(a[i]) - np.sqrt(b[j])).sum())
        rest *= (1 - np.square(a[i]).sum()) * (1 - np.square(b[j]).sum())
        assert covariance(a, b)[i, j] == pytest.approx(first[i] @ prior @ second[j] + 0.1 * rest)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((1, 1), "T should be"),
        ((3, 0), "budget should be"),
        ((3, 1.5), "budget should be"),
        ((50, 200), "choose from"),
    ],
)
def test_what_cannot_be_designed_is_refused(arguments, says):
    with pytest.raises(InputError, match=says):
        propose(*arguments)


def test_a_power_that_is_not_positive_is_refused():
    with pytest.raises(InputError, match="power p"):
        variance([[0.5, 0.5]], p=0)


@pytest.mark.parametrize("done", [[[0.5, 0.6, 0.0]], [[0.5, 0.5]], [0.5, 0.5, 0.0]])
def test_runs_that_are_no_weightings_are_refused(done):
    with pytest.raises(AlphaError, match="propose: done"):
        propose(3, 1, done)
