"""Whether folders come from one base: what merging assumes of their configurations, vocabularies and adapters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from previa.errors import FileError, InputError, ParamsError
from previa.io.adapter_folder import open_adapter
from previa.io.adapter_match import check_same_factors, common_initialisation
from previa.run.tokens import has_tokenizer, tokenizer_of
from previa.run.transformers_model import ADAPTER, Loaded
from previa.run.transformers_squares import ends_of
from previa.study.file import Study
from previa.study.settings import TransformersSettings
from previa.study.simplex import show

OF_NO_CONSEQUENCE = re.compile(
    "_name_or_path|architectures|dtype|torch_dtype|transformers_version|id2label|label2id|problem_type|.*drop.*|.*token_id|"
    "use_cache|finetuning_task|task_specific_params|output_.*|return_.*|_.*|vocab_size|.*hidden_size|intermediate_size|.*layerdrop"
)


def check_config(found: Any, expected: Any, where: str, *, labels: bool = True) -> None:
    """Raise ParamsError where two configurations of one class make other functions of the same weights.

    Shapes are compared elsewhere. labels: whether the classes must have the same names, where they have any.
    """
    one, other = found.to_dict(), expected.to_dict()
    for key in sorted(one.keys() & other.keys()):
        if one[key] != other[key] and not OF_NO_CONSEQUENCE.fullmatch(key):
            raise ParamsError(
                f"{where}: its config.json says {key} = {one[key]!r}, but the study's model has {other[key]!r}: merged weights "
                "would belong to neither. All tasks must come from one base model."
            )
    names = [dict(config.get("label2id") or {}) for config in (one, other)]
    if (
        labels
        and names[0] != names[1]
        and not any(all(str(n).startswith("LABEL_") for n in own) for own in names)
    ):
        raise ParamsError(
            f"{where}: its classes are {names[0]}, but the study's model has {names[1]}: rows of merged classifiers would mean "
            "different labels. Put the classifier's name into heads of [transformers], or use one order of labels."
        )


def check_words(study: Study, settings: TransformersSettings, loaded: Loaded) -> None:
    """Raise InputError where a task's tokenizer has another vocabulary than the one that is used for all."""
    if settings.tokenizer is not None or settings.task_type == "image-classification":
        return
    mine: dict[str, int] | None = None
    for where, folder in _brought(study).items():
        if not has_tokenizer(folder):
            continue
        if mine is None:
            try:
                mine = tokenizer_of(loaded, None, None).tokenizer.get_vocab()
            except FileError:
                return  # rows bring their tokens
        found = tokenizer_of(loaded, folder, None).tokenizer.get_vocab()
        if found != mine:
            raise InputError(
                f"{where}, {folder}: its tokenizer has another vocabulary than that of {loaded.folder}: the "
                "same numbers would mean other words. Train all tasks with one tokenizer, or say with tokenizer in [transformers] "
                "which folder's is right."
            )


def check_adapters(study: Study) -> None:
    """Raise InputError where adapters, the anchors' too, did not start from one: averages of their factors mean nothing."""
    adapters = {
        name: open_adapter(path) for name, path in _brought(study).items() if (path / ADAPTER).is_file()
    }
    if len(adapters) < 2:
        return
    check_same_factors(adapters)
    base = study.folder / study.model
    for where, adapter in adapters.items():
        named = Path(str(adapter.config.get("base_model_name_or_path") or "."))
        if (named / "config.json").is_file() and ends_of(named) != ends_of(base):
            raise InputError(
                f"{where}: its adapter was trained on {named}, whose weights are not those of the study's model, {base}."
            )
    found = common_initialisation(adapters)
    if found.verdict == "unlikely":
        raise InputError(
            f"{found.sentence}. Averages of A and of B mean something only near one common A. Train again, each task from one "
            "adapter folder saved before the first step; `previa merge --product` merges the products B A of these."
        )


def _brought(study: Study) -> dict[str, Path]:
    """The folders that the study's tasks and anchors bring, by what they are called in errors."""
    tasks = {f"task {task.name!r}": task.checkpoint for task in study.tasks if task.checkpoint is not None}
    return tasks | {f"anchor {show(anchor.alpha)}": anchor.checkpoint for anchor in study.anchors}
