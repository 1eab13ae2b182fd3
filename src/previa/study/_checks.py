"""Tables of a study file -> frozen dataclasses: each field carries the check of its key, each refusal is one sentence."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from previa.errors import StudyError

Check = Callable[[object], Any]
S = TypeVar("S")


class WrongValueError(ValueError):
    """A value is not what its key expects; the message is what was expected."""


def key(check: Check, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that a study file may set (must, without a default), and what its value has to be."""
    return dataclasses.field(default=default, metadata={"check": check})


def section(cls: type[S], table: object, *, where: str, **others: object) -> S:
    """The dataclass cls from one table of a study file; others: its fields that the table does not set.

    where: the file and the section. Raises StudyError for unknown, missing and wrong keys.
    """
    if not isinstance(table, Mapping):
        raise StudyError(f"{where}: expected a table of keys. Found {table!r:.60}.")
    fields = {f.name: f for f in dataclasses.fields(cls) if "check" in f.metadata}  # type: ignore[arg-type]
    known(table, fields, what="key", where=where)
    values = dict(others)
    for name, f in fields.items():
        if name in table:
            try:
                values[name] = f.metadata["check"](table[name])
            except WrongValueError as wrong:
                raise StudyError(f"{where}: {name} should be {wrong}. Found {table[name]!r:.80}.") from wrong
        elif f.default is dataclasses.MISSING:
            raise StudyError(f"{where}: the key {name!r} is missing. Add a line: {name} = ...")
    return cls(**values)


def known(found: Iterable[str], names: Iterable[str], *, what: str, where: str) -> None:
    """Raises StudyError at the first name that is not among those, with the nearest that is."""
    names = list(names)
    for name in found:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise StudyError(f"{where}: there is no {what} {name!r}. {hint}Known are: {', '.join(names)}.")


def text(value: object) -> str:
    """Some text, not only blanks."""
    if not isinstance(value, str) or not value.strip():
        raise WrongValueError("some text in quotes")
    return value


def texts(value: object) -> tuple[str, ...]:
    """A list of such texts."""
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) and v.strip() for v in value):
        raise WrongValueError("a list of texts in quotes")
    return tuple(value)


def words(value: object) -> dict[str, str]:
    """A table from words to texts."""
    if not isinstance(value, Mapping) or not all(isinstance(v, str) and v.strip() for v in value.values()):
        raise WrongValueError('a table of texts, such as {text = "sentence", label = "stars"}')
    return dict(value)


def path(value: object) -> Path:
    """The path of a file or folder."""
    return Path(text(value))


def label(value: object) -> str:
    """A name that can stand in a file name and in a table."""
    bad = not isinstance(value, str) or not value.strip() or value.strip() != value or value.strip(".") == ""
    if bad or any(c in "/\\" or not c.isprintable() for c in str(value)):
        raise WrongValueError("a name in quotes, without slashes, line breaks, or blanks at its ends")
    return str(value)


def reference(value: object) -> str:
    """Where a function is, as "package.module:name"; it is looked up when it is needed."""
    module, _, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise WrongValueError("a function written as 'module:name'")
    return str(value)


def one_of(*names: str) -> Check:
    """One of these words."""

    def check(value: object) -> str:
        if value not in names:
            near = difflib.get_close_matches(str(value), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise WrongValueError("one of " + ", ".join(map(repr, names)) + hint)
        return str(value)

    return check


def either(first: Check, second: Check) -> Check:
    """What one of two checks takes."""

    def check(value: object) -> Any:
        try:
            return first(value)
        except WrongValueError as one:
            try:
                return second(value)
            except WrongValueError as other:
                raise WrongValueError(f"{other}, or {one}") from None

    return check


def renamed(check: Check, names: Mapping[str, str]) -> Check:
    """As ``check``, with old words for new ones."""
    return lambda value: check(names.get(value, value) if isinstance(value, str) else value)


def several_of(*names: str) -> Check:
    """A list of some of these words, each once."""

    def check(value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not value or len(set(map(str, value))) != len(value):
            raise WrongValueError("a list of different names, at least one")
        return tuple(one_of(*names)(v) for v in value)

    return check


def lists_of(check: Check, what: str) -> Check:
    """A list of lists, none empty and none twice; each holds what this check wants, in rising order."""

    def lists(value: object) -> tuple[tuple[Any, ...], ...]:
        try:
            found = tuple(tuple(check(v) for v in one) for one in value)  # type: ignore[attr-defined]
        except (TypeError, WrongValueError):
            raise WrongValueError(what) from None
        if any(not one or list(one) != sorted(set(one)) for one in found) or len(set(found)) < len(found):
            raise WrongValueError(what)
        return found

    return lists


def whole(least: int) -> Check:
    """A whole number, at least this."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise WrongValueError(f"a whole number, at least {least}")
        return value

    return check


def number(*, least: float = -math.inf, above: float = -math.inf, below: float = math.inf) -> Check:
    """A finite number, at least this, above this, below this."""
    limits = ((f"at least {least:g}", least), (f"above {above:g}", above), (f"below {below:g}", below))
    words = " and ".join(word for word, limit in limits if math.isfinite(limit))

    def check(value: object) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or not (least <= value and above < value < below):  # type: ignore[operator]
            raise WrongValueError(f"a finite number {words}".rstrip())
        return float(value)  # type: ignore[arg-type]

    return check


def pair(check: Check) -> Check:
    """A list of two, each as this check wants it."""

    def both(value: object) -> tuple[Any, Any]:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise WrongValueError("a list of two numbers")
        return check(value[0]), check(value[1])

    return both
