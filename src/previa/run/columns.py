"""Which column of a data set plays which part: the text, the label, the source and the target of a translation ..."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from previa.errors import InputError

Roles = Mapping[str, Sequence[str]]
"""role -> the names that its column usually has, likeliest first; those that end in "?" may be absent"""


@final
@dataclass(frozen=True)
class Columns:
    """role -> column; a dot goes into a nested one, as in translation.de."""

    names: Mapping[str, str]

    def __contains__(self, role: object) -> bool:
        return role in self.names

    def value(self, row: Mapping[str, Any], role: str, where: str) -> Any:
        """What the row has there. Raises InputError, beginning with ``where``, for a row without the column or with nothing in it."""
        found: Any = row
        for step in self.names[role].split("."):
            found = found.get(step) if isinstance(found, Mapping) else None
        if found is None:
            raise InputError(
                f"{where}: column {self.names[role]!r} is missing or empty; expected the {role}."
            )
        return found


def columns_of(row: Mapping[str, Any], sets: Sequence[Roles], given: Mapping[str, str]) -> Columns:
    """The columns of the first of these sets of roles that the row can serve; ``given`` says some of them.

    Raises InputError naming the columns there are, and those that would do.
    """
    there = _paths(row)
    for role, name in given.items():
        if name not in there:
            raise InputError(f"--column {role}={name}: the rows have the columns {', '.join(there)}.")
    for roles in sets:
        if set(given) - {role.rstrip("?") for role in roles}:
            continue
        found = {}
        for role, usual in roles.items():
            chosen = given.get(role.rstrip("?")) or next((name for name in usual if name in there), None)
            if chosen is not None:
                found[role.rstrip("?")] = chosen
        if all(role.endswith("?") or role in found for role in roles):
            return Columns(found)
    known = dict.fromkeys(role.rstrip("?") for roles in sets for role in roles)
    unknown = [role for role in given if role not in known]
    if unknown:
        raise InputError(f"--column {unknown[0]}=...: no such part; expected {', '.join(known)}.")
    wanted = " or ".join(
        " with ".join(
            f"{role} ({' | '.join(usual)})" for role, usual in roles.items() if not role.endswith("?")
        )
        for roles in sets
    )
    raise InputError(
        f"the rows have the columns {', '.join(there)}; expected {wanted}. Say which is which with --column (in a study file: columns), as in --column "
        f"{next(iter(sets[0])).rstrip('?')}={there[0] if there else 'NAME'}."
    )


def _paths(row: Mapping[str, Any]) -> list[str]:
    paths = []
    for name, value in row.items():
        paths.append(str(name))
        if isinstance(value, Mapping):
            paths += [f"{name}.{inner}" for inner in _paths(value)]
    return paths
