"""Tasks of transformers that predict a class or a number: of a text, a pair of texts, a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module, functional

from previa.data.images import open_image
from previa.errors import InputError
from previa.fit.labels import Expected, Given, Labels, Sampled
from previa.run.columns import Columns
from previa.run.tokens import TOKENS, Batch, Example, Tokenizer, filler, forward, padded, ready

LABEL = ("label", "labels", "target", "class")


@final
@dataclass(frozen=True)
class SequenceClassification:
    """One class, several, or numbers for a text or a pair of texts: cross-entropy, binary cross-entropy, squared error."""

    columns: Columns
    config: Any
    tokenizer: Tokenizer | None
    roles = (TOKENS, {"text": ("text", "sentence", "sentence1", "premise", "question", "review", "content"),
             "pair?": ("text_pair", "sentence2", "hypothesis"), "label": LABEL})  # fmt: skip
    auto = "AutoModelForSequenceClassification"

    def example(self, row: Mapping[str, Any], where: str) -> Example:
        """Tokens and the label."""
        if "input_ids" in self.columns:
            ids, cut = ready(self.columns, row, where), False
            label = self.columns.value(row, "labels", where)
        else:
            assert self.tokenizer is not None
            pair = str(self.columns.value(row, "pair", where)) if "pair" in self.columns else None
            ids, cut = self.tokenizer(str(self.columns.value(row, "text", where)), pair)
            label = self.columns.value(row, "label", where)
        kind = problem_of(self.config)
        value = _class(label, self.config, where) if kind == "single" else _floats(label, self.config, where)
        return Example({**ids, "labels": value}, len(ids["input_ids"]), cut)

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Padded tokens and labels [B] or [B, C]."""
        return padded(examples, {"input_ids": filler(self.config, self.tokenizer)})

    def labels(self, mode: str, generator: torch.Generator) -> Labels:
        """All three for one class of several, the data's otherwise."""
        kind = problem_of(self.config)
        if mode == "given":
            return Given({"single": _cross_entropy, "several": _binary, "numbers": _squares}[kind])
        if kind != "single":
            raise InputError(
                f"--labels {mode}: only for one class of several; this model predicts {kind}. Use given."
            )
        return Sampled(forward, generator) if mode == "sampled" else Expected(forward)


@final
@dataclass(frozen=True)
class ImageClassification:
    """One class for a picture: cross-entropy."""

    columns: Columns
    config: Any
    processor: Any
    folder: Path
    """what names of picture files count from"""
    roles = ({"image": ("image", "img", "picture", "pixel_values", "file", "path"), "label": LABEL},)
    auto = "AutoModelForImageClassification"

    def example(self, row: Mapping[str, Any], where: str) -> Example:
        """The picture as the row has it, opened when it is collated; and the label."""
        picture = self.columns.value(row, "image", where)
        return Example(
            {"image": picture, "labels": _class(self.columns.value(row, "label", where), self.config, where)}
        )

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """pixel_values by the model's own processor, and labels [B]."""
        pictures = [open_image(example.inputs["image"], self.folder) for example in examples]
        pixels: Tensor = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
        return {
            "pixel_values": pixels,
            "labels": torch.tensor([example.inputs["labels"] for example in examples]),
        }

    def labels(self, mode: str, generator: torch.Generator) -> Labels:
        """All three."""
        if mode == "given":
            return Given(_cross_entropy)
        return Sampled(forward, generator) if mode == "sampled" else Expected(forward)


def problem_of(config: Any) -> str:
    """ "single" class, "several" classes, or "numbers", as transformers tells them apart."""
    named = getattr(config, "problem_type", None)
    if named is None:
        return "numbers" if getattr(config, "num_labels", 2) == 1 else "single"
    return {"regression": "numbers", "multi_label_classification": "several"}.get(named, "single")


def _cross_entropy(model: Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(forward(model, batch), batch["labels"], reduction="none")


def _binary(model: Module, batch: Batch) -> Tensor:
    logits = forward(model, batch)
    return functional.binary_cross_entropy_with_logits(logits, batch["labels"], reduction="none").mean(1)


def _squares(model: Module, batch: Batch) -> Tensor:
    errors: Tensor = forward(model, batch) - batch["labels"]
    return errors.square().mean(1)


def _class(label: Any, config: Any, where: str) -> int:
    """The number of a class, given as a number, its text, or the name that the model's configuration has for it."""
    names = {str(name): int(number) for name, number in (getattr(config, "label2id", None) or {}).items()}
    number = names.get(str(label))
    if number is None and (isinstance(label, bool) or str(label).removesuffix(".0").isdigit()):
        number = int(float(label))
    if number is None or not 0 <= number < config.num_labels:
        raise InputError(
            f"{where}: label {str(label)[:40]!r}; expected 0 to {config.num_labels - 1}, or one of {', '.join(list(names)[:8])}."
        )
    return number


def _floats(label: Any, config: Any, where: str) -> list[float]:
    try:
        values = [float(v) for v in (label if isinstance(label, list | tuple) else [label])]
    except (TypeError, ValueError):
        values = []
    if len(values) != config.num_labels:
        raise InputError(f"{where}: label {str(label)[:40]!r}; expected {config.num_labels} numbers.")
    return values
