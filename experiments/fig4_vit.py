"""Figure 4: an image encoder finetuned on three tasks with frozen heads, by AdamW, merged by ADAMW-SG (paper, sec. 4.2, B.4).

Small scale: a small ViT pretrained here on CIFAR-10; RESISC12, GTSRB, EuroSAT. Paper: CLIP ViT-B/32 with zero-shot heads, six tasks.
Previews: simple averaging, squared gradients with several priors, and two that are not in the paper; the truth is joint finetuning.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, replace

import torch
from _shared import COLUMNS, ROLES, Options, finish, open_store, options, weightings
from _vit import (
    Bench,
    Settings,
    finetune_task,
    fit_heads,
    joint_run,
    pretrain,
    scorer,
)
from _workers import in_workers
from torch import Tensor

from previa import Diagonal, Isotropic, Modes, damped, modes, open_checkpoint, sweep
from previa.core.kronecker import kronecker_damping, regmean

PAPER = Settings("openai/clip-vit-base-patch32", 0, 0, 500, 1e-5, 100_000, 100_000, 20, batch=128, epochs=15)
SCALES = {
    "tiny": Settings("vit", 3, 3, 1, 1e-3, 30, 10, 2, batch=8, width=32, layers=1, synthetic=True),
    "small": Settings("vit", 1000, 120, 12, 3e-4, 900, 600, 5),
    "paper": PAPER,
}
SMALL = {"fig4_resisc12_gtsrb_eurosat": ("RESISC12", "GTSRB", "EuroSAT")}
STUDIES = {
    "tiny": SMALL,
    "small": SMALL,
    "paper": {
        "fig4_resisc45_gtsrb_svhn": ("RESISC45", "GTSRB", "SVHN"),
        "fig4_eurosat_cars_sun397": ("EuroSAT", "Cars", "SUN397"),
    },
}
EPOCHS = {"fig4_eurosat_cars_sun397": 35.0}  # of the paper's second set of tasks
PRIORS = (10.0, 1.0, 0.1, 0.01)  # of squared gradients, relative to each tensor's own scale
CHOSEN = 0.1  # as in figures 5 and 6
Method = Callable[[Tensor], Modes]


def main() -> None:
    """All of it; what is done already is not done again."""
    started, o = time.perf_counter(), options("fig4_vit", __doc__)
    torch.set_num_threads(1)  # a process a core
    for name, tasks in STUDIES[o.scale].items():
        s = SCALES[o.scale]
        s = replace(s, epochs=EPOCHS[name]) if name in EPOCHS and s.epochs else s
        study = replace(o, name=name, out=o.out / name.removeprefix("fig4_"))
        run(study, Bench(s, tasks, o.out, study.out, o.device, o.seed), started)
        started = time.perf_counter()


def run(o: Options, bench: Bench, started: float) -> None:
    """One study of three tasks."""
    s, tasks = bench.settings, bench.tasks
    sizes = {task: len(train[1]) for task, (train, _) in bench.pictures().items()}
    settings = {**asdict(s), "steps": bench.steps, "sizes": sizes}
    store = open_store(o, tasks, settings)
    if s.model == "vit" and not (bench.root / "base.safetensors").exists():
        accuracy, seconds = pretrain(bench)
        store.put("CIFAR-10", accuracy)
        store.add_seconds("pretrain", seconds)
    if not (bench.out / "heads.safetensors").exists():
        fit_heads(bench)
    jobs = [t for t in tasks if not bench.file(t).exists()]
    for _, seconds in in_workers("finetune", finetune_task, jobs, bench, o.workers):
        for name, each in zip(("finetune/adamw", "squared_gradients", "regmean"), seconds, strict=True):
            store.add_seconds(name, each)
    alphas = weightings(len(tasks), s.grid)
    missing = sorted((tuple(alphas[i].tolist()) for i in store.missing("joint", alphas)), key=coarse)
    for alpha, (scores, seconds) in in_workers("joint", joint_run, missing, bench, o.workers):
        store.record("joint", alpha, scores, seconds=seconds)
    for name, method in methods(bench).items():
        sweep(bench.model(), method, scorer(bench), alphas, store=store, name=name, workers=o.workers)
        print(f"{name}: {len(alphas)} previews", flush=True)
    model = bench.model().eval()
    with torch.no_grad():
        base = {task: float(values.mean()) for task, values in scorer(bench)(model).items()}
    title = ("ViT, " if s.model == "vit" else "CLIP ViT-B/32, ") + ", ".join(tasks)
    finish(
        o, store, started=started, title=title, columns=COLUMNS, settings=settings, roles=ROLES,
        extra={
            "base": base,
            "pretrained": {"CIFAR-10": store.get("CIFAR-10")},
            "prior_share": {f"{prior:g}": damped(squares(bench), prior)[1] for prior in PRIORS},
            "parameters": sum(p.numel() for p in model.parameters()),
        },
    )  # fmt: skip


def squares(bench: Bench) -> list[dict[str, Tensor]]:
    """Each task's mean squared gradients at the end of its own run."""
    return [dict(open_checkpoint(bench.file(task, "squares"))) for task in bench.tasks]


def methods(bench: Bench) -> dict[str, Method]:
    """name -> function from alphas to parameters, of the tasks' own runs."""
    means = [dict(open_checkpoint(bench.file(task))) for task in bench.tasks]

    def merging(posteriors: list) -> Method:
        return lambda alphas: modes(alphas, posteriors)

    def warped(method: Method, p: float = 0.5) -> Method:
        return lambda alphas: method(alphas**p / (alphas**p).sum(-1, keepdim=True))

    found = {"simple": merging([Isotropic(mean) for mean in means])}
    for prior in PRIORS:
        precisions, _ = damped(squares(bench), prior)
        name = "squared_gradients" + ("" if prior == CHOSEN else f"_prior_{prior:g}")
        found[name] = merging([Diagonal(m, h) for m, h in zip(means, precisions, strict=True)])
    inputs = [dict(open_checkpoint(bench.file(task, "inputs"))) for task in bench.tasks]
    prior = kronecker_damping([{name: (A, None) for name, A in one.items()} for one in inputs], 1e-3)
    found["regmean"] = merging([regmean(m, A, damping=prior) for m, A in zip(means, inputs, strict=True)])
    found["simple_warped"] = warped(found["simple"])
    return found


def coarse(alpha: tuple[float, ...]) -> tuple[int, ...]:
    """The inside before the edges: a run that is cut off has seen the triangle."""
    return (alpha.count(0.0) % 2, *(round(100 * a) for a in alpha))


if __name__ == "__main__":
    main()
