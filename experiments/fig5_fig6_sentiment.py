"""Figures 5 and 6: a text encoder, first finetuned on IMDB, then on RT, SST-2 and Yelp; all pairs, and the three (paper, B.5).

Previews: simple averaging, AdamW with squared gradients (ADAMW-SG, as Daheim et al. 2024 weigh them), and some that are not in the
paper. The truth is joint finetuning; the pairs are the edges of the triangle, so that its joint runs serve both figures.

Small scale: the MiniLM encoder whose folder PREVIA_MINILM names (see docs/experiments/fig5_fig6_sentiment.md).
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from _sentiment import (
    TASKS,
    Bench,
    Settings,
    finetune_task,
    in_workers,
    joint_run,
    pretrain,
    scorer,
    square_base,
)
from _shared import Options, data, finish, open_store, options, weightings
from torch import Tensor

from previa import Diagonal, Isotropic, Modes, damped, modes, open_checkpoint, sweep
from previa.core.kronecker import kronecker_damping, regmean
from previa.study.simplex import find
from previa.study.store import Store

Method = Callable[[Tensor], Modes]
PRIORS = (10.0, 0.1)  # of squared gradients, relative to each tensor's own scale
NAME = "fig6_sentiment"
COLUMNS = (
    ("joint", "joint finetuning"),
    ("simple", "simple averaging"),
    ("squared_gradients", "squared gradients"),
    ("regmean", "RegMean"),
)
ROLES = {"simple": "simple", "hessian": "squared_gradients"}


def scales(folder: str) -> dict[str, Settings]:
    """tiny and small use the encoder in ``folder``."""
    return {
        "tiny": Settings(folder, 16, 16, 24, 12, 5e-5, 5e-5, 1, grid=2, edge=2, measured=8, batch=8),
        "small": Settings(folder, 2000, 1600, 600, 40, 5e-5, 5e-5, 1, grid=5, edge=10, measured=800),
        "paper": Settings("FacebookAI/roberta-base", 25_000, 8530, 100_000, 512, 1e-5, 5e-6, 3, grid=10, edge=20, measured=8530, hub=True),
    }  # fmt: skip


def methods(bench: Bench) -> dict[str, Method]:
    """name -> function from alphas to parameters, of the tasks' own runs."""
    means = [dict(open_checkpoint(bench.file(t))) for t in TASKS]
    plain = [Isotropic(mean) for mean in means]

    def merging(posteriors: list) -> Method:
        return lambda alphas: modes(alphas, posteriors)

    def warped(posteriors: list, p: float = 0.5) -> Method:
        return lambda alphas: modes(alphas**p / (alphas**p).sum(-1, keepdim=True), posteriors)

    squares = [dict(open_checkpoint(bench.measured(t, "squares"))) for t in (*TASKS, "IMDB")]
    found = {"simple": merging(plain)}
    for prior in PRIORS:
        precisions, _ = damped(squares[:3], prior)
        found[f"squared_gradients_flat_{prior:g}"] = merging(
            [Diagonal(m, h) for m, h in zip(means, precisions, strict=True)]
        )
    (*own, base), _ = damped(
        squares, PRIORS[-1]
    )  # H_0 + H_t: Daheim et al. 2024, where the weights sum to one
    with_base = [Diagonal(m, {n: h[n] + base[n] for n in h}) for m, h in zip(means, own, strict=True)]
    found["squared_gradients"] = merging(with_base)
    inputs = [dict(open_checkpoint(bench.measured(t, "inputs"))) for t in TASKS]
    prior = kronecker_damping([{name: (A, None) for name, A in one.items()} for one in inputs], 1e-3)
    found["regmean"] = merging([regmean(m, A, damping=prior) for m, A in zip(means, inputs, strict=True)])
    found["simple_warped"] = warped(plain)
    found["squared_gradients_warped"] = warped(with_base)
    return found


def main() -> None:
    """All of it; what is done already is not done again."""
    started, o = time.perf_counter(), options("fig5_fig6_sentiment", __doc__)
    folder = os.environ.get("PREVIA_MINILM", "")
    if o.scale != "paper":
        data("sentiment")
        if not (Path(folder) / "model.safetensors").is_file():
            print(
                f"skipped: {o.name} needs an encoder: PREVIA_MINILM names no folder with model.safetensors (found {folder!r})"
            )
            return
    torch.set_num_threads(1)  # a process a core
    o = replace(o, name=NAME)
    bench = Bench(scales(folder)[o.scale], o.out, o.device, o.seed)
    s = bench.settings
    sizes = dict.fromkeys(TASKS, s.training)
    settings = {**asdict(s), "model": Path(s.model).name if o.scale != "paper" else s.model, "sizes": sizes}
    store = open_store(o, TASKS, settings)
    if not (o.out / "base.safetensors").exists():
        store.add_seconds("pretrain", pretrain(bench))
    jobs = [t for t in TASKS if not bench.file(t).exists()]
    for _, (trained, squared, passed) in in_workers("finetune", finetune_task, jobs, bench, o.workers):
        for name, seconds in (
            ("finetune/adamw", trained),
            ("squared_gradients", squared),
            ("regmean", passed),
        ):
            store.add_seconds(name, seconds)
    jobs = ["IMDB"] * (not bench.measured("IMDB", "squares").exists())
    for _, seconds in in_workers("squared gradients of the base", square_base, jobs, bench, o.workers):
        store.add_seconds("squared_gradients", seconds)
    alphas = rows(s)
    missing = sorted((tuple(alphas[i].tolist()) for i in store.missing("joint", alphas)), key=coarse)
    for alpha, (scores, seconds) in in_workers("joint", joint_run, missing, bench, o.workers):
        store.record("joint", alpha, scores, seconds=seconds)
    for name, method in methods(bench).items():
        sweep(bench.model(), method, scorer(bench), alphas, store=store, name=name, workers=o.workers)
        print(f"{name}: {len(alphas)} previews", flush=True)
    base = {task: float(values.mean()) for task, values in base_scores(bench).items()}
    pairs = {f"{a}, {b}": pair(o, store, bench, a, b) for a, b in combinations(range(3), 2)}
    finish(
        o, store, started=started, title="Sentiment: RT, SST-2, Yelp", columns=COLUMNS, settings=settings, roles=ROLES,
        extra={"base": base, "pairs": list(pairs)},
    )  # fmt: skip


def rows(s: Settings) -> np.ndarray:
    """The triangle's grid and the uniform weighting, and a finer grid on its edges."""
    found = weightings(3, s.grid)
    for alpha in weightings(3, s.edge):
        if (alpha == 0).any() and find(found, alpha) is None:
            found = np.vstack([found, alpha])
    return found


def coarse(alpha: tuple[float, ...]) -> tuple[int, ...]:
    """Corners and the inside before edges: a run that is cut off has seen the triangle."""
    return (int(alpha.count(0.0) == 1), *(round(100 * a) for a in alpha))


def base_scores(bench: Bench) -> dict[str, Tensor]:
    """What the encoder scores before it is finetuned on the three."""
    model = bench.model().eval()
    with torch.no_grad():
        return scorer(bench)(model)


def pair(o: Options, store: Store, bench: Bench, a: int, b: int) -> dict[str, object]:
    """Figure 5's study of two tasks: the edge of the triangle between them, with the scores of both."""
    names = (TASKS[a], TASKS[b])
    label = "_".join(name.replace("-", "").lower() for name in names)
    own = replace(o, name=f"fig5_{label}", out=o.out / label)
    settings = {
        **asdict(bench.settings),
        "model": Path(bench.settings.model).name,
        "sizes": dict.fromkeys(names, bench.settings.training),
    }
    with open_store(own, names, settings) as edge:
        for method in store.methods():
            preview = store.preview(method)
            outside = preview.alphas[:, 3 - a - b] == 0
            for i in np.flatnonzero(outside):
                alpha = preview.alphas[i][[a, b]]
                if len(edge.missing(method, alpha[None])):
                    items = {name: preview.items[t][i] for name, t in zip(names, (a, b), strict=True)}
                    edge.record(method, alpha, items, seconds=preview.seconds / len(preview))
        return finish(
            own, edge, started=time.perf_counter(), title=f"Sentiment: {' and '.join(names)}", columns=COLUMNS, settings=settings, roles=ROLES,
        )  # fmt: skip


if __name__ == "__main__":
    main()
