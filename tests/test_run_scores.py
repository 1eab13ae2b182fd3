"""Scores of the runs, interpolated: they go through every run, as a polynomial does, and are judged like any preview."""

import numpy as np
import pytest

from previa.errors import AlphaError, InputError, NotFiniteError
from previa.run.run_scores import by_gaussian_process, by_scores, choose_power_of_scores, interpolated, shares
from previa.study.compare import compare
from previa.study.design import propose
from previa.study.preview import Preview
from previa.study.simplex import grid, uniform


def scored(alphas, *, power=1.0, items=0, seed=0):
    """Runs whose scores are a special cubic polynomial of alpha^power, normalised: what the interpolation is exact for."""
    T = alphas.shape[1]
    rng = np.random.default_rng(seed)
    coefficients = rng.uniform(0, 1, (T + T * (T - 1) // 2, T, max(items, 1)))
    w = alphas**power / (alphas**power).sum(axis=1, keepdims=True)
    pairs = [w[:, s] * w[:, t] for s in range(T) for t in range(s + 1, T)]
    values = np.einsum("af,ftn->tan", np.column_stack([w, *pairs]), coefficients)
    tasks = tuple("abcdefgh"[:T])
    kept = tuple(values.astype(np.float32)) if items else (None,) * T
    return Preview(tasks, alphas, values.mean(axis=2).T, kept)


def runs_of(T, anchors):
    return np.concatenate([np.eye(T), anchors])


@pytest.mark.parametrize("T", [2, 3, 5])
@pytest.mark.parametrize("p", [1.0, 0.3])
def test_every_run_is_reproduced(T, p):
    rng = np.random.default_rng(T)
    anchors = rng.dirichlet(np.ones(T), 6)
    scores = rng.normal(size=(6 + T, 2))
    there = interpolated(scores[:T], anchors, scores[T:], runs_of(T, anchors), p=p)
    assert np.allclose(there, scores)


@pytest.mark.parametrize("T", [2, 3, 5])
def test_without_anchors_it_is_the_weighted_sum_of_the_tasks_scores(T):
    rng = np.random.default_rng(T)
    scores, at = rng.normal(size=(T, 3)), rng.dirichlet(np.ones(T), 5)
    assert np.allclose(interpolated(scores, [], [], at), at @ scores)
    assert interpolated(scores, [], [], at[0]).shape == (1, 3)


@pytest.mark.parametrize("T", [2, 3, 5])
def test_a_polynomial_is_recovered_from_the_middles_of_all_pairs(T):
    middles = np.array([(np.eye(T)[s] + np.eye(T)[t]) / 2 for s in range(T) for t in range(s + 1, T)])
    middles = middles if T < 3 else np.concatenate([middles, [m for m in grid(T, 3) if m.max() < 0.4]])
    preview = by_scores(scored(runs_of(T, middles)), grid(T, 4))
    assert np.allclose(preview.scores, scored(grid(T, 4)).scores)


def test_shares_sum_to_one_and_follow_the_order_of_the_tasks():
    rng = np.random.default_rng(1)
    anchors, at = rng.dirichlet(np.ones(4), 3), rng.dirichlet(np.ones(4), 6)
    L = shares(anchors, at, p=0.5)
    assert np.allclose(L.sum(axis=1), 1)
    order = [2, 0, 3, 1]
    assert np.allclose(shares(anchors[:, order], at[:, order], p=0.5), L[:, [*order, 4, 5, 6]])


def test_items_are_interpolated_as_scores_are_so_that_comparisons_are_paired():
    runs = scored(runs_of(3, propose(3, 4)), items=50)
    at = grid(3, 10)
    preview = by_scores(runs, at)
    assert [i.shape for i in preview.items] == [(len(at), 50)] * 3
    bare = by_scores(Preview(runs.tasks, runs.alphas, runs.scores), at)
    assert bare.items == (None,) * 3
    assert np.allclose(bare.scores, preview.scores, atol=1e-6)
    truth = scored(at, items=50)
    judged = compare(
        truth, {"scores": preview, "scores_gp": by_gaussian_process(runs, at)},
        uniform=uniform(3), size_proportional=uniform(3),
    ).methods  # fmt: skip
    assert judged["scores"].mse < 1e-10
    assert judged["scores"].spearman == pytest.approx(1)
    assert judged["scores_gp"].spearman > 0.8


@pytest.mark.parametrize("power", [1.0, 0.5, 0.25])
def test_the_power_of_the_scores_is_found_by_leaving_anchors_out(power):
    anchors = np.array(
        [[0.7, 0.3, 0.0], [0.3, 0.0, 0.7], [0.0, 0.7, 0.3], [0.15, 0.7, 0.15], [0.6, 0.2, 0.2]]
    )
    runs = scored(runs_of(3, anchors), power=power)
    chosen = choose_power_of_scores(runs)
    assert chosen.p == power
    assert chosen.errors[power] == min(chosen.errors.values())
    assert "left out" in chosen.reason
    assert by_scores(runs, grid(3, 5)).provenance["p"] == power


def test_anchors_with_equal_weights_leave_the_power_as_it_was_and_say_so():
    runs = scored(runs_of(3, propose(3, 4)), power=0.3)
    assert by_scores(runs, grid(3, 2), otherwise=0.4).provenance["p"] == 0.4
    chosen = choose_power_of_scores(runs)
    assert chosen.p == 1
    assert "equal weights" in chosen.reason
    assert "no anchors" in choose_power_of_scores(scored(np.eye(3))).reason


def test_a_power_that_is_given_is_taken():
    runs = scored(runs_of(3, propose(3, 4)), power=0.5)
    assert np.allclose(
        by_scores(runs, grid(3, 6), p=0.5).scores, scored(grid(3, 6), power=0.5).scores, atol=0.05
    )
    assert "as given" in by_scores(runs, grid(3, 6), p=0.5).provenance["reason"]


def test_the_gaussian_process_goes_near_the_runs_and_states_its_doubt_for_each_task():
    runs = scored(runs_of(3, propose(3, 7)))
    preview = by_gaussian_process(runs, runs.alphas)
    assert np.allclose(preview.scores, runs.scores, atol=0.02)
    inside = by_gaussian_process(runs, grid(3, 7))
    assert set(inside.stats) == {"sd_a", "sd_b", "sd_c"}
    assert inside.stats["sd_a"].max() > preview.stats["sd_a"].max()


def test_runs_without_all_corners_or_with_failed_ones_are_refused():
    runs = scored(runs_of(3, propose(3, 2)))
    with pytest.raises(InputError, match=r"own runs of \['b'\] are missing"):
        by_scores(runs.rows([0, 2, 3, 4]), grid(3, 2))
    failed = runs.scores.copy()
    failed[4] = np.nan
    with pytest.raises(NotFiniteError, match=r"\(0, 0.5, 0.5\) has none"):
        by_scores(Preview(runs.tasks, runs.alphas, failed), grid(3, 2))


def test_wrong_shapes_weightings_and_anchors_at_corners_are_refused():
    with pytest.raises(InputError, match=r"corner_scores should be \[T, m\]"):
        interpolated([1.0, 2.0], [], [], [[0.5, 0.5]])
    with pytest.raises(InputError, match="a row for each anchor"):
        interpolated(np.eye(2), [[0.5, 0.5]], np.zeros((2, 2)), [[0.5, 0.5]])
    with pytest.raises(AlphaError, match="anchor_alphas"):
        interpolated(np.eye(2), [[0.5, 0.6]], np.zeros((1, 2)), [[0.5, 0.5]])
    with pytest.raises(AlphaError, match="corner"):
        interpolated(np.eye(2), [[1.0, 0.0]], np.zeros((1, 2)), [[0.5, 0.5]])
    with pytest.raises(InputError, match="at least one power"):
        choose_power_of_scores(scored(np.eye(2)), powers=())
