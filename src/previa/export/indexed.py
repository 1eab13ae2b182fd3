"""Megatron's indexed data sets (.bin and .idx): their documents and tokens, from the header of the index."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from previa.errors import FileError
from previa.export.counting import Size

_MAGIC = b"MMIDIDX\x00\x00"
_LENGTHS_AT = 34  # 9 of the magic, 8 version, 1 type, 8 sequences, 8 documents


def index_of(prefix: str | Path) -> Path:
    """The index file of a prefix, as /data/de_text_document of /data/de_text_document.bin and .idx."""
    return Path(f"{prefix}.idx")


def size_of_index(prefix: str | Path) -> Size:
    """Documents and their mean length in tokens, all of them supervised.

    The format: megatron/core/datasets/indexed_dataset.py of NVIDIA/Megatron-LM, d98e8a6. Raises FileError.
    """
    file = index_of(prefix)
    try:
        with file.open("rb") as stream:
            head = stream.read(_LENGTHS_AT)
            version, sequences, bounds = (
                int.from_bytes(head[a:b], "little") for a, b in ((9, 17), (18, 26), (26, 34))
            )
            if head[:9] != _MAGIC or version != 1 or sequences < 1 or bounds < 2:
                raise FileError(
                    f"{file}: this is no index of a Megatron data set with any documents in it. It should be made by "
                    "Megatron-LM's tools/preprocess_data.py."
                )
            if file.stat().st_size < _LENGTHS_AT + 12 * sequences + 8 * bounds:
                raise FileError(f"{file}: this index is cut off. Make it, or copy it, again.")
            lengths = np.memmap(file, np.dtype("<i4"), "r", _LENGTHS_AT, (sequences,))
            tokens = int(lengths.sum(dtype=np.int64))
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{file}: this index cannot be read: {error.strerror}.") from error
    if not tokens:
        raise FileError(f"{file}: all its documents are empty.")
    return Size(bounds - 1, tokens / (bounds - 1), (), "tokens of the index")
