"""The surfaces of `search.py`: previews of real studies, scored at every weighting of a grid.

Digits by previa's own study pipeline (the demo's, and one of five tasks with two digits each); MNIST by softmax regression as in
experiments/fig8_fig9_mnist.py. Each is made once and kept as an npz file of plain arrays.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from previa import Isotropic, grid, modes, warped
from previa.data import digits
from previa.study import bootstrap
from previa.study.file import Study, read_study
from previa.study.preview import Preview
from previa.study.quality import ranking

Array = NDArray[np.float64]

HERE = Path(__file__).resolve().parent
PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
MNIST = {
    "MNIST, imbalanced": ((0, 1), (2, 3, 4), (5, 6, 7, 8, 9)),
    "MNIST, balanced": ((0, 1, 2), (3, 4, 5, 6), (7, 8, 9)),
    "MNIST, five tasks": PAIRS,
}
DIGITS = {"digits": digits.TASKS.values(), "digits, five tasks": PAIRS}
STEPS = {3: 20, 5: 10}
"""tasks -> steps of the grid: 231 and 1001 weightings"""


@dataclass(frozen=True, eq=False)
class Surface:
    """Scores of one preview at every weighting of a grid: alphas [A, T], scores [A, T]; what counts is their mean over tasks.

    noise: the regret up to which a weighting cannot be told from the best, by paired bootstrap over test items.
    """

    study: str
    method: str
    alphas: Array
    scores: Array
    noise: float

    @property
    def gap(self) -> Array:
        """How far each weighting is below the best, in points: [A]."""
        mean = self.scores.mean(axis=1)
        return np.asarray(100 * (mean.max() - mean))


def surfaces(
    folder: Path, studies: Sequence[str] = (*DIGITS, *MNIST), *, tiny: bool = False
) -> list[Surface]:
    """All previews of these studies, made where the folder has them not yet. tiny: a coarse grid and few steps."""
    found = []
    for study in studies:
        file = folder / f"{study.replace(', ', '-').replace(' ', '_')}{'-tiny' * tiny}.npz"
        if not file.is_file():
            previews = (_digits if study in DIGITS else _mnist)(study, folder, tiny)
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(file, **_arrays(previews))
            print(f"made {study}: {list(previews)}", flush=True)
        with np.load(file) as kept:
            methods = [name.removeprefix("scores/") for name in kept if name.startswith("scores/")]
            found += [
                Surface(study, m, kept["alphas"], kept[f"scores/{m}"], float(kept[f"noise/{m}"]))
                for m in methods
            ]
    return found


def _arrays(previews: Mapping[str, Preview]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, preview in previews.items():
        T = len(preview.tasks)
        whole = bootstrap.scored(preview, bootstrap.resampled(preview, seed=0), np.full(T, 1 / T))
        best = int(ranking(whole.score, whole.alphas)[0])
        out |= {
            "alphas": preview.alphas,
            f"scores/{name}": preview.scores,
            f"noise/{name}": whole.regret_noise(best),
        }
    return out


def _digits(name: str, folder: Path, tiny: bool) -> dict[str, Preview]:
    """The demo's study, or the same with five tasks; every weighting by every family, and warped averages."""
    from previa.run.fit import fit
    from previa.run.pipeline import preview
    from previa.run.work import opened

    torch.set_num_threads(1)  # pretraining amplifies rounding
    with resources.as_file(resources.files("previa.data") / "digits.toml") as file:
        study = read_study(file)
    classes = DIGITS[name]
    steps = 4 if tiny else STEPS[len(classes)]
    study = replace(
        study,
        out=folder / name.replace(", ", "-").replace(" ", "_"),
        preview=replace(study.preview, steps=steps),
    )
    if len(classes) == 5:
        task = study.tasks[0]
        tasks = [
            replace(task, name=f"{a}-{b}", data=f"{Path(__file__).stem}:pair_{a}{b}") for a, b in classes
        ]
        study = replace(study, name=name, tasks=tuple(tasks), folder=HERE)
    if tiny:
        study = _tiny(study)
    with opened(study) as work:
        previews = preview(work, fit(work))
        alphas = grid(len(classes), steps)  # without uniform weights where the grid has them not
        return {
            m: p.at(alphas) for m, p in previews.items() if m != "task_arithmetic"
        }  # the same as simple averaging


def _tiny(study: Study) -> Study:
    few = {"steps": 20}
    return replace(
        study,
        out=study.out.with_name(f"{study.out.name}-tiny"),
        pretrain=replace(study.pretrain, **few) if study.pretrain else None,
        finetune=replace(study.finetune, **few),
        adamw=replace(study.adamw, **few),
        mixture=replace(study.mixture, seeds=1, snapshots=2),
    )


def _pair(a: int, b: int) -> tuple[digits.Examples, digits.Examples]:
    """(train, test) of two digits."""
    parts = [digits.zero_one(), digits.two_four(), digits.five_nine()]
    train, test = (tuple(torch.cat([part[k][j] for part in parts]) for j in (0, 1)) for k in (0, 1))
    return tuple((x[rows], y[rows]) for x, y in (train, test) for rows in [(y == a) | (y == b)])  # type: ignore[return-value]


pair_01, pair_23, pair_45, pair_67, pair_89 = (partial(_pair, *pair) for pair in PAIRS)


def _mnist(name: str, folder: Path, tiny: bool) -> dict[str, Preview]:
    """Averages, the same warped, full Gaussians by VON, and squared gradients; the images must be in the data folder."""
    sys.path.insert(0, str(HERE.parent / "experiments"))
    import softmax_regression as softmax
    from _mnist import Bench, Settings, read

    s = Settings(4, 5, 300, 300, 4, 4, steps=100) if tiny else Settings(4, 2, 3000, 10_000, 20, 20)
    train, test = read(s, 0, "cpu")
    names = {"-".join(str(c) for c in labels): labels for labels in MNIST[name]}
    b = Bench(s, train, names, 0)
    T, P = len(names), range(len(names))
    gaussians = [b.gaussian(t, lr=s.von_lr, samples=s.samples, steps=s.iterations) for t in P]
    squares = b.diagonal(lambda task, q: s.ess * softmax.squared_gradients(task, q.mode().vector, s.prior))
    simple: Callable[..., Any] = partial(modes, posteriors=[Isotropic(q.mode()) for q in b.descended])
    ways = {
        "simple": simple,
        "simple_warped": warped(simple, 0.5),
        "von": partial(modes, posteriors=gaussians),
        "squared_gradients": partial(modes, posteriors=squares),
    }
    alphas = grid(T, 4 if tiny else STEPS[T])
    inside = [np.isin(test.y.numpy(), labels) for labels in names.values()]
    found = {}
    for way, method in ways.items():
        items: list[list[NDArray[np.float32]]] = [[] for _ in names]
        for rows in np.array_split(alphas, -(-len(alphas) // 64)):
            right = (
                softmax.correct(test, method(torch.from_numpy(rows)).params.vector).numpy().astype("float32")
            )
            for kept, here in zip(items, inside, strict=True):
                kept.append(right[:, here])
        whole = [np.concatenate(parts) for parts in items]
        means = np.stack([one.mean(1, dtype=np.float64) for one in whole], 1)
        found[way] = Preview(tuple(names), alphas, means, tuple(whole))
    return found
