"""Megatron-Bridge: a Python file with the data config of its SFT on Hugging Face data, with epochs for each source."""

from __future__ import annotations

from pathlib import Path

from previa import __version__
from previa.export.plan import Part, Plan
from previa.export.sources import load_arguments
from previa.export.stack import Handover, Stack

_SCRIPT = '''"""A mixture of tasks for Megatron-Bridge, made by previa {version}.

    from bridge_mixture import dataset
    config.dataset = dataset(seq_length=4096)
"""

SEED = {seed}
SOURCES = [  # a source's arguments, and the epochs that are taken of it
{sources}]


def dataset(seq_length, **settings):
    """The data config of these tasks; settings: its other arguments, as preprocessing and validation_source."""
    from megatron.bridge.data.builders import DirectHFSFTDatasetConfig, HFDatasetSourceConfig

    mixture = {{
        "source": [HFDatasetSourceConfig(**source) for source, _ in SOURCES],
        "source_weights": [epochs for _, epochs in SOURCES],
        "blend_seed": SEED,
        "do_validation": "validation_source" in settings,
        "do_test": "test_source" in settings,
    }}
    return DirectHFSFTDatasetConfig(seq_length=seq_length, **{{**mixture, **settings}})
'''


def export(plan: Plan, folder: Path) -> Handover:
    """A source's weight is its number of epochs k_t / N_t: whole passes, and ceil(N_t * fraction) rows drawn without
    replacement. Half a row is taken off a fraction, so that rounding up gives k_t in floating point, too.

    Format: `DirectHFSFTDatasetConfig` in src/megatron/bridge/data/builders/direct_hf_sft.py and `blend_sft_rows` in
    data/sources/hf.py of NVIDIA-NeMo/Megatron-Bridge, 0.7.0 (067f987).
    """
    sources = "".join(f"    ({_source(part)!r}, {_weight(part)!r}),\n" for part in plan.parts)
    script = _SCRIPT.format(version=__version__, seed=plan.seed, sources=sources)
    return Handover(
        files={"bridge_mixture.py": script},
        numbers={part.task.name: part.epochs for part in plan.parts},
        use="from bridge_mixture import dataset; config.dataset = dataset(seq_length=4096)",
        notes=(
            f"{plan.draw:,} rows in all are one epoch of it: train_iters = {plan.draw:,} / global batch size.",
        ),
    )


def _weight(part: Part) -> float:
    whole, rest = divmod(part.count, part.task.rows)
    return whole + (rest - 0.5) / part.task.rows if rest else float(whole)


def _source(part: Part) -> dict[str, object]:
    arguments = load_arguments(part.task.path)
    source: dict[str, object] = {"path_or_dataset": arguments["path"], "split": "train"}
    if "data_files" in arguments:
        source["load_kwargs"] = {"data_files": {"train": arguments["data_files"]}}
    return source


STACK = Stack(
    "megatron-bridge",
    export,
    number="source_weights",
    average=None,
    why="Megatron-Bridge averages over all tokens where the model's config has calculate_per_token_loss = True, as many "
    "recipes do; without it over each micro-batch, which are rows with a micro-batch of 1",
)
