"""The engine on BoTorch's Gaussian process, where it is installed."""

import sys

import numpy as np
import pytest

from previa.errors import MissingExtraError
from previa.run import botorch as engine
from previa.study import search
from previa.study.preference import Preference
from previa.study.search import start
from previa.study.simplex import grid

ABC = ("a", "b", "c")


@pytest.fixture
def installed():
    """BoTorch, or a skip."""
    pytest.importorskip("botorch", reason="BoTorch is not installed")


def smooth(alphas):
    return 0.9 - 0.4 * np.exp(-alphas / [0.1, 0.2, 0.15]) - 0.1 * (1 - alphas) ** 2


def test_without_botorch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "botorch.fit", None)
    alphas = start(3, 6, seed=0)
    with pytest.raises(MissingExtraError, match=r"pip install 'previa\[botorch\]'"):
        engine.suggest(alphas, smooth(alphas), ABC, grid(3, 10))


@pytest.mark.parametrize("goal", search.GOALS)
@pytest.mark.parametrize("wish", [Preference(), Preference(worst=True, floors={"a": 0.6})])
def test_what_it_suggests_was_not_evaluated(installed, goal, wish):
    alphas, candidates = start(3, 6, seed=0), grid(3, 8)
    row = engine.suggest(alphas, smooth(alphas), ABC, candidates, preference=wish, goal=goal)
    assert np.abs(alphas - candidates[row]).max(axis=1).min() > 1e-6


def test_the_same_data_suggest_the_same(installed):
    alphas, candidates = start(3, 6, seed=0), grid(3, 8)
    first = engine.suggest(alphas, smooth(alphas), ABC, candidates)
    assert engine.suggest(alphas[::-1], smooth(alphas)[::-1], ABC, candidates) == first


def test_its_surrogate_interpolates_smooth_scores_and_leaves_constant_ones(installed):
    alphas, at = start(3, 16, seed=1), grid(3, 6)
    scores = smooth(alphas)
    scores[:, 2] = 0.5
    mean, sd = engine._predict(alphas, scores, at)
    assert np.abs(mean[:, :2] - smooth(at)[:, :2]).mean() < 0.02
    assert (mean[:, 2] == 0.5).all()
    assert (sd[:, 2] == 0).all()
    assert (sd[:, :2] > 0).all()


def test_a_search_by_it_finds_the_best_of_a_smooth_curve(installed):
    candidates = grid(2, 50)
    scores = 0.9 - 0.4 * np.exp(-candidates / [0.1, 0.4])
    rows = [0, 25, 50]
    while len(rows) < 8:
        rows.append(engine.suggest(candidates[rows], scores[rows], ("a", "b"), candidates))
    assert scores[rows].mean(axis=1).max() == pytest.approx(scores.mean(axis=1).max(), abs=1e-3)
    assert scores[rows[:3]].mean(axis=1).max() < scores.mean(axis=1).max() - 0.01
