"""The Gaussian process on scores: slow oracles for its algebra, laws, and that its doubt is honest with few runs."""

import numpy as np
import pytest

from previa.errors import AlphaError, InputError, NotFiniteError
from previa.study import simplex, surrogate
from previa.study.preview import Preview
from previa.study.quality import spearman
from previa.study.simplex import grid
from previa.study.surrogate import LENGTHS, NOISES, Surrogate, gaussian_process, interpolated, matern


def saturating(alphas, rng, *, noise=0.0):
    """Scores [A, T]: a little weight on a task buys most of its score."""
    T = alphas.shape[1]
    slow, gap = rng.uniform(0.05, 0.3, T), rng.uniform(0.2, 0.6, T)
    return 0.9 - gap * np.exp(-alphas / slow) - 0.05 * (1 - alphas) + noise * rng.normal(size=alphas.shape)


def some(T, n, seed):
    rng = np.random.default_rng(seed)
    return np.concatenate([np.eye(T), rng.dirichlet(np.ones(T), n - T)]), rng


def alone(alphas, scores, i, j):
    """The fit whose length and noise are known."""
    weights = np.zeros((scores.shape[1], len(LENGTHS), len(NOISES)))
    weights[:, i, j] = 1
    return Surrogate(alphas, scores, weights, np.zeros(scores.shape[1]))


@pytest.mark.parametrize(("i", "j"), [(3, 1), (7, 6), (11, 9)])
def test_one_length_and_noise_predict_as_scikit_learn_with_a_free_level(i, j):
    process = pytest.importorskip("sklearn.gaussian_process")
    a, rng = some(3, 9, 0)
    y = saturating(a, rng)
    at = grid(3, 6)
    mean, sd = alone(a, y, i, j).predict(at)
    kernels = process.kernels
    kernel = kernels.ConstantKernel(1e4, "fixed") + kernels.Matern(LENGTHS[i], "fixed", nu=2.5)
    for t in range(3):
        slow = process.GaussianProcessRegressor(kernel, alpha=NOISES[j], optimizer=None).fit(
            np.sqrt(a), y[:, t]
        )
        expected, unit = slow.predict(np.sqrt(at), return_std=True)
        assert np.allclose(mean[:, t], expected, atol=2e-4)  # its level is free within 1e4 only
        C = matern(a, a, LENGTHS[i]) + NOISES[j] * np.eye(9)
        contrast = y[:, t] @ projected(C) @ y[:, t]
        assert np.allclose(sd[:, t], unit * np.sqrt(contrast / 6), rtol=2e-3, atol=2e-4)


def projected(C):
    """C^-1 - C^-1 1 1' C^-1 / 1' C^-1 1"""
    inverse = np.linalg.inv(C)
    return inverse - np.outer(inverse.sum(0), inverse.sum(0)) / inverse.sum()


def test_lengths_and_noises_are_as_likely_as_restricted_likelihood_says():
    a, rng = some(3, 8, 1)
    y = saturating(a, rng, noise=0.02)
    found = gaussian_process(a, y).weights
    for t in range(3):
        log = np.empty((len(LENGTHS), len(NOISES)))
        for i, length in enumerate(LENGTHS):
            for j, noise in enumerate(NOISES):
                C = matern(a, a, length) + noise * np.eye(8)
                log[i, j] = -0.5 * np.linalg.slogdet(C)[1] - 0.5 * np.log(np.linalg.inv(C).sum())
                log[i, j] -= 3.5 * np.log(y[:, t] @ projected(C) @ y[:, t])
        slow = np.exp(log - log.max())
        slow[slow < surrogate.NEGLIGIBLE] = 0
        assert np.allclose(found[t], slow / slow.sum(), atol=1e-4)


@pytest.mark.parametrize("T", [2, 3, 5])
def test_other_units_move_predictions_along_and_task_order_is_irrelevant(T):
    a, rng = some(T, T + 6, T)
    y = saturating(a, rng)
    at = rng.dirichlet(np.ones(T), 5)
    mean, sd = gaussian_process(a, y).predict(at)
    again, wide = gaussian_process(a, 100 * y - 7).predict(at)
    assert np.allclose(again, 100 * mean - 7)
    assert np.allclose(wide, 100 * sd, atol=1e-6)
    turned, same = gaussian_process(a[:, ::-1], y[:, ::-1]).predict(at[:, ::-1])
    assert np.allclose(turned[:, ::-1], mean)
    assert np.allclose(same[:, ::-1], sd, atol=1e-8)


def test_smooth_scores_are_reproduced_where_they_were_seen_and_doubted_elsewhere():
    a, rng = some(3, 14, 4)
    y = saturating(a, rng)
    fit = gaussian_process(a, y)
    mean, sd = fit.predict(a)
    assert np.allclose(mean, y, atol=0.01)
    far = fit.predict(grid(3, 10))[1]
    assert (far.max(axis=0) > 5 * sd.max(axis=0)).all()


def test_noise_is_found_in_noisy_scores_and_not_in_smooth_ones():
    a, rng = some(3, 40, 5)
    assert (gaussian_process(a, saturating(a, rng)).noises < 0.003).all()
    noisy = gaussian_process(a, saturating(a, rng, noise=0.03)).noises
    assert ((noisy > 0.015) & (noisy < 0.05)).all()


@pytest.mark.parametrize("n", [5, 7, 12])
def test_nine_in_ten_true_scores_lie_within_the_ninety_percent_interval(n):
    inside, order = [], []
    at = grid(3, 10)
    for seed in range(12):
        a, rng = some(3, n, 100 + seed)
        state = rng.bit_generator.state
        y = saturating(a, rng)
        rng.bit_generator.state = state
        truth = saturating(at, rng)
        mean, sd = gaussian_process(a, y).predict(at)
        inside.append((np.abs(mean - truth) <= 1.645 * sd + 1e-3).mean())
        order.append(spearman(mean.mean(axis=1), truth.mean(axis=1)))
    assert np.mean(inside) > 0.8
    assert np.mean(order) > {5: 0.6, 7: 0.7, 12: 0.85}[n]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_runs_give_finite_predictions(n):
    a, rng = some(4, 4, 6)
    mean, sd = gaussian_process(a[:n], saturating(a, rng)[:n]).predict(grid(4, 3))
    assert np.isfinite(mean).all()
    assert np.isfinite(sd).all()
    assert (sd.max() > 0.01) == (n > 1)


def test_a_metric_that_is_constant_is_predicted_as_that_beside_one_that_is_not():
    a, rng = some(3, 8, 7)
    y = saturating(a, rng)
    y[:, 1] = 0.75
    fit = gaussian_process(a, y)
    mean, sd = fit.predict(grid(3, 4))
    assert mean[:, 1] == pytest.approx(0.75)
    assert (sd[:, 1] == 0).all()
    assert fit.noises[1] == 0
    assert np.allclose(mean[:, 0], gaussian_process(a, y[:, :1]).predict(grid(3, 4))[0][:, 0])


def test_a_weighting_scored_twice_is_no_harm():
    a, rng = some(3, 6, 8)
    y = saturating(a, rng)
    twice = gaussian_process(np.concatenate([a, a]), np.concatenate([y, y + 0.01]))
    mean, _ = twice.predict(a)
    assert np.allclose(mean, y + 0.005, atol=0.01)


@pytest.mark.parametrize(
    ("alphas", "scores", "error"),
    [
        ([[0.5, 0.5]], [0.3], InputError),
        ([[0.5, 0.5]], [[0.3], [0.4]], InputError),
        (np.zeros((0, 2)), np.zeros((0, 1)), InputError),
        ([[0.5, 0.6]], [[0.3]], AlphaError),
        ([[0.5, 0.5]], [[np.nan]], NotFiniteError),
    ],
)
def test_what_cannot_be_fitted_is_refused(alphas, scores, error):
    with pytest.raises(error, match="surrogate"):
        gaussian_process(alphas, scores)


def test_predictions_are_of_the_tasks_that_were_fitted():
    a, rng = some(3, 5, 9)
    with pytest.raises(AlphaError, match="surrogate"):
        gaussian_process(a, saturating(a, rng)).predict([[0.5, 0.5]])


def test_what_is_interpolated_passes_through_what_was_scored_and_is_unsure_between():
    alphas = simplex.grid(3, 4)
    scores = np.column_stack([np.sqrt(alphas[:, 0]), alphas[:, 1] ** 2, alphas[:, 2]])
    scores[0] = np.nan  # failed, and left out
    seen = Preview(("a", "b", "c"), alphas, scores)
    found = interpolated(seen, simplex.grid(3, 8))
    at = found.preview.at(alphas[1:])
    assert np.abs(at.scores - scores[1:]).max() < 0.02
    new = np.array([simplex.find(alphas[1:], row) is None for row in found.preview.alphas])
    assert found.sd[new].mean() > 1.5 * found.sd[~new].mean()
    assert found.preview.items == (None, None, None)
    with pytest.raises(InputError, match="none of 1 weightings was scored"):
        interpolated(seen.rows([0]), alphas)
