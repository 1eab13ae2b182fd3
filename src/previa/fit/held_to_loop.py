"""The check of a fast pass: its first examples, held to the loop over single examples."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from previa.core.params import Flat, Layout, Params
from previa.errors import InputError
from previa.fit.agreement import differing, rounding, same_losses
from previa.fit.calls import NotPerExampleError
from previa.fit.labels import Labels
from previa.fit.loop import one_by_one, within_batch


@final
class Check:
    """The first ``examples`` examples of one batch by the loop, computed when first asked for, and kept for further tries."""

    def __init__(
        self, model: Module, labels: Labels, batch: Any, examples: Sequence[Any], index: int, count: int
    ) -> None:
        self._model, self._labels, self._batch, self._all, self._index = model, labels, batch, examples, index
        self.examples = min(count, len(examples))
        self._trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._looped: tuple[Flat, Tensor] | None = None
        self._in_batch: Flat | None = None

    def hold(self, fast: Params, together: Tensor, targets: Tensor | None, without: Collection[str]) -> None:
        """Raise NotPerExampleError, with the parameters that differ, unless the loop finds what ``fast`` holds.

        together: losses [C, k] in the batch, from the fast pass. without: parameters that ``fast`` does not hold.
        Raises InputError where the model itself gives other losses in a batch than alone.
        """
        eps = rounding(self._trainable.values())
        looped, alone = self._by_loop(targets)
        agree, wrong = same_losses(together, alone, eps), self._wrong(fast, looped, eps, without)
        if not agree or wrong:  # once more without hooks: is it they, or the model?
            looped = self._by_batch(targets, alone, eps)
            if not agree:
                raise NotPerExampleError("the recorded forward pass has other losses", ())
            wrong = self._wrong(fast, looped, eps, without)
        if wrong:
            raise NotPerExampleError(f"{len(wrong)} tensors differ from the loop, {wrong[0]!r} first", wrong)

    def _wrong(self, fast: Params, slow: Flat, eps: float, without: Collection[str]) -> list[str]:
        return [name for name in differing(fast, slow, eps) if name not in without]

    def _by_loop(self, targets: Tensor | None) -> tuple[Flat, Tensor]:
        """(squares, losses [C, k]) of the examples alone."""
        if self._looped is None:
            k, sums = self.examples, self._zeros()
            some = [self._all[i] for i in range(k)]
            drawn = None if targets is None else targets[:k]
            self._looped = sums, one_by_one(self._model, some, self._labels, sums, drawn)
        return self._looped

    def _by_batch(self, targets: Tensor | None, alone: Tensor, eps: float) -> Flat:
        """Squares by the batch's own arithmetic. Raises InputError where its losses are not those of the examples alone."""
        if self._in_batch is None:
            k, sums = self.examples, self._zeros()
            outputs = self._labels.outputs(self._model, self._batch, len(self._all))
            terms = self._labels.losses(outputs, targets)
            plain = torch.stack([losses.detach() for losses in terms])[:, :k]
            if not same_losses(plain, alone, eps):
                raise InputError(
                    f"batch {self._index}: its first {k} examples have the losses {_some(plain)} in the batch, but "
                    f"{_some(alone)} alone. A loss that depends on chance or on the other examples has no gradient of "
                    "its own: average inside each example only, mask padding, and switch off what is random."
                )
            within_batch(self._model, terms, sums, k)
            self._in_batch = sums
        return self._in_batch

    def _zeros(self) -> Flat:
        layout = Layout.of(self._trainable)
        dtype = torch.float64 if any(p.dtype == torch.float64 for p in self._trainable.values()) else None
        device = next(iter(self._trainable.values())).device
        return Flat(layout, torch.zeros(layout.size, dtype=dtype or torch.float32, device=device))


def _some(losses: Tensor) -> str:
    return ", ".join(f"{value:.6g}" for value in losses[0].tolist())
