"""What the two studies of the digits share: their sizes, one study a seed, and the JSON of each seed's numbers and their mean.

They are the small scale's at --scale paper too, since the paper has no digits, and run on the CPU whatever --device says.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import torch
from _results import write_json
from _shared import Options

from previa.study.file import Study, read_study

SEEDS = {"tiny": 1, "small": 8, "paper": 8}
Quality = dict[str, dict[str, float | None]]
"""name of the method -> its numbers"""


@dataclass(frozen=True)
class OverSeeds:
    """Each seed's numbers, in the order of the seeds, and their mean over seeds; a number that there is none of counts 0."""

    mean: dict[str, dict[str, float]]
    seeds: list[Quality]


def study_of(scale: str) -> Study:
    """The demo's study as the package has it, at every scale but tiny: there is no size of the paper's."""
    with resources.as_file(resources.files("previa.data") / "digits.toml") as file:
        study = read_study(file)
    if scale != "tiny":
        return study
    assert study.pretrain is not None
    return replace(
        study,
        pretrain=replace(study.pretrain, steps=20),
        finetune=replace(study.finetune, steps=20),
        adamw=replace(study.adamw, steps=20),
        mixture=replace(study.mixture, seeds=2, snapshots=2),
        preview=replace(study.preview, steps=4),
        truth=replace(study.truth, steps=2),
    )


def over_seeds(o: Options, one_seed: Callable[[Study], tuple[Quality, Mapping[str, Any]]]) -> OverSeeds:
    """Run one_seed on the study of every seed, write NAME.json, and return what is in it.

    one_seed: study -> (the quality of every method, more facts of this seed, which are listed under their names).
    A seed that the work folder has is gone through again: what it trained is not trained again.
    """
    torch.set_num_threads(1)  # pretraining amplifies rounding: numbers would depend on the number of cores
    started = time.perf_counter()
    seeds: list[Quality] = []
    more: dict[str, list[Any]] = {}
    for seed in range(o.seed, o.seed + o.seeds):
        quality, facts = one_seed(replace(study_of(o.scale), seed=seed, out=o.out / str(seed)))
        seeds.append(quality)
        for name, value in facts.items():
            more.setdefault(name, []).append(value)
        print(f"seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
    mean = {
        name: {key: statistics.mean(seed[name][key] or 0.0 for seed in seeds) for key in seeds[0][name]}
        for name in seeds[0]
    }
    facts = {
        "command": o.command,
        "scale": o.scale,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "seconds": round(time.perf_counter() - started),
        "mean": mean,
        "seeds": seeds,
        **more,
    }
    write_json(o.docs / f"{o.stem}.json", facts)
    return OverSeeds(mean, seeds)
