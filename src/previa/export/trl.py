"""TRL: the `datasets` section of a config for `trl sft --config`, with a target share for each data set."""

from __future__ import annotations

from pathlib import Path

from previa.export import _yaml
from previa.export.plan import Plan
from previa.export.shares import passes
from previa.export.sources import load_arguments
from previa.export.stack import Handover, Stack


def export(plan: Plan, folder: Path) -> Handover:
    """`fraction` is a data set's share of the mixture's rows. TRL normalises the fractions f_i, and keeps the first
    round(f_i N) rows of each, N = min_i n_i / f_i: no row is repeated, and nothing is shuffled before the cut.

    So a task that is needed more than once is listed once for each pass, the last one cut; and where no task is used up,
    N is larger than what is to be drawn, which `num_train_epochs` < 1 corrects, for the trainer shuffles.
    Format: `DatasetConfig` and `get_dataset` in trl/scripts/utils.py of huggingface/trl, 1.10.0.dev0 (f2cd577); `fraction`
    came with 1.8.0 (ca8cabd). Its own parser and `get_dataset` of 1.16.0 gave the planned rows.
    """
    entries: list[_yaml.Value] = []
    kept = []
    for part in plan.parts:
        for n in passes(part.count, part.task.rows):
            fraction = n / plan.draw
            entries.append({**load_arguments(part.task.path), "split": "train", "fraction": fraction})
            kept.append(part.task.rows / fraction)
    cut = [part.task.name for part in plan.parts if part.count % part.task.rows]
    epochs = min(1.0, round(plan.draw / min(kept), 12))
    text = _yaml.dump(
        {"datasets": entries, "num_train_epochs": epochs, "seed": plan.seed},
        f"For `trl sft --config`, TRL 1.8 or later; beside model and trainer settings of your own.\n"
        f"{plan.draw} rows in all. Streaming is not possible with fractions.",
    )
    notes = (
        f"TRL takes the first rows of a file and shuffles only later, so the rows of {', '.join(cut)}, of which it takes a "
        "part, should be in random order. If they are not: --materialise.",
    )
    return Handover(
        files={"trl.yaml": text},
        numbers={part.task.name: part.count / plan.draw for part in plan.parts},
        use="trl sft --config trl.yaml --model_name_or_path ...",
        notes=notes if cut else (),
    )


STACK = Stack(
    "trl",
    export,
    number="fraction",
    average="tokens",
    why="TRL's SFT averages over all supervised tokens of a batch; its DPO and reward trainers average over rows",
)
