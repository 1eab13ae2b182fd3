"""One pass over a task's data that adds up squared gradients, kept on disk as it goes, so that it can be stopped and go on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

import torch
from torch import Tensor
from torch.nn import Module

from previa.core.params import Params
from previa.data.files import Rows
from previa.errors import InputError, PreviaError
from previa.fit.labels import Labels
from previa.fit.square_sums import SquareSums
from previa.io.checkpoint import open_checkpoint, save_checkpoint
from previa.run.scoring import describe
from previa.run.stopping import heard
from previa.run.sweep import Progress
from previa.run.tokens import Example, to_model

FACTS, DONE = "previa_pass", "previa_done"  # of a partial file's header
SECONDS = 30.0  # between two writings of the partial sums, or twenty times what one takes


class Task(Protocol):
    """What a task makes of rows; see transformers_tasks and own_task."""

    def example(self, row: Any, where: str) -> Example | None:
        """None where the row has nothing to predict."""
        ...

    def collate(self, examples: Sequence[Example]) -> Any:
        """The batch that the losses take."""
        ...

    def labels(self, mode: str, generator: torch.Generator) -> Labels:
        """Whose labels."""
        ...


@final
@dataclass(frozen=True)
class Examples:
    """The examples of a pass, longest first: memory runs out at once or not at all."""

    chosen: tuple[Example, ...]
    rows: int
    """of the whole data set that have something to predict, as far as that was looked at"""
    empty: int
    """of those looked at, rows with nothing to predict"""

    @property
    def cut(self) -> int:
        """Examples that were cut to the most tokens."""
        return sum(example.cut for example in self.chosen)


def drawn(N: int, at_most: int | None, seed: int) -> list[int]:
    """The numbers of all N rows, or of ``at_most`` drawn by the seed, rising."""
    if at_most is None or at_most >= N:
        return list(range(N))
    draw = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(N, generator=draw)[:at_most].tolist())


def examples_of(
    rows: Rows, task: Task, *, at_most: int | None = None, seed: int = 0, progress: Progress | None = None
) -> Examples:
    """The examples of all rows, or of ``at_most`` drawn by the seed. Raises InputError naming the row."""
    numbers = drawn(len(rows), at_most, seed)
    found = []
    for done, number in enumerate(numbers, 1):
        example = task.example(rows[number], f"row {number + 1}")
        if example is not None:
            found.append(example)
        if progress is not None and (done % 256 == 0 or done == len(numbers)):
            progress("read rows", done, len(numbers))
    empty = len(numbers) - len(found)
    if not found:
        raise InputError(f"none of {len(numbers)} rows has anything to predict. Are these the right columns?")
    found.sort(key=lambda example: -example.length)
    return Examples(tuple(found), len(rows) - empty, empty)


@final
@dataclass(frozen=True)
class Batch:
    """Examples, and what the task made of them together."""

    examples: tuple[Example, ...]
    inputs: Any


@final
@dataclass(frozen=True)
class _OnInputs:
    """Labels whose functions take the inputs of a Batch."""

    of: Labels

    @property
    def mode(self) -> str:
        return self.of.mode

    def outputs(self, model: Module, batch: Batch, examples: int) -> Any:
        return self.of.outputs(model, batch.inputs, examples)

    def targets(self, outputs: Any) -> Tensor | None:
        return self.of.targets(outputs)

    def losses(self, outputs: Any, targets: Tensor | None) -> list[Tensor]:
        return self.of.losses(outputs, targets)


@final
class _Alone(Sequence[Batch]):
    """The examples of a batch each in a batch of its own, without padding; made when asked for."""

    def __init__(self, batch: Batch, make: Callable[[tuple[Example, ...]], Batch]) -> None:
        self._batch, self._make = batch, make

    def __len__(self) -> int:
        return len(self._batch.examples)

    def __getitem__(self, index: Any) -> Any:
        return self._make((self._batch.examples[index],))


@final
@dataclass(frozen=True)
class Measured:
    """The sums of a finished pass."""

    total: Params
    """sum_i (d loss_i)^2 in float64, by name as in model.named_parameters()"""
    examples: int
    ways: Mapping[str, str]
    note: str
    resumed: int
    """examples that an earlier, stopped pass had done"""


def pass_over(
    model: Module,
    examples: Examples,
    task: Task,
    *,
    mode: str = "given",
    batch_size: int = 8,
    seed: int = 0,
    partial: Path,
    facts: Mapping[str, Any],
    progress: Progress | None = None,
) -> Measured:
    """sum_i (d/dtheta loss_i)^2 over the examples, exact for each; see previa.squared_gradients.

    partial: a file beside the result with the sums so far, written every half minute and when the pass is stopped (Ctrl-C or
    SIGTERM, heard after the batch at work; KeyboardInterrupt is then raised); where it is there, of the same facts, the pass goes on from it: to the same bits, but for the rounding of its first batch. It stays until
    the caller has stored the result. facts: what the pass rests on, beside the data and these arguments.
    Raises InputError where the partial file is another pass's, and as squared_gradients.
    """
    device, dtype = (lambda p: (p.device, p.dtype))(next(model.parameters()))

    def made(some: tuple[Example, ...]) -> Batch:
        return Batch(some, to_model(task.collate(some), device, dtype))

    draws = torch.Generator().manual_seed(seed)
    labels = _OnInputs(task.labels(mode, draws))
    sums = SquareSums(model, labels, split=lambda batch: _Alone(batch, made))
    chosen = examples.chosen
    facts = {**facts, "labels": mode, "batch_size": batch_size, "seed": seed, "data": _digest(chosen)}
    resumed = _go_on(partial, facts, sums, draws)
    saved, cost = time.monotonic(), 0.0
    with heard() as stopped:
        while sums.examples < len(chosen):
            with _explained(batch_size):
                sums.add(made(chosen[sums.examples : sums.examples + batch_size]))
            if progress is not None:
                progress("squared gradients", sums.examples, len(chosen))
            if stopped() or time.monotonic() - saved > max(SECONDS, 20 * cost):
                start = time.monotonic()
                _keep(partial, facts, sums, draws)
                saved = time.monotonic()
                cost = saved - start
            if stopped():
                raise KeyboardInterrupt
    return Measured(sums.total, sums.examples, *sums.ways(), resumed)


@contextmanager
def _explained(batch_size: int) -> Iterator[None]:
    """What a model or a loss of others raises on a batch, as an InputError."""
    try:
        yield
    except PreviaError:
        raise
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"batches of {batch_size} examples do not fit the device's memory. Lower --batch-size or --max-length."
        ) from error
    except Exception as error:
        raise InputError(
            f"the model or its loss cannot take a batch of these rows: {describe(error)}"
        ) from error


def _keep(partial: Path, facts: Mapping[str, Any], sums: SquareSums, draws: torch.Generator) -> None:
    tensors = {f"total/{name}": tensor for name, tensor in sums.total.items()}
    header = {FACTS: json.dumps(dict(facts), sort_keys=True), DONE: str(sums.examples)}
    save_checkpoint(partial, {**tensors, "generator": draws.get_state()}, header)


def _go_on(partial: Path, facts: Mapping[str, Any], sums: SquareSums, draws: torch.Generator) -> int:
    """Take up what a stopped pass left; how many examples it had done."""
    if not partial.exists():
        return 0
    kept = open_checkpoint(partial)
    before = json.loads(kept.metadata.get(FACTS, "{}"))
    other = [name for name in {**before, **facts} if before.get(name) != facts.get(name)]
    if other:
        raise InputError(
            f"{partial}: the sums of a stopped pass with {other[0]} = {before.get(other[0])!r}, but this one has "
            f"{facts.get(other[0])!r}. Run that one to its end, or remove the file to begin anew."
        )
    names = [name for name in kept if name.startswith("total/")]
    sums.go_on({name.removeprefix("total/"): kept[name] for name in names}, int(kept.metadata[DONE]))
    draws.set_state(kept["generator"])
    return sums.examples


def _digest(examples: Sequence[Example]) -> str:
    """A name for the examples: their tokens, numbers and texts; pictures count by their place only."""
    total = hashlib.blake2b(digest_size=16)
    for example in examples:
        plain = {k: v for k, v in example.inputs.items() if isinstance(v, int | float | str | list)}
        total.update(json.dumps(plain, default=str).encode())
    return total.hexdigest()
