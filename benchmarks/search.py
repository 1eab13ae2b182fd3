"""How many evaluations find the best previewed weighting? Searches of previewed scores that are known at every weighting of a grid.

    pip install optuna botorch
    python benchmarks/search.py [--seeds 10] [--work FOLDER] [--json FILE] [--figure FILE]

The previews of `_search_surfaces.py` are made first (some minutes; MNIST's images must be in $PREVIA_DATA or ../shared/data), then each
searcher of `_searchers.py` names one weighting after another and is told its scores. What counts is the mean over tasks of the preview
itself: whether a preview is right is another question. The gap is that of the best evaluated weighting to the grid's best, in points.
Then the same for regions: the overlap (intersection over union) of the weightings that are near-best by the Gaussian process of what
was evaluated with those that are. Optuna and BoTorch are left out, and that is said, where they are not installed.

What was run is kept in the work folder and not run again, until a file that decides it changes.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import _searchers
import numpy as np
from _search_surfaces import DIGITS, MNIST, STEPS, Surface, surfaces
from _searchers import NEEDS, SEARCHERS, Searcher, at_random, lattice, modelled, ours
from numpy.typing import NDArray

from previa.study import _sobol, acquisition, search, surrogate
from previa.study.surrogate import gaussian_process

Array = NDArray[np.float64]

BUDGETS = (10, 20, 40)
REGION_BUDGETS = (20, 40)
FOUND = 1e-9  # points: a gap of rounding
NEAR = 1.0  # points from the best: near-best, or the noise floor where that is wider
LATTICE = "lattice"
FEWER = {
    ("BoTorch", 3): 3,
    ("BoTorch", 5): 2,
    ("scikit-learn's process", 3): 3,
    ("scikit-learn's process", 5): 3,
}
"""(searcher, tasks) -> seeds, where it takes long"""


def _digest(*modules: ModuleType) -> str:
    return hashlib.sha256(b"".join(Path(str(m.__file__)).read_bytes() for m in modules)).hexdigest()[:12]


def _starts() -> str:
    """The start of the searchers that have ours."""
    first = [search.start(T, search.number_to_start(T), seed=s) for T in STEPS for s in range(10)]
    return hashlib.sha256(b"".join(one.round(9).tobytes() for one in first)).hexdigest()[:12]


CODE = _digest(_searchers)  # as it is when this begins
PEERS = f"{CODE}_{_starts()}"
OURS = _digest(_searchers, search, surrogate, acquisition, _sobol)


@dataclass(frozen=True)
class Searched:
    """One seed on one surface: the gap [n] in points after each evaluation, and the seconds that each suggestion took."""

    gaps: list[float]
    seconds: list[float]


def searched(surface: Surface, searcher: Searcher, seed: int, budget: int) -> Searched:
    """Search until the budget is spent, or the best is found: after that no gap changes."""
    gap, best = surface.gap, np.inf
    gaps, seconds = [], []
    steps = searcher(surface.alphas, seed)
    began = time.perf_counter()
    try:
        row = next(steps)
        while True:
            seconds.append(time.perf_counter() - began)
            best = min(best, float(gap[row]))
            gaps.append(best)
            if len(gaps) == budget or best <= FOUND:
                break
            began = time.perf_counter()
            row = steps.send(surface.scores[row])
    except StopIteration:  # a lattice has no more points
        pass
    return Searched(gaps, seconds)


def at(gaps: Sequence[float], budget: int) -> float:
    """The gap after so many evaluations."""
    return gaps[min(budget, len(gaps)) - 1]


def near(surface: Surface) -> float:
    """How far below the best a weighting may be to count as near-best, in points."""
    return max(NEAR, 100 * surface.noise)


def overlap(surface: Surface, rows: Sequence[int]) -> float:
    """Intersection over union of the near-best weightings, known and as the process of these evaluations has them."""
    mean = gaussian_process(surface.alphas[list(rows)], surface.scores[list(rows)]).predict(surface.alphas)[0]
    value = mean.mean(axis=1)
    seen, true = 100 * (value.max() - value) <= near(surface), surface.gap <= near(surface)
    return float((seen & true).sum() / (seen | true).sum())


def regions(surface: Surface, seed: int) -> dict[str, list[float]]:
    """The overlap after each of REGION_BUDGETS evaluations, by how these were chosen."""

    def region(alphas: Array, scores: Array, candidates: Array) -> int:
        return ours(alphas, scores, candidates, goal="region", tolerance=near(surface) / 100)

    found = {}
    for name, searcher in {
        "goal region": modelled(region),
        "goal best": modelled(ours),
        "random": at_random,
    }.items():
        steps, rows = searcher(surface.alphas, seed), []
        most = min(REGION_BUDGETS[-1], len(surface.alphas))
        row = next(steps)
        while len(rows) < most:
            rows.append(row)
            if len(rows) < most:
                row = steps.send(surface.scores[row])
        found[name] = [overlap(surface, rows[:n]) for n in REGION_BUDGETS]
    return found


def kept(folder: Path, what: Sequence[object], make: Any) -> Any:
    """make() -> JSON data, made once for these names and the code that decides it."""
    digest = CODE if {"random", "Optuna's TPE"} & set(what) else PEERS if set(NEEDS) & set(what) else OURS
    name = "_".join("".join(c if c.isalnum() else "-" for c in str(part)) for part in (*what, digest))
    file = folder / f"{name}.json"
    if not file.is_file():
        found = make()
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(found))
        part.replace(file)
    return json.loads(file.read_text())


def runs(
    surface: Surface, names: Sequence[str], seeds: int, folder: Path, *, first: int = 0
) -> Iterator[tuple[str, list[list[float]], list[float]]]:
    """(searcher, the gaps of each seed [seeds][BUDGETS], seconds of suggestions)."""
    for name in names:
        gaps, seconds = [], []
        if name == LATTICE:
            found = [[at(searched(surface, lattice(b), 0, b).gaps, b) for b in BUDGETS]]
            yield name, found, []
            continue
        for seed in range(first, first + min(seeds, FEWER.get((name, surface.alphas.shape[1]), seeds))):

            def make(name: str = name, seed: int = seed) -> dict[str, list[float]]:
                return vars(searched(surface, SEARCHERS[name], seed, BUDGETS[-1]))

            one = kept(folder, (surface.study, surface.method, name, seed), make)
            gaps.append([at(one["gaps"], b) for b in BUDGETS])
            seconds += one["seconds"][search.number_to_start(surface.alphas.shape[1]) :]
        yield name, gaps, seconds


def numbers(gaps: Array, noise: Array) -> dict[str, dict[str, float]]:
    """Of searches [n, BUDGETS] on surfaces of these noise floors [n]: by budget the gaps and how often the best is found."""
    return {
        str(budget): {
            "median_gap": float(np.median(gaps[:, b])),
            "mean_gap": float(gaps[:, b].mean()),
            "worst_gap": float(gaps[:, b].max()),
            "found": float((gaps[:, b] <= FOUND).mean()),
            "within_noise": float((gaps[:, b] <= noise + FOUND).mean()),
        }
        for b, budget in enumerate(BUDGETS)
    }


def processor() -> str:
    """The processor's name, and how many of it there are."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} processors"


def present() -> tuple[list[str], list[str]]:
    """The searchers that can be run here, and those that cannot."""
    names = [LATTICE, *SEARCHERS]
    there = [name for name in names if name not in NEEDS or find_spec(NEEDS[name])]
    return there, [name for name in names if name not in there]


def measured(
    found: Sequence[Surface],
    names: Sequence[str],
    seeds: int,
    region_seeds: int,
    folder: Path,
    *,
    first: int = 0,
) -> dict[str, Any]:
    """Everything of search.json that is measured: by surface, by study, and the regions by study."""
    folder.mkdir(parents=True, exist_ok=True)
    by_surface: dict[str, Any] = {}
    gaps: dict[tuple[str, str], list[Array]] = {}
    noises: dict[tuple[str, str], list[float]] = {}
    seconds: dict[tuple[str, str], list[float]] = {}
    overlaps: dict[str, dict[str, list[list[float]]]] = {}
    for surface in found:
        points, floor = 100 * surface.scores.mean(axis=1).max(), 100 * surface.noise
        one = by_surface.setdefault(f"{surface.study}: {surface.method}", {"weightings": len(surface.alphas)})
        one |= {
            "best": points,
            "noise": floor,
            "within_noise": float((surface.gap <= floor + FOUND).mean()),
            "searchers": {},
        }
        for name, found_gaps, took in runs(surface, names, seeds, folder, first=first):
            here = np.array(found_gaps)
            one["searchers"][name] = numbers(here, np.full(len(here), floor))
            gaps.setdefault((surface.study, name), []).append(here)
            noises.setdefault((surface.study, name), []).extend([floor] * len(here))
            seconds.setdefault((surface.study, name), []).extend(took)
        for seed in range(region_seeds):
            which = (surface.study, surface.method, "regions", seed)
            for how, at_budgets in kept(folder, which, lambda s=surface, n=seed: regions(s, n)).items():
                overlaps.setdefault(surface.study, {}).setdefault(how, []).append(at_budgets)
        print(f"{surface.study}, {surface.method}: done", flush=True)
    by_study: dict[str, Any] = {}
    for (study, name), parts in gaps.items():
        took = seconds[study, name]
        by_study.setdefault(study, {})[name] = {
            **numbers(np.concatenate(parts), np.array(noises[study, name])),
            "seconds": statistics.median(took) if took else None,
            "slowest_seconds": max(took) if took else None,
            "searches": len(noises[study, name]),
        }
    region = {
        study: {
            how: dict(zip(map(str, REGION_BUDGETS), np.median(rows, axis=0).tolist(), strict=True))
            for how, rows in ways.items()
        }
        for study, ways in overlaps.items()
    }
    return {"studies": by_study, "regions": region, "surfaces": by_surface}


def printed(result: Mapping[str, Any]) -> None:
    """The table of studies, and that of regions."""
    for study, rows in result["studies"].items():
        print(
            f"\n{study:26s}"
            + "".join(f"   after {b}: median, worst, found, in noise" for b in BUDGETS)
            + "   s a suggestion"
        )
        for name, row in rows.items():
            cells = (row[str(b)] for b in BUDGETS)
            text = "".join(
                f"   {c['median_gap']:12.2f} {c['worst_gap']:7.2f} {100 * c['found']:5.0f} % {100 * c['within_noise']:5.0f} %  "
                for c in cells
            )
            print(f"{name:26s}{text} {'' if row['seconds'] is None else format(row['seconds'], '.3f')}")
    for study, ways in result["regions"].items():
        print(f"{study}: overlap of regions " + "; ".join(f"{how} {found}" for how, found in ways.items()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--first-seed", type=int, default=0, help="others than 0 to 9, on which starts were chosen"
    )
    parser.add_argument("--region-seeds", type=int, default=3)
    parser.add_argument("--studies", nargs="*", default=[*DIGITS, *MNIST])
    parser.add_argument("--searchers", nargs="*")
    parser.add_argument("--tiny", action="store_true", help="coarse grids and few steps, to see that it runs")
    parser.add_argument("--work", type=Path, default=root / "experiments-out" / "search")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    names, absent = present()
    for name in absent:
        print(f"{name}: LEFT OUT, since {NEEDS[name]} is not installed")
    names = [name for name in names if not args.searchers or name in args.searchers]
    found = surfaces(args.work, args.studies, tiny=args.tiny)
    result = measured(
        found,
        names,
        args.seeds,
        args.region_seeds,
        args.work / ("runs-tiny" if args.tiny else "runs"),
        first=args.first_seed,
    )
    printed(result)
    libraries = ("numpy", "torch", "scikit-learn", "optuna", "botorch")
    record = {
        "command": f"python benchmarks/search.py --seeds {args.seeds} --first-seed {args.first_seed} --region-seeds {args.region_seeds}",
        "device": f"{processor()}, one thread; other work was running",
        "python": sys.version.split()[0],
        **{
            name: version(name)
            for name in libraries
            if find_spec("sklearn" if name == "scikit-learn" else name)
        },
        "seeds": args.seeds,
        "first_seed": args.first_seed,
        "region_seeds": args.region_seeds,
        "start": {f"T = {T}": search.number_to_start(T) for T in STEPS},
        "seeds_where_fewer": {f"{name}, T = {T}": n for (name, T), n in FEWER.items()},
        "left_out": absent,
        **result,
    }
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if args.figure:
        from _search_figure import drawn

        drawn(result, args.figure)


if __name__ == "__main__":
    main()
