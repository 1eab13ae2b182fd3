"""The pictures of docs/beyond.md: why previews fail and what mends them, on softmax regression of scikit-learn's digits.

    python experiments/idea_pictures.py [FOLDER]        PNG files into docs/images, some minutes

Three tasks (digits 0-3, 4-6, 7-9), one model of 650 parameters for all ten digits. Joint runs are exact minima, so the truth has no
noise of training. Everything is computed here; nothing is drawn by hand.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import softmax_regression as softmax
import torch
from torch import Tensor

from previa import Flat, Isotropic, Layout, Modes, Run, anchored, modes, warped
from previa.core.warp import warp
from previa.run.powers import POWERS
from previa.run.run_scores import interpolated
from previa.show._look import INK, LINES, MUTED, RULE, figure, save, tidy
from previa.show.quality_cost import RANK, quality_cost
from previa.study import quality
from previa.study.simplex import grid, probes

CLASSES = {"0-3": (0, 1, 2, 3), "4-6": (4, 5, 6), "7-9": (7, 8, 9)}
PRIOR, TOLERANCE = 1e-3, 1e-6  # of the mean loss; largest gradient of a joint run
MIDDLES = ((0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5), (1 / 3, 1 / 3, 1 / 3))
SHOWN = 0.3  # the power of pictures that show one
Method = Callable[[Tensor], Modes]


@dataclass(frozen=True)
class Bench:
    """The data of one seed, half for training and half for the scores, and what is trained on them."""

    seed: int

    @cached_property
    def halves(self) -> tuple[softmax.Examples, softmax.Examples]:
        """Training and test examples: pixels scaled to a mean squared norm of 1, and a constant."""
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        order = np.random.default_rng(self.seed).permutation(len(X))
        X = torch.from_numpy(X[order] / np.sqrt((X**2).sum(1).mean()))
        X = torch.cat([X, torch.full((len(X), 1), 0.3, dtype=torch.float64)], 1)
        y, half = torch.from_numpy(y[order]), len(X) // 2
        return softmax.Examples(X[:half], y[:half], 10), softmax.Examples(X[half:], y[half:], 10)

    @cached_property
    def tasks(self) -> list[softmax.Examples]:
        """Each task's training examples."""
        return [self.halves[0].of(labels) for labels in CLASSES.values()]

    def joint(self, alphas: Tensor) -> Tensor:
        """The exact joint minima [A, P]."""
        return softmax.joint(self.tasks, alphas, prior=PRIOR, tolerance=TOLERANCE)[0]

    def passes(self, alphas: Any) -> float:
        """Forward passes over all training examples that these joint runs [A, T] cost."""
        at = torch.tensor(alphas, dtype=torch.float64)
        iterations = softmax.joint(self.tasks, at, prior=PRIOR, tolerance=TOLERANCE)[2].double()
        sizes = torch.tensor([float(len(task.X)) for task in self.tasks], dtype=torch.float64)
        return float((3 * iterations * ((at > 0).double() @ sizes / sizes.sum())).sum())

    def params(self, theta: Tensor) -> Flat:
        """theta [..., P] under its name and shape."""
        return Flat(Layout((("weight", (10, self.halves[0].X.shape[1])),)), theta)

    @cached_property
    def simple(self) -> Method:
        """Simple averaging of the tasks' own minima."""
        theta = self.joint(torch.eye(3, dtype=torch.float64))
        return partial(modes, posteriors=[Isotropic(self.params(t)) for t in theta])

    @cached_property
    def runs(self) -> list[Run]:
        """Joint runs at the middles of the edges and at the centroid."""
        at = torch.tensor(MIDDLES, dtype=torch.float64)
        return [Run(a, self.params(t)) for a, t in zip(MIDDLES, self.joint(at), strict=True)]

    def scores(self, theta: Tensor) -> np.ndarray:
        """The share of each task's test images that is recognised among all ten digits: [A, T]."""
        right = softmax.correct(self.halves[1], theta).double()
        inside = [torch.isin(self.halves[1].y, torch.tensor(labels)) for labels in CLASSES.values()]
        return torch.stack([right[:, i].mean(1) for i in inside], 1).numpy()

    def losses(self, theta: Tensor) -> Tensor:
        """Each task's mean training loss, the prior included: [A, T]."""
        found = []
        for task in self.tasks:
            logits = (task.X @ theta.view(len(theta), 10, -1).mT).log_softmax(-1)
            found.append(-(logits * task.indicators).sum(-1).mean(-1) + 0.5 * PRIOR * theta.square().sum(-1))
        return torch.stack(found, 1)

    def joint_loss(self, method: Method) -> float:
        """What ``choose_power`` looks at: the mean over ``probes`` of sum_t alpha_t l_t of merged models."""
        at = torch.from_numpy(probes(3))
        return float((at * self.losses(method(at).params.vector)).sum(1).mean())

    def centre(self, alphas: Tensor) -> Tensor:
        """theta_c - (sum_t alpha_t H_t)^-1 sum_t alpha_t g_t, expanded at the merged model of equal weights: [A, P]."""
        even = torch.full((1, 3), 1 / 3, dtype=torch.float64)
        theta = self.simple(even).params.vector
        parts = [softmax.derivatives(task, ess=1.0, prior=PRIOR)(theta) for task in self.tasks]
        g, H = torch.stack([p[1][0] for p in parts]), torch.stack([p[2][0] for p in parts])
        steps = [torch.linalg.solve(torch.einsum("t,tij->ij", a, H), a @ g) for a in alphas]
        return theta - torch.stack(steps)


def edge(n: int = 41) -> Tensor:
    """Weightings from task 0-3 to task 4-6."""
    first = torch.linspace(1, 0, n, dtype=torch.float64)
    return torch.stack([first, 1 - first, torch.zeros_like(first)], 1)


def saturation(b: Bench, path: Path) -> None:
    """Why previews fail: a little weight on a task already buys most of its score."""
    at = edge()
    true, plain = b.scores(b.joint(at)), b.scores(b.simple(at).params.vector)
    bent = b.scores(warped(b.simple, SHOWN)(at).params.vector)
    made = figure(8.6, 3.3)
    what = (("joint training (truth)", true, INK), ("simple averaging", plain, LINES[1]),
            (f"the same, p = {SHOWN:g}", bent, LINES[0]))  # fmt: skip
    titles = ("score of task 0-3", "mean of both tasks")
    for k, title in enumerate(titles):
        axes = made.add_axes((0.075 + 0.365 * k, 0.17, 0.3, 0.7))
        for name, scores, colour in what:
            y = scores[:, 0] if k == 0 else scores[:, :2].mean(1)
            axes.plot(at[:, 0], y, color=colour, linewidth=2 if colour != INK else 1.4, label=name)
        axes.set_xlabel("weight of task 0-3", fontsize=9, color=INK)
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        axes.set_ylim(-0.03, 1.03)
        tidy(axes)
    made.axes[1].legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=8.5)
    save(made, path)


def warps(path: Path) -> None:
    """What the power does to one weight, and to a grid of weightings."""
    made = figure(8.6, 3.1)
    axes = made.add_axes((0.07, 0.18, 0.26, 0.7))
    at = edge(201)
    for p, shade in ((1.0, 0.25), (0.7, 0.4), (0.5, 0.6), (0.3, 0.8), (0.2, 1.0)):
        axes.plot(at[:, 0], warp(at, p)[:, 0], color=LINES[0], alpha=shade, linewidth=1.8)
        w = float(warp(torch.tensor([0.04, 0.96]), p)[0])
        axes.annotate(
            f"{p:g}", (0.04, w), (4, -2), textcoords="offset points", fontsize=8, color=INK, va="top"
        )
    axes.set_title("w against alpha, by p", fontsize=10, color=INK, loc="left")
    axes.set_xlabel("weight asked for, of two tasks", fontsize=9, color=INK)
    tidy(axes)
    points = torch.from_numpy(grid(3, 10))
    for k, (p, title) in enumerate(((1.0, "p = 1: as asked for"), (SHOWN, f"p = {SHOWN:g}: as merged"))):
        axes = made.add_axes((0.4 + 0.31 * k, 0.1, 0.26, 0.78), projection="ternary")
        before, w = points.numpy(), warp(points, p).numpy()
        inside = before.min(1) > 0
        if k:
            for a, c in zip(before[inside], w[inside], strict=True):
                axes.plot(*np.stack([a, c], 1), color=RULE, linewidth=0.6)
        axes.scatter(*w[inside].T, s=13, c=LINES[0], zorder=4)
        axes.scatter(*w[~inside].T, s=11, c=MUTED, zorder=4, clip_on=False)
        for axis in (axes.taxis, axes.laxis, axes.raxis):
            axis.set_ticks([])
        axes.set_title(title, fontsize=10, color=INK)
    save(made, path)


def paths(b: Bench, path: Path) -> None:
    """The way of the model from one task to the other in parameter space: true, merged, through an anchor, from the centre."""
    at, half = edge(), b.runs[0]
    ends = b.joint(torch.eye(3, dtype=torch.float64)[:2])
    along = (ends[1] - ends[0]) / (ends[1] - ends[0]).norm()
    off = half.params.vector - ends.mean(0)
    off = off - (off @ along) * along
    plane = torch.stack([along, off / off.norm()], 1)
    flat = lambda theta: ((theta - ends.mean(0)) @ plane).numpy()  # noqa: E731
    true = flat(b.joint(at))
    simple, bent = (
        flat(b.simple(at).params.vector),
        flat(anchored(b.simple, [half], p=SHOWN)(at).params.vector),
    )
    looked = flat(_from_the_middle(b, at))
    panels = (("merging goes straight", simple, LINES[1]), ("one joint run bends the way", bent, LINES[0]),
              ("one look from the centre", looked, LINES[2]))  # fmt: skip
    made = figure(8.6, 2.3)
    for k, (title, line, colour) in enumerate(panels):
        axes = made.add_axes((0.03 + 0.32 * k, 0.04, 0.3, 0.84))
        axes.plot(*true.T, color=INK, linewidth=1.4)
        axes.plot(*line.T, color=colour, linewidth=2)
        axes.scatter(*true[4:-4:8].T, s=14, c=INK, zorder=4)
        axes.scatter(*line[4:-4:8].T, s=18, c=colour, zorder=4)
        for a, c in zip(true[4:-4:8], line[4:-4:8], strict=True):
            axes.plot(*np.stack([a, c], 1), color=MUTED, linewidth=0.5, linestyle=(0, (2, 2)))
        for name, end in zip(("0-3", "4-6"), flat(ends), strict=True):
            axes.annotate(
                name, end, (0, -12), textcoords="offset points", ha="center", fontsize=8.5, color=INK
            )
        if k == 1:
            axes.scatter(
                *flat(half.params.vector[None]).T, marker="D", s=70, c="white", edgecolors=INK, zorder=5
            )
        if k == 2:
            middle = flat(ends.mean(0)[None])
            axes.scatter(*middle.T, marker="v", s=60, c="white", edgecolors=INK, zorder=5)
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_aspect("equal")
        both = np.concatenate([true, simple, bent, looked])
        low, high = both.min(0), both.max(0)
        pad = 0.08 * (high - low).max()
        axes.set(xlim=(low[0] - pad, high[0] + pad), ylim=(low[1] - 2.2 * pad, high[1] + pad))
    save(made, path)


def _from_the_middle(b: Bench, at: Tensor) -> Tensor:
    """One look at the two tasks of the edge from the middle between their minima: [A, P]."""
    theta = b.joint(torch.eye(3, dtype=torch.float64)[:2]).mean(0, keepdim=True)
    parts = [softmax.derivatives(task, ess=1.0, prior=PRIOR)(theta) for task in b.tasks[:2]]
    g, H = torch.stack([p[1][0] for p in parts]), torch.stack([p[2][0] for p in parts])
    steps = [torch.linalg.solve(torch.einsum("t,tij->ij", a, H), a @ g) for a in at[:, :2]]
    return theta - torch.stack(steps)


def powers(b: Bench, path: Path) -> dict[str, float]:
    """The joint loss of merged models against p, and below it what a user cannot see: the error of the preview."""
    at = torch.from_numpy(grid(3, 10))
    truth = b.scores(b.joint(at)).mean(1)
    shown = np.geomspace(1, 0.08, 15)
    kinds = (("simple averaging", partial(warped, b.simple), LINES[1]),
             ("anchored at 1 run", lambda p: anchored(b.simple, b.runs[3:], p=p), "#56B4E9"),
             ("anchored at 4 runs", lambda p: anchored(b.simple, b.runs, p=p), LINES[0]))  # fmt: skip
    made, chosen = figure(8.6, 3.3), {}
    axes = [made.add_axes((0.08 + 0.37 * k, 0.17, 0.29, 0.7)) for k in range(2)]
    for name, of, colour in kinds:
        losses = [b.joint_loss(of(float(p))) for p in shown]
        errors = [((b.scores(of(float(p))(at).params.vector).mean(1) - truth) ** 2).mean() for p in shown]
        chosen[name] = min(POWERS, key=lambda p, of=of: b.joint_loss(of(p)))
        for axis, values in zip(axes, (losses, errors), strict=True):
            axis.plot(shown, values, color=colour, linewidth=2, label=name)
            y = np.interp(-np.log(chosen[name]), -np.log(shown), values)
            axis.plot(chosen[name], y, "o", color=colour, markeredgecolor="white", markersize=9)
    for axis, title in zip(
        axes, ("joint training loss: measured", "error of the preview (MSE): not seen"), strict=True
    ):
        axis.set_xscale("log")
        axis.set_xlim(1.08, 0.075)
        axis.set_xticks([1, 0.5, 0.25, 0.12], ["1", "0.5", "0.25", "0.12"])
        axis.minorticks_off()
        axis.set_xlabel("power p of the weights", fontsize=9, color=INK)
        axis.set_title(title, fontsize=10, color=INK, loc="left")
        tidy(axis)
    axes[1].set_yscale("log")
    axes[1].minorticks_off()
    axes[1].legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=8.5)
    save(made, path)
    return chosen


def costs(path: Path, seeds: int = 3) -> list[dict[str, Any]]:
    """Quality against cost, all counted in forward passes over all training examples and told in joint runs at equal weights.

    A step of training counts as three passes, over the tasks that have any weight; test examples are as many as training ones.
    """
    rows, at = [], torch.from_numpy(grid(3, 10))
    choosing, drawn = len(POWERS) * len(probes(3)), len(at)
    for seed in range(seeds):
        b = Bench(seed)
        truth, own = b.scores(b.joint(at)), b.joint(torch.eye(3, dtype=torch.float64))
        unit, corners = b.passes(MIDDLES[3:]), b.passes(np.eye(3).tolist())
        hessians = (
            3 + (10 + 1) / 2 * b.halves[0].X.shape[1]
        )  # an example's gradient and its C (C + 1) / 2 products D x D
        theta = torch.stack([run.params.vector for run in b.runs])

        def add(
            method: str, label: str, passes: float, found: np.ndarray, *, seed=seed, unit=unit, truth=truth
        ) -> None:
            p, s = found.mean(1), truth.mean(1)
            row = {"study": "softmax regression, digits", "seed": seed, "method": method, "label": label}
            numbers = {"mse": float(((p - s) ** 2).mean()), "spearman": quality.spearman(p, s)}
            rows.append({**row, "cost": passes / unit, **numbers, "regret": float(s.max() - s[p.argmax()])})

        add("joint", "truth", b.passes(at.tolist()) + drawn, truth)
        add("simple", "simple averaging", corners + drawn, b.scores(b.simple(at).params.vector))
        add("centre", "one look from the centre", corners + hessians + drawn, b.scores(b.centre(at)))
        for n in (0, 1, 4):
            runs, some = b.runs[4 - n :], f"{n} run{'s' * (n > 1)}"
            of = partial(anchored, b.simple, runs)
            p = min(POWERS, key=lambda p, of=of: b.joint_loss(of(p=p)))
            trained = corners + (b.passes(MIDDLES[4 - n :]) if n else 0)
            name = (f"anchored_{n}", f"anchored, {some}") if n else ("warped", "warped weights")
            add(*name, trained + choosing + drawn, b.scores(of(p=p)(at).params.vector))
            if n:
                seen = interpolated(
                    b.scores(own), MIDDLES[4 - n :], b.scores(theta[4 - n :]), at.numpy(), p=p
                )
                add(f"scores_{n}", f"their scores, {some}", trained + 3 + n, seen)
    quality_cost(rows, path, columns=1, measures=[RANK])
    return rows


def main() -> None:
    """All pictures, and the numbers that the page quotes."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs" / "images"
    b = Bench(0)
    saturation(b, folder / "idea-saturation.png")
    warps(folder / "idea-warp.png")
    paths(b, folder / "idea-anchor.png")
    print("chosen powers:", powers(b, folder / "idea-power.png"))
    rows = costs(folder / "idea-cost.png")
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        print(f"{method:12} cost {own[0]['cost']:5.1f}", *(f"{k} {np.mean([r[k] for r in own]):.5f}" for k in ("mse", "spearman", "regret")))  # fmt: skip


if __name__ == "__main__":
    main()
