"""A small part of YAML, written without a library: mappings, lists, and scalars that no reader takes for anything else."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from previa.errors import InputError

Value = None | bool | int | float | str | Sequence["Value"] | Mapping[str, "Value"]

# JSON leaves these as they are, but YAML wants them escaped: DEL, C1 controls, line separators, surrogates, BOM, non-characters
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")

_WORDS = {"null", "true", "false", "yes", "no", "on", "off"}  # which are no strings without quotes


def dump(value: Mapping[str, Value], comment: str = "") -> str:
    """The document of a mapping in block style; ``comment`` goes before it, with a # in front of every line.

    All strings, keys too, are in double quotes, as JSON writes them, so that no name is read as a number, a date or a
    comment. YAML 1.1 and 1.2 read it alike. Raises InputError for NaN and infinity.
    """
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    return "\n".join([*lines, *_block(value, "")]) + "\n"


def quoted(text: str) -> str:
    """The string in double quotes, with everything escaped that has to be."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def _block(value: Value, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            key = name if re.fullmatch("[a-z_]{2,}", name) and name not in _WORDS else quoted(name)
            yield from _entry(f"{indent}{key}:", each, indent + "  ")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for each in value:
            if isinstance(each, Mapping) and each:
                first, *rest = _block(each, indent + "  ")
                yield from (f"{indent}- {first.lstrip()}", *rest)
            else:
                yield from _entry(f"{indent}-", each, indent + "  ")


def _entry(head: str, value: Value, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str) and value:
        yield head
        yield from _block(value, indent)
    else:
        yield f"{head} {_scalar(value)}"


def _scalar(value: Value) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"a number to be written should be finite. Found {value}.")
        text = repr(value)  # YAML 1.1 reads 1e-05 as a string, 1.0e-05 as a number
        return text if "e" not in text or "." in text else text.replace("e", ".0e")
    return "[]" if isinstance(value, list | tuple) else json.dumps(value)
