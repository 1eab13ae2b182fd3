"""Figures 5 and 6: the previews, as functions from weightings to parameters."""

from collections.abc import Callable, Mapping

from _sentiment_bench import Bench
from _sentiment_data import TASKS
from torch import Tensor

from previa import Diagonal, Isotropic, Mixture, Modes, damped, modes, open_checkpoint
from previa.core.kronecker import kronecker_damping, regmean

Method = Callable[[Tensor], Modes]
PRIOR = 0.001  # of squared gradients with those of the base, relative to each tensor's own scale
FLAT_PRIORS = (10.0, 0.1, 0.001)  # without the base's


def methods(bench: Bench) -> dict[str, Method]:
    """name -> function from alphas to parameters: the paper's two of the tasks' own runs first, then others."""
    means = [mean(bench, (t, 0)) for t in TASKS]
    plain = [Isotropic(m) for m in means]
    found = {"simple": merging(plain), "squared_gradients": merging(with_base(bench, means, "given"))}
    found["squared_gradients_expected"] = merging(with_base(bench, means, "expected"))
    for prior in FLAT_PRIORS:
        precisions, _ = damped([squares(bench, (t, 0), "given") for t in TASKS], prior)
        name = f"squared_gradients_prior_{prior:g}"
        found[name] = merging([Diagonal(m, h) for m, h in zip(means, precisions, strict=True)])
    inputs = [dict(open_checkpoint(bench.file((t, 0), "inputs"))) for t in TASKS]
    prior = kronecker_damping([{name: (A, None) for name, A in one.items()} for one in inputs], 1e-3)
    found["regmean"] = merging([regmean(m, A, damping=prior) for m, A in zip(means, inputs, strict=True)])
    found["simple_warped"] = warped(found["simple"], 0.5)
    found["squared_gradients_warped"] = warped(found["squared_gradients"], 0.5)
    if (K := bench.settings.seeds) > 1:
        every = [[mean(bench, (t, k)) for t in TASKS] for k in range(K)]
        members = [
            with_base(bench, own, "given", k, N=bench.settings.training) for k, own in enumerate(every)
        ]
        found[f"mixture_{K}"] = merging([Mixture(own) for own in zip(*members, strict=True)])
        pool = [Isotropic(m) for own in every for m in own]
        found[f"simple_{K}_pooled"] = lambda alphas: modes(alphas.repeat(1, K) / K, pool)
    return found


def mean(bench: Bench, run: tuple[str, int]) -> Mapping[str, Tensor]:
    """Where a run ended."""
    return dict(open_checkpoint(bench.file(run)))


def squares(bench: Bench, run: tuple[str, int], labels: str) -> Mapping[str, Tensor]:
    """Squared gradients at the end of a run."""
    return dict(open_checkpoint(bench.file(run, labels)))


def with_base(bench: Bench, means: list, labels: str, k: int = 0, *, N: int = 1) -> list[Diagonal]:
    """N(theta_t, (H_0 + H_t)^-1), H_0 of IMDB at the base: Daheim et al. 2024, where the weights sum to one.

    N: examples that the loss is a sum over; it matters to a mixture only, whose responsibilities need the absolute scale.
    """
    measured = [squares(bench, run, labels) for run in (*((t, k) for t in TASKS), ("IMDB", 0))]
    (*own, base), _ = damped(measured, PRIOR)
    return [Diagonal(m, {n: N * (h[n] + base[n]) for n in h}) for m, h in zip(means, own, strict=True)]


def merging(posteriors: list) -> Method:
    """The modes of these posteriors' merges, one posterior a task."""
    return lambda alphas: modes(alphas, posteriors)


def warped(method: Method, p: float) -> Method:
    """The method at weights alpha^p, normalised, since a little weight already buys most of a task's score."""
    return lambda alphas: method(alphas**p / (alphas**p).sum(-1, keepdim=True))
