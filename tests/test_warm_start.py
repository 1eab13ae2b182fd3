"""The experiment on warm starts runs at its tiniest, and its committed numbers are those of the docs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "docs" / "experiments" / "warm_start.json"


@pytest.mark.slow
def test_it_runs_end_to_end_at_the_tiny_scale(tmp_path):
    made = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "warm_start.py"), "--scale", "tiny", "--out", str(tmp_path), "--docs", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, timeout=300, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    if skipped := re.search("^skipped: .*", made.stdout, re.M):
        pytest.skip(skipped[0])
    facts = json.loads((tmp_path / "warm_start-tiny.json").read_text())
    for curves in facts["curves"].values():
        assert (
            [one["step"] for one in curves["cold"]]
            == [one["step"] for one in curves["warm"]]
            == [0, 2, 4, 6, 8]
        )


def test_it_says_so_where_there_is_no_encoder_or_no_such_scale(tmp_path):
    for scale, status, message in (
        ("small", 0, "skipped:"),
        ("paper", 1, "the paper has no such experiment"),
    ):
        made = subprocess.run(
            [sys.executable, str(ROOT / "experiments" / "warm_start.py"), "--scale", scale, "--docs", str(tmp_path)],
            capture_output=True, text=True, cwd=ROOT, timeout=300, check=False, env={"PREVIA_MINILM": str(tmp_path), "PATH": "", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        assert made.returncode == status
        assert message in made.stdout + made.stderr
    assert not list(tmp_path.iterdir())


def test_the_docs_say_what_the_committed_numbers_say():
    facts = json.loads(COMMITTED.read_text())
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for seed, rows in facts["levels"].items():
        for row in rows:
            assert row["saved"] is None or row["saved"] == row["cold"] - row["warm"]
        last = rows[-1]
        warm = "not reached" if last["warm"] is None else last["warm"]
        assert f"| {seed} | {last['loss']:.3f} | {last['cold']} | {warm} |" in page
