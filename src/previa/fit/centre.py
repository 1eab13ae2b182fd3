"""One look from the centre: every task's loss is expanded at the merged model, and the expansions say where joint training would go.

The quadratic is trusted only as far as the measured joint loss agrees with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from previa.core.expansion import Expansion, check, promised, steps
from previa.core.merge import Alphas, as_alphas
from previa.core.modes import Modes
from previa.core.params import Flat
from previa.core.warp import Method
from previa.errors import InputError, ParamsError, PrecisionError

Look = Callable[[Flat], Sequence[Expansion]]
"""centre [P] -> every task's expansion there: one pass over all tasks' data"""
Losses = Callable[[Flat], Tensor]
"""parameters [P] -> every task's mean training loss [T]: forward passes only"""

DAMPINGS = (0.0, *(10.0**k for k in range(-6, 6)))
"""What is tried, relative to each tensor's mean curvature"""
FIRST = 1.0
FAIR = 0.25  # of the promised decrease: what a step must reach to be trusted


@dataclass(frozen=True)
class Tried:
    """One damping, and by how much the joint loss was promised to fall and fell, in the mean over the weightings."""

    damping: float
    promised: float
    measured: float

    @property
    def trusted(self) -> bool:
        """The loss fell, by a fair share of what was promised."""
        return self.measured > 0 and self.measured >= FAIR * self.promised


@final
@dataclass(frozen=True)
class Centre:
    """What was seen from the last centre, how far it is trusted, and what finding that out took."""

    expansions: tuple[Expansion, ...]
    damping: float
    """of steps at all weightings; infinite where no step was trusted: the preview is then the centre itself everywhere"""
    tried: tuple[Tried, ...]
    """the search for ``damping``, in its order"""
    losses: tuple[float, ...]
    """the joint loss of every centre at equal weights, or at the weighting walked along, the first one's first"""
    looks: int
    """passes over all tasks' data, forward and backward, for gradients and curvature"""
    evaluations: int
    """of all tasks' losses at one set of parameters, forward passes"""
    reason: str
    """a sentence: what was trusted, or why nothing was"""

    @property
    def passes(self) -> float:
        """The cost in training passes over the data of the looks: a forward pass is a third of one with its backward pass.

        Exact where ``look`` takes gradient and curvature in one pass and ``losses`` goes over the same data; Expected labels need a
        backward pass for each class, not counted here.
        """
        return self.looks + self.evaluations / 3

    @property
    def centre(self) -> Flat:
        """The last centre, [P]."""
        return self.expansions[0].centre

    def preview(self, alphas: Tensor) -> Modes:
        """theta(alpha) = c - (sum_t alpha_t H_t + damping D)^-1 sum_t alpha_t g_t: a preview method. Raises as ``steps``."""
        c = self.centre
        if math.isinf(self.damping):
            rows = len(as_alphas(alphas, len(self.expansions)).view(-1, len(self.expansions)))
            return Modes(Flat(c.layout, c.vector.expand(rows, -1).clone()), {})
        found = steps(alphas, self.expansions, damping=self.damping)
        return Modes(Flat(c.layout, (c.vector.double() + found.params.vector).to(c.vector)), found.stats)


def from_centre(
    method: Method,
    look: Look,
    losses: Losses,
    alphas: Alphas,
    *,
    recentrings: int = 1,
    at: Sequence[float] | None = None,
) -> Centre:
    """Expand at method's preview of equal weights, step, and look again ``recentrings`` times; then trust for all weightings.

    at [T]: another weighting to walk along, whose preview the first centre is. With alphas = [at] the result is that one
    weighting's own preview, which can stand as an anchor (``anchored``) where a joint run would.
    alphas [A, T]: where the joint loss sum_t alpha_t l_t is measured (``probes``). A damping is trusted where that loss falls
    by at least FAIR of what the quadratics promise, in the mean over alphas; the search begins at FIRST or at the last
    centre's, goes up to the first that is trusted and on while the loss falls further, or down while it does. Where none is,
    the step is 0 and ``reason`` says so. A re-centring is such a step at equal weights (``at``) alone; where that is
    refused, the centre stays.
    Raises InputError for expansions that differ or are of another centre, fewer losses than tasks, or a bad setting.
    """
    if not isinstance(recentrings, int) or recentrings < 0:
        raise InputError(f"from_centre: recentrings is {recentrings!r}; expected a whole number from 0 on.")
    rows = torch.atleast_2d(torch.as_tensor(alphas, dtype=torch.float64))
    T = rows.shape[1]
    rows = as_alphas(rows, T)
    own = as_alphas([1 / T] * T if at is None else at, T).view(1, T)
    search, first = _Search(losses, T), FIRST
    centre = method(own).params.row(0)
    seen = _seen(look, centre, T)
    here = search.tasks(centre)
    path, looks = [joint(own, here)], 1
    for _ in range(recentrings):
        found = search.best(seen, own, here, first)
        if found is None:
            break
        first, x = found.damping, steps(own, seen, damping=found.damping).params.vector[0]
        centre = Flat(centre.layout, (centre.vector.double() + x).to(centre.vector))
        seen, here = _seen(look, centre, T), search.tasks(centre)
        path, looks = [*path, joint(own, here)], looks + 1
    best = search.best(seen, rows, here, first)
    return Centre(
        tuple(seen),
        math.inf if best is None else best.damping,
        tuple(search.tried),
        tuple(path),
        looks,
        search.evaluations,
        _reason(best, seen),
    )


class _Search:
    """The measured losses so far, counted, and the search for a damping."""

    def __init__(self, losses: Losses, T: int) -> None:
        self._losses, self._T = losses, T
        self.evaluations = 0
        self.tried: list[Tried] = []

    def tasks(self, theta: Flat) -> Tensor:
        """Every task's loss [T], float64; infinite where it is no number."""
        self.evaluations += 1
        found = torch.as_tensor(self._losses(theta)).detach().double().cpu()
        if found.shape != (self._T,):
            raise InputError(
                f"from_centre: the losses have shape {tuple(found.shape)}; expected ({self._T},), one a task."
            )
        return torch.where(torch.isfinite(found), found, math.inf)

    def best(self, seen: Sequence[Expansion], at: Tensor, here: Tensor, first: float) -> Tried | None:
        """The trusted damping of the largest measured decrease, or None."""
        self.tried = []
        start = DAMPINGS.index(first)
        best = self._measure(seen, at, here, first)
        if best.trusted:
            best = self._along(DAMPINGS[:start][::-1], best, seen, at, here)
        if best.damping == first:
            best = self._along(DAMPINGS[start + 1 :], best, seen, at, here)
        return best if best.trusted else None

    def _along(
        self, dampings: Sequence[float], best: Tried, seen: Sequence[Expansion], at: Tensor, here: Tensor
    ) -> Tried:
        """From ``best`` on while the loss falls further, or until the first that is trusted and then on."""
        for damping in dampings:
            found = self._measure(seen, at, here, damping)
            further = found.trusted and (not best.trusted or found.measured > best.measured)
            if best.trusted and not further:
                break
            best = found if further else best
        return best

    def _measure(self, seen: Sequence[Expansion], at: Tensor, here: Tensor, damping: float) -> Tried:
        c = seen[0].centre
        try:
            x = steps(at, seen, damping=damping).params.vector
        except PrecisionError:  # without damping, where no task sees some direction
            self.tried.append(Tried(damping, math.inf, -math.inf))
            return self.tried[-1]
        theta = (c.vector.double() + x).to(c.vector)
        there = torch.stack([self.tasks(Flat(c.layout, row)) for row in theta])
        falls = joint(at, here) - joint(at, there)
        found = Tried(
            damping, float(promised(at, seen, x).mean()), falls if math.isfinite(falls) else -math.inf
        )
        self.tried.append(found)
        return found


def joint(alphas: Tensor, losses: Tensor) -> float:
    """The mean over weightings [A, T] of sum_t alpha_t l_t, for losses [A, T] or [T]; tasks without weight do not count."""
    return float(torch.where(alphas > 0, alphas * losses, 0.0).sum(-1).mean())


def _seen(look: Look, centre: Flat, T: int) -> Sequence[Expansion]:
    seen = tuple(look(centre))
    check(seen)
    if len(seen) != T:
        raise InputError(f"from_centre: look gave {len(seen)} expansions, but there are {T} tasks.")
    if seen[0].layout != centre.layout:
        raise ParamsError("from_centre: look expanded another model: its tensors are not the method's.")
    if not torch.equal(seen[0].centre.vector.to(centre.vector), centre.vector):
        raise InputError(
            "from_centre: look expanded at other parameters than it was given. Point the model at them first."
        )
    return seen


def _reason(best: Tried | None, seen: Sequence[Expansion]) -> str:
    if best is not None:
        return (
            f"steps with damping {best.damping:g}: the joint loss falls by {best.measured:.3g}, "
            f"{best.measured / best.promised:.0%} of the promised {best.promised:.3g}."
        )
    if all(float(e.g.abs().max()) == 0 for e in seen):
        return "no step: every task's gradient is zero at the centre."
    return (
        f"no step: at no damping up to {DAMPINGS[-1]:g} did the measured joint loss fall by {FAIR:.0%} of what the quadratics "
        "promise. They do not hold here; the preview is the centre itself."
    )
