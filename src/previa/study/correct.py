"""A preview corrected by a few true runs: what it misses there, carried to every other weighting (numpy only)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from previa.errors import InputError
from previa.study import simplex
from previa.study.preview import Preview
from previa.study.surrogate import gaussian_process

Array = NDArray[np.float64]
Rule = Literal["none", "offset", "process"]

RULES: tuple[Rule, ...] = ("none", "offset", "process")
CLEARLY = 1.5  # times: errors of a few runs left out are too noisy to choose by smaller differences
ENOUGH = 3  # runs: with fewer the errors of runs left out are not compared, and the correction is the offset
INTERVAL = 1.96  # standard deviations on either side of a mean
SLACK = 1e-9  # of the largest score: what is added to a preview and taken off again may be off by rounding


@dataclass(frozen=True, eq=False)
class Corrected:
    """preview + what it is expected to miss, per task.

    preview: the corrected scores, without items; sd [A, T]: how far the correction may be off, which is not calibrated (it
    knows of nothing but the runs); rule: "offset", the mean of the residuals; "process", a Gaussian process of them; "none".
    left_out_rms: of each rule, the root of the mean squared error, over runs and tasks, of the corrected score of each run by
    all others; None for fewer than ``ENOUGH`` runs. runs: how many true runs inside the simplex it rests on.
    """

    preview: Preview
    sd: Array
    rule: Rule
    left_out_rms: Mapping[str, float] | None
    runs: int


def corrected(
    preview: Preview, truth: Preview, *, exact_corners: bool = True, rule: Rule | None = None
) -> Corrected:
    """s_t(alpha) + E[r_t(alpha)], where r_t = truth - preview is known at the weightings of the true runs.

    exact_corners: r_t = 0 at corners without a true run, since there a preview is the task's own run, by the recipe of joint
    runs. False for families whose own runs are by another recipe, and for checkpoints that were brought: then corners say
    nothing. A true run at a corner always says what it says.
    rule: by default that of `rule_by`; with fewer than ENOUGH runs inside the simplex "offset", the mean of their residuals.
    Corners do not count in the offset and do not move by it, where they are known: truths rise steeply from them, and previews
    do not miss there what they miss inside.
    Raises InputError where tasks differ, or no true run is at a previewed weighting inside the simplex.
    """
    if preview.tasks != truth.tasks:
        raise InputError(
            f"corrected: the preview's tasks are {list(preview.tasks)}, the truth's {list(truth.tasks)}. Expected the same."
        )
    if rule is not None and rule not in RULES:
        raise InputError(f"corrected: rule should be one of {', '.join(RULES)}. Found {rule!r}.")
    at, r = residuals(preview, truth)
    inside = at.max(axis=1) < 1 - 10.0**-simplex.DIGITS
    n, T = int(inside.sum()), len(preview.tasks)
    if not n:
        raise InputError(
            "corrected: no true run is at a weighting inside the simplex that was previewed, so nothing is known of what the "
            "preview misses."
        )
    corners, zeros = at[~inside], r[~inside]
    if exact_corners:
        others = np.array(
            [e for e in np.eye(T) if not len(corners) or simplex.find(corners, e) is None]
        ).reshape(-1, T)
        corners, zeros = (
            np.concatenate([corners, others]),
            np.concatenate([zeros, np.zeros((len(others), T))]),
        )
    at, r = at[inside], r[inside]
    left: dict[str, float] = (
        {name: _left_out(_MAKE[name], at, r, corners, zeros) for name in RULES} if n >= ENOUGH else {}
    )
    chosen: Rule = rule or rule_by(left)
    shift, sd = _MAKE[chosen](at, r, corners, zeros, preview.alphas)
    scores = preview.scores + shift
    made = Preview(
        preview.tasks, preview.alphas, scores, seconds=preview.seconds,
        provenance={**preview.provenance, "corrected": chosen},
    )  # fmt: skip
    return Corrected(made, sd, chosen, MappingProxyType(left) if left else None, n)


def rule_by(left_out_rms: Mapping[str, float]) -> Rule:
    """ "process", unless the left-out error of another is CLEARLY less: then the one with the least. "offset" where there are none.

    In small studies three to six runs choose no better than this by smaller differences (docs/validating.md).
    """
    if not left_out_rms:
        return "offset"
    least: Rule = min(RULES, key=lambda name: left_out_rms[name])
    return least if CLEARLY * left_out_rms[least] < left_out_rms["process"] else "process"


def residuals(preview: Preview, truth: Preview) -> tuple[Array, Array]:
    """The weightings that both scored [n, T], in the truth's order, and truth - preview there [n, T]."""
    mine = {simplex.key(alpha): a for a, alpha in enumerate(preview.alphas) if preview.ok[a]}
    rows = [
        (b, mine[name])
        for b, alpha in enumerate(truth.alphas)
        if truth.ok[b] and (name := simplex.key(alpha)) in mine
    ]
    b, a = np.array(rows, dtype=np.intp).reshape(-1, 2).T
    return truth.alphas[b], truth.scores[b] - preview.scores[a]


def coverage(found: Corrected, truth: Preview) -> float | None:
    """The share of true scores, each task's, within INTERVAL sd of the corrected ones; None where nothing is shared.

    Of runs that the correction did not see, for it to mean anything.
    """
    at, r = residuals(found.preview, truth)
    if not len(at):
        return None
    rows = [found.preview.index(alpha) for alpha in at]
    slack = SLACK * np.abs(found.preview.scores[rows]).max()
    return float((np.abs(r) <= INTERVAL * found.sd[rows] + slack).mean())


Make = Callable[[Array, Array, Array, Array, Array], tuple[Array, Array]]
"""(weightings of runs [n, T], residuals [n, T], corners [c, T], residuals there [c, T], alphas [A, T]) -> mean, sd [A, T]"""


def _nothing(at: Array, r: Array, corners: Array, zeros: Array, alphas: Array) -> tuple[Array, Array]:
    return np.zeros((len(alphas), r.shape[1])), np.tile(np.sqrt((r**2).mean(axis=0)), (len(alphas), 1))


def _offset(at: Array, r: Array, corners: Array, zeros: Array, alphas: Array) -> tuple[Array, Array]:
    """Its sd is that of one more residual; of a single run nothing is known but its size."""
    n = len(r)
    spread = r.std(axis=0, ddof=1) * np.sqrt(1 + 1 / n) if n > 1 else np.abs(r[0])
    mean, sd = np.tile(r.mean(axis=0), (len(alphas), 1)), np.tile(spread, (len(alphas), 1))
    for corner, known in zip(corners, zeros, strict=True):
        if (a := simplex.find(alphas, corner)) is not None:
            mean[a], sd[a] = known, 0.0
    return mean, sd


def _process(at: Array, r: Array, corners: Array, zeros: Array, alphas: Array) -> tuple[Array, Array]:
    return gaussian_process(np.concatenate([at, corners]), np.concatenate([r, zeros])).predict(alphas)


_MAKE: Mapping[Rule, Make] = {"none": _nothing, "offset": _offset, "process": _process}


def _left_out(make: Make, at: Array, r: Array, corners: Array, zeros: Array) -> float:
    """The root of the mean squared error of each run's residuals by those of all others."""
    errors = []
    for i in range(len(at)):
        rest = np.arange(len(at)) != i
        mean, _ = make(at[rest], r[rest], corners, zeros, at[[i]])
        errors.append(mean[0] - r[i])
    return float(np.sqrt(np.mean(np.square(errors))))
