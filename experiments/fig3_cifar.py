"""Figure 3: a ResNet-20 pretrained on a part of CIFAR-10 is finetuned on three tasks of the rest (paper, sec. 4.1, B.3).

Tasks: airplane, car, ship, truck; cat, dog; deer, dog, frog, horse. Every run is by IVON from the pretrained posterior; previews are
simple averaging, IVON-HESS, and mixtures of 10, 20 and 30 snapshots (MULTIIVON-HESS); the truth is joint finetuning.
"""

import ctypes
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from _shared import Options, data, finish, images, open_store, options, weightings
from resnet20 import build
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import avg_pool2d

from previa import (
    Diagonal,
    Expected,
    Flat,
    Given,
    Isotropic,
    IvonRecipe,
    Mixture,
    Modes,
    Provenance,
    Recipe,
    Sampled,
    StudentT,
    damped,
    finetune,
    load_posterior,
    modes,
    open_checkpoint,
    save_checkpoint,
    save_posterior,
    squared_gradients,
    sweep,
)  # fmt: skip
from previa.fit.snapshots import snapshot_posterior
from previa.run.draws import generator
from previa.run.evaluate import Evaluation
from previa.run.executors import map_processes
from previa.run.finetune import Finetuned, class_loss
from previa.run.live import live, recalibrated
from previa.study.store import Store

TASKS = {"vehicles": (0, 1, 8, 9), "cat-dog": (3, 5), "animals": (4, 5, 6, 7)}  # no bird; dog is in two
CLASSES = tuple(sorted({c for classes in TASKS.values() for c in classes}))
MODES = ("given", "sampled", "expected")  # labels of squared gradients
Method = Callable[[Tensor], Modes]


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


SCALES = {
    "tiny": Settings(8, 2, 1, 100, 400, 4, 2, 1, 1, (1, 2, 3), 3, 1, 2, 2, 20, 5, tune_samples=1, joint_samples=1, tiny=True),
    "small": Settings(8, 16, 3, 15_000, 35_000, 150, 40, 8, 1, (25, 50, 75, 100, 125, 150), 250, 1, 5, 10, 500, 500,
                      beta2=0.9995, tune_lr=0.02, tune_beta2=0.99, tune_samples=2, joint_samples=1),
    "paper": Settings(32, 16, 3, 25_000, 25_000, 1000, 100, 1000, 5, (25, 50, 75, 100, 125, 150), 250, 20, 5, 10, 2500, 500),
}  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What a process needs to train and to score: it goes to each worker as it is, and data are read from ``out``."""

    settings: Settings
    out: Path
    device: str
    seed: int

    def model(self) -> Module:
        """The network at its first parameters, and the pretrained running statistics where there are any."""
        model = build(self.seed, self.settings.width, self.settings.blocks)
        if (self.out / "base-statistics.safetensors").exists():
            model.load_state_dict(
                dict(open_checkpoint(self.out / "base-statistics.safetensors")), strict=False
            )
        return model.to(self.device)

    def recipe(self, steps: int, samples: int, snapshots: tuple[int, ...] = ()) -> Recipe:
        """Finetuning: no weight decay, a smaller learning rate; alpha is the share of the examples (mean losses)."""
        s, kept = self.settings, tuple(step * self.settings.updates for step in snapshots)
        ivon = IvonRecipe(
            lr=s.tune_lr, ess=s.tune_ess, hess_init=s.hess_init, betas=(0.9, s.tune_beta2), samples=samples
        )
        steps *= s.updates
        return Recipe(optimizer=ivon, steps=steps, batch_size=s.batch, sampling="sample", snapshots=kept)

    def base(self) -> Diagonal:
        posterior, _ = load_posterior(self.out / "base.safetensors")
        assert isinstance(posterior, Diagonal)
        return posterior

    def file(self, task: str, seed: int, step: int) -> Path:
        return self.out / "runs" / f"{task}-seed{seed}-step{step}.safetensors"

    def squares(self, task: str, mode: str) -> Path:
        return self.out / "runs" / f"{task}-squares-{mode}.safetensors"


@cache
def read_images(settings: Settings, out: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """pretraining, test, calibration and each task's training images: (pixels [N, 3, S, S] normalised, classes [N])."""
    packed = out / "images.npz"
    if not packed.exists():
        out.mkdir(parents=True, exist_ok=True)
        found = {}
        for part in ("train", "test"):
            file = "test" if settings.tiny else part  # in a tenth of the time
            pixels, found[f"{part}_classes"] = images(data("cifar10", f"cifar10_jpeg_{file}.npz"))
            size = 32 // settings.pixels
            small = avg_pool2d(torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), size)
            found[f"{part}_pixels"] = small.round().byte().numpy()
        np.savez(packed, **found)
    with np.load(packed) as file:
        held = {name: torch.from_numpy(file[name]) for name in file.files}
    s, y, test_y = settings, held["train_classes"], held["test_classes"]
    pool = torch.arange(s.pretraining, s.pretraining + s.training)
    calibration = per_class(y[pool], s.calibration)
    rows = {"pretraining": torch.arange(s.pretraining), "calibration": pool[calibration]}
    rows |= {t: pool[torch.isin(y[pool], torch.tensor(classes))] for t, classes in TASKS.items()}
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)))
    parts = {name: (held["train_pixels"][row], y[row]) for name, row in rows.items()}
    test = per_class(test_y, s.test)
    parts["test"] = held["test_pixels"][test], test_y[test]
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
    parts = read_images(bench.settings, bench.out)
    batches = [x.to(bench.device) for x in parts["calibration"][0].split(180)]
    return partial(score_tasks, *parts["test"]), recalibrated(batches)


def train(bench: Bench, alpha: tuple[float, ...], recipe: Recipe, seed: int) -> Finetuned:
    """One finetuning of the tasks at alpha from the pretrained posterior (AdamW: from its mean)."""
    parts = read_images(bench.settings, bench.out)
    tasks = {task: parts[task] for task in TASKS}
    base = bench.base()
    start = base if isinstance(recipe.optimizer, IvonRecipe) else base.mode()
    return finetune(bench.model(), tasks, alpha, recipe, seed=seed, start=start, start_ess=bench.settings.ess)


def corner(task: str) -> tuple[float, ...]:
    return tuple(float(task == t) for t in TASKS)


def pretrain(bench: Bench, threads: int) -> None:
    """IVON from random parameters on the first images, all ten classes; the posterior and the running statistics."""
    s = bench.settings
    if (bench.out / "base.safetensors").exists():
        return
    steps = s.epochs * s.pretraining // s.batch
    ivon = IvonRecipe(
        lr=s.lr,
        ess=s.ess,
        hess_init=s.hess_init,
        betas=(0.9, s.beta2),
        weight_decay=s.delta,
        samples=s.samples,
    )
    recipe = Recipe(optimizer=ivon, steps=steps, batch_size=s.batch)
    with threaded(threads):
        found = finetune(
            bench.model(),
            {"all": read_images(s, bench.out)["pretraining"]},
            (1.0,),
            recipe,
            seed=bench.seed,
            progress=told,
        )
    assert found.posterior is not None
    save_checkpoint(bench.out / "base-statistics.safetensors", found.statistics)
    facts = Provenance(
        family="diagonal",
        source="ivon",
        reduction="mean",
        examples=s.pretraining,
        ess=s.ess,
        beta2=s.beta2,
        steps=steps,
        hess_init=s.hess_init,
        delta=s.delta,
        batch_size=s.batch,
    )
    save_posterior(bench.out / "base.safetensors", found.posterior, facts)


def finetune_task(item: tuple[str, int]) -> float:
    """In a worker: one task's run by one seed, a posterior file after each of the kept steps; its seconds."""
    (task, seed), bench = item, _here[0]
    s = bench.settings
    found = train(
        bench, corner(task), bench.recipe(s.steps[-1], s.tune_samples, s.steps), 1000 * bench.seed + seed
    )
    examples = len(read_images(s, bench.out)[task][0])
    for step, posterior in zip(s.steps, found.snapshots, strict=True):
        facts = Provenance(
            family="diagonal",
            source="ivon",
            reduction="mean",
            examples=examples,
            ess=s.tune_ess,
            beta2=s.tune_beta2,
            steps=step * s.updates,
            hess_init=s.hess_init,
            delta=0.0,
            batch_size=s.batch,
        )
        save_posterior(bench.file(task, seed, step), posterior, facts)
    return found.seconds


def joint_run(alpha: tuple[float, ...]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], float]:
    """In a worker: a joint run scored with recalibrated statistics, as merged models, and with its own running ones."""
    bench, s = _here[0], _here[0].settings
    found = train(bench, alpha, bench.recipe(s.joint_steps, s.joint_samples), 1000 * bench.seed)
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
    """In a worker: squared gradients at the mean of a task's first run, with recalibrated statistics; one file."""
    (task, mode), bench = item, _here[0]
    s, model = bench.settings, bench.model()
    x, y = (part[: s.fisher] for part in read_images(s, bench.out)[task])
    labels = {"given": Given(class_loss), "expected": Expected(logits)}
    labels["sampled"] = Sampled(logits, generator(bench.seed, "labels", task))
    at = load_posterior(bench.file(task, 0, s.steps[-1]))[0].mode()
    with live(model, at.layout) as place:
        place(at.vector)
        judge(bench)[1](model)
        batches = [
            (a.to(bench.device), b.to(bench.device)) for a, b in zip(x.split(50), y.split(50), strict=True)
        ]
        save_checkpoint(bench.squares(task, mode), squared_gradients(model, batches, labels[mode]).mean)


def logits(model: Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(batch[0])


def settle(name: str, store: Store, function: Callable, items: list, bench: Bench, workers: int) -> Iterator:
    """(item, value) of what is missing, in workers, with progress; ends the program where one fails."""
    started, total = time.perf_counter(), len(items)
    with closing(map_processes(function, items, min(workers, total or 1), adopt, (bench,))) as outcomes:
        for done, outcome in enumerate(outcomes, 1):
            if outcome.failure is not None:
                raise SystemExit(f"{name} {outcome.item}: {outcome.failure}")
            told(name, done, total, started)
            yield outcome.item, outcome.value


_here: list[Bench] = []  # of a worker process


def adopt(bench: Bench) -> None:
    _here[:] = [bench]


def ensembles(bench: Bench) -> dict[str, dict[tuple[int, int], Diagonal]]:
    """task -> (seed, step) -> IVON's posterior."""
    s = bench.settings
    return {
        t: {
            (seed, step): load_posterior(bench.file(t, seed, step))[0]
            for seed in range(s.seeds)
            for step in s.steps
        }
        for t in TASKS
    }


def paper_methods(bench: Bench, runs: Mapping[str, Mapping[tuple[int, int], Diagonal]]) -> dict[str, Method]:
    """Simple averaging and IVON-HESS of the first seed's last models; mixtures of 10, 20 and 30 by EM."""
    last = [own[0, bench.settings.steps[-1]] for own in runs.values()]
    found = {"simple": merging([Isotropic(q.mode()) for q in last]), "ivon_hessian": merging(last)}
    for name, kept in mixtures(bench.settings).items():
        mixed = [Mixture(chosen(own, kept)) for own in runs.values()]
        found[name] = merging(mixed, iterations=bench.settings.iterations)
    return found


def mixtures(s: Settings) -> dict[str, tuple[int, ...]]:
    """The steps whose models are mixed: two, four and all six of them."""
    sets = (s.steps[-3::2], s.steps[-4:], s.steps)
    return {f"mixture_{len(kept) * s.seeds}": kept for kept in sets}


def chosen(own: Mapping[tuple[int, int], Diagonal], steps: tuple[int, ...]) -> list[Diagonal]:
    return [q for (_, step), q in own.items() if step in steps]


def merging(posteriors: list, blocks: list[tuple[int, int]] | None = None, iterations: int = 500) -> Method:
    return lambda alphas: modes(alphas, posteriors, blocks=blocks, max_iterations=iterations)


def pooled(ensembles: list[list]) -> Method:
    """Every task's components merged with equal weights, without EM: what a mixture adds is beyond this."""
    K = len(ensembles[0])
    members = [q for own in ensembles for q in own]
    return lambda alphas: modes(alphas.repeat_interleave(K, 1) / K, members)


def warped(method: Method, p: float) -> Method:
    """The method at weights alpha^p, normalised: what the truth's saturation suggests (not in the paper)."""
    return lambda alphas: method(alphas**p / (alphas**p).sum(-1, keepdim=True))


def beyond(bench: Bench, runs: Mapping[str, Mapping[tuple[int, int], Diagonal]]) -> dict[str, Method]:
    """Not in the paper, on the same ensembles."""
    paper, s = paper_methods(bench, runs), bench.settings
    all_30 = [list(own.values()) for own in runs.values()]
    last = [own[0, s.steps[-1]] for own in runs.values()]
    blocks = last[0].layout.blocks()
    found = {
        "mixture_30_blocks": merging([Mixture(members) for members in all_30], blocks, s.iterations),
        "simple_30": pooled([[Isotropic(q.mode()) for q in members] for members in all_30]),
        "hessian_30": pooled(all_30),
        "simple_warped": warped(paper["simple"], 0.5),
        "hessian_warped": warped(paper["ivon_hessian"], 0.5),
        "student_t": merging([StudentT(q.mode(), q.precision, 1.0) for q in last], iterations=s.iterations),
    }
    for mode, prior in (("given", 10.0), ("sampled", 10.0), ("expected", 10.0), ("expected", 0.1)):
        name = "squared_gradients" if mode == "given" else f"squared_gradients_{mode}"
        name += "" if prior == 10 else f"_prior_{prior:g}"
        precisions, _ = damped([Flat.of(dict(open_checkpoint(bench.squares(t, mode)))) for t in TASKS], prior)
        found[name] = merging([Diagonal(q.mode(), h) for q, h in zip(last, precisions, strict=True)])
    swag = [
        snapshot_posterior([q.mode() for q in members], mean=members[len(s.steps) - 1].mode())
        for members in all_30
    ]
    found["snapshots"] = merging(swag)
    for tau in (100.0, 1000.0, 10_000.0):
        mixed = [Mixture(members, temperature=tau) for members in all_30]
        found[f"mixture_30_tempered_{tau:g}"] = merging(mixed, iterations=s.iterations)
    return found


def coarse(alpha: tuple[float, ...]) -> int:
    """Uniform weights and a grid of spacing 0.2 come first: a run that is cut off has seen the whole triangle."""
    return int(max(alpha) - min(alpha) > 1e-6 and any(abs(5 * a - round(5 * a)) > 1e-6 for a in alpha))


@contextmanager
def threaded(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def told(what: str, done: int, total: int, since: float | None = None) -> None:
    if done == total or done % max(1, total // 20) == 0:
        left = (
            "" if since is None else f", {(time.perf_counter() - since) / done * (total - done):.0f} s left"
        )
        print(f"{what}: {done} of {total}{left}", flush=True)


def keep_memory() -> None:
    """glibc gives memory back between forward passes, which doubles their time: it shall keep up to 1 GB (here, in workers)."""
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30), libc.mallopt(-1, 1 << 30)
    except (OSError, AttributeError):  # another libc has its own ways
        pass


def main() -> None:
    """All of it; what is done already is not done again."""
    started, chosen_options = time.perf_counter(), options("fig3_cifar", __doc__)
    run(chosen_options, SCALES[chosen_options.scale], started)


def run(o: Options, s: Settings, started: float) -> None:
    """The study at settings ``s``."""
    keep_memory()
    bench = Bench(s, o.out, o.device, o.seed)
    parts = read_images(s, o.out)
    sizes = {task: len(parts[task][0]) for task in TASKS}
    store = open_store(o, tuple(TASKS), {**asdict(s), "sizes": sizes})
    pretrain(bench, o.workers)
    (o.out / "runs").mkdir(exist_ok=True)
    jobs = [(t, k) for t in TASKS for k in range(s.seeds) if not bench.file(t, k, s.steps[-1]).exists()]
    for _, seconds in settle("finetune", store, finetune_task, jobs, bench, o.workers):
        store.add_seconds("finetune/ivon", seconds)
    jobs = [(t, mode) for t in TASKS for mode in MODES if not bench.squares(t, mode).exists()]
    for _ in settle("squared gradients", store, square_gradients, jobs, bench, o.workers):
        pass
    alphas = weightings(len(TASKS), s.grid)
    score, recalibrate = judge(bench)
    runs = ensembles(bench)
    for name, method in (paper_methods(bench, runs) | beyond(bench, runs)).items():
        sweep(bench.model(), method, score, alphas, store=store, name=name, recalibrate=recalibrate, workers=o.workers, progress=told)  # fmt: skip
    missing = sorted((tuple(alphas[row].tolist()) for row in store.missing("joint", alphas)), key=coarse)
    for alpha, (scores, running, seconds) in settle("joint", store, joint_run, missing, bench, o.workers):
        store.record("joint_from_running", alpha, running, seconds=0.0)
        store.record("joint", alpha, scores, seconds=seconds)
    columns = [("joint", "joint finetuning"), ("simple", "simple"), ("ivon_hessian", "IVON-HESS")]
    columns += [(name, name.replace("_", " of ")) for name in mixtures(s)]
    finish(
        o,
        store,
        started=started,
        title="ResNet-20 on CIFAR-10",
        columns=columns,
        settings={**asdict(s), "sizes": sizes},
    )


if __name__ == "__main__":
    main()
