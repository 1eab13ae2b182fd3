"""ms-swift: the `--dataset` argument of `swift sft`, with a count of rows for each data set."""

from __future__ import annotations

from pathlib import Path

from previa.errors import InputError
from previa.export import _shell
from previa.export.plan import Plan
from previa.export.sources import is_local, plain
from previa.export.stack import Handover, Stack


def export(plan: Plan, folder: Path) -> Handover:
    """`path#k` draws k rows: without replacement below N_t, and beyond it whole passes and a drawn rest. k_t, exactly.

    (`--interleave_prob`, the other way, takes probabilities but stops when the first or the last data set is used up, so the
    number of rows is not one's own.) Format: `DatasetSyntax.parse` in swift/dataset/dataset_syntax.py and `sample_dataset` in
    swift/dataset/utils.py of modelscope/ms-swift, 4.6.0.dev0 (3602360). Raises InputError for paths it would take apart.
    """
    words = []
    for part in plan.parts:
        path = part.task.path
        if is_local(path):
            path = plain(path, f"task {part.task.name!r}")
        if is_local(path) and ("::" in path or path != path.strip()):
            raise InputError(
                f"task {part.task.name!r}: ms-swift would not read {path!r} as one path, for its '::' or blanks at its ends. "
                "Rename it."
            )
        words.append((f"{path}#{part.count}",))
    comment = (
        f"{plan.draw} rows in all; what follows a # is a task's number of rows. Not for --streaming true.\n"
        'Use: source ms-swift.sh; swift sft "${MIXTURE[@]}" --num_train_epochs 1 --model ...'
    )
    lines = [
        ("--dataset",),
        *words,
        ("--dataset_shuffle", "true"),
        ("--split_dataset_ratio", "0"),
        ("--data_seed", str(plan.seed)),
    ]
    return Handover(
        files={"ms-swift.sh": _shell.array("MIXTURE", lines, comment)},
        numbers={part.task.name: part.count for part in plan.parts},
        use='source ms-swift.sh; swift sft "${MIXTURE[@]}" --num_train_epochs 1 --model ...',
    )


STACK = Stack(
    "ms-swift",
    export,
    number="count after #",
    average="tokens",
    why="its trainer averages over all supervised tokens of a batch, as the HF Trainer does; DPO and the like over rows",
)
