"""Arguments of a command as a bash array in a file: readable, with comments, and safe for any path."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from previa.errors import InputError


def array(name: str, lines: Sequence[Sequence[str]], comment: str) -> str:
    """The file that defines the array, one line of it for each of ``lines``. Raises InputError for a NUL character."""
    for word in (word for line in lines for word in line):
        if "\0" in word:
            raise InputError(f"no command can be given {word!r}: it holds a NUL character.")
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + f"{name}=(\n" + "".join(f"  {shlex.join(line)}\n" for line in lines) + ")\n"
