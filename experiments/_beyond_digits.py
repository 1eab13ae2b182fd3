"""The digits for the study beyond the paper: the demo's own, by its own commands' functions."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from _beyond import Costs, Ingredients
from _digits import study_of
from _shared import Options
from torch import Tensor
from torch.nn import Module

from previa import Diagonal, Flat
from previa.run.finetune import class_loss
from previa.run.fit import fit
from previa.run.jobs import Bench, bench_of
from previa.run.joint import truth
from previa.run.live import live
from previa.run.pipeline import methods
from previa.run.scoring import scored
from previa.run.work import Work, joint_recipe, opened
from previa.study.preview import Preview
from previa.study.store import Store

FAMILIES = ("simple", "ivon_hessian", "squared_gradients")
LOOKED = 100  # training images of each task whose loss chooses powers
ANCHOR, AGAIN = 50, (51, 52)  # numbers of joint runs that are not the truth's


def ingredients(name: str, o: Options) -> Ingredients:
    """The study at this seed; its runs and its truth are trained where they are missing."""
    torch.set_num_threads(1)  # pretraining amplifies rounding: numbers would depend on the number of cores
    study = study_of(o.scale)
    snapshots = 2 if o.scale == "tiny" else 6
    whole = study.finetune.steps
    steps = tuple(round(whole * (i + 1) / snapshots) for i in range(snapshots))
    subsets = () if o.scale == "tiny" else ((steps[2], steps[5]), steps[2:])
    mixture = replace(study.mixture, snapshots=snapshots, subsets=subsets)
    study = replace(study, seed=o.seed, out=o.out / "study", mixture=mixture)
    with opened(study) as work:
        runs, true = fit(work), truth(work)
        found = methods(study, runs)
        assert true is not None
        again = [repeated(work, true, number) for number in AGAIN[: 1 if o.scale == "tiny" else None]]
    ing, bench, recipe = work.ingredients, bench_of(work.ingredients), joint_recipe(study)
    others = {m: method for m, method in found.items() if m not in FAMILIES and m != "regmean"}
    K = study.mixture.seeds * snapshots
    others[f"mixture_{K}"] = others.pop("mixture")

    def train(alpha: tuple[float, ...], *, start: Flat | None, share: float) -> Flat:
        own = bench if start is None else starting_at(bench, start)
        short = replace(recipe, steps=max(1, round(share * recipe.steps)))
        return own.train(ing.train, alpha, short, ANCHOR).params

    parts = {task: (x[:LOOKED], y[:LOOKED]) for task, (x, y) in ing.train.items()}
    T, step = len(parts), 3 * study.finetune.batch_size * study.finetune.mc_samples
    own, images = T * step * whole, sum(ing.sizes.values())
    costs = Costs(
        run=lambda alpha: step * whole * sum(a > 0 for a in alpha),  # a batch of every task that counts
        sources={
            "ivon": own,
            "more ivon": (study.mixture.seeds - 1) * own,
            "adamw": T * 3 * study.finetune.batch_size * study.adamw.steps + 3 * images,
        },
        needs={"simple": ("ivon",), "task_arithmetic": ("ivon",), "ivon_hessian": ("ivon",), "squared_gradients": ("adamw",)}
        | {m: ("ivon", "more ivon") for m in others if m.startswith("mixture")},
        score=sum(len(test[1]) for _, test in ing.data.values()),
        losses=sum(len(y) for _, y in parts.values()),
    )  # fmt: skip
    return Ingredients(
        "digits", o.seed, study.names(), true, ing.model, {f: found[f] for f in FAMILIES}, others, ing.scorer,
        partial(losses_on, parts), train, costs, o.out, again=again[0], choice=FAMILIES[:2],
        expected=Preview(true.tasks, true.alphas, np.mean([one.scores for one in (true, *again)], axis=0)),
    )  # fmt: skip


def starting_at(bench: Bench, begin: Flat) -> Bench:
    """The bench with other parameters to start from; the pretrained posterior keeps its precision."""
    assert bench.posterior is not None
    return replace(bench, base=begin, posterior=Diagonal(begin, bench.posterior.precision))


def losses_on(parts: dict[str, tuple[Tensor, Tensor]], model: Module) -> dict[str, Tensor]:
    """Each task's losses on these examples."""
    return {task: class_loss(model, part) for task, part in parts.items()}


def repeated(work: Work, true: Preview, number: int) -> Preview:
    """The truth by joint runs of another seed."""
    ing, bench, recipe = work.ingredients, bench_of(work.ingredients), joint_recipe(work.study)
    facts = {"number": number, "base": bench.digest}
    path = work.study.out / ("again.sqlite" if number == AGAIN[0] else f"again-{number}.sqlite")
    with Store.open(path, tasks=true.tasks, convention="mean", fingerprint=facts) as store:
        for row in store.missing("again", true.alphas):
            found = bench.train(ing.train, true.alphas[row], recipe, number)
            with live(ing.model, found.params.layout) as place:
                place(found.params.vector)
                scores = scored(ing.model, ing.scorer, true.tasks)
            store.record("again", true.alphas[row], scores, seconds=found.seconds)
        return store.preview("again").at(true.alphas)
