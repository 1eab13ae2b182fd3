"""One preview of a study, by its name: for what evaluates single weightings instead of the whole grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from previa.core.modes import Modes
from previa.core.params import Flat
from previa.errors import StudyError
from previa.run.anchors import Anchor, anchors_of
from previa.run.centre import facts_of, family_of, from_the_centre
from previa.run.evaluate import PreviewMethod
from previa.run.fit import Runs
from previa.run.pipeline import families_of
from previa.run.resolve import importable
from previa.run.sharpen import sharpen
from previa.run.sweep import BLOCK_BYTES, Progress, Results, sweep
from previa.run.work import Work
from previa.study.preview import Preview
from previa.study.search import small_grid
from previa.study.settings import ANCHORED, CENTRE
from previa.study.simplex import find
from previa.study.store import Store

EM = "mixture"


@dataclass(frozen=True)
class OneMethod:
    """A preview: its name in the store, the method at any weightings, and what it rests on, for `Store.declare`."""

    name: str
    method: PreviewMethod
    facts: Mapping[str, Any]
    power: Mapping[str, Any] | None = None
    """its entry in the store's fact "powers", of a sharpened one"""


def one_method(
    work: Work, runs: Runs, name: str | None = None, *, progress: Progress | None = None
) -> OneMethod:
    """The study's preview of this name, by default the one that it follows, as `pipeline.preview` makes it.

    At single weightings it gives what a sweep of the grid gives, to rounding. EM starts from neighbouring weightings: its merges
    are made in the sweep's own blocks, where the grid has at most MOST weightings; on larger grids each is merged alone, and may
    end in another local optimum. Joint losses that were not measured yet are. Raises StudyError for a name that the study has
    not, and as anchors_of and sharpen.
    """
    study = work.study
    families = families_of(study, runs)
    there, _ = anchors_of(work)
    names = [*families, *([CENTRE] if CENTRE in study.preview.methods else [])]
    names += [one for one in study.sharpened() if there or not one.endswith(ANCHORED)]
    name = name or study.followed(names)
    if name not in names:
        raise StudyError(
            f"there is no preview {name!r} to search: the study has {', '.join(names)}. Others are named by methods in [preview]; "
            "anchored ones need anchors."
        )
    if name in families:
        one = families[name]
        found = OneMethod(name, one.method, {"posteriors": one.digest, "blocks": study.mixture.blocks})
    elif name == CENTRE:
        family = family_of(work, families, progress=progress)
        method = from_the_centre(work, families[family], progress=progress).method
        found = OneMethod(name, method, facts_of(work, families, family))
    else:
        sharp = sharpen(work, families, there, progress=progress)[name]
        found = OneMethod(name, sharp.method, sharp.facts, dict(sharp.power))
    return _as_swept(work, found, there)


def declared(store: Store, one: OneMethod) -> None:
    """Say in the store what this preview rests on, and which power it has; what rested on something else is forgotten."""
    store.declare(one.name, one.facts)
    if one.power is not None:
        store.put("powers", {**(store.get("powers") or {}), one.name: dict(one.power)})


def evaluated_at(
    work: Work,
    one: OneMethod,
    alphas: NDArray[np.float64],
    *,
    store: Results | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Preview:
    """The scores of this preview at alphas [A, T], recorded under its name; those that are there are not scored again.

    Raises as sweep.
    """
    ingredients = work.ingredients
    with importable(work.study.folder):  # for workers, who inherit the path
        return sweep(
            ingredients.model,
            one.method,
            ingredients.scorer,
            alphas,
            store=store or work.store,
            name=one.name,
            recalibrate=ingredients.recalibrate,
            workers=workers,
            progress=progress,
        )


def _as_swept(work: Work, one: OneMethod, anchors: list[Anchor]) -> OneMethod:
    """The same, merged in the blocks of a sweep where what is found depends on them."""
    steps, family = work.study.preview.steps, str(one.facts.get("family", one.name))
    if not family.startswith(EM) or not small_grid(len(work.study.tasks), steps):
        return one
    beside = [np.array(anchor.alpha) for anchor in anchors] if one.facts.get("anchors") else []
    rows = work.alphas(steps, *beside)
    size = max(1, BLOCK_BYTES // (4 * work.ingredients.layout.size))
    return OneMethod(one.name, in_blocks(one.method, rows, size), one.facts, one.power)


def in_blocks(method: PreviewMethod, rows: NDArray[np.float64], size: int) -> PreviewMethod:
    """The method at single weightings as it is when all rows [A, T] are asked for in blocks of ``size``; the last block is kept.

    Weightings that are none of the rows are merged alone.
    """
    kept: dict[int, Modes] = {}

    def merge(alphas: Tensor) -> Modes:
        """The modes at alphas [n, T], each a row of the block that it belongs to."""
        params, stats = [], []
        for alpha in alphas.numpy():
            at = find(rows, alpha)
            if at is None:
                block, row = method(torch.from_numpy(alpha[None].copy())), 0
            else:
                start, row = at - at % size, at % size
                if start not in kept:
                    kept.clear()
                    kept[start] = method(torch.from_numpy(rows[start : start + size]))
                block = kept[start]
            params.append(block.params.row(row))
            stats.append({name: values[row] for name, values in block.stats.items()})
        names = stats[0] if stats else {}
        vectors = torch.stack([p.vector for p in params])
        return Modes(Flat(params[0].layout, vectors), {n: torch.stack([s[n] for s in stats]) for n in names})

    return merge
