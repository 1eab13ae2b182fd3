"""Figure 4: pictures, image encoders with frozen heads, and their runs, for worker processes."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _shared import data, images
from _workers import here
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import avg_pool2d, cross_entropy, linear

from previa import (
    AdamWRecipe,
    Flat,
    Given,
    Recipe,
    input_moments,
    open_checkpoint,
    save_checkpoint,
    squared_gradients,
)
from previa.run.draws import Draws, Source, generator
from previa.run.live import live, trainable

FILES = {
    "CIFAR-10": ("cifar10/cifar10_jpeg_train.npz", "cifar10/cifar10_jpeg_test.npz"),
    "RESISC12": ("resisc12/resisc12_64px_train.npz", "resisc12/resisc12_64px_test.npz"),
    "GTSRB": ("gtsrb/gtsrb32_train.npz", "gtsrb/gtsrb32_test.npz"),
    "EuroSAT": ("eurosat/eurosat_rgb_train.npz", "eurosat/eurosat_rgb_test.npz"),
}
CIFAR = ((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))  # mean and deviation of its colours
Part = tuple[Tensor, Tensor]
"""pixels uint8 [N, 3, S, S], classes int64 [N]"""


@dataclass(frozen=True)
class Settings:
    """Sizes and hyper-parameters of one scale; a task's run and a joint one take as many steps of ``batch`` pictures."""

    model: str  # "vit": made here and pretrained on CIFAR-10; else a CLIP's folder or name on the hub
    pretraining: int  # steps
    steps: int
    warmup: int
    lr: float
    test: int  # pictures of each task, at most
    measured: int  # pictures of squared gradients and input moments
    grid: int
    batch: int = 64
    pretraining_lr: float = 1e-3
    weight_decay: float = 0.0
    width: int = 128
    layers: int = 4
    patch: int = 8
    epochs: float | None = None  # over all tasks' pictures, in place of ``steps``
    synthetic: bool = False  # made-up pictures, for tests


@dataclass(frozen=True)
class Bench:
    """What a process needs to train and to score; ``root`` has what all studies share: pictures and the pretrained encoder."""

    settings: Settings
    tasks: tuple[str, ...]
    root: Path
    out: Path
    device: str
    seed: int

    def pictures(self) -> dict[str, tuple[Part, Part]]:
        """task -> (train, test), see `read`; a task's classes come after those of the tasks before it."""
        found, first = {}, 0
        for task in self.tasks:
            train, test = read(self.settings, self.root, task)
            found[task] = tuple((x, y + first) for x, y in (train, test))
            first += int(max(train[1].max(), test[1].max())) + 1
        return found

    def model(self) -> "Tagger":
        """The encoder before it is finetuned, with the frozen head of every task."""
        held = dict(open_checkpoint(self.out / "heads.safetensors"))
        model = Tagger(encoder(self.settings, self.seed), held["weight"], held["bias"], held["owner"])
        if (file := self.root / "base.safetensors").exists():
            model.encoder.load_state_dict(dict(open_checkpoint(file)))
        return model.to(self.device)

    def file(self, task: str, what: str = "model") -> Path:
        """A task's parameters, or what was measured at them: squares, inputs."""
        return self.out / f"{task}-{what}.safetensors"

    @property
    def steps(self) -> int:
        """Of a task's run and of a joint one."""
        s = self.settings
        if s.epochs is None:
            return s.steps
        return round(s.epochs * sum(len(train[1]) for train, _ in self.pictures().values()) / s.batch)


class Encoder(Module):
    """pixels uint8 [B, 3, S, S] -> features [B, D]: the mean of the last states of a ViT."""

    def __init__(self, body: Module, colours: tuple[tuple[float, ...], ...]) -> None:
        super().__init__()
        self.body = body
        for name, values in zip(("mean", "std"), colours, strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def normal(self, pixels: Tensor) -> Tensor:
        """Colours of mean zero and deviation one."""
        return (pixels.float() / 255 - self.mean) / self.std

    def forward(self, pixels: Tensor) -> Tensor:
        """The features."""
        return self.body(self.normal(pixels)).last_hidden_state.mean(1)


class ClipEncoder(Encoder):
    """The image side of a CLIP: its projected embedding, of length one."""

    def forward(self, pixels: Tensor) -> Tensor:
        """The features."""
        seen = self.body["vision_model"](pixel_values=self.normal(pixels)).pooler_output
        embedded = self.body["visual_projection"](seen)
        return embedded / embedded.norm(dim=-1, keepdim=True)


class Tagger(Module):
    """An encoder, which is trained and merged, and one output row a class, frozen; ``owner`` [C]: which task has the class."""

    def __init__(self, encoder: Module, weight: Tensor, bias: Tensor, owner: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        for name, values in (("weight", weight), ("bias", bias), ("owner", owner)):
            self.register_buffer(name, values)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, C] of the classes of all tasks."""
        return linear(self.encoder(pixels), self.weight, self.bias)


def own_logits(model: Tagger, batch: Part) -> Tensor:
    """Logits with those of the classes of other tasks than the picture's at minus infinity."""
    pixels, classes = batch
    own = model.owner == model.owner[classes][:, None]
    return model(pixels).masked_fill(~own, -torch.inf)


def loss(model: Tagger, batch: Part) -> Tensor:
    """Cross-entropy of each picture over its own task's classes, [B]."""
    return cross_entropy(own_logits(model, batch), batch[1], reduction="none")


def encoder(s: Settings, seed: int) -> Encoder:
    """The encoder at its first parameters: a small ViT at random ones, or CLIP's image side."""
    if s.model != "vit":
        from _vit_clip import image_encoder

        return image_encoder(s.model)
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=s.width, num_hidden_layers=s.layers, num_attention_heads=s.width // 32, intermediate_size=2 * s.width,
        image_size=32, patch_size=s.patch, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(ViTModel(config, add_pooling_layer=False), CIFAR)


@cache
def read(s: Settings, root: Path, name: str) -> tuple[Part, Part]:
    """A set's training and test part, shuffled; kept as one file of pixels, since decoding takes long."""
    packed = root / f"{name.lower()}-pixels.npz"
    if not packed.exists():
        if s.synthetic:
            parts = synthetic(name)
        elif s.model != "vit":
            from _vit_clip import from_hub

            parts = from_hub(name)
        else:
            parts = [small(*images(data(*file.split("/")))) for file in FILES[name]]
        root.mkdir(parents=True, exist_ok=True)
        np.savez(packed, **{f"{part}{i}": a for i, pair in enumerate(parts) for part, a in zip("xy", pair, strict=True)})  # fmt: skip
    with np.load(packed) as file:
        parts = [tuple(torch.from_numpy(file[f"{part}{i}"]) for part in "xy") for i in (0, 1)]
    found = []
    for (x, y), most in zip(parts, (len(parts[0][1]), s.test), strict=True):
        rows = torch.randperm(len(y), generator=generator(0, "rows", name))[:most]
        found.append((x[rows], y[rows]))
    return found[0], found[1]


def small(pixels: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N, S, S, 3] to [N, 3, 32, 32] by means of neighbouring pixels."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    if (factor := x.shape[-1] // 32) > 1:
        x = torch.cat([avg_pool2d(part.float(), factor).round().byte() for part in x.split(1000)])
    return x.contiguous().numpy(), classes


def synthetic(name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Noise around one random picture a class, five classes."""
    rng = np.random.default_rng(len(name))
    y = np.arange(60) % 5
    x = np.clip(rng.integers(0, 256, (5, 3, 32, 32))[y] + rng.normal(0, 250, (60, 3, 32, 32)), 0, 255)
    return [(x[i::2].astype(np.uint8), y[i::2]) for i in (0, 1)]


def anneal(optimizer: torch.optim.Optimizer, steps: int, warmup: int) -> torch.optim.lr_scheduler.LambdaLR:
    """The rate rises for ``warmup`` steps and falls to 0 by a cosine, as B.4 says."""

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def train(bench: Bench, alpha: tuple[float, ...], seed: int) -> tuple[Flat, float]:
    """AdamW on sum_t alpha_t l_t of mean losses: each picture of a batch is of task t with probability alpha_t; seconds."""
    s, started, model = bench.settings, time.perf_counter(), bench.model()
    model.train()
    sources = {task: Source(task, bench.pictures()[task][0]) for task in bench.tasks}
    recipe = Recipe(optimizer=AdamWRecipe(lr=s.lr), steps=bench.steps, batch_size=s.batch, sampling="sample")
    shares = recipe.shares(alpha, [len(source) for source in sources.values()])
    draws = Draws(sources, recipe.counts(shares, generator(seed, "tasks")), seed)
    optimizer = torch.optim.AdamW(
        trainable(model).values(), lr=s.lr, betas=(0.9, 0.999), weight_decay=s.weight_decay
    )
    schedule = anneal(optimizer, bench.steps, s.warmup)
    for step in range(bench.steps):
        batches = [sources[task].batch(rows) for task, rows in draws.step(step)]
        x, y = (torch.cat(parts).to(bench.device) for parts in zip(*batches, strict=True))
        optimizer.zero_grad()
        loss(model, (x, y)).mean().backward()
        optimizer.step()
        schedule.step()
    found = {name: parameter.detach().cpu() for name, parameter in trainable(model).items()}
    return Flat.of(found), time.perf_counter() - started


def pretrain(bench: Bench) -> tuple[float, float]:
    """The small ViT on CIFAR-10, mirrored at random; its test accuracy, and seconds."""
    s, started = bench.settings, time.perf_counter()
    (x, y), test = read(s, bench.root, "CIFAR-10")
    body = encoder(s, bench.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(bench.seed)
        model = torch.nn.Sequential(body, torch.nn.Linear(s.width, 10)).to(bench.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=s.pretraining_lr, weight_decay=0.05)
    schedule, draw = anneal(optimizer, s.pretraining, s.pretraining // 10), generator(bench.seed, "pretrain")
    for step in range(s.pretraining):
        rows = torch.randint(len(y), (s.batch,), generator=draw)
        batch = x[rows].flip(-1) if torch.rand((), generator=draw) < 0.5 else x[rows]
        optimizer.zero_grad()
        cross_entropy(model(batch.to(bench.device)), y[rows].to(bench.device)).backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 200 == 0:
            print(f"pretraining: {step + 1} of {s.pretraining}", flush=True)
    with torch.no_grad():
        right = [(model.eval()(a.to(bench.device)).argmax(1).cpu() == b).float() for a, b in split(test, 250)]
    save_checkpoint(bench.root / "base.safetensors", {n: v.cpu() for n, v in body.state_dict().items()})
    return float(torch.cat(right).mean()), time.perf_counter() - started


def fit_heads(bench: Bench) -> None:
    """The frozen head of every task: by its class names (CLIP), or a linear one, fitted on features of the base."""
    s = bench.settings
    if s.model != "vit":
        from _vit_clip import zero_shot_heads

        heads = zero_shot_heads(s.model, bench.tasks)
    else:
        body = encoder(s, bench.seed)
        body.load_state_dict(dict(open_checkpoint(bench.root / "base.safetensors")))
        heads = [probe(body.eval(), read(s, bench.root, task)[0]) for task in bench.tasks]
    owner = torch.cat([torch.full((len(bias),), t) for t, (_, bias) in enumerate(heads)])
    weight, bias = (torch.cat(parts) for parts in zip(*heads, strict=True))
    save_checkpoint(bench.out / "heads.safetensors", {"weight": weight, "bias": bias, "owner": owner})


def probe(body: Module, part: Part) -> tuple[Tensor, Tensor]:
    """Softmax regression on the features, weights [C, D] and biases [C], with a small ridge."""
    with torch.no_grad():
        f = torch.cat([body(x) for x, _ in split(part, 250)])
    W = torch.zeros(int(part[1].max()) + 1, f.shape[1], requires_grad=True)
    b = torch.zeros(len(W), requires_grad=True)
    optimizer = torch.optim.LBFGS([W, b], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(linear(f, W, b), part[1]) + 1e-3 * W.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return W.detach(), b.detach()


def split(part: Part, size: int, device: str = "cpu") -> Iterator[Part]:
    """Batches in their order."""
    for x, y in zip(part[0].split(size), part[1].split(size), strict=True):
        yield x.to(device), y.to(device)


def score(tests: Mapping[str, Part], device: str, model: Tagger) -> dict[str, Tensor]:
    """Each task's 1 or 0 for each test picture: is the largest logit of the task's classes its own?"""
    return {
        task: torch.cat(
            [(own_logits(model, b).argmax(1) == b[1]).float().cpu() for b in split(part, 250, device)]
        )
        for task, part in tests.items()
    }


def scorer(bench: Bench) -> Any:
    """Scores of all tasks."""
    return partial(score, {task: test for task, (_, test) in bench.pictures().items()}, bench.device)


def finetune_task(task: str) -> tuple[float, float, float]:
    """In a worker: a task's own run, its squared gradients and its layers' inputs; the seconds of each."""
    bench = here()
    found, trained = train(bench, tuple(float(task == t) for t in bench.tasks), bench.seed)
    model, (x, y) = bench.model().eval(), bench.pictures()[task][0]
    part, seconds = (x[: bench.settings.measured], y[: bench.settings.measured]), [trained]
    with live(model, found.layout) as place:
        place(found.vector.to(bench.device))
        started = time.perf_counter()
        h = squared_gradients(model, split(part, 50, bench.device), Given(loss)).mean
        save_checkpoint(bench.file(task, "squares"), Flat(h.layout, h.vector.cpu()))
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        A = input_moments(model, split(part, 50, bench.device), lambda m, batch: m(batch[0]))
        save_checkpoint(bench.file(task, "inputs"), {name: moments.cpu() for name, moments in A.items()})
        seconds.append(time.perf_counter() - started)
    save_checkpoint(bench.file(task), found)
    return tuple(seconds)


def joint_run(alpha: tuple[float, ...]) -> tuple[dict[str, np.ndarray], float]:
    """In a worker: a joint run's scores; seconds. Its seed is of its own, so that it shares no order with a task's run."""
    bench = here()
    found, seconds = train(bench, alpha, bench.seed + 999)
    model = bench.model().eval()
    with live(model, found.layout) as place, torch.no_grad():
        place(found.vector.to(bench.device))
        return {task: values.numpy() for task, values in scorer(bench)(model).items()}, seconds
