"""From a task type's name, a model and rows to the task: how rows become batches, and the loss of each example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from previa.data.files import Rows
from previa.errors import FileError, InputError
from previa.run.classification import ImageClassification, SequenceClassification
from previa.run.columns import columns_of
from previa.run.language import CausalLM, Seq2Seq
from previa.run.own_task import OwnLoss
from previa.run.resolve import resolve
from previa.run.square_pass import Task
from previa.run.tokens import IGNORED, tokenizer_of
from previa.run.transformers_model import Loaded, import_transformers

TASKS: dict[str, Any] = {
    "sequence-classification": SequenceClassification,
    "causal-lm": CausalLM,
    "seq2seq": Seq2Seq,
    "image-classification": ImageClassification,
}


def auto_class(task_type: str) -> str | None:
    """The class of transformers that reads a model for this task type; None where the configuration's own must.

    Raises InputError for a task type that is neither known nor written module:function.
    """
    if task_type in TASKS:
        return str(TASKS[task_type].auto)
    if ":" not in task_type:
        raise InputError(
            f"--task-type {task_type}: expected one of {', '.join(TASKS)}, or a loss of your own as my_module:loss."
        )
    return None


def task_of(
    task_type: str,
    loaded: Loaded,
    rows: Rows,
    *,
    columns: Mapping[str, str] | None = None,
    folder: str | Path = ".",
    tokenizer: str | Path | None = None,
    max_length: int | None = None,
) -> Task:
    """The task for these rows, whose columns are found by their usual names unless ``columns`` (role -> column) says.

    folder: of the data, from which names of picture files count. Raises InputError, FileError, StudyError for a loss of one's own.
    """
    auto_class(task_type)
    if task_type not in TASKS:
        return OwnLoss(resolve(task_type, ".", "--task-type"))
    kind = TASKS[task_type]
    first = rows[0]
    if not isinstance(first, Mapping):
        raise InputError(
            f"a row of the data is {type(first).__name__}; expected a mapping from column to value, such as a dict."
        )
    found = columns_of(first, kind.roles, columns or {})
    config: Any = loaded.model.config
    if kind is ImageClassification:
        return ImageClassification(found, config, processor_of(loaded), Path(folder))
    reader = None if "input_ids" in found else tokenizer_of(loaded, tokenizer, max_length)
    if kind is Seq2Seq:
        return Seq2Seq(found, config, reader, shift_of(loaded.model))
    made: Task = kind(found, config, reader)
    return made


def processor_of(loaded: Loaded) -> Any:
    """The model's image processor. Raises FileError where its folder has none."""
    places = [
        place for place in (loaded.folder, loaded.base) if (place / "preprocessor_config.json").is_file()
    ]
    if not places:
        raise FileError(
            f"{loaded.folder}: no preprocessor_config.json, which says how pictures become the model's input. Copy the base "
            "model's into the folder."
        )
    return import_transformers().AutoImageProcessor.from_pretrained(places[0], local_files_only=True)


@final
@dataclass(frozen=True)
class ShiftRight:
    """labels [B, T] -> the decoder's inputs: ``start``, then every label but the last; ``pad`` where none is supervised."""

    start: int
    pad: int

    def __call__(self, labels: Tensor) -> Tensor:
        shifted = labels.roll(1, 1).masked_fill(labels.roll(1, 1) == IGNORED, self.pad)
        shifted[:, 0] = self.start
        return shifted


def shift_of(model: Module) -> Callable[[Tensor], Tensor]:
    """From labels to the decoder's inputs, as the model does it in training; it pickles, and without the model where it can.

    Raises InputError where the model has no such way.
    """
    own: Callable[[Tensor], Tensor] | None = getattr(
        model, "prepare_decoder_input_ids_from_labels", None
    ) or getattr(model, "_shift_right", None)
    config: Any = model.config
    start, pad = getattr(config, "decoder_start_token_id", None), getattr(config, "pad_token_id", None)
    if start is None or pad is None:
        if own is not None:
            return own
        raise InputError(
            f"{type(model).__name__}: neither shifts labels itself nor has decoder_start_token_id and pad_token_id in its config. "
            "Set them, or give a loss of your own as --task-type my_module:loss."
        )
    plain = ShiftRight(start, pad)
    trial = torch.tensor([[5, 6, 7], [6, 5, IGNORED]])  # some models begin with the last token, a language
    return plain if own is None or torch.equal(own(trial.clone()), plain(trial)) else own
