"""The true scores that a store has: of joint runs made here, and of those that were brought."""

import numpy as np

from previa.study import simplex
from previa.study.preview import Preview
from previa.study.store import Store

JOINT = "joint"
"""The store's method of joint runs: a truth is a method like others."""
GIVEN = f"{JOINT}_given"
"""The store's method of true scores that were brought: numbers, one a task."""


def true_runs(store: Store) -> Preview | None:
    """All true scores: of the joint runs, and those that were brought, where no run was trained here; None without any.

    Joint runs that failed are among them while nothing was brought. Per-item scores only where nothing was.
    """
    there = store.methods()
    own, given = (store.preview(name) if name in there else None for name in (JOINT, GIVEN))
    if own is None or given is None:
        return given if own is None else own
    own = own.rows(own.ok)
    given = given.rows([len(own) == 0 or simplex.find(own.alphas, alpha) is None for alpha in given.alphas])
    if not len(given):
        return own
    alphas, scores = (
        np.concatenate([getattr(p, name) for p in (own, given)]) for name in ("alphas", "scores")
    )
    return Preview(own.tasks, alphas, scores, seconds=own.seconds, provenance=own.provenance)
