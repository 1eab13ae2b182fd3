"""A figure's long runs, side by side in processes: what each needs is handed over once, results come as they are done."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import torch

from previa.run.executors import map_processes

_here: list[Any] = []  # of this process


def in_workers(name: str, function: Callable, items: list, bench: Any, workers: int) -> Iterator[tuple]:
    """(item, value) as they come, with the time left; ends the program where one fails. ``function`` asks ``here()`` for the bench."""
    started, total = time.perf_counter(), len(items)
    with closing(map_processes(function, items, min(workers, total or 1), adopt, (bench,))) as outcomes:
        for done, outcome in enumerate(outcomes, 1):
            if outcome.failure is not None:
                raise SystemExit(f"{name} {outcome.item}: {outcome.failure}")
            left = (time.perf_counter() - started) / done * (total - done)
            print(f"{name}: {done} of {total}, {left:.0f} s left", flush=True)
            yield outcome.item, outcome.value


def adopt(bench: Any) -> None:
    """Make this process a worker of the bench; on one thread, so that numbers do not depend on how many workers there are."""
    torch.set_num_threads(1)
    _here[:] = [bench]


def here() -> Any:
    """The bench of this process."""
    return _here[0]
