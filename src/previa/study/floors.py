"""Floors on a preview: which weightings keep them, by how much, and whether other test items could turn that round."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from previa.study.preference import SLACK, Preference
from previa.study.preview import Preview

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Floor:
    """One task's floor at one weighting: its previewed score (a share of the expert's where the preference is relative).

    margin: score - floor, negative where it is missed. kept: the share of resampled test sets in which the weighting keeps it
    (None: no per-item scores); the weighting was chosen on the same items, so this is somewhat high.
    true_margin: of the joint run there, or beside it; None without one.
    """

    task: str
    floor: float
    score: float
    margin: float
    kept: float | None
    true_margin: float | None = None


def candidates(preview: Preview, preference: Preference) -> Mask:
    """The scored weightings that may be picked: those that keep all floors, or that miss them by least where none does: [A]."""
    return _least(preference.shortfall(preview.scores, preview.tasks))


def candidates_drawn(preview: Preview, draws: Sequence[Array | None], preference: Preference) -> Mask | None:
    """The same on resampled test items, draws [B, A] a task: [B, A]. None: there is no floor.

    A task whose items are unknown keeps its score in every draw.
    """
    short = shortfall_drawn(preview, draws, preference)
    return None if short is None else _least(short)


def shortfall_drawn(preview: Preview, draws: Sequence[Array | None], preference: Preference) -> Array | None:
    """By how much floors are missed on resampled test items: [B, A]. None: there is no floor, or no item of a task with one."""
    floored = [draws[t] for t, task in enumerate(preview.tasks) if task in preference.floors]
    known = [part for part in floored if part is not None]
    if not known:
        return None
    short = np.zeros(known[0].shape)
    for t, task in enumerate(preview.tasks):
        if task in preference.floors:
            part, alone = draws[t], replace(preference, floors={task: preference.floors[task]})
            s = np.zeros((*short.shape, len(preview.tasks)))
            s[..., t] = preview.scores[:, t] if part is None else part
            short += alone.shortfall(s, preview.tasks)
    return short


def floors_at(
    preview: Preview, draws: Sequence[Array | None], preference: Preference, a: int, truth: Array | None = None
) -> tuple[Floor, ...]:  # fmt: skip
    """Every floor at row a of a preview, in the order of tasks; truth: the scores [T] of the joint run there or beside it."""
    found = []
    experts = preference.seen(np.ones(len(preview.tasks)), preview.tasks)  # 1 / e_t, or 1
    for t, task in enumerate(preview.tasks):
        if task not in preference.floors:
            continue
        floor, part = float(preference.floors[task]), draws[t]
        score = float(preview.scores[a, t] * experts[t])
        slack = SLACK * max(abs(score), 1.0)
        found.append(
            Floor(
                task, floor, score, _margin(score, floor),
                None if part is None else float((part[:, a] * experts[t] >= floor - slack).mean()),
                None if truth is None else _margin(float(truth[t] * experts[t]), floor),
            )
        )  # fmt: skip
    return tuple(found)


def _margin(score: float, floor: float) -> float:
    """score - floor, 0 where they differ in rounding alone."""
    margin = score - floor
    return 0.0 if abs(margin) <= SLACK * max(abs(score), 1.0) else margin


def _least(short: Array) -> Mask:
    least = np.nanmin(short, axis=-1, keepdims=True)
    return np.asarray(short <= least + SLACK * np.maximum(np.abs(least), 1.0))
