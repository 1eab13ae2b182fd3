"""Merging folders: many weightings in one pass are each as if alone, however the files are split; memory keeps its bound."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from previa.errors import FileError, InputError
from previa.io.checkpoint import open_checkpoint, save_checkpoint
from previa.io.merge_folders import Form, merge_folders
from previa.io.merging import Sources

SHAPES = {"embed.weight": (40, 8), "layer.weight": (8, 8), "layer.bias": (8,), "scale": ()}
ALPHAS = [(0.5, 0.3, 0.2), (0.0, 1.0, 0.0), (0.1, 0.2, 0.7), (0.25, 0.25, 0.5)]


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    for seed, task in enumerate(("de", "fr", "cs")):
        rng = torch.Generator().manual_seed(seed)
        (tmp_path / task).mkdir()
        params = {name: torch.randn(shape, generator=rng) for name, shape in SHAPES.items()}
        save_checkpoint(tmp_path / task / "model.safetensors", params)
        (tmp_path / task / "config.json").write_text('{"model_type": "none"}', encoding="utf-8")
    return Sources(None, {task: tmp_path / task for task in ("de", "fr", "cs")})


def test_many_weightings_in_one_pass_are_each_as_if_alone(sources: Sources, tmp_path: Path) -> None:
    together = [tmp_path / f"together{a}" for a in range(4)]
    merge_folders(sources, ALPHAS, together)
    for alpha, folder in zip(ALPHAS, together, strict=True):
        merge_folders(sources, [alpha], [tmp_path / "alone"], Form(replace=True))
        for file in ("model.safetensors", "config.json", "previa.json"):
            assert (folder / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()


@pytest.mark.parametrize("size", [1, 300, 700])
def test_shards_hold_what_one_file_holds(size: int, sources: Sources, tmp_path: Path) -> None:
    merge_folders(sources, ALPHAS[:1], [tmp_path / "one"])
    (merged,) = merge_folders(sources, ALPHAS[:1], [tmp_path / "many"], Form(shard_size=size))
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(files) == merged.files > 1
    one, many = open_checkpoint(tmp_path / "one"), open_checkpoint(tmp_path / "many")
    assert set(one) == set(many)  # an index is sorted by name
    assert all(torch.equal(one[name], many[name]) for name in SHAPES)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text("utf-8"))
    assert index["metadata"]["total_size"] == 4 * sum(torch.Size(shape).numel() for shape in SHAPES.values())


def test_a_failure_leaves_no_folder_and_what_is_there_is_not_touched(
    sources: Sources, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileError, match="not empty"):
        merge_folders(sources, ALPHAS[:2], [tmp_path / "free", tmp_path / "taken"])
    with pytest.raises(InputError, match="2 weightings and 1 folders"):
        merge_folders(sources, ALPHAS[:2], [tmp_path / "free"])
    assert not (tmp_path / "free").exists()
    assert not list(tmp_path.glob(".*"))
    assert (tmp_path / "taken" / "mine.txt").read_text("utf-8") == "mine"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_four_weightings_of_one_large_tensor_take_the_memory_of_pieces(tmp_path: Path) -> None:
    for task in ("de", "fr"):
        (tmp_path / task).mkdir()
        save_checkpoint(tmp_path / task / "model.safetensors", {"large": torch.full((8, 2**20), 2.0)})
    script = f"""
import re, sys
from pathlib import Path
import torch
from previa.io.merge_folders import merge_folders
from previa.io.merging import Sources
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
torch.ones(3) @ torch.ones(3)
before = peak()
folder = Path({str(tmp_path)!r})
sources = Sources(None, {{task: folder / task for task in ("de", "fr")}})
merge_folders(sources, [(a / 10, 1 - a / 10) for a in range(4)], [folder / f"out{{a}}" for a in range(4)])
sys.exit(min(250, (peak() - before) // 1024))
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=180)
    assert (
        0 <= done.returncode < 60
    )  # MB; the tensor is 32 MB in each of two checkpoints, and four are written
    found = open_checkpoint(tmp_path / "out3")["large"]
    assert found.shape == (8, 2**20)
    assert bool((found == 2).all())
