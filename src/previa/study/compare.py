"""How good is each preview? Its numbers beside the truth's, in the order in which they matter to a choice of weights.

The mean squared error does not predict good choices, so regret and gain come first. All is over the weightings
that the truth and the preview both scored; what the truth adds of its own noise is that of a finite test set (`bootstrap`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import InputError
from previa.study import bootstrap, quality, simplex
from previa.study.bootstrap import Scored
from previa.study.floors import candidates
from previa.study.preference import Preference
from previa.study.preview import Preview

K = 5  # of regret_at_k
FEWEST = 3  # weightings, for any of this to mean something

Alpha = tuple[float, ...]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Quality:
    """How well a preview serves a choice, then how well it ranks, then how far its numbers are off; None: not defined.

    regret_at_1 (at_k): the best true score minus the true one at the preview's pick (the best of its first k = 5).
    regret_noise: a regret up to this is not distinguishable from 0. gain_...: true scores at the pick minus those at uniform
    or size-proportional weights, with 95 % intervals. mse = offset^2 + variance, offset = mean(preview - truth).
    weightings: shared ones; failed: those left out since the truth or the preview failed there. per_task: the same of each
    task's score, with the pick that is best for it alone.
    With floors, the best true score and the preview's picks are of those that keep them, truly and as previewed (where none
    does, of those that miss them by least); shortfall_at_pick: by how much the pick truly misses them, 0 without floors. A
    pick that misses them may score above the best: its regret is max(0, s(best) - s(pick)) + its shortfall beyond the best's.
    """

    pick: Alpha
    regret_at_1: float
    regret_at_k: float
    regret_noise: float | None
    gain_over_uniform: float | None
    gain_over_uniform_interval: Interval | None
    gain_over_size_proportional: float | None
    gain_over_size_proportional_interval: Interval | None
    spearman: float | None
    spearman_top25: float | None
    pairwise_accuracy: float | None
    iou_top10: float
    mse: float
    offset: float
    variance: float
    weightings: int
    failed: int
    seconds: float
    shortfall_at_pick: float = 0.0
    per_task: Mapping[str, "Quality"] = field(default_factory=dict)


@dataclass(frozen=True)
class Truth:
    """What joint finetuning gave: its best weighting, and the two that need no search; None: not trained there."""

    best_alpha: Alpha
    best_score: float
    uniform_score: float | None
    size_proportional_score: float | None
    weightings: int
    failed: int
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """The truth, and the quality of each method's preview beside it."""

    tasks: tuple[str, ...]
    truth: Truth
    methods: Mapping[str, Quality]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data: {"tasks", "truth": {...}, "methods": {name: {..., "per_task": {task: {...}}}}}."""
        return {
            "tasks": list(self.tasks),
            "truth": _plain(asdict(self.truth)),
            "methods": {name: _plain(asdict(q)) for name, q in self.methods.items()},
        }


def compare(
    truth: Preview,
    previews: Mapping[str, Preview],
    *,
    uniform: ArrayLike,
    size_proportional: ArrayLike,
    weights: Mapping[str, float] | None = None,
    preference: Preference | None = None,
    seed: int = 0,
) -> Comparison:
    """The quality of each preview, judged by the truth under a preference; weights: its metric weights alone.

    Raises InputError when tasks differ, a preview shares fewer than three scored weightings with the truth, or as
    `preference_of` and `Preference.check` do.
    """
    T = len(truth.tasks)
    wish = preference_of(weights, preference)
    wish.check(truth.tasks)
    references = tuple(simplex.check_alphas(a, T, where="reference") for a in (uniform, size_proportional))
    if truth.ok.sum() < FEWEST:
        raise InputError(
            f"the truth should have scores at {FEWEST} weightings at least. Found {truth.ok.sum()}."
        )
    good = truth.rows(truth.ok)
    draws = bootstrap.resampled(good, seed=seed)
    whole = bootstrap.valued(good, draws, wish)
    single = [bootstrap.scored(good, draws, one) for one in np.eye(T)]

    methods = {}
    for name, preview in previews.items():
        rows, mine, failed = _shared(truth, preview, name)
        seen = preview.rows(mine)
        per_task = {
            task: _quality(single[t], rows, seen.scores[:, t], references, failed, preview.seconds)
            for t, task in enumerate(truth.tasks)
        }
        value = wish.value(seen.scores, seen.tasks)
        found = _quality(
            whole, rows, value, references, failed, preview.seconds,
            allowed=(candidates(good.rows(rows), wish), candidates(seen, wish)),
            short=wish.shortfall(good.scores[rows], truth.tasks),
        )  # fmt: skip
        missed = wish.shortfall(truth.scores[truth.index(found.pick)], truth.tasks)
        methods[name] = replace(found, shortfall_at_pick=float(missed), per_task=per_task)

    allowed = np.flatnonzero(candidates(good, wish))
    best = allowed[quality.ranking(whole.score[allowed], whole.alphas[allowed])[0]]
    at = [simplex.find(whole.alphas, reference) for reference in references]
    beside = [None if i is None else float(whole.score[i]) for i in at]
    judged = Truth(
        best_alpha=_alpha(whole.alphas[best]),
        best_score=float(whole.score[best]),
        uniform_score=beside[0],
        size_proportional_score=beside[1],
        weightings=len(good),
        failed=len(truth) - len(good),
        seconds=truth.seconds,
    )
    return Comparison(truth.tasks, judged, methods)


def preference_of(weights: Mapping[str, float] | None, preference: Preference | None) -> Preference:
    """The preference, or that of these metric weights. Raises InputError where both are given."""
    if weights is not None and preference is not None:
        raise InputError("give weights or a preference, which has weights of its own. Found both.")
    return preference or Preference(weights=weights or {})


def _shared(truth: Preview, preview: Preview, name: str) -> tuple[NDArray[np.intp], NDArray[np.intp], int]:
    """Rows among the truth's scored weightings, the preview's rows of the same, and how many failed in either."""
    if preview.tasks != truth.tasks:
        raise InputError(
            f"{name}: previews should be of the truth's tasks {list(truth.tasks)}. Found {list(preview.tasks)}."
        )
    mine = {simplex.key(alpha): i for i, alpha in enumerate(preview.alphas)}
    at = np.array([mine.get(simplex.key(alpha), -1) for alpha in truth.alphas], dtype=np.intp)
    there = at >= 0
    good = truth.ok & np.append(preview.ok, False)[at]  # -1: not there
    if good.sum() < FEWEST:
        raise InputError(
            f"{name}: a comparison needs {FEWEST} weightings that both the truth and the preview scored. "
            f"Found {good.sum()}, of {len(truth)} and {len(preview)}."
        )
    return np.flatnonzero(good[truth.ok]), at[good], int(there.sum() - good.sum())


def _quality(
    truth: Scored,
    rows: NDArray[np.intp],
    p: NDArray[np.float64],
    references: tuple[NDArray[np.float64], ...],
    failed: int,
    seconds: float,
    allowed: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
    short: NDArray[np.float64] | None = None,
) -> Quality:
    """truth: all its weightings; rows: the shared ones [A]; p: the preview's scores there [A].

    allowed: the shared ones that may be the best, and those that the preview may pick, all by default. short: by how much the
    shared ones truly miss floors [A].
    """
    shared = truth.rows(rows)
    s, alphas = shared.score, shared.alphas
    order, best = quality.ranking(p, alphas), quality.ranking(s, alphas)
    first = quality.top(best, 0.25)
    good, mine = allowed or (np.ones(len(s), bool),) * 2
    picks, star = order[mine[order]], int(best[good[best]][0])
    gains = [_gain(truth, int(rows[picks[0]]), reference) for reference in references]
    off = p - s
    missed = np.zeros(len(s)) if short is None else short - short[star]
    regrets = np.maximum(s[star] - s[picks], 0.0) + missed[picks]  # ties differ in the last bit
    return Quality(
        pick=_alpha(alphas[picks[0]]),
        regret_at_1=float(regrets[0]),
        regret_at_k=float(regrets[:K].min()),
        regret_noise=None
        if good.sum() < 2
        else shared.rows(np.flatnonzero(good)).regret_noise(int(good[:star].sum())),
        gain_over_uniform=gains[0][0],
        gain_over_uniform_interval=gains[0][1],
        gain_over_size_proportional=gains[1][0],
        gain_over_size_proportional_interval=gains[1][1],
        spearman=quality.spearman(p, s),
        spearman_top25=quality.spearman(p[first], s[first]),
        pairwise_accuracy=quality.pairwise_accuracy(p, s),
        iou_top10=quality.iou(quality.top(order, 0.1), quality.top(best, 0.1)),
        mse=float((off**2).mean()),
        offset=float(off.mean()),
        variance=float(off.var()),
        weightings=len(s),
        failed=failed,
        seconds=seconds,
    )


def _gain(truth: Scored, a: int, reference: NDArray[np.float64]) -> tuple[float | None, Interval | None]:
    over = simplex.find(truth.alphas, reference)  # it need not be among the shared weightings
    if over is None:
        return None, None
    gain = truth.gain(a, over)
    return gain.value, gain.interval


def _alpha(alpha: NDArray[np.float64]) -> Alpha:
    return tuple(float(w) for w in alpha)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k != "per_task" or v}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
