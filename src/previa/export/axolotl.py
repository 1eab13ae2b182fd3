"""axolotl: it knows no weights, so the mixed data itself is written, and the `datasets` section that reads it."""

from __future__ import annotations

from pathlib import Path

from previa.export import _yaml
from previa.export.layouts import Layout, one_layout
from previa.export.plan import Plan
from previa.export.sources import plain
from previa.export.stack import MIXED, Handover, Stack


def export(plan: Plan, folder: Path) -> Handover:
    """One data set, the mixture; it is shuffled already, and axolotl shuffles it again.

    Format: `SFTDataset` in src/axolotl/utils/schemas/datasets.py, docs/dataset-formats of axolotl-ai-cloud/axolotl, 0.18.0
    (067b021): its data sets have no weights, but for turns of a chat. Raises InputError where tasks differ in layout.
    """
    entry = {
        "path": plain(str(folder / MIXED), "--out"),
        "ds_type": "json",
        "split": "train",
        **_type(one_layout(plan, "axolotl")),
    }
    text = _yaml.dump(
        {"datasets": [entry], "num_epochs": 1, "val_set_size": 0.0, "seed": plan.seed},
        f"For `axolotl train`; beside model and trainer settings of your own. The data is the mixture: {plan.draw} rows.",
    )
    return Handover(
        files={"axolotl.yaml": text},
        numbers={part.task.name: part.count for part in plan.parts},
        use="axolotl train axolotl.yaml",
    )


def _type(layout: Layout) -> dict[str, _yaml.Value]:
    if layout.kind == "text":
        return {"type": "completion", "field": layout.column}
    if layout.kind == "pair":
        form = {"field_instruction": layout.prompt, "field_output": layout.column}
        return {"type": {**form, "format": "{instruction}", "no_input_format": "{instruction}"}}
    chat: dict[str, _yaml.Value] = {"type": "chat_template", "field_messages": layout.column}
    if layout.column == "messages":
        return chat
    return chat | {"message_property_mappings": {"role": "from", "content": "value"}}


STACK = Stack(
    "axolotl",
    export,
    number="mixed",
    average="tokens",
    why="its trainer is the HF Trainer, which averages over all supervised tokens of a batch; DPO and the like over rows",
    mixed=True,
)
