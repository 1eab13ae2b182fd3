"""Whole studies of other shapes than the digits: a regression of two tasks, four tasks, and checkpoints that are there already."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from previa.cli import main
from previa.study.store import Store
from tiny_study import NAME, write_study

EXAMPLES = Path(__file__).parent.parent / "examples"
ALONE = ("--workers", "1", "--quiet")


@pytest.fixture(autouse=True)
def forget_the_modules():
    yield
    sys.modules.pop(NAME, None)
    sys.modules.pop("diabetes", None)


def test_the_diabetes_example_runs_with_its_own_loss_and_score(tmp_path, capsys):
    shutil.copytree(EXAMPLES / "diabetes", tmp_path, dirs_exist_ok=True)
    study = tmp_path / "study.toml"
    text = study.read_text()
    for slow, quick in (("steps = 120", "steps = 20"), ("steps = 20\n\n[truth]", "steps = 8\n\n[truth]")):
        assert slow in text
        text = text.replace(slow, quick)
    study.write_text(text)
    assert main(["run", str(study), *ALONE]) == 0
    assert "Open the report" in capsys.readouterr().out
    out = tmp_path / "diabetes-out"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["tasks"] == ["group A", "group B"]
    assert summary["truth"]["best_score"] < 0  # minus an absolute error
    picks = {tuple(method["pick"]) for method in summary["methods"].values()}
    # the grid, uniform and size-proportional weights, and the picks, of which some may be on the grid
    assert 6 + 2 <= summary["truth"]["weightings"] <= 6 + 2 + len(picks)
    with Store.read(out / "study.db") as store:
        assert len(store.preview("mixture")) == 9 + 1  # uniform is on the grid
        assert [items.shape[1] for items in store.preview("joint").items] == [117, 103]
    assert (out / "per_task.png").exists()


def test_four_tasks_run_whole(tmp_path, capsys):
    study = write_study(tmp_path, "abcd", preview={"steps": 3})
    assert main(["run", str(study), *ALONE]) == 0
    runs = int(re.search(r"Best of (\d+) joint runs", capsys.readouterr().out)[1])
    assert 12 <= runs <= 12 + 5  # beside the grid the picks of five previews
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["recommendation"]["alpha"]) == 4
    assert {path.name for path in out.iterdir()} >= {
        "contours.png",
        "histograms.png",
        "per_task.png",
        "report.html",
    }


def test_checkpoints_with_posteriors_are_previewed_without_any_training(tmp_path, capsys):
    trained = write_study(tmp_path)
    assert main(["fit", str(trained), *ALONE]) == 0
    own = {}
    for task in "abc":
        runs = tmp_path / "out" / "runs" / task
        shutil.copy(runs / "model.safetensors", tmp_path / f"{task}.safetensors")
        shutil.copy(runs / "ivon-0-8.safetensors", tmp_path / f"{task}-posterior.safetensors")
        own[task] = {"checkpoint": f"{task}.safetensors", "posterior": f"{task}-posterior.safetensors"}
    shutil.rmtree(tmp_path / "out")
    methods = ["simple", "task_arithmetic", "ivon_hessian", "squared_gradients", "mixture"]
    study = write_study(tmp_path, preview={"methods": methods}, truth={"steps": 0}, **own)
    assert main(["run", str(study), *ALONE]) == 0
    said = capsys.readouterr()
    assert "squared gradients: 3 of 3" in said.err  # at the checkpoints
    assert "joint" not in said.err
    out = tmp_path / "out"
    assert not [path.name for path in out.rglob("*") if path.name.startswith(("ivon", "adamw", "model"))]
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["methods"]) == set(methods)
    assert summary["truth"] is None
    assert not any(name.startswith("finetune") for name in summary["seconds"])
