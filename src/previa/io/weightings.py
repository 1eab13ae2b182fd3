"""The weights of a merge: of the tasks as they were asked for, warped, and of every run where joint runs anchor the merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from previa.core.merge import as_alphas
from previa.core.scheffe import cardinals, met
from previa.core.warp import warp
from previa.errors import AlphaError

# of 1 - sum(alpha): weights often come as text of a few digits, and without a prior no gamma is meant; with one it is what is left
ROUNDING = 1e-5

Row = tuple[float, ...]


@final
@dataclass(frozen=True)
class Anchor:
    """A joint run as a file or folder, and the weighting that it was trained at, in the order of tasks."""

    alpha: Sequence[float]
    path: str | Path

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"the anchor at {','.join(f'{weight:.9g}' for weight in self.alpha)}"


@final
@dataclass(frozen=True)
class Weightings:
    """A weightings of T tasks, and of n anchors beside them."""

    tasks: tuple[str, ...]
    anchors: tuple[Anchor, ...]
    alphas: tuple[Row, ...]  # [A, T] as asked for, those near one in sum made to sum to one
    gammas: Row  # [A], 1 - sum(alpha)
    p: float
    warped: tuple[Row, ...]  # w [A, T]
    at: tuple[Row, ...]  # w of the anchors [n, T]
    shares: tuple[Row, ...]  # b [A, n]: what is missed at an anchor counts so much
    runs: tuple[
        Row, ...
    ]  # [A, T + n]: a merge that is linear in all runs is their sum with these weights, which may be negative

    def anchors_at(self, row: int) -> tuple[dict[str, object], ...]:
        """Of each anchor what it was trained at, where it is, and how much what is missed there counts."""
        return tuple(
            {
                "alpha": dict(zip(self.tasks, anchor.alpha, strict=True)),
                "from": str(anchor.path),
                "weight": share,
            }
            for anchor, share in zip(self.anchors, self.shares[row], strict=True)
        )

    def record(self, row: int) -> dict[str, object]:
        """What was merged, for the header of a file."""
        how = {"gamma": self.gammas[row], "p": self.p, "anchors": self.anchors_at(row)}
        return {"alpha": self.alpha(row), **how}

    def alpha(self, row: int) -> dict[str, float]:
        """What was asked for, by task."""
        return dict(zip(self.tasks, self.alphas[row], strict=True))


def weightings(
    alphas: Sequence[Sequence[float]],
    tasks: Sequence[str],
    *,
    near: float = ROUNDING,
    p: float = 1.0,
    anchors: Sequence[Anchor] = (),
) -> Weightings:
    """The weights of theta = m(w) + sum_r b_r(w) (theta_r - m(w_r)), w = alpha^p (see core.anchored).

    near: sums of alpha that differ from 1 by this at most are made 1.
    Where m(w) = sum_t w_t theta_t, that is sum_t W_t theta_t + sum_r b_r theta_r, W = w - sum_r b_r w_r; and at an
    anchor's weighting its b is 1 and all others are 0, exactly.
    Raises AlphaError for weights that are none, or that do not sum to 1 where there are anchors, or for anchors at corners or
    two at one weighting; InputError unless p > 0.
    """
    T, weights = len(tasks), as_alphas(alphas, len(tasks))
    if weights.dim() != 2:
        raise AlphaError(
            f"merge: alphas have shape {tuple(weights.shape)}; expected rows of one weight for each of {list(tasks)}."
        )
    totals = weights.sum(-1, keepdim=True)
    one = (1 - totals).abs() <= near
    weights = torch.where(one, weights / totals, weights)
    gammas = torch.where(one, 0.0, 1 - totals).flatten()
    w = warp(weights, p)
    at = w.new_zeros(0, T)
    if anchors:
        if bool(gammas.any()):
            raise AlphaError(
                f"alpha sums to {1 - float(gammas[gammas != 0][0]):g}; with anchors it must sum to 1: they are joint runs, which say "
                "nothing of the base's share. Divide the weights by their sum, or leave the anchors out."
            )
        at = warp(_trained(anchors, T), p)
    b = cardinals(w, at)
    runs = torch.cat([w - b @ at, b], 1)
    for a, _ in met(w, at):
        runs[a, :T] = 0.0
    rows = [tuple(map(tuple, each.tolist())) for each in (weights, w, at, b, runs)]
    given = (tuple(tasks), tuple(anchors), rows[0], tuple(gammas.tolist()), float(p))
    return Weightings(*given, *rows[1:])


def _trained(anchors: Sequence[Anchor], T: int) -> Tensor:
    """The anchors' alphas [n, T], each made to sum to one."""
    found = []
    for anchor in anchors:
        try:
            alpha = as_alphas(anchor.alpha, T)
        except AlphaError as error:
            raise AlphaError(f"{anchor.name}: {error}") from error
        total = float(alpha.sum())
        if alpha.dim() != 1 or abs(1 - total) > ROUNDING:
            raise AlphaError(
                f"{anchor.name}: the weights sum to {total:g}; expected the weighting that {anchor.path} was trained at, one weight "
                "for each task, with sum 1."
            )
        found.append(alpha / total)
    return torch.stack(found)
