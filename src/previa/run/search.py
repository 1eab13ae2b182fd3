"""Search: a study's preview evaluated at few weightings, each chosen by what those before it say."""

from __future__ import annotations

import numpy as np

from previa.errors import InputError
from previa.run.fit import Runs
from previa.run.one_method import declared, one_method
from previa.run.pipeline import warnings
from previa.run.search_state import Aim, Budget, State, first_weightings, pool_of
from previa.run.sweep import Progress
from previa.run.work import Work
from previa.study.preview import Preview
from previa.study.search import Engine, suggest


def search(
    work: Work,
    runs: Runs,
    budget: Budget,
    aim: Aim | None = None,
    *,
    method: str | None = None,
    engine: Engine = suggest,
    engine_name: str = "previa",
    workers: int = 1,
    progress: Progress | None = None,
) -> Preview:
    """One preview of the study at the weightings that are worth it: all that is known of it, as in the store.

    First the corners, uniform and size-proportional weights and a few Sobol points of the simplex; then one
    at a time what ``engine`` suggests of the candidates: the study's grid, or what `study.search.candidates` takes of a large
    one with the neighbours of the best. Each evaluation is in the store when it is made, so that a search that was ended goes on
    where it was; a larger budget adds evaluations, and a preview of the whole grid does only what is missing. A weighting that
    fails counts, and is not tried again in this run. The store's fact "searches" says what was done and why it ended.
    workers are for the first weightings; the others come one by one. Raises InputError where the budget has no room for the
    first T + 2 weightings or the preference is not of this study's tasks, StudyError for an unknown method, ScoreError where
    all of the first fail.
    """
    aim = aim or Aim()
    aim.preference.check(work.study.names())
    if budget.stop_early and aim.goal != "best":
        raise InputError(
            "search: stopping early is for the goal 'best'. Search a region with the whole budget."
        )
    least, first = first_weightings(work)
    if budget.evaluations is not None and budget.evaluations < len(least):
        raise InputError(
            f"search: {budget.evaluations} evaluations are too few. The corners, uniform and size-proportional weights, which a "
            f"recommendation is held against, are {len(least)}."
        )
    one = one_method(work, runs, method, progress=progress)
    declared(work.store, one)
    state = State(work, one, budget, aim, engine_name, progress)
    state.evaluate(least, workers)
    pool = pool_of(work)
    while (why := state.ended()) is None:
        left = state.free(first)
        if len(left):
            n = len(left) if budget.evaluations is None else budget.evaluations - state.spent
            state.evaluate(left[: 1 if budget.minutes else n], workers)
            continue
        alphas, scores = state.found.alphas, state.found.scores
        among = state.free(np.concatenate([pool, *state.beside()]))
        if not len(among):
            why = "all candidates were evaluated"
            break
        if state.enough(among):
            why = "no candidate is expected to gain more than the noise of the test items"
            break
        preference, tolerance = aim.under(state.found)
        row = engine(
            alphas,
            scores,
            work.study.names(),
            among,
            preference=preference,
            goal=aim.goal,
            tolerance=tolerance,
        )
        if isinstance(row, bool) or not isinstance(row, int | np.integer) or not 0 <= row < len(among):
            raise InputError(
                f"search: the engine should name a row of {len(among)} candidates. Found {row!r}."
            )
        state.evaluate(among[[row]], 1)
    state.note(why)
    state.tell(end=True)
    store = work.store
    store.put("method", one.name)
    said = warnings(work, {one.name: store.preview(one.name)})
    others = [
        w for w in store.get("warnings") or [] if not w.startswith(f"{one.name}: ") and w not in runs.warnings
    ]
    store.put("warnings", [*runs.warnings, *(w for w in others if w not in said), *said])
    return store.preview(one.name)
