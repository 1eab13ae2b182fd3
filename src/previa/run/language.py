"""Tasks of transformers that predict tokens: the next one of a text, or those of a target text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module, functional

from previa.errors import InputError
from previa.fit.labels import Given, Labels
from previa.fit.token_labels import SampledTokens
from previa.run.columns import Columns
from previa.run.tokens import IGNORED, TOKENS, Batch, Example, Tokenizer, filler, forward, padded, ready


@final
@dataclass(frozen=True)
class CausalLM:
    """The next token: cross-entropy averaged over an example's supervised tokens; of a prompt none is supervised."""

    columns: Columns
    config: Any
    tokenizer: Tokenizer | None
    roles = (
        {("labels?" if role == "labels" else role): usual for role, usual in TOKENS.items()},
        {"prompt": ("prompt", "instruction", "question"), "completion": ("completion", "response", "answer", "output")},
        {"text": ("text", "content", "document")},
    )  # fmt: skip
    auto = "AutoModelForCausalLM"

    def example(self, row: Mapping[str, Any], where: str) -> Example | None:
        """Tokens that are their own labels."""
        cut = False
        if "input_ids" in self.columns:
            found = ready(self.columns, row, where, "labels")
            ids = found["input_ids"]
            labels = found.get("labels", ids)
            if len(labels) != len(ids):
                raise InputError(
                    f"{where}: {len(labels)} labels for {len(ids)} tokens; expected one each, -100 for none."
                )
        elif "prompt" in self.columns:
            assert self.tokenizer is not None
            prompt, completion = (
                str(self.columns.value(row, role, where)) for role in ("prompt", "completion")
            )
            ids, before, cut = self.tokenizer.continued(prompt, completion)
            labels = [IGNORED] * min(before, len(ids)) + ids[before:]
        else:
            assert self.tokenizer is not None
            text, cut = self.tokenizer(str(self.columns.value(row, "text", where)))
            ids = labels = text["input_ids"]
        if all(label == IGNORED for label in labels[1:]):
            return None
        return Example({"input_ids": ids, "labels": labels}, len(ids), cut)

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Padded tokens and labels [B, T]."""
        return padded(examples, {"input_ids": filler(self.config, self.tokenizer), "labels": IGNORED})

    def labels(self, mode: str, generator: torch.Generator) -> Labels:
        """The data's, or one drawn at every supervised token."""
        return _token_labels(mode, generator, _next_tokens)


@final
@dataclass(frozen=True)
class Seq2Seq:
    """A target text from a source text: cross-entropy averaged over an example's target tokens."""

    columns: Columns
    config: Any
    tokenizer: Tokenizer | None
    shift: Callable[[Tensor], Tensor]
    """labels [B, T] to the decoder's inputs, as the model does it"""
    roles = (
        TOKENS,
        {"source": ("source", "src", "input", "article", "document", "text"),
         "target": ("target", "tgt", "output", "summary", "highlights", "label")},
    )  # fmt: skip
    auto = "AutoModelForSeq2SeqLM"

    def example(self, row: Mapping[str, Any], where: str) -> Example | None:
        """Tokens of the source, and those of the target as labels."""
        if "input_ids" in self.columns:
            ids, cut = ready(self.columns, row, where)["input_ids"], False
            labels = [int(n) for n in self.columns.value(row, "labels", where)]
        else:
            assert self.tokenizer is not None
            found, first = self.tokenizer(str(self.columns.value(row, "source", where)))
            wanted, second = self.tokenizer(str(self.columns.value(row, "target", where)), target=True)
            ids, labels, cut = found["input_ids"], wanted["input_ids"], first or second
        if all(label == IGNORED for label in labels):
            return None
        return Example({"input_ids": ids, "labels": labels}, len(ids) + len(labels), cut)

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Padded tokens, labels [B, T] and the decoder's inputs."""
        batch = padded(examples, {"input_ids": filler(self.config, self.tokenizer), "labels": IGNORED})
        return {**batch, "decoder_input_ids": self.shift(batch["labels"])}

    def labels(self, mode: str, generator: torch.Generator) -> Labels:
        """The data's, or one drawn at every target token."""
        return _token_labels(mode, generator, _target_tokens)


def _next_tokens(model: Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits at each token, and the label of the token after it."""
    logits = forward(model, {**batch, "use_cache": False})
    return logits[:, :-1], batch["labels"][:, 1:]


def _target_tokens(model: Module, batch: Batch) -> tuple[Tensor, Tensor]:
    return forward(model, {**batch, "use_cache": False}), batch["labels"]


def _token_labels(
    mode: str, generator: torch.Generator, tokens: Callable[[Module, Batch], tuple[Tensor, Tensor]]
) -> Labels:
    def loss(model: Module, batch: Batch) -> Tensor:
        logits, labels = tokens(model, batch)
        each = functional.cross_entropy(
            logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED
        )
        return each.sum(1) / (labels != IGNORED).sum(1)

    def supervised(model: Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits, labels = tokens(model, batch)
        return logits, labels != IGNORED

    if mode == "expected":
        raise InputError(
            "--labels expected: a pass for each word of the vocabulary at each token, which no one can wait for. Use sampled, "
            "which has the same expectation, or given."
        )
    return Given(loss) if mode == "given" else SampledTokens(supervised, generator)
