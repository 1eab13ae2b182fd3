"""From texts to tokens, and from examples of different lengths to one padded batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from previa.errors import FileError, InputError
from previa.fit.batches import map_tensors
from previa.run.columns import Columns, Roles
from previa.run.transformers_model import Loaded, import_transformers

Batch = Mapping[str, Any]
"""The model's arguments by name, and "labels"."""

TOKENS: Roles = {
    "input_ids": ("input_ids",),
    "labels": ("labels", "label"),
    "token_type_ids?": ("token_type_ids",),
    "attention_mask?": ("attention_mask",),
}
"""Data that brings its tokens."""

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
)
"""Files by which a folder's tokenizer is known."""

IGNORED = -100
"""The label of a token that is not supervised, as everywhere in transformers."""


@final
@dataclass(frozen=True)
class Example:
    """One example before it is collated: token lists, labels, a picture; its length, and whether it was cut to the limit."""

    inputs: Mapping[str, Any]
    length: int = 1
    cut: bool = False


@final
@dataclass(frozen=True)
class Tokenizer:
    """A model's tokenizer, and the most tokens that an example may have."""

    tokenizer: Any
    limit: int | None

    def __call__(
        self, text: str, pair: str | None = None, *, target: bool = False
    ) -> tuple[dict[str, Any], bool]:
        """(input_ids, token_type_ids where there are any; whether it was cut)."""
        texts = {"text_target": text} if target else {"text": text, "text_pair": pair}
        found = self.tokenizer(**texts, truncation=False, verbose=False)
        cut = self.limit is not None and len(found["input_ids"]) > self.limit
        if cut:
            found = self.tokenizer(**texts, truncation=True, max_length=self.limit, verbose=False)
        kept = {k: list(found[k]) for k in ("input_ids", "token_type_ids") if k in found}
        return kept, cut

    def continued(self, prompt: str, completion: str) -> tuple[list[int], int, bool]:
        """(tokens of both and the end-of-text token, how many are the prompt's, whether they were cut)."""
        first = list(self.tokenizer(prompt, verbose=False)["input_ids"])
        rest = list(self.tokenizer(completion, add_special_tokens=False, verbose=False)["input_ids"])
        end = self.tokenizer.eos_token_id
        if first and first[-1] == end and len(first) > 1:
            first = first[:-1]  # some tokenizers end every text
        ids = [*first, *rest, *([] if end is None else [end])]
        cut = self.limit is not None and len(ids) > self.limit
        return ids[: self.limit], len(first), cut


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER)


def tokenizer_of(loaded: Loaded, folder: str | Path | None, max_length: int | None) -> Tokenizer:
    """The tokenizer in ``folder``, the model's, or its base model's; at most max_length tokens, or what both allow.

    Raises FileError where there is none.
    """
    transformers = import_transformers()
    places = [Path(folder)] if folder is not None else [loaded.folder, loaded.base]
    at = next((place for place in places if has_tokenizer(place)), None)
    if at is None:
        raise FileError(
            f"{places[0]}: no tokenizer in it ({', '.join(TOKENIZER[:2])} ...). Give the folder of the base model with --tokenizer, or "
            "rows with input_ids."
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(at, local_files_only=True)
    config: Any = getattr(loaded.model, "config", None)
    allowed = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    sensible = [n for n in allowed if isinstance(n, int) and 0 < n < 1 << 30]
    return Tokenizer(tokenizer, max_length or min(sensible, default=None))


def padded(examples: Sequence[Example], fill: Mapping[str, int]) -> dict[str, Tensor]:
    """Token lists of different lengths as [B, T], filled on the right; single numbers as [B]; attention_mask of input_ids.

    Raises InputError where some examples have a part that others lack.
    """
    names = list(examples[0].inputs)
    for example in examples:
        if list(example.inputs) != names:
            raise InputError(
                f"an example has {', '.join(example.inputs)}, but another {', '.join(names)}; expected the same for all."
            )
    batch = {}
    for name in names:
        values = [example.inputs[name] for example in examples]
        if not isinstance(values[0], list):
            batch[name] = torch.as_tensor(values)
            continue
        longest = max(map(len, values))
        batch[name] = torch.tensor(
            [[*value, *[fill.get(name, 0)] * (longest - len(value))] for value in values]
        )
    if "attention_mask" not in batch and "input_ids" in batch:
        lengths = torch.tensor([len(example.inputs["input_ids"]) for example in examples])
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return batch


def ready(columns: Columns, row: Mapping[str, Any], where: str, *also: str) -> dict[str, list[int]]:
    """input_ids, token_type_ids and ``also`` as a row brings them, without its padding: batches are padded anew.

    Raises InputError, beginning with ``where``, where there are no tokens, or masked ones between others.
    """
    roles = [role for role in ("input_ids", "token_type_ids", *also) if role in columns]
    found = {role: [int(n) for n in columns.value(row, role, where)] for role in roles}
    if "attention_mask" in columns:
        mask = [bool(n) for n in columns.value(row, "attention_mask", where)]
        first, last = (mask.index(True), len(mask) - mask[::-1].index(True)) if any(mask) else (0, 0)
        if len(mask) != len(found["input_ids"]) or not all(mask[first:last]):
            raise InputError(
                f"{where}: attention_mask {mask}; expected one a token, with padding at the ends only."
            )
        found = {role: n[first:last] if len(n) == len(mask) else n for role, n in found.items()}
    if not found["input_ids"]:
        raise InputError(f"{where}: no tokens; expected at least one.")
    return found


def filler(config: Any, tokenizer: Tokenizer | None) -> int:
    """A token that fills rows behind the mask: the model's own, which some models look for, else the tokenizer's, else 0."""
    for found in (getattr(config, "pad_token_id", None), tokenizer and tokenizer.tokenizer.pad_token_id):
        if isinstance(found, int) and found >= 0:
            return found
    return 0


def forward(model: Module, batch: Batch) -> Tensor:
    """The model's logits in float32 at least."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits: Tensor = model(**inputs).logits
    return logits.float() if logits.dtype.itemsize < 4 else logits


def to_model(inputs: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """To the model's device; numbers in float32 to its dtype, but not the labels, which are compared in float32."""

    def to(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.dtype == torch.float32 else None)

    if isinstance(inputs, Mapping) and isinstance(inputs.get("labels"), Tensor):
        rest = {name: value for name, value in inputs.items() if name != "labels"}
        return {**map_tensors(to, rest), "labels": inputs["labels"].to(device)}
    return map_tensors(to, inputs)
