"""Rows from the Hugging Face hub, or from a folder that `datasets` saved, through that package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from previa.data.files import READERS, Rows
from previa.errors import FileError, InputError, MissingExtraError

LOCAL = (
    f"A local file does without: give one that ends in {', '.join(READERS)}, a folder that datasets.save_to_disk wrote, or "
    "module:function"
)


def hub_rows(name: str, *, config: str | None = None, split: str = "train") -> Rows:
    """The rows of a data set on the hub, by ``datasets``; kept on disk, read when asked for.

    name: "owner/set", with the set's configuration where it has several. split: as datasets writes it, such as "train" or
    "train[:1000]". Data sets that need code of their own are not run.
    Raises MissingExtraError without datasets; FileError where the hub cannot be reached or has no such set, naming the local
    alternative; InputError for an unknown configuration or split, naming those there are.
    """
    datasets = _datasets(name)
    try:
        return datasets.load_dataset(name, config, split=split)  # type: ignore[no-any-return]
    except ConnectionError as error:
        raise FileError(
            f"{name}: the Hugging Face hub cannot be reached, and the set is not in its cache here. {LOCAL}."
        ) from error
    except FileNotFoundError as error:
        raise FileError(
            f"{name}: neither a file here nor a data set on the Hugging Face hub that may be read. Check the name. {LOCAL}."
        ) from error
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{name}, split {split!r}: {_first(error)} {LOCAL}.") from error


def saved_rows(folder: str | Path, *, split: str = "train") -> Rows:
    """The rows of a folder that datasets.save_to_disk wrote, of one set or of several splits.

    Raises MissingExtraError, FileError where it is no such folder, InputError where it has no such split.
    """
    datasets = _datasets(str(folder))
    try:
        found = datasets.load_from_disk(str(folder))
    except (FileNotFoundError, ValueError, OSError) as error:
        raise FileError(
            f"{folder}: a folder without a data set of datasets.save_to_disk in it. Give a file of rows "
            f"({', '.join(READERS)}), or module:function."
        ) from error
    if not isinstance(found, datasets.DatasetDict):
        return found  # type: ignore[no-any-return]
    if split not in found:
        raise InputError(f"{folder}: no split {split!r}; it has {', '.join(found)}.")
    return found[split]  # type: ignore[no-any-return]


def _datasets(name: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            f"{name}: data sets of the Hugging Face hub need the package datasets; install previa[data]. {LOCAL}."
        ) from error
    return datasets


def _first(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{text.rstrip('.')}."
