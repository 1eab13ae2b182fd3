"""What every experiment shares: its options, the data folder, its store, and the page of numbers and pictures at its end.

A script reads: `o = options("fig3_cifar", __doc__)`, then `data(...)`, `open_store(o, ...)`, fits, sweeps, `finish(o, ...)`.
A script with two studies gives each a name and a folder: `replace(o, name="fig9_mnist", out=o.out / "fig9")`.
"""

import argparse
import gzip
import io
import itertools
import lzma
import os
import platform
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _results
import numpy as np
from numpy.typing import NDArray

from previa.errors import StoreError
from previa.study.simplex import find, grid, uniform
from previa.study.store import Store

ROOT = Path(__file__).resolve().parent.parent
SCALES = ("tiny", "small", "paper")

# of the studies by squared gradients (ADAMW-SG): the columns of their pictures, and the paper's name for two of them
COLUMNS = (
    ("joint", "joint finetuning"),
    ("simple", "simple averaging"),
    ("squared_gradients", "squared gradients"),
    ("regmean", "RegMean"),
)
ROLES = {"simple": "simple", "hessian": "squared_gradients"}


@dataclass(frozen=True)
class Options:
    """How one study of an experiment is run.

    out: its work folder, git-ignored, where a rerun finds what is done; docs: where its numbers and pictures go;
    command: what to type to get them again.
    """

    name: str
    scale: str
    device: str
    seed: int
    out: Path
    docs: Path
    workers: int
    command: str = ""
    seeds: int = 1  # of a mean over seeds: from ``seed`` on

    @property
    def stem(self) -> str:
        """The name of its files in docs; those of the small scale and seed 0 are the ones that are committed."""
        scale = "" if self.scale == "small" else f"-{self.scale}"
        return f"{self.name}{scale}" + (f"-seed{self.seed}" if self.seed else "")


def options(
    name: str, doc: str, argv: Sequence[str] | None = None, *, seeds: Mapping[str, int] | None = None
) -> Options:
    """The options of the command line; doc: the script's own docstring, for --help. Ends the program on wrong ones.

    seeds: of a study that is a mean over seeds, how many by the scale; the script then has the option --seeds.
    """
    examples = (
        f"examples:\n  python experiments/{name}.py                                 the size of the committed results\n"
        f"  python experiments/{name}.py --scale tiny                    to see that it runs; its numbers mean nothing\n"
        f"  python experiments/{name}.py --scale paper --device cuda     the paper's own sizes"
    )
    parser = argparse.ArgumentParser(
        description=doc, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, help="work folder; a rerun goes on there (experiments-out/NAME-SCALE)"
    )
    parser.add_argument(
        "--docs",
        type=Path,
        help="where numbers and pictures go (docs/experiments for small, else the work folder)",
    )
    parser.add_argument(
        "--workers", type=int, help="processes that score (default: one a core; one on a GPU)"
    )
    if seeds is not None:
        parser.add_argument(
            "--seeds", type=int, help=f"of the mean (default: {seeds['small']}; tiny: {seeds['tiny']})"
        )
    args = parser.parse_args(argv)
    if args.device != "cpu":
        import torch

        if not torch.cuda.is_available():
            parser.error(
                f"--device {args.device}: torch sees no such device here. Leave it out to run on the CPU."
            )
    workers = args.workers or (os.cpu_count() or 1 if args.device == "cpu" else 1)
    if workers < 1:
        parser.error(f"--workers should be 1 or more. Found {args.workers}.")
    count = 1 if seeds is None else args.seeds if args.seeds is not None else seeds[args.scale]
    if count < 1:
        parser.error(f"--seeds should be 1 or more. Found {count}.")
    seed = f"-seed{args.seed}" if args.seed else ""
    out = args.out or ROOT / "experiments-out" / f"{name}-{args.scale}{seed}"
    docs = args.docs or (ROOT / "docs" / "experiments" if args.scale == "small" else out)
    command = f"python experiments/{name}.py --scale {args.scale} --seed {args.seed}"
    command += "" if args.device == "cpu" else f" --device {args.device}"
    command += "" if seeds is None else f" --seeds {count}"
    return Options(name, args.scale, args.device, args.seed, out, docs, workers, command, count)


def data(*parts: str) -> Path:
    """A file or folder of the data sets, as data("mnist"), in $PREVIA_DATA, else in shared/data beside the project.

    Where neither has it: says that the experiment is skipped and why, and ends the program with status 0.
    """
    places = [Path(os.environ["PREVIA_DATA"])] if os.environ.get("PREVIA_DATA") else []
    for place in (*places, ROOT.parent / "shared" / "data"):
        if (path := place.joinpath(*parts)).exists():
            return path
    what = f"{Path(sys.argv[0]).stem} needs {'/'.join(parts)}"
    print(f"skipped: {what}, which is neither in $PREVIA_DATA nor in ../shared/data (set PREVIA_DATA)")
    raise SystemExit(0)


def images(path: str | Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """An *.npz set of encoded images, one after the other: pixels uint8 [N, H, W, 3] and labels int64 [N]."""
    from PIL import Image

    with np.load(path) as file:
        blob, offsets, labels = file["blob"].tobytes(), file["offsets"], file["labels"]
    pixels = [
        np.asarray(Image.open(io.BytesIO(blob[a:b])).convert("RGB")) for a, b in itertools.pairwise(offsets)
    ]
    return np.stack(pixels), labels.astype(np.int64)


def idx(path: str | Path) -> NDArray[np.uint8]:
    """MNIST's format, gzipped: images uint8 [N, 28, 28] or labels uint8 [N]."""
    content = gzip.decompress(Path(path).read_bytes())
    dimensions = content[3]
    start = 4 + 4 * dimensions
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    return np.frombuffer(content[start:], np.uint8).reshape(shape)


def tsv(name: str) -> list[list[str]]:
    """The rows of a *.tsv.xz of the data folder, as tsv("sentiment/sst2_train.tsv.xz"): label, perhaps more, text."""
    with lzma.open(data(*name.split("/")), "rt", encoding="utf8") as file:
        return [line.rstrip("\n").split("\t") for line in file]


def weightings(T: int, steps: int, sizes: Sequence[float] = ()) -> NDArray[np.float64]:
    """The grid, and what every pick is held against: uniform weights and, with sizes, size-proportional ones: [A, T]."""
    counts = np.asarray(sizes, dtype=np.float64)
    beside = [uniform(T)] + ([counts / counts.sum()] if len(counts) else [])
    rows = grid(T, steps)
    for alpha in beside:
        rows = rows if find(rows, alpha) is not None else np.vstack([rows, alpha])
    return rows


def open_store(
    options: Options, tasks: Sequence[str], settings: Mapping[str, Any], convention: str = "mean"
) -> Store:
    """The study's results in its work folder; ends the program where those there were made with other settings."""
    facts = {"settings": dict(settings), "seed": options.seed, "scale": options.scale}
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        store = Store.open(
            options.out / "results.sqlite", tasks=tasks, convention=convention, fingerprint=facts,
            provenance={"name": options.name, "command": options.command, **machine(options)},
        )  # fmt: skip
    except StoreError as error:
        raise SystemExit(f"{error}\nTo begin anew, remove {options.out}.") from error
    store.put("opened", store.get("opened", 0) + 1)
    return store


def machine(options: Options) -> dict[str, object]:
    """What it ran on, without names of hosts."""
    import torch

    device = "CPU" if options.device == "cpu" else torch.cuda.get_device_name(options.device)
    return {
        "cores": os.cpu_count(),
        "arch": platform.machine(),
        "torch": torch.__version__,
        "device": device,
    }


def finish(
    options: Options,
    store: Store,
    *,
    started: float,
    title: str,
    columns: Sequence[tuple[str, str]],
    unit: str = "accuracy",
    settings: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
    sizes: Mapping[str, float] | None = None,
    roles: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Judge every method of the store by its "joint", print the table, write NAME.json, NAME.png and NAME-pareto.png; the JSON.

    started: time.perf_counter() at the beginning; columns: (method, label) of the picture, ("joint", ...) first; sizes:
    training examples of each task, for size-proportional weights (settings["sizes"], else all the same); roles: which method
    stands in the paper's columns "simple", "hessian" and "mixture" (by default by their names, see `_results.roles`);
    extra: more JSON facts.
    """
    store.add_seconds("run", time.perf_counter() - started)
    store.put("finished", store.get("finished", 0) + 1)
    sizes = dict(sizes or settings.get("sizes") or {})
    kept = {"columns": list(columns), "sizes": sizes, "roles": roles, "title": title, "unit": unit}
    store.put("finish", kept)  # for tables that are made from the store
    judged = _results.judge(store, columns, sizes=sizes, roles=roles)
    facts = {
        "name": options.name,
        "title": title,
        "command": options.command,
        "scale": options.scale,
        "seed": options.seed,
        "machine": machine(options),
        "seconds": store.seconds()["run"],
        "runs_cut_off": store.get("opened", 1) - store.get("finished"),
        "unit": unit,
        "settings": dict(settings),
        **judged,
        "extra": dict(extra or {}),
    }
    _results.write_json(options.docs / f"{options.stem}.json", facts)
    _results.draw(store, columns, options.docs, options.stem, title=title, unit=unit)
    _results.show(facts, dict(columns).get(_results.TRUTH, "joint finetuning"))
    return facts
