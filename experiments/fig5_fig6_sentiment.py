"""Figures 5 and 6: a text encoder, first finetuned on IMDB, then on RT, SST-2 and Yelp; all pairs, and the three (paper, B.5).

Previews: simple averaging, AdamW with squared gradients (ADAMW-SG, as Daheim et al. 2024 weigh them), and some that are not in the
paper. The truth is joint finetuning; the pairs are the edges of the triangle, so that its joint runs serve both figures.

Small scale: the MiniLM encoder whose folder PREVIA_MINILM names (see docs/experiments/fig5_fig6_sentiment.md), of which the tasks
train the top layers. Tiny: an encoder from a configuration, words by their checksums. Paper: roberta-base, by the hub's names.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from _sentiment import finetune_task, joint_run, measure_base, pretrain, scorer
from _sentiment_bench import Bench, Settings, keep_features
from _sentiment_data import TASKS
from _sentiment_methods import PRIOR, mean, methods
from _shared import COLUMNS, ROLES, Options, data, finish, open_store, options, weightings
from _workers import in_workers
from torch import Tensor

from previa import sweep
from previa.run.live import evaluating
from previa.study.quality import ranking
from previa.study.simplex import find, key, uniform
from previa.study.store import Store

NAME = "fig6_sentiment"
REPEATS = 4  # of joint runs with other seeds, at the best weighting, at uniform weights and where the paper's methods point


def scales(folder: str) -> dict[str, Settings]:
    """small uses the encoder in ``folder``."""
    return {
        "tiny": Settings("tiny", 16, 16, 8, 12, 5e-3, 5e-3, 1, (1, 1, 1), 1, grid=2, edge=2, measured=8, top=1, dropout=0.0, warmup=1, seeds=2, batch=8),
        "small": Settings(folder, 2000, 1600, 600, 32, 5e-5, 3e-3, 1, (2, 2, 2), 2 / 3, grid=5, edge=10, measured=800, top=1, dropout=0.0,
                          warmup=20, seeds=2),
        "paper": Settings("FacebookAI/roberta-base", 25_000, 120_000, 100_000, 512, 1e-5, 5e-6, 2, (5, 5, 2), 3, grid=10, edge=20,
                          measured=120_000, top=0, dropout=0.1, warmup=100, hub=True),
    }  # fmt: skip


def main() -> None:
    """All of it; what is done already is not done again."""
    started, o = time.perf_counter(), options("fig5_fig6_sentiment", __doc__)
    folder = os.environ.get("PREVIA_MINILM", "")
    if o.scale != "paper":
        data("sentiment")
    if o.scale == "small" and not (Path(folder) / "model.safetensors").is_file():
        print(
            f"skipped: {o.name} needs an encoder: PREVIA_MINILM names no folder with model.safetensors (found {folder!r})"
        )
        return
    torch.set_num_threads(1)  # a process a core
    o = replace(
        o, name=NAME, workers=1 if o.scale == "tiny" else o.workers
    )  # or it is done before others have started
    bench = Bench(scales(folder)[o.scale], o.out, o.device, o.seed)
    s = bench.settings
    sizes = {task: len(bench.tokens()[task][0]["labels"]) for task in TASKS}
    settings = {**told(s), "sizes": sizes}
    store = open_store(o, TASKS, settings)
    train(o, bench, store)
    alphas = rows(s)
    missing = sorted((tuple(alphas[i].tolist()) for i in store.missing("joint", alphas)), key=coarse)
    jobs = [(alpha, 0) for alpha in missing]
    for (alpha, _), (scores, seconds) in in_workers("joint", joint_run, jobs, bench, o.workers):
        store.record("joint", alpha, scores, seconds=seconds)
    for name, method in methods(bench).items():
        sweep(bench.model(), method, scorer(bench), alphas, store=store, name=name, workers=o.workers)
        print(f"{name}: {len(alphas)} previews", flush=True)
    again = joint_again(o, bench, store)
    pairs = {f"{TASKS[a]}, {TASKS[b]}": pair(o, store, bench, a, b) for a, b in combinations(range(3), 2)}
    finish(
        o, store, started=started, title="Sentiment: RT, SST-2, Yelp", columns=COLUMNS, settings=settings, roles=ROLES,
        extra={**explained(bench), "joint_again": again, "pairs": [facts["name"] for facts in pairs.values()]},
    )  # fmt: skip


def train(o: Options, bench: Bench, store: Store) -> None:
    """The base, the tasks' own runs, and what is measured at their ends, where a file of it is missing."""
    s = bench.settings
    if not (o.out / "base.safetensors").exists():
        store.add_seconds("pretrain", pretrain(bench))
    if s.top and not bench.features.exists():
        store.add_seconds("features", keep_features(bench))
    jobs = [(t, k) for k in range(s.seeds) for t in TASKS if not bench.file((t, k)).exists()]
    base = [("IMDB", 0)] * (not bench.file(("IMDB", 0), "inputs").exists())
    for name, function, items in (("finetune", finetune_task, jobs), ("base", measure_base, base)):
        for _, seconds in in_workers(name, function, items, bench, o.workers):
            for what, value in seconds.items():
                store.add_seconds(what, value)


def joint_again(o: Options, bench: Bench, store: Store) -> list[dict[str, object]]:
    """At the truth's best weighting, uniform weights and the paper's methods' picks: the scores of joint runs of other seeds."""
    truth = store.preview("joint")
    previews = [truth, *(store.preview(ROLES[role]) for role in ("simple", "hessian"))]
    picks = [p.alphas[ranking(p.mean, p.alphas)[0]] for p in previews]
    watched = list(dict.fromkeys(tuple(alpha.tolist()) for alpha in (*picks, uniform(len(TASKS)))))
    repeats = 1 if o.scale == "tiny" else REPEATS

    def name(alpha: tuple[float, ...], k: int) -> str:
        return f"{key(alpha)} seed {k}"

    known = store.get("repeats", {})
    jobs = [(alpha, k) for alpha in watched for k in range(1, repeats + 1) if name(alpha, k) not in known]
    for (alpha, k), (scores, seconds) in in_workers("joint again", joint_run, jobs, bench, o.workers):
        known[name(alpha, k)] = float(np.mean([v.mean() for v in scores.values()]))
        store.put("repeats", known)
        store.add_seconds("joint again", seconds)
    found = []
    for alpha in watched:
        others = [known[name(alpha, k)] for k in range(1, repeats + 1)]
        deviation = float(np.std(others, ddof=1)) if repeats > 1 else None
        score = float(truth.mean[truth.index(alpha)])
        found.append(
            {"alpha": alpha, "truth": score, "again": others, "mean": float(np.mean(others)), "sd": deviation}
        )
    return found


def told(s: Settings) -> dict[str, object]:
    """The settings as facts, without a folder of this machine."""
    return {**asdict(s), "model": s.model if s.hub or s.model == "tiny" else "all-MiniLM-L6-v2"}


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


def explained(bench: Bench) -> dict[str, object]:
    """The base's scores, and how far the tasks' own runs went from it and from each other, in a norm's share of the base's."""
    model = bench.model()
    with evaluating(model):
        scores = {task: float(values.mean()) for task, values in scorer(bench)(model).items()}
    base = {name: p.detach().cpu() for name, p in model.named_parameters()}
    moves = {t: flat({n: p - base[n] for n, p in mean(bench, (t, 0)).items()}) for t in TASKS}
    size = float(flat(base).norm())
    cosines = {
        f"{a}, {b}": float(moves[a] @ moves[b] / (moves[a].norm() * moves[b].norm()))
        for a, b in combinations(TASKS, 2)
    }
    return {
        "base": scores,
        "moved": {t: float(v.norm()) / size for t, v in moves.items()},
        "cosines": cosines,
        "parameters": len(flat(base)),
        "prior": PRIOR,
        "test_items": {t: len(part["labels"]) for t, (_, part) in bench.data().items() if t in TASKS},
    }


def flat(params: Mapping[str, Tensor]) -> Tensor:
    """All numbers in one vector."""
    return torch.cat([params[name].double().reshape(-1) for name in sorted(params)])


def pair(o: Options, store: Store, bench: Bench, a: int, b: int) -> dict[str, object]:
    """Figure 5's study of two tasks: the edge of the triangle between them, with the scores of both."""
    names = (TASKS[a], TASKS[b])
    label = "_".join(name.replace("-", "").lower() for name in names)
    own = replace(o, name=f"fig5_{label}", out=o.out / label)
    sizes = {name: len(bench.tokens()[name][0]["labels"]) for name in names}
    settings = {**told(bench.settings), "sizes": sizes}
    spent = 0.0  # by the triangle's runs on this edge
    with open_store(own, names, settings) as edge:
        for method in store.methods():
            preview = store.preview(method)
            outside = preview.alphas[:, 3 - a - b] == 0
            for i in np.flatnonzero(outside):
                alpha = preview.alphas[i][[a, b]]
                if len(edge.missing(method, alpha[None])):
                    items = {name: preview.items[t][i] for name, t in zip(names, (a, b), strict=True)}
                    edge.record(method, alpha, items, seconds=preview.seconds / len(preview))
                    spent += preview.seconds / len(preview)
        return finish(
            own, edge, started=time.perf_counter() - spent, title=f"Sentiment: {' and '.join(names)}", columns=COLUMNS,
            settings=settings, roles=ROLES,
        )  # fmt: skip


if __name__ == "__main__":
    main()
