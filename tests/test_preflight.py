"""Pre-flight checks: what each says of studies that are well and of such that are not, and that nothing is trained."""

import json
import sys

import numpy as np
import pytest
import torch

from previa.cli import main
from previa.core.params import Flat, Layout
from previa.io.checkpoint import save_checkpoint
from previa.run.fit import fit
from previa.run.joint_loss import training_losses
from previa.run.live import live
from previa.run.pipeline import preview
from previa.run.preflight import preflight
from previa.run.task_vectors import overlaps, task_vectors
from previa.run.there import base_there, there
from previa.run.work import opened
from previa.study.file import read_study, study_from_dict
from tiny_folders import classifier, labelled, write_lines
from tiny_study import MODULE, NAME, write_study


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the tiny study's module, as current directory."""
    (tmp_path / f"{NAME}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop(NAME, None)


def table(tasks="abc", methods=("simple", "ivon_hessian", "squared_gradients"), **sections):
    return {
        "study": {"name": "tiny", "model": f"{NAME}:build", "score": f"{NAME}:score", "out": "out"},
        "task": [{"name": task, "data": f"{NAME}:{task}"} for task in tasks],
        "finetune": {"steps": 8, "batch_size": 8, "ess": 100.0, "betas": [0.9, 0.9]},
        "adamw": {"steps": 8},
        "mixture": {"seeds": 1, "snapshots": 1},
        "preview": {"steps": 2, "methods": [*methods]},
        "truth": {"steps": 0},
        **sections,
    }


def by_name(checks):
    return {one.name: one for one in checks}


def brought(folder, *vectors, base=None):
    """A study whose tasks bring checkpoints of these parameters, as displacements from the model as it is built."""
    settings = table("abc"[: len(vectors)], ("simple",))
    with opened(
        study_from_dict({**settings, "study": {**settings["study"], "out": "first"}}, folder=folder)
    ) as work:
        model, flat = work.ingredients.model, work.ingredients.base
        for task, vector in zip(settings["task"], vectors, strict=True):
            theta = Flat(flat.layout, vector(flat.vector))
            save_checkpoint(folder / f"{task['name']}.safetensors", {**model.state_dict(), **theta})
            task["checkpoint"] = f"{task['name']}.safetensors"
    return study_from_dict(settings, folder=folder)


# measures


def test_norms_cosines_and_distances_are_those_of_the_vectors_over_chunks(monkeypatch):
    monkeypatch.setattr("previa.run.task_vectors.CHUNK", 7)
    draw = torch.Generator().manual_seed(0)
    base, *means = torch.randn(4, 50, generator=draw)
    found = task_vectors(base, means)
    d = torch.stack(means).double() - base.double()
    assert np.allclose(found.norms, d.norm(dim=1))
    assert np.allclose(found.cosines, torch.nn.functional.cosine_similarity(d[:, None], d[None], dim=-1))
    assert np.allclose(found.distances, torch.cdist(d, d))
    assert found.base == pytest.approx(float(base.double().norm()))
    assert np.allclose(found.to_base, torch.nn.functional.cosine_similarity(torch.stack(means), base, dim=-1))


def test_overlap_is_one_of_a_precision_with_its_multiples_and_none_of_disjoint_ones(monkeypatch):
    monkeypatch.setattr("previa.run.task_vectors.CHUNK", 3)
    h = torch.tensor([1.0, 4.0, 0.25, 9.0, 2.0])
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])
    b = overlaps([h, 7 * h, h * mask, h * (1 - mask)])
    p, q = (h / h.sum()).double(), (h * mask / (h * mask).sum()).double()
    assert b[0, 1] == pytest.approx(1)
    assert b[2, 3] == pytest.approx(0, abs=1e-12)
    assert b[0, 2] == pytest.approx(float((p * q).sqrt().sum()))


# a study


def test_before_anything_is_fitted_it_says_what_is_missing_and_trains_nothing(folder):
    file = write_study(
        folder, pretrain={"data": f"{NAME}:d", "steps": 5}, mixture={"seeds": 1, "snapshots": 1}
    )
    with opened(read_study(file)) as work:
        before = {name: p.clone() for name, p in work.ingredients.model.state_dict().items()}
        assert base_there(work.ingredients) is None
        found = by_name(preflight(work))
        assert found["runs"].level == "note"
        assert found["runs"].numbers["missing"] == ["a", "b", "c"]
        assert "The base is not pretrained yet" in found["runs"].sentence
        assert set(found) == {"runs", "base", "memory", "test sets"}
        assert found["test sets"].numbers["seconds_of_previews"] > 0
        assert all(torch.equal(before[name], p) for name, p in work.ingredients.model.state_dict().items())
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["study.db"]


def test_a_base_that_was_pretrained_otherwise_is_not_there(folder):
    mixture = {"seeds": 1, "snapshots": 1}
    file = write_study(folder, pretrain={"data": f"{NAME}:d", "steps": 5}, mixture=mixture)
    with opened(read_study(file)) as work:
        fit(work)
        assert base_there(work.ingredients).digest
    kept = (folder / "out" / "base" / "pretrain.json").read_bytes()
    file = write_study(folder, pretrain={"data": f"{NAME}:d", "steps": 6}, mixture=mixture)
    study = read_study(file)
    from previa.run.resolve import load

    assert base_there(load(study)) is None
    assert (folder / "out" / "base" / "pretrain.json").read_bytes() == kept


def test_a_fitted_study_has_all_checks_in_its_store_as_numbers(folder):
    study = study_from_dict(table(), folder=folder)
    with opened(study) as work:
        runs = fit(work)
        files = {path: path.stat().st_mtime_ns for path in (folder / "out" / "runs").rglob("ivon*")}
        found = by_name(preflight(work))
        assert set(found) == {"runs", "base", "distance", "curvature", "barrier", "memory", "test sets"}
        assert files == {path: path.stat().st_mtime_ns for path in (folder / "out" / "runs").rglob("ivon*")}
        kept = work.store.get("preflight")
        assert [one["name"] for one in kept] == list(found)
        assert all(
            one["sentence"].endswith(".") and one["level"] in ("ok", "note", "warning") for one in kept
        )
        d = [(one.mean.vector - runs.base.vector).double() for one in runs.tasks.values()]
        assert found["distance"].numbers["norms"]["b"] == pytest.approx(float(d[1].norm()))
        h = [one.ivon[0][-1].natural()[0].double() for one in runs.tasks.values()]
        overlap = float((h[0] * h[2]).sqrt().sum() / (h[0].sum() * h[2].sum()).sqrt())
        assert found["curvature"].numbers["ivon"]["overlap"]["a | c"] == pytest.approx(overlap)
        assert found["memory"].numbers["memory"]["a"] == pytest.approx(0.9**8)
        assert found["test sets"].numbers["items"] == {"a": 30, "b": 25, "c": 35}
        assert found["test sets"].level == "warning"


def test_the_barrier_is_the_loss_in_the_middle_over_the_mean_of_the_ends(folder):
    with opened(study_from_dict(table(methods=("simple",)), folder=folder)) as work:
        runs = fit(work)
        numbers = by_name(preflight(work))["barrier"].numbers
        losses = training_losses(work.ingredients, 256)
        a, b = (runs.tasks[task].mean.vector for task in "ab")
        seen = {}
        with live(work.ingredients.model, work.ingredients.layout) as place:
            for name, vector in {"a": a, "b": b, "middle": (a + b) / 2, "base": runs.base.vector}.items():
                place(vector)
                seen[name] = losses(work.ingredients.model)
        mean = {name: (one["a"] + one["b"]) / 2 for name, one in seen.items()}
        own = (seen["a"]["a"] + seen["b"]["b"]) / 2
        assert numbers["barrier"]["a | b"] == pytest.approx(mean["middle"] - (mean["a"] + mean["b"]) / 2)
        assert numbers["own"]["a | b"] == pytest.approx(own)
        kept = (mean["base"] - mean["middle"]) / (mean["base"] - own)
        assert numbers["kept"]["a | b"] == pytest.approx(kept)


@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_a_barrier_does_not_depend_on_the_convention(folder, convention):
    settings = table(methods=("simple",))
    study = {**settings["study"], "convention": convention, "out": convention}
    finetune = (
        settings["finetune"] if convention == "mean" else {"steps": 8, "batch_size": 8, "betas": [0.9, 0.9]}
    )
    with opened(study_from_dict({**settings, "study": study, "finetune": finetune}, folder=folder)) as work:
        fit(work)
        numbers = by_name(preflight(work))["barrier"].numbers
        assert all(0 < loss < 5 for loss in numbers["middle"].values())  # of one example, not of a task's sum


# what is wrong is called by name


def test_checkpoints_of_another_start_are_a_warning(folder):
    noise = torch.Generator().manual_seed(1)

    def stranger(base):
        return base.norm() * torch.nn.functional.normalize(torch.randn(base.shape, generator=noise), dim=0)

    with opened(brought(folder, lambda base: base + 0.01, stranger)) as work:
        found = by_name(preflight(work))["base"]
        assert found.level == "warning"
        assert found.sentence.startswith("b is 1.")
    with opened(brought(folder, lambda base: base + 0.01, lambda base: base - 0.01 * base)) as work:
        assert by_name(preflight(work))["base"].level == "ok"


def test_experts_that_pull_against_each_other_or_went_unequally_far_are_noted(folder):
    for first, second, words in (
        (0.1, -0.1, "pull the parameters against each other"),
        (0.1, 0.01, "10.0 times as far"),
        (0.1, 0.0, "its checkpoint was not trained"),
        (0.1, 0.1, "they went much the same way"),
    ):
        with opened(brought(folder, lambda base, d=first: base + d, lambda base, d=second: base + d)) as work:
            found = by_name(preflight(work))["distance"]
            assert words in found.sentence
            assert (found.level == "ok") == (words == "they went much the same way")


def test_a_barrier_is_a_warning(folder):
    """The same function with hidden units in another order: the average of the two is neither."""

    def turned(base):
        layout = Layout.of(
            {
                "0.weight": torch.zeros(6, 4),
                "0.bias": torch.zeros(6),
                "2.weight": torch.zeros(3, 6),
                "2.bias": torch.zeros(3),
            }
        )
        own = dict(Flat(layout, 6 * base))
        order = torch.tensor([3, 4, 5, 0, 1, 2])
        parts = {
            "0.weight": own["0.weight"][order],
            "0.bias": own["0.bias"][order],
            "2.weight": own["2.weight"][:, order],
        }
        return torch.cat([(parts.get(name, own[name])).flatten() for name in layout.places])

    settings = table("ab", ("simple",))
    own = {**settings["study"], "out": "trained"}
    with opened(study_from_dict({**settings, "study": own}, folder=folder)) as work:
        trained = fit(work).tasks["a"].mean.vector.clone()
    with opened(brought(folder, lambda base: 6 * trained, lambda base: turned(trained))) as work:
        found = by_name(preflight(work))["barrier"]
        assert found.numbers["barrier"]["a | b"] > 0
        assert found.sentence.startswith("There is a barrier: halfway between a | b")


def test_what_is_left_of_hess_init_is_a_warning_where_a_method_merges_by_it(folder):
    slow = {"steps": 8, "batch_size": 8, "ess": 100.0, "betas": [0.9, 0.9999]}
    for methods, level in ((("simple", "ivon_hessian"), "warning"), (("simple",), "ok")):
        with opened(study_from_dict(table(methods=methods, finetune=slow), folder=folder)) as work:
            found = by_name(preflight(work))["memory"]
            assert found.level == level
            assert "100 % of hess_init is left" in found.sentence


def test_once_previewed_the_smallest_difference_is_of_paired_items(folder):
    with opened(study_from_dict(table(methods=("simple",)), folder=folder)) as work:
        runs = fit(work)
        loose = by_name(preflight(work))["test sets"].numbers
        seen = preview(work, runs)["simple"]
        tight = by_name(preflight(work))["test sets"].numbers
        assert (loose["paired"], tight["paired"]) == (False, True)
        best = int(np.argmax(seen.mean))
        rows = [a for a in np.linspace(0, len(seen) - 1, 50).astype(int).tolist() if a != best]
        errors = [
            np.sqrt(
                sum(float((i[best] - i[a]).astype(np.float64).var()) / i.shape[1] / 9 for i in seen.items)
            )
            for a in dict.fromkeys(rows)
        ]
        assert tight["smallest_difference"] == pytest.approx(1.96 * float(np.median(errors)))
        assert tight["seconds_per_scoring"] is None  # nothing was scored


def test_a_method_that_lacks_a_posterior_is_said_before_it_fails(folder):
    study = brought(folder, lambda base: base + 0.01, lambda base: base - 0.01)
    from dataclasses import replace

    wrong = replace(study, preview=replace(study.preview, methods=("simple", "ivon_hessian")))
    with opened(wrong) as work:
        assert there(work).problem is not None
        found = by_name(preflight(work))
        assert found["runs"].level == "warning"
        assert "without an IVON posterior" in found["runs"].sentence
        assert "distance" in found


def test_folders_are_checked_for_what_transformers_models_have(tmp_path):
    classifier(tmp_path / "base", seed=0)
    for number, task in enumerate("ab"):
        model = classifier(tmp_path / task, seed=0)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
        model.save_pretrained(tmp_path / task)
        write_lines(tmp_path / f"{task}.jsonl", labelled(12, number))
    study = study_from_dict(
        {
            "study": {"name": "folders", "model": "base"},
            "transformers": {"task_type": "sequence-classification"},
            "task": [{"name": t, "checkpoint": t, "train": f"{t}.jsonl", "test": f"{t}.jsonl"} for t in "ab"],
            "preview": {"methods": ["simple"], "steps": 2},
        },
        folder=tmp_path,
    )
    with opened(study) as work:
        found = by_name(preflight(work))
        assert "vocabularies" in found["base"].sentence
        assert found["base"].level == "ok"
        assert found["barrier"].numbers["examples"] == {"a": 12, "b": 12}
        assert "memory" not in found


def test_the_command_prints_a_line_each_and_all_numbers_as_json(folder, capsys):
    file = write_study(
        folder, preview={"methods": ["simple"], "steps": 2}, mixture={"seeds": 1, "snapshots": 1}
    )
    assert main(["check", str(file), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "note     runs" in out
    assert "WARNING  test sets" in out
    assert "1 warning." in out
    assert main(["check", str(file), "--quiet", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == [
        "runs",
        "base",
        "memory",
        "test sets",
    ]
