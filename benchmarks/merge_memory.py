"""Simple averages of three models that lie in memory, beside mergekit's merge_state_dicts and FusionBench's simple average.

    pip install --no-deps --target DIR mergekit==0.1.5 immutables fusion_bench==0.2.33
    OMP_NUM_THREADS=1 python benchmarks/merge_memory.py --peers DIR [--rounds 7] [--json FILE]

76 M parameters in float32, and 150 M in bfloat16, in matrices of a transformer of width 768.

Counted first, bytes of main memory for one weighting of n parameters. float32: three means are read and one model is written,
16 n; a written line is read first, so 20 n = 1.5 GB. bfloat16: previa holds means in float32 (12 n), and writes 4 n: 2.4 GB. Ten
weightings in one pass read the means once: 9 n and 5 n a weighting. `copy` is one model copied onto another in its own dtype,
12 n and 6 n with the line that is read: what loading a checkpoint that lies in memory takes.
Operations: a running mean is two passes over a piece in cache; in bfloat16 they are in float64, with three conversions before
(shared by all weightings) and one after.

`mergekit` is merge_state_dicts with its defaults; `mergekit, float32` the fastest arguments found (dtype=float32,
out_dtype=the models', no normalisation). `FusionBench` is state_dict_avg, which simple_average calls, from its own file: importing
the package needs hydra and lightning. It has equal weights only and sums in the models' dtype.
The peers return fresh tensors. previa writes over the ones that are there, as a sweep of previews does, and holds its posteriors
from before: making them is timed alone. `previa, fresh` is previa.modes, with memory of its own.
All ways take turns, round by round. CPU seconds (time.process_time) and wall; medians. `off` is the share of entries that differ
from sums in float64, rounded once.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import statistics
import sys
import time
import types
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

import previa
from previa.core.into import modes_into

ALPHA = (0.4, 0.35, 0.25)
TEN = [ALPHA] * 10
WIDTH = 768
StateDict = dict[str, torch.Tensor]


def state_dict(P: float, dtype: torch.dtype, seed: int) -> StateDict:
    """P random parameters in the matrices of transformer layers."""
    draw, found, n = torch.Generator().manual_seed(seed), {}, 0
    while n < P:
        for rows, columns in ((1, 1), (1, 1), (1, 1), (1, 1), (4, 1), (1, 4)):
            tensor = torch.randn(rows * WIDTH, columns * WIDTH, generator=draw)
            found[f"{len(found)}.weight"] = tensor.to(dtype)
            n += tensor.numel()
    return found


def peers(folder: Path) -> tuple[Callable[..., StateDict], Callable[..., StateDict], dict[str, str]]:
    """merge_state_dicts, state_dict_avg, and their versions."""
    sys.path.append(str(folder))
    for name in (
        "fusion_bench",
        "fusion_bench.utils",
    ):  # without their __init__, which import what is not needed
        module = types.ModuleType(name)
        module.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = module
    average = importlib.import_module("fusion_bench.utils.state_dict_arithmetic").state_dict_avg
    merge = importlib.import_module("mergekit.merge_methods").merge_state_dicts
    found = {one.name.replace("-", "_"): one.version for one in distributions(path=[str(folder)])}
    return merge, average, {name: found[name] for name in ("mergekit", "fusion_bench")}


def off(found: StateDict, models: list[StateDict], weights: tuple[float, ...]) -> float:
    """The share of entries that are not the exact ones, rounded once."""
    wrong = total = 0
    for name, tensor in found.items():
        exact = sum(w * model[name].double() for w, model in zip(weights, models, strict=True))
        wrong += int((tensor != exact.to(tensor.dtype)).sum())  # type: ignore[union-attr]
        total += tensor.numel()
    return wrong / total


def measure(P: float, dtype: torch.dtype, rounds: int, folder: Path | None) -> dict[str, Any]:
    models = [state_dict(P, dtype, seed) for seed in range(3)]
    start = time.process_time()
    posteriors = [previa.Isotropic(model) for model in models]
    made = time.process_time() - start
    outs = [{name: torch.zeros_like(tensor) for name, tensor in models[0].items()} for _ in TEN]

    def copy() -> StateDict:
        for name, tensor in models[0].items():
            outs[0][name].copy_(tensor)
        return outs[0]

    def one() -> StateDict:
        modes_into(outs[:1], [ALPHA], posteriors)
        return outs[0]

    def ten() -> StateDict:
        modes_into(outs, TEN, posteriors)
        return outs[9]

    ways: dict[str, tuple[Callable[[], Any], int]] = {
        "copy": (copy, 1),
        "previa, one weighting": (one, 1),
        "previa, ten in one pass": (ten, 10),
        "previa, fresh": (lambda: previa.modes([ALPHA], posteriors), 1),
    }
    if folder is not None:
        merge, average, _ = peers(folder)
        given = {"weight": list(ALPHA)}
        plain = {"dtype": torch.float32, "out_dtype": dtype, "parameters": {**given, "normalize": False}}
        ways["mergekit"] = (lambda: merge(models, "linear", parameters=given), 1)
        ways["mergekit, float32"] = (lambda: merge(models, "linear", **plain), 1)
        ways["FusionBench"] = (lambda: average(models), 1)
    wrong = {}
    for name, (way, _) in ways.items():
        found = way()
        if isinstance(found, dict) and name != "copy":
            wrong[name] = off(found, models, (1 / 3,) * 3 if name == "FusionBench" else ALPHA)
        del found
        gc.collect()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (way, weightings) in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            found = way()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            times[name].append((spent[0] / weightings, spent[1] / weightings))
            del found
    size = sum(tensor.numel() for tensor in models[0].values())
    result: dict[str, Any] = {
        "parameters": size,
        "dtype": str(dtype),
        "posteriors_made_cpu_s": made,
        "ways": {},
    }
    for name, values in times.items():
        wall, cpu = (statistics.median(kind) for kind in zip(*values, strict=True))
        result["ways"][name] = {"cpu_s": cpu, "wall_s": wall, "off": wrong.get(name)}
        for own in ("previa, one weighting", "previa, ten in one pass"):
            pairs = zip(values, times[own], strict=True)
            result["ways"][name][f"cpu over {own}"] = statistics.median(a[1] / b[1] for a, b in pairs)
    return result


def processor() -> str:
    """The processor's name, and how many of it there are."""
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
    ]
    return f"{names[0] if names else 'unknown'}, {os.cpu_count()} processors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    threads = torch.get_num_threads()
    results = [
        measure(P, dtype, args.rounds, args.peers)
        for P, dtype in ((76e6, torch.float32), (150e6, torch.bfloat16))
    ]
    for result in results:
        print(
            f"\n{result['parameters'] / 1e6:.0f} M parameters, {result['dtype']}, threads: {threads}; making three",
            end=" ",
        )
        print(f"posteriors: {result['posteriors_made_cpu_s']:.2f} s, once")
        print(
            f"{'a weighting':26s} {'CPU s':>7s} {'wall s':>7s} {'off':>9s}   of one weighting   of ten in one pass"
        )
        for name, way in result["ways"].items():
            share = "" if way["off"] is None else f"{100 * way['off']:.4f} %"
            ratios = [way[f"cpu over previa, {own}"] for own in ("one weighting", "ten in one pass")]
            print(
                f"{name:26s} {way['cpu_s']:7.3f} {way['wall_s']:7.3f} {share:>9s} {ratios[0]:14.2f}x {ratios[1]:18.2f}x"
            )
    if args.json:
        record = {
            "command": f"python benchmarks/merge_memory.py --peers DIR --rounds {args.rounds}",
            "device": processor(),
            "threads": threads,
            "torch": torch.__version__,
            "peers": {} if args.peers is None else peers(args.peers)[2],
            "results": results,
        }
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
