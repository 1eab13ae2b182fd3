"""An engine for `search` on BoTorch's Gaussian process, for those who have it: `pip install 'previa[botorch]'`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from previa.errors import MissingExtraError
from previa.study import search
from previa.study.preference import Preference
from previa.study.search import PLAIN, Goal

Array = NDArray[np.float64]


def suggest(
    alphas: ArrayLike,
    scores: ArrayLike,
    tasks: Sequence[str],
    candidates: ArrayLike,
    *,
    preference: Preference = PLAIN,
    goal: Goal = "best",
    tolerance: float | None = None,
) -> int:
    """As `study.search.suggest`, with BoTorch's surrogate: its SingleTaskGP with its priors, one outcome each, on sqrt(alpha).

    Its hyperparameters are the most probable ones, found by gradient steps, not averaged over. What a candidate is worth is
    computed as there, so that all preferences and goals work. Raises MissingExtraError without BoTorch, and as there.
    """
    return search.suggest(
        alphas,
        scores,
        tasks,
        candidates,
        preference=preference,
        goal=goal,
        tolerance=tolerance,
        predict=_predict,
    )


def _predict(alphas: Array, scores: Array, at: Array) -> tuple[Array, Array]:
    """Mean and deviation of every smooth score [n, m] at weightings: [C, m] each; scores that are all the same stay so."""
    fit, make = _botorch()
    mean, sd = np.tile(scores.mean(axis=0), (len(at), 1)), np.zeros((len(at), scores.shape[1]))
    varied = np.ptp(scores, axis=0) > 0
    X, at_X = (torch.from_numpy(np.sqrt(a)) for a in (alphas, at))
    for t in np.flatnonzero(varied):
        y = torch.from_numpy(scores[:, [t]].copy())
        with warnings.catch_warnings():  # of its optimizer, where the likelihood is flat
            warnings.simplefilter("ignore")
            model = make(X, y)  # standardises y
            fit(model)
            with torch.no_grad():
                there = model.posterior(at_X)
        mean[:, t] = there.mean[:, 0].numpy()
        sd[:, t] = there.variance[:, 0].clamp_min(0).sqrt().numpy()
    return mean, sd


def _botorch() -> tuple[Any, Any]:
    """(fit a model, make one). Raises MissingExtraError."""
    try:
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from gpytorch.mlls import ExactMarginalLogLikelihood
    except ImportError:
        raise MissingExtraError(
            "the engine 'botorch' needs BoTorch: python -m pip install 'previa[botorch]'"
        ) from None

    def fit(model: Any) -> None:
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))

    return fit, SingleTaskGP
