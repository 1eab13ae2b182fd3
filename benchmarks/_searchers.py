"""The searchers that `search.py` compares: each is a generator of rows of the candidates, told the scores of every row that it named.

A continuous searcher names any weighting; the nearest candidate is evaluated in its place, and one that is known already costs nothing.
"""

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from previa.study import search, simplex
from previa.study.preference import Preference

Array = NDArray[np.float64]
Steps = Generator[int, Array, None]
"""yields a row of the candidates, is sent its scores [T]"""
Searcher = Callable[[Array, int], Steps]
"""(candidates [C, T], seed) -> Steps"""

REPEATS = 30  # of known weightings in a row, before one is drawn among the others


def at_random(candidates: Array, seed: int) -> Steps:
    """Weightings of the grid, none twice."""
    for row in np.random.default_rng(seed).permutation(len(candidates)):
        yield int(row)


def lattice(budget: int) -> Searcher:
    """The finest simplex grid within the budget, each of its points at the nearest candidate; it has no seed."""

    def steps(candidates: Array, seed: int) -> Steps:
        T = candidates.shape[1]
        rows = (simplex.nearest(candidates, alpha) for alpha in simplex.largest_grid(T, budget))
        for row in dict.fromkeys(rows):  # noqa: UP028 (a dictionary cannot be sent scores)
            yield row

    return steps


def modelled(choose: Callable[[Array, Array, Array], int]) -> Searcher:
    """`study.search.start`, then choose(alphas [n, T], scores [n, T], candidates [C, T]) -> row."""

    def steps(candidates: Array, seed: int) -> Steps:
        rows: list[int] = []
        scores: list[Array] = []
        for alpha in search.start(
            candidates.shape[1], search.number_to_start(candidates.shape[1]), seed=seed
        ):
            row = _free(candidates, alpha, rows)
            scores.append((yield row))
            rows.append(row)
        while len(rows) < len(candidates):
            row = choose(candidates[rows], np.array(scores), candidates)
            scores.append((yield row))
            rows.append(row)

    return steps


def ours(
    alphas: Array, scores: Array, candidates: Array, *, goal: str = "best", tolerance: float = 0.0
) -> int:
    """`study.search.suggest`."""
    tasks = tuple(f"task {t}" for t in range(alphas.shape[1]))
    more: dict[str, Any] = {"tolerance": tolerance} if goal == "region" else {}
    return int(search.suggest(alphas, scores, tasks, candidates, preference=Preference(), goal=goal, **more))


def scikit_learn(alphas: Array, scores: Array, candidates: Array) -> int:
    """scikit-learn's Gaussian process of the mean score on sqrt(alpha), and the same improvement."""
    value = scores.mean(axis=1)
    mean, sd = _process(alphas, value, candidates)
    return _best(improvement(mean, sd, value.max()), alphas, candidates)


def scikit_learn_by_task(alphas: Array, scores: Array, candidates: Array) -> int:
    """The same with one process a task, thought of as independent."""
    means, sds = zip(*(_process(alphas, y, candidates) for y in scores.T), strict=True)
    mean, sd = np.mean(means, axis=0), np.sqrt(np.sum(np.square(sds), axis=0)) / len(means)
    return _best(improvement(mean, sd, scores.mean(axis=1).max()), alphas, candidates)


def _process(alphas: Array, y: Array, candidates: Array) -> tuple[Array, Array]:
    """Mean and deviation [C] without the noise of one more measurement: Matern 5/2 and noise, by marginal likelihood."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
    from sklearn.utils._testing import ignore_warnings

    smooth = ConstantKernel() * Matern(nu=2.5, length_scale=0.5, length_scale_bounds=(0.05, 10))
    process = GaussianProcessRegressor(smooth + WhiteKernel(1e-3, (1e-7, 1.0)), normalize_y=True)
    ignore_warnings(category=ConvergenceWarning)(process.fit)(np.sqrt(alphas), y)
    mean, sd = process.predict(np.sqrt(candidates), return_std=True)
    noise = process.kernel_.k2.noise_level * float(np.var(y))
    return mean, np.sqrt(np.maximum(sd**2 - noise, 1e-12))


def botorch(alphas: Array, scores: Array, candidates: Array) -> int:
    """BoTorch's SingleTaskGP of the mean score, as it comes, and the log of expected improvement over all candidates."""
    import warnings

    import torch
    from botorch.acquisition import LogExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    torch.set_num_threads(1)
    X = torch.from_numpy(alphas)
    y = torch.from_numpy(scores.mean(axis=1, keepdims=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SingleTaskGP(X, y)  # standardises y
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        gain = LogExpectedImprovement(model, best_f=y.max())
        with torch.no_grad():
            found = gain(torch.from_numpy(candidates)[:, None]).numpy()
    return _best(found, alphas, candidates)


def optuna(candidates: Array, seed: int, *, started: bool = False) -> Steps:
    """Optuna's TPE with its defaults on u in [0, 1]^T, weights -log u normalised as its FAQ has it; started: from our start."""
    import optuna as library

    library.logging.set_verbosity(library.logging.ERROR)
    T = candidates.shape[1]
    study = library.create_study(direction="maximize", sampler=library.samplers.TPESampler(seed=seed))
    known: dict[int, float] = {}
    first = search.start(T, search.number_to_start(T), seed=seed) if started else []
    for alpha in first:
        study.enqueue_trial({f"u{t}": float(np.exp(-a)) for t, a in enumerate(alpha)})
    draw = np.random.default_rng(seed)
    repeats = 0
    while len(known) < len(candidates):
        trial = study.ask()
        weights = -np.log([max(trial.suggest_float(f"u{t}", 0.0, 1.0), 1e-300) for t in range(T)])
        total = weights.sum()
        row = simplex.nearest(candidates, weights / total if total > 0 else np.full(T, 1 / T))
        repeats = repeats + 1 if row in known else 0
        if row in known and repeats >= REPEATS:
            row, repeats = int(draw.choice([i for i in range(len(candidates)) if i not in known])), 0
        if row not in known:
            known[row] = float((yield row).mean())
        study.tell(trial, known[row])


def improvement(mean: Array, sd: Array, best: float) -> Array:
    """E max(0, f - best) of f ~ N(mean, sd^2): [C]."""
    from scipy.stats import norm

    z = (mean - best) / np.maximum(sd, 1e-12)
    return np.asarray((mean - best) * norm.cdf(z) + sd * norm.pdf(z))


def _best(gain: Array, alphas: Array, candidates: Array) -> int:
    gain = np.where(_known(candidates, alphas), -np.inf, gain)
    return int(np.argmax(gain))


def _known(candidates: Array, alphas: Array) -> NDArray[np.bool_]:
    return np.asarray((np.abs(candidates[:, None] - alphas[None]).max(axis=2) < 1e-9).any(axis=1))


def _free(candidates: Array, alpha: Array, taken: list[int]) -> int:
    """The candidate nearest to alpha that was not taken."""
    off = np.linalg.norm(candidates - alpha, axis=1)
    off[taken] = np.inf
    return int(np.argmin(off))


SEARCHERS: dict[str, Searcher] = {
    "previa": modelled(ours),
    "scikit-learn's process": modelled(scikit_learn),
    "scikit-learn's, a task each": modelled(scikit_learn_by_task),
    "BoTorch": modelled(botorch),
    "Optuna's TPE": optuna,
    "Optuna's TPE, our start": partial(optuna, started=True),
    "random": at_random,
}
NEEDS = {
    "BoTorch": "botorch",
    "Optuna's TPE": "optuna",
    "Optuna's TPE, our start": "optuna",
    "scikit-learn's process": "sklearn",
    "scikit-learn's, a task each": "sklearn",
}
"""searcher -> the module without which it is skipped"""
