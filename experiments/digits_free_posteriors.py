"""Are posteriors that cost nothing any good? Adam's second moments and snapshots on the demo's study, for several seeds.

Some minute a seed. Each seed trains the study's base, its tasks and its joint runs, and each task once more by AdamW with torch's own beta2 and with
a short memory. Writes digits_free_posteriors.json: per posterior regret@1, Spearman and MSE
against the joint runs, each seed's and their mean; and how Adam's moments compare with the squared gradients they stand for.
"""

import statistics

import torch
from _digits import SEEDS, Quality, over_seeds
from _shared import options
from torch.nn.functional import cross_entropy

from previa import Diagonal, Flat, Given, Isotropic, compare, damped, squared_gradients, sweep
from previa.fit.adam_moments import adam_moments
from previa.fit.snapshots import snapshot_posterior
from previa.run.fit import fit
from previa.run.joint import truth
from previa.run.work import opened

KEPT = ("regret_at_1", "regret_noise", "gain_over_uniform", "spearman", "spearman_top25", "mse", "offset")
BETA2 = (0.999, 0.9)
LATE = tuple(k / 20 for k in range(11, 21))  # of a run: the last ten of twenty snapshots


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


def one_seed(study) -> tuple[Quality, dict[str, dict]]:
    """(name of the posterior -> its quality, "moments": what Adam's are beside squared gradients)."""
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
                        snapshot_posterior(
                            [steps[round(share * study.adamw.steps)] for share in LATE], mean=m, floor=floor
                        )
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
        return quality, {"moments": agreement}


def main() -> None:
    """All seeds, then the table of their means."""
    found = over_seeds(options("digits_free_posteriors", __doc__, seeds=SEEDS), one_seed)
    mean, seeds = found.mean, found.seeds
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
