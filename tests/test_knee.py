"""The knee of a front: the known answers, and the laws that hold for any number of tasks."""

import numpy as np
import pytest

from previa.errors import InputError
from previa.study.hypervolume import front
from previa.study.knee import front_of, knee, knee_of
from previa.study.preview import Preview
from previa.study.simplex import grid


def bulge(T, rows=60, seed=0):
    """Points on the positive part of a sphere, the middle one among them: a front whose knee is that one."""
    x = np.abs(np.random.default_rng(seed).normal(size=(rows, T)))
    x = np.vstack([x, np.eye(T), np.ones(T)])
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("T", [2, 3, 5])
def test_the_knee_of_a_sphere_is_its_middle(T):
    s = bulge(T)
    assert knee(s) == len(s) - 1


def test_a_front_with_a_corner_has_its_knee_there_and_dominated_rows_do_not_count():
    s = np.array([[0.0, 1.0], [0.5, 0.95], [0.9, 0.9], [0.95, 0.4], [1.0, 0.0], [0.85, 0.85]])
    assert knee(s) == 2
    assert knee(np.vstack([s, [np.nan, np.nan]])) == 2


@pytest.mark.parametrize("T", [2, 3, 4])
def test_scale_and_zero_of_a_task_and_the_order_of_rows_and_tasks_do_not_matter(T):
    rng = np.random.default_rng(T)
    s = rng.random((40, T))
    found = knee(s)
    assert found is not None
    assert knee(s * rng.uniform(0.01, 100, T) + rng.normal(size=T)) == found
    rows, tasks = rng.permutation(40), rng.permutation(T)
    assert rows[knee(s[rows])] == found
    assert knee(s[:, tasks]) == found


def test_it_is_the_row_farthest_above_the_plane_of_the_ends_by_a_determinant():
    s = np.random.default_rng(1).random((30, 3))
    on = np.flatnonzero(front(s))
    best, worst = s[on].max(axis=0), s[on].min(axis=0)
    ends = worst + np.diag(best - worst)  # each task's best with the worst of the others
    normal = np.linalg.solve(ends - worst, np.ones(3))  # normal . (x - worst) = 1 on the plane
    assert knee(s) == on[np.argmax((s[on] - worst) @ normal)]


@pytest.mark.parametrize(
    "scores",
    [
        [[1.0, 1.0], [0.5, 0.2], [0.1, 0.9]],  # one row beats all
        [[0.7, 0.7], [0.7, 0.7]],  # a flat preview
        [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]],  # straight
        [[0.0, 1.0], [0.3, 0.3], [1.0, 0.0]],  # hollow
        [[0.0, 1.0], [1.0, 0.0]],  # ends alone
        [[np.nan, np.nan]],
    ],
)
def test_a_front_of_one_point_or_without_a_bulge_has_no_knee(scores):
    assert knee(scores) is None


def test_tasks_that_the_front_does_not_trade_are_left_out():
    two = bulge(2)
    assert knee(np.column_stack([two, np.full(len(two), 0.3)])) == knee(two)


def test_ties_go_to_the_weighting_nearest_to_uniform():
    alphas = np.array([[1.0, 0.0], [0.9, 0.1], [0.55, 0.45], [0.0, 1.0]])
    s = np.array([[1.0, 0.0], [0.8, 0.8], [0.8, 0.8], [0.0, 1.0]])
    assert knee(s) == 1
    assert knee(s, alphas) == 2
    with pytest.raises(InputError, match=r"alphas should be \[A, T\] = \(4, 2\)"):
        knee(s, alphas[:2])


def test_the_front_of_a_preview_leaves_out_failed_weightings_and_forgives_rounding():
    alphas = grid(2, 4)
    s = np.array([[0.1, 0.9], [0.6, 0.7], [0.6, 0.7], [np.nan, np.nan], [0.9, 0.1]])
    s[2] += 1e-16  # the same scores, summed in another order
    p = Preview(("a", "b"), alphas, s)
    np.testing.assert_array_equal(front_of(p), [True, True, True, False, True])
    assert knee_of(p) == 2  # (0.5, 0.5) rather than (0.25, 0.75)
    assert not front_of(Preview(("a", "b"), alphas, np.full_like(s, np.nan))).any()
    assert knee_of(Preview(("a", "b"), alphas, np.full_like(s, np.nan))) is None
