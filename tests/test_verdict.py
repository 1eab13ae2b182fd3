"""Each verdict is said where it is so, and seldom where it is not: synthetic previews with known answers."""

import numpy as np
import pytest

from previa.study.preference import Preference
from previa.study.preview import Preview
from previa.study.quality import ranking
from previa.study.recommend import recommend
from previa.study.simplex import find, grid, uniform

TASKS = ("a", "b", "c")
ALPHAS = grid(3, 6)  # uniform weights among them
CENTRE = find(ALPHAS, uniform(3))
TOP = (0.5, 1 / 3, 1 / 6)
EVEN = np.full(len(ALPHAS), 0.7)
STEEP = 0.8 - 0.5 * np.abs(ALPHAS - TOP).sum(axis=1)


def scored(level, seed, N=100, *, shift=0.0):
    """Items right with probability level [A] + shift, each weighting on its own: the noisiest case."""
    rng = np.random.default_rng(seed)
    items = tuple(
        (rng.random((len(level), N)) < np.asarray(level)[:, None] + shift).astype(np.float32) for _ in TASKS
    )
    return Preview(TASKS, ALPHAS, np.column_stack([i.mean(axis=1, dtype=np.float64) for i in items]), items)


def numbers(level, shift=0.0, per_task=None):
    scores = np.repeat(np.asarray(level)[:, None] + shift, 3, axis=1) if per_task is None else per_task
    return Preview(TASKS, ALPHAS, scores)


def advised(preview, **more):
    return recommend(preview, uniform=uniform(3), size_proportional=(0.5, 0.3, 0.2), **more)


def at_pick(preview, truth):
    """The joint run at the pick and at uniform weights, as `previa validate` makes them."""
    rows = list(dict.fromkeys([int(ranking(preview.mean, ALPHAS)[0]), CENTRE]))
    return truth.rows(rows)


def rate(made, verdict):
    return np.mean([r.verdict == verdict for r in made])


# Train, or uniform ---------------------------------------------------------------------------------------------------------


def test_a_clear_gain_is_to_be_trained_and_a_flat_preview_is_not():
    clear = [advised(scored(STEEP, s)) for s in range(12)]
    assert rate(clear, "train at the pick") >= 0.6  # of weightings beside the top, not all are told from it
    assert not rate(clear, "uniform is as good")
    flat = [advised(scored(EVEN, s)) for s in range(25)]
    assert rate(flat, "uniform is as good") >= 0.8
    assert rate(flat, "train at the pick") <= 0.1
    assert all(r.training_gain is None and "`previa validate` tells" in r.sentence for r in (*clear, *flat))


def test_joint_runs_have_the_last_word_on_the_gain():
    p = numbers(STEEP)
    good = advised(p, truth=scored(STEEP, 1, 400, shift=0.1))
    assert (good.verdict, good.detectable) == ("train at the pick", True)
    even = advised(p, truth=scored(EVEN, 1, 400, shift=0.25))
    assert (even.verdict, even.gain_from) == ("uniform is as good", "truth")
    loss = advised(p, truth=scored(-STEEP, 1, 400, shift=1.6))
    assert loss.verdict == "uniform is better"
    assert "is as good" not in loss.sentence
    assert loss.sentence.startswith("Use uniform weights, not the preview's pick")
    table = advised(p, truth=numbers(STEEP, 0.1))  # true scores brought as numbers
    assert (table.verdict, table.detectable) == ("train at the pick", None)


def test_scores_without_items_are_no_evidence_for_a_gain_but_for_its_absence():
    assert advised(numbers(STEEP)).verdict == "validate first"
    flat = advised(numbers(EVEN))
    assert (flat.verdict, flat.verdict_sentence) == (
        "uniform is as good",
        "Uniform is as good: the preview itself picks it.",
    )
    alone = scored(STEEP, 0).rows(np.arange(len(ALPHAS)) != CENTRE)
    assert "uniform weights were not previewed" in advised(alone).verdict_sentence


def test_half_of_the_methods_against_a_pick_that_nothing_true_speaks_for_ask_for_validation():
    p, other = scored(STEEP, 3, 400), scored(-STEEP, 1, 400, shift=1.4)
    assert advised(p, others={"same": p}).verdict == "train at the pick"
    doubted = advised(p, others={"same": p, "x": other})
    assert (doubted.verdict, doubted.doubted_by) == ("validate first", ("x",))
    assert "x puts the pick in the worse half" in doubted.sentence
    assert doubted.spread > 0.5
    assert advised(p, others={"same": p, "too": p, "x": other}).verdict == "train at the pick"
    seen = advised(p, others={"x": other}, truth=at_pick(p, scored(STEEP, 2, 400, shift=0.1)))
    assert (seen.verdict, seen.gain_from) == ("train at the pick", "truth")


# Ship ----------------------------------------------------------------------------------------------------------------------


def test_the_merged_model_is_shipped_where_joint_training_does_not_gain():
    made = []
    for s in range(12):
        p = scored(STEEP, s)
        made.append(advised(p, truth=at_pick(p, scored(STEEP, 100 + s, shift=-0.05))))
    assert rate(made, "ship the merged model") >= 0.7
    shipped = next(r for r in made if r.verdict == "ship the merged model")
    assert shipped.sentence.startswith("Use the merged model at a = ")
    assert shipped.training_gain_at == shipped.alpha


def test_a_gain_of_training_that_items_can_show_is_seldom_taken_for_none():
    false = []
    for s in range(25):  # 0.1: 2.7 standard errors of the difference, with a pick out of 29 equal ones
        p = scored(EVEN, s)
        false.append(advised(p, truth=at_pick(p, scored(EVEN, 100 + s, shift=0.1))))
    assert rate(false, "ship the merged model") <= 0.08


def test_the_pick_being_chosen_on_the_same_items_does_not_hide_what_training_gains():
    for gain in (0.0, 0.1):
        found, naive = [], []
        for s in range(25):
            p = scored(EVEN, s)
            r = advised(p, truth=at_pick(p, scored(EVEN, 100 + s, shift=gain)))
            found.append(r.training_gain.value)
            naive.append(r.true_score - r.score)
        error = np.std(found) / len(found) ** 0.5
        assert abs(np.mean(found) - gain) <= 3.5 * error
        assert np.mean(naive) < gain - 4 * error  # what the difference of the two numbers would say


def test_without_a_joint_run_at_the_pick_or_beside_it_nothing_is_shipped():
    p = scored(STEEP, 0)
    corners = Preview(TASKS, np.eye(3), p.at(np.eye(3)).scores)
    r = advised(p, truth=corners)
    assert (r.training_gain, r.verdict == "ship the merged model") == (None, False)
    assert "`previa validate` tells" in r.sentence


def test_a_run_that_the_preview_is_itself_says_nothing_of_a_pick_beside_it():
    alphas = np.array([[0.98, 0.01, 0.01], [1.0, 0, 0], uniform(3)])
    p = Preview(TASKS, alphas, np.repeat([[0.9], [0.8], [0.5]], 3, axis=1))
    corner = Preview(TASKS, alphas[[1]], p.scores[[1]])
    assert advised(p, truth=corner).training_gain is None
    other = Preview(TASKS, alphas[[1]], p.scores[[1]] - 0.01)
    assert advised(p, truth=other).training_gain_at == (1, 0, 0)
    mine = Preview(
        TASKS, alphas, np.repeat([[0.8], [0.9], [0.5]], 3, axis=1)
    )  # the pick is the task's own run
    alone = advised(mine, truth=mine.rows([1, 2]))
    assert (alone.training_gain, alone.verdict == "ship the merged model") == (None, False)


def test_a_merged_model_is_shipped_only_beside_a_joint_run_at_uniform_weights():
    p, truth = scored(STEEP, 3, 400), at_pick(scored(STEEP, 3, 400), scored(STEEP, 4, 400, shift=-0.1))
    assert advised(p, truth=truth).verdict == "ship the merged model"
    alone = advised(p, truth=truth.rows([0]))
    assert alone.training_gain is not None
    assert alone.verdict != "ship the merged model"


def test_interpolated_and_corrected_scores_are_of_no_model_to_ship():
    for made in ({"method": "scores_gp"}, {"method": "warped", "corrected": "offset"}):
        p = Preview(TASKS, ALPHAS, np.repeat(STEEP[:, None], 3, axis=1), provenance=made)
        assert advised(p, truth=numbers(STEEP, -0.1)).training_gain is None
    p = Preview(TASKS, ALPHAS, np.repeat(STEEP[:, None], 3, axis=1), provenance={"method": "warped"})
    assert advised(p, truth=numbers(STEEP, -0.1)).verdict == "ship the merged model"


def test_uniform_weights_that_train_to_more_than_the_merged_model_are_not_passed_over():
    level = STEEP - 0.05
    level[CENTRE] = 0.95
    r = advised(numbers(STEEP), truth=numbers(level))
    assert r.training_gain.value < 0 < r.uniform_training_gain.value
    assert r.verdict == "uniform is as good"


# Floors --------------------------------------------------------------------------------------------------------------------


LINE = np.column_stack([ALPHAS[:, 0], np.full(len(ALPHAS), 0.5), 1 - ALPHAS[:, 0]])


def test_floors_restrict_the_pick_and_uniform_that_misses_one_is_no_rival():
    p = numbers(None, per_task=LINE * [1, 1, 2])  # the mean falls with a's weight
    assert advised(p).alpha[0] == 0
    r = advised(p, preference=Preference(floors={"a": 0.5}))
    assert r.alpha == pytest.approx((0.5, 0.5, 0), abs=0.51)
    assert r.alpha[0] == pytest.approx(0.5)
    assert (r.verdict, r.uniform_misses, r.floors[0].margin) == ("train at the pick", ("a",), 0)
    assert not r.uniform.in_region
    assert all(alpha[0] >= 0.5 for alpha in r.region)
    assert "a keeps its floor of 0.5 with +0 to spare" in r.sentence
    assert "biased low, so a floor kept by the preview is mostly on the safe side." in r.sentence


def test_a_floor_of_a_task_without_weight_is_not_on_the_safe_side_since_training_may_forget_it():
    p = numbers(None, per_task=LINE * [1, 1, 2])
    r = advised(p, preference=Preference(weights={"a": 3}, floors={"b": 0.4, "a": 0.9}))
    assert r.alpha == (1, 0, 0)
    assert r.verdict == "validate first"
    assert "b has no weight at the pick, and joint training may forget" in r.verdict_sentence
    assert "mostly on the safe side; but b has no weight there" in r.sentence
    seen = advised(
        p, truth=numbers(None, per_task=LINE * [1, 1, 2] + 0.01), preference=Preference(floors={"b": 0.4})
    )
    assert "safe side" not in seen.sentence  # the joint run tells
    assert seen.floors[0].true_margin == pytest.approx(0.11)


def test_where_no_weighting_keeps_all_floors_it_says_which_is_missed_by_how_much():
    r = advised(numbers(None, per_task=LINE), preference=Preference(floors={"a": 0.7, "c": 0.6}))
    assert (r.verdict, r.floors_kept) == ("no weighting keeps the floors", False)
    assert min(f.margin for f in r.floors) < 0
    for f in r.floors:
        assert f"{f.task} >= {f.floor:g}" in r.sentence
        if f.margin < 0:
            assert f"{f.task} by {-f.margin:.2g}" in r.sentence
    assert sum(max(0, -f.margin) for f in r.floors) == pytest.approx(0.3)
    assert "joint training may still keep" in r.sentence
    higher = numbers(None, per_task=LINE + 0.3)
    seen = advised(
        numbers(None, per_task=LINE), truth=higher, preference=Preference(floors={"a": 0.7, "c": 0.6})
    )
    assert seen.verdict == "no weighting keeps the floors"
    assert 0.4 <= seen.true_best[0] <= 0.7
    assert "Of the joint runs the best that keeps them is a = 0." in seen.sentence


def test_a_floor_that_other_items_could_turn_round_asks_for_validation():
    level = np.clip(0.2 + 0.6 * ALPHAS[:, 1], 0, 1)
    p = scored(level, 0, 200)
    edge = float(np.sort(p.scores[:, 1])[-4])  # b's score at one of the best weightings: just kept there
    r = advised(p.rows(p.scores[:, 1] <= edge), preference=Preference(floors={"b": edge}))
    assert r.floors[0].kept < 0.95
    assert (r.verdict, "other test items could turn round that b" in r.verdict_sentence) == (
        "validate first",
        True,
    )
    safe = advised(p, preference=Preference(floors={"b": 0.3}))
    assert (safe.floors[0].kept, safe.verdict) == (1, "train at the pick")


def test_a_joint_run_that_misses_a_floor_is_told():
    p = numbers(None, per_task=LINE * [1, 1, 2])
    truth = numbers(None, per_task=LINE * [0.9, 1, 2.4])
    r = advised(p, truth=truth, preference=Preference(floors={"a": 0.5}))
    assert r.floors[0].true_margin == pytest.approx(-0.05)
    assert r.verdict == "validate first"
    assert "the joint run there misses the floor of a by 0.05" in r.verdict_sentence


def nearly_even(seed, N=300):
    """All weightings as good but for noise; task a gains a little with its own weight."""
    rng = np.random.default_rng(seed)
    level = 0.7 + np.column_stack([0.004 * ALPHAS[:, 0], np.zeros((len(ALPHAS), 2))])
    items = tuple((rng.random((len(ALPHAS), N)) < level[:, [t]]).astype(np.float32) for t in range(3))
    return Preview(TASKS, ALPHAS, np.column_stack([i.mean(axis=1, dtype=np.float64) for i in items]), items)


def test_a_floor_that_uniform_weights_miss_by_noise_is_no_reason_to_train_elsewhere():
    found = []
    for seed in range(20):
        p = nearly_even(seed)
        floors = {"a": float(p.scores[CENTRE, 0]) + 0.001}  # less than one item above uniform's
        found.append(advised(p, preference=Preference(floors=floors)))
    assert all(r.uniform_misses == () for r in found)
    assert rate(found, "train at the pick") <= 0.1
    p = scored(STEEP, 0, 400)
    firm = advised(p, preference=Preference(floors={"a": float(p.scores[CENTRE, 0]) + 0.15}))
    assert firm.uniform_misses == ("a",)


def test_a_merged_model_that_keeps_a_floor_by_noise_is_not_shipped():
    p = scored(STEEP, 3, 400)
    truth = at_pick(p, scored(STEEP, 4, 400, shift=-0.1))
    assert advised(p, truth=truth).verdict == "ship the merged model"
    close = {"a": float(p.scores[int(ranking(p.mean, ALPHAS)[0]), 0]) - 0.002}
    r = advised(p, truth=truth, preference=Preference(floors=close))
    assert r.floors[0].kept < 0.95
    assert r.verdict != "ship the merged model"
