"""Floors: which weightings keep them, by how much, and whether other test items could turn that round."""

import numpy as np
import pytest

from previa.errors import InputError
from previa.study import bootstrap
from previa.study.floors import candidates, candidates_drawn, floors_at, shortfall_drawn
from previa.study.preference import Preference
from previa.study.preview import Preview
from previa.study.simplex import grid

TASKS = ("a", "b")
ALPHAS = grid(2, 4)


def given(scores, items=()):
    return Preview(TASKS, ALPHAS, scores, items)


SCORES = np.column_stack([[0.2, 0.5, 0.7, 0.8, 0.9], [0.9, 0.8, 0.7, 0.5, 0.1]])


def test_candidates_keep_all_floors_and_where_none_does_miss_them_by_least():
    p = given(SCORES)
    np.testing.assert_array_equal(candidates(p, Preference()), [True] * 5)
    np.testing.assert_array_equal(candidates(p, Preference(floors={"a": 0.5, "b": 0.6})), [0, 1, 1, 0, 0])
    np.testing.assert_array_equal(candidates(p, Preference(floors={"a": 0.8, "b": 0.7})), [0, 0, 1, 0, 0])
    failed = SCORES.copy()
    failed[2] = np.nan
    np.testing.assert_array_equal(candidates(given(failed), Preference(floors={"a": 0.5})), [0, 1, 0, 1, 1])


def test_a_floor_that_is_just_met_is_kept():
    p = given(SCORES)
    (floor,) = floors_at(p, (None, None), Preference(floors={"a": 0.7}), 2)
    assert (floor.margin, floor.kept, floor.true_margin) == (0.0, None, None)
    assert candidates(p, Preference(floors={"a": 0.1 + 0.6}))[2]


def test_floors_relative_to_experts_are_shares_of_their_scores():
    wish = Preference(floors={"a": 0.75}, relative_to={"a": 0.8, "b": 0.5})
    (floor,) = floors_at(given(SCORES), (None, None), wish, 1, truth=np.array([0.72, 0.5]))
    assert floor.score == pytest.approx(0.5 / 0.8)
    assert floor.margin == pytest.approx(0.5 / 0.8 - 0.75)
    assert floor.true_margin == pytest.approx(0.9 - 0.75)


def test_the_share_of_test_sets_that_keep_a_floor_is_what_a_loop_counts():
    rng = np.random.default_rng(0)
    items = tuple((rng.random((5, 60)) < 0.7).astype(np.float32) for _ in TASKS)
    p = given(np.column_stack([i.mean(axis=1, dtype=np.float64) for i in items]), items)
    draws = bootstrap.resampled(p, seed=3, draws=200)
    wish = Preference(floors={"a": 0.7, "b": 0.65})
    for a in range(5):
        kept = []
        for t, floor in ((0, 0.7), (1, 0.65)):
            take = np.random.default_rng([3, t]).integers(60, size=(200, 60))
            kept.append(np.mean([items[t][a, rows].mean(dtype=np.float64) >= floor - 1e-12 for rows in take]))
        assert [f.kept for f in floors_at(p, draws, wish, a)] == pytest.approx(kept)
    short = shortfall_drawn(p, draws, wish)
    expected = np.maximum(0.7 - draws[0], 0) + np.maximum(0.65 - draws[1], 0)
    np.testing.assert_allclose(short, expected, atol=1e-12)
    allowed = candidates_drawn(p, draws, wish)
    assert allowed.any(axis=1).all()
    np.testing.assert_array_equal(
        allowed[short.min(axis=1) < 1e-12], (short < 1e-12)[short.min(axis=1) < 1e-12]
    )


def test_without_floors_or_items_of_their_tasks_there_is_nothing_to_draw():
    items = (np.ones((5, 3), np.float32), None)
    p = given(np.column_stack([np.ones(5), SCORES[:, 1]]), items)
    draws = bootstrap.resampled(p, seed=0, draws=7)
    assert candidates_drawn(p, draws, Preference()) is None
    assert shortfall_drawn(p, draws, Preference(floors={"b": 0.5})) is None
    short = shortfall_drawn(p, draws, Preference(floors={"a": 1.0, "b": 0.5}))
    np.testing.assert_allclose(
        short, np.tile(np.maximum(0.5 - SCORES[:, 1], 0), (7, 1))
    )  # b as it is in every draw


def test_a_floor_of_no_task_is_refused():
    with pytest.raises(InputError, match="floors should be of the tasks"):
        candidates(given(SCORES), Preference(floors={"x": 1}))
