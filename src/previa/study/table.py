"""Previews as one plain table, for spreadsheets and other programs."""

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from previa.errors import FileError
from previa.study.preview import Preview


def write_csv(path: str | Path, previews: Mapping[str, Preview]) -> None:
    """Write every weighting of every method as one row; the file appears whole or not at all.

    Columns: method, alpha_<task>..., score_<task>..., mean, status (ok or failed), seconds, then the other stats; what is
    not known is left empty. Raises FileError when it cannot be written.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(_rows(previews))
        part.replace(path)
    except OSError as error:
        raise FileError(f"{path}: this table cannot be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)  # gone already where all went well


def _rows(previews: Mapping[str, Preview]) -> Iterator[list[str]]:
    tasks = dict.fromkeys(task for p in previews.values() for task in p.tasks)
    stats = ["seconds", *sorted({name for p in previews.values() for name in p.stats} - {"seconds"})]
    yield ["method", *(f"alpha_{t}" for t in tasks), *(f"score_{t}" for t in tasks), "mean", "status", *stats]
    for method, p in previews.items():
        for a in range(len(p)):
            extra = [p.stats[name][a] if name in p.stats else None for name in stats]
            status = "ok" if p.ok[a] else "failed"
            yield [method, *_cells((*p.alphas[a], *p.scores[a], p.mean[a])), status, *_cells(extra)]


def _cells(values: Iterable[float | None]) -> Iterator[str]:
    for v in values:
        yield "" if v is None or v != v else repr(float(v))
