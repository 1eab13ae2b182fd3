"""Where methods disagree: percentiles of ranks, their spread, and what is contested."""

import numpy as np
import pytest

from previa.errors import InputError
from previa.study.disagreement import disagreement
from previa.study.preference import Preference
from previa.study.preview import Preview
from previa.study.simplex import grid

TASKS = ("a", "b", "c")
ALPHAS = grid(3, 6)


def given(level, alphas=ALPHAS):
    return Preview(TASKS, alphas, np.repeat(np.asarray(level, dtype=float)[:, None], 3, axis=1))


RNG = np.random.default_rng(0)
LEVEL = RNG.permutation(len(ALPHAS)) / 100


def test_methods_that_rank_alike_do_not_disagree_whatever_their_levels():
    d = disagreement({"x": given(LEVEL), "y": given(5 + LEVEL**3)})
    np.testing.assert_array_equal(d.spread, 0)
    assert d.contested == 0
    assert sorted(d.percentile[0]) == pytest.approx(np.linspace(0, 1, len(ALPHAS)))


def test_opposite_methods_disagree_most_at_the_ends_of_their_rankings():
    d = disagreement({"x": given(LEVEL), "y": given(-LEVEL)})
    x = d.percentile[0]
    np.testing.assert_allclose(d.spread, np.abs(2 * x - 1), atol=1e-12)
    assert d.contested == 1
    top = d.alphas[np.argmax(x)]
    assert d.at(top) == pytest.approx({"x": 1, "y": 0})
    assert "100 % in its worse half" in d.sentence
    assert d.at((0.34, 0.33, 0.33)) is None


def test_the_share_contested_is_what_a_loop_counts():
    previews = {name: given(RNG.normal(size=len(ALPHAS))) for name in "xyz"}
    d = disagreement(previews)
    best = [a for a in range(len(d.alphas)) if any(p[a] >= 0.9 for p in d.percentile)]
    assert d.contested == pytest.approx(np.mean([any(p[a] < 0.5 for p in d.percentile) for a in best]))
    np.testing.assert_allclose(d.spread, d.percentile.max(axis=0) - d.percentile.min(axis=0))


def test_only_weightings_that_all_scored_count_in_whatever_order_they_stand():
    failed = LEVEL.copy()
    failed[:3] = np.nan
    order = RNG.permutation(len(ALPHAS))
    d = disagreement({"x": given(failed), "y": given(LEVEL[order], ALPHAS[order])})
    assert len(d.alphas) == len(ALPHAS) - 3
    np.testing.assert_array_equal(d.spread, 0)


def test_ties_share_their_rank_and_a_flat_method_puts_nothing_in_its_worse_half():
    d = disagreement({"x": given(LEVEL), "flat": given(np.full(len(ALPHAS), 0.5))})
    np.testing.assert_array_equal(d.percentile[1], 0.5)
    assert d.contested == 0


def test_it_is_of_a_preference_and_what_misses_a_floor_ranks_last():
    scores = np.column_stack([ALPHAS[:, 0], ALPHAS[:, 1], ALPHAS[:, 2]])
    p = Preview(TASKS, ALPHAS, scores)
    d = disagreement({"x": p, "y": p}, Preference(weights={"b": 0, "c": 0}, floors={"b": 0.5}))
    order = d.alphas[np.argsort(-d.percentile[0], kind="stable")]
    assert order[0] == pytest.approx((0.5, 0.5, 0))
    keeps = order[:, 1] >= 0.5
    assert keeps[: keeps.sum()].all()


def test_what_cannot_be_ranked_together_is_refused():
    with pytest.raises(InputError, match="two methods at least"):
        disagreement({"x": given(LEVEL)})
    with pytest.raises(InputError, match=r"y: its tasks should be"):
        disagreement({"x": given(LEVEL), "y": Preview(("a", "b"), grid(2, 2), grid(2, 2))})
    with pytest.raises(InputError, match=r"3 weightings that all methods scored\. Found 1"):
        disagreement({"x": given(LEVEL), "y": given([0.1], [ALPHAS[3]])})
