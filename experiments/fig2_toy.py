"""Figure 2: three losses in two dimensions, previewed by simple averaging, full Gaussians and mixtures of them (paper, B.1).

Every preview is held against the exact minimiser of the weighted loss, for seven draws of the losses. No data, no training.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from _shared import Options, finish, open_store, options, weightings
from _toy import (
    Array,
    T,
    derivatives,
    draw_losses,
    em_by_hand,
    grid_mixture,
    laplace,
    losses,
    minimiser,
)
from _toy_figure import draw

from previa import Full, Isotropic, Mixture, modes
from previa.fit.mixture_vi import mixture_vi, scattered
from previa.fit.von import von
from previa.study.simplex import grid
from previa.study.store import Store

TASKS = ("task 1", "task 2", "task 3")
NAMES = {
    "simple": "simple averaging",
    "laplace": "full Hessian at the minimum",
    "von": "full Gaussian, VON",
    "mixture": "mixture of {K}, EM",
    "mixture_b2": "mixture of {K}, settings of B.2",
    "mixture_b2_long": "the same for 40 times as long",
    "mixture_grid": "mixture of {K} fitted on a grid",
}
PANELS = ("simple", "laplace", "mixture")
ROLES = {"simple": "simple", "hessian": "laplace", "mixture": "mixture"}
ROUNDING = 1e-12  # of F in float64, relative to 1 + |F|: a fall beyond it is a fall


def labels(K: int) -> dict[str, str]:
    """The methods' names for a reader, with mixtures of K components."""
    return {name: label.format(K=K) for name, label in NAMES.items()}


@dataclass(frozen=True)
class Settings:
    """Sizes and hyper-parameters of one scale; the same for every draw of the losses."""

    draws: int = 7
    shown: int = 6  # the draw of the pictures and of the store
    grid: int = 10  # steps of the simplex for the table
    fine: int = 20  # and for the pictures
    components: int = 10
    spread: float = 1.5  # of the components' means at the start, in standard deviations of VON's Gaussian
    lr: float = 0.1
    lr_weights: float = 0.02
    samples: int = 20
    steps: int = 500
    long: int = 1000
    grid_side: int = 61  # of the reference that is fitted without samples
    grid_steps: int = 250
    em_steps: int = 300  # of the EM that is written out to count its falls


SCALES = {
    "tiny": Settings(draws=1, shown=0, grid=4, fine=4, components=3, samples=3, steps=5, long=10, grid_side=9, grid_steps=3, em_steps=20),
    "small": Settings(),
    "paper": Settings(),
}  # fmt: skip


def posteriors(a: Array, b: Array, seed: int, s: Settings) -> tuple[dict[str, list], dict[str, float]]:
    """Each method's posteriors of the losses a [T, N, 2], b [T, N], and the seconds that they took."""
    generators = [torch.Generator().manual_seed(1000 * seed + t) for t in range(T)]
    ats = [derivatives(a[t], b[t]) for t in range(T)]
    found: dict[str, list] = {}
    seconds: dict[str, float] = {}

    def fit(name: str, one: Callable[[int], object]) -> None:
        started = time.perf_counter()
        found[name] = [one(t) for t in range(T)]
        seconds[name] = time.perf_counter() - started

    def gaussian(t: int) -> Full:
        q = found["laplace"][t]
        return von(ats[t], q.mode(), precision=q.precision, generator=generators[t])

    def mixture(t: int, **settings: float) -> Mixture:
        starts = scattered(found["von"][t], s.components, spread=s.spread, generator=generators[t])
        return mixture_vi(ats[t], starts, generator=generators[t], **settings)

    tuned = {"lr": s.lr, "lr_weights": s.lr_weights, "samples": s.samples, "steps": s.steps}
    fit("laplace", lambda t: laplace(a[t], b[t]))
    fit("simple", lambda t: Isotropic(found["laplace"][t].mode()))
    fit("von", gaussian)
    fit("mixture", lambda t: mixture(t, **tuned))
    fit("mixture_b2", mixture)  # the defaults: lr 0.02, lr_weights 3e-6, 3 samples, 25 steps
    fit("mixture_b2_long", lambda t: mixture(t, steps=s.long))
    fit("mixture_grid", lambda t: grid_mixture(a[t], b[t], seed, s.components, s.grid_side, s.grid_steps))
    return found, seconds


def check_em(
    alphas: Array, mixtures: list[Mixture], stats: Mapping[str, torch.Tensor], steps: int
) -> dict[str, float]:
    """How often eq. 12 lowers its objective (beyond rounding), and how the library's EM ends beside it."""
    weights = torch.from_numpy(alphas)
    means = torch.stack([q.stacked.mode().vector.mean(0) for q in mixtures])
    F = torch.stack(em_by_hand(weights, mixtures, weights @ means, steps))
    falls = F.diff(dim=0) < -ROUNDING * (1 + F[:-1].abs())
    return {
        "falls": int(falls.sum()),
        "steps_watched": falls.numel(),
        "below_the_one_by_hand": float((F[-1] - stats["objective"]).max()),
        "iterations_median": float(stats["iterations"].median()),
        "iterations_max": float(stats["iterations"].max()),
        "converged": float(stats["converged"].mean()),
        "effective_k": float(stats["effective_k"].mean()),
    }


def one_draw(seed: int, s: Settings) -> dict[str, object]:
    """This draw's excess of the weighted loss, sum_t alpha_t l_t, over its minimum: mean and largest over the weightings."""
    a, b = draw_losses(seed)
    alphas = grid(T, s.grid)
    best = np.array([minimiser(a, b, alpha) for alpha in alphas])
    fitted, seconds = posteriors(a, b, seed, s)
    mean, worst, stats = {}, {}, {}
    for name in NAMES:
        found = modes(torch.from_numpy(alphas), fitted[name])
        excess = (alphas * (losses(a, b, found.params.vector.numpy()) - losses(a, b, best))).sum(-1)
        mean[name], worst[name], stats[name] = float(excess.mean()), float(excess.max()), found.stats
    em = check_em(alphas, fitted["mixture"], stats["mixture"], s.em_steps)
    return {"seed": seed, "mean_excess": mean, "largest_excess": worst, "em": em, "seconds": seconds}


def shown_draw(seed: int, s: Settings, store: Store) -> None:
    """Minus each task's loss at the previews and at the truth, on the finer grid, and where in the plane they lie."""
    a, b = draw_losses(seed)
    alphas = weightings(T, s.fine)
    started = time.perf_counter()
    theta = {"joint": np.array([minimiser(a, b, alpha) for alpha in alphas])}
    fitted, seconds = posteriors(a, b, seed, s)
    seconds["joint"] = time.perf_counter() - started - sum(seconds.values())
    for name in NAMES:
        theta[name] = modes(torch.from_numpy(alphas), fitted[name]).params.vector.numpy()
    for name, places in theta.items():
        for row in store.missing(name, alphas):
            scores = dict(zip(TASKS, (-losses(a, b, places[row])).tolist(), strict=True))
            place = {"theta_0": places[row, 0], "theta_1": places[row, 1]}
            store.record(name, alphas[row], scores, seconds=seconds[name] / len(alphas), stats=place)


def show(draws: list[dict[str, Any]], K: int) -> None:
    """The mean excess of every method and draw, and what EM did."""
    print(f"\nMean excess of the weighted loss over its minimum, {len(draws)} draws of the losses\n")
    print(f"{'draw':32s}" + "".join(f"{d['seed']:>8d}" for d in draws))
    for name, label in labels(K).items():
        print(f"{label:32s}" + "".join(f"{d['mean_excess'][name]:8.4f}" for d in draws))
    ratios = [d["mean_excess"]["simple"] / d["mean_excess"]["mixture"] for d in draws]
    print(f"{'simple averaging / mixture':32s}" + "".join(f"{ratio:8.1f}" for ratio in ratios))
    print(f"{'EM iterations, median':32s}" + "".join(f"{d['em']['iterations_median']:8.0f}" for d in draws))
    falls, watched = (sum(d["em"][key] for d in draws) for key in ("falls", "steps_watched"))
    print(f"EM lowered its objective in {falls} of {watched} steps.")


def main(o: Options) -> None:
    """Fit, merge and measure what is missing, then tables and pictures."""
    started, s = time.perf_counter(), SCALES[o.scale]
    torch.set_num_threads(1)
    with open_store(o, TASKS, asdict(s)) as store:
        draws = []
        for seed in range(o.seed, o.seed + s.draws):
            if store.get(f"draw {seed}") is None:
                store.put(f"draw {seed}", one_draw(seed, s))
                print(f"draw {seed}: {time.perf_counter() - started:.0f} s", flush=True)
            draws.append(store.get(f"draw {seed}"))
        shown = o.seed + s.shown
        if any(len(store.missing(name, weightings(T, s.fine))) for name in ("joint", *NAMES)):
            shown_draw(shown, s, store)
        columns = [("joint", "exact minimisers"), *((name, labels(s.components)[name]) for name in PANELS)]
        facts = finish(
            o, store, started=started, title="Figure 2, losses in two dimensions", columns=columns,
            unit="minus loss", settings=asdict(s), roles=ROLES, extra={"shown": shown, "draws": draws},
        )  # fmt: skip
        show(draws, s.components)
        previews = {name: store.preview(name) for name in ("joint", *PANELS)}
    draw(
        o.docs / f"{o.stem}.png", draw_losses(shown), previews, labels(s.components)
    )  # in the place of the usual picture
    print(f"{facts['seconds']:.0f} s in all; pictures and numbers are in {o.docs}")


if __name__ == "__main__":
    main(options("fig2_toy", __doc__))
