"""Pareto fronts: laws of dominance and hypervolume beside slow oracles, and fronts of previews judged by true scores."""

import itertools
import json
import math

import numpy as np
import pytest

from previa.errors import InputError
from previa.study import bootstrap
from previa.study.hypervolume import missed, share_of_a_draw
from previa.study.pareto import compare_fronts, front, hypervolume, paired_error
from previa.study.preview import Preview
from previa.study.simplex import grid

TASKS = ("a", "b", "c", "d", "e")


def draw(A, T, seed=0, *, coarse=False):
    """Made-up scores; coarse ones tie often."""
    rng = np.random.default_rng(seed)
    return rng.integers(4, size=(A, T)) / 4 if coarse else rng.uniform(size=(A, T))


def slow_front(s):
    """The definition, row by row."""
    return [
        not any((b >= a).all() and (b > a).any() for b in s if np.isfinite(b).all()) and np.isfinite(a).all()
        for a in s
    ]


def slow_volume(s, r):
    """Inclusion and exclusion over every subset of rows."""
    lengths = np.maximum(s - r, 0)
    return sum(
        (-1) ** (k + 1) * lengths[list(rows)].min(axis=0).prod()
        for k in range(1, len(s) + 1)
        for rows in itertools.combinations(range(len(s)), k)
    )


# the front


@pytest.mark.parametrize("T", [1, 2, 3, 5])
@pytest.mark.parametrize("coarse", [False, True])
def test_the_front_is_what_no_row_dominates(T, coarse):
    for seed in range(5):
        s = draw(40, T, seed, coarse=coarse)
        s[3, 0] = np.nan
        assert front(s).tolist() == slow_front(s)


def test_the_front_in_blocks_is_the_front(monkeypatch):
    s = draw(300, 3)
    whole = front(s)
    monkeypatch.setattr("previa.study.hypervolume.BLOCK", 1000)
    np.testing.assert_array_equal(front(s), whole)


def test_equal_rows_are_on_the_front_together_or_not_at_all():
    assert front([[1.0, 2], [1, 2], [0, 1], [0, 1]]).tolist() == [True, True, False, False]


def test_a_failed_row_is_never_on_the_front_and_beats_nothing():
    assert front([[np.nan, 9.0], [1, 1]]).tolist() == [False, True]
    assert front(np.full((2, 2), np.nan)).tolist() == [False, False]
    assert front(np.zeros((0, 3))).shape == (0,)


def test_the_front_of_one_task_is_its_best():
    assert front([[1.0], [3], [3], [2]]).tolist() == [False, True, True, False]


def test_dominated_rows_do_not_change_the_front_and_order_does_not_matter():
    s = draw(60, 3)
    on = front(s)
    assert front(s[on]).all()
    order = np.random.default_rng(1).permutation(60)
    np.testing.assert_array_equal(front(s[order]), on[order])
    np.testing.assert_array_equal(front(s[:, ::-1]), on)
    np.testing.assert_array_equal(front(s * [1, 10, 0.1] + [0, 5, -5]), on)


# the hypervolume


@pytest.mark.parametrize("T", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("coarse", [False, True])
def test_the_hypervolume_is_the_sum_over_subsets(T, coarse, monkeypatch):
    """The recursion down to single rows, and the shortcut for few rows; up to rounding of 2^9 terms of order one."""
    for few in (0, 12):
        monkeypatch.setattr("previa.study.hypervolume.FEW", few)
        for seed in range(4):
            s = draw(9, T, seed, coarse=coarse)
            r = np.full(T, 0.2)
            assert hypervolume(s, r) == pytest.approx(slow_volume(s, r), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize(("A", "T"), [(200, 2), (120, 3), (60, 4), (40, 5)])
def test_the_hypervolume_is_the_share_of_random_points_dominated(A, T):
    s = np.abs(np.random.default_rng(A).normal(size=(A, T)))
    s /= np.linalg.norm(s, axis=1, keepdims=True)  # all on the front
    points = np.random.default_rng(0).uniform(size=(20_000, T))
    inside = np.zeros(len(points), bool)
    for row in s:
        inside |= (points <= row).all(axis=1)
    p = inside.mean()
    assert hypervolume(s, np.zeros(T)) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / len(points)))


@pytest.mark.parametrize("T", [2, 3, 4])
def test_laws_of_the_hypervolume(T):
    s, r = draw(30, T), np.full(T, -0.1)
    volume = hypervolume(s, r)
    assert hypervolume(s[front(s)], r) == pytest.approx(volume, rel=1e-12)  # dominated rows add nothing
    assert hypervolume(np.vstack([s, s[:7]]), r) == pytest.approx(volume, rel=1e-12)  # nor do copies
    assert hypervolume(np.vstack([s, np.full(T, 1.01)]), r) > volume  # a row that beats all adds
    before = [hypervolume(s[:n], r) for n in range(31)]
    assert before[0] == 0
    assert (np.diff(before) >= -1e-12).all()  # more rows, no less volume
    order = np.random.default_rng(1).permutation(30)
    assert hypervolume(s[order][:, ::-1], r) == pytest.approx(volume, rel=1e-12)
    scale, shift = np.arange(1.0, T + 1), np.linspace(-3, 3, T)
    assert hypervolume(s * scale + shift, r * scale + shift) == pytest.approx(
        volume * scale.prod(), rel=1e-10
    )
    assert hypervolume(s, r - 0.1) > volume


def test_one_row_is_a_box_and_what_is_not_above_the_reference_adds_nothing():
    assert hypervolume([[3.0, 4.0, 5.0]], [1, 1, 1]) == 24
    assert hypervolume([[3.0, 1.0], [0, 9], [np.nan, 9], [2, 2]], [1, 1]) == 1
    assert hypervolume(np.zeros((0, 3)), [0, 0, 0]) == 0


@pytest.mark.parametrize(
    ("scores", "reference", "words"),
    [
        ([1.0, 2.0], [0.0], r"should be \[A, T\]"),
        ([[1.0, np.inf]], [0.0, 0.0], "finite or NaN"),
        ([[1.0, 2.0], [3.0]], [0.0, 0.0], "rows of one length"),
        ([[1.0, 2.0]], [0.0], "should be 2 finite scores"),
        ([[1.0, 2.0]], [0.0, np.nan], "should be 2 finite scores"),
    ],
)
def test_what_is_no_table_of_scores_is_said(scores, reference, words):
    with pytest.raises(InputError, match=words):
        hypervolume(scores, reference)


# what weightings drawn blindly reach


def test_the_chance_to_miss_is_that_of_all_draws():
    for n in range(1, 6):
        draws = list(itertools.combinations(range(5), n))
        for c in range(6):
            misses = sum(not set(drawn) & set(range(c)) for drawn in draws)
            assert missed(5, n)[c] == pytest.approx(misses / len(draws))


@pytest.mark.parametrize("T", [1, 2, 3, 5])
def test_the_volume_of_a_blind_draw_is_the_mean_over_all_draws(T):
    """By every subset; 65 536 points, of which over 1000 count, are off by less than 0.005."""
    s, r = draw(8, T, T), np.full(T, 0.1)
    s[0, 0] = 0.0  # not above the reference: it counts among what may be drawn, with no volume
    for n in (1, 3, 8):
        mean = np.mean([hypervolume(s[list(rows)], r) for rows in itertools.combinations(range(8), n)])
        assert share_of_a_draw(s, r, n) == pytest.approx(mean / hypervolume(s, r), abs=0.005)
    assert share_of_a_draw(s, r, 8) == pytest.approx(1)
    assert share_of_a_draw(s, np.full(T, 2.0), 3) is None


def test_the_volume_of_a_blind_draw_holds_where_most_of_the_volume_is_dominated_many_times():
    """A plateau, with 400 simulated draws; the tolerance is four standard errors of their mean, and 0.002 of our own."""
    rng = np.random.default_rng(0)
    s = 1 - np.exp(-rng.dirichlet(np.ones(3), 60) / 0.1)
    r = s.min(axis=0)
    mean = [hypervolume(s[rng.choice(60, 12, replace=False)], r) for _ in range(400)] / np.array(
        hypervolume(s, r)
    )
    assert share_of_a_draw(s, r, 12) == pytest.approx(mean.mean(), abs=4 * mean.std() / 20 + 0.002)


def test_a_volume_too_small_in_its_box_is_not_sampled():
    s = np.full((8, 8), 0.01) + np.eye(8)
    assert hypervolume(s, np.zeros(8)) > 0
    assert share_of_a_draw(s, np.zeros(8), 3) is None


# previews


def preview(scores, alphas, items=()):
    return Preview(TASKS[: scores.shape[1]], alphas, scores, items)


def landscape(T, steps, *, seed=0, N=400, slow=0.15):
    """A Preview with per-item scores whose truth saturates in each weight, and which costs at the corners."""
    alphas, rng = grid(T, steps), np.random.default_rng(seed)
    level = 0.95 - 0.5 * np.exp(-alphas / slow) - 0.1 * (alphas > 0.7)
    hard = np.random.default_rng(99).uniform(size=(T, N))  # the same test items for all
    items = tuple(
        (hard[t] + 0.05 * rng.normal(size=(len(alphas), N)) < level[:, t, None]).astype(np.float32)
        for t in range(T)
    )
    scores = np.stack([i.mean(axis=1, dtype=np.float64) for i in items], axis=1)
    return preview(scores, alphas, items)


@pytest.mark.parametrize("T", [2, 3, 4])
def test_the_truth_as_its_own_preview_is_perfect(T):
    truth = landscape(T, (9, 6, 4)[T - 2])
    found = compare_fronts(truth, truth)
    np.testing.assert_array_equal(found.on_true, found.on_previewed)
    for name in ("exact_share", "exact_found", "near_share", "near_found", "volume_share"):
        assert getattr(found, name) == 1
    assert found.near[found.on_true].all()
    assert found.reference == tuple(truth.scores.min(axis=0))


def test_only_the_order_within_each_task_matters_not_the_level_of_a_preview():
    truth, other = landscape(3, 6), landscape(3, 6, seed=1, slow=0.3)
    bent = preview(other.scores**3 * [0.1, 0.5, 2.0] - 4, other.alphas)
    one, two = compare_fronts(truth, other).to_dict(), compare_fronts(truth, bent).to_dict()
    assert one == two


def test_the_order_of_tasks_and_of_weightings_does_not_matter():
    truth, other = landscape(3, 6), landscape(3, 6, seed=1, slow=0.3)
    first = compare_fronts(truth, other)
    order = np.random.default_rng(0).permutation(len(truth))
    again = compare_fronts(truth.rows(order), other.rows(order[::-1]))
    numbers = (
        "near_share",
        "near_by_chance",
        "near_found",
        "near_found_by_chance",
        "luck",
        "exact_share",
        "volume_share",
    )
    assert [getattr(again, n) for n in numbers] == pytest.approx([getattr(first, n) for n in numbers])
    assert again.volume_by_chance == pytest.approx(first.volume_by_chance)


def test_a_finer_preview_is_judged_where_there_is_truth():
    truth, fine = landscape(2, 5), landscape(2, 20, slow=0.3)
    found = compare_fronts(truth, fine)
    np.testing.assert_array_equal(found.alphas, truth.alphas)
    same = compare_fronts(truth, fine.at(truth.alphas))
    assert found.to_dict() == same.to_dict()


def test_failed_weightings_are_left_out_and_the_reference_is_of_all_that_was_trained():
    truth = landscape(2, 10)
    scores = np.array(truth.scores)
    scores[4] = np.nan
    found = compare_fronts(truth, preview(scores, truth.alphas))
    assert len(found.alphas) == 10
    worst = int(np.argmin(truth.scores[:, 0]))
    rest = preview(np.delete(truth.scores, worst, axis=0), np.delete(truth.alphas, worst, axis=0))
    assert compare_fronts(truth, rest).reference == tuple(truth.scores.min(axis=0))


def test_the_standard_error_of_a_pair_is_what_the_bootstrap_tends_to():
    """1000 draws know a standard deviation to 2 %, the tolerance is four times that; 1e-8 is a root of rounding."""
    items = landscape(2, 4).items[0]
    draws = bootstrap.means(items, seed=(0,))
    rows = np.array([True, False, True, False, False])
    found = paired_error(items, rows)
    for a, f in itertools.product(range(5), range(2)):
        other = np.flatnonzero(rows)[f]
        assert found[a, f] == pytest.approx((draws[:, other] - draws[:, a]).std(), rel=0.09, abs=1e-8)
    assert [found[0, 0], found[2, 1]] == pytest.approx([0, 0], abs=1e-8)  # a weighting beside itself


def test_near_optimal_is_as_good_as_a_best_trade_off_in_every_task():
    """By hand: the front is the first three; the fourth and fifth give away .01 of one task, the sixth .3."""
    truth = preview(
        np.array([[0.9, 0.1], [0.6, 0.6], [0.1, 0.9], [0.59, 0.6], [0.9, 0.09], [0.3, 0.6], [0.0, 0.0]]),
        grid(2, 6),
    )
    exact = compare_fronts(truth, truth)
    assert exact.on_true.tolist() == [True, True, True, False, False, False, False]
    assert exact.near is None
    assert exact.near_share is exact.near_found is exact.noise is None
    assert compare_fronts(truth, truth, tolerance=0).near.tolist() == exact.on_true.tolist()
    found = compare_fronts(truth, truth, tolerance=0.01)  # 0.6 - 0.59 is a hair above 0.01 in binary
    assert found.near.tolist() == [True, True, True, True, True, False, False]
    assert found.noise == (0.01, 0.01)
    assert compare_fronts(truth, truth, tolerance=(0.01, 0)).near.tolist() == [True] * 4 + [False] * 3


def test_losing_one_task_altogether_is_not_near_optimal_where_another_task_ties():
    """b is 0.4 better in the second task and ties in the first: no task is beaten by much in *every* task, but a is no trade-off."""
    truth = preview(np.array([[0.9, 0.4], [0.9, 0.8], [0.2, 0.85]]), grid(2, 2))
    assert compare_fronts(truth, truth, tolerance=0.05).near.tolist() == [False, True, True]


def test_a_wider_tolerance_never_loses_a_near_optimal_weighting():
    truth = landscape(3, 6)
    masks = [compare_fronts(truth, truth, tolerance=e).near for e in (0, 0.01, 0.05, 0.2, 1)]
    for less, more in itertools.pairwise(masks):
        assert (more >= less).all()
    assert masks[-1].all()


def test_the_numbers_are_those_of_the_masks():
    truth, other = landscape(3, 6), landscape(3, 6, seed=1, slow=0.5)
    found = compare_fronts(truth, other)
    assert found.exact_share == (found.on_true & found.on_previewed).sum() / found.on_previewed.sum()
    assert found.near_share == (found.near & found.on_previewed).sum() / found.on_previewed.sum()
    assert found.near_by_chance == found.near.mean()
    assert found.exact_found == (found.on_true & found.on_previewed).sum() / found.on_true.sum()
    assert found.volume_true == pytest.approx(hypervolume(truth.scores, found.reference))
    assert found.volume == pytest.approx(hypervolume(truth.scores[found.on_previewed], found.reference))
    assert found.volume_share == found.volume / found.volume_true


def test_by_chance_is_the_mean_over_blind_draws_and_luck_the_share_that_do_as_well():
    """2000 simulated draws; tolerances are four standard errors of a share."""
    truth, other = landscape(2, 12), landscape(2, 12, seed=1, slow=0.6)
    found = compare_fronts(truth, other, tolerance=0.02)
    n, rng = int(found.on_previewed.sum()), np.random.default_rng(0)
    assert 0 < n < len(truth)
    match = (truth.scores[found.on_true][None] - truth.scores[:, None] <= 0.02 + 1e-12).all(axis=2)
    drawn = [rng.choice(len(truth), n, replace=False) for _ in range(2000)]
    hits = np.array([found.near[rows].sum() for rows in drawn])
    lucky = (hits >= (found.near & found.on_previewed).sum()).mean()
    assert (hits / n).mean() == pytest.approx(found.near_by_chance, abs=4 * 0.5 / math.sqrt(2000))
    assert lucky == pytest.approx(found.luck, abs=4 * 0.5 / math.sqrt(2000))
    reached = np.mean([match[rows].any(axis=0).mean() for rows in drawn])
    assert reached == pytest.approx(found.near_found_by_chance, abs=4 * 0.5 / math.sqrt(2000))


@pytest.mark.parametrize(("T", "steps", "least"), [(2, 20, 0.75), (3, 10, 0.9), (4, 5, 0.95)])
def test_on_a_plateau_nearly_every_weighting_is_near_optimal_and_the_base_rate_says_so(T, steps, least):
    """Weightings that differ by nothing but noise: few are on the strict front, most within noise of it."""
    near, exact = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        alphas = grid(T, steps)
        items = tuple((rng.uniform(size=(len(alphas), 300)) < 0.9).astype(np.float32) for _ in range(T))
        flat = preview(np.stack([i.mean(1, dtype=np.float64) for i in items], 1), alphas, items)
        found = compare_fronts(flat, flat)
        near.append(found.near_by_chance)
        exact.append(found.exact_by_chance)
    assert np.mean(near) > least
    assert np.mean(exact) < 0.5


def test_a_front_where_preview_and_truth_agree_is_told_from_chance_and_a_blind_one_is_not():
    truth = landscape(3, 8, slow=0.1)
    close = compare_fronts(truth, landscape(3, 8, seed=1, slow=0.12))
    assert close.near_share > close.near_by_chance
    assert close.luck < 0.01
    assert "Chance seldom does as well" in close.sentence
    rng = np.random.default_rng(0)
    luck = [
        compare_fronts(truth, preview(rng.uniform(size=truth.scores.shape), truth.alphas)).luck
        for _ in range(20)
    ]
    assert np.mean(np.array(luck) < 0.05) < 0.25


def test_the_sentence_says_counts_and_the_base_rate():
    truth = preview(np.array([[0.9, 0.1], [0.6, 0.6], [0.1, 0.9], [0.59, 0.6], [0.0, 0.0]]), grid(2, 4))
    lone = preview(np.array([[9.0, 9.0], [0, 0], [0, 0], [0, 0], [0, 0]]), truth.alphas)
    assert compare_fronts(truth, lone, tolerance=0.01).sentence.startswith(
        "Of the 1 weighting on the previewed front, 1 is truly within noise of a best trade-off; of all 5 weightings "
        "both trained and previewed, 80 % are. As many drawn blindly do as well in 80 % of draws"
    )
    assert (
        "Of the 3 weightings on the previewed front, 3 are on the true front"
        in compare_fronts(truth, truth).sentence
    )


def test_a_weighting_that_was_trained_but_not_previewed_is_on_no_front_and_the_sentence_counts_without_it():
    """A joint run off the preview's grid beats all others; the preview could not name it, so that it is not judged by it."""
    truth = preview(np.array([[0.9, 0.1], [0.6, 0.6], [0.1, 0.9], [0.95, 0.95], [0.0, 0.0]]), grid(2, 4))
    found = compare_fronts(truth, truth.rows([0, 1, 2, 4]))
    assert found.on_true.tolist() == [True, True, True, False]
    assert "of all 4 weightings both trained and previewed, 75 % are." in found.sentence


def test_what_goes_into_the_summary_is_json():
    truth = landscape(3, 5)
    found = compare_fronts(truth, landscape(3, 5, seed=1)).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert len(found["previewed_front"]) == found["on_previewed"]
    assert set(found) >= {
        "near_share",
        "near_by_chance",
        "volume_share",
        "volume_by_chance",
        "noise",
        "reference",
    }


def test_a_task_whose_score_never_moves_has_no_volume_and_many_tasks_none_either():
    scores = np.column_stack([np.full(5, 0.5), np.arange(5.0)])
    found = compare_fronts(*[preview(scores, grid(2, 4))] * 2)
    assert (found.volume_true, found.volume_share, found.volume_by_chance) == (0, None, None)
    T = 8
    many = Preview(tuple("abcdefgh"), grid(T, 2), draw(len(grid(T, 2)), T))
    assert compare_fronts(many, many).volume_true is None
    assert compare_fronts(many, many).exact_share == 1


def test_items_of_some_tasks_only_leave_the_noise_unknown():
    truth = landscape(2, 6)
    part = Preview(truth.tasks, truth.alphas, truth.scores, (truth.items[0], None))
    assert compare_fronts(part, truth).near is None


def test_wrong_input_is_said():
    truth = landscape(2, 6)
    for wrong in (-1.0, math.nan, (0.1, 0.1, 0.1)):
        with pytest.raises(InputError, match="a tolerance should be"):
            compare_fronts(truth, truth, tolerance=wrong)
    with pytest.raises(InputError, match="mine: a comparison needs 3 weightings"):
        compare_fronts(truth, truth.rows([0, 1]), name="mine")
    with pytest.raises(InputError, match="reference should be 2 finite"):
        compare_fronts(truth, truth, reference=[0.0])
