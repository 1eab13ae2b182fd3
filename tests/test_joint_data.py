"""The weighted mixture: sampling and loss weights have the gradient of the stated objective, for rows and for tokens alike."""

import itertools

import numpy as np
import pytest
import torch

from previa.errors import AlphaError, InputError
from previa.export.shares import row_shares
from previa.run.joint_data import Mixture, TrainerRows, token_counter
from previa.run.recipe import AdamWRecipe, IvonRecipe, Recipe
from tiny_transformers import collate, language_model, losses, sentences, supervised, texts

ADAMW = AdamWRecipe(lr=1e-2)
TASKS = {"de": texts(3, seed=1, length=5), "fr": texts(5, seed=2, length=9)}
ALPHA = (0.3, 0.7)


def recipe(**options):
    return Recipe(**{"optimizer": ADAMW, "steps": 4, "batch_size": 2, **options})


def gradients(model, data):
    """task -> the gradient of each of its rows' losses, [N, P]."""
    found = {}
    for task, rows in data.items():
        each = []
        for row in rows:
            model.zero_grad()
            losses(model, collate([row])).sum().backward()
            each.append(torch.cat([p.grad.double().flatten() for p in model.parameters()]))
        found[task] = torch.stack(each)
    return found


def objective(each, convention, per_token):
    """The gradient of sum_t alpha_t l_t / S, straight from its definition."""
    total, S = 0.0, 0.0
    for alpha, (task, rows) in zip(ALPHA, TASKS.items(), strict=True):
        n = torch.tensor([float(supervised(row)) for row in rows], dtype=torch.float64)
        n = n if per_token else torch.ones_like(n)
        summed, size = (n[:, None] * each[task]).sum(0), float(n.sum())
        total = total + alpha * (summed if convention == "sum" else summed / size)
        S += alpha * (size if convention == "sum" else 1.0)
    return total / S


@pytest.mark.parametrize("per_token", [False, True], ids=["rows", "tokens"])
@pytest.mark.parametrize("convention", ["mean", "sum"])
@pytest.mark.parametrize("sampling", ["loss", "sample"])
def test_the_expected_gradient_is_that_of_the_objective(sampling, convention, per_token):
    """By enumeration: all choices of tasks of a batch of two, with their probabilities, and all rows of each."""
    each = gradients(language_model(), TASKS)
    mixture = Mixture(
        TASKS,
        ALPHA,
        recipe(sampling=sampling, convention=convention),
        tokens=supervised if per_token else None,
    )
    q = dict(zip(TASKS, mixture.shares.task, strict=True))

    def mean_of(task):  # over its rows, each as likely: of weight times gradient
        weight = mixture._weight[task]
        return sum(
            weight * mixture._relative(task, number) * each[task][number]
            for number in range(len(TASKS[task]))
        ) / len(TASKS[task])

    if sampling == "loss":
        expected = sum(2 * mean_of(task) for task in TASKS)
    else:
        expected = sum(
            q[first] * q[second] * (mean_of(first) + mean_of(second))
            for first, second in itertools.product(TASKS, repeat=2)
        )
    torch.testing.assert_close(expected, objective(each, convention, per_token), rtol=1e-9, atol=1e-12)


def test_drawn_batches_have_that_expectation():
    """Whole passes: over an epoch of every task, loss weights give the full gradient exactly."""
    tasks = {"a": texts(4, seed=1), "b": texts(4, seed=2)}
    mixture = Mixture(tasks, ALPHA, recipe(steps=2, sampling="loss"))
    seen = [row for step in range(2) for row in mixture.rows(step)]
    assert sorted((row.task, row.number) for row in seen) == [(t, i) for t in "ab" for i in range(4)]
    assert sum(row.weight for row in seen if row.task == "a") == pytest.approx(2 * 0.3)
    sampled = Mixture(tasks, ALPHA, recipe(steps=4000, sampling="sample"))
    share = sampled.taken["a"] / 8000
    assert share == pytest.approx(0.3, abs=4 * (0.21 / 8000) ** 0.5)  # four standard errors
    assert sampled.epochs == {"a": share * 2000, "b": (1 - share) * 2000}


def test_the_trap_of_a_trainer_that_averages_tokens():
    """Rows of task fr have more tokens: drawn with shares alpha they pull harder than alpha; TrainerRows makes up for it."""
    each = gradients(language_model(), TASKS)
    L = {
        task: float(supervised(rows[0])) for task, rows in TASKS.items()
    }  # rows of a task have one length here

    def token_mean(rows):
        """The gradient of the mean over all tokens of a batch of these (task, number)."""
        n = [L[task] for task, _ in rows]
        return sum(k * each[task][i] for k, (task, i) in zip(n, rows, strict=True)) / sum(n)

    def pull(shares):
        """Its limit for large batches: rows in these shares."""
        n = torch.tensor([q * L[task] for q, task in zip(shares, TASKS, strict=True)], dtype=torch.float64)
        return sum(w * each[task].mean(0) for w, task in zip(n / n.sum(), TASKS, strict=True))

    for convention in ("mean", "sum"):
        rows = TrainerRows(
            TASKS,
            ALPHA,
            recipe(sampling="sample", convention=convention, steps=2000),
            averages_tokens=supervised,
        )
        q = rows.mixture.shares.task
        torch.testing.assert_close(
            pull(q), objective(each, convention, per_token=True), rtol=1e-9, atol=1e-12
        )
        oracle = row_shares(ALPHA, [3, 5], list(L.values()), convention=convention, average="tokens")
        np.testing.assert_allclose(q, oracle)
        drawn = [(row.task, row.number) for row in rows._order]
        assert float((token_mean(drawn) - pull(q)).norm()) < 0.05 * float(pull(q).norm())
    wrong = pull(ALPHA) - objective(each, "mean", per_token=True)
    assert float(wrong.norm()) > 0.05 * float(pull(ALPHA).norm())


def test_a_trainer_that_averages_rows_gets_shares_by_alpha():
    for convention in ("mean", "sum"):
        rows = TrainerRows(TASKS, ALPHA, recipe(sampling="sample", convention=convention, steps=5))
        np.testing.assert_allclose(rows.mixture.shares.task, row_shares(ALPHA, [3, 5], convention=convention))
        assert len(rows) == 10
        assert list(rows) == [rows[i] for i in range(10)]
        assert all(row in TASKS["de"] + TASKS["fr"] for row in rows)


def test_the_order_is_of_the_seed_and_the_tasks_names_alone():
    one = Mixture(TASKS, ALPHA, recipe(sampling="loss"), seed=3)
    torch.manual_seed(5)
    assert [one.rows(step) for step in range(4)] == [
        Mixture(TASKS, ALPHA, recipe(sampling="loss"), seed=3).rows(step) for step in range(4)
    ]
    other = Mixture(TASKS, ALPHA, recipe(sampling="loss"), seed=4)
    assert [one.rows(step) for step in range(4)] != [other.rows(step) for step in range(4)]
    alone = Mixture({"fr": TASKS["fr"]}, (1.0,), recipe(sampling="loss"), seed=3)
    corner = Mixture(TASKS, (0.0, 1.0), recipe(sampling="loss"), seed=3)
    assert [alone.rows(step) for step in range(4)] == [corner.rows(step) for step in range(4)]


def test_the_ess_and_the_examples_follow_the_convention():
    summed = recipe(optimizer=IvonRecipe(lr=0.1), convention="sum")
    assert Mixture(TASKS, ALPHA, summed).shares.ess == pytest.approx(0.3 * 3 + 0.7 * 5)
    tokens = Mixture(TASKS, ALPHA, summed, tokens=supervised)
    assert tokens.shares.ess == pytest.approx(0.3 * 3 * 3 + 0.7 * 5 * 7)
    assert tokens.examples == 3 * 3 + 5 * 7
    corner = Mixture(TASKS, (0, 1), summed, tokens=supervised)
    assert corner.shares.ess == corner.examples == 35, "a task's own run: ess is N_t, as merging demands"
    mean = recipe(optimizer=IvonRecipe(lr=0.1, ess=50.0))
    assert Mixture(TASKS, ALPHA, mean, tokens=supervised).shares.ess == 50


def test_tokens_are_counted_as_the_loss_does():
    row = {"labels": [-100, 5, -100, 6]}
    assert token_counter(shifted=True)(row) == 2
    assert token_counter(shifted=False)({"labels": [5, 6, -100]}) == 2
    assert token_counter(shifted=True)({"labels": [5, 6, -100]}) == 1


def test_facts_tell_runs_apart():
    facts = Mixture(TASKS, ALPHA, recipe()).facts()
    assert Mixture(dict(TASKS), list(ALPHA), recipe()).facts() == facts
    others = [
        Mixture(TASKS, (0.4, 0.6), recipe()),
        Mixture(TASKS, ALPHA, recipe(steps=5)),
        Mixture(TASKS, ALPHA, recipe(), seed=1),
        Mixture(TASKS, ALPHA, recipe(), tokens=supervised),
        Mixture({**TASKS, "fr": texts(5, seed=3, length=9)}, ALPHA, recipe()),
        Mixture({"de": TASKS["de"], "it": TASKS["fr"]}, ALPHA, recipe()),
    ]
    assert all(other.facts() != facts for other in others)


def test_a_datasets_table_is_data_as_it_is():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(sentences(5))
    mixture = Mixture({"a": table, "b": sentences(4)}, (0.5, 0.5), recipe(sampling="loss"))
    row = mixture.rows(0)[0]
    assert mixture.features(row) == table[row.number]


def test_what_cannot_be_a_mixture_is_refused():
    with pytest.raises(AlphaError, match="sum to 1"):
        Mixture(TASKS, (0.5, 0.6), recipe())
    with pytest.raises(InputError, match="task 'de': its data is dict; expected tokenised rows"):
        Mixture({"de": {"input_ids": torch.zeros(2, 3)}}, (1.0,), recipe())
    with pytest.raises(InputError, match="task 'fr': its data is empty"):
        Mixture({"de": TASKS["de"], "fr": []}, ALPHA, recipe())
    bare = [{"input_ids": [1, 2], "labels": [-100, -100]}]
    with pytest.raises(InputError, match="task 'de': none of its 1 rows has a supervised token"):
        Mixture({"de": bare}, (1.0,), recipe(), tokens=supervised)
    with pytest.raises(InputError, match="sampling='sample'"):
        TrainerRows(TASKS, ALPHA, recipe())
