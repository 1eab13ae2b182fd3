"""open-instruct: the `--dataset_mixer_list` of its training scripts, with a count of rows for each data set."""

from __future__ import annotations

from pathlib import Path

from previa.errors import InputError
from previa.export import _shell
from previa.export.plan import Plan
from previa.export.sources import is_file, is_local, plain
from previa.export.stack import Handover, Stack


def export(plan: Plan, folder: Path) -> Handover:
    """An integer is a count of rows (a number with a point would be a fraction of the data set): k_t, exactly.

    Beyond N_t a data set is taken whole as often as it goes, and the rest drawn without replacement; all is shuffled.
    Format: `load_dataset_configs` and `DatasetConfig.select_samples` in open_instruct/dataset_transformation.py of
    allenai/open-instruct (e6c3044). Raises InputError for files that it does not read.
    """
    lines = []
    for part in plan.parts:
        path = part.task.path
        if is_local(path):
            path = plain(path, f"task {part.task.name!r}")
            if is_file(path) and not path.endswith((".jsonl", ".parquet")):
                raise InputError(
                    f"task {part.task.name!r}: open-instruct reads .jsonl and .parquet files, not {Path(path).name}. Write it as "
                    "JSON Lines, or use --materialise."
                )
        lines.append((path, str(part.count)))
    comment = (
        f"{plan.draw} rows in all. The numbers are rows; open-instruct reads a number with a point as a fraction.\n"
        'Use: source open-instruct.sh; accelerate launch open_instruct/finetune.py "${MIXTURE[@]}" --num_train_epochs 1 ...'
    )
    words = [
        ("--dataset_mixer_list",),
        *lines,
        ("--dataset_mixer_list_splits", "train"),
        ("--seed", str(plan.seed)),
    ]
    return Handover(
        files={"open-instruct.sh": _shell.array("MIXTURE", words, comment)},
        numbers={part.task.name: part.count for part in plan.parts},
        use='source open-instruct.sh; accelerate launch open_instruct/finetune.py "${MIXTURE[@]}" --num_train_epochs 1 ...',
    )


STACK = Stack(
    "open-instruct",
    export,
    number="count",
    average=None,
    why="open-instruct averages over the tokens of each device's batch and then over batches: over rows with "
    "--per_device_train_batch_size 1, nearly over tokens with large or packed ones",
)
