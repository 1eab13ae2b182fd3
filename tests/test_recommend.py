"""The recommendation: a pick, an honest region around it, and a sentence that says what is not known."""

import json

import numpy as np
import pytest

from previa.errors import AlphaError, InputError
from previa.study import bootstrap
from previa.study.preference import Preference
from previa.study.preview import Preview
from previa.study.quality import ranking
from previa.study.recommend import recommend
from previa.study.simplex import find, grid, uniform
from previa.study.surrogate import interpolated

TASKS = ("a", "b", "c")
NO_GAIN = "no detectable gain over uniform"


def noisy(level, *, N=400, seed=0, alphas=None, tasks=TASKS, unpaired=False):
    """A preview whose items are right with probability level [A], each item as hard for all weightings."""
    rng = np.random.default_rng(seed)
    level = np.asarray(level)
    shape = (len(level), N) if unpaired else (1, N)
    items = tuple((rng.random(shape) < level[:, None]).astype(np.float32) for _ in tasks)
    return Preview(tasks, alphas, np.column_stack([i.mean(axis=1, dtype=np.float64) for i in items]), items)


def flat(level, *, alphas, tasks=TASKS):
    """The same preview from a scorer that gives only a number."""
    return Preview(tasks, alphas, np.repeat(np.asarray(level)[:, None], len(tasks), axis=1))


def hill(alphas, top, height=0.9, slope=1.0):
    return height - slope * np.abs(alphas - np.asarray(top)).sum(axis=1)


FINE = np.vstack([grid(3, 20), uniform(3)])
COARSE = np.vstack([grid(3, 10), uniform(3)])
TOP = (0.35, 0.15, 0.5)


def advised(preview, **kwargs):
    T = len(preview.tasks)
    kwargs = {"uniform": uniform(T), "size_proportional": [0.5] + [0.5 / (T - 1)] * (T - 1)} | kwargs
    return recommend(preview, **kwargs)


def test_the_pick_is_the_best_previewed_weighting_with_the_rivals_beside_it():
    r = advised(noisy(hill(FINE, TOP), alphas=FINE))
    assert r.alpha == pytest.approx(TOP)
    assert r.score > r.uniform.score
    assert r.uniform.alpha == pytest.approx((1 / 3,) * 3)
    assert r.size_proportional.alpha == (0.5, 0.25, 0.25)
    assert set(r.size_proportional.per_task) == set(TASKS)
    assert r.score == pytest.approx(np.mean(list(r.per_task.values())))
    assert r.sentence.startswith("Use a = 0.35, b = 0.15, c = 0.50. The gain over uniform is +")
    assert "between previews, whose levels are biased low" in r.sentence
    assert (r.gain_from, r.detectable, r.true_score) == ("preview", True, None)
    assert NO_GAIN not in r.sentence


def test_the_region_is_what_a_paired_test_does_not_tell_from_the_pick():
    level = hill(FINE, TOP, slope=0.2)
    p = noisy(level, alphas=FINE, unpaired=True)
    r = advised(p)
    pick = find(FINE, r.alpha)
    d = [i[[pick]] - i for i in p.items]  # per task [A, N]
    mean = np.mean([x.mean(axis=1) for x in d], axis=0)
    error = np.sqrt(np.sum([x.var(axis=1) for x in d], axis=0) / p.items[0].shape[1]) / len(TASKS)
    inside = np.array([tuple(alpha) in r.region for alpha in FINE])
    assert inside[pick]
    clear = np.abs(mean - 1.96 * error) > 0.2 * error  # what 1000 draws and a normal distribution leave open
    np.testing.assert_array_equal(inside[clear], (mean <= 1.96 * error)[clear])
    assert r.region_rule == "bootstrap"
    assert r.region_fraction == pytest.approx(inside.mean())
    sharper = advised(noisy(level, alphas=FINE, N=4000, unpaired=True))
    assert sharper.region_fraction < r.region_fraction < 1
    assert f"does not tell its pick from {100 * r.region_fraction:.3g} % of the weightings" in r.sentence


def test_without_scores_of_items_the_region_is_one_percent_of_the_range():
    level = hill(FINE, TOP)
    r = advised(flat(level, alphas=FINE))
    assert r.region_rule == "range"
    expected = FINE[level >= level.max() - 0.01 * np.ptp(level) - 1e-12]
    assert sorted(r.region) == sorted(map(tuple, expected))
    assert (r.gain.interval, r.detectable) == (None, None)
    assert "only per-item scores could tell" in r.sentence


def test_a_flat_preview_recommends_uniform_and_says_so():
    r = advised(flat(np.full(len(FINE), 0.7), alphas=FINE))
    assert r.alpha == pytest.approx((1 / 3,) * 3)
    assert (r.region_fraction, r.detectable) == (1.0, False)
    assert r.centre == pytest.approx((1 / 3,) * 3)
    assert r.sentence.startswith("Use uniform weights, a = 0.333, b = 0.333, c = 0.333")
    assert NO_GAIN in r.sentence
    r = advised(noisy(np.full(len(FINE), 0.7), alphas=FINE))
    assert (r.alpha, r.detectable, NO_GAIN in r.sentence) == (pytest.approx((1 / 3,) * 3), False, True)


def test_a_gain_within_the_noise_is_no_detectable_gain():
    level = hill(FINE, (0.3, 0.35, 0.35), slope=0.05)
    r = advised(noisy(level, alphas=FINE, N=100, unpaired=True))
    assert r.score > r.uniform.score
    assert r.uniform.in_region
    assert (r.detectable, r.gain_from) == (False, "preview")
    assert f", or uniform weights just as well: there is {NO_GAIN} ({r.gain.value:+.3f}, 95 %" in r.sentence
    assert "uniform among them" in r.sentence


def test_a_gain_that_choosing_alone_would_show_is_not_called_detectable():
    alphas = np.vstack([grid(3, 10), uniform(3)])
    even = np.full(len(alphas), 0.7)
    found = [advised(noisy(even, alphas=alphas, N=200, seed=s, unpaired=True)) for s in range(40)]
    assert {r.gain_from for r in found} == {"preview"}
    assert sum(r.detectable for r in found) <= 3  # the pick held fixed on its own items: about half of them
    values = np.array([r.gain.value for r in found])
    assert abs(values.mean()) <= 4 * values.std() / len(values) ** 0.5  # no bias; a fixed pick shows +0.04
    real = [
        advised(noisy(hill(alphas, TOP, slope=0.6), alphas=alphas, N=200, seed=s, unpaired=True))
        for s in range(10)
    ]
    assert all(r.detectable and NO_GAIN not in r.sentence for r in real)


def test_the_gain_between_previews_is_that_of_choosing_on_some_items_and_scoring_on_the_others():
    alphas = np.vstack([grid(3, 4), uniform(3)])
    p = noisy(hill(alphas, TOP, slope=0.2), alphas=alphas, N=40, unpaired=True)
    weights, draws, u = np.array([0.5, 0.3, 0.2]), 50, len(alphas) - 1
    inside = bootstrap.scored(p, bootstrap.resampled(p, seed=7, draws=draws), weights)
    outside = bootstrap.unseen(p, weights > 0, seed=7, draws=draws)
    gain = bootstrap.Choice.of(inside, sum(w * s for w, s in zip(weights, outside, strict=True))).gain(u)
    drawn = []
    for t in range(3):
        rng = np.random.default_rng([7, t])
        drawn.append(rng.integers(40, size=(draws, 40)))
    gains = []
    for b in range(draws):
        taken = [i[:, d[b]].mean(axis=1, dtype=np.float64) for i, d in zip(p.items, drawn, strict=True)]
        kept = [np.setdiff1d(np.arange(40), d[b]) for d in drawn]
        unseen = [i[:, k].mean(axis=1, dtype=np.float64) for i, k in zip(p.items, kept, strict=True)]
        pick = ranking(weights @ taken, alphas)[0]
        gains.append((weights @ unseen)[pick] - (weights @ unseen)[u])
    assert gain.value == pytest.approx(np.mean(gains))
    assert gain.interval == pytest.approx(tuple(np.quantile(gains, (0.025, 0.975))))


def test_too_few_items_to_leave_any_out_give_no_interval():
    alphas = np.vstack([grid(3, 4), uniform(3)])
    one = tuple((alphas[:, [0]] == 1).astype(np.float32) for _ in TASKS)
    r = advised(Preview(TASKS, alphas, np.column_stack([i[:, 0] for i in one]), one))
    assert r.alpha == (1, 0, 0)
    assert (r.gain_from, r.gain.value, r.gain.interval, r.detectable) == ("preview", 1, None, None)


def test_the_truth_decides_on_the_gain_where_it_is():
    previewed = noisy(hill(FINE, TOP), alphas=FINE)
    good = advised(previewed, truth=noisy(hill(COARSE, TOP), alphas=COARSE, seed=1))
    assert (good.gain_from, good.detectable) == ("truth", True)
    assert NO_GAIN not in good.sentence
    even = advised(previewed, truth=noisy(np.full(len(COARSE), 0.8), alphas=COARSE, seed=1, unpaired=True))
    assert (even.gain_from, even.detectable) == ("truth", False)
    assert NO_GAIN in even.sentence
    bad = advised(previewed, truth=noisy(hill(COARSE, (1 / 3,) * 3), alphas=COARSE, seed=1))
    assert bad.detectable is False
    assert bad.sentence.startswith("Use uniform weights, not the preview's pick a = 0.35")
    assert NO_GAIN in bad.sentence
    assert bad.uniform.true_score == pytest.approx(0.9, abs=0.05)
    assert bad.uniform.true_gain_over_uniform.value == 0
    plain = advised(previewed, truth=flat(hill(COARSE, TOP), alphas=COARSE))
    assert (plain.detectable, plain.gain.interval) == (None, None)
    worse = advised(previewed, truth=flat(hill(COARSE, (1 / 3,) * 3), alphas=COARSE))
    assert (worse.detectable, worse.gain.interval) == (False, None)
    assert worse.sentence.startswith("Use uniform weights, not the preview's pick a = 0.35")
    assert f"there is {NO_GAIN} but a loss (-0." in worse.sentence
    level = np.full(len(COARSE), np.nextafter(0.95, 0))  # the same score, summed in another order
    level[-1] = 0.95
    even = advised(previewed, truth=flat(level, alphas=COARSE))
    assert (even.gain.value, even.detectable) == (0, False)
    assert "or uniform weights just as well" in even.sentence


def test_a_joint_run_beside_the_pick_speaks_for_it_by_name_and_none_farther_off_does():
    previewed = noisy(hill(FINE, TOP), alphas=FINE)
    r = advised(previewed, truth=noisy(hill(COARSE, TOP), alphas=COARSE, seed=1))
    assert r.true_score is None
    assert r.gain_at == pytest.approx((0.4, 0.1, 0.5)) or r.gain_at == pytest.approx((0.3, 0.2, 0.5))
    assert "in joint runs, the nearest to the pick at a = 0." in r.sentence
    at_pick = np.vstack([TOP, uniform(3)])
    r = advised(previewed, truth=noisy(hill(at_pick, TOP), alphas=at_pick, seed=1))
    assert r.gain_at == r.alpha
    assert "interval" in r.sentence
    assert ", in joint runs." in r.sentence
    assert r.true_score == pytest.approx(np.mean(list(r.true_per_task.values())))
    few = np.vstack([grid(3, 1), uniform(3)])
    r = advised(previewed, truth=noisy(hill(few, TOP), alphas=few, seed=1))
    assert (r.gain_from, r.gain_at) == ("preview", None)


def test_a_run_at_uniform_alone_says_nothing_of_a_pick_beside_it():
    alone = noisy([0.5], alphas=uniform(3)[None])
    r = advised(flat(hill(FINE, (0.35, 0.3, 0.35)), alphas=FINE), truth=alone)
    assert r.alpha == pytest.approx((0.35, 0.3, 0.35))
    assert r.gain_from == "preview"
    r = advised(flat(hill(FINE, uniform(3)), alphas=FINE), truth=alone)
    assert (r.gain_from, r.gain.value, r.detectable) == ("truth", 0, False)


def test_a_preview_without_uniform_leaves_the_gain_open():
    alphas = grid(3, 20)
    r = advised(flat(hill(alphas, TOP), alphas=alphas), truth=noisy([0.5], alphas=uniform(3)[None]))
    assert (r.gain, r.gain_from, r.detectable) == (None, None, None)
    assert "Uniform weights were not previewed, so the gain over them is unknown" in r.sentence
    assert (r.uniform.score, r.uniform.in_region) == (None, False)
    assert r.uniform.true_score is not None


def test_the_centre_is_deep_in_the_region_away_from_edges():
    alphas = grid(3, 20)
    half = advised(flat(np.where(alphas[:, 0] >= 0.5, 0.8, 0.1), alphas=alphas), uniform=[0.3, 0.3, 0.4])
    # The inscribed circle of the upper half triangle, whose rows outside start at .45: by its three sides equally far.
    assert half.centre[0] == pytest.approx(0.65, abs=0.051)
    assert half.centre[1] == pytest.approx(half.centre[2], abs=0.051)
    corner = advised(flat(np.where(alphas[:, 0] >= 0.999, 0.8, 0.1), alphas=alphas), uniform=[0.3, 0.3, 0.4])
    assert corner.centre == corner.alpha == (1, 0, 0)
    only = "tells its pick from every other weighting"
    assert f"{only}, going by 1 % of the range of its scores." in corner.sentence
    told = advised(noisy(np.where(alphas[:, 0] >= 0.999, 0.8, 0.1), alphas=alphas), uniform=[0.3, 0.3, 0.4])
    assert (told.region_rule, f"{only}." in told.sentence) == ("bootstrap", True)
    edge = advised(flat(np.where(alphas[:, 0] == 0, 0.8, 0.1), alphas=alphas), uniform=[0.3, 0.3, 0.4])
    assert edge.centre == pytest.approx((0, 0.5, 0.5))


def test_methods_that_disagree_are_quoted():
    mine = noisy(hill(FINE, TOP), alphas=FINE)
    other = noisy(hill(FINE, (0.1, 0.8, 0.1)), alphas=FINE)
    coarse = flat(np.where(np.abs(COARSE - TOP).max(axis=1) <= 0.1, 0.9, 0.5), alphas=COARSE)
    r = advised(mine, others={"simple": mine, "x": other, "y": other, "z": other})
    assert [name for name, o in r.others.items() if o.agrees] == ["simple"]
    assert r.others["x"].pick == pytest.approx((0.1, 0.8, 0.1))
    assert "Methods disagree (3 of 4 others): x picks a = 0.10, b = 0.80, c = 0.10; y picks" in r.sentence
    assert "; 1 more. Beware: x, y and 1 more put the pick in the worse half" in r.sentence
    assert advised(mine, others={"simple": mine}).sentence.endswith("The other method agrees.")
    r = advised(mine, others={"coarse": coarse})
    assert r.others["coarse"].region_holds_pick  # its grid has no such weighting: by the nearest
    assert advised(mine, others={"s": mine, "t": mine}).sentence.endswith("The other methods agree.")


def test_metric_weights_move_the_pick():
    alphas = np.vstack([grid(3, 10), uniform(3)])
    p = Preview(TASKS, alphas, np.sqrt(alphas))
    assert advised(p).alpha == pytest.approx((1 / 3,) * 3)
    assert advised(p, weights={"b": 0, "c": 0}).alpha == (1, 0, 0)
    assert advised(p, weights={"a": 3, "b": 1, "c": 1}).alpha[0] > 0.7


@pytest.mark.parametrize("T", [2, 4, 5])
def test_any_number_of_tasks_but_one(T):
    tasks = tuple("abcde"[:T])
    alphas = np.vstack([grid(T, 5), uniform(T)])
    top = np.array([0.6] + [0.4 / (T - 1)] * (T - 1))
    r = advised(noisy(hill(alphas, top), alphas=alphas, tasks=tasks))
    assert r.alpha[0] == pytest.approx(0.6)
    assert all(f"{task} = " in r.sentence for task in tasks)
    with pytest.raises(InputError, match=r"at least two tasks\. Found only 'a'"):
        recommend(Preview(("a",), [[1.0]], [[0.5]]), uniform=[1], size_proportional=[1])


def test_failed_weightings_are_left_out():
    scores = np.repeat(hill(FINE, TOP)[:, None], 3, axis=1)
    scores[find(FINE, TOP)] = np.nan
    r = advised(Preview(TASKS, FINE, scores))
    assert r.alpha != pytest.approx(TOP)
    assert np.isfinite(r.score)
    scores[:] = np.nan
    with pytest.raises(InputError, match="the preview: none of its 232 weightings was scored"):
        advised(Preview(TASKS, FINE, scores))
    with pytest.raises(InputError, match="m: none of its"):
        advised(flat(hill(FINE, TOP), alphas=FINE), others={"m": Preview(TASKS, FINE, scores)})
    failed_truth = advised(flat(hill(FINE, TOP), alphas=FINE), truth=Preview(TASKS, FINE, scores))
    assert failed_truth.gain_from == "preview"


def test_what_does_not_fit_is_refused():
    p = flat(hill(FINE, TOP), alphas=FINE)
    with pytest.raises(AlphaError, match="reference"):
        advised(p, uniform=[0.5, 0.5])
    with pytest.raises(InputError, match="the truth: its tasks should be"):
        advised(p, truth=flat(hill(FINE, TOP), alphas=FINE, tasks=("a", "b", "x")))


def test_a_recommendation_is_plain_json_with_a_note_on_its_levels():
    truth = noisy(hill(COARSE, TOP), alphas=COARSE, seed=1)
    p = noisy(hill(FINE, TOP), alphas=FINE)
    d = advised(p, truth=truth, others={"simple": p}).to_dict()
    assert json.loads(json.dumps(d, allow_nan=False)) == d
    assert set(d) >= {
        "alpha",
        "region_fraction",
        "sentence",
        "centre",
        "region",
        "uniform",
        "size_proportional",
        "note",
    }
    assert d["alpha"] == pytest.approx(list(TOP))
    assert "biased low" in d["note"]
    assert d["others"]["simple"]["agrees"] is True
    assert advised(p, truth=truth, others={"simple": p}).to_dict() == d


# Under a preference --------------------------------------------------------------------------------------------------------


def test_weights_alone_are_a_preference_and_both_are_refused():
    p = noisy(hill(FINE, TOP), alphas=FINE)
    weights = {"a": 3.0, "c": 0.5}
    assert (
        advised(p, weights=weights).to_dict() == advised(p, preference=Preference(weights=weights)).to_dict()
    )
    with pytest.raises(InputError, match="weights or a preference"):
        advised(p, weights=weights, preference=Preference())
    with pytest.raises(InputError, match="floors should be of the tasks"):
        advised(p, preference=Preference(floors={"x": 1}))


def test_the_worst_task_picks_what_is_good_for_all_and_relative_what_loses_least_of_the_experts():
    scores = FINE * [1.0, 0.5, 0.25]  # the worst task's best: weights that make all the same
    p = Preview(TASKS, FINE, scores)
    worst = advised(p, preference=Preference(worst=True))
    assert worst.alpha == pytest.approx(FINE[np.argmax(scores.min(axis=1))])
    assert worst.score == pytest.approx(scores.min(axis=1).max())
    assert worst.measure == "score of the worst task"
    experts = {"a": 1.0, "b": 0.5, "c": 0.25}
    relative = advised(p, preference=Preference(worst=True, relative_to=experts))
    assert relative.alpha == pytest.approx((1 / 3,) * 3)
    assert relative.score == pytest.approx(1 / 3)
    assert relative.measure == "score of the worst task, relative to the experts"
    assert relative.per_task == pytest.approx(dict(zip(TASKS, np.array([1, 0.5, 0.25]) / 3, strict=True)))


def test_the_gain_under_a_floor_chooses_on_each_draw_among_what_keeps_it_there():
    alphas = np.vstack([grid(3, 4), uniform(3)])
    p = noisy(hill(alphas, TOP, slope=0.2), alphas=alphas, N=40, unpaired=True)
    wish, u = Preference(floors={"c": 0.85}), len(alphas) - 1
    r = advised(p, preference=wish, seed=7)
    drawn = [np.random.default_rng([7, t]).integers(40, size=(bootstrap.DRAWS, 40)) for t in range(3)]
    gains = []
    for b in range(bootstrap.DRAWS):
        taken = np.column_stack(
            [i[:, d[b]].mean(axis=1, dtype=np.float64) for i, d in zip(p.items, drawn, strict=True)]
        )
        left = [np.setdiff1d(np.arange(40), d[b]) for d in drawn]
        unseen = np.column_stack(
            [i[:, k].mean(axis=1, dtype=np.float64) for i, k in zip(p.items, left, strict=True)]
        )
        short = np.maximum(0.85 - taken[:, 2], 0)
        rows = np.flatnonzero(short <= short.min() + 1e-12)
        best = rows[ranking(taken[rows].mean(axis=1), alphas[rows])[0]]
        gains.append(unseen[best].mean() - unseen[u].mean())
    assert r.gain.value == pytest.approx(np.mean(gains))
    assert r.gain.interval == pytest.approx(tuple(np.quantile(gains, (0.025, 0.975))))


def test_edges_reach_noise_knee_and_size_proportional_weights_are_told():
    p = noisy(hill(FINE, TOP, slope=0.3), alphas=FINE, unpaired=True)
    r = advised(p)
    assert r.to_edge == min(r.alpha)
    inside = np.array([tuple(alpha) in r.region for alpha in FINE])
    off = np.abs(FINE - r.alpha).max(axis=1)
    assert inside[off <= r.reach + 1e-9].all()
    assert not inside[off > r.reach + 1e-9].all()
    draws = bootstrap.scored(p, bootstrap.resampled(p, seed=0), np.full(3, 1 / 3)).draws
    pick = find(FINE, r.alpha)
    assert r.noise == pytest.approx(np.quantile(draws.max(axis=1) - draws[:, pick], 0.95))
    assert f"Differences up to {r.noise:.2g} are no more than noise" in r.sentence
    against = r.over_size_proportional
    assert (against.gain_from, against.detectable) == ("preview", True)
    assert against.gain.interval[0] > 0
    bent = Preview(TASKS, FINE, np.sqrt(FINE))
    found = advised(bent, weights={"a": 0, "b": 0})
    assert found.alpha == (0, 0, 1)
    assert found.knee.alpha == pytest.approx((1 / 3,) * 3)
    assert advised(flat(hill(FINE, TOP), alphas=FINE)).knee is None  # one weighting is best in every task


def test_a_searched_preview_takes_region_and_centre_from_its_surrogate():
    rng = np.random.default_rng(0)
    some = np.vstack([np.eye(3), uniform(3), FINE[rng.choice(len(FINE) - 1, 16, replace=False)]])
    some = np.unique(np.round(some, 9), axis=0)
    p = noisy(hill(some, TOP, slope=0.6), alphas=some, unpaired=True)
    dense = interpolated(p, FINE).preview
    r = advised(p, surrogate=dense)
    assert find(some, r.alpha) is not None  # the pick was scored
    assert r.alpha == advised(p).alpha
    assert r.region_rule == "surrogate"
    assert len(r.region) > len(advised(p).region)
    assert r.region_fraction == pytest.approx(len(r.region) / len(FINE))
    assert np.abs(np.subtract(r.centre, TOP)).max() <= 0.15
    assert "going by what lies between the few that were evaluated" in r.sentence
    assert json.loads(json.dumps(r.to_dict(), allow_nan=False)) == r.to_dict()
