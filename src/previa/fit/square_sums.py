"""Squared gradients that add up batch by batch: what a long pass over the data keeps, and can go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.utils.checkpoint import CheckpointError

from previa.core.params import Flat, Layout
from previa.errors import InputError, NotFiniteError
from previa.fit.agreement import require_per_example
from previa.fit.batches import Examples
from previa.fit.calls import NotPerExampleError
from previa.fit.held_to_loop import Check
from previa.fit.labels import Labels
from previa.fit.ladder import Ladder
from previa.fit.loop import one_by_one
from previa.fit.squares import Space
from previa.fit.tape import Part, Tape

Split = Callable[[Any], Sequence[Any]]
"""From a batch to its examples, each a batch of one."""

_EXAMPLES = (
    256  # squares added in float32 before they go to float64: as many rounding errors as a large batch has
)
_CACHE, _DEVICE = 1 << 16, 1 << 26  # entries moved at a time: half a megabyte in float64 on a CPU


@final
@dataclass(frozen=True)
class SquaredGradients:
    """Squared gradients of ``examples`` examples; ``mean`` [P] in float32, by name as in model.named_parameters().

    ``ways`` says how each parameter was done: by a "hook", by a "replay" of its module (or of one around it), or by the
    "loop" over whole examples; ``note`` says why the loop was needed, and is empty where it was not.
    """

    mean: Flat
    examples: int
    label_mode: str
    ways: Mapping[str, str]
    note: str = ""

    @property
    def sum(self) -> Flat:
        """N times the mean: the precision under the convention of summed losses."""
        return Flat(self.mean.layout, self.mean.vector * self.examples)

    @property
    def provenance(self) -> dict[str, str | int]:
        """The fields of a posterior file's provenance that these numbers know: source, examples, label_mode."""
        return {"source": "squared_gradients", "examples": self.examples, "label_mode": self.label_mode}


@final
class SquareSums:
    """sum_i (d/dtheta loss_i)^2 over the batches added so far; see squared_gradients for arguments and errors."""

    def __init__(self, model: Module, labels: Labels, *, check: int = 2, split: Split = Examples) -> None:
        require_per_example(model)
        self._model, self._labels, self._split = model, labels, split
        self._trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._sums = _zeros(self._trainable)
        self._total: Tensor | None = None
        self._ladder = Ladder(model, self._trainable)
        self._axes: dict[Module, str] = {}
        self._space = Space()
        self._check = check
        self._note = "parameters belong to the model itself" if self._ladder.looped else ""
        self._views = dict(self._sums)
        self._small = [t for t in self._views.values() if t.numel() <= _CACHE]
        self._drawn: Tensor | None = None  # labels of the batch at work: the same however often it is tried
        self._batches = self._pending = 0
        self._first = 0  # of the batches whose squares are still in float32
        self.examples = 0

    def add(self, batch: Any) -> int:
        """Add the squared gradients of one batch; how many examples it had. Raises InputError, NotFiniteError."""
        index, self._batches = self._batches, self._batches + 1
        examples = self._split(batch)
        if not len(examples):
            return 0
        self._drawn = None
        with torch.enable_grad():
            self._add(batch, examples, index)
        finite = not self._small or bool(torch.isfinite(torch.stack([t.sum() for t in self._small])).all())
        self.examples += len(examples)
        self._pending += len(examples)
        if self._pending >= _EXAMPLES or not finite:
            self._flush(index if not finite else None)
        return len(examples)

    @property
    def total(self) -> Flat:
        """The sums [P] in float64, by name; what go_on takes."""
        self._flush(None)
        assert self._total is not None
        return Flat(self._sums.layout, self._total)

    def go_on(self, total: Mapping[str, Tensor], examples: int) -> None:
        """Take up the sums that another pass over the first ``examples`` examples had. Raises ParamsError where they do not fit."""
        self._flush(None)
        layout = self._sums.layout
        layout.check(total, "the sums to go on from", "the model's parameters")
        assert self._total is not None
        for name, (start, stop, _) in layout.places.items():
            self._total[start:stop] = total[name].reshape(-1)
        self.examples = examples

    def ways(self) -> tuple[dict[str, str], str]:
        """The way of each parameter, and why the loop was needed where it was; see SquaredGradients."""
        return self._ladder.ways(), self._note

    def result(self) -> SquaredGradients:
        """The mean over all examples. Raises InputError where there were none."""
        if not self.examples:
            raise InputError(
                "squared_gradients got no examples: the iterable of batches is empty, or was used up before."
            )
        total = self.total
        mean = Flat(total.layout, torch.empty(total.layout.size, device=total.vector.device))
        torch.div(total.vector, self.examples, out=mean.vector)
        return SquaredGradients(mean, self.examples, self._labels.mode, *self.ways())

    def _add(self, batch: Any, examples: Sequence[Any], index: int) -> None:
        """By the tape, with each parameter on the rung where that holds; those that have none left by the loop."""
        check = Check(self._model, self._labels, batch, examples, index, self._check)
        while len(self._ladder.looped) < len(self._trainable):
            units = self._ladder.units
            late = self._pending and any(
                unit.rule is None for unit in units
            )  # may turn out wrong when sums are in
            before = self._sums.vector.clone() if late else None
            tape = Tape(units, len(examples), self._axes, self._space)
            try:
                self._by_tape(tape, batch, len(examples), check)
                break
            except NotPerExampleError as error:
                self._climb(error.names or tape.expanded, str(error))
            except (
                CheckpointError
            ) as error:  # activations are recomputed in the backward pass, without the hooks
                self._climb_all(f"activations are recomputed ({str(error).splitlines()[0]})")
            except RuntimeError as error:
                if not tape.expanded or isinstance(error, torch.OutOfMemoryError):
                    raise
                self._climb(tape.expanded, f"a shared tensor cannot be copied for each example: {error}")
            if before is not None:
                self._sums.vector.copy_(before)
            elif not self._pending:
                self._sums.vector.zero_()
        if looped := {name: self._views[name] for name in self._ladder.looped}:
            one_by_one(self._model, examples, self._labels, looped, self._drawn)
        if len(examples) > 1:  # one example alone says nothing about the axis of examples
            self._check = 0

    def _by_tape(self, tape: Tape, batch: Any, examples: int, check: Check) -> None:
        """One pass with hooks. Raises NotPerExampleError where it cannot be trusted."""
        checked = dict(_zeros(self._trainable)) if check.examples else self._views
        k = check.examples
        parts: list[Part] = [(slice(0, k), checked)] * bool(k) + [(slice(k, examples), self._views)]
        with tape.recording(self._trainable, batch):
            outputs = self._labels.outputs(self._model, batch, examples)
        if self._drawn is None:
            self._drawn = self._labels.targets(outputs)
        terms = self._labels.losses(outputs, self._drawn)
        for c, losses in enumerate(terms):
            tape.backward(losses, parts, retain=c + 1 < len(terms))
        if k:
            together = torch.stack([losses.detach()[:k] for losses in terms])
            check.hold(checked, together, self._drawn, self._ladder.looped)
            for name, sums in self._views.items():
                sums.add_(checked[name])

    def _climb(self, names: Sequence[str], reason: str) -> None:
        before = set(self._ladder.looped)
        self._ladder.climb(names)
        if set(self._ladder.looped) - before and not self._note:
            self._note = reason

    def _climb_all(self, reason: str) -> None:
        while len(self._ladder.looped) < len(self._trainable):
            self._climb(tuple(self._trainable), reason)

    def _flush(self, index: int | None) -> None:
        """total += sums, sums = 0, a piece of the cache's size at a time. Raises NotFiniteError naming tensor and batch."""
        if self._total is None:
            self._total = torch.zeros_like(self._sums.vector, dtype=torch.float64)
        total, first, self._first = self._total, self._first, self._batches
        if not self._pending:
            return
        self._pending = 0
        size = _CACHE if total.device.type == "cpu" else _DEVICE
        buffer = total.new_empty(
            min(size, len(total))
        )  # one for all: memory that is new to a process costs a fault a page
        finite = True
        for start in range(0, len(total), size):
            piece = self._sums.vector[start : start + size]
            wide = buffer[: len(piece)].copy_(piece)
            total[start : start + size].add_(wide)
            finite = finite and bool(torch.isfinite(wide.sum()))
            if finite:
                piece.zero_()
        if not finite:
            name = next(name for name, tensor in self._sums.items() if not torch.isfinite(tensor).all())
            last = self._batches - 1
            where = index if index is not None else last if first == last else f"{first} to {last}"
            raise NotFiniteError(
                f"batch {where}: the squared gradient of {name!r} holds NaN or infinity. Did training diverge, or does an "
                "example have an infinite loss? (A gradient above 1e19 has a square that float32 cannot hold.)"
            )


def _zeros(trainable: Mapping[str, Parameter]) -> Flat:
    """Sums for the squares of one batch. Raises InputError without trainable parameters, or on several devices."""
    devices = {parameter.device for parameter in trainable.values()}
    if len(devices) != 1:
        found = f"on {sorted(map(str, devices))}" if devices else "none: every requires_grad is False"
        raise InputError(
            f"the trainable parameters of the model are {found}. Expected some, all on one device."
        )
    wide = any(parameter.dtype == torch.float64 for parameter in trainable.values())
    layout = Layout.of(trainable)
    dtype = torch.float64 if wide else torch.float32
    return Flat(layout, torch.zeros(layout.size, dtype=dtype, device=devices.pop()))
