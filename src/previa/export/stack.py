"""What all training stacks have in common here: a plan goes in, the text of the stack's own files comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from previa.export.plan import Plan
from previa.export.shares import Average

MIXED = "mixture.jsonl"
"""The name of the mixed data itself, in the folder of a hand-over."""


@dataclass(frozen=True)
class Handover:
    """What one stack gets: ``files`` name -> text, ``numbers`` task -> its own number for it, and how to ``use`` the files.

    notes: what a person should know beside it, a sentence each.
    """

    files: Mapping[str, str]
    numbers: Mapping[str, float | int | str]
    use: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stack:
    """A training stack. ``export(plan, folder)`` writes nothing: it returns what is to be written to ``folder``.

    number: what its number means, in a few words, for a table.
    average: what its loss is an average of, where that is one thing; None where the user has to say. why: a sentence on that.
    only: it cannot average over anything else. mixed: it knows no weights, so the mixed data itself is written.
    """

    name: str
    export: Callable[[Plan, Path], Handover] = field(repr=False)
    number: str
    average: Average | None
    why: str
    only: bool = False
    mixed: bool = False
