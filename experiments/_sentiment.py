"""Figures 5 and 6: the encoder, its data sets, and its runs, for worker processes."""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _shared import tsv
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import cross_entropy

from previa import (  # fmt: skip
    AdamWRecipe,
    Flat,
    Given,
    Recipe,
    finetune,
    input_moments,
    open_checkpoint,
    save_checkpoint,
    squared_gradients,
)
from previa.run.executors import map_processes
from previa.run.finetune import Finetuned
from previa.run.live import live

TASKS = ("RT", "SST-2", "Yelp")
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Settings:
    """Sizes and hyper-parameters of one scale; a run sees ``epochs`` times ``training`` examples, joint ones as many in all."""

    model: str  # a folder or a hub's name
    imdb: int  # examples of the first finetuning, of which the base is the end
    training: int  # of each task
    test: int
    words: int  # tokens kept of a text
    imdb_lr: float
    lr: float
    epochs: float
    grid: int  # steps of the triangle
    edge: int  # and of its edges, which are the pairs of figure 5
    measured: int  # examples of squared gradients and input moments
    batch: int = 16
    hub: bool = False  # data by the hub's names

    @property
    def steps(self) -> int:
        """Of a task's run and of a joint one."""
        return max(1, round(self.epochs * self.training / self.batch))


@dataclass(frozen=True)
class Bench:
    """What a process needs to train and to score."""

    settings: Settings
    out: Path
    device: str
    seed: int

    def model(self) -> Module:
        """The encoder with two classes, at the end of the first finetuning once there is one; without dropout's noise."""
        model = encoder(self.settings.model, self.seed)
        if (file := self.out / "base.safetensors").exists():
            model.load_state_dict(dict(open_checkpoint(file)), strict=False)
        return model.to(self.device)

    def data(self) -> dict[str, tuple[Batch, Batch]]:
        """name -> (train, test): tokens, masks and labels."""
        return tokenized(self.settings, self.seed)

    def file(self, task: str) -> Path:
        """A task's parameters."""
        return self.out / f"{task}.safetensors"

    def measured(self, task: str, what: str) -> Path:
        """What was measured at a task's parameters: squares or inputs."""
        return self.out / f"{task}-{what}.safetensors"


def encoder(source: str, seed: int) -> Module:
    """A sequence classifier of two classes; the head's first parameters depend on the seed only."""
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()  # that the head is new is no news
    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=2, torch_dtype=torch.float32
        )


@cache
def tokenized(s: Settings, seed: int) -> dict[str, tuple[Batch, Batch]]:
    """Every set's training and test part, balanced sizes, cut to ``words`` tokens and padded to the longest text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(s.model)
    found = {}
    for name, (train, test) in (from_hub() if s.hub else from_files()).items():
        parts = []
        for which, rows, size in (
            ("train", train, s.imdb if name == "IMDB" else s.training),
            ("test", test, s.test),
        ):
            order = np.random.default_rng([seed if which == "train" else 0, len(name)]).permutation(
                len(rows)
            )[:size]
            texts, labels = [rows[i][1] for i in order], torch.tensor([rows[i][0] for i in order])
            tokens = tokenizer(
                texts, truncation=True, max_length=s.words, padding="max_length", return_tensors="pt"
            )
            parts.append({"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"], "labels": labels})  # fmt: skip
        found[name] = parts[0], parts[1]
    return found


Rows = list[tuple[int, str]]


def from_files() -> dict[str, tuple[Rows, Rows]]:
    """The sets of the data folder; sentences of SST-2 are taken out of RT, with which it shares its source."""

    def letters(text: str) -> str:
        return "".join(c for c in text.lower() if c.isalnum())

    def read(name: str) -> Rows:
        return [(int(row[0]), row[-1]) for row in tsv(f"sentiment/{name}.tsv.xz")]

    def polar(name: str) -> Rows:
        return [(int(stars > 3), text) for stars, text in read(name) if stars != 3]

    sst2 = read("sst2_train"), read("sst2_dev") + read("sst2_test")
    known = {letters(text) for part in sst2 for _, text in part}
    rt = [row for row in read("rt_polarity") if letters(row[1]) not in known]
    order = np.random.default_rng(0).permutation(len(rt))
    cut = len(rt) // 4
    return {
        "IMDB": (read("imdb_train"), read("imdb_test")),
        "RT": ([rt[i] for i in order[cut:]], [rt[i] for i in order[:cut]]),
        "SST-2": sst2,
        "Yelp": (polar("yelp_reviews_dev"), polar("yelp_reviews_test")),
    }


def from_hub() -> dict[str, tuple[Rows, Rows]]:
    """The paper's own sets by their names on the hub; the first fifth of Yelp."""
    from datasets import load_dataset

    names = {
        "IMDB": ("stanfordnlp/imdb", "text", "test", ""),
        "RT": ("cornell-movie-review-data/rotten_tomatoes", "text", "test", ""),
        "SST-2": ("stanfordnlp/sst2", "sentence", "validation", ""),
        "Yelp": ("fancyzhx/yelp_polarity", "text", "test", "[:20%]"),
    }
    found = {}
    for name, (source, text, test, part) in names.items():
        parts = [load_dataset(source, split=split) for split in (f"train{part}", test)]
        found[name] = tuple([(row["label"], row[text]) for row in rows] for rows in parts)
    return found


def logits(model: Module, batch: Batch) -> Tensor:
    """The two logits of each text, padding beyond the longest of the batch cut off."""
    longest = int(batch["attention_mask"].sum(-1).max())
    shown = {name: batch[name][:, :longest] for name in ("input_ids", "attention_mask")}
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
    """The first finetuning, on IMDB; its seconds."""
    s = bench.settings
    recipe = Recipe(optimizer=AdamWRecipe(lr=s.imdb_lr), steps=max(1, s.imdb // s.batch), batch_size=s.batch)
    model = bench.model()
    found = finetune(model, {"IMDB": bench.data()["IMDB"][0]}, (1.0,), recipe, loss=loss, seed=bench.seed)
    save_checkpoint(bench.out / "base.safetensors", found.params)
    return found.seconds


def train(bench: Bench, alpha: tuple[float, ...], seed: int) -> Finetuned:
    """A finetuning from the base at alpha: its share of the examples of each batch."""
    s = bench.settings
    recipe = Recipe(optimizer=AdamWRecipe(lr=s.lr), steps=s.steps, batch_size=s.batch, sampling="sample")
    data = {task: bench.data()[task][0] for task in TASKS}
    return finetune(bench.model(), data, alpha, recipe, loss=loss, seed=seed)


def finetune_task(task: str) -> float:
    """In a worker: a task's own run, its squared gradients and its layers' inputs; the seconds of each."""
    bench = _here[0]
    s, model = bench.settings, bench.model()
    found = train(bench, tuple(float(task == t) for t in TASKS), bench.seed)
    part = {name: values[: s.measured] for name, values in bench.data()[task][0].items()}
    seconds = [found.seconds]
    with live(model, found.params.layout) as place:
        place(found.params.vector)
        started = time.perf_counter()
        h = squared_gradients(model, batches(part, s.batch, bench.device), Given(loss)).mean
        save_checkpoint(bench.measured(task, "squares"), Flat(h.layout, h.vector.cpu()))
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        A = input_moments(model, batches(part, s.batch, bench.device), logits)
        save_checkpoint(bench.measured(task, "inputs"), {name: moments.cpu() for name, moments in A.items()})
        seconds.append(time.perf_counter() - started)
    save_checkpoint(bench.file(task), found.params)
    return tuple(seconds)


def square_base(task: str) -> float:
    """In a worker: squared gradients of IMDB at the base, the prior of Daheim et al. 2024; seconds."""
    bench, started = _here[0], time.perf_counter()
    model = bench.model()
    part = {name: values[: bench.settings.measured] for name, values in bench.data()[task][0].items()}
    h = squared_gradients(model, batches(part, bench.settings.batch, bench.device), Given(loss)).mean
    save_checkpoint(bench.measured(task, "squares"), Flat(h.layout, h.vector.cpu()))
    return time.perf_counter() - started


def joint_run(alpha: tuple[float, ...]) -> tuple[dict[str, np.ndarray], float]:
    """In a worker: a joint run's scores; seconds. Its seed is of its own, so that it shares no order with a task's run."""
    bench = _here[0]
    found, model = train(bench, alpha, bench.seed + 999), bench.model()
    with live(model, found.params.layout) as place:
        place(found.params.vector)
        scores = {task: values.numpy() for task, values in scorer(bench)(model).items()}
    return scores, found.seconds


def in_workers(name: str, function: Any, items: list, bench: Bench, workers: int) -> Iterator[tuple]:
    """(item, value) as they come, with the time left; ends the program where one fails."""
    started, total = time.perf_counter(), len(items)
    with closing(map_processes(function, items, min(workers, total or 1), adopt, (bench,))) as outcomes:
        for done, outcome in enumerate(outcomes, 1):
            if outcome.failure is not None:
                raise SystemExit(f"{name} {outcome.item}: {outcome.failure}")
            left = (time.perf_counter() - started) / done * (total - done)
            print(f"{name}: {done} of {total}, {left:.0f} s left", flush=True)
            yield outcome.item, outcome.value


_here: list[Bench] = []  # of a worker process


def adopt(bench: Bench) -> None:
    """Make this process a worker of the bench."""
    torch.set_num_threads(1)
    _here[:] = [bench]
