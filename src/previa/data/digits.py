"""Handwritten digits that ship with scikit-learn: 1797 images of 8 x 8 pixels, as three tasks of unequal sizes."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from previa.errors import MissingExtraError

Examples = tuple[Tensor, Tensor]
"""(images [N, 64] in 0..1, digits [N])"""

TASKS: dict[str, tuple[int, ...]] = {"0-1": (0, 1), "2-4": (2, 3, 4), "5-9": (5, 6, 7, 8, 9)}
PRETRAINING = 15  # images of each digit that only pretraining sees
SEED = 0  # of the split


def build(seed: int = 0) -> nn.Sequential:
    """A multilayer perceptron 64-64-32-10, one head for all digits, drawn with ``seed``; 6570 parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [("hidden1", nn.Linear(64, 64)), ("relu1", nn.ReLU()), ("hidden2", nn.Linear(64, 32))]
        return nn.Sequential(OrderedDict([*layers, ("relu2", nn.ReLU()), ("head", nn.Linear(32, 10))]))


def pretraining() -> tuple[Examples, Examples]:
    """(train, test): a few images of every digit that no task trains on, and the test images of all digits.

    Raises MissingExtraError where scikit-learn is not installed; so do the tasks.
    """
    return _examples("pretraining", tuple(range(10))), _examples("test", tuple(range(10)))


def zero_one() -> tuple[Examples, Examples]:
    """(train, test) of the digits 0 and 1."""
    return _task("0-1")


def two_four() -> tuple[Examples, Examples]:
    """(train, test) of the digits 2, 3 and 4."""
    return _task("2-4")


def five_nine() -> tuple[Examples, Examples]:
    """(train, test) of the digits 5 to 9."""
    return _task("5-9")


def _task(name: str) -> tuple[Examples, Examples]:
    return _examples("train", TASKS[name]), _examples("test", TASKS[name])


def _examples(part: str, digits: tuple[int, ...]) -> Examples:
    images, targets = _images()
    rows = torch.cat([_split()[digit][part] for digit in digits])
    return images[rows], targets[rows]


@cache
def _images() -> Examples:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError(
            "The digits come with scikit-learn, which is not installed: run `pip install 'previa[demo]'`."
        ) from error
    found = load_digits()
    return torch.from_numpy(found.data / 16).float(), torch.from_numpy(found.target).long()


@cache
def _split() -> dict[int, dict[str, Tensor]]:
    """For each digit its rows of test (half of them), pretraining and train, disjoint, in a seeded order."""
    draw = np.random.default_rng(SEED)
    targets = _images()[1].numpy()
    split = {}
    for digit in range(10):
        rows = torch.from_numpy(draw.permutation(np.flatnonzero(targets == digit)))
        half = len(rows) // 2
        parts = rows[:half], rows[half : half + PRETRAINING], rows[half + PRETRAINING :]
        split[digit] = dict(zip(("test", "pretraining", "train"), parts, strict=True))
    return split
