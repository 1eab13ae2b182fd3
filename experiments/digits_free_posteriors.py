"""Are posteriors that cost nothing any good? Adam's second moments and snapshots on the demo's study, for several seeds.

Run: python experiments/digits_free_posteriors.py --seeds 8      (about a minute a seed)
Each seed trains the study's base, its tasks and its joint runs, and each task once more by AdamW with torch's own beta2 and with
a short memory. Writes digits_free_posteriors.json into docs/experiments (or --docs): per posterior regret@1, Spearman and MSE
against the joint runs, each seed's and their mean; and how Adam's moments compare with the squared gradients they stand for.
"""

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from previa import Diagonal, Flat, Given, Isotropic, compare, damped, squared_gradients, sweep
from previa.fit.adam_moments import adam_moments
from previa.fit.snapshots import snapshot_posterior
from previa.run.fit import fit
from previa.run.joint import truth
from previa.run.work import opened
from previa.study.file import read_study

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "experiments"
KEPT = ("regret_at_1", "regret_noise", "gain_over_uniform", "spearman", "spearman_top25", "mse", "offset")
BETA2 = (0.999, 0.9)
LATE = tuple(range(55, 101, 5))  # the last ten of twenty snapshots


def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def adamw(model, base: Flat, data, settings, batch_size: int, beta2: float, generator):
    """(optimizer, snapshots by step) of one task's run from the base."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(base[name])
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, betas=(0.9, beta2)
    )
    x, y = data
    snapshots, order = {}, torch.empty(0, dtype=torch.long)
    for step in range(1, settings.steps + 1):
        if len(order) < batch_size:
            order = torch.randperm(len(x), generator=generator)
        rows, order = order[:batch_size], order[batch_size:]
        optimizer.zero_grad()
        loss(model, (x[rows], y[rows])).mean().backward()
        optimizer.step()
        snapshots[step] = {name: p.detach().clone() for name, p in model.named_parameters()}
    return optimizer, snapshots


def ranks(values: torch.Tensor) -> torch.Tensor:
    return values.argsort().argsort().double()


def one_seed(study) -> tuple[dict, dict]:
    """(name of the posterior -> its quality, what Adam's moments are beside squared gradients)."""
    with opened(study) as work:
        runs, true = fit(work), truth(work)
        ingredients, model, B = work.ingredients, work.ingredients.model, study.finetune.batch_size
        found = {"simple, IVON": [Isotropic(task.mean) for task in runs.tasks.values()]}
        agreement = {}
        for beta2 in BETA2:
            ends, squares, powers, snapshots = [], [], {1.0: [], 0.5: []}, []
            for t, task in enumerate(study.names()):
                generator = torch.Generator().manual_seed(1000 * study.seed + t)
                data = ingredients.train[task]
                optimizer, steps = adamw(model, runs.base, data, study.adamw, B, beta2, generator)
                ends.append(Flat.of(steps[study.adamw.steps]))
                snapshots.append(steps)
                squares.append(squared_gradients(model, [data], Given(loss)).mean)
                for power, moments in powers.items():
                    moments.append(adam_moments(optimizer, model, batch_size=B, power=power).mean)
            for task, F, M in zip(study.names(), squares, powers[1.0], strict=True):
                both = (F.vector > 0) & (M.vector > 0)
                agreement[f"{task}, beta2 {beta2}"] = {
                    "spearman": float(
                        torch.corrcoef(torch.stack([ranks(F.vector[both]), ranks(M.vector[both])]))[0, 1]
                    ),
                    "ratio_of_means": float(M.vector.double().mean() / F.vector.double().mean()),
                }
            for prior in (10.0, 1.0):
                for name, fishers in (
                    ("squared gradients", squares), ("Adam", powers[1.0]), ("root of Adam", powers[0.5])
                ):  # fmt: skip
                    posteriors = [
                        Diagonal(m, h) for m, h in zip(ends, damped(fishers, prior)[0], strict=True)
                    ]
                    found[f"{name}, prior {prior:g}, beta2 {beta2}"] = posteriors
            if beta2 == BETA2[0]:
                found["simple, AdamW"] = [Isotropic(m) for m in ends]
                for floor in (10.0, 1.0, 0.1):
                    found[f"snapshots of one run, floor {floor:g}"] = [
                        snapshot_posterior([steps[k] for k in LATE], mean=m, floor=floor)
                        for steps, m in zip(snapshots, ends, strict=True)
                    ]
        seeds = [[run[-1].mode() for run in task.ivon] for task in runs.tasks.values()]
        for floor in (10.0, 1.0, 0.1):
            found[f"five seeds, floor {floor:g}"] = [snapshot_posterior(one, floor=floor) for one in seeds]
        found["average of five seeds"] = [Isotropic(snapshot_posterior(one).mode()) for one in seeds]
        previews = {
            name: sweep(model, posteriors, ingredients.scorer, true.alphas, tasks=study.names())
            for name, posteriors in found.items()
        }
        judged = compare(true, previews, uniform=work.uniform, size_proportional=work.size_proportional)
        quality = {name: {key: getattr(q, key) for key in KEPT} for name, q in judged.methods.items()}
        quality["uniform weights"] = {"regret_at_1": judged.truth.best_score - judged.truth.uniform_score}
        return quality, agreement


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--docs", type=Path, default=DOCS, help="where digits_free_posteriors.json goes")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "experiments-out" / "digits_free_posteriors", help="work folder"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    started, seeds, agreements = time.perf_counter(), [], []
    with resources.as_file(resources.files("previa.data") / "digits.toml") as file:
        study = read_study(file)
    for seed in range(args.seeds):
        quality, agreement = one_seed(replace(study, seed=seed, out=args.out / str(seed)))
        seeds.append(quality)
        agreements.append(agreement)
        print(f"seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
    mean = {
        name: {key: statistics.mean(seed[name][key] or 0.0 for seed in seeds) for key in seeds[0][name]}
        for name in seeds[0]
    }
    facts = {
        "command": f"python experiments/digits_free_posteriors.py --seeds {args.seeds}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "seconds": round(time.perf_counter() - started),
    }
    args.docs.joinpath("digits_free_posteriors.json").write_text(
        json.dumps({**facts, "mean": mean, "seeds": seeds, "moments": agreements}, indent=1) + "\n"
    )
    print(f"{'posterior':42s} regret@1  (worst)  difference to simple  Spearman  difference           MSE")
    for name, q in sorted(mean.items(), key=lambda pair: pair[1]["regret_at_1"]):
        if "mse" in q:
            worst = max(seed[name]["regret_at_1"] for seed in seeds)
            beside = [f"{beside_simple(seeds, name, key):>20s}" for key in ("regret_at_1", "spearman")]
            print(
                f"{name:42s} {q['regret_at_1']:8.4f}  ({worst:.3f}) {beside[0]}  {q['spearman']:8.3f} {beside[1]}  {q['mse']:.4f}"
            )
    print(f"uniform weights: mean regret {mean['uniform weights']['regret_at_1']:.4f}; noise floor "
          f"{mean['simple, AdamW']['regret_noise']:.4f}")  # fmt: skip


def beside_simple(seeds: list[dict], name: str, key: str) -> str:
    """The mean difference to simple averaging, paired by seed, and its standard error."""
    apart = [(seed[name][key] or 0.0) - (seed["simple, AdamW"][key] or 0.0) for seed in seeds]
    error = statistics.stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else float("nan")
    return f"{statistics.mean(apart):+.4f} +- {error:.4f}"


if __name__ == "__main__":
    main()
