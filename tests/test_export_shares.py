"""Row shares: rows sampled by q_t give, in expectation, the gradient of the weighted objective; laws and a simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from previa.errors import AlphaError, InputError
from previa.export.shares import apportion, passes, row_shares, token_shares

ALPHA, ROWS, MEAN_LENGTHS = np.array([0.5, 0.2, 0.3]), (40, 300, 90), (30, 8, 15)
RULES = [(convention, average) for convention in ("mean", "sum") for average in ("rows", "tokens")]


@pytest.fixture(scope="module")
def tasks():
    """Per task (S [N, 2], l [N]): the gradient of a row's loss summed over its tokens, and how many tokens it has."""
    rng = np.random.default_rng(0)
    made = []
    for N, L in zip(ROWS, MEAN_LENGTHS, strict=True):
        length = rng.integers(1, 2 * L, N)
        made.append(
            (rng.normal(size=(N, 2)) * length[:, None] + length[:, None] * rng.normal(size=2), length)
        )
    return made


def lengths(tasks):
    return [float(length.mean()) for _, length in tasks]


def objective(tasks, convention, average):
    """The gradient of sum_t alpha_t l_t [2], and the factor by which an average over the rows drawn is smaller."""
    total, scale = np.zeros(2), 0.0
    for a, (S, length) in zip(ALPHA, tasks, strict=True):
        sums = (S / length[:, None]).sum(0) if average == "rows" else S.sum(0)
        terms = len(S) if average == "rows" else length.sum()
        total += a * sums / (terms if convention == "mean" else 1)
        scale += a * (1 if convention == "mean" else terms)
    return total, scale


@pytest.mark.parametrize(("convention", "average"), RULES)
def test_in_expectation_the_trainer_follows_the_gradient_of_the_objective(tasks, convention, average):
    q = row_shares(ALPHA, ROWS, lengths(tasks), convention=convention, average=average)
    rows = sum(share * (S / length[:, None]).mean(0) for share, (S, length) in zip(q, tasks, strict=True))
    sums = sum(share * S.mean(0) for share, (S, _) in zip(q, tasks, strict=True))
    tokens = sum(share * length.mean() for share, (_, length) in zip(q, tasks, strict=True))
    gradient, scale = objective(tasks, convention, average)
    np.testing.assert_allclose(rows if average == "rows" else sums / tokens, gradient / scale, rtol=1e-12)


@pytest.mark.parametrize(("convention", "average"), RULES)
def test_batches_sampled_by_the_shares_follow_it_and_those_of_another_rule_do_not(tasks, convention, average):
    """4000 batches of 500 rows; five standard errors of their mean are allowed. A ratio's bias, of order 1/500, is in them."""
    gradient, scale = objective(tasks, convention, average)
    all_S = np.concatenate([S for S, _ in tasks])
    all_l = np.concatenate([length for _, length in tasks])
    rng = np.random.default_rng(1)

    def off(q):
        p = np.repeat(q / np.array(ROWS), ROWS)
        drawn = rng.choice(len(p), size=(4000, 500), p=p / p.sum())
        if average == "rows":
            batches = (all_S / all_l[:, None])[drawn].mean(1)
        else:
            batches = all_S[drawn].sum(1) / all_l[drawn].sum(1)[:, None]
        return np.abs(batches.mean(0) - gradient / scale) / (batches.std(0) / np.sqrt(len(batches)))

    right = row_shares(ALPHA, ROWS, lengths(tasks), convention=convention, average=average)
    assert (off(right) < 5).all()
    for other in RULES:
        q = row_shares(ALPHA, ROWS, lengths(tasks), convention=other[0], average=other[1])
        assert np.allclose(q, right) or (off(q) > 20).any(), other


@pytest.mark.parametrize(("convention", "average"), RULES)
def test_a_corner_draws_its_task_alone_and_the_order_of_tasks_is_irrelevant(convention, average):
    rule = {"convention": convention, "average": average}
    for t in range(3):
        assert row_shares(np.eye(3)[t], ROWS, MEAN_LENGTHS, **rule)[t] == 1
    q = row_shares(ALPHA, ROWS, MEAN_LENGTHS, **rule)
    turned = row_shares(ALPHA[::-1], ROWS[::-1], MEAN_LENGTHS[::-1], **rule)
    np.testing.assert_allclose(turned[::-1], q, rtol=1e-12)
    assert q.sum() == pytest.approx(1, abs=1e-12)


def test_rows_of_one_length_make_no_difference_between_rows_and_tokens():
    for convention in ("mean", "sum"):
        by_rows, by_tokens = (
            row_shares(ALPHA, ROWS, (7, 7, 7), convention=convention, average=average)
            for average in ("rows", "tokens")
        )
        np.testing.assert_allclose(by_rows, by_tokens, rtol=1e-12)


def test_summed_losses_at_uniform_alpha_are_the_concatenated_data():
    for average in ("rows", "tokens"):
        q = row_shares([1 / 3] * 3, ROWS, MEAN_LENGTHS, convention="sum", average=average)
        np.testing.assert_allclose(q, np.array(ROWS) / sum(ROWS), rtol=1e-12)


def test_mean_losses_of_tokens_give_each_task_alpha_of_the_tokens():
    q = row_shares(ALPHA, ROWS, MEAN_LENGTHS, average="tokens")
    np.testing.assert_allclose(token_shares(q, MEAN_LENGTHS), ALPHA, rtol=1e-12)


def test_what_is_no_weighting_or_no_size_is_refused():
    with pytest.raises(AlphaError, match="sum to 1"):
        row_shares([0.5, 0.6], (1, 1))
    with pytest.raises(InputError, match="rows: there should be one positive number a task"):
        row_shares([0.5, 0.5], (1, 0))
    with pytest.raises(InputError, match="needs the mean number of supervised tokens"):
        row_shares([0.5, 0.5], (1, 1), average="tokens")
    with pytest.raises(InputError, match="tokens: there should be one positive number"):
        token_shares([0.5, 0.5], (1, float("nan")))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6).filter(lambda w: sum(w) > 0), st.integers(1, 10**9))
def test_whole_rows_sum_to_the_total_and_are_off_by_less_than_one(weights, total):
    q = np.array(weights) / sum(weights)
    k = apportion(q, total)
    assert k.sum() == total
    assert (k >= 0).all()
    assert np.abs(k - q * total).max() < 1 + 1e-6  # shares sum to one within rounding, times a billion rows


def test_passes_are_whole_data_sets_and_a_rest():
    assert passes(25, 10) == (10, 10, 5)
    assert passes(20, 10) == (10, 10)
    assert passes(3, 10) == (3,)
