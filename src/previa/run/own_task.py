"""A loss of the user's own, as a task: its batches are what torch makes of the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import default_collate

from previa.errors import InputError
from previa.fit.labels import Given, Labels
from previa.run.tokens import IGNORED, Example, padded

LISTS = {"labels": IGNORED}


@final
@dataclass(frozen=True)
class OwnLoss:
    """loss(model, batch) -> one loss an example, [B].

    The batch is what torch's default_collate makes of the rows (numbers and arrays stacked, texts in a list); of rows with
    input_ids, token lists padded on the right (labels with -100, others with 0) and their attention_mask.
    """

    loss: Callable[[Module, Any], Tensor]

    def example(self, row: Any, where: str) -> Example:
        """The row as it is."""
        if isinstance(row, Mapping) and "input_ids" in row:
            tokens = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in row.items()}
            return Example(tokens, len(tokens["input_ids"]))
        return Example({"row": row})

    def collate(self, examples: Sequence[Example]) -> Any:
        """Rows with tokens padded, others by torch. Raises InputError where that cannot be."""
        try:
            if "input_ids" in examples[0].inputs:
                return padded(examples, LISTS)
            return default_collate([example.inputs["row"] for example in examples])
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"rows cannot be put into one batch: {' '.join(str(error).split())[:200]} Give rows of numbers, arrays of one "
                "shape, texts, or token lists under input_ids."
            ) from error

    def labels(self, mode: str, generator: torch.Generator) -> Labels:
        """The data's only: what the loss says of other labels is not known."""
        if mode != "given":
            raise InputError(
                f"--labels {mode}: not with a loss of your own, which knows the data's labels only."
            )
        return Given(self.loss)
