"""A preview corrected by true runs: what it returns where it knows, what it chooses, and what it may be worth."""

import numpy as np
import pytest

from previa.errors import InputError
from previa.study.correct import corrected, coverage, residuals, rule_by
from previa.study.preview import Preview
from previa.study.quality import spearman
from previa.study.simplex import find, grid, uniform

TASKS = ("a", "b", "c")
GRID = grid(3, 10)
SEEN = np.array([[1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
ALPHAS = np.concatenate([GRID, SEEN[:1]])


def truth(alphas=ALPHAS):
    """Scores that saturate: a little weight on a task buys most of its score."""
    return Preview(TASKS, alphas, 1 - np.exp(-6 * np.asarray(alphas)))


def preview(miss, alphas=ALPHAS):
    true = truth(alphas)
    return Preview(TASKS, true.alphas, true.scores - miss(true.alphas))


def bump(alphas):
    """What is missed is 0 at corners and largest in the middle, as where merged models saturate too late."""
    return np.tile((1 - (alphas**2).sum(axis=1, keepdims=True)) * 0.3, (1, 3)) * np.array([1.0, 0.5, 2.0])


def test_the_corrected_scores_are_the_true_ones_at_the_runs_and_at_exact_corners():
    found = corrected(preview(bump), truth(SEEN), rule="process")
    for alpha in (*SEEN, *np.eye(3)):
        row = find(ALPHAS, alpha)
        # the process allows for a little noise of each run
        assert np.allclose(found.preview.scores[row], truth([alpha]).scores[0], atol=0.02)


def test_a_smooth_miss_is_learned_from_ten_runs_and_the_process_is_chosen_for_it():
    before = preview(bump)
    runs = truth(np.concatenate([SEEN, GRID[[1, 9, 20, 45, 62, 64]]]))
    found = corrected(before, runs)
    assert found.rule == "process"
    assert found.runs == 10
    after, mse = found.preview, lambda p: float(((p.mean - truth().mean) ** 2).mean())
    offset = corrected(before, runs, rule="offset").preview
    assert mse(after) < 0.1 * mse(before)
    assert mse(after) < mse(offset)
    assert spearman(after.mean, truth().mean) > spearman(before.mean, truth().mean)


def test_a_miss_that_is_the_same_everywhere_inside_is_corrected_by_the_offset_which_ranks_as_before():
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.standard_normal((len(ALPHAS), 3))
    noise[[13, 25, 40, 55, 66]] = np.array([[0.01, -0.01, 0.01, -0.01, 0.0]]).T
    before = preview(lambda a: 0.1 + noise)
    runs = truth(ALPHAS[[13, 25, 40, 55, 66]])
    found = corrected(before, runs, exact_corners=False, rule="offset")
    assert np.array_equal(found.preview.mean.argsort(), before.mean.argsort())
    corner = find(ALPHAS, [1, 0, 0])
    known = corrected(before, runs, rule="offset").preview.scores
    assert np.array_equal(known[corner], before.scores[corner])
    assert np.allclose(found.preview.scores - before.scores, 0.1, atol=0.01)


def test_a_miss_without_any_shape_is_hardly_corrected():
    at = ALPHAS[[13, 17, 25, 33, 40, 47, 55, 66]]
    signs = np.array([1, -1, 1, -1, 1, -1, 1, -1])[:, None] * np.ones(3)
    runs = Preview(TASKS, at, truth(at).scores + 0.01 * signs)
    found = corrected(truth(), runs)
    assert np.abs(found.preview.scores - truth().scores).mean() < 0.003
    assert np.array_equal(corrected(truth(), runs, rule="none").preview.scores, truth().scores)


def test_with_fewer_than_three_runs_it_is_the_mean_of_their_residuals():
    found = corrected(preview(bump), truth(SEEN[:2]))
    assert (found.rule, found.left_out_rms, found.runs) == ("offset", None, 2)
    _, r = residuals(preview(bump), truth(SEEN[:2]))
    inside = ALPHAS.max(axis=1) < 1
    assert np.allclose((found.preview.scores - preview(bump).scores)[inside], r.mean(axis=0))
    assert np.array_equal(found.preview.scores[~inside], preview(bump).scores[~inside])  # known there


def test_the_left_out_error_is_that_of_leaving_each_run_out_in_turn():
    before, runs = preview(bump), truth(SEEN)
    found = corrected(before, runs)
    for rule in ("offset", "process"):
        errors = []
        for i, alpha in enumerate(SEEN):
            others = runs.rows([j for j in range(4) if j != i])
            errors.append(
                corrected(before, others, rule=rule).preview.scores[before.index(alpha)] - runs.scores[i]
            )
        assert found.left_out_rms[rule] == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    _, r = residuals(before, runs)
    assert found.left_out_rms["none"] == pytest.approx(np.sqrt((r**2).mean()))
    assert found.rule == rule_by(found.left_out_rms)


def test_the_process_is_taken_unless_another_rule_is_clearly_better():
    assert rule_by({}) == "offset"
    assert rule_by({"none": 0.3, "offset": 0.11, "process": 0.15}) == "process"
    assert rule_by({"none": 0.3, "offset": 0.09, "process": 0.15}) == "offset"
    assert rule_by({"none": 0.05, "offset": 0.09, "process": 0.15}) == "none"
    assert rule_by({"none": 0.3, "offset": 0.2, "process": 0.1}) == "process"


def test_corners_are_known_only_where_they_are_exact_or_trained():
    shifted = preview(lambda a: np.full_like(a, 0.2))
    row = find(ALPHAS, [1, 0, 0])
    free = corrected(shifted, truth(SEEN), exact_corners=False, rule="process").preview.scores[row]
    held = corrected(shifted, truth(SEEN), rule="process").preview.scores[row]
    assert np.allclose(free - shifted.scores[row], 0.2, atol=1e-6)  # residuals are all the same
    assert np.abs(held - shifted.scores[row]).max() < 0.05
    trained = truth(np.concatenate([SEEN, [[1, 0, 0]]]))
    own = corrected(shifted, trained, rule="process")
    assert own.preview.scores[row, 0] > held[0] + 0.1
    assert own.runs == 4  # a corner is not inside


def test_the_order_of_the_runs_is_irrelevant_and_a_task_does_not_touch_another():
    before, runs = preview(bump), truth(SEEN)
    one, other = (
        corrected(before, runs.rows(order), rule="process") for order in ([0, 1, 2, 3], [3, 1, 0, 2])
    )
    assert np.allclose(one.preview.scores, other.preview.scores)
    moved = Preview(TASKS, before.alphas, before.scores + np.array([0.0, 0.3, 0.0]))
    third = corrected(moved, runs, rule="process").preview.scores
    assert np.allclose(third[:, [0, 2]], one.preview.scores[:, [0, 2]])


def test_failed_weightings_stay_failed_and_are_no_runs():
    scores = preview(bump).scores.copy()
    scores[7], scores[find(ALPHAS, SEEN[1])] = np.nan, np.nan
    found = corrected(Preview(TASKS, ALPHAS, scores), truth(SEEN))
    assert found.runs == 3
    assert np.array_equal(found.preview.ok, np.isfinite(scores).all(axis=1))


def test_coverage_counts_scores_within_the_interval():
    found = corrected(preview(bump), truth(SEEN), rule="process")
    everywhere = Preview(TASKS, ALPHAS, found.preview.scores + 1.9 * found.sd)
    nowhere = Preview(TASKS, ALPHAS, found.preview.scores + 2.0 * found.sd + 0.01)
    assert coverage(found, everywhere) == 1
    assert coverage(found, nowhere) == 0
    assert coverage(found, truth([[0.11, 0.29, 0.6]])) is None


def test_what_cannot_be_corrected_is_said():
    with pytest.raises(InputError, match="no true run is at a weighting inside"):
        corrected(preview(bump), truth(np.eye(3)))
    with pytest.raises(InputError, match="tasks are"):
        corrected(preview(bump), Preview(("a", "b", "d"), SEEN, truth(SEEN).scores))
    with pytest.raises(InputError, match=r"rule should be one of none, offset, process\. Found 'gp'"):
        corrected(preview(bump), truth(SEEN), rule="gp")
    assert np.allclose(uniform(3), SEEN[0])
