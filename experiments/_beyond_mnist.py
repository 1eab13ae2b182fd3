"""MNIST (figures 8 and 9) for the study beyond the paper: softmax regression, whose joint runs are exact minima."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import fig8_fig9_mnist as figures
import softmax_regression as softmax
import torch
from _beyond import Costs, Ingredients
from _mnist import CLASSES, Bench
from _shared import ROOT, Options, weightings
from torch import Tensor, nn
from torch.nn import Module
from torch.nn.functional import cross_entropy

from previa import Diagonal, Flat, modes
from previa.study.preview import Preview
from previa.study.simplex import find, uniform
from previa.study.store import Store

STUDIES = {"mnist_imbalanced": "fig8_mnist_imbalanced", "mnist_balanced": "fig9_mnist_balanced"}
SHOWN = (0.5, 0.25)
REFINED = (
    (0.6, 0.2, 0.2),
    (0.2, 0.6, 0.2),
    (0.2, 0.2, 0.6),
    (0.8, 0.1, 0.1),
    (0.1, 0.8, 0.1),
    (0.1, 0.1, 0.8),
)


def ingredients(name: str, o: Options) -> Ingredients:
    """One figure at this seed, on its coarse grid."""
    torch.set_num_threads(1)
    classes = figures.STUDIES[STUDIES[name]]
    s = replace(figures.SCALES[o.scale], grid=figures.SCALES[o.scale].beyond)
    own = replace(o, name=STUDIES[name], out=o.out / "study")
    b, test, settings = figures.bench(own, s, classes)
    true, mixture = previews(own, b, test, settings)
    N, D = b.train.X.shape[0], b.train.X.shape[1]
    run = 3.0 * s.steps * N  # of gradient descent, as the paper trains; L-BFGS finds the same minimum sooner
    hessian = (
        3 + (CLASSES + 1) / 2 * D
    )  # an example's gradient and Hessian, in forward passes: C (C + 1) / 2 products D x D
    descent = [q.mode().vector for q in b.descended]
    precisions = [
        s.ess * softmax.squared_gradients(t, theta, s.prior)
        for t, theta in zip(b.tasks, descent, strict=True)
    ]
    squares = [Diagonal(q.mode(), b.params(h)) for q, h in zip(b.descended, precisions, strict=True)]
    costs = Costs(
        run=lambda alpha: run * sum(len(t.X) for a, t in zip(alpha, b.tasks, strict=True) if a > 0) / N,
        sources={"descent": run, "squares": 3.0 * N}
        | dict.fromkeys(("von", "mixture"), s.iterations * s.samples * hessian * N),
        needs={"simple": ("descent",), "squared_gradients": ("descent", "squares"), "von": ("von",),
               f"mixture_{s.components}": ("mixture",)},
        score=len(test.X), losses=N,
    )  # fmt: skip
    inside = {task: torch.isin(test.y, torch.tensor(labels)).double() for task, labels in classes.items()}
    own_images = {task: mask / mask.sum() for task, mask in inside.items()}
    refined = [a for a in REFINED if find(true.alphas, a) is not None] or [tuple(uniform(3).tolist())]
    model = nn.Linear(D, CLASSES, bias=False, dtype=torch.float64)
    families = {
        "simple": partial(modes, posteriors=b.descended),
        "von": partial(modes, posteriors=b.von),
    }
    return Ingredients(
        name, o.seed, tuple(classes), true, model, families,
        {"squared_gradients": partial(modes, posteriors=squares)},
        partial(recognised, own_images, test), partial(losses, dict(zip(classes, b.tasks, strict=True)), s.prior),
        partial(train, b), costs, o.out, refined=refined, shown=SHOWN, thorough=False,
        known={f"mixture_{s.components}": mixture},
    )  # fmt: skip


def previews(
    o: Options, b: Bench, test: softmax.Examples, settings: Mapping[str, Any]
) -> tuple[Preview, Preview]:
    """The truth and the mixtures' preview: from the work folder of the figures where they are there, for they take long."""
    seed = f"seed{o.seed}" if o.seed else ""
    there = ROOT / "experiments-out" / f"fig8_fig9_mnist-{o.scale}" / o.name / seed / "results.sqlite"
    store = Store.read(there) if there.exists() else figures.fill(o, b, test, settings, ("mixture",))
    with closing(store):
        alphas = weightings(len(b.classes), b.s.grid)
        return store.preview("joint").at(alphas), store.preview("mixture").at(alphas)


def recognised(own: Mapping[str, Tensor], test: softmax.Examples, model: Module) -> dict[str, float]:
    """The share of a task's test images, ``own`` [N] among all, that is recognised among all classes."""
    right = (model(test.X).argmax(-1) == test.y).double()
    return {task: float(right @ share) for task, share in own.items()}


def losses(tasks: Mapping[str, softmax.Examples], prior: float, model: Module) -> dict[str, float]:
    """Each task's mean cross entropy and the prior, which together are what is trained."""
    size = sum(float(p.square().sum()) for p in model.parameters())
    return {n: float(cross_entropy(model(t.X), t.y)) + 0.5 * prior * size for n, t in tasks.items()}


def train(b: Bench, alpha: tuple[float, ...], *, start: Flat | None, share: float) -> Flat:
    """The joint minimum or, from a preview, ``share`` of the steps of gradient descent towards it."""
    s = b.s
    if start is None:
        found, _, _ = softmax.joint(
            b.tasks, torch.tensor([alpha], dtype=torch.float64), prior=s.prior, tolerance=s.tolerance
        )
        return b.params(found[0])
    X, Y = torch.cat([t.X for t in b.tasks]), torch.cat([t.indicators for t in b.tasks])
    shares = torch.cat(
        [t.X.new_full((len(t.X), 1), a / len(t.X)) for a, t in zip(alpha, b.tasks, strict=True)]
    )
    W = start.vector.view(CLASSES, -1).double()
    for _ in range(max(1, round(share * s.steps))):
        residual = shares * (torch.softmax(X @ W.mT, -1) - Y)
        W = W - s.lr * (residual.mT @ X + s.prior * W)
    return b.params(W.flatten())
