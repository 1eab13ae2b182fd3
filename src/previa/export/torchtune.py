"""torchtune: its recipes know no weights, so the mixed data itself is written, and the `dataset` section that reads it."""

from __future__ import annotations

import glob
from pathlib import Path

from previa.export import _yaml
from previa.export.layouts import Layout, one_layout
from previa.export.plan import Plan
from previa.export.stack import MIXED, Handover, Stack


def export(plan: Plan, folder: Path) -> Handover:
    """One data set, the mixture; `shuffle` shuffles it again in each epoch.

    Format: `chat_dataset`, `instruct_dataset` and `text_completion_dataset` in torchtune/datasets of pytorch/torchtune, 0.7.0
    (bd2a0fc), whose list of data sets is concatenated, without weights. Raises InputError where tasks differ in layout.
    """
    data = {"source": "json", "data_files": glob.escape(str(folder / MIXED)), "split": "train"}
    text = _yaml.dump(
        {
            "dataset": {**_component(one_layout(plan, "torchtune")), **data},
            "epochs": 1,
            "shuffle": True,
            "seed": plan.seed,
        },
        f"For `tune run`: put this in place of dataset, epochs, shuffle and seed of a recipe's config. {plan.draw} rows in all.",
    )
    return Handover(
        files={"torchtune.yaml": text},
        numbers={part.task.name: part.count for part in plan.parts},
        use="tune run full_finetune_single_device --config (yours, with the sections of torchtune.yaml)",
    )


def _component(layout: Layout) -> dict[str, _yaml.Value]:
    name = {"chat": "chat", "pair": "instruct", "text": "text_completion"}[layout.kind]
    found: dict[str, _yaml.Value] = {"_component_": f"torchtune.datasets.{name}_dataset"}
    if layout.kind == "text":
        return found | {"column": layout.column}
    if layout.kind == "pair":
        return found | {"column_map": {"input": layout.prompt, "output": layout.column}}
    style = "openai" if layout.column == "messages" else "sharegpt"
    return found | {"conversation_column": layout.column, "conversation_style": style}


STACK = Stack(
    "torchtune",
    export,
    number="mixed",
    average="tokens",
    why="its recipes average over all supervised tokens of a batch; DPO and the like over rows",
    mixed=True,
)
