"""alignment-handbook (and open-r1, which has the same format): `dataset_mixture` with the part kept of each data set."""

from __future__ import annotations

import re
from pathlib import Path

from previa.export import _yaml
from previa.export.plan import Plan
from previa.export.shares import passes
from previa.export.sources import is_file, load_arguments
from previa.export.stack import Handover, Stack

DATA = "alignment-handbook-data"


def export(plan: Plan, folder: Path) -> Handover:
    """`weight` w <= 1 is the fraction of a data set that is kept: int(w N_t) of its shuffled rows, then all are shuffled.

    w_t = k_t / N_t = q_t N / N_t where that is below one; a task that is needed more often is listed once for each pass.
    Half a row is added before a cut, so that rounding down gives k_t in floating point, too. The loader takes names of data
    sets and folders but no files: local files become configurations of one folder, by its README.md.
    Format: `get_dataset` in src/alignment/data.py and `DatasetConfig` in configs.py of huggingface/alignment-handbook (925acdf);
    the same in src/open_r1/utils/data.py of huggingface/open-r1 (1416fa0).
    """
    local: list[_yaml.Value] = []
    entries: list[_yaml.Value] = []
    for i, part in enumerate(plan.parts):
        source = {"id": load_arguments(part.task.path)["path"]}
        if is_file(part.task.path):
            config = f"task{i}_" + re.sub(r"[^\w.-]", "_", part.task.name)
            local.append(
                {
                    "config_name": config,
                    "data_files": [{"split": "train", "path": load_arguments(part.task.path)["data_files"]}],
                }
            )
            source = {"id": str(folder / DATA), "config": config}
        for n in passes(part.count, part.task.rows):
            weight = 1.0 if n == part.task.rows else (n + 0.5) / part.task.rows
            entries.append({**source, "split": "train", "weight": weight})
    files = {
        "alignment-handbook.yaml": _yaml.dump(
            {
                "dataset_mixture": {"datasets": entries, "seed": plan.seed},
                "num_train_epochs": 1,
            },
            f"For alignment-handbook and open-r1; beside model and trainer settings of your own. {plan.draw} rows in all.",
        )
    }
    if local:
        files[f"{DATA}/README.md"] = f"---\n{_yaml.dump({'configs': local})}---\n"
    return Handover(
        files=files,
        numbers={part.task.name: part.count / part.task.rows for part in plan.parts},
        use="python scripts/sft.py --config alignment-handbook.yaml",
    )


STACK = Stack(
    "alignment-handbook",
    export,
    number="weight, summed",
    average="tokens",
    why="its SFT is TRL's, which averages over all supervised tokens of a batch; its DPO and ORPO average over rows",
)
