"""Time per weighting of a sweep, against one plain evaluation of the same model: interleaved, medians of ratios.

python benchmarks/sweep.py
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from previa.core.diagonal import Diagonal
from previa.core.params import Flat
from previa.data import digits
from previa.run.live import evaluating, trainable
from previa.run.scoring import accuracy, scorer
from previa.run.sweep import sweep
from previa.study.simplex import grid
from previa.study.store import Store

TASKS = ("a", "b", "c")


class Encoder(nn.Module):
    """A small transformer: 2 layers, hidden 64, 16 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(tokens)).mean(1))


def cases() -> Iterator[tuple[str, nn.Module, torch.Tensor]]:
    """(name, model, test inputs of all tasks together)"""
    mlp = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    for items in (900, 9000):
        yield "digits MLP, 6.6 k parameters", digits.build(), torch.rand(items, 64)
    for items in (1500, 9000):
        yield "MLP 784-256-256-10, 270 k", mlp, torch.rand(items, 784)
    yield "transformer encoder, 165 k", Encoder(), torch.randint(1000, (600, 16))


def measure(model: nn.Module, inputs: torch.Tensor, rounds: int) -> tuple[float, float, float, float]:
    """(ms of one evaluation alone, ms of a weighting in a sweep into a store, their ratio, the ratio without a store).

    Medians over rounds, each of which measures all three, one after another; CPU seconds, so that a busy machine counts less.
    """
    third = len(inputs) // 3
    parts = inputs.split(third)
    tests = {
        task: (accuracy, (part, torch.arange(third) % 10)) for task, part in zip(TASKS, parts, strict=False)
    }
    score, alphas = scorer(tests), grid(3, 6)
    base = Flat.of(trainable(model))
    noise = torch.randn(3, base.layout.size) * 0.1
    posteriors = [Diagonal(Flat(base.layout, base.vector + n), Flat(base.layout, n.abs() + 1)) for n in noise]
    times: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "study.db", tasks=TASKS, convention="mean", fingerprint={})
        for r in range(rounds + 1):
            start = time.process_time()
            with evaluating(model):
                for _ in alphas:
                    score(model)
            alone = time.process_time()
            sweep(model, posteriors, score, alphas, store=store, name=f"round {r}")
            stored = time.process_time()
            sweep(model, posteriors, score, alphas, tasks=TASKS)
            kept = time.process_time()
            times.append((alone - start, stored - alone, kept - stored))
        store.close()
    times = times[1:]  # the first round warms up
    return (
        1e3 * statistics.median(alone for alone, _, _ in times) / len(alphas),
        1e3 * statistics.median(stored for _, stored, _ in times) / len(alphas),
        statistics.median(stored / alone for alone, stored, _ in times),
        statistics.median(kept / alone for alone, _, kept in times),
    )


def main() -> None:
    """Print one line per model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print("CPU time, one thread, medians")
    print(
        f"{'model':<28} {'items':>6} {'evaluation':>12} {'in a sweep':>12} {'ratio':>6} {'without store':>14}"
    )
    for name, model, inputs in cases():
        alone, stored, ratio, kept = measure(model, inputs, rounds)
        print(f"{name:<28} {len(inputs):>6} {alone:>9.3f} ms {stored:>9.3f} ms {ratio:>6.2f} {kept:>14.2f}")


if __name__ == "__main__":
    main()
