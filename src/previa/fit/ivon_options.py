"""The ranges of IVON's options."""

import math
from collections.abc import Callable
from typing import Any

from previa.errors import InputError


def check_options(options: dict[str, Any]) -> None:
    """Raise InputError naming the first of a group's options that is out of its range."""
    betas = options["betas"]
    if not (isinstance(betas, tuple | list) and len(betas) == 2):
        raise InputError(f"IVON: betas is {betas!r}, but it must be two numbers, such as (0.9, 0.99999).")
    _require(options, "lr", "a finite number, zero or more", lambda x: 0 <= x < math.inf)
    _require(
        options,
        "ess",
        "a finite number above zero (such as the number of examples)",
        lambda x: 0 < x < math.inf,
    )
    _require(options, "hess_init", "a finite number above zero", lambda x: 0 < x < math.inf)
    _require(options, "weight_decay", "a finite number, zero or more", lambda x: 0 <= x < math.inf)
    _require(options, "clip_radius", "a number above zero (math.inf: no clipping)", lambda x: x > 0)
    for beta in betas:
        _require({"a beta": beta}, "a beta", "a number in [0, 1)", lambda x: 0 <= x < 1)


def _require(options: dict[str, Any], name: str, expected: str, holds: Callable[[float], bool]) -> None:
    value = options[name]
    if not isinstance(value, int | float) or not holds(value):
        raise InputError(f"IVON: {name} is {value!r}, but it must be {expected}.")
