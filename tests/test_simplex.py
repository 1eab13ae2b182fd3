"""The simplex of weightings: its grid, and how weightings are checked, named and found."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from previa.errors import AlphaError, InputError
from previa.study import simplex
from previa.study.preview import Preview, metric_weights
from previa.study.simplex import check_alphas, depth, grid, nearest


@pytest.mark.parametrize(("T", "steps"), [(1, 4), (2, 10), (3, 20), (3, 10), (4, 6), (6, 3)])
def test_the_grid_is_what_a_slow_search_finds_in_lexicographic_order(T, steps):
    slow = [c for c in itertools.product(range(steps + 1), repeat=T) if sum(c) == steps]
    alphas = grid(T, steps)
    assert len(alphas) == math.comb(steps + T - 1, T - 1)
    np.testing.assert_array_equal(np.rint(alphas * steps), slow)
    np.testing.assert_allclose(alphas.sum(axis=1), 1, rtol=0, atol=4e-16)


def test_tasks_may_be_given_by_name():
    np.testing.assert_array_equal(grid(["a", "b"], 2), [[0, 1], [0.5, 0.5], [1, 0]])


@pytest.mark.parametrize(
    ("tasks", "steps"), [(0, 3), (3, 0), (3, -1), (3, 2.5), ([], 3), (3, True), (20, 40)]
)
def test_a_grid_that_cannot_be_is_refused(tasks, steps):
    with pytest.raises(InputError, match="grid"):
        grid(tasks, steps)


@pytest.mark.parametrize(
    ("alpha", "words"),
    [
        ([0.5, 0.6, -0.1], "not be negative"),
        ([0.5, 0.5, 0.1], "sum to 1"),
        ([0.5, 0.5], "there should be 3 weights"),
        ([0.5, math.nan, 0.5], "be finite"),
        ("abc", "should be numbers"),
        ([[0.2, 0.3, 0.5], [0.2, 0.3, 0.4]], r"\(0.2, 0.3, 0.4\), which sums to 0.9"),
    ],
)
def test_what_is_no_weighting_is_refused_in_a_sentence(alpha, words):
    with pytest.raises(AlphaError, match=words):
        check_alphas(alpha, 3)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6))
def test_a_weighting_is_found_again_when_no_weight_is_off_by_more_than_the_ninth_digit(weights):
    alpha = np.array(weights) / sum(weights)
    alphas = np.vstack([grid(len(alpha), 2), alpha])
    again = alpha + 1e-11
    assert simplex.find(alphas, again) in (len(alphas) - 1, simplex.find(grid(len(alpha), 2), alpha))
    assert simplex.find(alphas, alpha + np.eye(len(alpha))[0] * 1e-6) is None
    assert simplex.find(np.zeros((0, len(alpha))), alpha) is None


def test_of_equally_near_weightings_the_one_nearest_to_uniform_is_taken():
    alphas = grid(2, 10)
    np.testing.assert_allclose(alphas[nearest(alphas, [0.35, 0.65])], [0.4, 0.6])
    np.testing.assert_allclose(alphas[nearest(alphas, [0.65, 0.35])], [0.6, 0.4])
    with pytest.raises(InputError, match="at least one"):
        nearest(np.zeros((0, 2)), [0.5, 0.5])


def test_depth_is_zero_outside_and_counts_the_edge_of_the_simplex():
    alphas = grid(3, 4)
    edge, out = depth(alphas, alphas[:, 0] >= 0.25)
    assert edge[simplex.find(alphas, [1, 0, 0])] == 0
    # In a triangle of side sqrt(2) a weight w is at w * height from its edge, height = sqrt(3/2).
    assert edge[simplex.find(alphas, [0.25, 0.25, 0.5])] == pytest.approx(0.25 * math.sqrt(1.5))
    assert out[simplex.find(alphas, [0.25, 0.25, 0.5])] == pytest.approx(0.25 * math.sqrt(2))
    assert edge[simplex.find(alphas, [0, 0.5, 0.5])] == out[simplex.find(alphas, [0, 0.5, 0.5])] == 0
    assert np.isinf(depth(alphas, np.ones(len(alphas), bool))[1]).all()


def some_preview():
    alphas = grid(2, 4)
    scores = np.column_stack([alphas[:, 0], 1 - alphas[:, 0] ** 2])
    items = np.repeat(scores[:, :1], 3, axis=1)
    return Preview(
        ("a", "b"), alphas, scores, (items, None), {"iterations": np.arange(5)}, 1.5, {"from": "here"}
    )


def test_a_preview_gives_its_mean_and_its_rows():
    p = some_preview()
    np.testing.assert_allclose(p.mean, p.scores.mean(axis=1))
    np.testing.assert_allclose(p.weighted({"a": 3, "b": 0}), p.scores[:, 0])
    q = p.at([[0.5, 0.5], [0, 1]])
    assert [p.index([0.5, 0.5]), p.index([0, 1])] == list(q.stats["iterations"]) == [2, 0]
    assert (q.tasks, q.seconds, q.provenance) == (p.tasks, p.seconds, p.provenance)
    np.testing.assert_array_equal(q.items[0], p.items[0][[2, 0]])
    assert len(p.rows([])) == 0
    assert len(p.rows(p.ok)) == len(p) == 5


def test_a_weighting_that_failed_for_one_task_failed():
    p = Preview(("a", "b"), grid(2, 1), [[1, np.nan], [1, 1]])
    assert p.ok.tolist() == [False, True]
    assert np.isnan(p.scores[0]).all()
    assert np.isnan(p.mean[0])


def test_a_preview_copies_what_it_is_given_and_cannot_be_written_to():
    scores = np.zeros((2, 2))
    p = Preview(("a", "b"), grid(2, 1), scores)
    scores[:] = 7
    assert p.scores.max() == 0
    with pytest.raises(ValueError, match="read-only"):
        p.scores[0, 0] = 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": np.zeros((2, 3))}, "scores should be"),
        ({"scores": [[0, np.inf], [0, 0]]}, "infinity"),
        ({"items": (None,)}, "one entry a task"),
        ({"items": (np.zeros((3, 4)), None)}, "items should be"),
        ({"items": (np.ones((2, 4)), None)}, "the mean of its items"),
        ({"stats": {"k": np.zeros(3)}}, "stats 'k'"),
        ({"tasks": ("a", "a")}, "different names"),
        ({"alphas": [[0.5, 0.4], [0, 1]]}, "sum to 1"),
    ],
)
def test_a_preview_whose_parts_do_not_fit_is_refused(change, words):
    with pytest.raises(InputError, match=words):
        Preview(**({"tasks": ("a", "b"), "alphas": grid(2, 1), "scores": np.zeros((2, 2))} | change))


def test_a_weighting_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(AlphaError, match=r"\(0.3, 0.7\) is not among the 5 .* nearest is \(0.25, 0.75\)"):
        some_preview().index([0.3, 0.7])


@pytest.mark.parametrize("weights", [{"c": 1}, {"a": -1}, {"a": 0, "b": 0}, {"a": np.inf}])
def test_metric_weights_that_make_no_mean_are_refused(weights):
    with pytest.raises(InputError, match="metric weights"):
        metric_weights(("a", "b"), weights)


@pytest.mark.parametrize("T", [2, 3, 4, 5, 9])
def test_probes_are_unequal_weightings_inside_the_simplex_that_treat_tasks_alike(T):
    rows = simplex.probes(T)
    assert T <= len(rows) <= T * (T + 1)
    check_alphas(rows, T)
    assert (rows.max(axis=1) < 1).all()
    assert (np.ptp(rows, axis=1) > 0.1).all()  # equal weights are the same at every power
    assert len({simplex.key(row) for row in rows}) == len(rows)
    turned = {simplex.key(row) for row in np.roll(rows, 1, axis=1)}
    assert turned == {simplex.key(row) for row in rows}


def test_one_task_has_no_probes():
    with pytest.raises(InputError, match="two tasks or more"):
        simplex.probes(1)


def test_the_largest_grid_within_a_number_is_the_next_one_too_large():
    for T, most in ((2, 101), (3, 231), (5, 1001), (5, 1000), (8, 400)):
        rows = simplex.largest_grid(T, most)
        assert len(rows) <= most
        steps = round(1 / rows[rows > 0].min())
        assert steps == 100 or len(grid(T, steps + 1)) > most
    assert np.array_equal(simplex.largest_grid(9, 3), grid(9, 1))
