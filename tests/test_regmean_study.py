"""RegMean as a method of a study: measured at each task's parameters, under the study's convention, resumable."""

import sys

import numpy as np
import pytest
import torch

from previa.errors import PreviaError
from previa.io.checkpoint import open_checkpoint, save_checkpoint
from previa.run.fit import INPUTS_PRIOR, fit
from previa.run.pipeline import methods, preview
from previa.run.resolve import load
from previa.run.work import opened
from previa.study.file import study_from_dict

NAME = "previa_regmean_study"
MODULE = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 3))

class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(4, 3))

    def forward(self, x):
        return x @ self.rows

def examples(seed, N):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 4, generator=draw)
    return x, (x[:, seed % 4] > 0).long()

def a():
    return examples(0, 40), examples(10, 30)

def b():
    return examples(1, 24), examples(11, 25)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / f"{NAME}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop(NAME, None)


def table(model: str = "build", convention: str = "mean", **finetune: float) -> dict:
    ess = {} if convention == "sum" else {"ess": 100}
    return {
        "study": {"name": "tiny", "model": f"{NAME}:{model}", "out": "out", "convention": convention},
        "task": [{"name": task, "data": f"{NAME}:{task}"} for task in "ab"],
        "finetune": {"steps": 8, "batch_size": 8, "betas": [0.9, 0.9], **ess, **finetune},
        "preview": {"steps": 4, "methods": ["simple", "regmean"]},
    }


@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_the_preview_solves_the_normal_equations_of_every_layer(folder, convention):
    """(sum_t alpha_t A_t) W' = sum_t alpha_t A_t W_t', layer by layer, with moments of a plain forward pass."""
    with opened(study_from_dict(table(convention=convention), folder=folder)) as work:
        runs = fit(work)
        alpha = torch.tensor([[0.3, 0.7]], dtype=torch.float64)
        found = methods(work.study, runs)["regmean"](alpha).params
        data, model = work.ingredients.train, work.ingredients.model
        moments, scale = [], {"mean": (1, 1), "sum": (40, 24)}[convention]
        for name, N in zip("ab", scale, strict=True):
            model.load_state_dict(dict(runs.tasks[name].mean))
            with torch.no_grad():
                x = data[name][0]
                inputs = {"0": x, "3": model[:3](x)}
            a = {k: torch.cat([v, torch.ones(len(v), 1)], 1).double() for k, v in inputs.items()}
            moments.append({k: N * v.T @ v / len(v) for k, v in a.items()})
        for layer in ("0", "3"):
            A = [0.9 * one[layer] + 0.1 * torch.diag(one[layer].diagonal()) for one in moments]
            delta = INPUTS_PRIOR * np.mean([float(one[layer].diagonal().mean()) for one in moments])
            W = [
                torch.cat([runs.tasks[t].mean[f"{layer}.{part}"].view(len(runs.tasks[t].mean[f"{layer}.bias"]), -1) for part in ("weight", "bias")], 1).double()
                for t in "ab"
            ]  # fmt: skip
            damped = [w * (A_t + delta * torch.eye(len(A_t))) for w, A_t in zip(alpha[0], A, strict=True)]
            exact = torch.linalg.solve(
                sum(damped), sum(A_t @ w.T for A_t, w in zip(damped, W, strict=True))
            ).T
            mine = torch.cat([found[f"{layer}.weight"][0], found[f"{layer}.bias"][0][:, None]], 1)
            torch.testing.assert_close(mine.double(), exact, rtol=1e-4, atol=1e-5)  # solved by iterations
        share = alpha[0] * torch.tensor(scale) / (alpha[0] @ torch.tensor(scale, dtype=torch.float64))
        plain = sum(w * runs.tasks[t].mean["2.weight"].double() for w, t in zip(share, "ab", strict=True))
        torch.testing.assert_close(found["2.weight"][0].double(), plain, rtol=1e-6, atol=1e-6)


def test_a_corner_is_the_task_and_a_second_time_does_nothing(folder):
    with opened(study_from_dict(table(), folder=folder)) as work:
        first = preview(work, fit(work))
        np.testing.assert_array_equal(
            first["regmean"].at([[1, 0], [0, 1]]).scores, first["simple"].at([[1, 0], [0, 1]]).scores
        )
        assert work.store.seconds()["regmean"] > 0
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("out/runs/**/*")}
    with opened(study_from_dict(table(), folder=folder)) as work:
        again = preview(work, fit(work))
    assert {path: path.stat().st_mtime_ns for path in folder.glob("out/runs/**/*")} == stamps
    np.testing.assert_array_equal(again["regmean"].scores, first["regmean"].scores)


def test_another_finetuning_is_measured_and_previewed_anew(folder):
    with opened(study_from_dict(table(), folder=folder)) as work:
        fit(work)
    kept = dict(open_checkpoint(folder / "out/runs/a/inputs.safetensors"))
    (folder / "out/study.db").unlink()
    with opened(study_from_dict(table(lr=1.0), folder=folder)) as work:
        fit(work)
    found = dict(open_checkpoint(folder / "out/runs/a/inputs.safetensors"))
    assert torch.equal(found["0.weight"], kept["0.weight"])  # the first layer's inputs are the data
    assert not torch.equal(found["3.weight"], kept["3.weight"])


def test_a_checkpoint_and_data_are_enough(folder):
    settings = table()
    for task in settings["task"]:
        save_checkpoint(folder / f"{task['name']}.safetensors", load(study_from_dict(table(), folder=folder)).model.state_dict())  # fmt: skip
        task["checkpoint"] = f"{task['name']}.safetensors"
    with opened(study_from_dict(settings, folder=folder)) as work:
        found = preview(work, fit(work))
        assert found["regmean"].ok.all()
        assert not list(folder.glob("out/runs/*/ivon*"))


def test_a_model_without_such_layers_is_refused_in_a_sentence(folder):
    with (
        opened(study_from_dict(table("Table"), folder=folder)) as work,
        pytest.raises(PreviaError, match=r"Table has no Linear or Conv2d layer.*Leave regmean out"),
    ):
        fit(work)
