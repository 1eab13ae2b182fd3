"""`previa merge` of three folders of 300 MB into one, as a whole process, beside mergekit's command for the same merge.

    pip install --no-deps --target DIR mergekit==0.1.5 immutables
    python benchmarks/merge_folders.py --peers DIR [--rounds 5] [--layers 9] [--work FOLDER] [--json FILE]

Three Llamas of 76 M parameters in float32 with random weights, as save_pretrained writes them, are made in --work first and left
there; the files lie in the system's cache, so that reading them is a copy.

Counted first: 912 MB are read and 304 MB written, and 7 operations an entry are made in cache. `floor` is a process that reads the
three files, a megabyte at a time, and writes and syncs 304 MB: what no merge can do without. Ten weightings write ten times as much.
`import torch` is a process that does that and nothing else; both commands do it first.

Processes take turns, round by round, first one that is not counted. Wall and processor seconds (user and system) and peak resident
memory are those that the system gives when a process ends; medians, and medians of ratios. Nothing is set in their environment but
HF_HUB_OFFLINE, so both use as many threads as they like. mergekit runs with the best of the options tried (--options tries them all).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path

TASKS = ("de", "fr", "cs")
ALPHA = (0.4, 0.35, 0.25)
TEN = [(a / 20, 0.6 - a / 40, 0.4 - a / 40) for a in range(2, 12)]
OPTIONS = (
    ["-j", "1"],
    [],
    ["--lazy-unpickle"],
    ["--low-cpu-memory"],
    ["--async-write", "-j", "1"],
    ["--async-write", "--write-threads", "2"],
)
FLOOR = """
import os, sys
*inputs, out = sys.argv[1:]
buffer = bytearray(2**20)
size = 0
for path in inputs:
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            size += count
with open(out, "wb", buffering=0) as file:
    for _ in range(size // len(inputs) // len(buffer)):
        file.write(buffer)
    os.fsync(file.fileno())
"""


def make(work: Path, layers: int) -> None:
    """The three folders, where they are not there yet."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 12}
    config = LlamaConfig(vocab_size=16000, num_hidden_layers=layers, tie_word_embeddings=True, **shape)
    for seed, task in enumerate(TASKS):
        if not (work / task / "config.json").is_file():
            torch.manual_seed(seed)
            LlamaForCausalLM(config).save_pretrained(work / task)


@dataclass(frozen=True)
class Way:
    """A command, where mergekit is for it, and what it writes."""

    command: list[str]
    peers: Path | None = None
    out: Path | None = None

    def run(self) -> dict[str, float]:
        """Wall and processor seconds and peak memory. Raises RuntimeError with the process's output where it fails."""
        if self.out is not None:
            shutil.rmtree(self.out, ignore_errors=True)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        if self.peers is not None:
            environment["PYTHONPATH"] = str(self.peers)
        with tempfile.TemporaryFile() as output:
            start = time.perf_counter()
            process = subprocess.Popen(self.command, stdout=output, stderr=output, env=environment)
            _, status, used = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            if process.returncode:
                raise RuntimeError(f"{self.command}: {output.read().decode()[-2000:]}")
        return {"wall_s": wall, "cpu_s": used.ru_utime + used.ru_stime, "peak_MB": used.ru_maxrss / 1024}


def previa(work: Path, rows: Sequence[tuple[float, ...]], out: Path) -> Way:
    tasks = [text for task in TASKS for text in ("--task", f"{task}={work / task}")]
    alphas = [text for row in rows for text in ("--alpha", ",".join(f"{w:.6g}" for w in row))]
    command = str(Path(sys.executable).with_name("previa"))
    return Way([command, "merge", *tasks, *alphas, "--out", str(out)], out=out)


def mergekit(work: Path, peers: Path, options: Sequence[str]) -> Way:
    models = "".join(
        f"  - {{model: {work / task}, parameters: {{weight: {w}}}}}\n"
        for task, w in zip(TASKS, ALPHA, strict=True)
    )
    config, out = work / "linear.yml", work / "mergekit"
    config.write_text(f"merge_method: linear\ndtype: float32\nmodels:\n{models}", encoding="utf-8")
    start = "from mergekit.scripts.run_yaml import main; main()"  # what the script mergekit-yaml does
    command = [sys.executable, "-c", start, str(config), str(out), "--no-copy-tokenizer", *options]
    return Way(command, peers, out)


def off(work: Path, found: Path) -> dict[str, float]:
    """The share of entries that are not the exact ones rounded once, and the largest error of a tensor's largest entry.

    Weights such as 0.35 put some averages on the very middle between two numbers, where either is right.
    """
    from safetensors.torch import load_file

    models = [load_file(work / task / "model.safetensors") for task in TASKS]
    wrong, total, error = 0, 0, 0.0
    for name, tensor in load_file(found / "model.safetensors").items():
        exact = sum(w * model[name].double() for w, model in zip(ALPHA, models, strict=True))
        errors = (tensor - exact).abs()
        wrong += int((errors > (1 + 1e-6) * (exact.float() - exact).abs()).sum())  # type: ignore[union-attr]
        total += tensor.numel()
        error = max(error, float(errors.max() / exact.abs().max()))  # type: ignore[union-attr]
    return {"off": wrong / total, "error": error}


def processor() -> str:
    """The processor's name, and how many of it there are."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in info if line.startswith("model name")]
    return f"{names[0] if names else 'unknown'}, {os.cpu_count()} processors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peers", type=Path, help="where mergekit is; without it previa is measured alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=9, help="9 make 300 MB")
    parser.add_argument("--options", action="store_true")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    # a process begins with the memory of the one that starts it, as the system counts, so torch is imported elsewhere
    with (
        tempfile.TemporaryDirectory() as temporary,
        multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as elsewhere,
    ):
        work = (args.work or Path(temporary)).resolve()
        elsewhere.apply(make, (work, args.layers))
        size = (work / TASKS[0] / "model.safetensors").stat().st_size
        inputs = [str(work / task / "model.safetensors") for task in TASKS]
        ways = {
            "floor": Way([sys.executable, "-c", FLOOR, *inputs, str(work / "floor")]),
            "import torch": Way([sys.executable, "-c", "import torch"]),
            "previa": previa(work, [ALPHA], work / "previa"),
            "previa, ten": previa(work, TEN, work / "ten"),
        }
        if args.peers is not None:
            for options in OPTIONS if args.options else OPTIONS[:1]:
                ways[" ".join(["mergekit", *options])] = mergekit(work, args.peers, options)
            ways["mergekit's imports"] = Way(
                [sys.executable, "-c", "import mergekit.scripts.run_yaml"], args.peers
            )
        times: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for number in range(args.rounds + 1):
            for name, way in ways.items():
                found = way.run()
                if number:
                    times[name].append(found)
        merged = {name: way.out for name, way in ways.items() if way.out and name != "previa, ten"}
        wrong = {name: elsewhere.apply(off, (work, out)) for name, out in merged.items()}
    result = {}
    print(
        f"three folders of {size / 1e6:.0f} MB, {args.rounds} rounds; ratios are to previa at one weighting"
    )
    for name, rounds in times.items():
        row = {kind: statistics.median(one[kind] for one in rounds) for kind in rounds[0]}
        pairs = list(zip(rounds, times["previa"], strict=True))
        ratios = {kind: statistics.median(one[kind] / own[kind] for one, own in pairs) for kind in rounds[0]}
        result[name] = {**row, "ratios": ratios, **wrong.get(name, {})}
        print(
            f"{name:32s} wall {row['wall_s']:6.2f} s {ratios['wall_s']:5.2f}x   processor {row['cpu_s']:6.2f} s "
            f"{ratios['cpu_s']:5.2f}x   peak {row['peak_MB']:6.0f} MB {ratios['peak_MB']:5.2f}x"
        )
    for name, found in wrong.items():
        print(f"{name}: {100 * found['off']:.4f} % of entries off, by {found['error']:.1e} at most")
    if args.json:
        versions = (
            {one.name: one.version for one in distributions(path=[str(args.peers)])} if args.peers else {}
        )
        record = {
            "command": f"python benchmarks/merge_folders.py --peers DIR --rounds {args.rounds} --layers {args.layers}",
            "device": processor(),
            "torch": version("torch"),
            "mergekit": versions.get("mergekit"),
            "bytes_of_a_model": size,
            "ways": result,
        }
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
