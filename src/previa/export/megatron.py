"""Megatron-LM: the file for `--data-args-path`, weights and prefixes of tokenised data."""

from __future__ import annotations

from pathlib import Path

from previa.errors import InputError
from previa.export.plan import Plan
from previa.export.sources import absolute, is_file
from previa.export.stack import Handover, Stack

WHY = "Megatron cuts the tokens of all documents into sequences of one length and averages over those, so over tokens"


def export(plan: Plan, folder: Path) -> Handover:
    """A weight > 0 is the share of the training sequences. Sequences are of one length, so it is the share of *tokens*
    p_t ~ q_t L_t; with mean losses p_t = alpha_t. The weights are normalised; the blend follows them within one sequence.

    Format: `get_blend_and_blend_per_split` in megatron/training/utils/common_utils.py, `get_blend_from_list` in
    megatron/core/datasets/utils.py of NVIDIA/Megatron-LM, core 0.20.0 (d98e8a6). Raises InputError.
    """
    prefixes = blend_prefixes(plan, "Megatron-LM")
    for name, prefix in prefixes.items():
        if prefix.split() != [prefix]:
            raise InputError(
                f"task {name!r}: Megatron-LM takes its list of paths apart at blanks, and {prefix!r} has some. Rename it."
            )
    weights = blend_weights(plan)
    text = "".join(f"{weights[name]!r} {prefix}\n" for name, prefix in prefixes.items())
    return Handover(
        files={"megatron.txt": text},
        numbers=weights,
        use="pretrain_gpt.py --data-args-path megatron.txt --split 100,0,0 --train-samples (tokens drawn / sequence length) ...",
        notes=(f"{plan.tokens_drawn:,} tokens in all, divided by --seq-length, are its --train-samples.",),
    )


def blend_prefixes(plan: Plan, stack: str) -> dict[str, str]:
    """Task -> the absolute prefix of its .bin and .idx files. Raises InputError where a task is text that is not tokenised."""
    for part in plan.parts:
        if is_file(part.task.path):
            name, path = part.task.name, part.task.path
            raise InputError(
                f"task {name!r}: {stack} reads tokenised data, not {Path(path).name}. Make it with Megatron-LM's "
                f"tools/preprocess_data.py --input {path} --output-prefix PREFIX --append-eod ..., and give what it wrote without "
                f".bin: --data {name}=PREFIX_text_document."
            )
    return {part.task.name: absolute(part.task.path) for part in plan.parts}


def blend_weights(plan: Plan) -> dict[str, float]:
    """Task -> p_t, its share of the tokens. Raises InputError where the tokens are not known."""
    found = {}
    for part in plan.parts:
        if part.token_share is None:
            raise InputError(f"task {part.task.name!r}: the mean number of tokens in its rows is not known.")
        found[part.task.name] = part.token_share
    return found


STACK = Stack("megatron", export, number="weight", average="tokens", why=WHY, only=True)
