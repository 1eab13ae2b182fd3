"""One regression for two groups of patients: scikit-learn's diabetes data, men and women as two tasks.

The functions that the study file names: a model, a loss per example, a score per patient, and the data of each task.
"""

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

Patients = tuple[Tensor, Tensor]


def build() -> nn.Module:
    """A small network from ten measurements to the progression of the disease a year later (standardised)."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))


def loss(model: nn.Module, batch: Patients) -> Tensor:
    """Squared error of each patient, [B]."""
    inputs, progression = batch
    return (model(inputs).squeeze(-1) - progression).square()


def score(model: nn.Module, test: Patients) -> Tensor:
    """Minus the absolute error of each patient, [N]: higher is better."""
    inputs, progression = test
    return -(model(inputs).squeeze(-1) - progression).abs()


def group_a() -> tuple[Patients, Patients]:
    """(train, test): patients of the first sex code."""
    return _group(0)


def group_b() -> tuple[Patients, Patients]:
    """(train, test): patients of the second sex code, and only a quarter of their training data."""
    (inputs, progression), test = _group(1)
    return (inputs[::4], progression[::4]), test


def _group(code: int) -> tuple[Patients, Patients]:
    data = load_diabetes()
    inputs, progression = torch.from_numpy(data.data).float() * 20, torch.from_numpy(data.target).float()
    progression = (progression - progression.mean()) / progression.std()
    rows = torch.nonzero((inputs[:, 1] > 0) == bool(code)).squeeze(-1)
    train, test = rows[::2], rows[1::2]
    return (inputs[train], progression[train]), (inputs[test], progression[test])
