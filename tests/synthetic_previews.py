"""Made-up previews with the shapes of real ones, for tests of pictures: saturating tasks, previews biased low."""

import numpy as np

from previa.show import write_report
from previa.study.pareto import compare_fronts
from previa.study.preview import Preview
from previa.study.simplex import grid

METHODS = ("simple", "task_arithmetic", "ivon_hessian", "squared_gradients", "mixture")


def made_up(tasks, *, steps, slow=0.07, offset=0.0, failed=(), seconds=12.0):
    """A Preview in which each task's score saturates in its own weight (slow: how slowly), shifted down by offset."""
    alphas = grid(len(tasks), steps)
    t = np.arange(len(tasks))
    scores = 0.97 - 0.02 * t - 0.45 * np.exp(-alphas / (slow * (1 + 0.4 * t))) - 0.03 * (1 - alphas) - offset
    scores = scores + 0.002 * np.sin(37 * alphas + t)
    scores[list(failed)] = np.nan
    return Preview(
        tasks=tuple(tasks), alphas=alphas, scores=scores, items=(None,) * len(tasks),
        stats={}, seconds=seconds, provenance={},
    )  # fmt: skip


def study(tasks, *, truth_steps=10, steps=20, methods=METHODS):
    """The truth and one preview a method, the later methods the closer to the truth."""
    truth = made_up(tasks, steps=truth_steps, seconds=600.0)
    shapes = ((0.30, 0.08), (0.30, 0.08), (0.22, 0.06), (0.18, 0.05), (0.10, 0.02))
    previews = {
        m: made_up(tasks, steps=steps, slow=slow, offset=offset)
        for m, (slow, offset) in zip(methods, shapes, strict=False)
    }
    return truth, previews


def judged(truth, previews):
    """A comparison with plausible numbers, as `compare` would hand it over."""
    methods = {}
    for i, (method, preview) in enumerate(previews.items()):
        methods[method] = {
            "regret_at_1": 0.012 - 0.002 * i, "regret_noise": 0.004, "gain_over_uniform": 0.002 * i - 0.002,
            "gain_over_uniform_interval": [-0.003, 0.011], "gain_over_size_proportional": None, "spearman": 0.7 + 0.05 * i,
            "spearman_top25": 0.3, "iou_top10": 0.2, "mse": 0.01 / (i + 1), "offset": -0.1,
            "pick": preview.alphas[int(np.nanargmax(preview.mean))], "seconds": preview.seconds,
        }  # fmt: skip
    row = int(np.nanargmax(truth.mean))
    best = {
        "best_alpha": truth.alphas[row],
        "best_score": truth.mean[row],
        "weightings": len(truth),
        "seconds": truth.seconds,
    }
    return {"methods": methods, "truth": best}


def written(
    path, tasks, truth, previews, *, bare=False, comparison=None, name="A study", sentence="", facts=None
):
    """Write a report of these previews, with all the trimmings or (bare) with none; the path."""
    last = list(previews)[-1]
    row = int(np.argmax(np.nan_to_num(previews[last].mean)))
    chosen = previews[last].alphas[row]
    near = previews[last].alphas[previews[last].mean > previews[last].mean[row] - 0.004]
    recommendation = {
        "alpha": chosen, "centre": chosen, "region": near, "region_fraction": len(near) / len(previews[last]),
        "sentence": sentence or "Use these weights: no detectable gain over uniform.",
        "uniform": {}, "size_proportional": {"alpha": chosen[::-1]},
    }  # fmt: skip
    if truth is not None and comparison is None and not bare:
        comparison = judged(truth, previews)
    if facts is None:
        facts = {
            "method": last, "unit": "accuracy", "study": "study.toml", "warnings": ["IVON's Hessian is 99 % initial value."],
            "sizes": dict.fromkeys(tasks, 400), "seconds": {"finetune/ivon": 22.0},
        }  # fmt: skip
    write_report(
        path, name=name, tasks=tasks, convention="mean", truth=truth, previews=previews,
        comparison=None if bare else comparison, recommendation={} if bare else recommendation,
        facts={} if bare else facts,
        fronts={} if bare or truth is None else {m: compare_fronts(truth, p) for m, p in previews.items()},
    )  # fmt: skip
    return path
