"""The harness of the study beyond the paper: every method has its row, costs add up, and a rerun trains nothing."""

import importlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from previa import Flat, Isotropic, Layout, modes, sweep
from previa.study.simplex import grid, uniform

FOLDER = Path(__file__).parent.parent / "experiments"
TASKS = ("a", "b", "c")
LAYOUT = Layout((("weight", (3, 4)),))


@pytest.fixture(scope="module")
def beyond():
    """experiments/_beyond.py, imported as the experiments import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("_beyond")


def descended(data, alpha, start, steps):
    W = torch.zeros(3, 4) if start is None else start.vector.view(3, 4).clone()
    for _ in range(steps):
        W.requires_grad_(True)
        loss = sum(a * cross_entropy(x @ W.mT, y) for a, (x, y) in zip(alpha, data, strict=True))
        W = (W - 0.5 * torch.autograd.grad(loss, W)[0]).detach()
    return Flat(LAYOUT, W.flatten())


@pytest.fixture(scope="module")
def made(beyond, tmp_path_factory):
    """(ingredients of a softmax regression whose tasks are noisy and differ, what was trained)"""
    draw = torch.Generator().manual_seed(0)
    data = []
    for t in range(3):
        x = torch.randn(40, 4, generator=draw)
        y = (x @ torch.randn(4, 3, generator=draw)).argmax(1) if t else (x[:, :3]).argmax(1)
        data.append((x, y))
    called = []

    def train(alpha, *, start, share):
        called.append((alpha, share, start is None))
        return descended(data, alpha, start, max(1, round(40 * share)))

    def score(model):
        return {n: (model(x).argmax(1) == y).float() for n, (x, y) in zip(TASKS, data, strict=True)}

    def losses(model):
        return {n: cross_entropy(model(x), y) for n, (x, y) in zip(TASKS, data, strict=True)}

    alphas = np.vstack([grid(3, 4), uniform(3)])
    model = nn.Linear(4, 3, bias=False)
    runs = [beyond.Run(tuple(a), descended(data, a, None, 40)) for a in alphas.tolist()]
    truth = sweep(model, beyond.held(runs), score, alphas, tasks=TASKS)
    corners = [descended(data, a, None, 40) for a in np.eye(3).tolist()]
    costs = beyond.Costs(
        run=lambda alpha: 4800.0, sources={"own": 4800.0}, needs={"simple": ("own",), "again": ("own",)}, score=120, losses=120,
    )  # fmt: skip
    simple = partial(modes, posteriors=[Isotropic(c) for c in corners])
    i = beyond.Ingredients(
        "toy", 0, TASKS, truth, model, {"simple": simple}, {"again": simple}, score, losses, train, costs,
        tmp_path_factory.mktemp("beyond"), again=truth, shown=(0.5,),
    )  # fmt: skip
    return i, beyond.rows(i), called


def named(rows):
    found = {row["method"]: row for row in rows}
    assert len(found) == len(rows)  # no method twice
    return found


def test_the_truth_is_the_best_row_and_costs_what_its_runs_and_scores_cost(made):
    _, (rows, _), _ = made
    truth = named(rows)["joint"]
    assert (truth["spearman"], truth["mse"], truth["regret_at_1"]) == (pytest.approx(1), 0, 0)
    assert truth["cost"] == pytest.approx(16 * (1 + 120 / 4800))


def test_a_method_under_another_name_has_the_same_numbers(made):
    _, (rows, _), _ = made
    one, two = named(rows)["simple"], named(rows)["again"]
    assert [one[k] for k in ("spearman", "mse", "cost")] == [two[k] for k in ("spearman", "mse", "cost")]


def test_three_more_anchors_cost_three_more_runs_and_short_ones_a_third(made):
    _, (rows, _), _ = made
    of = named(rows)
    assert of["anchored_full_4"]["cost"] - of["anchored_full_1"]["cost"] == pytest.approx(3)
    assert of["anchored_short_4"]["cost"] - of["anchored_short_1"]["cost"] == pytest.approx(1)
    assert of["scores_full_4"]["training"] == of["anchored_full_4"]["training"] == pytest.approx(5)


def test_full_anchors_begin_at_the_base_and_short_ones_at_previews(beyond, made):
    _, _, called = made
    design = set(beyond.design(3))
    assert {(a, s, base) for a, s, base in called if s == 1} == {(a, 1.0, True) for a in design}
    short = [(a, base) for a, s, base in called if s == beyond.SHORT]
    assert {a for a, _ in short} == design
    assert not any(base for _, base in short)


def test_a_rerun_trains_nothing_and_finds_the_same_rows(beyond, made):
    i, (rows, facts), called = made
    before = len(called)
    again, facts_again = beyond.rows(i)
    assert len(called) == before
    assert (again, facts_again) == (rows, facts)


def test_the_page_tells_targets_by_what_was_chosen_without_the_truth(made, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    page = importlib.import_module("_beyond_page")
    i, (rows, facts), _ = made
    found = [{"study": i.study, "seed": seed, "seconds": 1, "rows": rows, "facts": facts} for seed in (0, 1)]
    study = page.summary(found)["studies"]["toy"]
    of = named(rows)
    assert study["seeds"] == [0, 1]
    assert study["targets"]["full"]["spearman"] == pytest.approx(of["anchored_full_4"]["spearman"])
    assert study["targets"]["full"]["mse_of_simple"] == pytest.approx(
        of["anchored_full_4"]["mse"] / of["simple"]["mse"]
    )
    lines = [line for line in page.table("toy", study) if line.startswith("| ")]
    assert len({line.count("|") for line in lines}) == 1
    assert sum("anchored at 4 short runs" in line for line in lines) == 2  # p by loss, and the family, too
