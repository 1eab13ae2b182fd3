"""The walk-through, as a reader would do it: every command of its page in one shell, in a copy of the example."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from previa.study.store import Store

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "walk-through.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "sentiment"
TASKS = ("films", "food", "phones")


def blocks(language: str) -> dict[str, str]:
    """Heading's number -> its block of that language."""
    found = {}
    for section in PAGE.split("\n## ")[1:]:
        for block in re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL):
            assert section[0] not in found, f"two blocks in step {section[0]}"
            found[section[0]] = block
    return found


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> Path:
    """The folder after all steps of the page, each of which wrote what it printed to step-N.log."""
    folder = tmp_path_factory.mktemp("walk") / "sentiment"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    script = "set -euo pipefail\n" + "".join(
        f"{{\n{block}}} >step-{step}.log\n" + ("cp study.toml before.toml\n" if step == "7" else "")
        for step, block in blocks("console").items()
    )
    own = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    made = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, env={**os.environ, **own, "PATH": places}
    )  # fmt: skip
    logs = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("step-*.log")))
    assert made.returncode == 0, logs + made.stderr[-4000:]
    return folder


def said(folder: Path, step: int) -> str:
    return (folder / f"step-{step}.log").read_text(encoding="utf-8")


def alpha_of(folder: Path) -> list[float]:
    return [float(weight) for weight in said(folder, 4).splitlines()[0].split(",")]


def accuracy(folder: Path, path: str, task: str) -> float:
    """By a loop over rows, with transformers alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder / path).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / path)
    rows = [json.loads(line) for line in (folder / f"rows/{task}-test.jsonl").read_text().splitlines()]
    with torch.inference_mode():
        right = [
            int(model(**tokenizer(row["text"], return_tensors="pt")).logits.argmax()) == row["label"]
            for row in rows
        ]
    return float(np.mean(right))


def test_every_step_but_the_study_file_has_commands():
    assert list(blocks("console")) == ["1", "3", "4", "5", "6", "7", "8"]


def test_the_study_file_on_the_page_is_the_beginning_of_the_example():
    shown, whole = tomllib.loads(blocks("toml")["2"]), tomllib.loads((EXAMPLE / "study.toml").read_text())
    assert shown["study"] == whole["study"]
    assert shown["transformers"] == whole["transformers"]
    assert shown["task"] == whole["task"][:1]


def test_a_plain_trainer_leaves_three_folders_that_know_their_own_task_best(walked):
    printed = [json.loads(line) for line in said(walked, 5).splitlines()[-4:-1]]
    assert [found["folder"] for found in printed] == list(TASKS)
    for task in TASKS:
        assert max(printed, key=lambda found, task=task: found[task])["folder"] == task, printed
    assert accuracy(walked, "food", "phones") == pytest.approx(printed[1]["phones"], abs=1e-6)


def test_the_study_gives_a_report_that_names_the_tasks_and_says_what_the_page_shows(walked):
    report = (walked / "sentiment-out" / "report.html").read_text(encoding="utf-8")
    assert all(task in report for task in TASKS)
    first = blocks("text")["3"].splitlines()[0]
    assert said(walked, 3).splitlines()[0] == first
    assert "Open the report:" in said(walked, 3)


def test_the_merged_folder_scores_as_the_store_has_it_at_the_recommended_weighting(walked):
    alpha = alpha_of(walked)
    with Store.read(walked / "sentiment-out" / "study.db") as store:
        found = store.preview("warped")
        chosen = store.get("powers")["warped"]["chosen"]
    assert chosen["method"] == "simple"  # as the page has it
    assert float(said(walked, 4).splitlines()[1]) == chosen["p"]
    row = int(np.argmin(np.abs(found.alphas - alpha).sum(1)))
    np.testing.assert_allclose(found.alphas[row], alpha, atol=1e-12)
    expected = dict(zip(TASKS, found.scores[row], strict=True))
    for task in TASKS:
        assert accuracy(walked, "merged", task) == pytest.approx(expected[task], abs=1e-6)
    printed = json.loads(said(walked, 5).splitlines()[-1])
    assert printed == {"folder": "merged"} | {task: pytest.approx(expected[task], abs=1e-6) for task in TASKS}


def test_the_export_locks_the_recommended_weighting(walked):
    lock = json.loads((walked / "export-datasets" / "datasets.lock.json").read_text())
    assert lock["alpha"] == pytest.approx(dict(zip(TASKS, alpha_of(walked), strict=True)))
    assert [task["share"] for task in lock["tasks"]] == pytest.approx(alpha_of(walked))
    assert (walked / "export-datasets" / "mixture.py").is_file()


def test_the_joint_run_s_folder_loads_and_was_trained_from_the_merged_one(walked):
    merged, joint = (json.loads(line) for line in said(walked, 7).splitlines()[-2:])
    assert joint["folder"] == "joint"
    assert accuracy(walked, "joint", "phones") == pytest.approx(joint["phones"], abs=1e-6)
    start, end = (load_file(walked / name / "model.safetensors") for name in ("merged", "joint"))
    assert start.keys() == end.keys()
    moved = max(float((start[name] - end[name]).abs().max()) for name in start)
    assert 0 < moved < 50 * 2 * 1e-3  # AdamW moves an entry by about lr a step, twice that at most
    assert np.mean([joint[task] for task in TASKS]) > np.mean([merged[task] for task in TASKS]) - 0.05


def test_joint_runs_are_added_to_the_previews_that_were_there(walked):
    assert "[truth]" not in (walked / "before.toml").read_text()
    assert re.search(r"A regret up to [\d.]+ cannot be told from 0", said(walked, 8))
    summary = json.loads((walked / "sentiment-out" / "summary.json").read_text())
    assert summary["truth"]["weightings"] >= 8
    assert set(summary["methods"]) == {"simple", "squared_gradients", "warped"}
