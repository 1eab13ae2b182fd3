"""Time per weighting of a sweep, against one plain evaluation of the same model: interleaved, ratios of medians.

python benchmarks/sweep.py
"""

import argparse
import statistics
import tempfile
import time
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


def cases(items: int) -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """Model and test inputs by name; ``items`` in all."""
    mlp = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return {
        "digits MLP 64-64-32-10": (digits.build(), torch.rand(items, 64)),
        "MLP 784-256-256-10": (mlp, torch.rand(items, 784)),
        "transformer encoder": (Encoder(), torch.randint(1000, (items, 16))),
    }


def measure(model: nn.Module, inputs: torch.Tensor, rounds: int) -> tuple[float, float, float]:
    """(seconds of one evaluation alone, of a weighting in a sweep into a store, of one without a store): medians."""
    third = len(inputs) // 3
    tests = {
        task: (accuracy, (inputs[i * third : (i + 1) * third], torch.arange(third) % 10)) for i, task in enumerate(TASKS)
    }
    score, alphas = scorer(tests), grid(3, 5)
    base = Flat.of(trainable(model))
    noise = torch.randn(3, base.layout.size) * 0.1
    posteriors = [Diagonal(Flat(base.layout, base.vector + n), Flat(base.layout, n.abs() + 1)) for n in noise]
    alone, stored, kept = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "study.db", tasks=TASKS, convention="mean", fingerprint={})
        for r in range(rounds):
            start = time.perf_counter()
            with evaluating(model):
                for _ in alphas:
                    score(model)
            alone.append(time.perf_counter() - start)
            start = time.perf_counter()
            sweep(model, posteriors, score, alphas, store=store, name=f"round {r}")
            stored.append(time.perf_counter() - start)
            start = time.perf_counter()
            sweep(model, posteriors, score, alphas, tasks=TASKS)
            kept.append(time.perf_counter() - start)
    return tuple(statistics.median(times[1:]) / len(alphas) for times in (alone, stored, kept))  # the first warms up


def main() -> None:
    """Print one line per model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"{'model':<24} {'evaluation':>12} {'in a sweep':>12} {'ratio':>6} {'no store':>9}   ({args.items} items)")
    for name, (model, inputs) in cases(args.items).items():
        alone, stored, kept = measure(model, inputs, args.rounds)
        print(f"{name:<24} {alone * 1e3:>9.3f} ms {stored * 1e3:>9.3f} ms {stored / alone:>6.2f} {kept / alone:>9.2f}")


if __name__ == "__main__":
    main()
