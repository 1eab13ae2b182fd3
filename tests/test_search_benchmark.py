"""The benchmark of searches, in tiny form: what it counts, on surfaces whose best is known."""

import sys
from math import comb
from pathlib import Path

import numpy as np
import pytest

from previa.study.simplex import find, grid

pytest.importorskip(
    "sklearn", reason="the benchmark of searches was NOT checked: scikit-learn is not installed"
)
sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import search as benchmark
from _search_figure import drawn
from _search_surfaces import Surface, surfaces
from _searchers import NEEDS, SEARCHERS, at_random, lattice, modelled, ours

PRESENT, _ = benchmark.present()


def hill(T=3, steps=10, seed=0):
    """Every task's score is a hill of its own: the mean is one with its top on the grid, inside."""
    alphas = grid(T, steps)
    tops = np.random.default_rng(seed).dirichlet(np.full(T, 8.0), size=T)
    scores = np.exp(-4 * ((alphas[:, None] - tops) ** 2).sum(axis=2))
    return Surface("hill", f"{seed}", alphas, scores, 0.0)


@pytest.mark.filterwarnings("ignore")  # of peers, when they are imported
@pytest.mark.parametrize("name", [name for name in SEARCHERS if name not in NEEDS or name in PRESENT])
def test_no_searcher_evaluates_a_weighting_twice_or_more_than_its_budget(name):
    surface = hill(steps=5)
    named, steps = [], SEARCHERS[name](surface.alphas, 0)
    row = next(steps)
    for _ in range(13):
        named.append(row)
        row = steps.send(surface.scores[row])
    assert len(set(named)) == 13
    found = benchmark.searched(surface, SEARCHERS[name], 0, 13)
    assert len(found.gaps) <= 13
    assert np.all(np.diff(found.gaps) <= 0)
    assert found.gaps == np.minimum.accumulate(surface.gap[named])[: len(found.gaps)].tolist()


@pytest.mark.parametrize("budget", [10, 20, 40])
def test_a_lattice_is_the_finest_that_the_budget_holds(budget):
    surface = hill(steps=20)
    rows, steps = [], lattice(budget)(surface.alphas, 0)
    row = next(steps)
    with pytest.raises(StopIteration):
        while True:
            rows.append(row)
            row = steps.send(surface.scores[row])
    n = max(n for n in range(1, 20) if comb(n + 2, 2) <= budget)
    assert len(rows) == comb(n + 2, 2)
    off = [np.abs(surface.alphas[rows] - alpha).max(axis=1).min() for alpha in grid(3, n)]
    assert max(off) < 1 / 20


def test_a_search_ends_when_the_best_is_found_and_its_gap_counts_from_then_on():
    surface = hill(steps=5)
    found = benchmark.searched(surface, at_random, 3, 21)
    assert found.gaps[-1] == 0
    assert all(gap > 0 for gap in found.gaps[:-1])
    assert [benchmark.at(found.gaps, b) for b in (len(found.gaps), 1000)] == [0, 0]
    row = find(surface.alphas, surface.alphas[surface.gap.argmin()])
    assert surface.gap[row] == 0


def test_the_search_finds_the_top_of_a_hill_in_fewer_evaluations_than_random_weightings():
    def after(searcher):
        return np.median(
            [benchmark.at(benchmark.searched(hill(seed=s), searcher, s, 16).gaps, 16) for s in range(5)]
        )

    assert after(modelled(ours)) < 0.01 < after(at_random)


def test_numbers_are_medians_shares_and_the_worst():
    gaps = np.array([[0.0, 0.0, 0.0], [2.0, 1.0, 0.0], [4.0, 3.0, 0.4]])
    found = benchmark.numbers(gaps, np.array([0.5, 0.5, 0.5]))
    assert found["10"] == {
        "median_gap": 2.0, "mean_gap": 2.0, "worst_gap": 4.0, "found": pytest.approx(1 / 3), "within_noise": pytest.approx(1 / 3),
    }  # fmt: skip
    assert found["40"]["found"] == pytest.approx(2 / 3)
    assert found["40"]["within_noise"] == 1


def test_the_region_of_a_surface_that_is_all_known_is_the_true_one():
    surface = hill(steps=6)
    assert benchmark.overlap(surface, range(len(surface.alphas))) == 1
    assert benchmark.overlap(surface, [0, 3, 6]) < 1


def test_the_whole_in_tiny_form(tmp_path):
    found = surfaces(tmp_path, ["digits"], tiny=True)
    again = surfaces(tmp_path, ["digits"], tiny=True)
    assert {s.method for s in found} >= {"simple", "ivon_hessian", "squared_gradients", "mixture", "warped"}
    assert all(
        np.array_equal(a.scores, b.scores) and a.noise == b.noise for a, b in zip(found, again, strict=True)
    )
    assert all(s.alphas.shape == s.scores.shape == (15, 3) for s in found)
    result = benchmark.measured(found[:2], ["lattice", "previa", "random"], 2, 1, tmp_path / "runs")
    assert {*result["studies"]["digits"]} == {"lattice", "previa", "random"}
    assert result["studies"]["digits"]["random"]["searches"] == 4
    assert result["studies"]["digits"]["random"]["20"]["found"] == 1  # 15 weightings in all
    assert 0 < result["regions"]["digits"]["random"]["40"] <= 1  # the process smooths what it knows
    drawn(result, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 200_000
