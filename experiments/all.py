"""Every experiment one after the other, then the tables; at the end, what ran, what was skipped, what failed.

Run: python experiments/all.py [NAME ...] [--scale tiny|small|paper] [--device cuda] [--seed 0] [--docs FOLDER]
A rerun does only what is missing, and judges and draws again what is there: the work folders are experiments-out/NAME-SCALE.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from _shared import ROOT, SCALES

HERE = Path(__file__).resolve().parent
TABLES = ("table1", "table2", "table3", "fronts")


def main() -> int:
    """0 where nothing failed: what is skipped for want of data is no failure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scripts = (*sorted(HERE.glob("fig*.py")), *sorted(HERE.glob("digits_*.py")))
    known = [script.stem for script in scripts]
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"some of them (default: all): {', '.join(known)}"
    )
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--docs",
        type=Path,
        help="where results and tables go (docs/experiments; tiny, or another seed: experiments-out/docs-SCALE-seedSEED)",
    )
    args = parser.parse_args()
    if unknown := set(args.names) - set(known):
        parser.error(f"there is no experiment {', '.join(sorted(unknown))}. There are {', '.join(known)}.")
    docs = args.docs or results(args.scale, args.seed)
    docs.mkdir(parents=True, exist_ok=True)
    found = {}
    common = ["--scale", args.scale, "--device", args.device, "--seed", str(args.seed), "--docs", str(docs)]
    for script in scripts:
        if not args.names or script.stem in args.names:
            found[script.stem] = run(script, common)
    for table in TABLES:
        found[table] = run(HERE / f"{table}.py", ["--docs", str(docs)])
    print(f"\n{'=' * 72}\nAll experiments, scale {args.scale}; numbers and pictures are in {docs}\n")
    for name, (outcome, seconds) in found.items():
        print(f"{name:24s} {seconds:7.0f} s   {outcome}")
    return int(any(outcome.startswith("FAILED") for outcome, _ in found.values()))


def results(scale: str, seed: int) -> Path:
    """Where numbers, pictures and tables go: those that are committed are of seed 0, and no tiny ones are among them."""
    if scale == "tiny" or seed:
        return ROOT / "experiments-out" / (f"docs-{scale}" + (f"-seed{seed}" if seed else ""))
    return ROOT / "docs" / "experiments"


def run(script: Path, arguments: Sequence[str]) -> tuple[str, float]:
    """Run a script and pass on what it prints; "ran", "skipped: ..." with its reason, or "FAILED ...", and seconds."""
    print(f"\n== {script.stem}", flush=True)
    started, outcome = time.perf_counter(), "ran"
    with subprocess.Popen(
        [sys.executable, str(script), *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            outcome = line.strip() if line.startswith("skipped:") else outcome
    if process.returncode:
        outcome = f"FAILED with status {process.returncode}: see its output above"
    return outcome, time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
