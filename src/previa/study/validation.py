"""A few true runs beside a preview: which ones to train, and what those that are known say of it (numpy only)."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import InputError
from previa.study import bootstrap, design, quality, simplex
from previa.study.floors import candidates
from previa.study.preference import Preference
from previa.study.preview import Preview
from previa.study.recommend import recommend
from previa.study.surrogate import interpolated

Array = NDArray[np.float64]
Alpha = tuple[float, ...]

NEIGHBOURS = 150  # previewed weightings from which the preview at another one is interpolated


@dataclass(frozen=True)
class Proposal:
    """A weighting to train at, and why."""

    alpha: Alpha
    why: str


def proposals(
    preview: Preview,
    number: int,
    *,
    uniform: ArrayLike,
    size_proportional: ArrayLike,
    known: ArrayLike = (),
    preference: Preference | None = None,
) -> tuple[Proposal, ...]:
    """The next ``number`` true runs: the pick, the robust centre, uniform, size-proportional, then what tells most.

    Each weighting once, none of those ``known`` [n, T]. What tells most is `design.propose`'s choice given all these, at the
    nearest weighting that was previewed. Fewer than ``number`` where the preview has no more. Raises as `recommend`.
    """
    T, wish = len(preview.tasks), preference or Preference()
    done = np.asarray(known, dtype=np.float64).reshape(-1, T)
    advice = recommend(preview, uniform=uniform, size_proportional=size_proportional, preference=wish)
    named = [
        ("pick", advice.alpha),
        ("robust centre", advice.centre),
        ("uniform", uniform),
        ("size-proportional", size_proportional),
    ]
    found: list[Proposal] = []

    def taken() -> Array:
        return np.concatenate([done, np.array([one.alpha for one in found]).reshape(-1, T)])

    for why, alpha in named:
        if len(found) < number and simplex.find(taken(), alpha) is None:
            found.append(Proposal(tuple(float(w) for w in np.asarray(alpha)), why))
    there = preview.alphas[preview.ok & (preview.alphas.max(axis=1) < 1 - 10.0**-simplex.DIGITS)]
    while len(found) < number:
        free = there[[simplex.find(taken(), alpha) is None for alpha in there]]
        if not len(free):
            break
        wanted = design.propose(T, 1, taken())[0]
        found.append(Proposal(tuple(free[simplex.nearest(free, wanted)].tolist()), "most telling"))
    return tuple(found)


@dataclass(frozen=True)
class Run:
    """One true run beside the preview: values under the preference, scores by task; interpolated: it was not previewed there."""

    alpha: Alpha
    value: float
    previewed: float
    scores: Mapping[str, float]
    previewed_scores: Mapping[str, float]
    interpolated: bool


@dataclass(frozen=True)
class Validation:
    """What the true runs say of a preview.

    pick: the run that the preview ranks first, which is its pick of all weightings where ``picked``. regret: the best true
    value minus that of ``pick``; regret_noise: a regret up to this cannot be told from 0 (None: no per-item scores). pairwise:
    the share of ``pairs`` of runs that the preview orders as the truth does; spearman: None for fewer than three. offset: the mean
    of preview - truth, of the value, and by task.
    """

    runs: tuple[Run, ...]
    pick: Alpha
    picked: bool
    best: Alpha
    regret: float
    regret_noise: float | None
    pairwise: float | None
    pairs: int
    spearman: float | None
    offset: float
    task_offsets: Mapping[str, float]
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        found = asdict(self)
        return {**found, "runs": [{**run, "alpha": list(run["alpha"])} for run in found["runs"]],
                "pick": list(self.pick), "best": list(self.best)}  # fmt: skip


def validated(
    preview: Preview, truth: Preview, *, preference: Preference | None = None, seed: int = 0
) -> Validation:
    """Regret, rank agreement and offset of the preview at all weightings that have a true run.

    Where one was not previewed, its preview is a Gaussian process's on those nearest to it. With floors the best is the best
    of the runs that keep them, and so is the pick; none does: that of the least shortfall.
    Raises InputError where tasks differ, no run is known, or nothing was previewed.
    """
    if preview.tasks != truth.tasks:
        raise InputError(
            f"validated: the preview's tasks are {list(preview.tasks)}, the truth's {list(truth.tasks)}. Expected the same."
        )
    truth, preview = truth.rows(truth.ok), preview.rows(preview.ok)
    if not len(truth) or not len(preview):
        raise InputError("validated: expected at least one true run and one previewed weighting. Found none.")
    tasks, wish = truth.tasks, preference or Preference()
    wish.check(tasks)
    seen, between = previewed_at(preview, truth.alphas)
    true, mine = wish.value(truth.scores, tasks), wish.value(seen, tasks)
    pick, best = _best(seen, truth.alphas, wish, tasks), _best(truth.scores, truth.alphas, wish, tasks)
    short = wish.shortfall(truth.scores, tasks)
    overall = preview.alphas[_best(preview.scores, preview.alphas, wish, tasks)]
    draws = wish.draws(bootstrap.resampled(truth, seed=seed), tasks)
    runs = tuple(
        Run(
            tuple(truth.alphas[b].tolist()), float(true[b]), float(mine[b]),
            _by_task(tasks, truth.scores[b]), _by_task(tasks, seen[b]), bool(between[b]),
        )
        for b in quality.ranking(true, truth.alphas)
    )  # fmt: skip
    found = Validation(
        runs=runs,
        pick=tuple(truth.alphas[pick].tolist()),
        picked=simplex.same(overall, truth.alphas[pick]),
        best=tuple(truth.alphas[best].tolist()),
        regret=max(0.0, float(true[best] - true[pick])) + float(short[pick] - short[best]),
        regret_noise=bootstrap.Scored(truth.alphas, true, draws).regret_noise(best),
        pairwise=quality.pairwise_accuracy(mine, true),
        pairs=_pairs(true),
        spearman=quality.spearman(mine, true),
        offset=float((mine - true).mean()),
        task_offsets=_by_task(tasks, (seen - truth.scores).mean(axis=0)),
        sentence="",
    )
    return Validation(**{**vars(found), "sentence": _words(found)})


def previewed_at(preview: Preview, alphas: Array) -> tuple[Array, NDArray[np.bool_]]:
    """The preview's scores at alphas [n, T]: [n, T], and which are interpolated [n], by a process on the NEIGHBOURS nearest."""
    rows = [simplex.find(preview.alphas, alpha) for alpha in alphas]
    found = np.array([preview.scores[row or 0] for row in rows]).reshape(len(alphas), -1)
    missing = np.array([row is None for row in rows], dtype=bool)
    for i in np.flatnonzero(missing):
        near = np.argsort(np.linalg.norm(preview.alphas - alphas[i], axis=1), kind="stable")[:NEIGHBOURS]
        found[i] = interpolated(preview.rows(near), alphas[i]).preview.scores[0]
    return found, missing


def _best(scores: Array, alphas: Array, wish: Preference, tasks: tuple[str, ...]) -> int:
    """The row of the best value among those that keep the floors, or miss them by least."""
    rows = np.flatnonzero(candidates(Preview(tasks, alphas, scores), wish))
    value = wish.value(scores[rows], tasks)
    return int(rows[quality.ranking(value, alphas[rows])[0]])


def _pairs(values: Array) -> int:
    """How many pairs of numbers differ."""
    _, same = np.unique(quality.snapped(values), return_counts=True)
    return math.comb(len(values), 2) - sum(math.comb(int(n), 2) for n in same)


def _by_task(tasks: tuple[str, ...], numbers: Array) -> dict[str, float]:
    return {task: float(x) for task, x in zip(tasks, numbers, strict=True)}


def _words(v: Validation) -> str:
    n = len(v.runs)
    if n == 1:
        return (
            f"One true run is known, at {simplex.show(v.pick)}: the preview there is {_off(v.offset)}. Regret and ranking "
            "need two runs or more."
        )
    which = "its pick" if v.picked else "the one of them that it ranks first (its pick was not trained)"
    best = next(run.value for run in v.runs if run.alpha == v.best)
    if v.regret == 0:
        regret = f"Of {n} true runs the preview chooses the best: {which}, {simplex.show(v.pick)}, with {best:.3f}."
    else:
        regret = (
            f"Of {n} true runs the best is {simplex.show(v.best)} with {best:.3f}; the preview chooses {which}, "
            f"{simplex.show(v.pick)}, and loses {v.regret:.3f} by it."
        )
        if v.regret_noise is not None and v.regret <= v.regret_noise:
            regret += f" Up to {v.regret_noise:.3f} cannot be told from 0 with these test items."
        elif v.regret_noise is not None:
            regret += f" That is more than the noise of the test items, {v.regret_noise:.3f}."
    ranks = ""
    if v.pairwise is not None:
        ranks = f" It orders {100 * v.pairwise:.0f} % of {v.pairs} pairs of runs as the truth does"
        ranks += "." if v.spearman is None else f"; Spearman {v.spearman:.2f}."
    spread = max(run.value for run in v.runs) - min(run.value for run in v.runs)
    if v.regret_noise is not None and spread <= v.regret_noise:
        ranks += (
            " All of them are as good as the noise of the test items can tell, so their order says little."
        )
    few = " With so few runs this is a check, no measurement." if n < 6 else ""
    return f"{regret}{ranks} Its scores are {_off(v.offset)} on average.{few}"


def _off(offset: float) -> str:
    return f"{abs(offset):.3f} too {'low' if offset < 0 else 'high'}"
