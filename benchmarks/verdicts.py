"""How often a verdict is wrong, and what its two corrections are worth: the numbers of docs/choosing.md.

python benchmarks/verdicts.py                              false alarms over simulated studies
python benchmarks/verdicts.py --store demo-out/study.db    floors and training gains of a study with joint runs
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from previa.show._methods import is_map
from previa.study.preview import Preview
from previa.study.quality import ranking
from previa.study.recommend import Recommendation, recommend
from previa.study.simplex import find, grid, uniform
from previa.study.store import Store

TASKS = ("a", "b", "c")
ALPHAS = grid(3, 6)
TOP = (0.5, 1 / 3, 1 / 6)
EQUAL = np.full(len(ALPHAS), 0.7)
STEEP = 0.8 - 0.5 * np.abs(ALPHAS - TOP).sum(axis=1)
ITEMS = 100  # a task
GAINS = (None, -0.05, 0.0, 0.05, 0.1)  # of joint training over the merged models; None: no joint run
BINS = ((0.0, 0.0), (1e-9, 0.15), (0.15, 0.45), (0.45, 1.0))  # of a task's weight


def scored(level: np.ndarray, seed: int) -> Preview:
    """Items right with probability level [A], each weighting on its own: the noisiest case."""
    rng = np.random.default_rng(seed)
    items = tuple((rng.random((len(level), ITEMS)) < level[:, None]).astype(np.float32) for _ in TASKS)
    return Preview(TASKS, ALPHAS, np.column_stack([i.mean(axis=1, dtype=np.float64) for i in items]), items)


def study(level: np.ndarray, gain: float | None, seed: int) -> Recommendation:
    """One study, with a joint run at the pick and one at uniform weights."""
    preview, truth = scored(level, seed), None
    if gain is not None:
        rows = {int(ranking(preview.mean, ALPHAS)[0]), find(ALPHAS, uniform(3))}
        truth = scored(level + gain, 100_000 + seed).rows(sorted(rows))
    return recommend(preview, uniform=uniform(3), size_proportional=uniform(3), truth=truth)


def false_alarms(studies: int) -> None:
    """A line for each kind of study: how often each verdict is said."""
    for name, level in (("all weightings are equal", EQUAL), ("the pick is far better", STEEP)):
        for gain in GAINS:
            said = Counter(study(level, gain, seed).verdict for seed in range(studies))
            what = "no joint run" if gain is None else f"training gains {gain:+.2f}"
            print(f"{name:26} {what:22} " + ", ".join(f"{v}: {n}" for v, n in said.most_common()), flush=True)


def floors(truth: Preview, previews: dict[str, Preview]) -> None:
    """By a task's own weight: how often its joint run scores below its preview."""
    weights, off = [], []
    for preview in previews.values():
        for alpha, s in zip(truth.alphas, truth.scores, strict=True):
            a = find(preview.alphas, alpha)
            if a is not None and alpha.max() < 1 - 1e-9:
                weights.append(alpha)
                off.append(s - preview.scores[a])
    w, d = np.array(weights), np.array(off)
    print(f"{len(w)} weightings of {len(previews)} previews beside their joint runs")
    for low, high in BINS:
        of = (w >= low) & (w <= high)
        print(
            f"weight {low:.2f} to {high:.2f}: below {(d[of] < 0).mean():.0%}, median {np.median(d[of]):+.3f}"
        )


def halves(truth: Preview, previews: dict[str, Preview], splits: int) -> None:
    """The pick and the gain of training by half of the test items, and that gain on the other half."""
    for name, preview in previews.items():
        rows = []
        for seed in range(splits):
            rng = np.random.default_rng(seed)
            order = [rng.permutation(items.shape[1]) for items in preview.items]
            first, other = ([part(p, order, h) for p in (preview, truth)] for h in (0, 1))
            r = recommend(first[0], uniform=uniform(3), size_proportional=uniform(3), truth=first[1])
            if r.training_gain is None or r.training_gain_at is None:
                continue
            plain, fresh = (
                float(t.at(r.training_gain_at).mean[0] - p.at(r.training_gain_at).mean[0])
                for p, t in (first, other)
            )
            rows.append((plain, r.training_gain.value, fresh))
        plain, corrected, fresh = np.mean(rows, axis=0)
        print(
            f"{name:20} plain {plain:+.4f}, corrected {corrected:+.4f}, on the other half {fresh:+.4f}",
            flush=True,
        )


def part(preview: Preview, order: list[np.ndarray], half: int) -> Preview:
    """The preview on one half of its items."""
    take = [o[: len(o) // 2] if half == 0 else o[len(o) // 2 :] for o in order]
    items = tuple(i[:, k] for i, k in zip(preview.items, take, strict=True))
    scores = np.column_stack([i.mean(axis=1, dtype=np.float64) for i in items])
    return Preview(preview.tasks, preview.alphas, scores, items, provenance=preview.provenance)


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--splits", type=int, default=15)
    given = parser.parse_args()
    if given.store is None:
        false_alarms(given.studies)
        return
    with Store.read(given.store) as store:
        truth = store.preview("joint")
        found = {m: store.preview(m) for m in store.methods() if is_map(m) and m != "task_arithmetic"}
    previews = {name: p.rows(p.ok) for name, p in found.items()}
    floors(truth.rows(truth.ok), previews)
    halves(truth.rows(truth.ok), previews, given.splits)


if __name__ == "__main__":
    main()
