"""Preview the whole simplex, or train it jointly? CPU seconds of both on the digits, the task finetunings counted.

Run: python benchmarks/simplex.py [--steps 10]

Both sides use the demo's recipe in one process and one thread: the same network, data, steps and test items, at the same weightings.
A preview costs T finetunings once, and one merge and one evaluation a weighting; a joint run costs one finetuning (of up to T
batches a step) and one evaluation a weighting. So the ratio grows with the number of steps of a finetuning: about steps x 3.
"""

import argparse
import statistics
import time

import numpy as np
import torch

import previa
from previa.data import digits


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10, help="spacing 1/steps of the weightings")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = digits.build()
    tasks = {"0-1": digits.zero_one(), "2-4": digits.two_four(), "5-9": digits.five_nine()}
    train = {name: part for name, (part, _) in tasks.items()}
    score = previa.scorer({name: (previa.accuracy, test) for name, (_, test) in tasks.items()})
    recipe = previa.Recipe(optimizer=previa.IvonRecipe(lr=0.1, ess=20_000, betas=(0.9, 0.99)), steps=100)
    snapshots = previa.Recipe(optimizer=recipe.optimizer, steps=100, snapshots=(25, 50, 75, 100))
    alphas = previa.grid(3, args.steps)

    def finetunings(seeds: int) -> list[list[previa.Diagonal]]:
        runs = [
            [previa.finetune(model, train, corner, snapshots, seed=s) for s in range(seeds)]
            for corner in np.eye(3)
        ]
        return [[q for run in task for q in run.snapshots] for task in runs]

    def hessian() -> None:
        posteriors = [task[-1] for task in finetunings(1)]
        previa.sweep(model, posteriors, score, alphas)

    def mixture() -> None:
        posteriors = [previa.Mixture(task) for task in finetunings(5)]
        previa.sweep(model, posteriors, score, alphas)

    def joint() -> None:
        for alpha in alphas:
            found = previa.finetune(model, train, alpha, recipe)
            previa.sweep(
                model,
                lambda _, f=found: previa.Modes(previa.Flat(f.params.layout, f.params.vector[None]), {}),
                score,
                alpha[None],
            )

    ways = {"joint": joint, "hessian": hessian, "mixture": mixture}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            start = time.process_time()
            way()
            seconds[name].append(time.process_time() - start)
    print(f"{len(alphas)} weightings of 3 tasks, 100 steps a finetuning")
    for name, label in {
        "joint": "joint training",
        "hessian": "preview, one run a task",
        "mixture": "preview, mixture of 5 runs a task",
    }.items():
        ratios = [j / s for j, s in zip(seconds["joint"], seconds[name], strict=True)]
        print(
            f"{label:36s} {statistics.median(seconds[name]):7.2f} CPU s   joint/this {statistics.median(ratios):6.1f}x"
        )


if __name__ == "__main__":
    main()
