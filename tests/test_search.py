"""Which weighting is evaluated next: the start, the candidates, the worth of an evaluation, and what a search finds."""

import time
from math import comb

import numpy as np
import pytest
import torch
from torch.quasirandom import SobolEngine

from previa.errors import AlphaError, InputError, NotFiniteError
from previa.study import acquisition, search, simplex
from previa.study._sobol import BITS, DIMENSIONS, sobol
from previa.study.acquisition import above, all_above, expected_improvement, gain_of_the_worst, straddle
from previa.study.item_noise import item_noise
from previa.study.preference import Preference
from previa.study.preview import Preview
from previa.study.search import (
    candidates,
    distinct,
    expected_gain,
    neighbours,
    number_to_start,
    start,
    suggest,
)
from previa.study.simplex import grid
from previa.study.surrogate import gaussian_process

ABC = ("a", "b", "c")
WISHES = {
    "mean": Preference(),
    "weighted": Preference(weights={"a": 3, "b": 0}),
    "floors": Preference(floors={"a": 0.75, "c": 0.7}),
    "out of reach": Preference(floors={"a": 5.0}),
    "worst": Preference(worst=True),
    "worst with floors": Preference(worst=True, floors={"b": 0.7}, weights={"b": 0}),
    "relative": Preference(relative_to={"a": 0.9, "b": 0.7, "c": 0.8}, floors={"a": 0.8}),
}


def saturating(alphas, seed):
    """Smooth scores [A, T] whose mean is best somewhere inside: a little weight on a task buys most of its score."""
    rng = np.random.default_rng(seed)
    T = alphas.shape[1]
    slow, height = rng.uniform(0.05, 0.4, T), rng.uniform(0.2, 0.6, T)
    return 0.9 - height * np.exp(-alphas / slow) - 0.15 * (1 - alphas) ** 2


def searched(alphas, scores, budget, seed, **wish):
    """The rows of a grid that a search evaluates, in order."""
    T = alphas.shape[1]
    rows = []
    for alpha in start(T, number_to_start(T), seed=seed):
        off = np.linalg.norm(alphas - alpha, axis=1)
        off[rows] = np.inf
        rows.append(int(np.argmin(off)))
    while len(rows) < budget:
        rows.append(suggest(alphas[rows], scores[rows], tuple("abcdefgh"[:T]), alphas, **wish))
    return rows


# -- where it starts, and what it may choose


def test_sobols_points_are_those_of_torch_to_the_last_bit():
    expected = SobolEngine(DIMENSIONS, scramble=False).draw(200, dtype=torch.float64).numpy()
    assert np.array_equal(sobol(199, DIMENSIONS), expected[1:])  # without the origin


def test_a_shift_moves_sobols_points_but_keeps_each_half_of_every_axis_half_full():
    one, other = sobol(255, 5, seed=0), sobol(255, 5, seed=1)
    assert not np.array_equal(one, other)
    assert np.array_equal(one, sobol(255, 5, seed=0))
    for points in (one, other):
        assert (points > 0).all()
        assert (points < 1).all()
        halves = (points < 0.5).sum(axis=0)
        assert set(halves.tolist()) <= {127, 128}  # of 255: the origin is left out
        assert points.min() >= 2.0 ** -(BITS + 1)


@pytest.mark.parametrize("T", [2, 3, 5, 30])
def test_a_start_is_corners_and_centroid_and_a_larger_one_only_adds_points(T):
    few, many = start(T, T + 3, seed=4), start(T, T + 40, seed=4)
    assert np.array_equal(few, many[: T + 3])
    assert np.array_equal(many[:T], np.eye(T))
    assert np.allclose(many[T], 1 / T)
    simplex.check_alphas(many, T)
    assert len(distinct(many)) == len(many)
    assert not np.array_equal(many, start(T, T + 40, seed=5))


def test_points_of_a_start_are_uniform_on_the_simplex():
    points = start(4, 5 + 4096, seed=0)[5:]
    # Dirichlet(1, 1, 1, 1): mean 1/4, P(weight > 1/2) = (1/2)^3
    assert np.allclose(points.mean(axis=0), 0.25, atol=0.005)
    assert np.allclose((points > 0.5).mean(axis=0), 0.125, atol=0.005)


@pytest.mark.parametrize(("T", "number"), [(1, 5), (3, 3), (3, 2.5), (True, 4)])
def test_a_start_without_room_for_corners_and_centroid_is_refused(T, number):
    with pytest.raises(InputError, match="start"):
        start(T, number, seed=0)


@pytest.mark.parametrize(("T", "steps"), [(2, 20), (3, 20), (5, 10), (6, 20), (8, 20), (17, 20)])
def test_candidates_are_of_the_grid_each_once_and_not_too_many(T, steps):
    found = candidates(T, steps)
    assert len(found) <= search.MOST
    assert np.allclose(found * steps, np.rint(found * steps), atol=1e-9)
    assert len(distinct(found)) == len(found)
    simplex.check_alphas(found, T)
    if comb(steps + T - 1, T - 1) <= search.MOST:
        assert np.array_equal(found, grid(T, steps))
    else:
        assert ((found > 0).sum(axis=1) > T / 2).sum() > 100  # a coarse grid has hardly any
    for corner in np.eye(T):
        assert simplex.find(found, corner) is not None


def test_neighbours_are_one_step_from_their_middle():
    found = neighbours([0.5, 0.5, 0.0], 10)
    assert {tuple(np.round(row, 9)) for row in found} == {
        (0.4, 0.6, 0.0), (0.4, 0.5, 0.1), (0.6, 0.4, 0.0), (0.5, 0.4, 0.1)
    }  # fmt: skip
    off = neighbours([1 / 3, 1 / 3, 1 / 3], 10)  # its nearest point of the grid, too
    assert simplex.find(off, [0.4, 0.3, 0.3]) == 0
    assert len(off) == 7


# -- what an evaluation is worth


def drawn(mean, sd, number=400_000):
    return mean + sd * np.random.default_rng(0).normal(size=(number, *np.shape(mean)))


@pytest.mark.parametrize(("mean", "sd", "best"), [(0.5, 0.1, 0.55), (0.7, 0.1, 0.5), (0.3, 0.2, 0.6)])
def test_expected_improvement_is_the_mean_of_draws(mean, sd, best):
    s = drawn(np.array([mean]), sd)
    expected = np.maximum(s - best, 0).mean()
    found = expected_improvement(np.array([mean]), np.array([sd]), best)[0]
    assert found == pytest.approx(expected, abs=5 * sd / np.sqrt(len(s)))


def test_expected_improvement_without_doubt_is_what_is_known_and_far_off_never_negative():
    mean, sd = np.array([0.6, 0.4, 0.0, 0.0]), np.array([0.0, 0.0, 0.01, 1e-3])
    found = expected_improvement(mean, sd, 0.5)
    assert found[:2] == pytest.approx([0.1, 0.0])
    assert (found >= 0).all()


@pytest.mark.parametrize("counted", [(True, True, True), (True, False, True)])
@pytest.mark.parametrize("floors", [(-np.inf,) * 3, (0.78, 0.7, -np.inf)])
def test_the_gain_of_the_worst_task_is_the_mean_of_draws(counted, floors):
    mean, sd, best = np.array([[0.8, 0.72, 0.75]]), np.array([[0.05, 0.08, 0.06]]), 0.7
    s = drawn(mean, sd)[:, 0]
    kept = (s >= floors).all(axis=1)
    expected = (np.maximum(s[:, counted].min(axis=1) - best, 0) * kept).mean()
    found = gain_of_the_worst(mean, sd, best, np.array(floors), np.array(counted))[0]
    assert found == pytest.approx(expected, rel=0.02)


def test_floors_are_kept_as_often_as_draws_keep_them():
    mean, sd, floors = np.array([[0.7, 0.2]]), np.array([[0.05, 0.3]]), np.array([0.75, -0.1])
    expected = (drawn(mean, sd)[:, 0] >= floors).all(axis=1).mean()
    assert all_above(mean, sd, floors)[0] == pytest.approx(expected, abs=0.005)


def test_probabilities_are_exact_in_both_tails_and_certain_without_doubt():
    assert above(np.array(-10.0), np.array(1.0), np.array(0.0)) == pytest.approx(7.61985302416e-24)
    assert above(np.array([1.0, 1.0, 0.9]), np.zeros(3), np.ones(3)).tolist() == [1.0, 1.0, 0.0]


def test_the_region_wants_the_most_doubtful_side_of_its_edge():
    worth = straddle(np.array([[-0.2], [0.0], [0.0]]), np.array([[0.1], [0.1], [0.2]]))
    assert worth == pytest.approx([1.96 * 0.1 - 0.2, 1.96 * 0.1, 1.96 * 0.2])


def test_of_several_margins_the_one_most_likely_missed_decides():
    margins, sd = (
        np.array([[0.4, 0.01], [-0.05, 0.02], [0.3, 0.0]]),
        np.array([[0.1, 0.1], [0.01, 0.3], [0.1, 0.0]]),
    )
    assert straddle(margins, sd) == pytest.approx([1.96 * 0.1 - 0.01, 1.96 * 0.01 - 0.05, 0.0])


# -- what it suggests


def evaluated(seed=0, T=3, n=12):
    alphas = grid(T, 12)
    rng = np.random.default_rng(seed)
    rows = np.concatenate([[simplex.find(alphas, e) for e in np.eye(T)], rng.choice(len(alphas), n, False)])
    rows = np.unique(rows.astype(int))
    return alphas, rows, saturating(alphas, seed)


@pytest.mark.parametrize("goal", search.GOALS)
@pytest.mark.parametrize("name", WISHES)
def test_what_is_suggested_was_not_evaluated_and_the_same_data_suggest_the_same(name, goal):
    alphas, rows, scores = evaluated()
    first = suggest(alphas[rows], scores[rows], ABC, alphas, preference=WISHES[name], goal=goal)
    assert first not in rows
    again = suggest(alphas[rows[::-1]], scores[rows[::-1]], ABC, alphas, preference=WISHES[name], goal=goal)
    assert again == first


@pytest.mark.parametrize("goal", search.GOALS)
@pytest.mark.parametrize("name", WISHES)
def test_the_order_of_tasks_and_of_candidates_changes_nothing(name, goal):
    alphas, rows, scores = evaluated(1)
    order, shuffled = [2, 0, 1], np.random.default_rng(0).permutation(len(alphas))
    first = suggest(alphas[rows], scores[rows], ABC, alphas, preference=WISHES[name], goal=goal)
    other = suggest(
        alphas[rows][:, order], scores[rows][:, order], tuple(ABC[t] for t in order), alphas[shuffled][:, order],
        preference=WISHES[name], goal=goal,
    )  # fmt: skip
    assert shuffled[other] == first


@pytest.mark.parametrize("goal", search.GOALS)
def test_the_unit_of_scores_changes_nothing(goal):
    alphas, rows, scores = evaluated(2)
    p, q = Preference(worst=True, floors={"a": 0.7}), Preference(worst=True, floors={"a": 73.0})
    first = suggest(alphas[rows], scores[rows], ABC, alphas, preference=p, goal=goal, tolerance=0.01)
    other = suggest(alphas[rows], 100 * scores[rows] + 3, ABC, alphas, preference=q, goal=goal, tolerance=1.0)
    assert other == first


def test_a_floor_keeps_the_search_where_the_floor_is_kept():
    alphas = grid(3, 12)
    scores = np.column_stack([alphas[:, 0], 1 - alphas[:, 0], np.full(len(alphas), 0.5)])
    scores[:, 1] *= 2  # the mean is best without task a
    p = Preference(floors={"a": 0.5})
    rows = searched(alphas, scores, 20, 0, preference=p)
    kept = [row for row in rows if alphas[row, 0] >= 0.5]
    best = max(p.value(scores[row], ABC) for row in kept)
    assert best == pytest.approx(p.value(scores, ABC)[p.keeps(scores, ABC)].max())
    assert len(kept) > len(searched(alphas, scores, 20, 0)) / 3


def test_while_no_floor_is_kept_the_likeliest_to_keep_it_is_next():
    alphas, rows, scores = evaluated(3)
    p = Preference(floors={"a": float(scores[rows, 0].max()) + 0.005})
    row = suggest(alphas[rows], scores[rows], ABC, alphas, preference=p)
    free = np.setdiff1d(np.arange(len(alphas)), rows)
    mean, sd = gaussian_process(alphas[rows], scores[rows]).predict(alphas[free])
    assert row == free[np.argmax(above(mean[:, 0], sd[:, 0], np.array(p.floors["a"])))]


def test_scores_that_say_nothing_lead_away_from_what_was_seen():
    alphas = grid(2, 10)
    row = suggest(np.eye(2), np.ones((2, 2)), ("a", "b"), alphas)
    assert np.allclose(alphas[row], 0.5)


def test_a_search_evaluates_each_candidate_once_and_then_refuses():
    alphas, scores = grid(3, 3), saturating(grid(3, 3), 0)
    assert sorted(searched(alphas, scores, len(alphas), 0)) == list(range(len(alphas)))
    with pytest.raises(InputError, match="all 10 candidates"):
        suggest(alphas, scores, ABC, alphas)


def test_another_surrogate_may_predict():
    alphas, rows, scores = evaluated(4)
    free = np.setdiff1d(np.arange(len(alphas)), rows)[7]

    def told(_, known, at):
        assert known.shape == (len(rows), 1)  # the value alone
        mean = (np.abs(at - alphas[free]).max(axis=1, keepdims=True) < 1e-9).astype(float)
        return mean, np.full((len(at), 1), 0.01)

    assert suggest(alphas[rows], scores[rows], ABC, alphas, predict=told) == free


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"goal": "worst"}, InputError, "goal"),
        ({"goal": "region", "tolerance": -0.1}, InputError, "tolerance"),
        ({"scores": np.ones((2, 3))}, InputError, "expected alphas and scores"),
        ({"alphas": np.zeros((0, 3)), "scores": np.zeros((0, 3))}, InputError, "n of at least 1"),
        ({"scores": np.full((3, 3), np.nan)}, NotFiniteError, "finite"),
        ({"candidates": [[0.5, 0.6, 0.1]]}, AlphaError, "candidates"),
        ({"preference": Preference(floors={"d": 1.0})}, InputError, "'d'"),
    ],
)
def test_what_no_suggestion_follows_from_is_refused_in_a_sentence(change, error, match):
    given = {"alphas": np.eye(3), "scores": np.eye(3), "tasks": ABC, "candidates": grid(3, 4), **change}
    with pytest.raises(error, match=match):
        suggest(**given)


def test_the_expected_gain_is_zero_where_it_was_evaluated_and_unknown_while_no_floor_is_kept():
    alphas, rows, scores = evaluated(5)
    found = expected_gain(alphas[rows], scores[rows], ABC, alphas)
    assert (found[rows] == 0).all()
    assert (found >= 0).all()
    assert found.argmax() == suggest(alphas[rows], scores[rows], ABC, alphas)
    far = expected_gain(alphas[rows], scores[rows], ABC, alphas, preference=WISHES["out of reach"])
    assert np.isinf(np.delete(far, rows)).all()


def test_the_noise_of_items_is_that_of_paired_differences():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(2, 3, 200)).astype(np.float32)  # tasks, weightings, items
    preview = Preview(("a", "b"), grid(2, 2), x.mean(axis=2, dtype=np.float64).T, tuple(x))
    value = preview.mean
    best, second = np.argsort(-value)[:2]
    off = x[:, second].astype(np.float64) - x[:, best]
    expected = 1.96 * np.sqrt((off.var(axis=1) / 200 / 4).sum())
    assert item_noise(preview) == pytest.approx(expected, rel=1e-5)
    assert item_noise(Preview(("a", "b"), grid(2, 2), preview.scores)) is None


# -- what a search finds


def test_where_one_tasks_gain_is_anothers_loss_the_narrow_best_is_found():
    alphas = grid(3, 20)
    wins = np.exp(30 * alphas)
    scores = 1 / (
        1 + 60 * np.exp(-12 * wins / wins.sum(axis=1, keepdims=True))
    )  # the heaviest takes nearly all
    value = scores.mean(axis=1)
    short = [value.max() - value[searched(alphas, scores, 20, seed)].max() for seed in range(3)]
    assert np.median(short) < 1e-3
    assert np.ptp(value) > 0.2


def test_the_grids_best_of_three_tasks_is_found_within_20_evaluations():
    alphas = grid(3, 20)
    short, random = [], []
    for seed in range(5):
        value = saturating(alphas, seed).mean(axis=1)
        rows = searched(alphas, saturating(alphas, seed), 20, seed)
        short.append(value.max() - value[rows].max())
        draw = np.random.default_rng(seed)
        random += [value.max() - value[draw.permutation(len(value))[:20]].max() for _ in range(50)]
    assert np.median(short) < 1e-9
    assert np.max(short) < np.median(random)


@pytest.mark.parametrize("name", ["worst", "floors"])
def test_the_best_under_a_preference_is_found_within_25_evaluations(name):
    alphas, p = grid(3, 20), WISHES[name]
    short = []
    for seed in range(3):
        scores = saturating(alphas, seed)
        if name == "floors":
            p = Preference(floors={"a": float(np.quantile(scores[:, 0], 0.8))})
        rows = searched(alphas, scores, 25, seed, preference=p)
        kept = p.keeps(scores, ABC)
        value = np.where(kept, p.value(scores, ABC), -np.inf)
        short.append(value.max() - value[rows].max())
    assert np.median(short) < 1e-9


def test_the_region_is_known_better_than_by_random_evaluations():
    alphas = grid(3, 20)
    wrong, random = [], []
    for seed in range(3):
        scores = saturating(alphas, seed)
        level = scores.mean(axis=1).max() - 0.02
        near = scores.mean(axis=1) >= level
        rows = searched(alphas, scores, 20, seed, goal="region", tolerance=0.02)
        draw = np.random.default_rng(seed)
        for chosen, into in ((rows, wrong), (draw.permutation(len(alphas))[:20], random)):
            mean, _ = gaussian_process(alphas[chosen], scores[chosen]).predict(alphas)
            into.append(((mean.mean(axis=1) >= level) != near).mean())
    assert np.mean(wrong) < 0.01  # of the simplex on the wrong side
    assert np.mean(wrong) < np.mean(random)


def test_a_suggestion_among_thousands_of_eight_tasks_takes_no_half_second():
    alphas = candidates(8, 20)
    rows = np.arange(0, len(alphas), len(alphas) // 40)[:40]
    scores = saturating(alphas, 0)
    tasks = tuple("abcdefgh")
    taken = []
    for _ in range(3):
        begun = time.process_time()
        suggest(alphas[rows], scores[rows], tasks, alphas, preference=Preference(worst=True))
        taken.append(time.process_time() - begun)
    assert min(taken) < 0.5


def test_improvements_too_small_for_numbers_are_zero_not_undefined():
    assert acquisition.normal_cdf(np.array([-50.0, 50.0, -np.inf, np.inf])).tolist() == [0.0, 1.0, 0.0, 1.0]


def test_floors_out_of_reach_lead_to_the_best_compromise_not_away_from_it():
    scores = 0.4 + 0.25 * np.sqrt(np.eye(3)[[0, 1, 2]])
    alphas, rows = np.vstack([np.eye(3), np.full(3, 1 / 3)]), grid(3, 20)
    known = 0.4 + 0.25 * np.sqrt(alphas)
    assert np.allclose(known[:3], scores)
    wish = Preference(floors={"a": 0.95, "b": 0.95})
    best = wish.shortfall(0.4 + 0.25 * np.sqrt(rows), ("a", "b", "c")).min()
    for _ in range(4):
        new = rows[suggest(alphas, known, ("a", "b", "c"), rows, preference=wish)]
        alphas, known = np.vstack([alphas, new]), np.vstack([known, 0.4 + 0.25 * np.sqrt(new)])
    short = wish.shortfall(known[4:], ("a", "b", "c"))
    assert short.min() < best + 0.02
    assert short.max() < best + 0.1  # it stays beside the compromise: the corners miss by 0.25 more
