"""NeMo 2: a Python file with the `paths` of its `PreTrainingDataModule`, weights and prefixes zipped."""

from __future__ import annotations

from pathlib import Path

from previa import __version__
from previa.export.megatron import WHY, blend_prefixes, blend_weights
from previa.export.plan import Plan
from previa.export.stack import Handover, Stack

_SCRIPT = '''"""A mixture of tasks for NeMo 2, made by previa {version}.

    from nemo_mixture import data
    recipe.data = run.Config(PreTrainingDataModule, paths=PATHS, ...)    # or data=data(seq_length=4096, ...)
"""

SEED = {seed}
TOKENS = {tokens}  # in all; divided by seq_length, they are num_train_samples
PATHS = [  # weight, prefix, weight, prefix, ...; a weight is a share of the training sequences
{paths}]


def data(**settings):
    """The data module of these tasks; settings: its other arguments, as seq_length and global_batch_size."""
    from nemo.collections.llm.gpt.data.pre_training import PreTrainingDataModule

    samples = -(-TOKENS // settings.get("seq_length", 2048))
    return PreTrainingDataModule(**{{"paths": PATHS, "seed": SEED, "num_train_samples": samples, **settings}})
'''


def export(plan: Plan, folder: Path) -> Handover:
    """A weight, a number written as text, is the share of the training sequences, as in Megatron-LM: of tokens, p_t ~ q_t L_t.

    Format: `PreTrainingDataModule` in nemo/collections/llm/gpt/data/pre_training.py of NVIDIA/NeMo, 2.6.0rc0 (8cfedd7).
    Raises InputError.
    """
    prefixes, weights = blend_prefixes(plan, "NeMo"), blend_weights(plan)
    paths = "".join(f"    {repr(weights[name])!r}, {prefix!r},\n" for name, prefix in prefixes.items())
    script = _SCRIPT.format(version=__version__, seed=plan.seed, tokens=plan.tokens_drawn, paths=paths)
    return Handover(
        files={"nemo_mixture.py": script},
        numbers=weights,
        use="from nemo_mixture import data; llm.pretrain(data=data(seq_length=4096, global_batch_size=...), ...)",
    )


STACK = Stack("nemo", export, number="weight", average="tokens", why=WHY, only=True)
