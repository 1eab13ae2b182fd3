"""A sweep scores every weighting's preview model, keeps what it found, and goes on where one fails."""

import numpy as np
import pytest
import torch
from torch import nn

from previa.core.diagonal import Diagonal
from previa.core.mixture import Mixture
from previa.core.modes import Modes, modes
from previa.core.params import Flat
from previa.errors import AlphaError, InputError, NotFiniteError, ParamsError, ScoreError
from previa.run.live import recalibrated, trainable, unchanged
from previa.run.scoring import accuracy, scored, scorer
from previa.run.sweep import sweep
from previa.study.simplex import grid
from previa.study.store import Store

TASKS = ("a", "b", "c")


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def data() -> dict:
    torch.manual_seed(1)
    return {
        task: (accuracy, (torch.randn(40 + t, 4), torch.arange(40 + t) % 3)) for t, task in enumerate(TASKS)
    }


def posteriors(net: nn.Module, T: int = 3) -> list[Diagonal]:
    torch.manual_seed(2)
    base = Flat.of(trainable(net))
    return [
        Diagonal(
            Flat(base.layout, base.vector + torch.randn_like(base.vector)),
            Flat(base.layout, torch.rand_like(base.vector) + 0.1),
        )
        for _ in range(T)
    ]


def own_score(net: nn.Module, q: Diagonal) -> list[float]:
    net = model()
    net.load_state_dict(dict(q.mode()))
    return [float(accuracy(net.eval(), test).mean()) for _, test in data().values()]


def ones(net: nn.Module) -> dict[str, float]:
    return dict.fromkeys(TASKS, 1.0)


def test_a_corner_of_the_sweep_gives_the_tasks_own_scores():
    net, alphas = model(), grid(3, 4)
    qs = posteriors(net)
    preview = sweep(net, qs, scorer(data()), alphas)
    assert preview.tasks == TASKS
    for t, q in enumerate(qs):
        np.testing.assert_allclose(preview.scores[preview.index(np.eye(3)[t])], own_score(net, q), atol=1e-7)


def test_every_weighting_is_scored_as_the_model_that_merge_gives():
    net, alphas = model(), grid(3, 3)
    qs = posteriors(net)
    preview = sweep(net, dict(zip(TASKS, qs, strict=True)), scorer(data()), alphas)
    found = modes(alphas, qs).params
    for a in range(len(alphas)):
        np.testing.assert_allclose(preview.scores[a], own_score(net, Diagonal(found.row(a), 1.0)), atol=1e-7)
    assert [item.shape for item in preview.items] == [(10, 40), (10, 41), (10, 42)]
    assert preview.seconds > 0


def test_the_model_is_left_as_it_came():
    net = model()
    before = Flat.of(trainable(net)).vector.clone()
    sweep(net, posteriors(net), scorer(data()), grid(3, 2))
    assert torch.equal(Flat.of(trainable(net)).vector, before)
    assert net.training


def test_a_method_is_any_function_and_blocks_do_not_change_it(monkeypatch):
    net, alphas = model(), grid(3, 4)
    qs = posteriors(net)
    calls = []

    def method(alphas: torch.Tensor) -> Modes:
        calls.append(len(alphas))
        return modes(alphas, qs)

    whole = sweep(net, method, scorer(data()), alphas)
    assert calls == [15]
    P = qs[0].layout.size
    monkeypatch.setattr("previa.run.sweep.BLOCK_BYTES", 4 * 4 * P)
    parts = sweep(net, method, scorer(data()), alphas)
    assert calls == [15, 4, 4, 4, 3]
    np.testing.assert_array_equal(whole.scores, parts.scores)


def test_a_method_of_another_batch_is_refused():
    net = model()
    with pytest.raises(InputError, match=r"batch \(1,\) for 6 weightings"):
        sweep(net, lambda a: modes(a[:1], posteriors(net)), scorer(data()), grid(3, 2))


def test_em_statistics_arrive_in_the_preview():
    net = model()
    qs = [Mixture([q, r]) for q, r in zip(posteriors(net), posteriors(net)[::-1], strict=True)]
    preview = sweep(net, qs, scorer(data()), grid(3, 2))
    assert set(preview.stats) == {"iterations", "converged", "objective", "effective_k", "start"}


def test_a_score_function_that_raises_leaves_the_other_weightings():
    net, calls = model(), []

    def score(net: nn.Module) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("no more rope")
        return ones(net)

    preview = sweep(net, posteriors(net), score, grid(3, 3), tasks=TASKS)
    assert list(np.flatnonzero(~preview.ok)) == [3]


def test_scores_that_are_no_scores_fail_with_the_tasks_name():
    def check(value: object, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            scored(nn.ReLU(), lambda m: {"a": value, "b": 1.0}, ("a", "b"))

    check(float("nan"), NotFiniteError, "task 'a': 1 of 1 scores are NaN")
    check(torch.tensor([1.0, torch.inf]), NotFiniteError, "task 'a': 1 of 2")
    check(torch.ones(2, 2), ScoreError, r"task 'a': the score has shape \(2, 2\)")
    check([], ScoreError, r"shape \(0,\)")
    check("good", ScoreError, "task 'a': the score is str")
    with pytest.raises(ScoreError, match=r"scores of 'b', but the tasks are 'a', 'b'"):
        scored(nn.ReLU(), lambda m: {"b": 1.0}, ("a", "b"))
    with pytest.raises(ScoreError, match="returned list"):
        scored(nn.ReLU(), lambda m: [1.0], ("a",))
    with pytest.raises(ScoreError, match="task 'a': ZeroDivisionError"):
        scorer({"a": (lambda m, test: 1 / 0, None)})(nn.ReLU())


def test_numbers_tensors_and_arrays_are_scores():
    found = scored(
        nn.ReLU(),
        lambda m: {
            "a": 1,
            "b": torch.tensor([True, False]),
            "c": np.arange(3),
            "d": torch.ones(2).bfloat16(),
        },
        ("a", "b", "c", "d"),
    )
    assert found["a"] == 1.0
    assert [found[task].dtype for task in "bcd"] == [np.float32] * 3


def test_other_items_at_another_weighting_are_a_failure():
    net, calls = model(), []

    def score(net: nn.Module) -> dict[str, object]:
        calls.append(1)
        return {"a": torch.ones(5 if len(calls) == 2 else 4), "b": 1.0, "c": 1.0}

    preview = sweep(net, posteriors(net), score, grid(3, 2), tasks=TASKS)
    assert list(np.flatnonzero(~preview.ok)) == [1]


def test_when_every_weighting_fails_the_first_reason_is_raised():
    net = model()
    with pytest.raises(
        ScoreError, match=r"all 6 weightings failed; at \(0, 0, 1\): task 'a': ZeroDivisionError"
    ):
        sweep(net, posteriors(net), scorer({"a": (lambda m, t: 1 / 0, None)}), grid(3, 2), tasks=TASKS)


def test_merged_parameters_that_are_not_finite_are_a_failure():
    net = model()

    def method(alphas: torch.Tensor) -> Modes:
        found = modes(alphas, posteriors(net))
        found.params.vector[2] = torch.nan
        return found

    assert list(np.flatnonzero(~sweep(net, method, ones, grid(3, 2)).ok)) == [2]


@pytest.mark.parametrize("alphas", [[[0.5, 0.6, 0.1]], [[1.5, -0.5, 0]], [[1.0, torch.nan, 0]]])
def test_weightings_off_the_simplex_are_refused(alphas):
    net = model()
    with pytest.raises(AlphaError):
        sweep(net, posteriors(net), ones, alphas)


def test_the_number_of_tasks_must_be_that_of_the_weights():
    net = model()
    with pytest.raises(AlphaError, match="3 weights in each alpha, but 2 tasks"):
        sweep(net, posteriors(net), ones, grid(3, 2), tasks=("a", "b"))


def test_posteriors_of_another_model_are_refused():
    with pytest.raises(ParamsError):
        sweep(nn.Linear(4, 3), posteriors(model()), ones, grid(3, 2))


def test_batch_norm_must_be_recalibrated_or_kept_on_purpose():
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    qs = posteriors(net)
    with pytest.raises(InputError, match="recalibrate"):
        sweep(net, qs, scorer(data()), grid(3, 2))
    kept = sweep(net, qs, scorer(data()), grid(3, 2), recalibrate=unchanged)
    anew = sweep(net, qs, scorer(data()), grid(3, 2), recalibrate=recalibrated([torch.randn(30, 4) + 2]))
    assert (kept.scores != anew.scores).any()


def test_progress_counts_every_weighting():
    net, heard = model(), []
    sweep(net, posteriors(net), ones, grid(3, 2), name="simple", progress=lambda *news: heard.append(news))
    assert heard == [("simple", done, 6) for done in range(7)]


def test_a_store_keeps_what_is_scored_and_failed_weightings_are_tried_again(tmp_path):
    net, alphas, calls = model(), grid(3, 3), []
    qs = posteriors(net)

    def score(net: nn.Module) -> dict[str, torch.Tensor]:
        calls.append(1)
        if len(calls) in (3, 5):
            raise RuntimeError("no more rope")
        return {task: accuracy(net, test) for task, (_, test) in data().items()}

    with Store.open(tmp_path / "s.db", tasks=TASKS, convention="mean", fingerprint={}) as store:
        first = sweep(net, qs, score, alphas, store=store, name="simple")
        assert list(np.flatnonzero(~first.ok)) == [2, 4]
        assert store.failures("simple")[0][1].startswith("RuntimeError: no more rope (in score")
        second = sweep(net, qs, score, alphas, store=store, name="simple")
        assert len(calls) == 12
        assert second.ok.all()
        whole = sweep(net, qs, scorer(data()), alphas)
        np.testing.assert_array_equal(second.scores, whole.scores)
        for one, two in zip(second.items, whole.items, strict=True):
            np.testing.assert_array_equal(one, two)
        finer = sweep(net, qs, score, grid(3, 6), store=store, name="simple")
        assert (len(finer), len(calls)) == (28, 12 + 28 - 10)


def test_a_store_with_its_tasks_in_another_order_is_refused(tmp_path):
    net = model()
    with (
        Store.open(tmp_path / "s.db", tasks=("c", "b", "a"), convention="mean", fingerprint={}) as store,
        pytest.raises(InputError, match="the tasks are"),
    ):
        sweep(net, dict(zip(TASKS, posteriors(net), strict=True)), ones, grid(3, 2), store=store)


def test_an_interrupted_sweep_keeps_what_it_has_and_frees_the_model(tmp_path):
    net, calls = model(), []
    before = Flat.of(trainable(net)).vector.clone()

    def score(net: nn.Module) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return ones(net)

    with Store.open(tmp_path / "s.db", tasks=TASKS, convention="mean", fingerprint={}) as store:
        with pytest.raises(KeyboardInterrupt):
            sweep(net, posteriors(net), score, grid(3, 3), store=store)
        assert len(store.preview("preview")) == 3
        assert torch.equal(Flat.of(trainable(net)).vector, before)


def test_workers_find_the_same_scores():
    net, alphas = model(), grid(3, 3)
    qs = posteriors(net)
    alone = sweep(net, qs, scorer(data()), alphas)
    shared = sweep(net, qs, scorer(data()), alphas, workers=2)
    np.testing.assert_array_equal(alone.scores, shared.scores)
    np.testing.assert_array_equal(alone.alphas, shared.alphas)
