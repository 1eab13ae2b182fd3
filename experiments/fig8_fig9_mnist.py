"""Figures 8 and 9: softmax regression on MNIST, three tasks of disjoint classes, imbalanced and balanced (paper, C.1, B.2).

Previews: simple averaging (gradient descent), one full Gaussian a task (VON), mixtures of 20 (Lin et al. 2019) merged by EM; and some
that are not in the paper. All are of one objective, mean cross entropy + prior, whose joint minima are the truth.
"""

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import asdict, replace

import numpy as np
import softmax_regression as softmax
import torch
from _mnist import CLASSES, Bench, Settings, read
from _shared import Options, data, finish, open_store, options, weightings
from torch import Tensor

from previa import Full, Mixture, Modes, StudentT, compare, modes
from previa.run.executors import map_processes
from previa.study.simplex import find, uniform
from previa.study.store import Store

STUDIES = {
    "fig8_mnist_imbalanced": {"0-1": (0, 1), "2-4": (2, 3, 4), "5-9": (5, 6, 7, 8, 9)},
    "fig9_mnist_balanced": {"0-2": (0, 1, 2), "3-6": (3, 4, 5, 6), "7-9": (7, 8, 9)},
}
HELD_OUT = {  # other tasks, scored on images of the training set that are not trained on: no setting was chosen on these
    "fig8_mnist_imbalanced": {"3, 9": (3, 9), "1, 5, 8": (1, 5, 8), "0, 2, 4, 6, 7": (0, 2, 4, 6, 7)},
    "fig9_mnist_balanced": {"1, 4, 9": (1, 4, 9), "0, 2, 6, 7": (0, 2, 6, 7), "3, 5, 8": (3, 5, 8)},
}
COLUMNS = (
    ("joint", "joint training"),
    ("simple", "simple"),
    ("von", "full Gaussian"),
    ("mixture", "mixture of 20"),
)
ROLES = {"simple": "simple", "hessian": "von", "mixture": "mixture"}
SEEDED = (*ROLES.values(), "von_few", "mixture_from_prior")  # what is done for more seeds
HOT = 5  # steps of the grid of mixtures with a temperature, whose components all share, which is slow,
HOT_ITERATIONS = 10  # and of their EM at most; whether it converged is kept
CHUNK = 1 << 28  # bytes of parameters, and of predictions, at a time
Method = Callable[[Tensor], Modes]


SCALES = {
    "tiny": Settings(4, 5, training=300, test=300, grid=4, beyond=4, seeds=1, components=4, steps=100),
    "small": Settings(4, 2, training=3000, test=10_000, grid=50, beyond=10),
    "paper": Settings(0, 1, training=60_000, test=10_000, grid=50, beyond=10),
}


def methods(b: Bench) -> dict[str, tuple[int, Callable[[], Method]]]:
    """name -> (steps of its grid, what makes the preview method): fits are not made before they are wanted."""
    s = b.s

    def of(posteriors: Callable[[], list], power: float = 1.0, most: int = 500) -> Callable[[], Method]:
        def make() -> Method:
            qs = posteriors()
            return lambda alphas: modes(powered(alphas, power), qs, max_iterations=most)

        return make

    def hot(tau: float) -> Callable[[], Method]:
        return of(lambda: [Mixture(q.components, q.weights, tau) for q in b.mixtures], most=HOT_ITERATIONS)

    def curvature(_: softmax.Examples, q: Full) -> Tensor:
        return q.precision.diagonal()

    def squares(task: softmax.Examples, q: Full) -> Tensor:
        return s.ess * softmax.squared_gradients(task, q.mode().vector, s.prior)

    def tails(nu: float) -> list[StudentT]:
        return [StudentT(q.mode(), q.precision, nu) for q in b.diagonal(curvature)]

    paper = {"simple": of(lambda: b.descended), "von": of(lambda: b.von), "mixture": of(lambda: b.mixtures)}
    beyond = {
        "simple_warped": of(lambda: b.descended, 0.5),
        "von_warped": of(lambda: b.von, 0.5),
        "mixture_from_prior": of(lambda: b.mixed(s.prior)),
        "mixture_warped": of(lambda: b.mixtures, 0.5),
        "mixture_tau100": hot(1e2),
        "mixture_tau10000": hot(1e4),
        "von_few": of(lambda: b.von_few),
        "laplace": of(lambda: b.laplace),
        "diagonal_laplace": of(lambda: b.diagonal(curvature)),
        "squared_gradients": of(lambda: b.diagonal(squares)),
        "student_t": of(lambda: tails(1.0)),
        "expansion_at_0": of(lambda: b.expanded(0.0)),
        "expansion_at_quarter": of(lambda: b.expanded(0.25)),
    }
    return {name: (s.grid, make) for name, make in paper.items()} | {
        name: (min(s.beyond, HOT) if "_tau" in name else s.beyond, make) for name, make in beyond.items()
    }


def powered(alphas: Tensor, power: float) -> Tensor:
    """alpha^power, normalised: weights below 1 spread (beyond the paper)."""
    w = alphas**power
    return w / w.sum(-1, keepdim=True)


def scored(
    test: softmax.Examples, classes: Mapping[str, tuple[int, ...]], theta: Tensor
) -> list[dict[str, np.ndarray]]:
    """For each row of theta [A, P] and each task: 1 for each of its test images that is recognised among all classes."""
    right = softmax.correct(test, theta).cpu().numpy().astype("float32")
    items = {task: np.isin(test.y.cpu().numpy(), labels) for task, labels in classes.items()}
    return [{task: row[kept] for task, kept in items.items()} for row in right]


def keep(
    store: Store, name: str, alphas: np.ndarray, test: softmax.Examples, classes: Mapping, made: Callable
) -> None:
    """Record ``name`` where it is missing: made(alphas [A, T]) -> (theta [A, P], stats), so many rows at a time as fit."""
    missing = alphas[store.missing(name, alphas)]
    rows = max(1, CHUNK // (8 * max(test.size, len(test.X) * CLASSES)))
    for some in np.split(missing, range(rows, len(missing), rows)) if len(missing) else []:
        began = time.perf_counter()
        theta, stats = made(torch.from_numpy(some))
        scores = scored(test, classes, theta)
        seconds = (time.perf_counter() - began) / len(some)
        for row, (alpha, score) in enumerate(zip(some, scores, strict=True)):
            store.record(
                name, alpha, score, seconds=seconds, stats={k: float(v[row]) for k, v in stats.items()}
            )


def check(b: Bench, test: softmax.Examples, alphas: np.ndarray) -> dict[str, float]:
    """Joint runs against Newton's method at a corner, an edge and inside: largest differences of loss and accuracy."""
    picked = torch.from_numpy(alphas[[0, len(alphas) // 2, len(alphas) // 3]])
    theta, size, _ = softmax.joint(b.tasks, picked, prior=b.s.prior, tolerance=b.s.tolerance)
    losses, accuracies = [], []
    for alpha, found in zip(picked, theta, strict=True):

        def weighted(x: Tensor, alpha: Tensor = alpha) -> tuple[Tensor, ...]:
            parts = [[a * part for part in at(x)] for a, at in zip(alpha.tolist(), b.losses, strict=True)]
            return tuple(sum(column) for column in zip(*parts, strict=True))

        exact, _ = softmax.newton(weighted, found)
        losses.append(float(weighted(found[None])[0] - weighted(exact[None])[0]) / b.s.ess)
        both = softmax.correct(test, torch.stack([found, exact])).double().mean(-1)
        accuracies.append(abs(float(both[0] - both[1])))
    return {"gradient": float(size.max()), "loss": max(losses), "accuracy": max(accuracies)}


def overall(
    store: Store, test: softmax.Examples, classes: Mapping[str, tuple[int, ...]]
) -> dict[str, dict[str, float]]:
    """The same errors where the score is the accuracy on the whole test set: each task weighs by its test images."""
    sizes = np.array([int(np.isin(test.y.cpu().numpy(), labels).sum()) for labels in classes.values()])
    truth = store.preview("joint")
    found = {}
    for name in ROLES.values():
        shown = store.preview(name)
        true, preview = (p.scores @ sizes / sizes.sum() for p in (truth.at(shown.alphas), shown))
        pick = int(preview.argmax())
        found[name] = {
            "mse": float(np.square(preview - true).mean()),
            "previewed_best": float(preview[pick]),
            "true_score_at_pick": float(true[pick]),
            "best": float(true.max()),
        }
    return found


def brief(store: Store, alphas: np.ndarray, names: Collection[str] = SEEDED) -> dict[str, dict[str, float]]:
    """The error, regret and rank correlation of these methods over these weightings."""
    truth = store.preview("joint").at(alphas)
    previews = {name: store.preview(name).at(alphas) for name in names}
    found = compare(truth, previews, uniform=uniform(3), size_proportional=uniform(3))
    kept = ("mse", "regret_at_1", "regret_noise", "spearman")
    return {name: {key: getattr(q, key) for key in kept} for name, q in found.methods.items()}


def fill(o: Options, b: Bench, test: softmax.Examples, settings: Mapping, names: Collection[str]) -> Store:
    """The study's store with the joint runs, and the previews of these methods."""
    s, store = b.s, open_store(o, tuple(b.classes), settings)
    alphas = weightings(len(b.classes), s.grid)

    def train_jointly(some: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        parts = []
        for rows in some.split(softmax.rows_at_a_time(b.tasks)):
            parts.append(softmax.joint(b.tasks, rows.to(o.device), prior=s.prior, tolerance=s.tolerance))
            done, left = sum(len(part[0]) for part in parts), len(store.missing("joint", alphas))
            print(f"{o.name}, joint: {len(alphas) - left + done} of {len(alphas)} weightings", flush=True)
        theta, size, iterations = (torch.cat(column) for column in zip(*parts, strict=True))
        return theta, {"gradient": size, "iterations": iterations}

    keep(store, "joint", alphas, test, b.classes, train_jointly)
    for name, (steps, make) in methods(b).items():
        rows = alphas if steps == s.grid else shared(alphas, weightings(len(b.classes), steps))
        if name not in names or not len(store.missing(name, rows)):
            continue
        began = time.perf_counter()
        method = make()
        fitting = time.perf_counter() - began
        store.add_seconds(f"fit/{name}", fitting)

        def previewed(some: Tensor, method: Method = method) -> tuple[Tensor, Mapping[str, Tensor]]:
            found = method(some)
            return found.params.vector, found.stats

        keep(store, name, rows, test, b.classes, previewed)
        took = time.perf_counter() - began - fitting
        print(
            f"{o.name}, {name}: fitted in {fitting:.0f} s, {len(rows)} previews in {took:.0f} s", flush=True
        )
    return store


def shared(alphas: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Those of ``wanted`` that are in ``alphas``: only they have a truth."""
    return wanted[[find(alphas, row) is not None for row in wanted]]


def bench(
    o: Options, s: Settings, classes: Mapping[str, tuple[int, ...]], held_out: bool = False
) -> tuple[Bench, softmax.Examples, dict]:
    """(tasks and fits, test images, all settings) of one figure and seed."""
    train, test = read(s, o.seed, o.device, held_out)
    b = Bench(s, train, classes, o.seed)
    sizes = {task: len(examples.X) for task, examples in zip(classes, b.tasks, strict=True)}
    tasks = {task: list(labels) for task, labels in classes.items()}
    return b, test, {**asdict(s), "parameters": train.size, "sizes": sizes, "tasks": tasks}


def study(o: Options) -> None:
    """One figure; what is done already is not done again."""
    started, s, classes = time.perf_counter(), SCALES[o.scale], STUDIES[o.name]
    b, test, settings = bench(o, s, classes)
    store = fill(o, b, test, settings, methods(b))
    if store.get("check") is None:
        store.put("check", check(b, test, weightings(len(classes), s.grid)))
    coarse = shared(weightings(len(classes), s.grid), weightings(len(classes), s.beyond))
    seeds = {str(o.seed): brief(store, coarse)}
    for seed in range(o.seed + 1, o.seed + 1 + s.seeds):
        other = replace(o, seed=seed, name=f"{o.name}, seed {seed}", out=o.out / f"seed{seed}")
        again, its_test, its_settings = bench(other, replace(s, grid=s.beyond), classes)
        with closing(fill(other, again, its_test, its_settings, SEEDED)) as its:
            seeds[str(seed)] = brief(its, coarse)
    other = replace(o, name=f"{o.name}, held out", out=o.out / "held-out")
    again, its_test, its_settings = bench(other, replace(s, grid=s.beyond), HELD_OUT[o.name], held_out=True)
    with closing(fill(other, again, its_test, its_settings, tuple(ROLES.values()))) as its:
        held_out = {"tasks": its_settings["tasks"], **brief(its, coarse, tuple(ROLES.values()))}
    em = store.preview("mixture").stats
    extra = {
        "joint_against_newton": store.get("check"),
        "accuracy_on_the_whole_test_set": overall(store, test, classes),
        "seeds_on_the_coarse_grid": seeds,
        "held_out_on_the_coarse_grid": held_out,
        "em": {name: float(np.nanmean(em[name])) for name in ("iterations", "converged", "effective_k")},
        "fit_seconds": {
            k.removeprefix("fit/"): v for k, v in store.seconds().items() if k.startswith("fit/")
        },
    }
    title = f"MNIST, {'imbalanced' if 'imbalanced' in o.name else 'balanced'}"
    finish(
        o, store, started=started, title=title, columns=COLUMNS, settings=settings, extra=extra, roles=ROLES
    )


def main() -> None:
    """Both figures, each in a process of its own where there are cores."""
    o = options("fig8_fig9_mnist", __doc__)
    data("mnist")
    if o.device == "cpu":
        torch.set_num_threads(
            1
        )  # matrices are small: threads that wait for each other cost more than they do
    figures = [replace(o, name=name, out=o.out / name) for name in STUDIES]
    for figure in map_processes(study, figures, min(o.workers, len(figures))):
        if figure.failure:
            raise SystemExit(f"{figure.item.name}: {figure.failure}")


if __name__ == "__main__":
    main()
