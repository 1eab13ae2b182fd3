"""Which weightings deserve more test items, from their scores on a few (numpy only)."""

from math import ceil

import numpy as np
from numpy.typing import NDArray

from previa.errors import InputError
from previa.study import bootstrap, simplex
from previa.study.preference import SLACK, Preference
from previa.study.preview import Preview

Array = NDArray[np.float64]

LEAST, MOST = 1 / 4, 1 / 2  # of the weightings: how many go on
PLAIN = Preference()


def survivors(
    preview: Preview, preference: Preference = PLAIN, *, always: Array | None = None, seed: int = 0
) -> NDArray[np.bool_]:
    """The weightings that should be scored on more test items: [A].

    Those that a paired bootstrap over the items does not tell from the best: of which, in more than 2.5 % of draws, the value is
    no less than the best's and the floors are kept. The best a quarter go on in any case, for the best of few items need not be
    among the best of all; and no more than the best half, so that a flat map costs no more than a steep one. ``always`` [R, T]
    go on whatever they score; what failed does not. Order is by shortfall from the floors, then by value, ties as in a pick.
    Raises InputError where tasks that count have no per-item scores, or nothing was scored.
    """
    tasks, good = preview.tasks, np.flatnonzero(preview.ok)
    seen = preview.rows(good)
    if not len(seen):
        raise InputError(f"survivors: none of {len(preview)} weightings was scored.")
    parts = bootstrap.resampled(seen, seed=seed)
    draws = preference.draws(parts, tasks)
    if draws is None or any(parts[tasks.index(task)] is None for task in preference.floors):
        bare = [task for task, part in zip(tasks, parts, strict=True) if part is None]
        raise InputError(
            f"task {bare[0]!r}: its score is one number, so nothing tells what fewer test items do to it. Let the score return one "
            "number for each item, or score every weighting on all items."
        )
    value, short = preference.value(seen.scores, tasks), preference.shortfall(seen.scores, tasks)
    slack = SLACK * float(np.abs(value).max())
    safety = np.empty(len(seen))
    safety[simplex.by_safety(seen.alphas)] = np.arange(len(seen))
    order = np.lexsort((safety, -value, short))
    best = order[0]
    rare = (1 - bootstrap.LEVEL) / 2
    alive = np.ones(len(seen), dtype=np.bool_)
    if short[best] == 0:
        alive &= np.quantile(draws[:, [best]] - draws, rare, axis=0) <= slack
        alive &= _kept(parts, preference, tasks) > rare
    rank = np.empty(len(seen), dtype=np.intp)
    rank[order] = np.arange(len(seen))
    goes = (alive & (rank < ceil(MOST * len(seen)))) | (rank < ceil(LEAST * len(seen)))
    for alpha in () if always is None else always:
        row = simplex.find(seen.alphas, alpha)
        if row is not None:
            goes[row] = True
    found = np.zeros(len(preview), dtype=np.bool_)
    found[good] = goes
    return found


def _kept(parts: tuple[Array | None, ...], preference: Preference, tasks: tuple[str, ...]) -> Array:
    """In which share of draws all floors are kept: [A]."""
    known = [part for part in parts if part is not None]
    kept = np.ones(known[0].shape, dtype=np.bool_)
    for t, task in enumerate(tasks):
        part = parts[t]
        if task in preference.floors and part is not None:
            scale = preference.seen(np.ones(len(tasks)), tasks)[t]
            kept &= part * scale >= preference.floors[task]
    return np.asarray(kept.mean(axis=0))
