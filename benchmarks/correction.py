"""Is a preview better when a few true runs correct it? On stores with many true runs: a few are shown, the rest judge.

Run: python benchmarks/correction.py STORE:PREVIEW[:exact] ...      (:exact where corners are the tasks' own runs by the joint recipe)

    python benchmarks/correction.py demo-out/study.db:warped:exact demo-out/study.db:simple:exact

Of each store 3, 4 and 6 runs inside the simplex are shown, once as `previa validate` proposes them (the pick, the centre of what is
near-best, uniform, then by design.propose, at the nearest weighting with a true run) and in 10 random draws. All other true runs
inside the simplex judge the uncorrected preview, the offset, the Gaussian process, and what the rule of `study.correct` chooses:
mean squared error of the mean score, Spearman, regret in points of the best of what judges, and the share of scores within 1.96 sd.
Writes benchmarks/results/correction.json and prints the table.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from previa.study import design, quality, simplex
from previa.study.correct import RULES, corrected, coverage, rule_by
from previa.study.preview import Preview
from previa.study.recommend import recommend
from previa.study.store import Store

NUMBERS, DRAWS = (3, 4, 6), 10
RESULTS = Path(__file__).parent / "results" / "correction.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", nargs="+", metavar="STORE:PREVIEW[:exact]")
    args = parser.parse_args()
    found = []
    for text in args.stores:
        path, method, *exact = text.split(":")
        with Store.read(path) as store:
            truth, preview = store.preview("joint"), store.preview(method)
        truth, preview = truth.rows(truth.ok), preview.rows(preview.ok)
        inside = [
            b for b, alpha in enumerate(truth.alphas)
            if alpha.max() < 1 - 1e-9 and simplex.find(preview.alphas, alpha) is not None
        ]  # fmt: skip
        truth = truth.rows(inside)
        preview = bare(preview.at(truth.alphas))
        for n in NUMBERS:
            found += judged(
                f"{Path(path).parent.name}: {method}",
                preview,
                bare(truth),
                proposed(preview, truth, n),
                bool(exact),
                "proposed",
            )
            drawn = [np.random.default_rng((n, d)).choice(len(truth), n, replace=False) for d in range(DRAWS)]
            several = [judged("", preview, bare(truth), rows, bool(exact), "random") for rows in drawn]
            found += [
                mean_of(f"{Path(path).parent.name}: {method}", [one[i] for one in several])
                for i in range(len(several[0]))
            ]
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print_table(found)


def bare(p: Preview) -> Preview:
    return Preview(p.tasks, p.alphas, p.scores)


def proposed(preview: Preview, truth: Preview, n: int) -> list[int]:
    T = len(preview.tasks)
    even = simplex.uniform(T)
    advice = recommend(preview, uniform=even, size_proportional=even)
    rows: list[int] = []
    for alpha in (advice.alpha, advice.centre, even, *design.propose(T, 12)):
        row = simplex.nearest(truth.alphas, alpha)
        rows += [row] * (row not in rows)
    return rows[:n]


def judged(name, preview, truth, rows, exact, how):
    """One row of the table for each rule: what the runs that were not shown say of the corrected map."""
    rest = np.setdiff1d(np.arange(len(truth)), rows)
    shown, hidden = truth.rows(rows), truth.rows(rest)
    best, out = hidden.mean.max(), []
    for rule in RULES:
        found = corrected(preview, shown, exact_corners=exact, rule=rule)
        p = found.preview.rows(rest)
        pick = quality.ranking(p.mean, p.alphas)[0]
        out.append({
            "store": name, "runs": len(rows), "how": how, "rule": rule,
            "mse": float(((p.mean - hidden.mean) ** 2).mean()),
            "spearman": quality.spearman(p.mean, hidden.mean) or 0.0,
            "regret": 100 * float(best - hidden.mean[pick]),
            "coverage": coverage(found, hidden),
            "process": float(found.rule == "process"),
        })  # fmt: skip
    chosen = rule_by(found.left_out_rms or {})
    return [*out, {**out[RULES.index(chosen)], "rule": "chosen", "process": float(chosen == "process")}]


def mean_of(name, rows):
    numbers = ("mse", "spearman", "regret", "coverage", "process")
    return {**rows[0], "store": name, **{k: float(np.mean([row[k] for row in rows])) for k in numbers}}


def print_table(found):
    print(
        "| preview | runs shown | MSE x 1e4: none, offset, process, chosen | Spearman: none, process, chosen | regret, points | in 1.96 sd: process, chosen |"
    )
    print("|---|---|---|---|---|---|")
    for i in range(0, len(found), 4):
        none, offset, process, chosen = found[i : i + 4]
        mse = ", ".join(f"{1e4 * one['mse']:.2f}" for one in (none, offset, process, chosen))
        rank = ", ".join(f"{one['spearman']:.2f}" for one in (none, process, chosen))
        regret = ", ".join(f"{one['regret']:.1f}" for one in (none, process, chosen))
        inside = ", ".join(f"{100 * one['coverage']:.0f} %" for one in (process, chosen))
        print(f"| {none['store']} | {none['runs']}, {none['how']} | {mse} | {rank} | {regret} | {inside} |")


if __name__ == "__main__":
    main()
