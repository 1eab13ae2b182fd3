"""True scores of joint runs as a table: what other stacks trained is read from a CSV file, and asked for by one to fill in.

Columns, in any order, T of each: alpha_<task>, the weights of the tasks; score_<task>, as the study scores that task's test
data, higher is better. As in preview.csv. Beside them name, free text, and rows_<task>, the share of the task's rows in
training, may stand; both are for people and are not read.
"""

import csv
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from previa.errors import AlphaError, FileError, InputError
from previa.study import simplex

Array = NDArray[np.float64]
TYPED = 0.005  # weights as people type them, 0.333 each, sum to 1 within this
ALPHA, SCORE, ROWS, NAME = "alpha_", "score_", "rows_", "name"


@dataclass(frozen=True)
class GivenRun:
    """One line of the table: a joint run's weights and true scores, by task."""

    alpha: tuple[float, ...]
    scores: Mapping[str, float]
    name: str
    line: int


@dataclass(frozen=True)
class GivenRuns:
    """The runs of a table, and the lines that have no score yet, as in a template that is half filled in."""

    runs: tuple[GivenRun, ...]
    empty: tuple[int, ...] = ()


def read_runs(path: str | Path, tasks: Sequence[str]) -> GivenRuns:
    """The true scores in a CSV file of these tasks; weights that sum to 1 within TYPED are divided by their sum.

    Raises FileError where it cannot be read; InputError or AlphaError naming line and column for columns that are missing,
    unknown or there twice, weights that are no weights or stand in two lines, a score that is missing beside others or no
    finite number, and a file without any score.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, cells) for cells in reader]
    except OSError as error:
        raise FileError(f"{path}: this table cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: this is no CSV file in UTF-8: {error}.") from error
    lines = [(number, cells) for number, cells in lines if any(cell.strip() for cell in cells)]
    if not lines:
        raise InputError(
            f"{path}: this table is empty. Expected a line of columns, {', '.join(_columns(tasks))}."
        )
    at = _header(path, [cell.strip() for cell in lines[0][1]], tasks)
    runs: list[GivenRun] = []
    empty: list[int] = []
    for number, cells in lines[1:]:
        if len(cells) != len(lines[0][1]):
            raise InputError(
                f"{path}, line {number}: {len(cells)} cells, but line {lines[0][0]} names {len(lines[0][1])} columns."
            )
        row = {name: cells[i].strip() for name, i in at.items()}
        alpha = _alpha(path, number, row, tasks)
        if not any(row[SCORE + task] for task in tasks):
            empty.append(number)
            continue
        for other in runs:
            if simplex.same(other.alpha, alpha):
                raise InputError(
                    f"{path}, line {number}: the weights {simplex.show(alpha)} stand in line {other.line} already. Keep one "
                    "of the two; for several seeds give their mean."
                )
        scores = {task: _number(path, number, SCORE + task, row[SCORE + task]) for task in tasks}
        runs.append(GivenRun(alpha, scores, row.get(NAME, ""), number))
    if not runs:
        raise InputError(
            f"{path}: no line has scores. Fill in the columns {', '.join(SCORE + task for task in tasks)}, one joint run a line."
        )
    return GivenRuns(tuple(runs), tuple(empty))


def write_template(
    path: str | Path,
    tasks: Sequence[str],
    alphas: ArrayLike,
    names: Sequence[str],
    *,
    shares: ArrayLike | None = None,
) -> None:
    """The table with these weightings [n, T] and empty scores, to fill in; the file appears whole or not at all.

    names [n]; shares [n, T]: of each task's rows in training, where they are known. Raises AlphaError; InputError where a file
    is there already, which may hold scores; FileError when it cannot be written.
    """
    path = Path(path)
    rows = np.atleast_2d(simplex.check_alphas(alphas, len(tasks), where=str(path)))
    q = np.full(rows.shape, np.nan) if shares is None else np.asarray(shares, dtype=np.float64)
    if path.exists():
        raise InputError(
            f"{path}: there is such a file, and it may hold scores. Choose another name, or remove it."
        )
    header = [NAME, *(ALPHA + t for t in tasks), *(ROWS + t for t in tasks if shares is not None)]
    header += [SCORE + t for t in tasks]
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", newline="", encoding="utf-8") as file:
            write = csv.writer(file, lineterminator="\n").writerow
            write(header)
            for name, alpha, share in zip(names, rows, q, strict=True):
                beside = [] if shares is None else [f"{value:.6g}" for value in share]
                write([name, *(repr(float(weight)) for weight in alpha), *beside, *("" for _ in tasks)])
        part.replace(path)
    except OSError as error:
        raise FileError(f"{path}: this table cannot be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _columns(tasks: Sequence[str]) -> list[str]:
    return [*(ALPHA + task for task in tasks), *(SCORE + task for task in tasks)]


def _header(path: Path, found: list[str], tasks: Sequence[str]) -> dict[str, int]:
    """Where each column is."""
    wanted = _columns(tasks)
    known = {*wanted, NAME, *(ROWS + task for task in tasks)}
    for name in found:
        if name not in known:
            comma = " Cells should be separated by commas." if len(found) == 1 else ""
            raise InputError(
                f"{path}, line 1: the column {name!r} is unknown. Expected {', '.join(wanted)}, and {NAME} if you like.{comma}"
            )
        if found.count(name) > 1:
            raise InputError(
                f"{path}, line 1: the column {name!r} is there {found.count(name)} times. Keep one."
            )
    if missing := [name for name in wanted if name not in found]:
        raise InputError(
            f"{path}, line 1: the column {missing[0]!r} is missing. Expected {', '.join(wanted)}; found {', '.join(found)}."
        )
    return {name: i for i, name in enumerate(found)}


def _alpha(path: Path, line: int, row: Mapping[str, str], tasks: Sequence[str]) -> tuple[float, ...]:
    weights = [_number(path, line, ALPHA + task, row[ALPHA + task]) for task in tasks]
    total = sum(weights)
    if simplex.SUM_SLACK < abs(total - 1) <= TYPED + simplex.SUM_SLACK:
        weights = [weight / total for weight in weights]
    try:
        return tuple(simplex.check_alphas(weights, len(tasks), where=f"{path}, line {line}").tolist())
    except AlphaError as error:
        names = ", ".join(ALPHA + task for task in tasks)
        raise AlphaError(f"{error} These are the columns {names}.") from error


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        what = f"Found {text!r}" if text else "The cell is empty"
        raise InputError(f"{path}, line {line}, column {column!r}: expected a finite number. {what}.")
    return value
