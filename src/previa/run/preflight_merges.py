"""Pre-flight checks of what is merged: how far experts went, how precisions overlap, and the loss between experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from previa.core.params import Flat
from previa.run.check import Check, Level, pair_of, percent, span
from previa.run.evaluate import Evaluation
from previa.run.fit import SQUARES
from previa.run.joint_loss import training_losses
from previa.run.live import live
from previa.run.sweep import Progress
from previa.run.task_vectors import TaskVectors, overlaps, task_vectors
from previa.run.there import There
from previa.run.work import Work

UNEQUAL = 3.0  # task vectors whose lengths differ by more
AGAINST, TOGETHER = -0.1, 0.5  # cosines of task vectors
ALIKE, PARTLY = 0.95, 0.7  # overlaps of precisions above which weighing by them does little, and somewhat
MOSTLY = 0.5  # share of a precision that is its prior or initial value
LOW = 0.2  # of the experts' own losses: a barrier that is a warning
HALF = 0.5  # of what the experts gained over the base


def distance(work: Work, have: There) -> Check | None:
    """How far the experts went, and whether in one direction."""
    names = list(have.means)
    if have.base is None or len(names) < 2:
        return None
    v = task_vectors(have.base.vector, [have.means[name].vector for name in names])
    pairs = list(combinations(range(len(names)), 2))
    numbers = {
        "base": v.base,
        "norms": dict(zip(names, v.norms, strict=True)),
        "cosines": {pair_of(names, i, j): v.cosines[i, j] for i, j in pairs},
        "distances": {pair_of(names, i, j): v.distances[i, j] for i, j in pairs},
    }
    if not v.norms.all():
        still = names[int(np.argmin(v.norms))]
        return Check(
            "distance", f"{still} is the base itself: its checkpoint was not trained.", "warning", numbers
        )
    return Check("distance", *_of_vectors(names, v, pairs), numbers)


def _of_vectors(names: list[str], v: TaskVectors, pairs: list[tuple[int, int]]) -> tuple[str, Level]:
    far, close = int(np.argmax(v.norms)), int(np.argmin(v.norms))
    cosines = np.array([v.cosines[pair] for pair in pairs])
    low = pairs[int(np.argmin(cosines))]
    moved = (
        f"The experts moved {v.norms[close]:.3g} ({names[close]}) to {v.norms[far]:.3g} ({names[far]}), "
        + (
            f"{percent(v.norms[close] / v.base)} to {percent(v.norms[far] / v.base)} of the base's length"
            if v.base
            else "from 0"
        )
        + f", cosines {span(float(cosines.min()), float(cosines.max()))}"
    )
    if v.norms[far] > UNEQUAL * v.norms[close]:
        return (
            f"{moved}: averages are mostly about {names[far]}, which moved {v.norms[far] / v.norms[close]:.1f} times as far as "
            f"{names[close]}. Expect previews to favour it at equal weights.",
            "note",
        )
    if cosines.min() < AGAINST:
        return (
            f"{moved}: {names[low[0]]} and {names[low[1]]} pull the parameters against each other, so that averages undo part of "
            "both. Expect low previews between them; an anchor there helps.",
            "note",
        )
    if cosines.max() > TOGETHER:
        return f"{moved}: they went much the same way, and merges keep most of it.", "ok"
    return (
        f"{moved}: nearly at right angles, so that a merge keeps of each task about its own weight's share. Previews are then low "
        "inside; warped weights were made for this.",
        "ok",
    )


def curvature(have: There) -> Check | None:
    """Whether precisions differ between tasks, and how much of them is measured."""
    kinds: dict[str, Mapping[str, Flat]] = {"ivon": have.ivon, SQUARES: have.squares}
    numbers: dict[str, Any] = {}
    found: list[tuple[str, Level]] = []
    for kind, precisions in kinds.items():
        names = list(precisions)
        if len(names) < 2:
            continue
        b = overlaps([precisions[name].vector for name in names])
        pairs = list(combinations(range(len(names)), 2))
        low = min(b[pair] for pair in pairs)
        shares = [_share(have, kind, name) for name in names]
        share = (
            float(np.mean([s for s in shares if s is not None]))
            if any(s is not None for s in shares)
            else None
        )
        numbers[kind] = {
            "overlap": {pair_of(names, i, j): b[i, j] for i, j in pairs},
            "unmeasured_share": share,
        }
        shown = "IVON's precisions" if kind == "ivon" else "squared gradients"
        what = "initial value" if kind == "ivon" else "prior"
        if share is not None and share > MOSTLY:
            found.append((
                f"{shown} are {percent(share)} their {what}, so their overlap ({low:.2f} at least) says little, and merging by "
                f"them is close to simple averaging", "note",
            ))  # fmt: skip
        elif low > ALIKE:
            found.append((
                f"{shown} overlap by {low:.2f} or more of 1: the tasks are steep in the same parameters, and merging by them is "
                "close to simple averaging", "note",
            ))  # fmt: skip
        else:
            found.append((
                f"{shown} overlap by {span(low, max(b[pair] for pair in pairs))} of 1: the tasks are steep in "
                f"{'mostly the same' if low > PARTLY else 'different'} parameters, and merging by them differs "
                f"{'somewhat ' if low > PARTLY else ''}from simple averaging",
                "ok",
            ))  # fmt: skip
    if not found:
        return None
    sentence = "; ".join(text for text, _ in found)
    level: Level = "note" if any(one == "note" for _, one in found) else "ok"
    return Check("curvature", sentence[0].upper() + sentence[1:] + ".", level, numbers)


def _share(have: There, kind: str, task: str) -> float | None:
    """The share of a precision that no data made."""
    provenance = have.provenance.get((kind, task))
    if provenance is None:
        return None
    return provenance.memory if kind == "ivon" else provenance.prior_share


@dataclass(frozen=True)
class _Losses:
    """Mean training losses [points, T] of each task: at each expert, at the middle of each pair, last at the base, where it is there."""

    names: list[str]
    at: NDArray[np.float64]
    pairs: list[tuple[int, int]]
    examples: Mapping[str, int]


def losses_of(work: Work, have: There, progress: Progress | None) -> _Losses | None:
    """Measure `_Losses` by forward passes on ``loss_examples`` training examples a task; None for fewer than two experts.

    NaN where a model could not be scored.
    """
    names = list(have.means)
    if len(names) < 2:
        return None
    ingredients, every = work.ingredients, work.study.names()
    losses = training_losses(ingredients, work.study.preview.loss_examples)
    pairs = list(combinations(range(len(names)), 2))
    means = [have.means[name].vector for name in names]
    points = [*means, *((means[i] + means[j]) / 2 for i, j in pairs)]
    points += [have.base.vector] if have.base is not None else []
    job = Evaluation(ingredients.model, losses, every, ingredients.recalibrate)
    at = np.full((len(points), len(every)), np.nan)
    with live(ingredients.model, ingredients.layout) as place:
        for number, vector in enumerate(points):
            found, failure, _ = job.run(place, vector)
            if failure is None:
                at[number] = [float(np.mean(found[task])) / losses.scale[task] for task in every]
            if progress is not None:
                progress("training losses", number + 1, len(points))
    return _Losses(names, at[:, [every.index(name) for name in names]], pairs, losses.counts)


def barrier(losses: _Losses) -> Check:
    """(l_s + l_t)/2 at (theta_s + theta_t)/2, minus its mean at theta_s and theta_t; and how much of what each expert gained over

    the base on its own task is left there, (base - middle) / (base - own).
    """
    names, at, base = losses.names, losses.at, None
    if len(at) > len(names) + len(losses.pairs):
        base = at[-1]
    numbers: dict[str, Any] = {
        "examples": dict(losses.examples),
        "barrier": {},
        "middle": {},
        "own": {},
        "kept": {},
    }
    for number, (i, j) in enumerate(losses.pairs):
        pair, both = pair_of(names, i, j), at[:, [i, j]].mean(axis=1)
        middle, own = both[len(names) + number], (at[i, i] + at[j, j]) / 2
        numbers["barrier"][pair] = middle - (both[i] + both[j]) / 2
        numbers["middle"][pair], numbers["own"][pair] = middle, own
        if base is not None and (gained := (base[i] + base[j]) / 2 - own) > 0:
            numbers["kept"][pair] = (own + gained - middle) / gained
    barriers, kept = numbers["barrier"], numbers["kept"]
    if not np.isfinite(list(barriers.values())).all():
        return Check(
            "barrier", "The training loss of an expert or of an average of two is not finite: look at the data's losses.", "warning",
            numbers,
        )  # fmt: skip
    worst = max(barriers, key=lambda pair: float(barriers[pair]))
    rest = f"on {sum(losses.examples.values())} training examples"
    if barriers[worst] > 0:
        level: Level = "warning" if barriers[worst] > LOW * numbers["own"][worst] else "note"
        return Check(
            "barrier",
            f"There is a barrier: halfway between {worst} the mean training loss of both tasks is {barriers[worst]:.3g} above the "
            f"mean of the two experts, {rest}. Averages are worse there than either, and so will be previews; anchors help.",
            level,
            numbers,
        )
    flat = f"No barrier: halfway between two experts the mean training loss of both tasks is below the mean of the two, by {-barriers[worst]:.3g} at least, {rest}"
    if not kept:
        return Check("barrier", f"{flat}.", "ok", numbers)
    least = min(kept, key=lambda pair: float(kept[pair]))
    if kept[least] < 0:
        return Check(
            "barrier",
            f"{flat}; but halfway between {least} it is above the base's: averaging loses all that finetuning gained in loss. Previews will "
            "be far too low inside; warped weights, or anchors, help.",
            "warning",
            numbers,
        )
    level = "note" if kept[least] < HALF else "ok"
    end = " Expect low previews inside." if level == "note" else ""
    most = percent(max(kept.values()))
    more = "" if len(kept) == 1 else f" ({least}) to {most}"
    return Check(
        "barrier", f"{flat}; averages of two keep {percent(kept[least])}{more} of what the experts gained "
        f"over the base.{end}", level, numbers,
    )  # fmt: skip
