"""The 2-D toy of figure 2 (METHOD 5), as experiments/_toy.py draws it: how far previews end from the truth."""

import sys
from pathlib import Path

import numpy as np
import torch

from previa import Isotropic, modes
from previa.study.simplex import grid

sys.path.append(str(Path(__file__).parent.parent / "experiments"))  # where its losses are drawn
from _toy import derivatives, draw_losses, grid_mixture, laplace, losses, minimiser

__all__ = ["Toy", "derivatives", "draw_losses", "excess_losses", "laplace"]


class Toy:
    """One draw of the three losses, and the true minimisers at 66 weightings."""

    def __init__(self, seed: int) -> None:
        self.a, self.b = draw_losses(seed)
        self.alphas = grid(3, 10)
        self.own = [minimiser(self.a, self.b, alpha) for alpha in np.eye(3)]
        self.floor = self.weighted(np.array([minimiser(self.a, self.b, alpha) for alpha in self.alphas]))

    def weighted(self, theta: np.ndarray) -> np.ndarray:
        """sum_t alpha_t l_t(theta_alpha) for theta [66, 2]."""
        return (self.alphas * losses(self.a, self.b, theta)).sum(-1)

    def excess(self, posteriors) -> float:
        """Mean over the weightings of sum_t alpha_t l_t(preview) minus its minimum."""
        previews = modes(torch.from_numpy(self.alphas), posteriors).params.vector
        return float((self.weighted(previews.numpy()) - self.floor).mean())

    def simple(self):
        """What simple averaging takes the posteriors to be."""
        return [Isotropic({"theta": torch.from_numpy(m)}) for m in self.own]


def excess_losses(seed: int) -> dict[str, float]:
    """`Toy.excess` of simple averaging, of Laplace posteriors, and of mixtures fitted on a grid."""
    toy = Toy(seed)
    tasks = list(zip(toy.a, toy.b, strict=True))
    return {
        "simple": toy.excess(toy.simple()),
        "laplace": toy.excess([laplace(a, b) for a, b in tasks]),
        "mixture": toy.excess([grid_mixture(a, b, seed) for a, b in tasks]),
    }
