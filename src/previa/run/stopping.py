"""Ctrl-C and a scheduler's termination, heard between two pieces of work instead of in the middle of one."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def heard() -> Iterator[Callable[[], bool]]:
    """Inside, SIGINT and SIGTERM are noted only: whether one came is what the function given tells. A second one acts at once.

    Outside of the main thread, where no signals arrive, nothing is changed.
    """
    came = False
    before: dict[signal.Signals, object] = {}

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.signal(number, before[signal.Signals(number)])  # type: ignore[arg-type]

    try:
        for kind in (signal.SIGINT, signal.SIGTERM):
            before[kind] = signal.getsignal(kind)
            signal.signal(kind, note)
    except ValueError:
        before.clear()
    try:
        yield lambda: came
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)  # type: ignore[arg-type]
