"""Scores on their way into a store and out of it: checked, as few bytes, and put together again as a preview."""

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from previa.errors import InputError, NotFiniteError, ScoreError
from previa.study.preview import Preview

Items = NDArray[np.float32]

BITS, FLOATS = b"b", b"f"  # the first byte: all items are 0 or 1 (right or wrong), or any float32


def checked(
    scores: Mapping[str, object], tasks: tuple[str, ...], *, where: str
) -> list[tuple[float, Items | None]]:
    """Each task's score and, where the scorer gave them, its items' scores [N_t]; the score is then their mean.

    where names the method and the weighting. Raises InputError when tasks are missing or unknown, ScoreError when a
    value is neither a number nor a list of numbers, NotFiniteError when one is NaN or infinite.
    """
    if set(scores) != set(tasks):
        missing, unknown = sorted(set(tasks) - set(scores)), sorted(map(str, set(scores) - set(tasks)))
        raise InputError(
            f"{where}: there should be one score for each of {list(tasks)}. Missing {missing}, unknown {unknown}."
        )
    return [_one(scores[task], where=f"{where}, task {task!r}") for task in tasks]


def _one(value: object, *, where: str) -> tuple[float, Items | None]:
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError
        exact = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ScoreError(
            f"{where}: a score should be a number, or one number a test item. Found {value!r:.80}."
        ) from error
    if exact.ndim > 1 or exact.size == 0:
        raise ScoreError(
            f"{where}: a score should be a number, or one number a test item. Found shape {exact.shape}."
        )
    with np.errstate(over="ignore"):
        items = exact.astype(np.float32)
    bad = ~np.isfinite(items if exact.ndim else exact)
    if bad.any():
        at = f" at item {int(np.argmax(bad))}, {int(bad.sum())} of {bad.size} in all" if exact.ndim else ""
        raise NotFiniteError(f"{where}: scores should be finite. Found {exact.ravel()[np.argmax(bad)]}{at}.")
    if exact.ndim == 0:
        return float(exact), None
    return float(items.mean(dtype=np.float64)), items


def pack(items: Items) -> bytes:
    """The items' scores [N] as bytes: a bit each when all are 0 or 1, else float32; then zlib, which has a checksum."""
    bits = items.astype(np.uint8, casting="unsafe")
    if np.isin(items, (0.0, 1.0)).all():
        return BITS + zlib.compress(np.packbits(bits).tobytes())
    return FLOATS + zlib.compress(items.astype("<f4").tobytes())


def unpack(data: bytes, n: int) -> Items:
    """The n items' scores that were packed, exactly. Raises ValueError or zlib.error when the bytes are others."""
    raw = zlib.decompress(data[1:])
    if data[:1] == BITS and len(raw) == (n + 7) // 8:
        return np.unpackbits(np.frombuffer(raw, np.uint8), count=n).astype(np.float32)
    if data[:1] == FLOATS and len(raw) == 4 * n:
        return np.frombuffer(raw, "<f4").astype(np.float32)
    raise ValueError(f"the scores of {n} items take {len(raw)} bytes")


def assembled(
    tasks: tuple[str, ...],
    counts: Sequence[int | None],
    rows: Sequence[tuple[Any, ...]],
    cells: Iterable[tuple[Any, ...]],
    provenance: Mapping[str, object],
) -> Preview:
    """A preview from a store's rows (id, alpha, seconds, stats) and cells (id, task, score, items); counts: N_t or 0.

    What has no cell failed: NaN. Raises ValueError when they are not what was written.
    """
    place = {row[0]: a for a, row in enumerate(rows)}
    scores = np.full((len(rows), len(tasks)), np.nan)
    items = tuple(np.full((len(rows), n), np.nan, np.float32) if n else None for n in counts)
    try:
        for number, t, score, data in cells:
            scores[place[number], t] = score
            if (into := items[t]) is not None:
                into[place[number]] = unpack(data, into.shape[1])
        alphas = np.array([json.loads(row[1]) for row in rows])
        seconds = np.array([row[2] for row in rows], dtype=np.float64)
        noted = [json.loads(row[3]) for row in rows]
        names = sorted({name for stats in noted for name in stats})
        stats = {k: np.array([s.get(k) for s in noted], dtype=np.float64) for k in names}  # None becomes NaN
        return Preview(tasks, alphas, scores, items, {**stats, "seconds": seconds}, seconds.sum(), provenance)
    except (InputError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error
