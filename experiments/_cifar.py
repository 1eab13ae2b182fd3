"""Training and scoring of figure 3, for worker processes: CIFAR-10's images, IVON's runs, joint runs, squared gradients."""

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _shared import data, images
from _workers import here
from resnet20 import build
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import avg_pool2d

from previa import (
    Diagonal,
    Expected,
    Flat,
    Given,
    IvonRecipe,
    Provenance,
    Recipe,
    Sampled,
    finetune,
    load_posterior,
    open_checkpoint,
    save_checkpoint,
    save_posterior,
    squared_gradients,
)  # fmt: skip
from previa.fit.kronecker_factors import kronecker_factors
from previa.run.draws import generator
from previa.run.evaluate import Evaluation
from previa.run.finetune import Finetuned, class_loss
from previa.run.live import live, recalibrated

TASKS = {"vehicles": (0, 1, 8, 9), "cat-dog": (3, 5), "animals": (4, 5, 6, 7)}  # no bird; dog is in two
JOINT_SEED = 999  # unlike any task run's: with one of theirs the truth would share its noise, and flatter that run's merges
CLASSES = tuple(sorted({c for classes in TASKS.values() for c in classes}))


@dataclass(frozen=True)
class Settings:
    """Sizes and hyper-parameters of one scale; a step is ``updates`` updates of ``batch`` examples each."""

    pixels: int
    width: int
    blocks: int
    pretraining: int  # images, the first ones; the others are the tasks'
    training: int  # images that the tasks share among them
    test: int  # images of each class
    calibration: int  # images of each class that BatchNorm's statistics are taken on
    epochs: int
    samples: int
    steps: tuple[int, ...]  # after which a model is kept
    joint_steps: int
    updates: int
    seeds: int
    grid: int
    fisher: int  # examples of each task for squared gradients
    iterations: int  # of EM, at most
    batch: int = 50
    lr: float = 0.1
    beta2: float = 0.9999
    delta: float = 1e-3
    ess: float = 50_000
    hess_init: float = 0.1
    tune_lr: float = 0.01
    tune_beta2: float = 0.9999
    tune_ess: float = 50_000
    tune_samples: int = 5  # of the tasks' runs, whose precisions are used
    joint_samples: int = 5  # of joint runs, of which only the mean is
    tiny: bool = False  # the test images stand in for the training images, which take long to read


@dataclass(frozen=True)
class Bench:
    """What a process needs to train and to score: it goes to each worker as it is, and data are read from ``out``."""

    settings: Settings
    out: Path
    device: str
    seed: int

    def model(self) -> Module:
        """The network at its first parameters, with the pretrained running statistics once there are any."""
        model = build(self.seed, self.settings.width, self.settings.blocks)
        if (file := self.out / "base-statistics.safetensors").exists():
            model.load_state_dict(dict(open_checkpoint(file)), strict=False)
        return model.to(self.device)

    def recipe(self, steps: int, samples: int, snapshots: tuple[int, ...] = ()) -> Recipe:
        """Finetuning: no weight decay, a smaller learning rate; alpha_t is task t's share of the examples (mean losses)."""
        s, kept = self.settings, tuple(step * self.settings.updates for step in snapshots)
        ivon = IvonRecipe(
            lr=s.tune_lr, ess=s.tune_ess, hess_init=s.hess_init, betas=(0.9, s.tune_beta2), samples=samples
        )
        steps *= s.updates
        return Recipe(optimizer=ivon, steps=steps, batch_size=s.batch, sampling="sample", snapshots=kept)

    def file(self, task: str, seed: int, step: int) -> Path:
        """Where IVON's posterior of one run after one step is."""
        return self.out / "runs" / f"{task}-seed{seed}-step{step}.safetensors"

    def squares(self, task: str, mode: str) -> Path:
        """Where a task's squared gradients are; mode: whose labels."""
        return self.out / "runs" / f"{task}-squares-{mode}.safetensors"

    def posterior(self, task: str, seed: int, step: int) -> Diagonal:
        """IVON's posterior of one run after one step."""
        return read_diagonal(self.file(task, seed, step))

    def parts(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The images, see `read_images`."""
        return read_images(self.settings, self.out)


@cache
def read_images(settings: Settings, out: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """pretraining, test, calibration and each task's training images: (pixels [N, 3, S, S] normalised, classes [N])."""
    packed = out / "images.npz"
    if not packed.exists():
        out.mkdir(parents=True, exist_ok=True)
        found = {}
        for part in ("train", "test"):
            if settings.tiny and part == "test":
                found |= {name.replace("train", "test"): values for name, values in found.items()}
                continue
            file = "cifar10_jpeg_test.npz" if settings.tiny else f"cifar10_jpeg_{part}.npz"
            pixels, found[f"{part}_classes"] = images(data("cifar10", file))
            small = avg_pool2d(torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), 32 // settings.pixels)
            found[f"{part}_pixels"] = small.round().byte().numpy()
        np.savez(packed, **found)
    with np.load(packed) as file:
        held = {name: torch.from_numpy(file[name]) for name in file.files}
    s, y, test_y = settings, held["train_classes"], held["test_classes"]
    pool = torch.arange(s.pretraining, s.pretraining + s.training)
    rows = {
        "pretraining": torch.arange(s.pretraining),
        "calibration": pool[per_class(y[pool], s.calibration)],
    }
    rows |= {t: pool[torch.isin(y[pool], torch.tensor(classes))] for t, classes in TASKS.items()}
    parts = {name: (held["train_pixels"][row], y[row]) for name, row in rows.items()}
    test = per_class(test_y, s.test)
    parts["test"] = held["test_pixels"][test], test_y[test]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)))
    return {name: ((x.float() / 255 - mean) / std, c) for name, (x, c) in parts.items()}


def per_class(classes: Tensor, count: int) -> Tensor:
    """Rows of the first ``count`` of each class of the tasks, shuffled."""
    rows = torch.cat([torch.nonzero(classes == c)[:count, 0] for c in CLASSES])
    return rows[torch.randperm(len(rows), generator=generator(0, "per class"))]


def score_tasks(images: Tensor, classes: Tensor, model: Module) -> dict[str, Tensor]:
    """Each task's 1 or 0 for each test image of its classes: is the largest of the ten logits its class?"""
    device = next(model.parameters()).device
    right = torch.cat([model(part.to(device)).argmax(1).cpu() for part in images.split(250)]) == classes
    return {task: right[torch.isin(classes, torch.tensor(own))].float() for task, own in TASKS.items()}


def judge(bench: Bench) -> tuple[Callable[[Module], dict[str, Tensor]], Callable[[Module], None]]:
    """The scorer, and what brings BatchNorm's statistics up to date: one fixed balanced set for merged and joint models."""
    batches = [x.to(bench.device) for x in bench.parts()["calibration"][0].split(180)]
    return partial(score_tasks, *bench.parts()["test"]), recalibrated(batches)


def pretrain(bench: Bench, threads: int, progress: Callable[[str, int, int], None]) -> float:
    """IVON from random parameters on the first images, all ten classes: posterior and running statistics; its seconds."""
    s, before = bench.settings, torch.get_num_threads()
    steps = max(1, s.epochs * s.pretraining // s.batch)
    ivon = IvonRecipe(
        lr=s.lr,
        ess=s.ess,
        hess_init=s.hess_init,
        betas=(0.9, s.beta2),
        weight_decay=s.delta,
        samples=s.samples,
    )
    recipe = Recipe(optimizer=ivon, steps=steps, batch_size=s.batch)
    torch.set_num_threads(threads)
    try:
        every = {"all": bench.parts()["pretraining"]}
        found = finetune(bench.model(), every, (1.0,), recipe, seed=bench.seed, progress=progress)
    finally:
        torch.set_num_threads(before)
    assert found.posterior is not None
    statistics = {name: values.cpu() for name, values in found.statistics.items()}
    save_checkpoint(bench.out / "base-statistics.safetensors", statistics)
    save_ivon(
        bench.out / "base.safetensors", found.posterior, s.pretraining, s.ess, s.beta2, s.delta, steps, s
    )
    return found.seconds


def save_ivon(
    path: Path, q: Diagonal, examples: int, ess: float, beta2: float, delta: float, steps: int, s: Settings
) -> None:
    """A posterior file with what made it."""
    facts = Provenance(
        family="diagonal", source="ivon", reduction="mean", examples=examples, ess=ess, beta2=beta2, delta=delta, steps=steps,
        hess_init=s.hess_init, batch_size=s.batch,
    )  # fmt: skip
    save_posterior(
        path, Diagonal(*(Flat(q.layout, part.vector.cpu()) for part in (q.mean, q.precision))), facts
    )


def read_diagonal(path: Path) -> Diagonal:
    """A diagonal posterior from its file."""
    posterior, _ = load_posterior(path)
    assert isinstance(posterior, Diagonal)
    return posterior


def train(bench: Bench, alpha: tuple[float, ...], recipe: Recipe, seed: int) -> Finetuned:
    """One finetuning of the tasks at alpha from the pretrained posterior, m and h."""
    parts, base = bench.parts(), read_diagonal(bench.out / "base.safetensors")
    tasks = {task: parts[task] for task in TASKS}
    return finetune(bench.model(), tasks, alpha, recipe, seed=seed, start=base, start_ess=bench.settings.ess)


def finetune_task(item: tuple[str, int]) -> tuple[float, float]:
    """In a worker: one task's run by one seed, a posterior file after each of the kept steps; seconds, memory."""
    (task, seed), bench = item, here()
    s, alpha = bench.settings, tuple(float(task == t) for t in TASKS)
    recipe = bench.recipe(s.steps[-1], s.tune_samples, s.steps)
    found = train(bench, alpha, recipe, 1000 * bench.seed + seed)
    N = len(bench.parts()[task][0])
    for step, q in zip(s.steps, found.snapshots, strict=True):
        save_ivon(bench.file(task, seed, step), q, N, s.tune_ess, s.tune_beta2, 0.0, step * s.updates, s)
    return found.seconds, float(found.memory or 0)


def joint_run(item: tuple[tuple[float, ...], int]) -> tuple[dict[str, Any], dict[str, Any], float]:
    """In a worker: a joint run's scores with recalibrated statistics, as merged models have; with its own; seconds.

    item: alpha and which repetition it is, 0 for the truth's own.
    """
    alpha, repeat = item
    bench, s = here(), here().settings
    found = train(
        bench, alpha, bench.recipe(s.joint_steps, s.joint_samples), 1000 * bench.seed + JOINT_SEED - repeat
    )
    model, (score, recalibrate) = bench.model(), judge(bench)
    model.load_state_dict(dict(found.statistics), strict=False)
    results = []
    with live(model, found.params.layout) as place:
        for way in (None, recalibrate):
            scores, failure, seconds = Evaluation(model, score, tuple(TASKS), way).run(
                place, found.params.vector
            )
            assert failure is None, failure
            results.append(dict(scores))
    return results[1], results[0], found.seconds + seconds


def square_gradients(item: tuple[str, str]) -> None:
    """In a worker: squared gradients, or Kronecker factors, at the mean of a task's first run, recalibrated; one file."""
    (task, mode), bench = item, here()
    s, model = bench.settings, bench.model()
    x, y = (part[: s.fisher].to(bench.device) for part in bench.parts()[task])
    labels = {"given": Given(class_loss), "expected": Expected(logits)}
    labels["sampled"] = Sampled(logits, generator(bench.seed, "labels", task))
    at = bench.posterior(task, 0, s.steps[-1]).mode()
    with live(model, at.layout) as place:
        place(at.vector)
        judge(bench)[1](model)
        batches = zip(x.split(50), y.split(50), strict=True)
        if mode == "kronecker":
            factors = kronecker_factors(model, batches, labels["expected"]).mean
            found = {
                f"{side}/{name}": pair[i].cpu()
                for name, pair in factors.items()
                for i, side in enumerate("AB")
            }
        else:
            h = squared_gradients(model, batches, labels[mode]).mean
            found = Flat(h.layout, h.vector.cpu())
    save_checkpoint(bench.squares(task, mode), found)


def read_factors(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B by the weight's name, from the file of mode "kronecker"."""
    held = dict(open_checkpoint(path))
    return {name[2:]: (A, held[f"B/{name[2:]}"]) for name, A in held.items() if name.startswith("A/")}


def logits(model: Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The ten logits of each image."""
    return model(batch[0])


def keep_memory() -> None:
    """glibc gives memory back between forward passes, which doubles their time: it shall keep up to 1 GB, in workers too."""
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
    with suppress(OSError, AttributeError):  # another libc has its own ways
        libc = ctypes.CDLL("libc.so.6")
        for option in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(option, 1 << 30)
