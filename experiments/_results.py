"""The numbers of one experiment's store as plain JSON data, their table, and its pictures."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from previa import compare
from previa.show._look import LABELS, write
from previa.show.panels import panels
from previa.show.pareto import pareto
from previa.study.compare import Quality
from previa.study.pareto import compare_fronts
from previa.study.preview import Preview
from previa.study.simplex import find, uniform
from previa.study.store import Store

TRUTH = "joint"
KEPT = (
    "pick",
    "regret_at_1",
    "regret_at_k",
    "regret_noise",
    "gain_over_uniform",
    "gain_over_uniform_interval",
    "gain_over_size_proportional",
    "spearman",
    "spearman_top25",
    "pairwise_accuracy",
    "iou_top10",
    "mse",
    "offset",
    "variance",
    "weightings",
    "failed",
    "seconds",
)
KEPT_PER_TASK = ("regret_at_1", "spearman", "mse")
LISTS = ("true_front", "previewed_front", "true_scores_at_previewed_front")
DIGITS = 6  # of every number that is written


def judge(
    store: Store,
    columns: Sequence[tuple[str, str]],
    *,
    sizes: Mapping[str, float],
    roles: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The quality of every method of the store as JSON data: tasks, truth, roles, recommended, methods."""
    truth = store.preview(TRUTH)
    names = [n for n in store.methods() if n != TRUTH and not n.startswith(f"{TRUTH}_from_")]
    previews = {name: store.preview(name) for name in names}
    T = len(store.tasks)
    counts = np.array([float(sizes.get(task, 0)) for task in store.tasks])
    proportional = counts / counts.sum() if counts.all() else uniform(T)
    found = compare(truth, previews, uniform=uniform(T), size_proportional=proportional)
    labels = dict(columns)
    methods = {}
    for name in sorted(names, key=lambda n: list(labels).index(n) if n in labels else len(labels)):
        q, preview = found.methods[name], previews[name]
        methods[name] = {
            "label": labels.get(name, name),
            **{key: getattr(q, key) for key in KEPT},
            "previewed_best": float(preview.mean[preview.index(q.pick)]),
            "true_score_at_pick": float(truth.mean[truth.index(q.pick)]),
            "per_task": {
                task: {key: getattr(one, key) for key in KEPT_PER_TASK} for task, one in q.per_task.items()
            },
        }
    roles = dict(roles) if roles is not None else guessed_roles([n for n, _ in columns if n in methods])
    recommended = roles.get("mixture") or roles.get("hessian") or list(methods)[-1]
    t = found.truth
    return {
        "tasks": list(store.tasks),
        "truth": {
            "best_alpha": t.best_alpha,
            "best_score": t.best_score,
            "worst_score": float(np.nanmin(truth.mean)),
            "uniform_score": _score(truth, uniform(T)),
            "size_proportional_score": t.size_proportional_score if counts.all() else None,
            "regret_noise": found.methods[recommended].regret_noise,
            "weightings": t.weightings,
            "failed": t.failed,
            "seconds": t.seconds,
        },
        "roles": roles,
        "recommended": verdict(recommended, found.methods[recommended]),
        "methods": methods,
        "pareto": {name: front(truth, previews[name]) for name in methods},
    }


def front(truth: Preview, preview: Preview) -> dict[str, Any]:
    """How well the preview knows the Pareto front, without the lists of weightings, which the store has."""
    found = compare_fronts(truth, preview).to_dict()
    return {key: value for key, value in found.items() if key not in LISTS}


def guessed_roles(names: Sequence[str]) -> dict[str, str]:
    """The paper's columns by name: "simple", the last "mixture...", and the first of the others as "hessian"."""
    mixtures = [n for n in names if n.startswith("mixture")]
    others = [n for n in names if n not in (*mixtures, "simple", "task_arithmetic")]
    found = {"simple": "simple"} if "simple" in names else {}
    found |= {"hessian": others[0]} if others else {}
    return found | ({"mixture": mixtures[-1]} if mixtures else {})


def verdict(name: str, q: Quality) -> dict[str, Any]:
    """The method that a user would follow, its regret at its pick, and whether that can be told from 0."""
    within = None if q.regret_noise is None else q.regret_at_1 <= q.regret_noise
    return {
        "method": name,
        "pick": q.pick,
        "regret_at_1": q.regret_at_1,
        "regret_noise": q.regret_noise,
        "within_noise": within,
    }


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """The facts with numbers of six digits, one entry a line."""
    text = json.dumps(_rounded(facts), indent=1, allow_nan=False)
    text = re.sub(r"\[[^][{}]*\]", lambda found: re.sub(r"\n\s*", " ", found[0]), text)  # a list is one line
    write(path, (text + "\n").encode())


def draw(
    store: Store, columns: Sequence[tuple[str, str]], folder: Path, stem: str, *, title: str, unit: str
) -> None:
    """NAME.png: the truth and the chosen previews in the paper's layout; NAME-pareto.png: their fronts."""
    labels = {name: LABELS.get(text, text[:1].upper() + text[1:]) for name, text in columns}
    previews = {labels[name]: store.preview(name) for name, _ in columns if name != TRUTH}
    truth = store.preview(TRUTH)
    path = folder / f"{stem}.png"
    panels(truth, previews, path, title=title, unit=unit, truth_label=labels.get(TRUTH, TRUTH))
    pareto(truth, previews, folder / f"{stem}-pareto.png", title=title, unit=unit)


def show(facts: Mapping[str, Any], truth_label: str = "joint finetuning") -> None:
    """Print the table of all methods, best regret first, and what became of the recommended pick."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("method", no_wrap=True)
    for name in ("regret@1", "pick", "previewed", "true", "Spearman", "top\n25 %", "IoU", "MSE", "offset", "weight-\nings", "seconds"):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)
    for name, q in sorted(facts["methods"].items(), key=_order):
        cells = [
            q["previewed_best"],
            q["true_score_at_pick"],
            q["spearman"],
            q["spearman_top25"],
            q["iou_top10"],
        ]
        shown = ["-" if value is None else f"{value:.3f}" for value in cells]
        pick = "(" + ", ".join(f"{w:.3g}" for w in q["pick"]) + ")"
        numbers = f"{q['mse']:.4f}", f"{q['offset']:+.3f}", str(q["weightings"]), f"{q['seconds']:.1f}"
        table.add_row(name, f"{q['regret_at_1']:.4f}", pick, *shown, *numbers)
    console = Console(width=max(150, Console().width))
    print(f"\n{facts['title']}: previews judged by {truth_label}, best regret first\n")
    console.print(table)
    truth, chosen = facts["truth"], facts["recommended"]
    even = "" if truth["uniform_score"] is None else f"; uniform weights: {truth['uniform_score']:.4f}"
    print(f"\nBest of {truth_label} at {truth['weightings']} weightings: {truth['best_score']:.4f}{even}.")
    noise = chosen["regret_noise"]
    if chosen["within_noise"] is False:
        print(
            f"WARNING: the recommended weighting ({chosen['method']}) has a regret of {chosen['regret_at_1']:.4f}, more than "
            f"the test items' noise explains ({noise:.4f})."
        )
    elif noise is not None:
        print(
            f"The recommended weighting ({chosen['method']}) has a regret of {chosen['regret_at_1']:.4f}; up to {noise:.4f} "
            "cannot be told from 0."
        )
    else:
        print(f"The recommended weighting ({chosen['method']}) has a regret of {chosen['regret_at_1']:.4g}.")
    print(f"Its Pareto front: {facts['pareto'][chosen['method']]['sentence']}")


def _score(truth: Preview, alpha: Any) -> float | None:
    row = find(truth.alphas, alpha)
    return None if row is None or not truth.ok[row] else float(truth.mean[row])


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_rounded(v) for v in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    return value


def _order(pair: tuple[str, Mapping[str, Any]]) -> tuple[float, float]:
    """The lower regret first, then the better ranks."""
    return pair[1]["regret_at_1"], -(pair[1]["spearman"] or 0.0)
