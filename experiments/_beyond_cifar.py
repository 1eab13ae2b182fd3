"""CIFAR (figure 3) for the study beyond the paper: runs and truth of fig3_cifar.py, anchors trained here."""

from functools import partial

import fig3_cifar as figure
import torch
from _beyond import Costs, Ingredients
from _cifar import JOINT_SEED, TASKS, Bench, joint_run, judge, keep_memory, read_diagonal
from _shared import ROOT, Options, weightings
from _workers import adopt
from torch import Tensor
from torch.nn import Module

from previa import (
    Diagonal,
    Flat,
    Given,
    damped,
    finetune,
    open_checkpoint,
    save_checkpoint,
    squared_gradients,
)
from previa.run.finetune import class_loss
from previa.run.live import live
from previa.study.preview import Preview
from previa.study.simplex import find, uniform
from previa.study.store import Store

LOOKED = 250  # training images of each task whose loss chooses powers
ANCHOR, AGAIN = 10, 20  # taken off the seed of the truth's joint runs
SHOWN = (0.5, 0.25)
REFINED = (
    (0.6, 0.2, 0.2),
    (0.2, 0.6, 0.2),
    (0.2, 0.2, 0.6),
    (0.8, 0.1, 0.1),
    (0.1, 0.8, 0.1),
    (0.1, 0.1, 0.8),
)
PRIOR = 10.0  # of squared gradients, as in figure 3


def ingredients(name: str, o: Options) -> Ingredients:
    """The study at this seed, from the work folder of fig3_cifar.py at this scale and seed."""
    torch.set_num_threads(1)
    keep_memory()
    s, suffix = figure.SCALES[o.scale], f"-seed{o.seed}" if o.seed else ""
    bench = Bench(s, ROOT / "experiments-out" / f"fig3_cifar-{o.scale}{suffix}", o.device, o.seed)
    truth, known = _there(bench, o)
    runs = {
        t: {(k, step): bench.posterior(t, k, step) for k in range(s.seeds) for step in s.steps} for t in TASKS
    }
    last = [own[0, s.steps[-1]] for own in runs.values()]
    paper = figure.of_the_paper(s, runs)
    squares = [_squares(bench, o, task, q) for task, q in zip(TASKS, last, strict=True)]
    precisions, _ = damped([dict(F) for F in squares], PRIOR)
    families = {
        "simple": paper.pop("simple"),
        "ivon_hessian": paper.pop("ivon_hessian"),
    }
    paper["squared_gradients"] = figure.merging(
        [Diagonal(q.mode(), h) for q, h in zip(last, precisions, strict=True)]
    )
    score, recalibrate = judge(bench)
    parts = {t: tuple(part[:LOOKED] for part in bench.parts()[t]) for t in TASKS}
    calibration = len(bench.parts()["calibration"][0])
    whole = 3.0 * s.batch * s.updates
    own = len(TASKS) * whole * s.steps[-1] * s.tune_samples
    mixtures = figure.mixtures(s)
    costs = Costs(
        run=lambda alpha: whole * s.joint_steps * s.joint_samples,
        sources={
            "ivon": own,
            "more ivon": (s.seeds - 1) * own,
            "squares": 3.0 * s.fisher * len(TASKS),
        },
        needs={"simple": ("ivon",), "ivon_hessian": ("ivon",)}
        | {"squared_gradients": ("ivon", "squares")}
        | dict.fromkeys(mixtures, ("ivon", "more ivon")),
        score=len(bench.parts()["test"][0]) + calibration,
        losses=sum(len(y) for _, y in parts.values()) + calibration,
    )  # fmt: skip
    others = {m: method for m, method in paper.items() if m not in known}
    return Ingredients(
        name, o.seed, tuple(TASKS), truth, bench.model(), families, others, score, partial(losses, parts),
        partial(train, bench), costs, o.out, recalibrate=recalibrate, again=_again(bench, o, truth), shown=SHOWN, thorough=False, known=known,
        refined=[a for a in REFINED if find(truth.alphas, a) is not None] or [tuple(uniform(3).tolist())],
    )  # fmt: skip


def losses(parts: dict[str, tuple[Tensor, ...]], model: Module) -> dict[str, Tensor]:
    """Each task's losses on these examples."""
    return {task: class_loss(model, part) for task, part in parts.items()}


def train(bench: Bench, alpha: tuple[float, ...], *, start: Flat | None, share: float) -> Flat:
    """A joint run by figure 3's recipe, of another seed than the truth's; from other parameters with the base's precision."""
    s, base = bench.settings, read_diagonal(bench.out / "base.safetensors")
    begin = base if start is None else Diagonal(Flat.of(start, base.layout), base.precision)
    recipe = bench.recipe(max(1, round(share * s.joint_steps)), s.joint_samples)
    data = {task: bench.parts()[task] for task in TASKS}
    seed = 1000 * bench.seed + JOINT_SEED - ANCHOR
    found = finetune(bench.model(), data, alpha, recipe, seed=seed, start=begin, start_ess=s.ess).params
    return Flat(found.layout, found.vector.cpu())


def _there(bench: Bench, o: Options) -> tuple[Preview, dict[str, Preview]]:
    """The joint runs of figure 3's store, and its previews of other methods. Ends the program where runs are missing."""
    path, command = bench.out / "results.sqlite", f"fig3_cifar.py --scale {o.scale} --seed {o.seed}"
    if not path.exists():
        raise SystemExit(f"cifar needs the runs of {path.parent}: python experiments/{command}")
    store, alphas = Store.read(path), weightings(len(TASKS), bench.settings.grid)
    if missing := len(store.missing("joint", alphas)):
        raise SystemExit(f"cifar: {missing} joint runs are missing in {path}: python experiments/{command}")
    names = [
        m
        for m in (*figure.mixtures(bench.settings), "squared_gradients")
        if not len(store.missing(m, alphas))
    ]
    return store.preview("joint").at(alphas), {m: store.preview(m).at(alphas) for m in names}


def _again(bench: Bench, o: Options, truth: Preview) -> Preview:
    """The truth by joint runs of another seed, from the same base."""
    facts = {"repeat": AGAIN, "scale": o.scale, "seed": o.seed}
    adopt(bench)
    o.out.mkdir(parents=True, exist_ok=True)
    with Store.open(o.out / "again.sqlite", tasks=truth.tasks, convention="mean", fingerprint=facts) as store:
        for row in store.missing("again", truth.alphas):
            scores, _, seconds = joint_run((tuple(truth.alphas[row].tolist()), AGAIN))
            store.record("again", truth.alphas[row], scores, seconds=seconds)
        return store.preview("again").at(truth.alphas)


def _squares(bench: Bench, o: Options, task: str, q: Diagonal) -> Flat:
    """Mean squared gradients with the given labels at the end of a task's first run, recalibrated; kept here."""
    path = o.out / "runs" / f"{task}-squares.safetensors"
    if not path.exists():
        s, model = bench.settings, bench.model()
        x, y = (part[: s.fisher].to(bench.device) for part in bench.parts()[task])
        with live(model, q.mode().layout) as place:
            place(q.mode().vector)
            judge(bench)[1](model)
            batches = list(zip(x.split(50), y.split(50), strict=True))
            h = squared_gradients(model, batches, Given(class_loss)).mean
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, Flat(h.layout, h.vector.cpu()))
    return Flat.of(dict(open_checkpoint(path)), q.mode().layout)
