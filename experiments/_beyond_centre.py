"""One look from the centre for the study beyond the paper: its previews on digits, both MNIST and CIFAR, and what they cost.

    python experiments/_beyond_centre.py digits --seeds 3    these studies, from the runs of beyond.py; a table and beyond_centre.json

Curvature: the full Hessian (MNIST), Kronecker blocks, low rank, and the diagonal, which is known to be bad. Beside them what the same
cost buys otherwise: a joint run at equal weights that goes on from the preview for so many steps, as the one anchor.
"""

import importlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _beyond import Ingredients, judged
from _results import write_json
from _shared import ROOT, Options, options
from beyond import STUDIES
from torch import Generator, Tensor
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm

from previa import Diagonal, Flat, Full, Run, Sampled, anchored, damped, squared_gradients, sweep, warped
from previa.core.blend import blended
from previa.core.expansion import Expansion
from previa.core.kronecker import Kronecker, kronecker_damping
from previa.core.low_rank_gaussian import LowRankGaussian
from previa.core.warp import Method
from previa.fit.centre import Centre, Look, from_centre
from previa.fit.gradients import gradients_by_example, mean_gradient
from previa.fit.kronecker_factors import kronecker_factors
from previa.run.finetune import class_loss
from previa.run.live import live
from previa.run.powers import choose_power
from previa.study.simplex import probes, uniform

RELATIVE = 1e-3  # damping that makes Kronecker blocks definite, of each layer's own scale; what is trusted comes on top
FLOOR = 1e-6  # the same of low-rank curvature
POWERS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18)
Batches = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Looking:
    """How a study's centres are looked at."""

    looks: Mapping[str, Look]
    """kind of curvature -> what expands every task's loss"""
    cost: Mapping[str, float]
    """of one look, in forward passes of an example"""
    alphas: np.ndarray
    """where joint losses are measured, [A, T]"""
    powers: Sequence[float] = POWERS
    family: str = "simple"
    """whose preview of equal weights is the first centre, and whose corners are kept"""
    variants: Sequence[tuple[str, int]] = ()
    """(kind, re-centrings)"""
    ways: Sequence[str] = ("blend",)
    """how the centre's previews are brought to the tasks' own at corners: "blend", or "anchors" through those of `middles`"""
    rival: bool = True
    """whether a short joint run of the same cost is trained, too; on CIFAR beyond.py trains some"""


def middles(T: int) -> list[tuple[float, ...]]:
    """The middles of every two tasks and the centroid: where the centre's own previews serve as anchors."""
    eye = np.eye(T)
    rows = [(eye[s] + eye[t]) / 2 for s in range(T) for t in range(s)]
    return [tuple(row.tolist()) for row in (*rows, uniform(T))]


def centre_of(i: Ingredients, looking: Looking, kind: str, recentrings: int) -> tuple[Centre, float]:
    """What is seen from the centre, and its cost in forward passes."""
    base = i.families[looking.family]
    found = from_centre(
        base, looking.looks[kind], partial(measured, i), looking.alphas.tolist(), recentrings=recentrings
    )
    return found, found.looks * looking.cost[kind] + found.evaluations * i.costs.losses


def centre_method(
    i: Ingredients, looking: Looking, found: Centre, cost: float, way: str
) -> tuple[Method, float, float]:
    """(preview method, cost in forward passes, p): the centre blended with the tasks' own, or as anchors between them.

    p: the power of least joint loss of merged models, whose measuring is in the cost.
    """
    base = i.families[looking.family]
    make: Callable[[float], Method] = partial(between, base, found.preview)
    if way == "anchors":
        at = torch.tensor(middles(len(i.tasks)), dtype=torch.float64)
        theta = found.preview(at).params
        make = partial(through, base, [Run(tuple(a), theta.row(r)) for r, a in enumerate(at.tolist())])
    chosen = choose_power(
        i.model, {way: make}, i.losses, looking.alphas,
        tasks=i.tasks, powers=looking.powers, recalibrate=i.recalibrate,
    )  # fmt: skip
    return make(chosen.p), cost + chosen.evaluations * i.costs.losses, chosen.p


def between(base: Method, middle: Method, p: float) -> Method:
    """``blended`` with p last, as choose_power wants it."""
    return blended(base, middle, p=p)


def through(base: Method, anchors: Sequence[Run], p: float) -> Method:
    """``anchored`` with p last."""
    return anchored(base, anchors, p=p)


def measured(i: Ingredients, theta: Flat) -> Tensor:
    """Every task's mean training loss [T] at these parameters."""
    with live(i.model, theta.layout) as place:
        place(theta.vector)
        if i.recalibrate is not None:
            i.recalibrate(i.model)
        found = i.losses(i.model)
        return torch.tensor([float(torch.as_tensor(found[task]).double().mean()) for task in i.tasks])


def digits(i: Ingredients) -> Looking:
    """All training images: with 100 of each task previews ranked weightings no better than by chance."""
    from previa.data.digits import five_nine, two_four, zero_one

    data = [cut(*task()[0], 64) for task in (zero_one, two_four, five_nine)]
    N = sum(len(y) for task in data for _, y in task)
    looks = {kind: partial(look, i, data, kind) for kind in ("kronecker", "low rank", "diagonal")}
    variants = [("low rank", 2), ("kronecker", 2), ("diagonal", 2)]
    return Looking(looks, dict.fromkeys(looks, 6.0 * N), probes(3)[:6], variants=variants)


def cifar(i: Ingredients) -> Looking:
    """500 images of each task; losses are measured at three weightings, since each means to recalibrate BatchNorm."""
    import fig3_cifar as figure
    from _cifar import TASKS, Bench

    suffix = f"-seed{i.seed}" if i.seed else ""
    s = figure.SCALES["small"]
    bench = Bench(s, ROOT / "experiments-out" / f"fig3_cifar-small{suffix}", "cpu", i.seed)
    data = [cut(*(part[: s.fisher] for part in bench.parts()[t]), 100) for t in TASKS]
    looks = {kind: partial(look, i, data, kind) for kind in ("kronecker", "diagonal")}
    cost = 6.0 * len(TASKS) * s.fisher
    return Looking(
        looks, dict.fromkeys(looks, cost), probes(3)[3:6],
        powers=(1.0, 0.5, 0.25), variants=[("kronecker", 1)], rival=False,
    )  # fmt: skip


def mnist(i: Ingredients, name: str) -> Looking:
    """The full Hessian, its Kronecker approximation A = mean x x', B = mean (diag p - p p'), and its diagonal."""
    import fig8_fig9_mnist as figures
    from _beyond_mnist import STUDIES as FIGURES

    s = figures.SCALES["small"]
    b, _, _ = figures.bench(
        Options(name, "small", "cpu", i.seed, Path(), Path(), 1), s, figures.STUDIES[FIGURES[name]]
    )
    N, D, C = len(b.train.X), b.train.X.shape[1], b.train.classes

    def full(kind: str, c: Flat) -> list[Expansion]:
        seen = []
        for task, at in zip(b.tasks, b.losses, strict=True):
            _, g, H = (part[0] / s.ess for part in at(c.vector.double()[None]))
            curvature: Full | Diagonal | Kronecker = Full(c, H)
            if kind == "diagonal":
                curvature = Diagonal(c, b.params(H.diagonal()))
            if kind == "kronecker":
                p = torch.softmax(task.X @ c.vector.view(C, D).mT, -1)
                factors = task.X.mT @ task.X / len(p), (torch.diag(p.mean(0)) - p.mT @ p / len(p))
                curvature = Kronecker(c, {"weight": factors}, None, {"weight": s.prior})
            seen.append(Expansion(curvature, b.params(g)))
        return seen

    hessian = 3 + (C + 1) / 2 * D
    cost = {"full": hessian * N, "kronecker": (3 + D / C) * N, "diagonal": 4.0 * N}
    variants = [("full", 1), ("kronecker", 2), ("diagonal", 1)]
    ways = ("blend",)
    return Looking(
        {kind: partial(full, kind) for kind in cost}, cost, probes(3)[:6], variants=variants, ways=ways
    )


def cut(x: Tensor, y: Tensor, size: int) -> Batches:
    """Batches of so many examples."""
    return list(zip(x.split(size), y.split(size), strict=True))


def look(i: Ingredients, data: Sequence[Batches], kind: str, c: Flat) -> list[Expansion]:
    """Every task's gradient and curvature at c, with running statistics brought up to date; labels drawn from the model."""
    found, rest = [], []
    with live(i.model, c.layout) as place:
        place(c.vector)
        if i.recalibrate is not None:
            i.recalibrate(i.model)
        gradients = through_statistics(i.model, data, c) if i.recalibrate is not None else []
        for t, batches in enumerate(data):
            labels = Sampled(logits, Generator().manual_seed(t))
            if i.recalibrate is None:
                gradients.append(named(mean_gradient(i.model, batches, class_loss).mean, c))
            if kind == "low rank":
                found.append(gradients_by_example(i.model, batches, labels).double())
            elif kind == "kronecker":
                factors = kronecker_factors(i.model, batches, labels)
                found.append(factors.mean)
                rest.append(squared_gradients(i.model, batches, labels).mean if factors.rest else None)
            else:
                found.append(squared_gradients(i.model, batches, labels).mean)
    wide = Flat(c.layout, c.vector.double())
    if kind == "low rank":
        delta = FLOOR * float(np.mean([float(U.square().sum()) for U in found])) / len(c.vector)
        curvature = [LowRankGaussian(wide, U, delta) for U in found]
    elif kind == "kronecker":
        delta = kronecker_damping(found, RELATIVE)
        hs = damped(rest, RELATIVE)[0] if rest[0] is not None else [None] * len(found)
        curvature = [Kronecker(wide, one, h, delta) for one, h in zip(found, hs, strict=True)]
    else:
        curvature = [Diagonal(wide, Flat(h.layout, h.vector.double())) for h in damped(found, RELATIVE)[0]]
    return [Expansion(q, g) for q, g in zip(curvature, gradients, strict=True)]


def through_statistics(model: Module, data: Sequence[Batches], c: Flat) -> list[Flat]:
    """Every task's gradient where BatchNorm takes its statistics from batches of all tasks side by side.

    At fixed statistics gradients promise three times what the measured loss, with statistics brought up to date, then keeps.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    params = [model.get_parameter(name) for name in c.layout.places]
    kept = [(norm, {name: b.clone() for name, b in norm.named_buffers()}) for norm in norms]
    total = [c.vector.new_zeros(len(c.vector), dtype=torch.float64) for _ in data]
    rounds = list(zip(*data, strict=True))
    for norm in norms:
        norm.train()
    with torch.enable_grad():
        for batches in rounds:
            losses = class_loss(
                model, (torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))
            )
            parts = [part.mean() for part in losses.split([len(y) for _, y in batches])]
            for t, part in enumerate(parts):
                grads = torch.autograd.grad(part, params, retain_graph=t + 1 < len(parts))
                total[t] += torch.cat([g.flatten() for g in grads]) / len(rounds)
    for norm, buffers in kept:
        norm.load_state_dict(buffers, strict=False)
        norm.eval()
    return [Flat(c.layout, g) for g in total]


def named(g: Flat, c: Flat) -> Flat:
    """The gradient in the order of the centre's tensors."""
    return Flat.of(dict(g), c.layout)


def logits(model: Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Of all classes."""
    return model(batch[0])


def table(i: Ingredients, looking: Looking, say: Callable[[dict], None]) -> None:
    """A row for every variant, and what the cost of the dearest buys otherwise; methods without a look are in beyond.py's table."""
    unit, even = i.costs.run(uniform(len(i.tasks))), tuple(uniform(len(i.tasks)).tolist())
    base = i.families[looking.family]

    def add(name: str, method: Method, cost: float, **more: object) -> None:
        score = sweep(
            i.model, method, i.score, np.array(i.truth.alphas), tasks=i.tasks, recalibrate=i.recalibrate
        )
        q = judged(i.truth, score)
        say({"study": i.study, "seed": i.seed, "method": name, "mse": q["mse"], "spearman": q["spearman"],
             "regret": q["regret_at_1"], "top25": q["spearman_top25"], "joint_runs": cost / unit, **more})  # fmt: skip

    spent: dict[float, str] = {}
    for kind, recentrings in looking.variants:
        found, cost = centre_of(i, looking, kind, recentrings)
        facts = {
            "damping": found.damping,
            "path": found.losses,
            "reason": found.reason,
            "passes": found.passes,
        }
        if recentrings < 2:
            add(f"centre, {kind}, {recentrings} re-centrings, as it is", found.preview, cost, **facts)
        if math.isinf(found.damping):
            say(
                {
                    "study": i.study,
                    "seed": i.seed,
                    "method": f"centre, {kind}, {recentrings}: refused",
                    **facts,
                }
            )
            continue
        for way in looking.ways:
            method, whole, p = centre_method(i, looking, found, cost, way)
            add(f"centre, {kind}, {recentrings} re-centrings, {way}", method, whole, p=p, **facts)
        spent[cost] = f"{kind}, {recentrings}"
    for cost in sorted(spent)[-1:] if looking.rival else ():
        theta = i.train(even, start=warped(base, 0.5)(torch.tensor([even])).params.row(0), share=cost / unit)
        make = partial(through, base, [Run(even, theta)])
        chosen = choose_power(
            i.model, {"it": make}, i.losses, looking.alphas,
            tasks=i.tasks, powers=looking.powers, recalibrate=i.recalibrate,
        )  # fmt: skip
        whole = cost + chosen.evaluations * i.costs.losses
        add(f"one short joint run at the cost of centre, {spent[cost]}", make(chosen.p), whole, p=chosen.p)


LOOKING = {"digits": digits, "cifar": cifar} | {
    name: partial(mnist, name=name) for name in ("mnist_imbalanced", "mnist_balanced")
}


def main() -> None:
    """The studies that are asked for, seed by seed; each row is printed when it is there."""
    asked = [word for word in sys.argv[1:] if word in LOOKING]
    rest = [word for word in sys.argv[1:] if word not in LOOKING]
    o = options("beyond", __doc__, rest, seeds={"tiny": 1, "small": 3, "paper": 3})
    for name in asked or LOOKING:
        for seed in range(o.seed, o.seed + o.seeds):
            own = replace(o, seed=seed, out=o.out / name / str(seed))
            i, began = importlib.import_module(STUDIES[name]).ingredients(name, own), time.perf_counter()
            kept: list[dict] = []

            def say(row: dict, kept: list[dict] = kept, own: Options = own) -> None:
                kept.append(row)
                numbers = "  ".join(f"{k} {v:.4g}" for k, v in row.items() if isinstance(v, float))
                print(f"{row['study']} {row['seed']}  {row['method']:58s} {numbers}", flush=True)
                write_json(own.out / "centre.json", kept)

            table(i, LOOKING[name](i), say)
            print(f"{name}, seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
    found = [row for path in sorted(o.out.glob("*/*/centre.json")) for row in json.loads(path.read_text())]
    write_json(
        o.docs / "beyond_centre.json", {"command": "python experiments/_beyond_centre.py", "rows": found}
    )


if __name__ == "__main__":
    main()
