"""LLaMA-Factory: a dataset_info.json and the data settings of a training config, with a sampling probability for each task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from previa.errors import InputError
from previa.export import _yaml
from previa.export.layouts import layout_of
from previa.export.plan import Part, Plan
from previa.export.sources import is_local, plain
from previa.export.stack import Handover, Stack

_OPENAI = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}


def export(plan: Plan, folder: Path) -> Handover:
    """`interleave_probs` are sampling probabilities q_t with `mix_strategy: interleave_over`, which draws until every data set
    came out once; `interleave_once` would ignore them. `num_samples` makes every data set k_t rows long, so that this is after
    about N rows and not after max_t N_t/q_t.

    `num_samples` rows are a random order's first ones; beyond N_t, all of them and a rest drawn with replacement.
    Format: `merge_dataset` in src/llamafactory/data/data_utils.py, `_load_single_dataset` in loader.py, hparams/data_args.py and
    data/README.md of hiyouga/LLaMA-Factory, 0.9.6.dev0 (ff6d4d1). Raises InputError for names that it would take apart.
    """
    for part in plan.parts:
        if "," in part.task.name or part.task.name != part.task.name.strip():
            raise InputError(
                f"task {part.task.name!r}: LLaMA-Factory takes a list of names apart at commas and drops blanks around them. "
                "Rename the task."
            )
    names = [part.task.name for part in plan.parts]
    info = {part.task.name: _description(part) for part in plan.parts}
    text = _yaml.dump(
        {
            "dataset_dir": str(folder),
            "dataset": ",".join(names),
            "mix_strategy": "interleave_over",
            "interleave_probs": ",".join(repr(part.share) for part in plan.parts),
            "num_train_epochs": 1.0,
            "seed": plan.seed,
        },
        f"For `llamafactory-cli train`; beside model, template and trainer settings of your own. About {plan.draw} rows in all.\n"
        "mix_strategy has to stay: interleave_once ignores the probabilities.",
    )
    unknown = [part.task.name for part in plan.parts if layout_of(part.task.columns) is None]
    notes = [
        "It draws until every task came out once: a few more rows than in the table, in the same shares."
    ]
    if unknown:
        notes.append(f"Say in dataset_info.json which columns of {', '.join(unknown)} it should read.")
    return Handover(
        files={
            "llama-factory.yaml": text,
            "dataset_info.json": json.dumps(info, indent=2, ensure_ascii=False) + "\n",
        },
        numbers={part.task.name: part.share for part in plan.parts},
        use="llamafactory-cli train llama-factory.yaml",
        notes=tuple(notes),
    )


def _description(part: Part) -> Mapping[str, object]:
    where = (
        {"file_name": plain(part.task.path, f"task {part.task.name!r}")}
        if is_local(part.task.path)
        else {"hf_hub_url": part.task.path}
    )
    layout = layout_of(part.task.columns)
    found: dict[str, object] = {**where, "num_samples": part.count}
    if layout is None:
        return found
    if layout.kind == "chat":
        found |= {"formatting": "sharegpt", "columns": {"messages": layout.column}}
        return found | ({"tags": _OPENAI} if layout.column == "messages" else {})
    if layout.kind == "text":
        return found | {"columns": {"prompt": layout.column}}
    columns = {"prompt": layout.prompt, "response": layout.column}
    if layout.prompt != "input" and "input" in part.task.columns:
        columns["query"] = "input"
    return found | {"columns": columns}


STACK = Stack(
    "llama-factory",
    export,
    number="interleave_probs",
    average="tokens",
    why="its SFT is the HF Trainer's, which averages over all supervised tokens of a batch; DPO and reward models over rows",
)
