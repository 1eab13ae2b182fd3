"""One pre-flight check, and how its numbers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["ok", "note", "warning"]


@dataclass(frozen=True)
class Check:
    """One check: what it means for this study, in a sentence, and the numbers behind it."""

    name: str
    sentence: str
    level: Level
    numbers: Mapping[str, Any] = field(default_factory=dict)


def pair_of(names: Sequence[str], i: int, j: int) -> str:
    """The name of two tasks together."""
    return f"{names[i]} | {names[j]}"


def percent(share: float) -> str:
    """A share for a person."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def duration(seconds: float) -> str:
    """Seconds for a person."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def span(low: float, high: float, digits: int = 2) -> str:
    """Two numbers for a person, one where they look alike."""
    first, last = f"{low:.{digits}f}", f"{high:.{digits}f}"
    return first if first == last else f"{first} to {last}"
