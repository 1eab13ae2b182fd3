"""The true scores that a store has: of joint runs made here, and of those that were brought."""

import numpy as np

from previa.study import simplex
from previa.study.preview import Preview
from previa.study.store import Store

JOINT = "joint"
"""The store's method of joint runs: a truth is a method like others."""
GIVEN = f"{JOINT}_given"
"""The store's method of true scores that were brought: numbers, one a task."""
ENOUGH = 3  # joint runs, to judge a preview by them alone


def true_runs(store: Store) -> Preview | None:
    """All true scores: of the joint runs, and those that were brought, where no run was trained here; None without any.

    Joint runs that failed are among them while nothing was brought. Per-item scores only where nothing was: `judged_by`.
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


def judged_by(store: Store, every: Preview | None) -> tuple[Preview | None, str | None]:
    """Of ``every`` true score of a store, those that previews are judged by, and a sentence on what is left out.

    ENOUGH joint runs with scores of test items stand alone: numbers that were brought would take the noise of all away.
    """
    if JOINT not in store.methods() or GIVEN not in store.methods():
        return every, None
    own = store.preview(JOINT)
    good = own.rows(own.ok)
    if len(good) < ENOUGH or any(items is None for items in good.items):
        return every, None
    more = 0 if every is None else len(every) - len(good)
    said = f"{more} true score{'s' * (more != 1)} that {'was' if more == 1 else 'were'} brought as a table, without test items, "
    return own, None if not more else (
        f"{said}{'is' if more == 1 else 'are'} left out beside {len(good)} joint runs; `previa validate` uses all."
    )
