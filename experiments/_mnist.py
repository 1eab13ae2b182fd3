"""Figures 8 and 9: MNIST's images, the three tasks, and the posteriors fitted to them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import softmax_regression as softmax
import torch
from _shared import data, idx
from torch import Tensor
from torch.nn.functional import avg_pool2d

from previa import Diagonal, Flat, Full, Isotropic, Layout, Mixture
from previa.fit.mixture_vi import mixture_vi, scattered
from previa.fit.von import von

CLASSES = 10


@dataclass(frozen=True)
class Settings:
    """Sizes and hyper-parameters of one scale, the same for both figures."""

    crop: int  # pixels taken off each side: MNIST's digits lie in the middle 20 x 20
    pool: int  # side of the squares of pixels that are averaged
    training: int
    test: int
    grid: int  # steps of the simplex for the paper's methods
    beyond: int  # and for the others
    seeds: int = (
        2  # more of them: other images, starts and draws, for the main methods on the grid ``beyond``
    )
    components: int = 20
    prior: float = 1e-4  # precision of the prior on the scale of the mean loss
    ess: float = 6e4  # a posterior is exp(-ess * (mean loss + prior)): MNIST's size, the same for each task
    start: float = 3e-5  # precision, on the prior's scale, of the Gaussians that variational fits begin with
    spread: float = 0.5  # of the components' means at the start, in standard deviations of that Gaussian
    lr: float = 3.0
    steps: int = 2500
    von_lr: float = 0.1
    mixture_lr: float = 0.02
    weights_lr: float = 3e-6
    samples: int = 3
    iterations: int = 25
    bias: float = 0.3  # the constant feature; pixels have a mean squared norm of 1, so that lr = 3 is stable
    tolerance: float = 1e-5  # largest gradient of a joint run


@dataclass(frozen=True)
class Bench:
    """One figure's tasks, and the fits of them, each made when it is first asked for."""

    s: Settings
    train: softmax.Examples
    classes: Mapping[str, tuple[int, ...]]
    seed: int

    @cached_property
    def tasks(self) -> list[softmax.Examples]:
        """Each task's training examples."""
        return [self.train.of(labels) for labels in self.classes.values()]

    @cached_property
    def losses(self) -> list[softmax.Derivatives]:
        """Each task's l = ess * (mean cross entropy + prior)."""
        return [softmax.derivatives(task, ess=self.s.ess, prior=self.s.prior) for task in self.tasks]

    def params(self, theta: Tensor) -> Flat:
        """theta [..., P] under its name and shape."""
        return Flat(Layout((("weight", (CLASSES, self.train.X.shape[1])),)), theta)

    @property
    def zero(self) -> Tensor:
        """[P]"""
        return self.train.X.new_zeros(self.train.size)

    def start(self, precision: float) -> Full:
        """N(0, 1/(ess precision)): where variational fits begin."""
        eye = torch.eye(self.train.size, dtype=torch.float64, device=self.train.X.device)
        return Full(self.params(self.zero), self.s.ess * precision * eye)

    def generator(self, *what: int) -> torch.Generator:
        """A stream of random numbers of its own for each use."""
        return torch.Generator().manual_seed(
            int(np.random.SeedSequence([self.seed, *what]).generate_state(1)[0])
        )

    @cached_property
    def descended(self) -> list[Isotropic]:
        """Gradient descent as the paper has it."""
        run = partial(softmax.gradient_descent, lr=self.s.lr, steps=self.s.steps, prior=self.s.prior)
        return [Isotropic(self.params(run(task))) for task in self.tasks]

    @cached_property
    def laplace(self) -> list[Full]:
        """The Hessian at each task's minimum."""
        minima = (softmax.newton(at, self.zero) for at in self.losses)
        return [Full(self.params(theta), H) for theta, H in minima]

    @cached_property
    def von(self) -> list[Full]:
        """The paper's full Gaussians."""
        return [
            self.gaussian(t, lr=self.s.von_lr, samples=self.s.samples, steps=self.s.iterations)
            for t in range(3)
        ]

    @cached_property
    def von_few(self) -> list[Full]:
        """One Gaussian with the updates that one component has, of their size: the mixture without mixing."""
        s = self.s
        steps, lr = round(s.iterations * s.samples / s.components), s.mixture_lr * s.components / s.samples
        return [self.gaussian(t, lr=lr, samples=1, steps=steps, averaged=0.0) for t in range(3)]

    def gaussian(self, t: int, **settings: float) -> Full:
        """Task t's posterior by VON."""
        q = self.start(self.s.start)
        return von(
            self.losses[t], q.mode(), precision=q.precision, generator=self.generator(1, t), **settings
        )

    @cached_property
    def mixtures(self) -> list[Mixture]:
        """The paper's mixtures."""
        return self.mixed(self.s.start)

    def mixed(self, precision: float) -> list[Mixture]:
        """Each task's mixture, from components of this precision that start spread out."""
        s = self.s
        kept = {"lr": s.mixture_lr, "lr_weights": s.weights_lr, "samples": s.samples, "steps": s.iterations}
        fitted = []
        for t, at in enumerate(self.losses):
            starts = scattered(
                self.start(precision), s.components, spread=s.spread, generator=self.generator(2, t)
            )
            fitted.append(mixture_vi(at, starts, generator=self.generator(3, t), **kept))
        return fitted

    def expanded(self, share: float) -> list[Full]:
        """The quadratic expansion of each loss on the way from zero to the task's minimum, ``share`` of the way."""
        quadratics = []
        for q, at in zip(self.laplace, self.losses, strict=True):
            theta = share * q.mode().vector
            _, g, H = (part[0] for part in at(theta[None]))
            minimum = theta - torch.cholesky_solve(g[:, None], torch.linalg.cholesky(H))[:, 0]
            quadratics.append(Full(self.params(minimum), H))
        return quadratics

    def diagonal(self, precision: Callable[[softmax.Examples, Full], Tensor]) -> list[Diagonal]:
        """Diagonal Gaussians at the tasks' minima."""
        pairs = zip(self.tasks, self.laplace, strict=True)
        return [Diagonal(q.mode(), self.params(precision(task, q))) for task, q in pairs]


def read(
    s: Settings, seed: int, device: str, held_out: bool = False
) -> tuple[softmax.Examples, softmax.Examples]:
    """(train, test): a random subset of the training images, the first of the test images, pooled and scaled alike.

    held_out: other training images, and further ones in the place of the test images.
    """
    folder = data("mnist")
    parts = []
    for kind, first, size in (
        ("train", 0, s.training),
        ("train", s.training, s.test) if held_out else ("t10k", 0, s.test),
    ):
        pixels, labels = (
            idx(folder / f"{kind}-images-idx3-ubyte.gz"),
            idx(folder / f"{kind}-labels-idx1-ubyte.gz"),
        )
        order = np.random.default_rng([seed, 1] if held_out else seed).permutation(len(labels))
        rows = order[first : first + size] if kind == "train" else slice(size)
        X = torch.from_numpy(pixels[rows].astype("float64") / 255)
        X = X[:, s.crop : X.shape[1] - s.crop, s.crop : X.shape[2] - s.crop]
        X = avg_pool2d(X[:, None], s.pool).flatten(1)
        parts.append((X, torch.from_numpy(labels[rows].astype("int64"))))
    scale = parts[0][0].square().sum(-1).mean().sqrt()
    train, test = (
        softmax.Examples(
            torch.cat([X / scale, torch.full((len(X), 1), s.bias)], -1).to(device), y.to(device), CLASSES
        )
        for X, y in parts
    )
    return train, test
