"""Pieces side by side: all are done, few are waiting, and the first failure ends the work."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from previa.io import workers
from previa.io.workers import side_by_side


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(workers, "processors", lambda: request.param)
    return int(request.param)


def test_every_job_is_done_once_and_few_are_drawn_ahead(threads: int) -> None:
    lock, done, ahead = threading.Lock(), [], []

    def jobs() -> Iterator[int]:
        for number in range(100):
            with lock:
                ahead.append(number - len(done))
            yield number

    def work(number: int) -> None:
        with lock:
            done.append(number)

    side_by_side(work, jobs())
    assert sorted(done) == list(range(100))
    assert max(ahead) <= 2 * threads + 1


def test_two_jobs_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "processors", lambda: 2)
    meeting = threading.Barrier(2)  # breaks, and so raises, where one job is never beside another
    places: list[int] = []
    side_by_side(lambda _: places.append(meeting.wait(timeout=30)), range(4))
    assert sorted(places) == [0, 0, 1, 1]


def test_torch_has_one_thread_inside_and_as_many_as_before_outside(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        inside: list[int] = []
        side_by_side(lambda _: inside.append(torch.get_num_threads()), range(6))
        assert inside == [1] * 6
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_first_failure_is_raised_and_ends_the_work(threads: int) -> None:
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        if number in (5, 6):
            raise ValueError(f"job {number}")

    with pytest.raises(ValueError, match="job 5"):
        side_by_side(work, range(100))
    assert len(begun) <= 6 + 2 * threads + 1  # those after it that were drawn already
