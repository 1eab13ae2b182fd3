"""A preview as a recommendation sees it: a value for each weighting, which of them may be picked, and the pick."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from previa.errors import InputError
from previa.study import bootstrap, quality
from previa.study.bootstrap import Choice, Scored
from previa.study.floors import candidates, candidates_drawn, shortfall_drawn
from previa.study.preference import Preference
from previa.study.preview import Preview
from previa.study.region import Region, interpolated_region, near_best, width

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class View:
    """The weightings of a preview that were scored, each with one number, its value; allowed: those that may be picked [A].

    keeps: whether they keep all floors; draws: each task's scores on resampled items.
    """

    preview: Preview
    preference: Preference
    draws: tuple[Array | None, ...]
    scored: Scored
    allowed: Mask
    keeps: bool
    pick: int

    @classmethod
    def of(cls, preview: Preview, tasks: tuple[str, ...], wish: Preference, seed: int, name: str) -> "View":
        """What was scored; name is for errors. Raises InputError for other tasks, or when nothing was."""
        if preview.tasks != tasks:
            raise InputError(f"{name}: its tasks should be {list(tasks)}. Found {list(preview.tasks)}.")
        good = preview.rows(preview.ok)
        if not len(good):
            raise InputError(f"{name}: none of its {len(preview)} weightings was scored.")
        draws = bootstrap.resampled(good, seed=seed)
        scored = bootstrap.valued(good, draws, wish)
        allowed = candidates(good, wish)
        rows = np.flatnonzero(allowed)
        pick = int(rows[quality.ranking(scored.score[rows], good.alphas[rows])[0]])
        keeps = bool(wish.keeps(good.scores[pick], tasks))
        return cls(good, wish, draws, scored, allowed, keeps, pick)

    @property
    def alphas(self) -> Array:
        return self.scored.alphas

    def region(self, surrogate: Preview | None = None) -> Region:
        """The weightings that cannot be told from the pick; where none keeps the floors, by what they miss."""
        judged, allowed = self.scored, self.allowed
        if not self.keeps:
            short = self.preference.shortfall(self.preview.scores, self.preview.tasks)
            drawn = shortfall_drawn(self.preview, self.draws, self.preference)
            judged = Scored(self.alphas, -short, None if drawn is None else -drawn)
            allowed = np.ones(len(short), bool)
        if surrogate is not None:
            within = width(judged, self.pick)
            return interpolated_region(
                surrogate, self.preference, self.alphas[self.pick], within, kept=self.keeps
            )
        return near_best(judged, self.pick, allowed)

    def choice(self, seed: int) -> Choice | None:
        """The pick, chosen anew on resampled items; None without per-item scores."""
        tasks, wish = self.preview.tasks, self.preference
        unseen = wish.draws(bootstrap.unseen(self.preview, wish.w(tasks) > 0, seed=seed), tasks)
        return Choice.of(self.scored, unseen, candidates_drawn(self.preview, self.draws, wish))

    def per_task(self, a: int) -> dict[str, float]:
        return {task: float(s) for task, s in zip(self.preview.tasks, self.preview.scores[a], strict=True)}
