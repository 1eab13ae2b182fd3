"""Posteriors of every family on one small model, for laws that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from previa import Beta, Diagonal, Full, Isotropic, Kronecker, Layout, Mixture, StudentT

SHAPES = {"a.weight": (3, 2), "a.bias": (3,), "scale": ()}
P = 10


def draw(
    seed: int, positive: bool = False, unit: bool = False, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    out = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()
    }
    if positive:
        out = {name: value.exp() for name, value in out.items()}
    elif unit:
        out = {name: value.sigmoid() for name, value in out.items()}
    return {name: value.to(dtype) for name, value in out.items()}


def gram(n: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    X = torch.randn(n, n + 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (X @ X.T / n).to(dtype)


def diagonal(seed: int, dtype: torch.dtype = torch.float64) -> Diagonal:
    return Diagonal(draw(seed, dtype=dtype), draw(seed + 100, positive=True, dtype=dtype))


def mixture(seed: int, dtype: torch.dtype = torch.float64) -> Mixture:
    """Of three components that overlap, of one shape: so EM finds one mode from every start, and in any company."""
    first = diagonal(seed, dtype)
    means = [draw(10 * seed + k, dtype=dtype) for k in range(3)]
    near = [{n: 0.9 * first.mode()[n] + 0.1 * mean[n] for n in SHAPES} for mean in means]
    return Mixture([Diagonal(mean, first.precision) for mean in near], [0.5, 0.3, 0.2])


FAMILIES: dict[str, Callable[..., Any]] = {
    "isotropic": lambda seed, dtype=torch.float64: Isotropic(draw(seed, dtype=dtype), 0.5 + seed % 3),
    "diagonal": diagonal,
    "full": lambda seed, dtype=torch.float64: Full(draw(seed, dtype=dtype), gram(P, seed, dtype)),
    "beta": lambda seed, dtype=torch.float64: Beta(
        {n: 1 + v for n, v in draw(seed, positive=True, dtype=dtype).items()},
        {n: 1 + v for n, v in draw(seed + 100, positive=True, dtype=dtype).items()},
    ),
    "kronecker": lambda seed, dtype=torch.float64: Kronecker(
        draw(seed, dtype=dtype),
        {"a.weight": (gram(3, seed, dtype), gram(3, seed + 50, dtype))},
        {"scale": draw(seed + 100, positive=True, dtype=dtype)["scale"]},
    ),
    "mixture": mixture,
    "student_t": lambda seed, dtype=torch.float64: StudentT(
        draw(seed, dtype=dtype), draw(seed + 100, positive=True, dtype=dtype), 20.0
    ),
}
families = pytest.mark.parametrize("family", FAMILIES)
assert Layout.of(draw(0)).size == P

# What is left of float64 in a closed form; conjugate gradients end at 1e-6 of the plain average's residual, which leaves some
# ten times that in theta; EM ends when no responsibility moves by more than 1e-8.
CLOSED = {"rtol": 1e-10, "atol": 1e-10}
SOLVED = {"rtol": 0.0, "atol": 1e-5}


def tolerance(family: str) -> dict[str, float]:
    return SOLVED if family in ("kronecker", "mixture", "student_t") else CLOSED
