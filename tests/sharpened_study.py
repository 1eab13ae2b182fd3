"""A store as a sharpened study leaves it, written by hand: previews of a family, warped, anchored, and of the runs' scores."""

import numpy as np

from previa.study.simplex import grid, uniform
from previa.study.store import Store

ITEMS = 400
OFF = {
    "simple": 0.12,
    "ivon_hessian": 0.09,
    "warped": 0.05,
    "scores": 0.012,
    "scores_gp": 0.02,
    "anchored": 0.004,
}


def anchors_of(T):
    """The centroid and the middles of edges: four for three tasks, one for two."""
    if T == 2:
        return [(0.5, 0.5)]
    return (
        [tuple(uniform(T)), *(tuple(row) for row in (1 - np.eye(T)) / (T - 1))]
        if T == 3
        else [tuple(uniform(T))]
    )


def powers(tasks, method, p, family="simple", families=("simple", "ivon_hessian")):
    """What was compared: {family: {p: joint loss}}, least for the chosen one; one loss could not be measured."""
    tried = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12)
    losses = {
        name: {str(q): 0.4 + 0.1 * i + 0.05 * abs(np.log(q / p)) for q in tried}
        for i, name in enumerate(families)
    }
    losses[families[-1]]["0.12"] = None
    chosen = {"method": family, "p": p}
    return {method: {"chosen": chosen, "losses": losses, "evaluations": 168, "examples": 900,
                     "alphas": grid(len(tasks), 5).tolist()[1:-1]}}  # fmt: skip


def sharpened_store(path, tasks=("a", "b", "c"), *, truth=True, facts=True, off=OFF, steps=10):
    """The store: true scores that saturate, previews that are off by so much (and bent), the facts as the runs write them."""
    T, draw = len(tasks), np.random.default_rng(0)
    limits = draw.uniform(size=(T, ITEMS))
    store = Store.open(path, tasks=tasks, convention="mean", fingerprint={}, provenance={"name": "Sharper"})

    def scores(alpha, by):
        level = 0.95 - 0.35 * np.exp(-alpha / 0.12) - by * (1 - alpha) * (1 + 2 * alpha)
        return {task: (limits[t] < level[t]).astype(np.float32) for t, task in enumerate(tasks)}

    design = grid(T, steps if T < 4 else 4)
    for method, by in off.items():
        for alpha in (*design, *map(np.array, anchors_of(T))):
            store.record(method, alpha, scores(alpha, by), seconds=0.4)
    if truth:
        for alpha in design:
            store.record("joint", alpha, scores(alpha, 0), seconds=20.0)
    for name, seconds in (("finetune/ivon", 30.0), ("powers", 4.0), ("anchors", 25.0)):
        store.add_seconds(name, seconds)
    store.put("unit", "accuracy")
    store.put("method", "anchored")
    store.put("sizes", dict.fromkeys(tasks, 300))
    if facts:
        found = {**powers(tasks, "warped", 0.35), **powers(tasks, "anchored", 0.25)}
        store.put("powers", found)
        store.put("anchors", [
            {"alpha": list(alpha), "from": "preview" if i else "base", "steps": 50, "share": 0.33,
             "scores": {t: float(s.mean()) for t, s in scores(np.array(alpha), 0).items()},
             "left_out": {t: float(s.mean()) for t, s in scores(np.array(alpha), 0.02).items()}}
            for i, alpha in enumerate(anchors_of(T))
        ])  # fmt: skip
        store.put(
            "band",
            {
                "method": "anchored",
                "level": 0.9,
                "half_width": 0.013,
                "left_out_rms": 0.008,
                "coverage": None,
            },
        )
    return store
