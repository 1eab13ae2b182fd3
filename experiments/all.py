"""Every experiment one after the other, then the tables; at the end, what ran, what was skipped, what failed.

Run: python experiments/all.py [--scale tiny|small|paper] [--device cuda] [--seed 0] [--docs FOLDER]
A rerun does only what is missing: the work folders are experiments-out/NAME-SCALE.
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
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--docs", type=Path, help="where results go (docs/experiments; tiny: experiments-out/docs-tiny)"
    )
    args = parser.parse_args()
    tiny = args.scale == "tiny"
    docs = args.docs or ROOT / ("experiments-out/docs-tiny" if tiny else "docs/experiments")
    docs.mkdir(parents=True, exist_ok=True)
    found = {}
    common = ["--scale", args.scale, "--device", args.device, "--seed", str(args.seed), "--docs", str(docs)]
    for script in (*sorted(HERE.glob("fig*.py")), *sorted(HERE.glob("digits_*.py"))):
        found[script.stem] = run(script, common)
    for table in TABLES:
        found[table] = run(HERE / f"{table}.py", ["--docs", str(docs)])
    print(f"\n{'=' * 72}\nAll experiments, scale {args.scale}; numbers and pictures are in {docs}\n")
    for name, (outcome, seconds) in found.items():
        print(f"{name:24s} {seconds:7.0f} s   {outcome}")
    return int(any(outcome.startswith("FAILED") for outcome, _ in found.values()))


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
