"""Pieces worked on side by side, a thread for each processor: reading, summing and writing overlap."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

MOST = 8  # more threads than this only wait for memory and disk
KEPT = 1 << 24  # bytes: blocks up to this size are used again, not given back to the system

Job = TypeVar("Job")


def side_by_side(work: Callable[[Job], None], jobs: Iterable[Job]) -> None:
    """work(job) for every job, on all processors that this process may use. Raises what the first failing job raises.

    Jobs are drawn when they are needed, and begin in order. torch works with one thread meanwhile: its own threads, which
    wait for each other after every sum of a piece, take many times longer where other programs run.
    """
    threads = min(MOST, processors())
    with _one_thread():
        _keep_memory()
        if threads == 1:
            for job in jobs:
                work(job)
            return
        with ThreadPoolExecutor(threads) as pool:
            running: deque[Future[None]] = deque()
            try:
                for job in jobs:
                    running.append(pool.submit(work, job))
                    if len(running) > 2 * threads:
                        running.popleft().result()
                while running:
                    running.popleft().result()
            finally:
                for future in running:
                    future.cancel()


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep_memory() -> None:
    """Have the C library keep blocks that are given back: fresh memory for every piece would cost more than its sums.

    glibc learns by itself: once a block of some size came back, smaller ones are kept. Other libraries lose nothing by it.
    """
    torch.empty(KEPT, dtype=torch.uint8)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
