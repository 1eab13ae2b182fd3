"""The near-best region: its centre, how far one may move, and what lies between few evaluated weightings."""

import numpy as np
import pytest

from previa.errors import InputError
from previa.study.bootstrap import Scored
from previa.study.preference import Preference
from previa.study.preview import Preview
from previa.study.region import Region, interpolated_region, near_best, noise, to_edge, width
from previa.study.simplex import find, grid, nearest, uniform

TASKS = ("a", "b", "c")
ALPHAS = grid(3, 20)
TOP = np.array([0.4, 0.35, 0.25])


def disc(radius):
    return Region(ALPHAS, np.abs(ALPHAS - TOP).max(axis=1) <= radius + 1e-9, "range")


@pytest.mark.parametrize("radius", [0, 0.05, 0.1, 0.2])
def test_one_may_move_every_weight_by_the_reach_and_no_further(radius):
    region = disc(radius)
    assert region.reach(TOP) == pytest.approx(radius)
    off = np.abs(ALPHAS - TOP).max(axis=1)
    assert region.inside[off <= region.reach(TOP) + 1e-9].all()
    assert region.area == pytest.approx(region.inside.mean())


def test_where_all_is_as_good_one_may_move_anywhere():
    whole = Region(ALPHAS, np.ones(len(ALPHAS), bool), "range")
    assert whole.reach(TOP) == pytest.approx(np.abs(ALPHAS - TOP).max())
    assert whole.area == 1
    assert whole.centre() == pytest.approx(uniform(3), abs=0.04)


def test_the_way_to_the_edge_is_the_smallest_weight():
    assert to_edge(TOP) == pytest.approx(0.25)
    assert to_edge((0.5, 0.5, 0)) == 0


def test_a_weighting_that_was_not_scored_is_in_the_region_only_by_the_nearest():
    region = disc(0.1)
    between = (0.41, 0.34, 0.25)
    assert region.holds(TOP)
    assert not region.holds(between)
    assert region.holds(between, nearest=True)
    assert not region.holds((1, 0, 0), nearest=True)


def test_what_may_not_be_picked_is_not_in_the_region():
    level = np.full(len(ALPHAS), 0.5)
    allowed = ALPHAS[:, 0] >= 0.3
    scored = Scored(ALPHAS, level, None)
    np.testing.assert_array_equal(near_best(scored, int(np.argmax(allowed)), allowed).inside, allowed)


def test_noise_and_width_are_what_the_draws_say():
    rng = np.random.default_rng(0)
    score = rng.random(8)
    draws = score + rng.normal(scale=0.1, size=(4000, 8))
    scored, pick = Scored(grid(2, 7), score, draws), int(np.argmax(score))
    assert width(scored, pick) == pytest.approx(1.96 * 0.1 * np.sqrt(2), rel=0.1)
    allowed = np.ones(8, bool)
    expected = np.quantile(draws.max(axis=1) - draws[:, pick], 0.95)
    assert noise(scored, pick, allowed) == pytest.approx(expected)
    allowed[:] = False
    allowed[[2, pick]] = True
    expected = np.quantile(draws[:, [2, pick]].max(axis=1) - draws[:, pick], 0.95)
    assert noise(scored, pick, allowed) == pytest.approx(expected)
    assert width(Scored(grid(2, 7), score, None), pick) is None


def dense(level):
    return Preview(TASKS, ALPHAS, np.repeat(level[:, None], 3, axis=1))


HILL = 0.9 - np.abs(ALPHAS - TOP).sum(axis=1)


def test_an_interpolated_region_holds_what_the_surrogate_puts_within_the_noise_of_its_value_at_the_pick():
    region = interpolated_region(dense(HILL), Preference(), TOP, 0.2)
    np.testing.assert_array_equal(region.inside, 0.9 - HILL <= 0.2 + 1e-12)
    assert region.rule == "surrogate"
    assert region.centre() == pytest.approx(TOP, abs=0.051)
    off = (0.5, 0.35, 0.15)  # a pick that was lucky: measured from the surrogate's own value there
    lucky = interpolated_region(dense(HILL), Preference(), off, 0.05)
    np.testing.assert_array_equal(lucky.inside, HILL[find(ALPHAS, off)] - HILL <= 0.05 + 1e-12)
    one = interpolated_region(dense(HILL), Preference(), TOP, None)  # 1 % of the range
    np.testing.assert_array_equal(one.inside, HILL.max() - HILL <= 0.01 * np.ptp(HILL) + 1e-12)


def test_floors_cut_an_interpolated_region_but_never_the_pick():
    p = Preview(TASKS, ALPHAS, np.column_stack([HILL, HILL, ALPHAS[:, 2]]))
    region = interpolated_region(p, Preference(weights={"c": 0}, floors={"c": 0.3}), (0.4, 0.3, 0.3), 0.4)
    assert (ALPHAS[region.inside][:, 2] >= 0.3 - 1e-9).all()
    assert region.inside.sum() > 10
    pick = (0.41, 0.34, 0.25)  # kept the floor when it was scored, whatever lies between says
    region = interpolated_region(p, Preference(weights={"c": 0}, floors={"c": 0.3}), pick, 0.0)
    assert region.inside[nearest(ALPHAS, pick)]


def test_a_surrogate_of_nothing_is_refused():
    with pytest.raises(InputError, match="the surrogate"):
        interpolated_region(dense(np.full(len(ALPHAS), np.nan)), Preference(), TOP, 0.1)


def test_where_nothing_keeps_the_floors_the_interpolated_region_is_that_of_least_shortfall():
    scores = 0.4 + 0.25 * np.sqrt(ALPHAS)
    wish = Preference(floors={"a": 0.9, "b": 0.9})
    short = wish.shortfall(scores, TASKS)
    pick = ALPHAS[short.argmin()]
    found = interpolated_region(Preview(TASKS, ALPHAS, scores), wish, pick, 0.03, kept=False)
    assert np.array_equal(found.inside, short <= short.min() + 0.03 + 1e-9)
    assert found.inside.sum() > 5
    assert (
        interpolated_region(Preview(TASKS, ALPHAS, scores), wish, pick, 0.03).inside.sum() == 1
    )  # of what keeps most
