"""The same function over many items, in local processes: a worker that dies loses one item, never the others' work.

concurrent.futures loses every running item when one worker dies, and does not say which item it was; here each worker has
a pipe of its own, so that an item of the kind that kills (out of memory, a crash in native code) fails alone.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

import torch

from previa.errors import InputError, PreviaError
from previa.run.scoring import describe

I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")


@dataclass(frozen=True)
class Outcome(Generic[I, R]):
    """What became of one item: its value, or why there is none."""

    item: I
    value: R | None
    failure: str | None


def map_processes(
    function: Callable[[I], R],
    items: Iterable[I],
    workers: int,
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Generator[Outcome[I, R], None, None]:
    """function(item) for each item, as they come, in ``workers`` spawned processes of one thread each; in this one when 1.

    ``initializer(*initargs)`` runs once in each process. What raises, or kills its worker, is an Outcome with a ``failure``,
    and the others go on. Leaving the loop early, Ctrl-C too, ends the workers at once.
    Raises InputError where something cannot be sent to a process, PreviaError where workers cannot start.
    """
    if workers < 1:
        raise InputError(f"workers must be at least 1; found {workers}.")
    if workers == 1:
        if initializer is not None:
            initializer(*initargs)
        yield from (_attempt(function, item) for item in items)
        return
    job = _pack((function, initializer, initargs))
    waiting = iter(items)
    pool: list[_Worker[I]] = []
    try:
        pool.extend(_Worker(item) for item in islice(waiting, workers))
        for worker in pool:  # after all have started: a large job waits for its reader
            worker.send(job, _pack(worker.item))
        while pool:
            yield from _turn(pool, waiting, job)
    finally:
        for worker in pool:
            worker.process.kill()
        for worker in pool:
            worker.process.join()


class _Worker(Generic[I]):
    """One process, its pipe, and the item it is at work on."""

    def __init__(self, item: I) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=_serve, args=(far,))
        resource_tracker.ensure_running()  # now: its start, inside the block, would let SIGINT through again
        with _without_ctrl_c():  # the process inherits it: Ctrl-C is for the parent, which ends its workers
            self.process.start()
        far.close()
        self.item, self.ready = item, False

    def send(self, *messages: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it is dead, which receive() will find
            for message in messages:
                self.pipe.send_bytes(message)

    def receive(self) -> Any:
        """The next message; EOFError where the process is dead."""
        try:
            return pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError) as error:
            self.process.join()
            raise EOFError from error

    def end(self) -> None:
        self.pipe.close()  # the process reads the end of the pipe and returns
        self.process.join()


def _turn(pool: list[_Worker[I]], waiting: Iterator[I], job: bytes) -> Iterator[Outcome[I, Any]]:
    """Waits for news, yields the outcomes in it, and gives every free worker its next item."""
    news = wait([worker.pipe for worker in pool])
    for worker in [worker for worker in pool if worker.pipe in news]:
        try:
            value, failure = worker.receive()
        except EOFError:
            pool.remove(worker)
            if not worker.ready:
                raise PreviaError(_cannot_start(worker.process.exitcode)) from None
            yield Outcome(worker.item, None, _death(worker.process.exitcode))
            for item in islice(waiting, 1):
                pool.append(_Worker(item))
                pool[-1].send(job, _pack(item))
            continue
        if not worker.ready:
            worker.ready = True
            if failure is not None:
                raise PreviaError(f"a worker process could not start: {failure}")
            continue
        done = worker.item
        for item in islice(waiting, 1):
            worker.item = item
            worker.send(_pack(item))
            break
        else:
            pool.remove(worker)
            worker.end()
        yield Outcome(done, value, failure)


def _serve(pipe: Connection) -> None:
    """The life of a worker: set up, then one reply for each item until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where _without_ctrl_c can do nothing
    torch.set_num_threads(1)
    gone = EOFError, BrokenPipeError, ConnectionResetError  # the parent is dead, or has no more items
    with suppress(*gone):
        try:
            function, initializer, initargs = pickle.loads(pipe.recv_bytes())
            if initializer is not None:
                initializer(*initargs)
        except Exception as error:
            pipe.send_bytes(pickle.dumps((None, describe(error))))
            return
        pipe.send_bytes(pickle.dumps((None, None)))
        while True:
            outcome = _attempt(lambda message: function(pickle.loads(message)), pipe.recv_bytes())
            try:
                reply = pickle.dumps((outcome.value, outcome.failure))
            except Exception as error:
                reply = pickle.dumps((None, f"the result cannot be sent back: {describe(error)}"))
            pipe.send_bytes(reply)


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """SIGINT waits until the end of the block."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _attempt(function: Callable[[I], R], item: I) -> Outcome[I, R]:
    try:
        return Outcome(item, function(item), None)
    except Exception as error:
        return Outcome(item, None, describe(error))


def _pack(thing: object) -> bytes:
    try:
        return pickle.dumps(thing)
    except Exception as error:
        raise InputError(
            f"it cannot be sent to a worker process ({describe(error)}). Functions and models must come from a module that "
            "can be imported (no lambda, no class made inside a function); or use workers=1."
        ) from error


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
        hint = " Out of memory? Try fewer workers." if -code == signal.SIGKILL else ""
        return f"the worker process was ended by {name}.{hint}"
    return f"the worker process ended with exit code {code}."


def _cannot_start(code: int | None) -> str:
    return (
        f"{_death(code)} It had not started yet. A script that uses workers must keep its own work under "
        "`if __name__ == '__main__':`, since every worker imports it."
    )
