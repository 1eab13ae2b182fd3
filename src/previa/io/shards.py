"""A model's tensors split over files, as transformers splits them: in order, each file up to a size."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from previa.io._safetensors import Specs

SHARD_SIZE = 5_000_000_000  # bytes


@final
@dataclass(frozen=True)
class Shard:
    """A file, and the dtypes and shapes of the tensors in it."""

    file: str
    specs: Specs


def bytes_of(specs: Specs) -> int:
    """What the tensors take."""
    return sum(math.prod(shape) * dtype.itemsize for dtype, shape in specs.values())


def shards_of(specs: Specs, size: int = SHARD_SIZE) -> tuple[Shard, ...]:
    """model.safetensors, or model-00001-of-00003.safetensors and so on, of ``size`` bytes each; a larger tensor has its own."""
    groups: list[dict[str, tuple[object, tuple[int, ...]]]] = []
    filled = math.inf
    for name, spec in specs.items():
        width = bytes_of({name: spec})
        if filled + width > size:
            groups.append({})
            filled = 0
        groups[-1][name] = spec
        filled += width
    files = [
        f"model-{number:05d}-of-{len(groups):05d}.safetensors" if len(groups) > 1 else "model.safetensors"
        for number in range(1, len(groups) + 1)
    ]
    return tuple(
        Shard(file, {name: specs[name] for name in group}) for file, group in zip(files, groups, strict=True)
    )


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """model.safetensors.index.json, where there is more than one file."""
    if len(shards) == 1:
        return
    every: Mapping[str, Specs] = {shard.file: shard.specs for shard in shards}
    index = {
        "metadata": {
            "total_parameters": sum(
                math.prod(shape) for specs in every.values() for _, shape in specs.values()
            ),
            "total_size": sum(bytes_of(specs) for specs in every.values()),
        },
        "weight_map": {name: file for file, specs in every.items() for name in specs},
    }
    (folder / "model.safetensors.index.json").write_text(
        json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8"
    )
