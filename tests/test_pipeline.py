"""A whole study on a tiny model: every step is resumable, a corner of the truth is the task's own run."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from previa.core.diagonal import Diagonal
from previa.core.isotropic import Isotropic
from previa.core.mixture import Mixture
from previa.core.modes import modes
from previa.core.params import Flat
from previa.errors import (
    FileError,
    InputError,
    NotFiniteError,
    ParamsError,
    PreviaError,
    ScoreError,
    StoreError,
    StudyError,
)
from previa.io.checkpoint import open_checkpoint, save_checkpoint
from previa.io.posterior_file import load_posterior, save_posterior
from previa.io.provenance import Provenance
from previa.run.bench import bench_of
from previa.run.fit import fit
from previa.run.joint import finetune_at, truth
from previa.run.pipeline import all_methods, methods, preview, previewed
from previa.run.records import digest_of_data, digest_of_test
from previa.run.resolve import load
from previa.run.work import opened
from previa.study.file import study_from_dict
from previa.study.settings import METHODS
from previa.study.store import Store

MODULE = """
import os, time
from pathlib import Path
import torch
from torch import nn
from previa.run.scoring import accuracy

def build():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

def normed():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))

def examples(seed, N):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 4, generator=draw)
    return x, (x[:, seed % 4] > 0).long() + (x[:, 1] > 1).long()

def a():
    return examples(0, 40), examples(10, 30)

def b():
    return examples(1, 60), examples(11, 25)

def c():
    return examples(2, 20), examples(12, 35)

def broken():
    (x, y), test = a()
    return (x * float("nan"), y), test

def slow_score(model, test):
    with Path(os.environ["PREVIA_CALLS"]).open("a") as calls:
        calls.write("x")
    time.sleep(0.01)
    return accuracy(model, test)

def picky_score(model, test):
    if len(test[0]) == 25 and Path("no-scores").exists():
        raise RuntimeError("not today")
    return accuracy(model, test)
"""
NAME = "previa_tiny_study"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the module above, as current directory."""
    (tmp_path / f"{NAME}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop(NAME, None)


def table(**study: str) -> dict:
    ess = {} if study.get("convention") == "sum" else {"ess": 100}
    return {
        "study": {"name": "tiny", "model": f"{NAME}:build", "out": "out", **study},
        "task": [{"name": task, "data": f"{NAME}:{task}"} for task in "abc"],
        "pretrain": {"data": f"{NAME}:c", "steps": 10, "lr": 0.1, "batch_size": 8},
        "finetune": {"steps": 8, "batch_size": 8, "betas": [0.9, 0.9], **ess},
        "adamw": {"steps": 8},
        "mixture": {"seeds": 2, "snapshots": 2},
        "preview": {"steps": 4, "methods": [*METHODS]},  # anchored and warped previews: tests/test_anchors.py
        "truth": {"steps": 2},
    }


def tiny(folder, **study: str):
    return study_from_dict(table(**study), folder=folder)


def heard() -> tuple[list, object]:
    news = []
    return news, lambda what, done, total: news.append((what, done, total))


def test_a_study_runs_whole_and_a_second_time_does_nothing(folder):
    settings = table()
    del settings["preview"]["methods"]
    study, named = study_from_dict(settings, folder=folder), [*METHODS, "warped"]
    with opened(study) as work:
        runs = fit(work)
        previews = preview(work, runs)
        true = truth(work)
        assert list(methods(study, runs)) == list(METHODS)
        assert list(previews) == named == list(all_methods(work, runs))  # no anchors, so nothing anchored
        assert {len(one) for one in previews.values()} == {17}  # 15, uniform, size-proportional
        assert all(one.ok.all() for one in previews.values())
        assert len(true) == 8
        np.testing.assert_allclose(work.size_proportional, [40 / 120, 60 / 120, 20 / 120])
        assert work.store.get("sizes") == {"a": 40, "b": 60, "c": 20}
        spent = work.store.seconds()
        assert spent["finetune/ivon_more"] > 0
        assert spent["finetune/ivon"] > 0
        spent, records = work.store.seconds(), sorted(folder.glob("out/**/*.json"))
        assert set(spent) == {
            "finetune/adamw",
            "finetune/ivon",
            "finetune/ivon_more",
            "powers",
            "pretrain",
            "regmean",
            "squared_gradients",
        }
    before = {path: path.stat().st_mtime_ns for path in records}
    with opened(study) as work:
        news, progress = heard()
        again = preview(work, fit(work, progress=progress), progress=progress)
        same = truth(work, progress=progress)
        assert {(what, done) for what, done, _ in news} == {
            ("finetune", 9), ("input moments", 3), ("joint", 8), *((name, 17) for name in named)
        }  # fmt: skip
        assert work.store.seconds() == spent
    assert {path: path.stat().st_mtime_ns for path in records} == before
    for name, one in again.items():
        np.testing.assert_array_equal(one.scores, previews[name].scores)
    np.testing.assert_array_equal(same.scores, true.scores)


def test_a_corner_of_the_truth_is_the_tasks_own_run_and_the_preview_there(folder):
    with opened(tiny(folder)) as work:
        runs = fit(work)
        previews, true = preview(work, runs), truth(work)
        for t, corner in enumerate(np.eye(3)):
            for name in ("simple", "task_arithmetic", "ivon_hessian"):
                np.testing.assert_allclose(
                    previews[name].at(corner).scores, true.at(corner).scores, atol=1e-6
                )
            assert runs.corners[t].alpha == tuple(corner)
            assert runs.corners[t].params is list(runs.tasks.values())[t].mean


def test_workers_find_bit_for_bit_what_this_process_finds(folder):
    with opened(tiny(folder)) as work:
        alone = truth(work)
    with opened(tiny(folder, out="shared")) as work:
        shared = truth(work, workers=2)
    np.testing.assert_array_equal(alone.scores, shared.scores)
    for one, two in zip(alone.items, shared.items, strict=True):
        np.testing.assert_array_equal(one, two)


def test_only_the_run_that_is_missing_or_damaged_is_done_again(folder):
    study = tiny(folder)
    with opened(study) as work:
        fit(work)
        (study.out / "runs/a/ivon-1.json").unlink()  # killed before it was finished
        (study.out / "runs/b/adamw.json").write_text("{")
        (study.out / "runs/b/adamw.safetensors").write_bytes(b"half")
        news, progress = heard()
        fit(work, progress=progress)
        assert [one for one in news if one[0] == "finetune"] == [("finetune", done, 9) for done in (7, 8, 9)]


def test_other_settings_are_another_run_and_another_study(folder):
    with opened(tiny(folder)) as work:
        fit(work)
    other = table()
    other["finetune"]["steps"] = 9
    changed = study_from_dict(other, folder=folder)
    with pytest.raises(StoreError, match="another study"), opened(changed):
        pass
    (changed.out / "study.db").unlink()
    with opened(changed) as work:
        news, progress = heard()
        fit(work, progress=progress)
        assert ("finetune", 3, 9) in news  # AdamW's steps are its own
        assert ("finetune", 2, 9) not in news


def test_other_data_of_the_same_name_is_another_study(folder):
    with opened(tiny(folder)):
        pass
    (folder / f"{NAME}.py").write_text(MODULE.replace("examples(0, 40)", "examples(4, 40)"))
    sys.modules.pop(NAME)
    with pytest.raises(StoreError, match="another study"), opened(tiny(folder)):
        pass


def edit(folder, old: str, new: str) -> None:
    """Change the study's module, as a user does between two runs."""
    file = folder / f"{NAME}.py"
    source = file.read_text()
    assert old in source
    file.write_text(source.replace(old, new))
    sys.modules.pop(NAME, None)
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("nn.Tanh()", "nn.ReLU()"),  # of the same parameters: the data and the base are as before
        ("time.sleep(0.01)", "time.sleep(0.02)"),
    ],
)
def test_results_of_code_that_was_edited_since_are_refused(folder, old, new):
    with opened(tiny(folder)):
        pass
    edit(folder, old, new)
    message = rf'code\.{NAME} was "version \w+" and is "version \w+"\. Put that back, or give .* another output folder'
    with pytest.raises(StoreError, match=message), opened(tiny(folder)):
        pass


def test_comments_layout_and_docstrings_are_not_code(folder):
    with opened(tiny(folder)):
        pass
    edit(folder, "def build():", 'def build():  # the model\n    """Small."""\n')
    with opened(tiny(folder)) as work:
        assert list(work.ingredients.code) == [NAME]


def test_runs_of_code_that_was_edited_since_are_done_again(folder):
    with opened(tiny(folder)) as work:
        fit(work)
    edit(folder, "nn.Tanh()", "nn.ReLU()")
    (folder / "out" / "study.db").unlink()  # the store would refuse
    record = folder / "out" / "runs" / "a" / "ivon-0.json"
    before = record.read_text()
    with opened(tiny(folder)) as work:
        fit(work)
    assert record.read_text() != before


def test_previas_own_modules_are_not_code_of_the_study(folder):
    with opened(tiny(folder, score="previa.run.scoring:accuracy")) as work:
        assert list(work.ingredients.code) == [NAME]


def test_an_ess_that_summed_losses_would_ignore_is_refused(folder):
    settings = table(convention="sum")
    settings["finetune"]["ess"] = 50
    message = r"\[finetune\] ess = 50 .* with convention = 'sum' it is sum_t alpha_t N_t"
    with pytest.raises(StudyError, match=message), opened(study_from_dict(settings, folder=folder)):
        pass
    assert not (folder / "out").exists()


class Rows:
    """A data set that reads its examples one by one; ``draw`` makes the inputs different at every read."""

    def __init__(self, values, draw=None) -> None:
        self.values, self.draw = values, draw

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int):
        more = self.draw() if self.draw else 0.0
        return {
            "x": torch.tensor(self.values[row]) + more,
            "of": ("text", np.float32(self.values[row]), 1, None),
        }


@pytest.mark.parametrize(
    "form", [Rows, list, np.asarray, torch.tensor], ids=["rows", "list", "array", "tensor"]
)
@pytest.mark.parametrize(
    "digest_of", [lambda data: digest_of_data("a", data), digest_of_test], ids=["train", "test"]
)
def test_data_that_changes_has_another_digest(form, digest_of):
    values = [float(i) for i in range(10)]
    first = digest_of(form(values))
    assert first == digest_of(form(list(values)))
    assert first != digest_of(form([*values[:5], 0.5, *values[6:]]))
    assert first != digest_of(form([*values, 0.0]))


def test_a_long_data_set_is_known_by_examples_from_its_first_to_its_last():
    values = np.arange(1000.0)
    read = []
    data = Rows(values, draw=lambda: read.append(1) or 0.0)
    first = digest_of_data("a", data)
    assert len(read) == 32
    values[-1] = 0
    assert digest_of_data("a", data) != first


@pytest.mark.parametrize("draw", [lambda: torch.rand(()), random.random, np.random.rand])
def test_a_data_set_with_random_augmentation_is_known_by_its_length(draw):
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    data = Rows([1.0, 2.0, 3.0], draw)
    assert digest_of_data("a", data) == digest_of_test(data) == "3 examples, other ones at each read"
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state[1:]  # noqa: NPY002


def test_test_data_of_any_form_has_a_digest():
    assert digest_of_test((["a", "b"], [1, 2])) != digest_of_test((["a", "c"], [1, 2]))
    assert digest_of_test({"q": ["a"], "n": 1}) != digest_of_test({"q": ["a"], "n": 2})
    assert digest_of_test([]) != digest_of_test([1])
    assert digest_of_test(object()) == digest_of_test(object())
    assert digest_of_test({}.items()) == digest_of_test({1: 2}.items())


def test_a_data_set_that_cannot_be_read_is_named():
    with pytest.raises(InputError, match="task 'a': reading its data set failed: KeyError"):
        digest_of_data("a", Keyed([1.0]))


class Keyed(Rows):
    def __getitem__(self, row: int):
        raise KeyError(row)


def test_numpy_data_is_the_same_study_as_tensors(folder):
    with opened(tiny(folder)) as work:
        first = fit(work).tasks["a"].mean
    targets = "(x[:, seed % 4] > 0).long() + (x[:, 1] > 1).long()"
    edit(folder, f"return x, {targets}", f"return x.numpy(), ({targets}).numpy()")
    with opened(tiny(folder, out="arrays")) as work:
        runs = fit(work)
        assert torch.equal(runs.tasks["a"].mean.vector, first.vector)
        assert preview(work, runs)["simple"].ok.all()


def test_the_mixture_keeps_every_seed_and_snapshot_and_its_last_is_the_runs_end(folder):
    with opened(tiny(folder)) as work:
        runs = fit(work)
        for task in runs.tasks.values():
            assert [len(run) for run in task.ivon] == [2, 2]
            assert not torch.equal(task.ivon[0][-1].mode().vector, task.ivon[1][-1].mode().vector)
            assert torch.equal(task.mean.vector, task.ivon[0][-1].mode().vector)
        posterior, provenance = load_posterior(work.study.out / "runs/b/ivon-0-4.safetensors")
        assert torch.equal(posterior.mode().vector, runs.tasks["b"].ivon[0][0].mode().vector)
        assert (provenance.steps, provenance.ess, provenance.examples, provenance.reduction) == (
            4,
            100,
            60,
            "mean",
        )


def test_subsets_of_the_snapshots_are_mixtures_of_their_own(folder):
    settings = table()
    settings["mixture"]["subsets"] = [[8]]
    settings["preview"]["methods"] = ["ivon_hessian", "mixture"]
    study = study_from_dict(settings, folder=folder)
    with opened(study) as work:
        runs = fit(work)
        previews = preview(work, runs)
        assert list(previews) == list(study.previews()) == ["ivon_hessian", "mixture_2", "mixture"]
        ends = [Mixture([run[-1] for run in task.ivon]) for task in runs.tasks.values()]
        alphas = torch.tensor(previews["mixture_2"].alphas)
        found = methods(study, runs)["mixture_2"](alphas)
        assert torch.equal(found.params.vector, modes(alphas, ends).params.vector)
        joint = finetune_at(work, work.uniform, runs=runs, warm_start="mixture_2")
        assert joint.method == "joint_from_mixture_2"
    settings["mixture"]["subsets"] = [[4]]  # the same name, other posteriors
    with opened(study_from_dict(settings, folder=folder)) as work:
        news, progress = heard()
        preview(work, fit(work), progress=progress)
        assert ("mixture_2", 0, 17) in news
        assert ("mixture", 17, 17) in news


def test_a_subset_that_the_study_no_longer_has_leaves_its_results(folder):
    settings = table()
    settings["preview"]["methods"] = ["simple", "mixture"]
    settings["mixture"]["subsets"] = [[8]]
    with opened(study_from_dict(settings, folder=folder)) as work:
        runs = fit(work)
        preview(work, runs)
        work.store.fail("mixture_99", work.uniform, "no such part", seconds=1.0)  # of one's own
    settings["mixture"]["subsets"] = []
    settings["preview"]["methods"] = ["mixture"]
    with opened(study_from_dict(settings, folder=folder)) as work:
        preview(work, runs)
        assert work.store.methods() == ("mixture", "mixture_99", "simple")
    settings["mixture"]["subsets"] = [[8]]
    with opened(study_from_dict(settings, folder=folder)) as work:
        news, progress = heard()
        preview(work, runs, progress=progress)
        assert ("mixture_2", 0, 17) in news


def test_a_subset_of_one_run_is_no_mixture_that_could_blend(folder):
    settings = table()
    settings["mixture"] = {"seeds": 1, "snapshots": 2, "subsets": [[8]]}
    settings["preview"]["methods"] = ["ivon_hessian", "mixture"]
    with opened(study_from_dict(settings, folder=folder)) as work:
        previews = preview(work, fit(work))
        np.testing.assert_allclose(
            previews["mixture_1"].scores, previews["ivon_hessian"].scores, atol=1e-6
        )  # K = 1
        assert not any(said.startswith("mixture_1:") for said in work.store.get("warnings"))


@pytest.mark.parametrize("labels", ["given", "sampled", "expected"])
@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_squared_gradients_are_absolute_under_the_convention(folder, convention, labels):
    settings = table(convention=convention)
    settings["preview"]["methods"] = ["squared_gradients"]
    settings["adamw"] |= {"labels": labels, "prior": 0.5}
    study = study_from_dict(settings, folder=folder)
    with opened(study) as work:
        runs = fit(work)
        raw = {t: dict(open_checkpoint(study.out / "runs" / t / "fisher.safetensors")) for t in "abc"}
        scale = {"a": 100, "b": 100, "c": 100} if convention == "mean" else {"a": 40, "b": 60, "c": 20}
        for name in raw["a"]:
            delta = 0.5 * torch.stack([scale[t] * raw[t][name] for t in "abc"]).mean()
            for t in "abc":
                precision = runs.tasks[t].squares.precision[name]
                torch.testing.assert_close(precision, scale[t] * raw[t][name] + delta, rtol=1e-4, atol=0)
        stored, provenance = load_posterior(study.out / "runs/b/squared_gradients.safetensors")
        assert torch.equal(stored.natural()[0], runs.tasks["b"].squares.natural()[0])
        assert (provenance.label_mode, provenance.prior_relative) == (labels, 0.5)
        assert provenance.ess == (100 if convention == "mean" else None)
        assert preview(work, runs)["squared_gradients"].ok.all()


def test_summed_losses_give_each_task_an_ess_of_its_size(folder):
    with opened(tiny(folder, convention="sum")) as work:
        runs = fit(work)
        _, provenance = load_posterior(work.study.out / "runs/c/ivon-0-8.safetensors")
        assert provenance.ess == 20
        true, previews = truth(work), preview(work, runs)
        corner = [0, 0, 1]
        np.testing.assert_allclose(
            previews["ivon_hessian"].at(corner).scores, true.at(corner).scores, atol=1e-6
        )


def test_what_a_reader_must_know_is_in_the_store(folder):
    settings = table()
    settings["finetune"]["betas"] = [0.9, 0.999]
    settings["adamw"]["prior"] = 1000.0
    with opened(study_from_dict(settings, folder=folder)) as work:
        preview(work, fit(work))
        said = work.store.get("warnings")
    assert sum("% its initial value" in one for one in said) == 3
    assert any("the prior is 100 % of the squared gradients' precision" in one for one in said)


def test_a_study_without_pretraining_starts_from_the_model_as_built(folder):
    settings = table()
    del settings["pretrain"]
    with opened(study_from_dict(settings, folder=folder)) as work:
        runs = fit(work)
        assert torch.equal(runs.base.vector, work.ingredients.base.vector)
        assert "pretrain" not in work.store.seconds()
        joint = finetune_at(work, [0.2, 0.3, 0.5], runs=runs, warm_start="simple")
        assert joint.method == "joint_from_simple"


def test_finetune_at_writes_a_whole_checkpoint_and_its_scores(folder):
    with opened(tiny(folder, model=f"{NAME}:normed")) as work:
        runs = fit(work)
        cold = finetune_at(work, [0.2, 0.3, 0.5])
        warm = finetune_at(work, [0.2, 0.3, 0.5], runs=runs, warm_start="mixture", path="mine.safetensors")
        saved = open_checkpoint(cold.path)
        work.ingredients.model.load_state_dict(dict(saved), strict=True)
        assert json.loads(saved.metadata["previa.finetune"])["alpha"] == [0.2, 0.3, 0.5]
        assert float(saved["1.running_mean"].abs().sum()) > 0
        assert cold.path == work.study.out / "finetuned/joint-0.2-0.3-0.5.safetensors"
        assert (folder / "mine.safetensors").exists()
        assert not torch.equal(saved["0.weight"], open_checkpoint(warm.path)["0.weight"])
        np.testing.assert_allclose(
            list(cold.scores.values()), work.store.preview("joint").at([0.2, 0.3, 0.5]).scores[0]
        )
        assert work.store.methods() == ("joint", "joint_from_mixture")
        with pytest.raises(InputError, match="no preview by 'best'"):
            finetune_at(work, [0.2, 0.3, 0.5], runs=runs, warm_start="best")
        assert truth(work, more=[[0.2, 0.3, 0.5]]).at([0.2, 0.3, 0.5]).ok.all()
        assert len(work.store.preview("joint")) == 9


def test_a_truth_of_no_steps_trains_only_what_is_asked_for(folder):
    settings = table()
    settings["truth"]["steps"] = 0
    with opened(study_from_dict(settings, folder=folder)) as work:
        assert truth(work) is None
        assert len(truth(work, more=[work.uniform])) == 1


def test_a_joint_run_is_scored_with_the_running_statistics_of_its_checkpoint(folder):
    with opened(tiny(folder, model=f"{NAME}:normed")) as work:
        true = truth(work).at([1, 0, 0])
        found = finetune_at(work, [1, 0, 0])
        net = work.ingredients.model
        net.load_state_dict(dict(open_checkpoint(found.path)))
        scores = {task: float(np.mean(score)) for task, score in scored(net.eval(), work).items()}
        assert found.scores == pytest.approx(scores)
        np.testing.assert_allclose(true.scores[0], list(scores.values()), atol=1e-6)


def scored(net, work) -> dict:
    with torch.no_grad():
        return {task: score.numpy() for task, score in work.ingredients.scorer(net).items()}


def test_a_run_that_diverges_is_named_and_the_others_are_kept(folder):
    settings = table()
    settings["task"][0]["data"] = f"{NAME}:broken"
    with opened(study_from_dict(settings, folder=folder)) as work:
        with pytest.raises(
            PreviaError, match=r"task 'a', IVON run 0: finetune at \(1\): the loss of task 'a' is NaN.*2 more"
        ):
            fit(work)
        assert (work.study.out / "runs/b/ivon-0.json").exists()
        true = truth(work)
        assert list(np.flatnonzero(true.ok)) == list(np.flatnonzero(true.alphas[:, 0] == 0))
        assert "task 'a' is NaN" in work.store.failures("joint")[0][1]


def test_a_score_that_raises_is_tried_again(folder):
    study = tiny(folder, score=f"{NAME}:picky_score")
    (folder / "no-scores").touch()
    with opened(study) as work:
        with pytest.raises(ScoreError, match=r"all 8 joint runs failed; .*task 'b': RuntimeError: not today"):
            truth(work)
        with pytest.raises(ScoreError, match="its scoring failed"):
            finetune_at(work, work.uniform)
        (folder / "no-scores").unlink()
        assert truth(work).ok.all()


def given(
    folder, *, source: str | None, task: str = "a", convention: str = "mean", **change: torch.Tensor
) -> dict:
    """Study settings whose task brings the checkpoint of an earlier run (and a posterior)."""
    with opened(tiny(folder, convention=convention)) as work:
        bench = bench_of(work.ingredients)
        ivon, provenance = load_posterior(fitted(work) / "runs" / task / "ivon-0-8.safetensors")
    shutil.copytree(folder / "out" / "base", folder / "new" / "base")
    save_checkpoint(folder / "mine.safetensors", {**ivon.mode(), **change})
    settings = table(out="new", convention=convention)
    settings["task"][0]["checkpoint"] = "mine.safetensors"
    if source is not None:
        save_posterior(
            folder / "h.safetensors", ivon, replace(provenance, source=source), with_mean=source == "ivon"
        )
        settings["task"][0]["posterior"] = "h.safetensors"
    assert bench.posterior is not None
    return settings


def fitted(work):
    fit(work)
    return work.study.out


def test_a_task_that_brings_checkpoint_and_posterior_is_not_finetuned(folder):
    settings = given(folder, source="ivon")
    with opened(study_from_dict(settings, folder=folder)) as work:
        news, progress = heard()
        runs = fit(work, progress=progress)
        assert news[0] == ("finetune", 0, 7)
        assert not (work.study.out / "runs/a/ivon-0.json").exists()
        assert len(runs.tasks["a"].ivon) == 1
        assert runs.tasks["a"].squares is not None
        assert set(preview(work, runs)) == set(METHODS)


def test_a_posterior_that_a_task_brings_is_in_every_subset(folder):
    settings = given(folder, source="ivon")
    settings["mixture"]["subsets"] = [[4]]
    settings["preview"]["methods"] = ["mixture"]
    study = study_from_dict(settings, folder=folder)
    with opened(study) as work:
        runs = fit(work)
        own = runs.tasks["a"].ivon[0][0].mode().vector
        for method in methods(study, runs).values():
            corner = method([[1.0, 0.0, 0.0]]).params.vector[0]
            torch.testing.assert_close(corner, own)


def test_a_checkpoint_alone_serves_the_methods_that_need_no_ivon(folder):
    settings = given(folder, source=None)
    with (
        opened(study_from_dict(settings, folder=folder)) as work,
        pytest.raises(StudyError, match="ivon_hessian and mixture"),
    ):
        fit(work)
    (folder / "new/study.db").unlink()
    settings["preview"]["methods"] = ["simple", "squared_gradients"]
    with opened(study_from_dict(settings, folder=folder)) as work:
        assert set(preview(work, fit(work))) == {"simple", "squared_gradients"}


def test_squared_gradients_that_a_task_brings_are_used_as_they_are(folder):
    settings = given(folder, source="squared_gradients")
    settings["preview"]["methods"] = ["simple", "squared_gradients"]
    with opened(study_from_dict(settings, folder=folder)) as work:
        runs = fit(work)
        stored, _ = load_posterior(folder / "h.safetensors", open_checkpoint(folder / "mine.safetensors"))
        assert torch.equal(runs.tasks["a"].squares.natural()[0], stored.natural()[0])
        assert not (work.study.out / "runs/a").exists()


def test_a_posterior_of_the_other_convention_is_refused(folder):
    settings = given(folder, source="ivon", convention="sum")
    settings["study"]["convention"] = "mean"
    settings["finetune"]["ess"] = 100
    (folder / "new/base/pretrain.json").unlink()
    with (
        opened(study_from_dict(settings, folder=folder)) as work,
        pytest.raises(InputError, match="of the sum of the losses"),
    ):
        fit(work)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"0.weight": torch.ones(6, 5)}, ParamsError, r"task 'a'.*'0.weight' has shape \(6, 5\)"),
        ({"9.weight": torch.ones(2)}, ParamsError, "task 'a'.*'9.weight' is not in the study's model"),
        ({"0.weight": torch.full((6, 4), math.nan)}, NotFiniteError, "0.weight"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(folder, change, error, message):
    settings = given(folder, source=None, **change)
    settings["preview"]["methods"] = ["simple"]
    with opened(study_from_dict(settings, folder=folder)) as work, pytest.raises(error, match=message):
        fit(work)


def test_an_isotropic_posterior_and_frozen_tensors_of_a_task_are_understood(folder):
    (folder / f"{NAME}.py").write_text(
        MODULE.replace(
            "return nn.Sequential(nn.Linear(4, 6), nn.Tanh()",
            "return nn.Sequential(nn.Linear(4, 6).requires_grad_(False), nn.Tanh()",
        )
    )
    settings = table()
    del settings["pretrain"]
    settings["preview"]["methods"] = ["simple", "ivon_hessian"]
    settings["task"][0] |= {"checkpoint": "mine.safetensors", "posterior": "h.safetensors"}
    study = study_from_dict(settings, folder=folder)
    state = load(study).model.state_dict()
    save_checkpoint(folder / "mine.safetensors", state)
    mine = Isotropic({name: tensor for name, tensor in state.items() if name.startswith("2.")}, 70.0)
    facts = Provenance(family="isotropic", source="mine", reduction="mean", examples=40, ess=100.0)
    save_posterior(folder / "h.safetensors", mine, facts)
    with opened(study) as work:
        runs = fit(work)
        assert list(runs.base) == ["2.weight", "2.bias"]
        assert bool((runs.tasks["a"].ivon[0][0].natural()[0] == 70).all())
    save_checkpoint(folder / "mine.safetensors", {**state, "0.bias": state["0.bias"] + 1})
    with (
        opened(study) as work,
        pytest.raises(ParamsError, match=r"'0.bias' differs from the study's model, where it is frozen"),
    ):
        fit(work)


def test_an_output_folder_that_cannot_be_made_is_named(folder):
    (folder / "out").write_text("a file")
    with pytest.raises(FileError, match="out: the folder cannot be made"), opened(tiny(folder)):
        pass


def test_a_sweep_killed_in_the_middle_goes_on_with_what_is_missing(folder):
    script = f"""
import sys
from previa.run.fit import fit
from previa.run.pipeline import preview
from previa.run.records import digest_of_data, digest_of_test
from previa.run.resolve import load
from previa.run.work import opened
from previa.study.file import study_from_dict
with opened(study_from_dict({table(score=f"{NAME}:slow_score")!r}, folder={str(folder)!r})) as work:
    preview(work, fit(work))
"""
    calls = folder / "calls"
    environment = {**os.environ, "PREVIA_CALLS": str(calls), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    deadline = time.monotonic() + 240
    while (
        not calls.exists() or calls.stat().st_size < 3 * 30
    ) and process.poll() is None:  # 3 calls a weighting
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with Store.read(folder / "out/study.db") as store:
        kept = {name: store.preview(name) for name in store.methods()}
    done, size = sum(len(one) for one in kept.values()), calls.stat().st_size
    assert 29 <= done < len(METHODS) * 17
    assert size // 3 - done in (0, 1)  # at most the weighting in flight is lost
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert calls.stat().st_size - size == 3 * (len(METHODS) * 17 - done)
    with Store.read(folder / "out/study.db") as store:
        for name, one in kept.items():
            np.testing.assert_array_equal(store.preview(name).at(one.alphas).scores, one.scores)


def test_posteriors_of_the_store_are_forgotten_when_they_change(folder):
    settings = table()
    settings["preview"]["methods"] = ["simple", "ivon_hessian"]
    with opened(study_from_dict(settings, folder=folder)) as work:
        runs = fit(work)
        preview(work, runs)
        first, posterior = runs.tasks["a"], runs.tasks["a"].ivon[0][-1]
        doubled = Diagonal(posterior.mode(), Flat(posterior.layout, 2 * posterior.natural()[0]))
        changed = replace(runs, tasks={**runs.tasks, "a": replace(first, ivon=((doubled,),))})
        news, progress = heard()
        preview(work, changed, progress=progress)
        assert news[0] == ("simple", 17, 17)
        assert ("ivon_hessian", 0, 17) in news


def test_provenance_states_what_a_run_was(folder):
    with opened(tiny(folder)) as work:
        fit(work)
        _, provenance = load_posterior(work.study.out / "base/posterior.safetensors")
        assert isinstance(provenance, Provenance)
        assert (provenance.source, provenance.steps, provenance.examples, provenance.batch_size) == (
            "ivon",
            10,
            20,
            8,
        )


def test_a_warm_start_is_the_model_that_was_previewed(folder):
    """EM's solution depends on which weightings are asked for together: alone, another one may be found."""
    with opened(tiny(folder)) as work:
        method, rows = methods(work.study, fit(work))["mixture"], work.alphas(4)
        together = method(torch.from_numpy(rows)).params.vector
        for row in (1, len(rows) - 1):
            assert torch.equal(previewed(work, method, rows[row]).vector, together[row])
        beside = np.array([0.2, 0.3, 0.5])  # not on the grid
        more = method(torch.from_numpy(np.vstack([rows, beside]))).params.vector
        assert torch.equal(previewed(work, method, beside).vector, more[-1])
