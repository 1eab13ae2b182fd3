"""A small network for IVON to train, and its equations as the method prints them: slow and obvious."""

import math

import torch
from torch import Tensor, nn

from previa.fit.ivon import IVON

SETTINGS = {"lr": 0.1, "ess": 100.0, "hess_init": 0.5, "betas": (0.9, 0.99), "weight_decay": 1e-2}


def network(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)


def loss(model, seed=1, rows=slice(None)):
    """Mean squared error on 8 fixed rows."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(8, 3, generator=generator), torch.randn(8, 2, generator=generator)
    dtype = next(model.parameters()).dtype
    return (model(x[rows].to(dtype)) - y[rows].to(dtype)).float().square().mean()


def optimizer_of(model, seed=2, **options):
    return IVON(model.parameters(), generator=torch.Generator().manual_seed(seed), **{**SETTINGS, **options})


def train(model, optimizer, steps, samples=1):
    for _ in range(steps):
        for _ in range(samples):
            with optimizer.sampled():
                loss(model).backward()
        optimizer.step()


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()]).clone()


def curvature(optimizer, model):
    """h+delta, as the posterior tells it."""
    return optimizer.posterior(model).natural()[0] / optimizer.param_groups[0]["ess"]


class Oracle:
    """h_hat, g, h, m of Shen et al. 2024, alg. 1, a line per equation."""

    def __init__(
        self, m: Tensor, *, lr, ess, hess_init, b1=0.9, b2=0.99999, delta=0.0, xi=math.inf, rescale=True
    ):
        self.m, self.g, self.h = (
            m.double().clone(),
            torch.zeros_like(m).double(),
            torch.full_like(m, hess_init).double(),
        )
        self.lr = lr * (hess_init + delta) if rescale else lr
        self.ess, self.b1, self.b2, self.delta, self.xi, self.t = ess, b1, b2, delta, xi, 0

    def step(self, samples: list[tuple[Tensor, Tensor]]) -> None:
        """One step from (theta, gradient at theta) of each sample."""
        b1, b2, delta = self.b1, self.b2, self.delta
        g_hat = sum(grad.double() for _, grad in samples) / len(samples)
        products = sum(grad.double() * (theta.double() - self.m) for theta, grad in samples) / len(samples)
        h_hat = self.ess * (self.h + delta) * products
        self.t += 1
        self.g = b1 * self.g + (1 - b1) * g_hat
        self.h = (
            b2 * self.h + (1 - b2) * h_hat + (1 - b2) ** 2 * (self.h - h_hat) ** 2 / (2 * (self.h + delta))
        )
        direction = (self.g / (1 - b1**self.t) + delta * self.m) / (self.h + delta)
        self.m = self.m - self.lr * direction.clamp(-self.xi, self.xi)
