"""Provenance: what a stored precision means, and whether the precisions of several tasks mean the same (METHOD 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import final

from previa.errors import InputError

REDUCTIONS = ("mean", "sum")


@final
@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a posterior was made; only what applies is set. Raises InputError for values that no posterior can have.

    reduction: the joint objective sum_t alpha_t l_t has l_t the "mean" or the "sum" of the losses of task t's examples; the
    stored precision is that of exp(-l_t) up to one scale common to all tasks (``ess``) under "mean".
    prior_relative: the prior precision as a share of each tensor's mean Fisher; prior_share: its share of the total.
    """

    family: str  # "isotropic" or "diagonal"
    source: str  # "ivon", "squared_gradients", "adam_moments", "snapshots", ...
    reduction: str  # "mean" or "sum"
    examples: int  # N_t
    batch_size: int | None = None
    label_mode: str | None = None  # of squared gradients: whose labels
    ess: float | None = None
    delta: float | None = None
    beta2: float | None = None
    steps: int | None = None
    hess_init: float | None = None
    prior_precision: float | None = None
    prior_relative: float | None = None
    prior_share: float | None = None
    power: float | None = None  # of Adam's second moments: 1 estimates squared gradients, 0.5 their root
    version: str = field(default_factory=lambda: version("previa"))

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise InputError(
                f"Provenance: reduction is {self.reduction!r}; expected 'mean' or 'sum': is a task's loss the mean or "
                "the sum over its examples?"
            )
        lowest = {"examples": 1, "batch_size": 1, "steps": 0}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int | float) and not (
                math.isfinite(value) and value >= lowest.get(item.name, 0)
            ):
                raise InputError(
                    f"Provenance: {item.name} is {value}; expected at least {lowest.get(item.name, 0)}."
                )

    @property
    def memory(self) -> float | None:
        """beta2**steps, the weight that hess_init still has in IVON's Hessian: near 1 the merge is simple averaging.

        None where there is no such thing; Adam's moments are corrected for where they began.
        """
        if self.beta2 is None or self.steps is None or self.source == "adam_moments":
            return None
        return float(self.beta2**self.steps)


def to_strings(provenance: Provenance) -> dict[str, str]:
    """The fields that are set, as strings that from_strings reads back exactly."""
    values = {item.name: getattr(provenance, item.name) for item in fields(provenance)}
    return {
        name: value if isinstance(value, str) else repr(value)
        for name, value in values.items()
        if value is not None
    }


def from_strings(strings: Mapping[str, str]) -> Provenance:
    """The provenance of to_strings' strings. Raises InputError naming a field that is missing, unknown or unreadable."""
    kinds = {item.name: str(item.type).removesuffix(" | None") for item in fields(Provenance)}
    unknown = sorted(set(strings) - set(kinds))
    missing = [
        name for name in ("family", "source", "reduction", "examples", "version") if name not in strings
    ]
    if unknown or missing:
        raise InputError(
            f"the provenance {f'lacks {missing[0]!r}' if missing else f'has the unknown field {unknown[0]!r}'}"
        )
    values: dict[str, str | int | float] = {}
    for name, text in strings.items():
        try:
            values[name] = {"int": int, "float": float}.get(kinds[name], str)(text)
        except ValueError:
            raise InputError(f"the provenance says {name} = {text!r}, which is no {kinds[name]}") from None
    return Provenance(**values)  # type: ignore[arg-type]


def check_conventions(provenances: Mapping[str, Provenance]) -> None:
    """Raise InputError, naming the tasks, unless the precisions of all tasks (name -> provenance) are of one scale.

    That is: one reduction and one power for all; under "mean" one ess for all; under "sum" an ess, where there is one, equal to N_t.
    A silent mismatch would turn alpha_t into alpha_t * N_t.
    """
    if not provenances:
        return
    first, one = next(iter(provenances.items()))
    for name, other in provenances.items():
        if other.reduction != one.reduction:
            raise InputError(
                f"task {name!r}: its precision is of the {other.reduction} of the losses, but that of {first!r} is of the "
                f"{one.reduction}. The weights would count examples for one and not for the other: make both posteriors "
                "with one reduction."
            )
        if (other.power or 1.0) != (one.power or 1.0):
            raise InputError(
                f"task {name!r}: its precision is of squared gradients to the power {other.power or 1.0:g}, but that of {first!r} "
                f"to the power {one.power or 1.0:g}. These are numbers of different kinds: take one power for all tasks."
            )
        if one.reduction == "mean" and other.ess != one.ess:
            raise InputError(
                f"task {name!r}: its precision was made with ess = {_shown(other.ess)}, but that of {first!r} with ess = "
                f"{_shown(one.ess)}. For mean losses all tasks need one common ess: divide each precision by its ess, or "
                "train again."
            )
        if other.reduction == "sum" and other.ess not in (None, other.examples):
            raise InputError(
                f"task {name!r}: its precision was made with ess = {_shown(other.ess)}, but for the sum of the losses ess "
                f"must be the number of examples, {other.examples}. Scale the precision to it, or train again."
            )


def _shown(ess: float | None) -> str:
    return "none" if ess is None else f"{ess:g}"
