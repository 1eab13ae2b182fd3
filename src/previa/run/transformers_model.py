"""A model of transformers from its folder, or an adapter of PEFT on its base, ready for per-example gradients."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from previa.errors import FileError, InputError, MissingExtraError, ParamsError
from previa.io.checkpoint import Checkpoint, open_checkpoint

ADAPTER = "adapter_config.json"

InFiles = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""From values by the names of model.named_parameters() to the same values by the names in a checkpoint's files."""


@final
@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode and what its folder calls its trainable parameters."""

    model: Module
    folder: Path
    """of the checkpoint or adapter"""
    base: Path
    """of the base model: ``folder`` itself, unless that is an adapter's"""
    in_files: InFiles
    """values of the trainable parameters, as the checkpoint's files call and cut them"""


def load_model(
    folder: str | Path,
    auto: str | None,
    *,
    base: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Loaded:
    """The model in ``folder`` through transformers' class ``auto``, or through the class its configuration names (None).

    An adapter's folder (PEFT) is put on ``base``, or on the base that it names; then only its parameters are trainable. Read
    are safetensors only.
    Raises FileError for a folder without configuration or weights; InputError where the checkpoint lacks parameters of this kind
    of model, which would be random; ParamsError where the checkpoint's names are not the model's; MissingExtraError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder; expected one that save_pretrained or the Trainer wrote.")
    is_adapter = (folder / ADAPTER).is_file()
    at = _base_of(folder, base) if is_adapter else folder
    weights = open_checkpoint(folder)
    transformers = import_transformers()
    if not (at / "config.json").is_file():
        raise FileError(
            f"{at}: holds no config.json, so that the kind of model is not known. Copy the one of its base model."
        )
    kind = getattr(transformers, auto) if auto else _own_class(transformers, at)
    open_checkpoint(at)  # a pickle is refused here, and with its reason
    try:
        with _without_bars(transformers):
            model, report = kind.from_pretrained(
                at, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
    except (ValueError, OSError, RuntimeError) as error:
        raise InputError(f"{at}: transformers cannot read it as {kind.__name__}: {_short(error)}") from error
    lacking = sorted(report["missing_keys"]) + [str(pair[0]) for pair in report.get("mismatched_keys", ())]
    if is_adapter:
        model, lacking = _with_adapter(model, folder, lacking)
    if lacking:
        raise InputError(
            f"{at}: the checkpoint lacks {lacking[0]!r}{_more(lacking)} of {kind.__name__}, which would be random. Give a model "
            "that was finetuned for this task type, or the task type that it was finetuned for."
        )
    return Loaded(on_device(model, device), folder, at, in_files(model, weights, folder))


def skeleton(folder: str | Path, base: str | Path | None = None) -> Module:
    """The model that a folder's configuration describes, without its values: names, shapes and which are trainable.

    Raises FileError, InputError, MissingExtraError as load_model.
    """
    folder = Path(folder)
    is_adapter = (folder / ADAPTER).is_file()
    at = _base_of(folder, base) if is_adapter else folder
    if not (at / "config.json").is_file():
        raise FileError(
            f"{at}: holds no config.json, so that the kind of model is not known. Give the model's folder with --model."
        )
    transformers = import_transformers()
    kind = _own_class(transformers, at)
    config = transformers.AutoConfig.from_pretrained(at, local_files_only=True)
    with torch.device("meta"):
        model = kind(config)
        if not is_adapter:
            return model  # type: ignore[no-any-return]
        peft = _peft(folder)
        config = peft.PeftConfig.from_pretrained(str(folder))
        config.inference_mode = False
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
            return peft.get_peft_model(model, config)  # type: ignore[no-any-return]


def on_device(model: Module, device: str, dtype: torch.dtype | None = None) -> Module:
    """The model there, in evaluation mode: without dropout, and in transformers without recomputed activations.

    Raises InputError for a device that is not here.
    """
    try:
        return model.to(torch.device(device), dtype).eval()
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"--device {device}: {_short(error)} Give cpu, or a device that this torch sees."
        ) from error


def in_files(model: Module, weights: Checkpoint, where: str | Path) -> InFiles:
    """How a checkpoint holds values of the trainable parameters, one an entry, such as squared gradients.

    Under their own names, or those that tied ones have; in adapters without "default"; or as transformers writes the model: it
    keeps the names, and the cut into tensors, that a kind of model had first.
    Raises ParamsError naming the parameter where the checkpoint has none of these in its shape.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    aliases: dict[Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(parameter, []).append(name)
    names: dict[str, str] = {}
    for name, parameter in trainable.items():
        tries = [n for alias in aliases[parameter] for n in (alias, _in_adapter(alias))]
        fitting = [n for n in tries if n in weights and weights.shape_of(n) == parameter.shape]
        if fitting:
            names[name] = fitting[0]
    lacking = [name for name in trainable if name not in names]
    if not lacking:
        return lambda values: {names[name]: value for name, value in values.items()}
    empty = {name: torch.empty(p.shape, device="meta") for name, p in trainable.items()}
    written = _as_written(model, empty)
    if all(name in weights and weights.shape_of(name) == tensor.shape for name, tensor in written.items()):
        return lambda values: _as_written(model, values)
    raise ParamsError(
        f"{where}: the model's parameter {lacking[0]!r} {tuple(trainable[lacking[0]].shape)} is not in the checkpoint under that "
        "name and shape, nor as this transformers writes it. A merge could not use its precision: load the model once and save it "
        "(save_pretrained)."
    )


def _as_written(model: Any, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What save_pretrained would write; renamed, cut and stacked, which squares of gradients survive."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before 5.0 files had the model's names
        return dict(values)
    return dict(revert_weight_conversion(model, dict(values)))


def import_transformers() -> Any:
    """The package. Raises MissingExtraError."""
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("models of transformers need that package; install previa[hf].") from error
    return transformers


@contextmanager
def _without_bars(transformers: Any) -> Iterator[None]:
    """No progress bar for reading a file, which stands beside ours otherwise."""
    log = transformers.utils.logging
    shown = log.is_progress_bar_enabled()
    log.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            log.enable_progress_bar()


def _in_adapter(name: str) -> str:
    return name.replace(".modules_to_save.default", "").replace(".default", "")


def _base_of(folder: Path, base: str | Path | None) -> Path:
    named = json.loads((folder / ADAPTER).read_text("utf-8")).get("base_model_name_or_path")
    found = Path(base if base is not None else named or "")
    if not str(found) or not (found / "config.json").is_file():
        raise FileError(
            f"{folder}: an adapter on the base model {str(found)!r}, which is no folder here with a config.json. Give its folder "
            "with --base (base=)."
        )
    return found


def _own_class(transformers: Any, folder: Path) -> Any:
    named = json.loads((folder / "config.json").read_text("utf-8")).get("architectures") or [""]
    kind = getattr(transformers, named[0], None)
    if kind is None:
        raise InputError(
            f"{folder}: its config.json names the class {named[0]!r}, which transformers does not have. Give the model as "
            "module:function instead of its folder."
        )
    return kind


def _with_adapter(model: Any, folder: Path, lacking: list[str]) -> tuple[Any, list[str]]:
    """The model with the adapter trainable on it, and what neither the base nor the adapter holds."""
    with warnings.catch_warnings():  # peft asks transformers in a way that is to go
        warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
        try:
            model = _peft(folder).PeftModel.from_pretrained(model, str(folder), is_trainable=True)
        except RuntimeError as error:
            raise InputError(
                f"{folder}: does not fit its base model: {_short(error)} Where a classifier has other classes than the base, save "
                "the base once with them (num_labels) and give that."
            ) from error
    kept = {name.removeprefix("base_model.model.") for name in open_checkpoint(folder)}
    return model, [name for name in lacking if name not in kept]


def _peft(folder: Path) -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError(
            f"{folder}: an adapter needs the package peft; install previa[hf]."
        ) from error
    return peft


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:300]


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
