"""The true scores of a store: trained here, brought as a table, or both."""

import numpy as np
import pytest

from previa.show.results import Results
from previa.study.simplex import grid, uniform
from previa.study.store import Store
from previa.study.truth import judged_by, true_runs

TASKS = ("a", "b", "c")


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "study.db", tasks=TASKS, convention="mean", fingerprint={}) as store:
        rng = np.random.default_rng(0)
        for alpha in np.vstack([grid(3, 4), uniform(3)]):
            items = {
                t: (rng.random(50) < 0.5 + 0.4 * w).astype(np.float32)
                for t, w in zip(TASKS, alpha, strict=True)
            }
            store.record("simple", alpha, items, seconds=0.0)
        yield store


def joint(store, number):
    for alpha in store.preview("simple").alphas[:number]:
        store.record("joint", alpha, {t: np.ones(50, np.float32) for t in TASKS}, seconds=1.0)


def given(store, alpha=(0.5, 0.25, 0.25)):
    store.record("joint_given", alpha, dict.fromkeys(TASKS, 0.9), seconds=0.0)


def test_nothing_true_is_none(store):
    assert true_runs(store) is None
    assert judged_by(store, true_runs(store)) == (None, None)


def test_what_was_brought_is_the_truth_where_nothing_was_trained(store):
    given(store)
    truth, said = judged_by(store, true_runs(store))
    assert (len(truth), truth.items, said) == (1, (None,) * 3, None)


def test_a_run_that_was_trained_here_counts_before_one_that_was_brought(store):
    joint(store, 1)
    given(store, store.preview("joint").alphas[0])
    given(store)
    both = true_runs(store)
    assert both.mean.tolist() == [1.0, pytest.approx(0.9)]


def test_a_few_numbers_do_not_take_the_noise_of_trained_runs_away(store):
    joint(store, 4)
    given(store)
    truth, said = judged_by(store, true_runs(store))
    assert len(truth) == 4
    assert all(items is not None for items in truth.items)
    assert said.startswith(
        "1 true score that was brought as a table, without test items, is left out beside 4 joint runs"
    )
    assert len(true_runs(store)) == 5
    found = Results.of(store)
    assert said in found.summary["warnings"]
    assert found.recommendation.noise is not None


def test_with_two_trained_runs_the_numbers_count(store):
    joint(store, 2)
    given(store)
    truth, said = judged_by(store, true_runs(store))
    assert (len(truth), said) == (3, None)
