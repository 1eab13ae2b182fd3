"""Anchors and warped weights through a whole study: what is chosen, what is reproduced, what is done again and what is not."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from previa.core.runs import Run
from previa.core.warp import warp
from previa.errors import AlphaError, FileError, InputError, ParamsError, PreviaError, StudyError
from previa.io.checkpoint import open_checkpoint, save_checkpoint
from previa.run.anchor_runs import plan_anchors, train_anchors
from previa.run.anchors import anchors_of, exact, scored_runs
from previa.run.fit import fit
from previa.run.joint import finetune_at
from previa.run.joint_loss import training_losses
from previa.run.live import live
from previa.run.pipeline import all_methods, families_of, methods, preview
from previa.run.refine import refine
from previa.run.work import opened
from previa.study.file import study_from_dict
from previa.study.simplex import probes
from tiny_folders import adapter, language_model, sentences, write_lines
from tiny_study import MODULE, NAME

NORMED = (
    MODULE
    + """
def normed():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
"""
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the tiny study's module, as current directory."""
    (tmp_path / f"{NAME}.py").write_text(NORMED)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop(NAME, None)


def table(tasks="abc", methods=("simple", "ivon_hessian", "warped", "anchored"), **study) -> dict:
    return {
        "study": {"name": "tiny", "model": f"{NAME}:build", "score": f"{NAME}:score", "out": "out", **study},
        "task": [{"name": task, "data": f"{NAME}:{task}"} for task in tasks],
        "finetune": {
            "steps": 8, "batch_size": 8, "betas": [0.9, 0.9], **({} if study.get("convention") == "sum" else {"ess": 100.0})
        },
        "mixture": {"seeds": 1, "snapshots": 1},
        "preview": {"steps": 4, "methods": [*methods]},
        "truth": {"steps": 0},
    }  # fmt: skip


def tiny(folder, **study):
    return study_from_dict(table(**study), folder=folder)


def heard() -> tuple[list, object]:
    news = []
    return news, lambda what, done, total: news.append((what, done, total))


def done_again(news) -> set[str]:
    """The pieces of work of which anything was done, and not only read."""
    first = {}
    for what, done, total in news:
        first.setdefault(what, done < total)
    return {what for what, fresh in first.items() if fresh}


def anchored_study(work, budget=2, **options):
    runs = fit(work)
    train_anchors(work, runs, plan_anchors(work, budget=budget, **options))
    return runs


# the joint loss


@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_the_training_losses_are_the_studys_own_at_its_convention(folder, convention):
    with opened(tiny(folder, convention=convention)) as work:
        own, model = work.ingredients, work.ingredients.model
        losses = training_losses(own, 10_000)
        with live(model, own.layout) as place:
            place(own.base.vector)
            found = losses(model)
            for task, (x, y) in own.train.items():
                expected = torch.nn.functional.cross_entropy(model(x), y, reduction=convention)
                assert found[task] == pytest.approx(float(expected), rel=1e-5)  # another order of the sum
        assert losses.counts == own.sizes


def test_a_fixed_subset_of_each_task_is_drawn_by_the_seed(folder):
    with opened(tiny(folder)) as work:
        one, again = training_losses(work.ingredients, 16), training_losses(work.ingredients, 16)
        assert one.counts == {"a": 16, "b": 16, "c": 16}
        assert one(work.ingredients.model) == again(work.ingredients.model)
    with opened(tiny(folder, seed=1, out="other")) as work:
        assert training_losses(work.ingredients, 16)(work.ingredients.model) != one(work.ingredients.model)


# warped


def test_warped_is_the_family_and_power_of_the_least_joint_loss_and_the_store_says_so(folder):
    study = study_from_dict(
        table(methods=("simple", "ivon_hessian", "warped", "ivon_hessian_warped")), folder=folder
    )
    with opened(study) as work:
        runs = fit(work)
        previews = preview(work, runs)
        powers = work.store.get("powers")
        chosen, losses = powers["warped"]["chosen"], powers["warped"]["losses"]
        assert set(losses) == {"simple", "ivon_hessian"}
        assert losses[chosen["method"]][str(chosen["p"])] == min(
            v for own in losses.values() for v in own.values()
        )
        assert powers["ivon_hessian_warped"]["losses"] == {"ivon_hessian": losses["ivon_hessian"]}
        # an obvious oracle of one entry of the table
        rows = probes(3)
        merged = methods(study, runs)["simple"](warp(rows, 0.5)).params
        scorer, expected = training_losses(work.ingredients, 256), []
        with live(work.ingredients.model, merged.layout) as place:
            for row, vector in zip(rows, merged.vector, strict=True):
                place(vector)
                found = scorer(work.ingredients.model)
                expected.append(sum(a * found[t] for a, t in zip(row, "abc", strict=True)))
        assert losses["simple"]["0.5"] == pytest.approx(np.mean(expected))
        assert powers["warped"]["evaluations"] == 2 * 7 * len(rows)
        assert powers["warped"]["examples"] == 120
        assert list(previews) == ["simple", "ivon_hessian", "ivon_hessian_warped", "warped"]
        assert work.store.get("method") == "warped"
        assert "anchors" not in work.store.methods()


def test_a_power_that_the_study_fixes_is_taken(folder):
    settings = table(methods=("simple", "warped"))
    settings["preview"]["power"] = 0.3
    with opened(study_from_dict(settings, folder=folder)) as work:
        runs = fit(work)
        previews = preview(work, runs)
        assert work.store.get("powers")["warped"]["chosen"] == {"method": "simple", "p": 0.3}
        alphas = previews["warped"].alphas
        theta = methods(work.study, runs)["simple"](warp(alphas.copy(), 0.3)).params.vector
        assert torch.equal(
            all_methods(work, runs)["warped"](torch.tensor(alphas.copy())).params.vector, theta
        )


def test_nothing_is_measured_or_scored_twice(folder):
    with opened(tiny(folder)) as work:
        runs = anchored_study(work)
        previews = preview(work, runs)
        spent, records = work.store.seconds(), {p: p.stat().st_mtime_ns for p in folder.glob("out/anchors/*")}
    with opened(tiny(folder)) as work:
        news, progress = heard()
        runs = fit(work, progress=progress)
        assert plan_anchors(work, budget=2).wanted == ()
        train_anchors(work, runs, plan_anchors(work, budget=2), progress=progress)
        again = preview(work, runs, progress=progress)
        assert done_again(news) <= {"scores of runs"}
        assert work.store.seconds() == spent
        assert {p: p.stat().st_mtime_ns for p in folder.glob("out/anchors/*")} == records
    for name, one in previews.items():
        np.testing.assert_array_equal(one.scores, again[name].scores)


def test_blocks_of_the_mixture_are_other_families_and_other_losses(folder):
    settings = table(methods=("simple", "mixture", "mixture_warped"))
    settings["mixture"] = {"seeds": 2, "snapshots": 1}
    with opened(study_from_dict(settings, folder=folder)) as work:
        runs = fit(work)
        preview(work, runs)
        before = families_of(work.study, runs)
    settings["mixture"]["blocks"] = "module"
    with opened(study_from_dict(settings, folder=folder)) as work:
        news, progress = heard()
        preview(work, runs, progress=progress)
        after = families_of(work.study, runs)
    assert {name for name in after if after[name].digest != before[name].digest} == {"mixture"}
    assert {"mixture", "mixture_warped", "joint loss, warped"} <= done_again(news)


def test_sharpened_previews_that_are_no_longer_named_stay_while_their_family_does(folder):
    settings = table(methods=("simple", "mixture", "mixture_warped"))
    settings["mixture"] = {"seeds": 2, "snapshots": 1}
    with opened(study_from_dict(settings, folder=folder)) as work:
        runs = fit(work)
        preview(work, runs)
    settings["preview"]["methods"] = ["simple", "mixture"]
    with opened(study_from_dict(settings, folder=folder)) as work:
        preview(work, runs)
        assert work.store.methods() == ("mixture", "mixture_warped", "simple")
        assert set(work.store.get("powers")) == {"mixture_warped"}
    settings["mixture"]["temperature"] = 5.0
    with opened(study_from_dict(settings, folder=folder)) as work:
        work.store.fail("warped", work.uniform, "not declared", seconds=1.0)  # of one's own
        preview(work, runs)
        assert work.store.methods() == ("mixture", "simple", "warped")
        assert work.store.get("powers") == {}


# from the centre


def test_the_centre_rests_on_the_examples_that_choose_its_power(folder):
    settings = table(methods=("simple", "centre"))
    with opened(study_from_dict(settings, folder=folder)) as work:
        runs = fit(work)
        preview(work, runs)
    settings["preview"]["loss_examples"] = 5
    with opened(study_from_dict(settings, folder=folder)) as work:
        news, progress = heard()
        preview(work, runs, progress=progress)
        assert {"centre", "centre, looks"} <= done_again(news)
        assert "simple" not in done_again(news)


@pytest.mark.parametrize(("model", "convention"), [("build", "mean"), ("normed", "mean"), ("build", "sum")])
def test_the_preview_from_the_centre_has_less_joint_loss_and_keeps_corners(folder, model, convention):
    study = tiny(folder, methods=("simple", "centre"), model=f"{NAME}:{model}", convention=convention)
    with opened(study) as work:
        runs = fit(work)
        previews = preview(work, runs)
        found = work.store.get("centre")
        # each look takes gradients in one pass and curvature in another at least; the losses that choose p count, too
        assert found["passes"] > 2 * found["looks"] + found["evaluations"] / 3
        assert found["losses"] == sorted(found["losses"], reverse=True)  # each step's decrease was measured
        corners = np.eye(3)
        np.testing.assert_allclose(
            previews["centre"].at(corners).scores, previews["simple"].at(corners).scores, atol=1e-6
        )
        news, progress = heard()
        preview(work, runs, progress=progress)
        assert done_again(news) == set()
        assert work.store.get("method") == "centre"


# anchors


@pytest.mark.parametrize(("tasks", "model"), [("abc", "build"), ("ab", "build"), ("abc", "normed")])
def test_corners_and_anchors_are_reproduced_through_the_whole_study(folder, tasks, model):
    with opened(study_from_dict(table(tasks, model=f"{NAME}:{model}"), folder=folder)) as work:
        runs = anchored_study(work, 1 if tasks == "ab" else 4)
        previews = preview(work, runs)
        there, _ = anchors_of(work)
        method = all_methods(work, runs)["anchored"]
        at = torch.tensor([anchor.alpha for anchor in there], dtype=torch.float64)
        for theta, anchor in zip(method(at).params.vector, there, strict=True):
            assert torch.equal(theta, anchor.params.vector)
        corners = np.eye(len(tasks))
        theta = method(torch.tensor(corners)).params.vector
        for t, own in enumerate(runs.tasks.values()):
            torch.testing.assert_close(theta[t], own.mean.vector)
        runs_scores = work.store.preview("anchors")
        if model == "build":  # merged models of a net with BatchNorm are recalibrated instead
            for alpha in [*corners, *at.numpy()]:
                np.testing.assert_allclose(
                    previews["anchored"].at(alpha).scores, runs_scores.at(alpha).scores, atol=1e-6
                )
        for name in ("scores", "scores_gp"):
            assert previews[name].ok.all()
        for alpha in [*corners, *at.numpy()]:
            np.testing.assert_allclose(
                previews["scores"].at(alpha).scores, runs_scores.at(alpha).scores, atol=1e-6
            )
        noted = work.store.get("anchors")
        assert [tuple(one["alpha"]) for one in noted] == [anchor.alpha for anchor in there]
        assert {one["from"] for one in noted} == {"preview"}
        assert {one["share"] for one in noted} == {3 / 8}
        assert all(set(one["left_out"]) == set(tasks) for one in noted)
        assert set(work.store.get("left_out")) == {"anchored", "scores"}
        assert work.store.get("band")["method"] == "anchored"
        assert work.store.get("band")["half_width"] > 0
        assert work.store.get("method") == "anchored"


def test_the_proposed_anchors_are_trained_from_the_warped_preview_and_another_budget_only_adds(folder):
    with opened(tiny(folder)) as work:
        plan = plan_anchors(work, budget=1)
        assert plan.wanted == (tuple([1 / 3] * 3),)
        assert (plan.steps, plan.start, plan.share) == (3, "preview", 3 / 8)
        runs = fit(work)
        train_anchors(work, runs, plan)
        first = anchors_of(work)[0][0]
        more = plan_anchors(work, budget=4)
        assert len(more.there) == 1
        assert {tuple(sorted(alpha)) for alpha in more.wanted} == {(0, 0.5, 0.5)}
        train_anchors(work, runs, more)
        assert [one.digest for one in anchors_of(work)[0] if one.alpha == first.alpha] == [first.digest]


def test_an_anchor_from_the_base_of_all_steps_is_the_joint_run(folder):
    with opened(tiny(folder)) as work:
        runs, alpha = fit(work), [0.25, 0.25, 0.5]
        train_anchors(work, runs, plan_anchors(work, alphas=[alpha], start="base"))
        (anchor,), _ = anchors_of(work)
        joint = open_checkpoint(finetune_at(work, alpha).path)
        assert all(torch.equal(anchor.params[name], joint[name]) for name in anchor.params)
        assert (anchor.origin, anchor.steps, anchor.share) == ("base", 8, 1.0)
        # the same again is there; with other steps it is another run
        assert plan_anchors(work, alphas=[alpha], start="base").wanted == ()
        assert plan_anchors(work, alphas=[alpha], start="base", steps=4).wanted == (tuple(alpha),)


def test_workers_train_the_same_anchors(folder):
    found = []
    for out, workers in (("one", 1), ("two", 2)):
        with opened(tiny(folder, out=out)) as work:
            train_anchors(work, fit(work), plan_anchors(work, budget=2), workers=workers)
            found.append([anchor.digest for anchor in anchors_of(work)[0]])
    assert found[0] == found[1]


def test_a_run_that_was_killed_is_trained_again_and_the_others_are_kept(folder):
    with opened(tiny(folder)) as work:
        runs = anchored_study(work, 3)
        records = sorted(folder.glob("out/anchors/*.json"))
        kept = records[0].read_text()
        records[1].unlink()
        records[2].with_suffix(".safetensors").write_bytes(b"half")
        plan = plan_anchors(work, budget=3)
        assert len(plan.there) == 1
        train_anchors(work, runs, plan)
        assert records[0].read_text() == kept
        assert len(anchors_of(work)[0]) == 3


def test_an_anchor_of_other_settings_is_not_used_and_the_reader_is_told(folder):
    with opened(tiny(folder)) as work:
        runs = anchored_study(work, 1)
        record = next(folder.glob("out/anchors/*.json"))
        text = json.loads(record.read_text())
        text["facts"]["recipe"]["batch_size"] = 99
        record.write_text(json.dumps(text))
        previews = preview(work, runs)
        assert "anchored" not in previews
        assert any("is not used as an anchor" in said for said in work.store.get("warnings"))


def with_anchor(folder, alpha=(0.5, 0.5, 0.0), scale=1.0, **settings):
    """A study whose file brings the anchor anchor.safetensors."""
    with opened(tiny(folder, out="first")) as work:
        base = work.ingredients.base
    save_checkpoint(folder / "anchor.safetensors", {name: scale * value for name, value in base.items()})
    found = table(**settings)
    found["anchor"] = [{"alpha": list(alpha), "checkpoint": "anchor.safetensors"}]
    return found


def test_an_anchor_of_the_study_file_is_where_the_preview_is_at_its_weighting(folder):
    settings = with_anchor(folder)
    with opened(study_from_dict(settings, folder=folder)) as work:
        runs = fit(work)
        previews = preview(work, runs)
        theta = all_methods(work, runs)["anchored"](torch.tensor([[0.5, 0.5, 0.0]])).params
        assert torch.equal(theta.vector[0], work.ingredients.base.vector)
        assert work.store.get("anchors")[0]["from"] == "anchor.safetensors"
        assert work.store.get("anchors")[0]["steps"] is None
        assert previews["anchored"].ok.all()


def test_adding_an_anchor_redoes_only_what_is_anchored(folder):
    with opened(study_from_dict(with_anchor(folder), folder=folder)) as work:
        runs = fit(work)
        preview(work, runs)
        train_anchors(work, runs, plan_anchors(work, budget=2))
        news, progress = heard()
        preview(work, runs, progress=progress)
        assert done_again(news) == {"joint loss, anchored", "anchored", "scores of runs", "left_out"}
        assert len(work.store.preview("anchors")) == 5


def test_another_file_of_the_same_path_is_another_anchor(folder):
    settings = with_anchor(folder)
    with opened(study_from_dict(settings, folder=folder)) as work:
        runs = fit(work)
        before = preview(work, runs)
        with_anchor(folder, scale=2.0)
        news, progress = heard()
        after = preview(work, runs, progress=progress)
        assert {"anchored", "joint loss, anchored", "left_out"} <= done_again(news)
        assert not done_again(news) & {"simple", "warped", "joint loss, warped"}
        assert not np.array_equal(before["anchored"].scores, after["anchored"].scores)


def test_without_its_anchors_a_study_forgets_what_was_anchored(folder):
    settings = with_anchor(folder)
    with opened(study_from_dict(settings, folder=folder)) as work:
        runs = fit(work)
        preview(work, runs)
        assert "anchored" in work.store.methods()
    del settings["anchor"]
    with opened(study_from_dict(settings, folder=folder)) as work:
        preview(work, runs)
        assert not {"anchored", "scores", "scores_gp", "left_out"} & set(work.store.methods())
        assert work.store.get("anchors") is None
        assert work.store.get("method") == "warped"


def test_runs_in_memory_are_anchors_too(folder):
    with opened(tiny(folder)) as work:
        runs = fit(work)
        mine = Run((1 / 3, 1 / 3, 1 / 3), dict(runs.base))
        previews = preview(work, runs, anchors=[mine])
        assert work.store.get("anchors")[0]["from"] == "memory"
        np.testing.assert_allclose(
            previews["anchored"].at(work.uniform).scores,
            scored_runs(work, runs, anchors_of(work, [mine])[0]).at(work.uniform).scores,
        )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([(0.5, 0.5 - 4e-7, 4e-7)], r"memory at \(0.5, 0.5, 0\) and anchor.safetensors at \(0.5, 0.5, 0\)"),
        (
            [(0.1234561, 0.3765439, 0.5), (0.1234567, 0.3765433, 0.5)],
            r"memory at \(0.1234567, 0.3765433, 0.5\) and memory at \(0.1234561, .* are at one weighting",
        ),
        ([(1 - 5e-7, 5e-7, 0.0)], r"memory at \(1, 0, 0\) is a corner"),
    ],
)  # fmt: skip
def test_anchors_that_nearly_coincide_are_refused_by_name(folder, more, message):
    with opened(study_from_dict(with_anchor(folder), folder=folder)) as work:
        base = dict(work.ingredients.base)
        with pytest.raises(AlphaError, match=message):
            anchors_of(work, [Run(alpha, base) for alpha in more])


def test_a_plan_says_what_is_not_used_and_what_costs_too_much(folder):
    with opened(tiny(folder)) as work:
        anchored_study(work, 1)
        record = next(folder.glob("out/anchors/*.json"))
        record.write_text("{}")
        plan = plan_anchors(work, budget=1, steps=20)
        assert len(plan.wanted) == 1
        assert "is not used as an anchor" in plan.said[0]
        assert "20 steps are more than the 8 of a joint run" in plan.said[1]
        with pytest.raises(InputError, match="a budget of 5000 is too large"):
            plan_anchors(work, budget=5000)
        # those that differ by less than previews tell apart are one
        near = [[0.1234561, 0.3765439, 0.5], [0.1234567, 0.3765433, 0.5]]
        assert len(plan_anchors(work, alphas=near).wanted) == 1


def moved(folder, at, other):
    """A copy of a folder whose tensors lie between two folders of one model."""
    shutil.copytree(folder / at, folder / "anchor")
    one, two = (load_file(folder / name / "adapter_model.safetensors") for name in (at, other))
    between = {name: (one[name] + two[name]) / 2 + 0.01 for name in one}
    save_file(between, folder / "anchor" / "adapter_model.safetensors", metadata={"format": "pt"})


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
def test_an_adapter_is_an_anchor_of_a_study_of_adapters_and_another_initialisation_is_refused(folder):
    language_model(folder / "base")
    adapter(folder / "start", folder / "base")
    rows = {"a": 12, "b": 16}
    for seed, task in enumerate(rows):
        adapter(folder / task, folder / "base")  # of the same seed: one initialisation
        file = folder / task / "adapter_model.safetensors"
        draw = torch.Generator().manual_seed(seed)
        tensors = {
            name: A + 0.1 * torch.randn(A.shape, generator=draw) for name, A in load_file(file).items()
        }
        save_file(tensors, file, metadata={"format": "pt"})
        for part, N in (("train", rows[task]), ("test", 9)):
            write_lines(folder / f"{task}-{part}.jsonl", [{"text": text} for text in sentences(N, seed)])
    moved(folder, "a", "b")
    settings = {
        "study": {"name": "tiny", "model": "base"},
        "transformers": {"task_type": "causal-lm", "adapter": "start"},
        "task": [{"name": t, "checkpoint": t, "train": f"{t}-train.jsonl", "test": f"{t}-test.jsonl"} for t in rows],
        "anchor": [{"alpha": [0.5, 0.5], "checkpoint": "anchor"}],
        "finetune": {"batch_size": 4, "sampling": "loss"},
        "adamw": {"steps": 3, "lr": 0.01},
        "preview": {"steps": 4, "methods": ["simple", "warped", "anchored"]},
    }  # fmt: skip
    study = study_from_dict(settings, folder=folder)
    with opened(study) as work:
        runs = fit(work)
        previews = preview(work, runs)
        assert work.store.get("anchors")[0]["from"] == "anchor"
        np.testing.assert_allclose(
            previews["anchored"].at([0.5, 0.5]).scores,
            work.store.preview("anchors").at([0.5, 0.5]).scores,
            atol=1e-6,
        )
        train_anchors(work, runs, plan_anchors(work, alphas=[[0.75, 0.25]]))
        assert [anchor.origin for anchor in anchors_of(work)[0]] == ["anchor", "preview"]
        assert preview(work, runs)["anchored"].ok.all()
        (one,) = refine(work, runs, [[0.25, 0.75]], steps=(1,))
        assert np.isfinite(one.scores).all()
    shutil.rmtree(folder / "anchor")
    adapter(folder / "anchor", folder / "base", seed=7)
    with (
        pytest.raises(InputError, match="Averages of A and of B mean something only near one common A"),
        opened(study),
    ):
        pass
    shutil.rmtree(folder / "anchor")
    language_model(folder / "anchor")
    with (
        opened(study) as work,
        pytest.raises(FileError, match=r"anchor \(0.5, 0.5\), .*the study merges adapters"),
    ):
        preview(work, fit(work))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": torch.ones(6, 5)}, r"anchor \(0.5, 0.5, 0\).*'0.weight' has shape \(6, 5\)"),
        ({"9.weight": torch.ones(2)}, r"anchor \(0.5, 0.5, 0\).*'9.weight' is not in the study's model"),
    ],
)
def test_an_anchor_of_another_model_is_refused(folder, change, message):
    settings = with_anchor(folder)
    tensors = dict(open_checkpoint(folder / "anchor.safetensors"))
    save_checkpoint(folder / "anchor.safetensors", {**{k: v.clone() for k, v in tensors.items()}, **change})
    with opened(study_from_dict(settings, folder=folder)) as work:
        runs = fit(work)
        with pytest.raises(ParamsError, match=message):
            preview(work, runs)


@pytest.mark.parametrize(
    ("anchors", "message"),
    [
        ([{"alpha": [0.5, 0.5], "checkpoint": "x"}], r"\[\[anchor\]\] number 1: there should be 3 weights"),
        ([{"alpha": [0.5, 0.5, 0.5], "checkpoint": "x"}], r"\[\[anchor\]\] number 1: weights should sum to 1"),
        ([{"alpha": [1, 0, 0], "checkpoint": "x"}], r"\(1, 0, 0\) is a corner, where a task's own run is"),
        ([{"alpha": [0.5, 0.5, 0], "checkpoint": "x"}] * 2, r"number 2: two anchors are trained at \(0.5, 0.5, 0\)"),
        ([{"alpha": [0.5, 0.5, 0]}], "the key 'checkpoint' is missing"),
        ([{"alpha": 0.5, "checkpoint": "x"}], "alpha should be a list of weights"),
        ({"alpha": [0.5, 0.5, 0], "checkpoint": "x"}, r"\[\[anchor\]\] in double brackets"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_anchor_is_said_with_its_number(folder, anchors, message):
    with pytest.raises(StudyError, match=message):
        study_from_dict({**table(), "anchor": anchors}, folder=folder)


def test_a_sharpened_preview_needs_its_family_beside_it(folder):
    with pytest.raises(StudyError, match="methods has 'ivon_hessian_warped', but not 'ivon_hessian'"):
        study_from_dict(table(methods=("simple", "ivon_hessian_warped")), folder=folder)
    with pytest.raises(StudyError, match=r"there is an \[\[anchor\]\], but methods has no 'anchored'"):
        study_from_dict(
            {**table(methods=("simple",)), "anchor": [{"alpha": [0.5, 0.5, 0], "checkpoint": "x"}]},
            folder=folder,
        )
    with pytest.raises(StudyError, match=r"methods has no family of posteriors to build on, only warped"):
        study_from_dict(table(methods=("warped",)), folder=folder)


def test_weightings_that_cannot_be_anchors_are_refused(folder):
    with opened(study_from_dict(with_anchor(folder), folder=folder)) as work:
        with pytest.raises(AlphaError, match="is a corner of the simplex"):
            plan_anchors(work, alphas=[[1, 0, 0]])
        with pytest.raises(AlphaError, match=r"brings an anchor at \(0.5, 0.5, 0\), anchor.safetensors"):
            plan_anchors(work, alphas=[[0.5, 0.5, 0]])


def test_an_anchor_that_diverges_is_named_and_the_others_are_kept(folder):
    source = (folder / f"{NAME}.py").read_text()
    (folder / f"{NAME}.py").write_text(
        source.replace(
            "def c():\n",
            'def c():\n    return (torch.full((20, 4), float("nan")), examples(2, 20)[0].argmax(1) % 3), examples(12, 35)\n\ndef old():\n',
        )
    )
    settings = table(methods=("simple", "warped"))
    for task in settings["task"]:
        task["checkpoint"] = "base.safetensors"
    with opened(study_from_dict(table(out="x"), folder=folder)) as work:
        save_checkpoint(folder / "base.safetensors", work.ingredients.base)
    with opened(study_from_dict(settings, folder=folder)) as work:
        plan = plan_anchors(work, alphas=[[0.2, 0.3, 0.5], [0.5, 0.5, 0]], start="base")
        with pytest.raises(PreviaError, match=r"anchor \(0.2, 0.3, 0.5\): .*the loss of task 'c' is NaN"):
            train_anchors(work, fit(work), plan)
        assert [anchor.alpha for anchor in anchors_of(work)[0]] == [(0.5, 0.5, 0.0)]


def test_thirds_written_with_six_digits_are_thirds():
    assert exact([0.333333, 0.333333, 0.333334]) == (1 / 3, 1 / 3, 1 / 3)
    assert exact([0.123456, 0.876544]) == (0.123456, 0.876544)


# refined


def test_refined_previews_begin_at_the_preview_and_cost_what_their_steps_do(folder):
    with opened(tiny(folder)) as work:
        runs = anchored_study(work, 1)
        previews = preview(work, runs)
        (one,) = refine(work, runs, [[0.25, 0.25, 0.5]], steps=(2, 8))
        np.testing.assert_allclose(one.scores[0], previews["anchored"].at([0.25, 0.25, 0.5]).scores[0])
        assert (one.steps, one.shares) == ((0, 2, 8), (0, 0.25, 1.0))
        assert work.store.preview("refined_8").stats["steps"].tolist() == [8]
        spent = work.store.seconds()
        (again,) = refine(work, runs, [[0.25, 0.25, 0.5]], steps=(2, 8))
        np.testing.assert_array_equal(one.scores, again.scores)
        assert work.store.seconds() == spent
        with pytest.raises(InputError, match="rising whole numbers"):
            refine(work, runs, [[0.25, 0.25, 0.5]], steps=(8, 2))


def test_a_refined_preview_is_the_run_that_is_warm_started_from_it(folder):
    with opened(tiny(folder)) as work:
        runs, alpha = fit(work), [0.25, 0.25, 0.5]
        (one,) = refine(work, runs, [alpha], steps=(8,))
        joint = finetune_at(work, alpha, runs=runs, warm_start="warped")  # of eight steps
        np.testing.assert_allclose(one.scores[-1], list(joint.scores.values()))


def test_refined_previews_of_another_start_are_forgotten_whatever_their_steps(folder):
    settings, alpha, said = table(), [0.25, 0.25, 0.5], []
    with opened(study_from_dict(settings, folder=folder)) as work:
        runs = fit(work)
        refine(work, runs, [alpha], steps=(2, 9), tell=said.append)
        assert "9 steps are more than the 8 of a joint run" in said[0]
        preview(work, runs)
        assert {"refined_0", "refined_2", "refined_9"} <= set(work.store.methods())
    settings["preview"]["power"] = 0.77
    with opened(study_from_dict(settings, folder=folder)) as work:
        refine(work, runs, [alpha], steps=(3,))
        assert {name for name in work.store.methods() if "refined" in name} == {"refined_0", "refined_3"}
        train_anchors(work, runs, plan_anchors(work, budget=1))
        preview(work, runs)
        assert not [name for name in work.store.methods() if "refined" in name]
