"""Preferences after the fact: laws of the value of scores, floors, the worst task, and scores relative to experts."""

import numpy as np
import pytest

from previa.errors import InputError
from previa.study.preference import Preference, experts_of
from previa.study.preview import Preview
from previa.study.simplex import grid

TASKS = ("a", "b", "c")
RNG = np.random.default_rng(0)
SCORES = RNG.uniform(0.2, 1.0, (50, 3))


def test_without_wishes_the_value_is_the_plain_mean():
    plain = Preference()
    assert np.allclose(plain.value(SCORES, TASKS), SCORES.mean(axis=1), rtol=1e-15)
    assert plain.keeps(SCORES, TASKS).all()
    assert plain.plain


def test_a_weight_of_one_task_alone_is_that_task():
    only = Preference(weights={"a": 0, "c": 0})
    assert np.array_equal(only.value(SCORES, TASKS), SCORES[:, 1])


def test_weights_need_not_sum_to_one():
    assert np.allclose(
        Preference(weights={"a": 3, "b": 1, "c": 1}).value(SCORES, TASKS),
        Preference(weights={"a": 6, "b": 2, "c": 2}).value(SCORES, TASKS),
        rtol=1e-15,
    )


def test_the_worst_task_is_the_least_score_of_those_that_count():
    assert np.array_equal(Preference(worst=True).value(SCORES, TASKS), SCORES.min(axis=1))
    without = Preference(weights={"b": 0}, worst=True)
    assert np.array_equal(without.value(SCORES, TASKS), SCORES[:, [0, 2]].min(axis=1))


def test_relative_scores_are_shares_of_the_experts():
    experts = {"a": 0.5, "b": 0.8, "c": 1.0}
    relative = Preference(relative_to=experts)
    assert np.allclose(relative.value(SCORES, TASKS), (SCORES / [0.5, 0.8, 1.0]).mean(axis=1), rtol=1e-15)
    assert np.allclose(relative.value([[0.5, 0.8, 1.0]], TASKS), 1.0)


def test_a_floor_is_kept_at_the_floor_itself_and_missed_below_it():
    floors = Preference(floors={"a": 0.3, "c": 0.7})
    assert floors.keeps([0.3, 0.0, 0.7], TASKS)
    assert not floors.keeps([0.3 - 1e-9, 0.0, 0.7], TASKS)
    assert floors.keeps([0.1 + 0.2, 0.0, 0.7], TASKS)
    assert floors.shortfall([0.2, 0.0, 0.4], TASKS) == pytest.approx(0.4)
    assert Preference(floors={"a": 0.3}).keeps([0.1 * 3, 1, 1], TASKS)  # rounding misses no floor


def test_relative_floors_are_shares_of_the_expert():
    floors = Preference(floors={"a": 0.9}, relative_to={"a": 0.5, "b": 0.8, "c": 1.0})
    assert floors.keeps([0.45, 0, 0], TASKS)
    assert not floors.keeps([0.44, 0, 0], TASKS)


def test_a_weighting_that_failed_has_no_value_and_keeps_no_floor():
    failed = np.array([[np.nan] * 3, [0.5] * 3])
    for wish in (Preference(), Preference(worst=True), Preference(floors={"a": 0.1})):
        assert np.isnan(wish.value(failed, TASKS)).tolist() == [True, False]
        assert wish.keeps(failed, TASKS).tolist() == [False, True]


@pytest.mark.parametrize("worst", [False, True])
@pytest.mark.parametrize("experts", [{}, {"a": 0.5, "b": 0.8, "c": 2.0}])
def test_the_value_of_draws_is_the_value_of_their_scores(worst, experts):
    wish = Preference(weights={"a": 2.0}, worst=worst, relative_to=experts)
    draws = RNG.uniform(0.2, 1.0, (7, 5, 3))
    found = wish.draws([draws[..., t] for t in range(3)], TASKS)
    assert np.allclose(found, wish.value(draws, TASKS), rtol=1e-14)


def test_draws_are_unknown_only_where_a_task_that_counts_has_none():
    parts = [np.ones((2, 3)), None, np.ones((2, 3))]
    assert Preference().draws(parts, TASKS) is None
    assert Preference(weights={"b": 0}).draws(parts, TASKS) is not None


@pytest.mark.parametrize(
    ("wish", "what"),
    [
        (Preference(weights={"d": 1}), "'d'"),
        (Preference(floors={"d": 1}), "'d'"),
        (Preference(floors={"a": np.nan}), "'a'"),
        (Preference(weights={"a": 0, "b": 0, "c": 0}), "positive"),
        (Preference(relative_to={"a": 1.0, "b": -2.0, "c": 1.0}), "'b'"),
        (Preference(relative_to={"a": 1.0, "b": 2.0}), "'c'"),
    ],
)
def test_what_cannot_be_wished_is_refused_by_name(wish, what):
    with pytest.raises(InputError, match=what):
        wish.check(TASKS)


def test_experts_are_the_scores_at_the_corners():
    alphas = grid(3, 4)
    preview = Preview(TASKS, alphas, np.column_stack([alphas[:, 0], 2 * alphas[:, 1], 3 * alphas[:, 2]]))
    assert experts_of(preview) == {"a": 1.0, "b": 2.0, "c": 3.0}
    with pytest.raises(InputError, match="'b'"):
        experts_of(preview.rows(preview.alphas[:, 1] < 1))
