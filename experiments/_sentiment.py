"""Figures 5 and 6: the runs, what is measured at their ends, and the scores, for worker processes."""

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from _sentiment_bench import Bench, Run, first
from _sentiment_data import TASKS, Batch
from _workers import here
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import cross_entropy

from previa import (  # fmt: skip
    AdamWRecipe,
    Expected,
    Flat,
    Given,
    Recipe,
    input_moments,
    save_checkpoint,
    squared_gradients,
)
from previa.run.accelerate_loop import accelerator_of, finetune_accelerated
from previa.run.accelerate_step import Loop
from previa.run.joint_data import Mixture
from previa.run.live import live

JOINT_SEED = 999  # beyond the study's: a joint run shares no order of examples with a task's own
# at the end of a run: squared gradients of two kinds of labels, and second moments of the layers' inputs
MEASURED = ("given", "expected", "inputs")


def logits(model: Module, batch: Batch) -> Tensor:
    """The two logits of each text, padding beyond the longest of the batch cut off."""
    longest = int(batch["attention_mask"].sum(-1).max())
    shown = {name: values[:, :longest] for name, values in batch.items() if name != "labels"}
    return model(**shown).logits


def loss(model: Module, batch: Batch) -> Tensor:
    """Cross-entropy of each text."""
    return cross_entropy(logits(model, batch), batch["labels"], reduction="none")


def batches(part: Batch, size: int, device: str = "cpu") -> Iterator[Batch]:
    """The examples in their order, so many at a time."""
    for start in range(0, len(part["labels"]), size):
        yield {name: values[start : start + size].to(device) for name, values in part.items()}


def score(tests: Mapping[str, Batch], device: str, model: Module) -> dict[str, Tensor]:
    """Each task's 1 or 0 for each test text."""
    found = {}
    for task, part in tests.items():
        right = [logits(model, batch).argmax(-1) == batch["labels"] for batch in batches(part, 64, device)]
        found[task] = torch.cat(right).float().cpu()
    return found


def scorer(bench: Bench) -> Any:
    """Scores of all three tasks."""
    data = bench.data()
    return partial(score, {task: by_length(data[task][1]) for task in TASKS}, bench.device)


def by_length(part: Batch) -> Batch:
    """The same texts, short ones first: less padding."""
    order = part["attention_mask"].sum(-1).argsort(stable=True)
    return {name: values[order] for name, values in part.items()}


def pretrain(bench: Bench) -> float:
    """The first finetuning, on IMDB, of all parameters; its seconds."""
    s, part = bench.settings, bench.tokens()["IMDB"][0]
    steps = s.steps(s.imdb_epochs, len(part["labels"]))
    params, seconds = train(bench, bench.whole(), {"IMDB": part}, (1.0,), steps, s.imdb_lr, bench.seed)
    save_checkpoint(bench.out / "base.safetensors", params)
    return seconds


def tune(bench: Bench, alpha: tuple[float, ...], steps: int, seed: int) -> tuple[Flat, float]:
    """A finetuning from the base at alpha: its parameters and its seconds."""
    data = {task: bench.data()[task][0] for task in TASKS}
    return train(bench, bench.model(), data, alpha, steps, bench.settings.lr, seed)


def train(
    bench: Bench,
    model: Module,
    data: Mapping[str, Batch],
    alpha: tuple[float, ...],
    steps: int,
    lr: float,
    seed: int,
) -> tuple[Flat, float]:
    """Each task has its share alpha_t of the examples; a learning rate that falls to 0 as a cosine, after a warm-up (B.5)."""
    s = bench.settings
    recipe = Recipe(optimizer=AdamWRecipe(lr=lr), steps=steps, batch_size=s.batch, sampling="sample")
    rows = {task: split(part) for task, part in data.items()}
    found = finetune_accelerated(
        model, Mixture(rows, alpha, recipe, seed=seed), loss=loss, collate=collate,
        loop=Loop(micro_batch=s.batch, schedule="cosine", warmup=min(s.warmup, steps // 2)),
        accelerator=accelerator_of(cpu=bench.device == "cpu"),
    )  # fmt: skip
    params = Flat.of({name: p.detach().cpu() for name, p in model.named_parameters()})
    return params, found.seconds


def split(part: Batch) -> list[Batch]:
    """The examples one by one."""
    return [dict(zip(part, values, strict=True)) for values in zip(*part.values(), strict=True)]


def collate(rows: list[Batch]) -> Batch:
    """Examples as one batch: they are padded alike."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def finetune_task(run: Run) -> dict[str, float]:
    """In a worker: a task's own run and what is measured at its end; the seconds of each."""
    bench, (task, k) = here(), run
    s, t = bench.settings, TASKS.index(task)
    steps = s.steps(s.own_epochs[t], len(bench.data()[task][0]["labels"]))
    corner = tuple(float(task == other) for other in TASKS)
    params, took = tune(bench, corner, steps, bench.seed + 100 * k)
    seconds = measure(bench, run, params)
    save_checkpoint(bench.file(run), params)  # last: what was measured is there
    return {"finetune/adamw": took, **seconds}


def measure_base(run: Run) -> dict[str, float]:
    """In a worker: squared gradients of IMDB at the base, the prior of Daheim et al. 2024; seconds."""
    bench = here()
    model = bench.model()
    return measure(bench, run, Flat.of({n: p.detach() for n, p in model.named_parameters()}))


def measure(bench: Bench, run: Run, params: Flat) -> dict[str, float]:
    """Squared gradients by both kinds of labels, and the second moments of every layer's inputs, at ``params``."""
    s, model, seconds = bench.settings, bench.model(), {}
    part = first(bench.data()[run[0]][0], s.measured)
    with live(model, params.layout) as place:
        place(params.vector)
        for what in MEASURED:
            started, texts = time.perf_counter(), batches(part, s.batch, bench.device)
            if what == "inputs":
                moments = input_moments(model, texts, logits)
                made: Any = {name: A.cpu() for name, A in moments.items()}
            else:
                labels = Given(loss) if what == "given" else Expected(logits)
                h = squared_gradients(model, texts, labels).mean
                made = Flat(h.layout, h.vector.cpu())
            save_checkpoint(bench.file(run, what), made)
            seconds["regmean" if what == "inputs" else f"squared_gradients/{what}"] = (
                time.perf_counter() - started
            )
    return seconds


def joint_run(job: tuple[tuple[float, ...], int]) -> tuple[dict[str, np.ndarray], float]:
    """In a worker: the scores of joint run number k at alpha, 0 being the truth; seconds."""
    bench, (alpha, k) = here(), job
    s, data = bench.settings, bench.data()
    steps = s.steps(s.joint_epochs, sum(len(data[task][0]["labels"]) for task in TASKS))
    params, seconds = tune(bench, alpha, steps, bench.seed + JOINT_SEED + 1000 * k)
    model = bench.model()
    with live(model, params.layout) as place:
        place(params.vector)
        scores = {task: values.numpy() for task, values in scorer(bench)(model).items()}
    return scores, seconds
