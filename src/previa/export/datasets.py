"""Hugging Face datasets: a Python file with the mixture as one data set, by `interleave_datasets`."""

from __future__ import annotations

from pathlib import Path

from previa import __version__
from previa.export.plan import Plan
from previa.export.sources import load_arguments
from previa.export.stack import Handover, Stack

_SCRIPT = '''"""A mixture of tasks, made by previa {version}.

    from mixture import mixture
    train_dataset = mixture()
"""

import numpy as np
from datasets import interleave_datasets, load_dataset

SEED = {seed}
N = {draw}  # rows
TASKS = {{  # name: (arguments of load_dataset, share of the rows)
{tasks}}}


def mixture():
    """N rows, each from a task drawn by its share; a task's rows in random order, from the front again once all came."""
    parts = []
    for source, share in TASKS.values():
        rows = load_dataset(**source, split="train").shuffle(seed=SEED)
        enough = int(N * share + 8 * (N * share) ** 0.5 + 20)  # eight standard deviations more than are drawn
        parts.append(rows.select(np.arange(enough) % len(rows)))
    shares = [share for _, share in TASKS.values()]
    drawn = interleave_datasets(parts, probabilities=shares, seed=SEED, stopping_strategy="first_exhausted")
    return drawn.select(range(N))
'''


def export(plan: Plan, folder: Path) -> Handover:
    """The probabilities are the row shares q_t; they sum to one, and each row's task is drawn independently.

    Every task is first repeated, or cut, to what will be drawn of it, so that no stopping strategy has a say in the shares:
    "all_exhausted" would draw max_t N_t/q_t rows, and "all_exhausted_without_replacement" forgets the probabilities as soon
    as one task is used up. Format: `interleave_datasets` in src/datasets/combine.py of huggingface/datasets, 5.0.1 (b7cb10b).
    """
    tasks = "".join(
        f"    {part.task.name!r}: ({load_arguments(part.task.path)!r}, {part.share!r}),\n"
        for part in plan.parts
    )
    script = _SCRIPT.format(version=__version__, seed=plan.seed, draw=plan.draw, tasks=tasks)
    return Handover(
        files={"mixture.py": script},
        numbers={part.task.name: part.share for part in plan.parts},
        use="from mixture import mixture; Trainer(train_dataset=mixture(), ...)",
        notes=("Each row's task is drawn by chance, so the rows of a task differ a little from the table.",),
    )


STACK = Stack(
    "datasets",
    export,
    number="probability",
    average=None,
    why="datasets feed any trainer: the HF Trainer averages over all tokens for language models, over rows for "
    "classification; DPO and reward models average over rows",
)
