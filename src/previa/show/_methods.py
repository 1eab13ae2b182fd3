"""The methods that a store may hold: which is the truth, in which order they stand, and which work each one rests on."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from previa.study.truth import GIVEN, JOINT

WARM = f"{JOINT}_from_"  # joint runs that began at a preview: neither the truth nor a preview
RUNS = (
    "anchors",
    "left_out",
)  # scores of anchors themselves, and of what the other runs preview there: no maps
FIRST = r".+_first_\d+"  # scores on a part of the test items: no preview of its own
STEPS = r"refined_\d+"  # scores after so many steps of joint training from the preview, at single weightings: no map
ORDER = (
    "simple", "task_arithmetic", "squared_gradients", "regmean", "ivon_hessian", "mixture", "centre", "scores", "scores_gp",
    "refined", "warped", "anchored",
)  # fmt: skip
FINETUNINGS = {
    "simple": ("finetune/ivon",),
    "task_arithmetic": ("finetune/ivon",),
    "squared_gradients": ("finetune/adamw", "squared_gradients"),
    "regmean": ("finetune/ivon", "regmean"),
    "ivon_hessian": ("finetune/ivon",),
    "mixture": ("finetune/ivon", "finetune/ivon_more"),
}
"""method -> what in Store.seconds() it needs beside its own merging and scoring"""


SHARPENED = (
    "warped",
    "anchored",
    "refined",
)  # a family before one of these is sharpened so: ivon_hessian_warped
EXTRA = {
    "warped": ("powers",),
    "anchored": ("powers", "anchors"),
    "refined": ("powers", "refined"),
    "scores": ("anchors",),
    "scores_gp": ("anchors",),
    "centre": ("centre",),
}
"""sharpened method -> what in Store.seconds() it needs beside its family's finetunings"""


def finetunings(method: str, powers: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """What in Store.seconds() this method rests on: FINETUNINGS; of a part of the mixture those of the whole.

    powers: the store's fact of that name, which says which family a sharpened preview is of; simple averaging where it does not.
    """
    family, how = parted(method)
    if how:
        found = (powers or {}).get(method) or {}
        family = family or str((found.get("chosen") or {}).get("method") or "simple")
        return (*finetunings(family), *EXTRA[how])
    if method in EXTRA:
        return (*FINETUNINGS["simple"], *EXTRA[method])
    return FINETUNINGS.get("mixture" if components(method) else method, ())


def is_map(method: str) -> bool:
    """Whether what a store holds under this name is a preview of many weightings."""
    named = method in (JOINT, GIVEN, *RUNS) or method.startswith(WARM)
    return not (named or re.fullmatch(STEPS, method) or re.fullmatch(FIRST, method))


def parted(method: str) -> tuple[str, str]:
    """The family and how it is sharpened: ("ivon_hessian", "warped"); ("", "warped") of warped alone; else (method, "")."""
    found = re.fullmatch(rf"(?:(.+)_)?({'|'.join(SHARPENED)})", method)
    return (found[1] or "", found[2]) if found else (method, "")


def components(method: str) -> int:
    """K of a part of the mixture, which is named mixture_<K>; 0 for every other method."""
    head, _, size = method.rpartition("_")
    return int(size) if head == "mixture" and size.isdecimal() else 0


def place(method: str) -> tuple[int, float, str]:
    """Where a method stands: as in ORDER, parts of the mixture before the whole and by their size, all others last.

    A family that is sharpened stands right before the sharpened preview of the family that was chosen.
    """
    if K := components(method):
        return ORDER.index("mixture"), K, method
    family, how = parted(method)
    if how and family:
        return ORDER.index(how), -1, method
    return ORDER.index(method) if method in ORDER else len(ORDER), np.inf, method
