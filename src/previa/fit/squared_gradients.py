"""Exact per-example squared gradients: the diagonal Fisher of a trained model, the precision of ADAMW-SG."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from previa.core.params import Flat, Layout
from previa.errors import InputError, NotFiniteError
from previa.fit.agreement import differing, require_per_example, rounding, same_losses
from previa.fit.batches import Examples
from previa.fit.calls import NotPerExampleError, Unit, units_of
from previa.fit.labels import Labels
from previa.fit.loop import one_by_one, within_batch
from previa.fit.tape import Tape

Split = Callable[[Any], Sequence[Any]]
"""From a batch to its examples, each a batch of one."""

_CACHE, _DEVICE = 1 << 16, 1 << 26  # entries moved at a time: half a megabyte in float64 on a CPU


@final
@dataclass(frozen=True)
class SquaredGradients:
    """Squared gradients of ``examples`` examples; ``mean`` [P] in float32, by name as in model.named_parameters().

    ``ways`` says how each parameter was done: by a "hook", by a "replay" of its module on each example, or by the
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


def squared_gradients(
    model: Module, batches: Iterable[Any], labels: Labels, *, check: int = 2, split: Split = Examples
) -> SquaredGradients:
    """F = mean_i (d/dtheta loss_i)^2, exact for each example, over all trainable parameters (the Fisher of AdamW-SG).

    ``batches`` are handed to ``labels`` (Given, Sampled or Expected) as they are; how examples are cut into batches
    does not change the result. Sums are float32 inside a batch (float64 if a parameter is) and float64 over batches;
    squares below 1e-38 lose digits. Layers with a rule go by hooks with frozen parameters, other modules are replayed
    on each example. The first ``check`` examples are held to the loop over single examples, for which ``split`` cuts
    a batch; if anything differs, the loop does everything. The model, its modes, gradients and flags stay as they were.

    Assumed: the other examples go the same way through the model. One that uses a parameter outside its module (as
    ``layer.weight`` in another's forward) for some later examples only would go unnoticed: make ``check`` larger. It
    counts examples of the first batch, which should then hold such ones.

    Raises InputError where per-example gradients do not exist (training mode with dropout or BatchNorm; losses that
    depend on the rest of the batch), for unusable batches, or without trainable parameters; NotFiniteError naming the
    tensor and the batch.
    """
    require_per_example(model)
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    job = _Job(model, labels, trainable, _zeros(trainable), check)
    layout = Layout.of(trainable)
    total = torch.zeros(layout.size, dtype=torch.float64, device=job.sums.vector.device)
    count = 0
    with torch.enable_grad():
        for index, batch in enumerate(batches):
            examples = split(batch)
            if not len(examples):
                continue
            job.add(batch, examples, index)
            _empty(job.sums, total, index)
            count += len(examples)
    if not count:
        raise InputError(
            "squared_gradients got no examples: the iterable of batches is empty, or was used up before."
        )
    mean = Flat(layout, (total / count).to(torch.float32))
    return SquaredGradients(mean, count, labels.mode, job.ways(), job.note)


@final
class _Job:
    """What stays the same from batch to batch, and what the first one found out."""

    def __init__(
        self, model: Module, labels: Labels, trainable: Mapping[str, Parameter], sums: Flat, check: int
    ) -> None:
        self.model = model
        self.labels = labels
        self.trainable = trainable
        self.sums = sums
        self.note = ""
        self._check = check
        self._axes: dict[Module, str] = {}
        self._units: list[Unit] | None = units_of(model, trainable)
        if self._units is None:
            self.note = "parameters belong to the model itself, or a module to two others"

    def ways(self) -> dict[str, str]:
        """The way of each parameter."""
        if self._units is None:
            return dict.fromkeys(self.trainable, "loop")
        replayed = {name for unit in self._units if unit.replay for name in unit.names.values()}
        return {name: "replay" if name in replayed else "hook" for name in self.trainable}

    def add(self, batch: Any, examples: Sequence[Any], index: int) -> None:
        """Add the squared gradients of one batch to the sums, by the tape where that holds, else by the loop."""
        targets = None
        if self._units is not None:
            targets = self._by_tape(self._units, batch, examples, index)
        if self._units is None:
            self.sums.vector.zero_()
            one_by_one(self.model, examples, self.labels, self.sums, targets)

    def _by_tape(self, units: list[Unit], batch: Any, examples: Sequence[Any], index: int) -> Tensor | None:
        """One pass with hooks; drops the units, with a note, where it cannot be trusted. Returns the labels drawn."""
        B, k = len(examples), min(self._check, len(examples))
        checked = _zeros(self.trainable) if k else self.sums
        parts = [(slice(0, k), checked)] * bool(k) + [(slice(k, B), self.sums)]
        tape = Tape(units, B, self._axes)
        targets = None
        try:
            with tape.recording(self.trainable, batch):
                outputs = self.labels.outputs(self.model, batch, B)
            targets = self.labels.targets(outputs)
            terms = self.labels.losses(outputs, targets)
            for c, losses in enumerate(terms):
                tape.backward(losses, parts, retain=c + 1 < len(terms))
            if k:
                together = torch.stack([losses.detach() for losses in terms])
                self._hold_to_loop(batch, examples, targets, together[:, :k], checked, index)
        except NotPerExampleError as error:
            self._units, self.note = None, str(error)
        except RuntimeError as error:
            if not tape.expanded:
                raise
            self._units, self.note = None, f"a shared tensor cannot be copied for each example: {error}"
        return targets

    def _hold_to_loop(
        self,
        batch: Any,
        examples: Sequence[Any],
        targets: Tensor | None,
        together: Tensor,
        checked: Flat,
        index: int,
    ) -> None:
        """Raise NotPerExampleError unless the loop over the first examples finds what the hooks found."""
        k, eps = together.shape[1], rounding(self.trainable.values())
        looped = _zeros(self.trainable)
        some = [examples[i] for i in range(k)]
        alone = one_by_one(self.model, some, self.labels, looped, None if targets is None else targets[:k])
        agree, wrong = same_losses(together, alone, eps), differing(checked, looped, eps)
        if not agree or wrong:  # once more without hooks: is it they, or the model?
            terms = self.labels.losses(self.labels.outputs(self.model, batch, len(examples)), targets)
            plain = torch.stack([losses.detach() for losses in terms])[:, :k]
            if not same_losses(plain, alone, eps):
                raise InputError(
                    f"batch {index}: its first {k} examples have the losses {_some(plain)} in the batch, but "
                    f"{_some(alone)} alone. A loss that depends on chance or on the other examples has no gradient of "
                    "its own: average inside each example only, mask padding, and switch off what is random."
                )
            if not agree:
                raise NotPerExampleError("the recorded forward pass has other losses")
            looped.vector.zero_()
            within_batch(self.model, terms, looped, k)
            wrong = differing(checked, looped, eps)
        if wrong:
            raise NotPerExampleError(f"{len(wrong)} tensors differ from the loop, {wrong[0]!r} first")
        self.sums.vector.add_(checked.vector)
        if len(examples) > 1:  # one example alone says nothing about the axis of examples
            self._check = 0


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


def _empty(sums: Flat, total: Tensor, index: int) -> None:
    """total += sums, sums = 0, a piece of the cache's size at a time. Raises NotFiniteError naming tensor and batch."""
    size = _CACHE if total.device.type == "cpu" else _DEVICE
    finite = True
    for start in range(0, len(total), size):
        piece = sums.vector[start : start + size]
        wide = piece.to(torch.float64)
        total[start : start + size] += wide
        finite = finite and bool(torch.isfinite(wide.sum()))
        if finite:
            piece.zero_()
    if not finite:
        name = next(name for name, tensor in sums.items() if not torch.isfinite(tensor).all())
        raise NotFiniteError(
            f"batch {index}: the squared gradient of {name!r} holds NaN or infinity. Did training diverge, or does an "
            "example have an infinite loss? (A gradient above 1e19 has a square that float32 cannot hold.)"
        )


def _some(losses: Tensor) -> str:
    return ", ".join(f"{value:.6g}" for value in losses[0].tolist())
