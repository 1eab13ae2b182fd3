"""A run: parameters and the weighting they were trained at."""

from __future__ import annotations

from dataclasses import dataclass

from previa.core.params import Params
from previa.core.posterior import Bounded, Posterior


@dataclass(frozen=True)
class Run:
    """One finetuning. A task's own is a corner of the simplex (alpha = e_t); a run anywhere else is an anchor.

    posterior: None where only the parameters are known, which is all that an anchor needs.
    """

    alpha: tuple[float, ...]
    params: Params
    posterior: Posterior | Bounded | None = None
