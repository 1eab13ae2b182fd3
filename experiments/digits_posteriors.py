"""Which posterior previews best on the digits? The demo's study for several seeds, and settings that it does not show.

Some two minutes a seed on two cores. Writes digits_posteriors.json: per method regret@1, Spearman and MSE, each seed's and their
mean. A seed changes the pretraining, the finetunings and the joint runs; the split of the data stays.
"""

from dataclasses import replace
from functools import partial

from _digits import SEEDS, Quality, over_seeds
from _shared import options

from previa import Expected, Isotropic, StudentT, compare, modes, sweep
from previa.core.kronecker import Kronecker, kronecker_damping, regmean
from previa.fit.kronecker_factors import input_moments, kronecker_factors
from previa.run.fit import fit
from previa.run.joint import truth
from previa.run.live import live
from previa.run.pipeline import methods, preview
from previa.run.work import opened

KEPT = (
    "regret_at_1",
    "regret_noise",
    "gain_over_uniform",
    "spearman",
    "spearman_top25",
    "iou_top10",
    "mse",
    "offset",
)


def logits(model, batch):
    return model(batch[0])


def kronecker_variants(work, runs):
    """K-FAC and RegMean posteriors at the tasks' AdamW and IVON runs: name -> function from alphas to parameters."""
    found = {}
    for run, points in {
        "AdamW": [task.squares.mode() for task in runs.tasks.values()],
        "IVON": [task.mean for task in runs.tasks.values()],
    }.items():
        factors, moments = [], []
        for task, point in zip(runs.tasks, points, strict=True):
            inputs, targets = work.ingredients.train[task]
            batches = list(zip(inputs.split(64), targets.split(64), strict=True))
            with live(work.ingredients.model, point.layout) as place:
                place(point.vector)
                factors.append(kronecker_factors(work.ingredients.model, batches, Expected(logits)).mean)
                moments.append(input_moments(work.ingredients.model, batches, logits))
        for relative in (0.01, 1.0, 100.0):
            delta = kronecker_damping(factors, relative)
            qs = [Kronecker(point, one, None, delta) for point, one in zip(points, factors, strict=True)]
            found[f"kronecker, {run}, damping {relative:g}"] = partial(modes, posteriors=qs)
        delta = kronecker_damping([{name: (A, None) for name, A in one.items()} for one in moments], 0.001)
        for kept in (0.9, 1.0):
            qs = [
                regmean(point, one, off_diagonal=kept, damping=delta)
                for point, one in zip(points, moments, strict=True)
            ]
            found[f"regmean, {run}, off-diagonal {kept:g}"] = partial(modes, posteriors=qs)
    return found


def one_seed(study, workers: int) -> Quality:
    """name of the method -> its quality."""
    with opened(study) as work:
        runs = fit(work, workers=workers)
        previews = dict(preview(work, runs))
        true = truth(work, workers=workers)
        variants = {}
        for prior in (0.01, 0.1, 1.0, 100.0):
            other = replace(study, adamw=replace(study.adamw, prior=prior))
            damped = fit(replace(work, ingredients=replace(work.ingredients, study=other)), workers=workers)
            variants[f"squared_gradients, prior {prior:g}"] = methods(other, damped)["squared_gradients"]
        adamw = [Isotropic(task.squares.mode()) for task in runs.tasks.values()]
        variants |= kronecker_variants(work, runs)
        variants["simple, AdamW"] = lambda alphas: modes(alphas, adamw)
        for name, change in {
            "mixture, temperature 30": {"temperature": 30.0},
            "mixture, temperature 1000": {"temperature": 1000.0},
            "mixture, per tensor": {"blocks": "module"},
        }.items():
            other = replace(study, mixture=replace(study.mixture, **change))
            variants[name] = methods(other, runs)["mixture"]
        for nu in (1.0, 10_000.0):
            tails = [
                StudentT(q.mode(), q.precision, nu)
                for q in (task.ivon[0][-1] for task in runs.tasks.values())
            ]
            variants[f"student_t, nu {nu:g}"] = lambda alphas, tails=tails: modes(alphas, tails)
        ingredients = work.ingredients
        for name, method in variants.items():
            previews[name] = sweep(
                ingredients.model, method, ingredients.scorer, true.alphas, tasks=study.names()
            )
        found = compare(true, previews, uniform=work.uniform, size_proportional=work.size_proportional)
        quality = {name: {key: getattr(q, key) for key in KEPT} for name, q in found.methods.items()}
        quality["uniform weights"] = {"regret_at_1": found.truth.best_score - found.truth.uniform_score}
        quality["truth"] = {"best": found.truth.best_score, "worst": float(true.mean.min())}
        return quality


def main() -> None:
    """All seeds, then the table of their means."""
    o = options("digits_posteriors", __doc__, seeds=SEEDS)
    workers = 1 if o.scale == "tiny" else o.workers  # its work is done before other processes have started
    mean = over_seeds(o, lambda study: (one_seed(study, workers), {})).mean
    print(f"{'method':32s} regret@1  Spearman  top 25 %      MSE   offset")
    for name, q in sorted(mean.items(), key=lambda pair: pair[1].get("regret_at_1", -1)):
        if "mse" in q:
            print(
                f"{name:32s} {q['regret_at_1']:8.4f}  {q['spearman']:8.3f}  {q['spearman_top25']:8.3f}  {q['mse']:7.5f}  {q['offset']:+.3f}"
            )
    print(
        f"uniform weights: mean regret {mean['uniform weights']['regret_at_1']:.4f}; noise floor {mean['simple']['regret_noise']:.4f}"
    )


if __name__ == "__main__":
    main()
