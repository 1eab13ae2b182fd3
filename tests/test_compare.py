"""Comparison: every number by hand on a tiny case, against oracles, and where it must say that it does not know."""

import json
import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from previa.errors import AlphaError, InputError
from previa.study import bootstrap, quality
from previa.study.compare import compare
from previa.study.preference import Preference
from previa.study.preview import Preview
from previa.study.simplex import grid, uniform

TASKS = ("a", "b")


def preview(scores, *, alphas=None, items=(), tasks=TASKS, seconds=2.0):
    scores = np.asarray(scores, float)
    return Preview(
        tasks, grid(len(tasks), len(scores) - 1) if alphas is None else alphas, scores, items, {}, seconds
    )


def both(values):
    """The same score for both tasks, so that their mean is the given one."""
    return np.repeat(np.asarray(values, float)[:, None], 2, axis=1)


def judged(truth, other, **kwargs):
    T = len(truth.tasks)
    kwargs = {"uniform": uniform(T), "size_proportional": [0.8] + [0.2 / (T - 1)] * (T - 1)} | kwargs
    return compare(truth, {"m": other}, **kwargs)


# Weightings (0, 1), (.1, .9) ... (1, 0); uniform is row 5, (.8, .2) row 8.
S = np.array([10, 20, 30, 40, 50, 60, 80, 100, 90, 70, 0]) / 100
P = np.array([0, 10, 25, 30, 35, 40, 50, 55, 60, 45, 5]) / 100


def test_each_number_is_the_one_computed_by_hand():
    q = judged(preview(both(S)), preview(both(P))).methods["m"]
    assert q.pick == pytest.approx((0.8, 0.2))
    assert q.regret_at_1 == pytest.approx(0.10)  # 1.00 at (.7, .3), .90 at the pick
    assert q.regret_at_k == pytest.approx(0.0)  # the preview's best five hold it
    assert q.gain_over_uniform == pytest.approx(0.90 - 0.60)
    assert q.gain_over_size_proportional == pytest.approx(0.0)
    # Ranks of S: 2 3 4 5 6 7 9 11 10 8 1; of P: 1 3 4 5 6 7 9 10 11 8 2: squared differences sum to 4.
    assert q.spearman == pytest.approx(1 - 6 * 4 / (11 * (11**2 - 1)))
    # The true best quarter: 3 of 11, at 1.00, .90, .80; the preview has .55, .60, .50: ranks 2 3 1 against 3 2 1.
    assert q.spearman_top25 == pytest.approx(0.5)
    assert q.pairwise_accuracy == pytest.approx(53 / 55)  # wrong: (.7, .3) with (.8, .2), and the two corners
    assert q.iou_top10 == 0.0  # one weighting each, another one
    off = P - S
    assert q.mse == pytest.approx((off**2).mean())
    assert (q.offset, q.variance) == pytest.approx((off.mean(), off.var()))
    assert q.mse == pytest.approx(q.offset**2 + q.variance)
    assert (q.weightings, q.failed, q.seconds) == (11, 0, 2.0)
    assert (q.regret_noise, q.gain_over_uniform_interval) == (None, None)


def test_the_truth_is_told_with_its_best_and_the_two_that_need_no_search():
    t = judged(preview(both(S), seconds=60), preview(both(P))).truth
    assert t.best_alpha == pytest.approx((0.7, 0.3))
    assert (t.best_score, t.uniform_score, t.size_proportional_score) == pytest.approx((1.0, 0.6, 0.9))
    assert (t.weightings, t.failed, t.seconds) == (11, 0, 60.0)
    t = judged(preview(both(S)), preview(both(P)), uniform=[0.55, 0.45]).truth
    assert t.uniform_score is None


@pytest.mark.parametrize("T", [2, 3, 4])
def test_a_preview_that_is_the_truth_has_no_faults(T):
    tasks = tuple("abcd"[:T])
    alphas = grid(T, 5)
    rng = np.random.default_rng(T)
    items = tuple(rng.random((len(alphas), 40)).astype(np.float32) for _ in tasks)
    scores = np.column_stack([i.mean(axis=1, dtype=np.float64) for i in items])
    truth = Preview(tasks, alphas, scores, items)
    q = judged(truth, truth).methods["m"]
    for one in (q, *q.per_task.values()):
        assert (one.regret_at_1, one.regret_at_k, one.iou_top10, one.mse, one.offset) == (0, 0, 1, 0, 0)
        assert one.spearman == pytest.approx(1)
        assert one.pairwise_accuracy == 1
        assert one.regret_noise > 0
    assert set(q.per_task) == set(tasks)


def test_a_constant_offset_costs_no_regret_and_is_split_off_the_error():
    q = judged(preview(both(S)), preview(both(S - 0.2))).methods["m"]
    assert (q.regret_at_1, q.spearman, q.iou_top10) == pytest.approx((0, 1, 1))
    assert (q.mse, q.offset, q.variance) == pytest.approx((0.04, -0.2, 0), abs=1e-12)


def test_a_constant_preview_picks_what_is_nearest_to_uniform_and_has_no_rank_correlation():
    c = judged(preview(both(S)), preview(both(0 * S + 0.3)))
    q = c.methods["m"]
    assert q.pick == pytest.approx((0.5, 0.5))
    assert (q.spearman, q.spearman_top25, q.pairwise_accuracy) == (None, None, 0.5)
    assert json.loads(json.dumps(c.to_dict(), allow_nan=False))["methods"]["m"]["spearman"] is None


def test_of_two_equally_near_to_uniform_the_lexicographically_first_is_picked():
    q = judged(
        preview(both([0, 0, 1.0, 0])), preview(both([0, 1.0, 1.0, 0])), size_proportional=[1, 0]
    ).methods["m"]
    assert q.pick == pytest.approx((1 / 3, 2 / 3))
    assert q.regret_at_1 == 1.0


def test_only_shared_weightings_count_and_failed_ones_are_counted():
    truth = both(S)
    truth[0] = np.nan
    p = both(np.interp(np.arange(21), np.arange(0, 21, 2), P))  # a grid twice as fine
    p[20] = np.nan
    c = judged(preview(truth), preview(p))
    q = c.methods["m"]
    assert (q.weightings, q.failed, c.truth.weightings, c.truth.failed) == (9, 2, 10, 1)
    assert q.pick == pytest.approx((0.8, 0.2))
    assert q.mse == pytest.approx(((P - S)[1:10] ** 2).mean())
    assert q.gain_over_uniform == pytest.approx(0.3)
    # The truth's best is elsewhere when the preview failed there: still judged over what both have.
    p[14] = np.nan
    assert judged(preview(truth), preview(p)).methods["m"].regret_at_1 == 0


def test_what_cannot_be_compared_is_refused_by_name():
    truth = preview(both(S))
    few = both(S)
    few[2:] = np.nan
    with pytest.raises(InputError, match=r"m: a comparison needs 3 weightings .* Found 2, of 11 and 11"):
        judged(truth, preview(few))
    with pytest.raises(InputError, match="Found 0, of 11 and 0"):
        judged(truth, preview(np.zeros((0, 2)), alphas=np.zeros((0, 2))))
    with pytest.raises(InputError, match="the truth should have scores at 3"):
        judged(preview(few), truth)
    with pytest.raises(
        InputError, match=r"m: previews should be of the truth's tasks \['a', 'b'\]. Found \['a', 'c'\]"
    ):
        judged(truth, preview(both(S), tasks=("a", "c")))
    with pytest.raises(AlphaError, match="reference"):
        judged(truth, truth, uniform=[0.5, 0.6])


def test_tasks_are_judged_each_by_its_own_and_weights_change_the_mean():
    alphas = grid(2, 10)
    s = np.column_stack([alphas[:, 0], 1 - alphas[:, 0] ** 2])
    q = judged(preview(s), preview(s[:, ::-1])).methods["m"]
    assert q.mse == 0  # the mean is the same, the tasks are not
    assert q.per_task["a"].mse == pytest.approx(((s[:, 1] - s[:, 0]) ** 2).mean())
    assert q.per_task["a"].spearman == pytest.approx(-1)
    assert q.per_task["a"].regret_at_1 == pytest.approx(1)
    q = judged(preview(s), preview(s), weights={"a": 1, "b": 0}).methods["m"]
    assert q.pick == pytest.approx((1, 0))
    assert q.spearman == pytest.approx(q.per_task["a"].spearman)


numbers = st.lists(st.integers(-4, 4), min_size=3, max_size=30)


@settings(max_examples=60, deadline=None)
@given(numbers, st.randoms(use_true_random=False))
def test_ranks_with_ties_are_scipy_s(x, random):
    y = random.choices(range(-3, 4), k=len(x))
    x, y = np.array(x, float), np.array(y, float)
    np.testing.assert_array_equal(quality.ranks(x), scipy.stats.rankdata(x))
    ours = quality.spearman(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert ours is None
    else:
        assert ours == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(numbers, st.randoms(use_true_random=False))
def test_pairwise_accuracy_is_what_a_double_loop_finds(s, random):
    p = random.choices(range(-3, 4), k=len(s))
    points = [
        0.5 if p[i] == p[j] else float((p[i] > p[j]) == (s[i] > s[j]))
        for i in range(len(s)) for j in range(i) if s[i] != s[j]
    ]  # fmt: skip
    ours = quality.pairwise_accuracy(np.array(p, float), np.array(s, float))
    assert ours == (pytest.approx(np.mean(points)) if points else None)


def test_scores_that_differ_by_rounding_alone_tie():
    x = np.array([0.1 + 0.2, 0.3, 0.1])
    assert x[0] != x[1]
    np.testing.assert_array_equal(quality.ranks(x), [2.5, 2.5, 1])


def test_a_tie_that_only_rounding_breaks_costs_no_regret():
    truth = S.copy()
    truth[5], truth[8] = 1.0 - 2e-16, np.nextafter(1.0, 2)  # three tie; row 5 is picked
    q = judged(preview(both(truth)), preview(both(truth))).methods["m"]
    assert q.regret_at_1 == q.regret_at_k == 0
    other = P.copy()
    other[8] = 2.0  # the preview's pick is above the tie's winner by the last bit
    assert judged(preview(both(truth)), preview(both(other))).methods["m"].regret_at_1 == 0


def test_the_best_tenth_is_counted_to_the_nearest_and_never_empty():
    sizes = [len(quality.top(np.arange(n), 0.1)) for n in (3, 14, 15, 66, 231)]
    assert sizes == [1, 1, 2, 7, 23]
    assert quality.iou(np.array([1, 2, 3]), np.array([3, 4])) == 0.25


# ----------------------------------------------------------------------------------------------------------- the bootstrap


def test_the_bootstrap_is_what_a_loop_over_resampled_items_finds():
    items = np.random.default_rng(0).random((4, 30)).astype(np.float32)
    fast = bootstrap.means(items, seed=(3, 1), draws=50)
    drawn = np.random.default_rng([3, 1]).integers(30, size=(50, 30))
    slow = np.array([[items[a, d].mean(dtype=np.float64) for a in range(4)] for d in drawn])
    np.testing.assert_allclose(fast, slow, rtol=1e-12)


def test_blocks_do_not_change_the_distribution(monkeypatch):
    items = np.random.default_rng(0).random((2, 50)).astype(np.float32)
    whole = bootstrap.means(items, seed=(0,), draws=4000)
    monkeypatch.setattr(bootstrap, "BLOCK", 170)
    parts = bootstrap.means(items, seed=(0,), draws=4000)
    assert parts.shape == whole.shape
    np.testing.assert_allclose(parts.std(axis=0), whole.std(axis=0), rtol=0.1)  # 4000 draws: 1.1 % each


def test_the_interval_of_a_gain_is_that_of_the_paired_differences():
    """The standard error of a mean difference of N items, to the 5 % that 4000 draws leave."""
    rng = np.random.default_rng(1)
    easy = rng.random(400)
    items = np.array(
        [easy, easy + 0.05 + 0.1 * rng.standard_normal(400)], np.float32
    )  # paired: their common part cancels
    p = Preview(("a",), [[1.0], [1.0]], items.mean(axis=1, dtype=np.float64)[:, None], (items,))
    draws = bootstrap.resampled(p, seed=0, draws=4000)
    gain = bootstrap.scored(p, draws, np.ones(1)).gain(1, 0)
    error = (items[1] - items[0]).std() / 20
    assert gain.value == pytest.approx((items[1] - items[0]).mean(), rel=1e-5)
    assert gain.interval == pytest.approx((gain.value - 1.96 * error, gain.value + 1.96 * error), rel=0.05)


def two_tasks(items, alphas):
    scores = np.column_stack([i.mean(axis=1, dtype=np.float64) for i in items])
    return Preview(TASKS, alphas, scores, items)


def test_the_noise_floor_is_the_best_weighting_s_own_regret_on_other_test_items():
    rng = np.random.default_rng(0)
    level = np.array([0.5, 0.7, 0.72, 0.71, 0.4])
    items = tuple((rng.random((5, 200)) < level[:, None]).astype(np.float32) for _ in TASKS)
    truth = two_tasks(items, grid(2, 4))
    q = judged(truth, truth, size_proportional=[0.75, 0.25]).methods["m"]
    best = int(np.argmax(truth.mean))
    regrets = []
    for _ in range(3000):  # by hand: other resamples, so equal to the error of a 95th percentile only
        drawn = [rng.integers(200, size=200) for _ in TASKS]
        s = np.mean([i[:, d].mean(axis=1) for i, d in zip(items, drawn, strict=True)], axis=0)
        regrets.append(s.max() - s[best])
    assert q.regret_noise == pytest.approx(np.quantile(regrets, 0.95), rel=0.12)
    low, high = q.gain_over_uniform_interval
    assert low <= q.gain_over_uniform <= high
    assert (low > 0) == (q.gain_over_uniform > 0.1)


def test_without_scores_of_items_of_every_task_that_counts_there_is_no_interval():
    alphas = grid(2, 4)
    items = (np.random.default_rng(0).random((5, 9)).astype(np.float32), None)
    truth = Preview(
        TASKS, alphas, np.column_stack([items[0].mean(axis=1, dtype=np.float64), alphas[:, 0]]), items
    )
    q = judged(truth, truth, size_proportional=[0.75, 0.25]).methods["m"]
    assert (q.regret_noise, q.gain_over_uniform_interval) == (None, None)
    assert q.per_task["a"].regret_noise is not None
    assert q.per_task["b"].regret_noise is None
    q = judged(truth, truth, size_proportional=[0.75, 0.25], weights={"b": 0}).methods["m"]
    assert q.regret_noise == q.per_task["a"].regret_noise


def test_under_a_preference_the_best_and_the_picks_keep_the_floors_as_each_sees_them():
    x = np.arange(11) / 10
    truth = preview(np.column_stack([x, 1.5 * (1 - x)]))  # the mean falls with the weight of a
    mine = preview(np.column_stack([x + 0.15, 1.4 * (1 - x)]))  # a is previewed too high
    q = judged(truth, mine, preference=Preference(floors={"a": 0.5}))
    assert q.truth.best_alpha == pytest.approx((0.5, 0.5))
    assert q.methods["m"].pick == pytest.approx((0.4, 0.6))  # .55 as previewed, .4 in truth
    assert q.methods["m"].shortfall_at_pick == pytest.approx(0.1)
    assert q.methods["m"].regret_at_1 == pytest.approx(
        0.1
    )  # what is missed counts, though the mean is higher there
    low = judged(
        truth, preview(np.column_stack([x - 0.15, 1.4 * (1 - x)])), preference=Preference(floors={"a": 0.5})
    )
    assert low.methods["m"].pick == pytest.approx((0.7, 0.3))
    assert low.methods["m"].regret_at_1 == pytest.approx(0.625 - 0.575)
    assert low.methods["m"].shortfall_at_pick == 0
    worst = judged(truth, mine, preference=Preference(worst=True))
    assert worst.truth.best_score == pytest.approx(np.minimum(x, 1.5 * (1 - x)).max())
    experts = {"a": 0.5, "b": 1.0}
    relative = judged(truth, mine, preference=Preference(relative_to=experts))
    assert relative.truth.best_score == pytest.approx((2 * x + 1.5 * (1 - x)).max() / 2)
    by_weights = judged(truth, mine, weights={"a": 2.0})
    assert by_weights == judged(truth, mine, preference=Preference(weights={"a": 2.0}))
    with pytest.raises(InputError, match="weights or a preference"):
        judged(truth, mine, weights={"a": 2.0}, preference=Preference())


def test_a_comparison_is_plain_json_in_the_shape_of_the_summary():
    rng = np.random.default_rng(0)
    items = tuple(rng.random((11, 20)).astype(np.float32) for _ in TASKS)
    truth = two_tasks(items, grid(2, 10))
    d = judged(truth, preview(both(P))).to_dict()
    assert json.loads(json.dumps(d, allow_nan=False)) == d
    assert set(d["truth"]) >= {
        "best_alpha",
        "best_score",
        "uniform_score",
        "size_proportional_score",
        "weightings",
        "seconds",
    }
    assert set(d["methods"]["m"]) >= {
        "mse", "offset", "spearman", "spearman_top25", "iou_top10", "regret_at_1", "regret_noise", "gain_over_uniform",
        "pick", "seconds", "per_task",
    }  # fmt: skip
    assert d["methods"]["m"]["pick"] == pytest.approx([0.8, 0.2])
    assert set(d["methods"]["m"]["per_task"]) == set(TASKS)
    assert judged(truth, preview(both(P))).to_dict() == d  # the seed is given


def test_a_study_of_usual_size_is_compared_in_a_second():
    rng = np.random.default_rng(0)
    tasks = ("a", "b", "c")
    items = tuple((rng.random((66, 900)) < 0.8).astype(np.float32) for _ in tasks)
    scores = np.column_stack([i.mean(axis=1, dtype=np.float64) for i in items])
    truth = Preview(tasks, grid(3, 10), scores, items)
    start = time.process_time()
    compare(truth, dict.fromkeys("mnopq", truth), uniform=uniform(3), size_proportional=[0.5, 0.3, 0.2])
    assert time.process_time() - start < 3  # three times what it takes, for busy machines
