"""Figures 5 and 6: the sizes of a scale, and what a process needs to train and to score: the encoder and its data sets."""

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from _sentiment_data import TASKS, Batch, checksums, from_files, from_hub, tokenized, wordpieces
from _sentiment_layers import VOCABULARY, encoder, lower, upper
from torch.nn import Module

from previa import open_checkpoint, save_checkpoint

Run = tuple[str, int]
"""(task, k): its own finetuning number k"""


@dataclass(frozen=True)
class Settings:
    """Sizes and hyper-parameters of one scale."""

    model: str  # a folder, a hub's name or "tiny"
    imdb: int  # examples of the first finetuning, of which the base is the end
    training: int  # of each task, at most
    test: int
    words: int  # tokens kept of a text
    imdb_lr: float
    lr: float
    imdb_epochs: float
    own_epochs: tuple[float, float, float]  # of each task's own run
    joint_epochs: float  # of a joint run, through all three sets
    grid: int  # steps of the triangle
    edge: int  # and of its edges, which are the pairs of figure 5
    measured: int  # examples of squared gradients and input moments
    top: int  # layers that the tasks train, with the head; 0: all parameters
    dropout: float
    warmup: int  # steps in which the learning rate rises
    seeds: int = 1  # of a task's own runs: beyond the first for a mixture
    batch: int = 16
    hub: bool = False  # data by the hub's names

    def steps(self, epochs: float, examples: int) -> int:
        """Of a run."""
        return max(1, round(epochs * examples / self.batch))


@dataclass(frozen=True)
class Bench:
    """What a process needs to train and to score."""

    settings: Settings
    out: Path
    device: str
    seed: int

    def whole(self) -> Module:
        """The encoder with two classes, at the end of the first finetuning once there is one."""
        model = encoder(self.settings.model, self.settings.dropout, self.seed)
        if (file := self.out / "base.safetensors").exists():
            model.load_state_dict(dict(open_checkpoint(file)), strict=False)
        return model.to(self.device)

    def model(self) -> Module:
        """What the tasks train: the whole encoder, or its top layers and the head."""
        top = self.settings.top
        return upper(self.whole(), top) if top else self.whole()

    def tokens(self) -> dict[str, tuple[Batch, Batch]]:
        """name -> (train, test): tokens, masks and labels."""
        return tokens_of(self.settings, self.seed)

    def data(self) -> dict[str, tuple[Batch, Batch]]:
        """The same; where only top layers are trained, with the output of those below for tokens."""
        return data_of(self) if self.settings.top else self.tokens()

    @property
    def features(self) -> Path:
        """The output of the layers below the trained ones."""
        return self.out / "features.safetensors"

    def file(self, run: Run, what: str = "") -> Path:
        """A run's parameters, or what was measured there."""
        return self.out / f"{run[0]}-{run[1]}{what and '-'}{what}.safetensors"


@cache
def tokens_of(s: Settings, seed: int) -> dict[str, tuple[Batch, Batch]]:
    """Bench.tokens, once a process."""
    texts = from_hub() if s.hub else from_files()
    tokens = checksums(VOCABULARY, s.words) if s.model == "tiny" else wordpieces(s.model, s.words)
    sizes = {name: (s.imdb if name == "IMDB" else s.training, s.test) for name in texts}
    return tokenized(texts, tokens, sizes, seed)


@cache
def data_of(bench: Bench) -> dict[str, tuple[Batch, Batch]]:
    """Bench.data, once a process, where top layers are trained: the layers below have run, and their output is a file."""
    outputs, found = open_checkpoint(bench.features), {}
    for name, parts in bench.tokens().items():
        made = []
        for part, which in zip(parts, ("train", "test"), strict=True):
            key = f"{name}/{which}"
            hidden = outputs[key] if key in outputs else torch.empty(0)
            kept = {k: part[k][: len(hidden)] for k in ("attention_mask", "labels")}
            made.append({"inputs_embeds": hidden, **kept})
        found[name] = made[0], made[1]
    return found


def keep_features(bench: Bench) -> float:
    """Run the layers below the trained ones on every text that the tasks use, and keep what they give; seconds."""
    started, s, outputs = time.perf_counter(), bench.settings, {}
    for name, (train, test) in bench.tokens().items():
        own = name in TASKS  # of IMDB, only what its squared gradients at the base take
        outputs[f"{name}/train"] = lower(bench.whole(), s.top, train if own else first(train, s.measured))
        if own:
            outputs[f"{name}/test"] = lower(bench.whole(), s.top, test)
    save_checkpoint(bench.features, outputs)
    return time.perf_counter() - started


def first(part: Batch, count: int) -> Batch:
    """The first examples."""
    return {name: values[:count] for name, values in part.items()}
