"""Scores of generated text: BLEU, chrF, exact match, each as one value an item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from previa.errors import InputError, MissingExtraError
from previa.run.held_out import HeldOut, values_of
from previa.run.tokens import IGNORED, filler

METRICS = ("bleu", "chrf", "exact-match")


@final
@dataclass(frozen=True)
class Generated:
    """[N] from texts generated greedily: bleu and chrf on sacrebleu's scale to 100, exact-match 1 or 0."""

    metric: str
    causal: bool
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        if self.metric != "exact-match":
            sacrebleu()

    def __call__(self, model: Module, test: HeldOut) -> Tensor:
        found = generated(model, test, self.causal, self.max_new_tokens)
        wanted = references(test, self.causal)
        if self.metric == "bleu":
            return bleu_items(found, wanted)
        if self.metric == "chrf":  # the mean of the sentences' chrF
            chrf = sacrebleu().CHRF()
            pairs = zip(found, wanted, strict=True)
            return torch.tensor([chrf.sentence_score(f, [w]).score for f, w in pairs], dtype=torch.float64)
        return torch.tensor([float(f.strip() == w.strip()) for f, w in zip(found, wanted, strict=True)])


def generated(model: Any, test: HeldOut, causal: bool, max_new_tokens: int) -> list[str]:
    """The greedy continuation of each prompt, or target of each source, as text.

    Raises InputError for rows without a tokenizer or without a prompt.
    """
    from transformers import GenerationConfig

    reader = tokenizer_in(test)
    end, pad = reader.eos_token_id, filler(model.config, test.task.tokenizer)  # type: ignore[attr-defined]
    make: Any = GenerationConfig
    settings = make(
        do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, use_cache=True, eos_token_id=end, pad_token_id=pad,
        decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
    )  # fmt: skip

    def of(numbers: Sequence[int], device: torch.device) -> list[str]:
        """The texts of these examples: prompts padded on the left, sources on the right."""
        prompts = [prompt_of(test, n, causal) for n in numbers]
        longest = max(map(len, prompts))
        gaps = [longest - len(p) for p in prompts]
        ids = [[pad] * g + p if causal else p + [pad] * g for p, g in zip(prompts, gaps, strict=True)]
        mask = [
            [0] * g + [1] * len(p) if causal else [1] * len(p) + [0] * g
            for p, g in zip(prompts, gaps, strict=True)
        ]
        out = model.generate(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=settings,
        )
        return list(reader.batch_decode(out[:, longest if causal else 0 :], skip_special_tokens=True))

    return values_of(model, test, of)


def tokenizer_in(test: HeldOut) -> Any:
    """The task's tokenizer. Raises InputError where it has none."""
    found = getattr(test.task, "tokenizer", None)
    if found is None:
        raise InputError("this score needs a tokenizer: give rows of text, not of input_ids.")
    return found.tokenizer


def prompt_of(test: HeldOut, number: int, causal: bool) -> list[int]:
    """Tokens before the first supervised one, or of the source. Raises InputError where there are none."""
    inputs = test.examples[number].inputs
    ids = list(inputs["input_ids"])
    if causal:
        ids = ids[: next(i for i, label in enumerate(inputs["labels"]) if label != IGNORED)]
    if not ids:
        raise InputError(
            f"test item {number + 1} has no prompt to continue; expected columns prompt and completion."
        )
    return ids


def references(test: HeldOut, causal: bool) -> list[str]:
    """The rows' completions or targets as they are."""
    columns: Any = test.task.columns  # type: ignore[attr-defined]
    role = "completion" if causal else "target"
    return [str(columns.value(row, role, f"test item {n}")) for n, row in enumerate(test.rows, 1)]


def bleu_items(found: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """p_i = BLEU + (N - 1) (mean_j BLEU_without_j - BLEU_without_i), [N]: their mean is sacrebleu's corpus BLEU."""
    bleu = sacrebleu().BLEU(effective_order=True)
    each = [bleu.sentence_score(f, [w]) for f, w in zip(found, wanted, strict=True)]
    rows = torch.tensor([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in each], dtype=torch.int64)
    total, N = rows.sum(0), len(rows)
    whole = _bleu(total)
    if N == 1:
        return torch.tensor([whole], dtype=torch.float64)
    without = torch.tensor([_bleu(total - row) for row in rows], dtype=torch.float64)
    return whole + (N - 1) * (without.mean() - without)


def _bleu(sums: Tensor) -> float:
    n = [int(v) for v in sums]
    return float(
        sacrebleu().BLEU.compute_bleu(n[:4], n[4:8], n[8], n[9], smooth_method="exp", max_ngram_order=4).score
    )


def sacrebleu() -> Any:
    """sacrebleu.metrics. Raises MissingExtraError where it is not installed."""
    try:
        import sacrebleu.metrics as metrics
    except ImportError:
        raise MissingExtraError(
            "BLEU and chrF need sacrebleu: python -m pip install 'previa[eval]'"
        ) from None
    return metrics
