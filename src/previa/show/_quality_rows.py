"""The data of the figure of quality against cost: its rows, how good each is by which measure, and how each kind looks."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from previa.errors import InputError
from previa.show._look import INK, LINES

TRUTH, AGAIN, PLAIN = "joint", "joint_again", "simple"
SHARPEST = 5e-4  # 1 - Spearman below this is drawn there: finer differences are no finding

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Look:
    """How the points of one kind of preview are drawn."""

    colour: str
    marker: str
    size: float = 34
    hollow: bool = False

    @property
    def words(self) -> str:
        """The colour of a name: letters need more of it than marks."""
        return INK if self.colour == OTHER.colour else self.colour


OTHER = Look("#8b867b", "o", 22)
LOOKS = {
    "anchored": Look(LINES[0], "o", 62),
    "warped": Look(LINES[0], "^", 48),
    "scores": Look(LINES[1], "s", 34),
    "scores_gp": Look(LINES[4], "D", 30),
    "centre": Look(LINES[2], "v", 44),
    "refined": Look(LINES[3], "P", 44),
    "in_plane": Look("#3d93c9", "<", 40),
}


@dataclass(frozen=True)
class Measure:
    """One way to say how good a preview is: a key of the rows, drawn on a logarithmic axis with the better end above."""

    key: str
    words: str
    said: str
    """for the caption: what the numbers and the grey band are"""

    def of(self, row: Row, plain: float | None) -> float | None:
        """What is drawn of a row: 1 - Spearman, MSE over simple averaging's; None where it is not known."""
        value = row.get(self.key)
        if value is None or not np.isfinite(value):
            return None
        if self.key == "spearman":
            return max(1 - float(value), SHARPEST)
        return None if not plain else float(value) / plain

    def ticks(self, low: float, high: float) -> tuple[list[float], list[str]]:
        """Where the axis has numbers, and which."""
        if self.key == "spearman":
            at = [0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999]
            return [1 - r for r in at], [f"{r:g}" for r in at]
        powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        at = [10.0**k for k in powers]
        if len(at) < 4:
            at = [m * 10.0**k for k in powers for m in (1, 2, 5)]
        return at, [f"{x:g}" for x in at]


RANK = Measure("spearman", "Spearman with the truth", "Spearman: 1 orders all weightings as joint runs do.")
ERROR = Measure(
    "mse", "MSE, simple averaging = 1", "MSE: of previewed scores, over simple averaging's of the same study."
)


def check(rows: Sequence[Row], measures: Sequence[Measure]) -> None:
    """Raises InputError where a row lacks what the figure needs."""
    if not rows or not measures:
        raise InputError("quality_cost: there is nothing to draw: no rows, or no measures.")
    for i, row in enumerate(rows):
        if missing := {"study", "method", "label", "cost"} - set(row):
            raise InputError(f"quality_cost: row {i} has no {sorted(missing)}; found {sorted(row)}.")
        if row["method"] != TRUTH and all(row.get(measure.key) is None for measure in measures):
            continue  # as uniform weights, which cost nothing and rank nothing
        if not (isinstance(row["cost"], int | float) and 0 < row["cost"] < np.inf):
            raise InputError(
                f"quality_cost: row {i}, {row['method']} in {row['study']}: the cost is {row['cost']!r}; expected a positive "
                "number of joint runs."
            )


@dataclass(frozen=True)
class Point:
    """One method of one study: its seeds together."""

    method: str
    label: str
    cost: float
    value: float
    low: float
    high: float

    @property
    def series(self) -> str:
        """The method without a last number."""
        return re.sub(r"_\d+$", "", self.method)

    @property
    def look(self) -> Look:
        """That of the longest of LOOKS among the words of the method: "ivon_hessian_anchored" is an "anchored".

        Runs of a part of the steps, "anchored_short", are hollow.
        """
        found = [name for name in LOOKS if re.search(rf"(^|_){name}(_|$)", self.series)]
        look = LOOKS[max(found, key=len)] if found else OTHER
        return replace(look, hollow=bool(re.search("(^|_)short(_|$)", self.series)))


def points(rows: Sequence[Row], measure: Measure) -> list[Point]:
    """What is drawn of one study's rows: a point a method that has this measure, the cheapest first."""
    plain = [float(row["mse"]) for row in rows if row["method"] == PLAIN and row.get("mse") is not None]
    base = float(np.mean(plain)) if plain else None
    found = []
    for method in dict.fromkeys(str(row["method"]) for row in rows):
        own = [row for row in rows if row["method"] == method]
        values = [value for row in own if (value := measure.of(row, base)) is not None]
        if values and method != TRUTH:
            cost = float(np.mean([row["cost"] for row in own]))
            found.append(
                Point(method, str(own[0]["label"]), cost, float(np.mean(values)), min(values), max(values))
            )
    return sorted(found, key=lambda point: point.cost)
