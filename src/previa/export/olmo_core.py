"""OLMo-core: the YAML of a `SourceMixtureList`, with the share of tokens of each source."""

from __future__ import annotations

import math
from pathlib import Path

from previa.errors import InputError
from previa.export import _yaml
from previa.export.megatron import blend_weights
from previa.export.plan import Plan
from previa.export.sources import absolute, is_file
from previa.export.stack import Handover, Stack

SLACK = 1.02  # of the repetitions that are allowed: the tokens of a source are counted again, from the size of its files


def export(plan: Plan, folder: Path) -> Handover:
    """`target_ratio` is the share of the tokens p_t ~ q_t L_t; with mean losses p_t = alpha_t. They sum to one.

    `max_repetition_ratio` >= 1 has to allow the epochs of a task, or nothing is built; `requested_tokens`, of the config that
    takes this list, are all tokens drawn. Format: `SourceMixtureConfig` and `SourceMixtureDatasetConfig.build` in
    src/olmo_core/data/source_mixture.py of allenai/OLMo-core, 2.5.0 (fa6c501); both of 3.0.0 gave the planned tokens.
    Raises InputError.
    """
    ratios = blend_weights(plan)
    sources: list[_yaml.Value] = []
    for part in plan.parts:
        name, path = part.task.name, part.task.path
        if is_file(path):
            raise InputError(
                f"task {name!r}: OLMo-core reads .npy files of token numbers, not {Path(path).name}. Tokenise it, and give the "
                f"files and their size: --data {name}='FOLDER/*.npy' --rows {name}=N --tokens {name}=L."
            )
        remote = "://" in path
        sources.append(
            {
                "source_name": name,
                "target_ratio": ratios[name],
                "paths": [path if remote else absolute(path)],
                "max_repetition_ratio": max(1.0, math.ceil(100 * SLACK * part.epochs) / 100),
            }
        )
    comment = (
        "SourceMixtureDatasetConfig(\n"
        '    source_list=SourceMixtureList.from_yaml("olmo-core.yaml"),\n'
        f"    requested_tokens={plan.tokens_drawn}, seed={plan.seed}, global_batch_size=...)"
    )
    return Handover(
        files={"olmo-core.yaml": _yaml.dump({"sources": sources}, comment)},
        numbers=ratios,
        use=f'SourceMixtureDatasetConfig(source_list=SourceMixtureList.from_yaml("olmo-core.yaml"), '
        f"requested_tokens={plan.tokens_drawn}, ...)",
    )


STACK = Stack(
    "olmo-core",
    export,
    number="target_ratio",
    average="tokens",
    why="OLMo-core cuts the tokens of all documents into sequences of one length and averages over those, so over tokens",
    only=True,
)
