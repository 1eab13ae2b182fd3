"""A few true runs beside a preview: which are proposed, what they say, and what is trained, read and kept."""

import csv
import sys

import numpy as np
import pytest
import torch

from previa.cli import main
from previa.cli.validate import _table
from previa.errors import InputError, StoreError, StudyError
from previa.run.anchors import anchors_of
from previa.run.fit import fit
from previa.run.joint import JOINT, finetune_at
from previa.run.pipeline import preview
from previa.run.validate import (
    GIVEN,
    exact_corners,
    ingest,
    plan_runs,
    report,
    seconds_of_run,
    train_runs,
    true_runs,
)
from previa.run.work import opened
from previa.study.design import propose
from previa.study.file import read_study, study_from_dict
from previa.study.preference import Preference
from previa.study.preview import Preview
from previa.study.quality import pairwise_accuracy, spearman
from previa.study.recommend import recommend
from previa.study.runs_csv import GivenRun, GivenRuns, read_runs
from previa.study.simplex import find, grid, same, show, uniform
from previa.study.store import Store
from previa.study.validation import previewed_at, proposals, validated
from tiny_folders import classifier, labelled, write_lines
from tiny_study import NAME, write_study

TASKS = ("a", "b", "c")
GRID = grid(3, 10)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, as current directory."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop(NAME, None)


def hill(alphas, top=(0.6, 0.3, 0.1), low=0.0):
    a = np.asarray(alphas, dtype=np.float64)
    scores = 1 - 0.5 * (a - np.asarray(top)) ** 2 - low
    return Preview(TASKS, a, scores)


def of(preview, number, **options):
    even = uniform(3)
    return proposals(preview, number, **{"uniform": even, "size_proportional": [0.2, 0.3, 0.5], **options})


# which runs


def test_proposed_are_the_pick_the_centre_uniform_size_proportional_and_then_what_tells_most():
    seen = hill(GRID)
    advice = recommend(seen, uniform=uniform(3), size_proportional=uniform(3))
    found = of(seen, 6)
    assert [one.why for one in found] == [
        "pick", *["robust centre"] * (not same(advice.centre, advice.alpha)), "uniform", "size-proportional",
        *["most telling"] * (3 - (not same(advice.centre, advice.alpha))),
    ]  # fmt: skip
    assert found[0].alpha == pytest.approx((0.6, 0.3, 0.1))
    alphas = [one.alpha for one in found]
    assert len(set(alphas)) == 6
    telling = next(i for i, one in enumerate(found) if one.why == "most telling")
    wanted = propose(3, 1, alphas[:telling])[0]
    off = np.linalg.norm(GRID - wanted, axis=1)
    assert np.linalg.norm(np.array(alphas[telling]) - wanted) == pytest.approx(off.min())


def test_no_weighting_is_proposed_twice_or_again():
    seen = hill(grid(3, 5), top=(1 / 3, 1 / 3, 1 / 3))
    first = of(seen, 3, size_proportional=uniform(3))
    assert [one.why for one in first[:2]] == ["pick", "uniform"] or first[1].why == "robust centre"
    again = of(seen, 12, known=[one.alpha for one in first])
    every = [*(one.alpha for one in first), *(one.alpha for one in again)]
    assert all(not same(a, b) for i, a in enumerate(every) for b in every[:i])
    inside = (seen.alphas.max(axis=1) < 1).sum()
    assert inside <= len(of(seen, 1000)) <= inside + 5  # all there are, not for ever


def test_a_floor_moves_the_pick_that_is_proposed():
    seen = Preview(TASKS, GRID, np.sqrt(GRID))
    plain, floored = of(seen, 1), of(seen, 1, preference=Preference(floors={"c": 0.8}))
    assert plain[0].alpha[2] < 0.64 <= floored[0].alpha[2]


# what they say


def test_regret_rank_agreement_and_offset_are_those_of_the_plain_formulas():
    at = GRID[[5, 20, 33, 40, 51]]
    seen, true = hill(GRID, low=0.25), hill(at, top=(0.2, 0.4, 0.4))
    found = validated(seen, true)
    p, s = hill(at, low=0.25).mean, true.mean
    assert found.regret == pytest.approx(s.max() - s[p.argmax()])
    assert found.best == tuple(at[s.argmax()])
    assert found.offset == pytest.approx((p - s).mean())
    assert found.spearman == spearman(p, s)
    assert found.pairwise == pairwise_accuracy(p, s)
    assert found.task_offsets["b"] == pytest.approx((hill(at, low=0.25).scores - true.scores)[:, 1].mean())
    assert [run.value for run in found.runs] == pytest.approx(sorted(s, reverse=True))
    assert found.pairs == 10
    assert found.regret_noise is None
    assert not found.picked
    assert "its pick was not trained" in found.sentence


def test_a_preview_that_is_only_low_has_no_regret_and_says_how_low():
    at = GRID[[find(GRID, [0.6, 0.3, 0.1]), 20, 33]]
    found = validated(hill(GRID, low=0.2), hill(at))
    assert (found.regret, found.spearman, found.pairwise, found.picked) == (0, 1.0, 1.0, True)
    assert "chooses the best: its pick, (0.6, 0.3, 0.1)" in found.sentence
    assert "0.200 too low" in found.sentence
    assert "a check, no measurement" in found.sentence


def test_the_noise_of_the_test_items_is_said_beside_a_regret():
    rng = np.random.default_rng(0)
    at = GRID[[13, 33]]
    items = tuple((rng.random((2, 50)) < 0.8).astype(np.float32) for _ in TASKS)
    true = Preview(TASKS, at, np.stack([i.mean(axis=1) for i in items], axis=1), items)
    wrong = Preview(
        TASKS,
        GRID,
        -np.stack([np.interp(GRID[:, 0], np.sort(at[:, 0]), true.mean[np.argsort(at[:, 0])])] * 3, 1),
    )
    found = validated(wrong, true)
    assert found.regret == pytest.approx(np.ptp(true.mean))
    assert found.regret_noise > 0
    assert ("cannot be told from 0" in found.sentence) == (found.regret <= found.regret_noise)
    assert found.spearman is None


def test_runs_that_differ_by_less_than_the_noise_are_said_to_be_alike():
    at, rng = GRID[[13, 33, 40]], np.random.default_rng(1)
    for gap, alike in ((0.0, True), (0.5, False)):
        chances = np.array([0.5, 0.5, 0.5 + gap])[:, None]
        items = tuple((rng.random((3, 100)) < chances).astype(np.float32) for _ in TASKS)
        true = Preview(TASKS, at, np.stack([i.mean(axis=1) for i in items], axis=1), items)
        found = validated(hill(GRID), true)
        assert (np.ptp(true.mean) <= found.regret_noise) == alike
        assert ("their order says little" in found.sentence) == alike


def test_a_preview_at_another_weighting_is_interpolated_and_marked():
    off = np.array([[0.43, 0.31, 0.26]])
    scores, interpolated = previewed_at(hill(GRID), np.concatenate([GRID[:1], off]))
    assert interpolated.tolist() == [False, True]
    assert np.array_equal(scores[0], hill(GRID).scores[0])
    assert np.allclose(scores[1], hill(off).scores[0], atol=1e-3)  # a smooth surface
    assert [run.interpolated for run in validated(hill(GRID), hill(off)).runs] == [True]


def test_regret_keeps_the_floors():
    at = GRID[[find(GRID, alpha) for alpha in ([0.6, 0.3, 0.1], [0.3, 0.3, 0.4], [0.1, 0.1, 0.8])]]
    true = Preview(TASKS, at, [[0.9, 0.9, 0.5], [0.7, 0.7, 0.7], [0.6, 0.6, 0.8]])
    floored = validated(hill(GRID), true, preference=Preference(floors={"c": 0.65}))
    assert floored.best == tuple(at[1])
    assert validated(hill(GRID), true).best == tuple(at[0])


def test_what_cannot_be_validated_is_said():
    with pytest.raises(InputError, match="at least one true run"):
        validated(hill(GRID), hill(GRID[:0]))
    with pytest.raises(InputError, match="tasks are"):
        validated(hill(GRID), Preview(("a", "b", "d"), GRID, hill(GRID).scores))


# a study


def tiny(folder, methods=("simple", "warped", "anchored"), **sections):
    settings = {"preview": {"methods": [*methods]}, "mixture": {"seeds": 1, "snapshots": 1}, **sections}
    return read_study(write_study(folder, **settings))


def test_only_the_proposed_runs_are_trained_each_as_the_truth_trains_it(folder):
    study = tiny(folder)  # whose [truth] grid has 6 weightings
    with opened(study) as work:
        preview(work, fit(work))
        assert seconds_of_run(work, [0.5, 0.5, 0]) > 0
        plan = plan_runs(work, 2)
        assert JOINT not in work.store.methods()
        train_runs(work, plan)
        truth = work.store.preview(JOINT)
        assert len(truth) == 2
        assert work.store.preview(JOINT).ok.all()
        found, _ = report(work, plan)
        assert {run.alpha for run in found.runs} == {one.alpha for one in plan.proposed}
        assert found.regret_noise is not None
        kept = work.store.get("validation")
        assert kept["proposed"][0] == {"alpha": list(plan.proposed[0].alpha), "why": "pick"}
        assert kept["regret"] == found.regret
        assert kept["sentence"] == found.sentence
        # the same run by `previa finetune`
        before = work.store.preview(JOINT)
        finetune_at(work, plan.proposed[1].alpha)
        assert np.array_equal(work.store.preview(JOINT).scores, before.scores)
        # and the next ones are others
        assert not {one.alpha for one in plan_runs(work, 3).proposed} & {run.alpha for run in found.runs}


def test_brought_scores_join_the_runs_trained_here_and_the_same_line_replaces(folder):
    with opened(tiny(folder)) as work:
        preview(work, fit(work))
        assert true_runs(work.store) is None
        with pytest.raises(InputError, match="no true run is known yet"):
            report(work, plan_runs(work, 0))
        run = GivenRun((0.333333, 0.333333, 0.333334), {"a": 0.5, "b": 0.6, "c": 0.7}, "mine", 2)
        ingest(work, GivenRuns((run,)))
        ingest(work, GivenRuns((GivenRun(run.alpha, {"a": 0.9, "b": 0.6, "c": 0.7}, "", 2),)))
        given = work.store.preview(GIVEN)
        assert given.alphas.tolist() == [[1 / 3] * 3]  # thirds are thirds, and so one of the preview's
        assert given.scores.tolist() == [[0.9, 0.6, 0.7]]
        train_runs(work, plan_runs(work, 1))
        both = true_runs(work.store)
        assert len(both) == 2
        assert both.items == (None, None, None)
        alpha = work.store.preview(JOINT).alphas[0]
        said = ingest(work, GivenRuns((GivenRun(tuple(alpha), run.scores, "", 3),), (5, 6)))
        assert "was trained here" in said[0]
        assert "lines 5, 6" in said[1]
        assert len(true_runs(work.store)) == 2


def test_earlier_runs_come_with_their_scores_and_with_their_checkpoints_together(folder):
    with opened(tiny(folder)) as work:
        fit(work)
        made = finetune_at(work, [0.5, 0.25, 0.25], path=folder / "mine.safetensors")
    (folder / "runs.csv").write_text(
        "alpha_a,alpha_b,alpha_c,score_a,score_b,score_c\n0.5,0.25,0.25,"
        + ",".join(repr(made.scores[task]) for task in TASKS) + "\n0.07,0.13,0.8,0.5,0.5,0.5\n"
    )  # fmt: skip
    table = {
        "study": {"name": "tiny", "model": f"{NAME}:build", "score": f"{NAME}:score", "out": "new"},
        "task": [{"name": task, "data": f"{NAME}:{task}"} for task in TASKS],
        "anchor": [{"alpha": [0.5, 0.25, 0.25], "checkpoint": "mine.safetensors"}],
        "finetune": {"steps": 8, "batch_size": 8, "ess": 100.0, "betas": [0.9, 0.9]},
        "preview": {"steps": 4, "methods": ["simple", "anchored"]},
        "truth": {"steps": 0},
    }
    with opened(study_from_dict(table, folder=folder)) as work:
        preview(work, fit(work))
        ingest(work, read_runs(folder / "runs.csv", TASKS))
        found, _ = report(work, plan_runs(work, 0, method="anchored"))
        assert len(anchors_of(work)[0]) == 1
        at = next(run for run in found.runs if run.alpha == (0.5, 0.25, 0.25))
        assert at.previewed == pytest.approx(at.value)  # there the preview is the run itself
        assert [run.interpolated for run in found.runs if run.alpha != at.alpha] == [True]


@pytest.mark.parametrize("wrong", [61.2, 1.4, -5.0])
def test_scores_outside_0_and_1_are_refused_where_all_previews_are_inside(folder, wrong):
    with opened(tiny(folder)) as work:
        preview(work, fit(work))
        run = GivenRun((0.5, 0.5, 0.0), {"a": 0.0, "b": wrong, "c": 1.0}, "", 4)
        with pytest.raises(
            InputError, match=rf"line 4, column 'score_b': found {wrong:g}, .* 0 to 1 was expected"
        ) as e:
            ingest(work, GivenRuns((run,)))
        assert ("percent" in str(e.value)) == (wrong > 1)
        assert GIVEN not in work.store.methods()


@pytest.mark.parametrize(
    ("low", "width", "taken", "refused"),
    [
        (-0.64, 0.08, (-0.6, -0.35, -0.87), (55.0, 1.4, -0.3, -5.0)),  # log-likelihoods
        (-0.64, 0.0, (-0.6, -0.46, -0.8), (55.0, 1.4, -5.0)),  # a task that the weights hardly move
        (28.0, 4.0, (20.0, 40.0), (0.31, 60.0)),  # BLEU beside a share
    ],
)
def test_scores_far_from_the_previewed_range_are_refused(folder, low, width, taken, refused):
    with opened(tiny(folder, ("simple",))) as work:
        for x, alpha in zip(np.linspace(0, 1, len(GRID)), GRID, strict=True):
            work.store.record("simple", alpha, dict.fromkeys(TASKS, low + width * x), seconds=0.0)
        inside = dict.fromkeys(TASKS, low)
        for score in refused:
            rows = (
                GivenRun((0.5, 0.5, 0), inside, "", 2),
                GivenRun((0, 0.5, 0.5), inside | {"c": score}, "", 3),
            )
            with pytest.raises(InputError, match=r"line 3, column 'score_c'.*previews of this task are from"):
                ingest(work, GivenRuns(rows))
            assert GIVEN not in work.store.methods()
        ingest(
            work,
            GivenRuns(tuple(GivenRun(tuple(GRID[i]), inside | {"c": s}, "", i) for i, s in enumerate(taken))),
        )
        assert len(work.store.preview(GIVEN)) == len(taken)


def test_of_many_true_runs_the_ten_best_and_the_new_ones_are_printed(capsys):
    runs = validated(hill(GRID), hill(GRID, low=0.1))
    _table(TASKS, runs, [runs.runs[3].alpha, runs.runs[40].alpha])
    lines = capsys.readouterr().out.splitlines()
    shown = [show(run.alpha) for run in (*runs.runs[:10], runs.runs[40])]
    assert [line[: line.index(")") + 1] for line in lines[1:12]] == shown
    assert lines[12] == f"... and {len(GRID) - 11} more"
    assert lines[13].startswith("preview - truth")
    _table(TASKS, validated(hill(GRID), hill(GRID[:9])), [])
    assert "more" not in capsys.readouterr().out


def test_corners_are_exact_for_families_by_the_joint_recipe_only(folder):
    with opened(tiny(folder, ("simple", "ivon_hessian", "squared_gradients", "warped"))) as work:
        assert exact_corners(work, "simple")
        assert not exact_corners(work, "squared_gradients")
        assert not exact_corners(work, "mixture")
        work.store.put("powers", {"warped": {"chosen": {"method": "squared_gradients", "p": 1.0}}})
        assert not exact_corners(work, "warped")
        work.store.put("powers", {"warped": {"chosen": {"method": "ivon_hessian", "p": 1.0}}})
        assert exact_corners(work, "warped")
        with pytest.raises(StoreError, match="previa preview"):
            plan_runs(work, 1)


@pytest.mark.parametrize("heads", [False, True])
def test_a_study_of_folders_trains_its_runs_and_one_with_heads_takes_them_from_a_table(tmp_path, heads):
    classifier(tmp_path / "base", seed=0)
    for number, task in enumerate("ab"):
        model = classifier(tmp_path / task, seed=0)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
        model.save_pretrained(tmp_path / task)
        write_lines(tmp_path / f"{task}.jsonl", labelled(12, number))
    own = {"heads": ["classifier"]} if heads else {}
    study = study_from_dict(
        {
            "study": {"name": "folders", "model": "base"},
            "transformers": {"task_type": "sequence-classification", **own},
            "task": [{"name": t, "checkpoint": t, "train": f"{t}.jsonl", "test": f"{t}.jsonl"} for t in "ab"],
            "adamw": {"steps": 2},
            "preview": {"methods": ["simple"], "steps": 4},
        },
        folder=tmp_path,
    )
    with opened(study) as work:
        preview(work, fit(work))
        plan = plan_runs(work, 1)
        if heads:
            with pytest.raises(StudyError, match=r"not trained here.*previa validate --template"):
                train_runs(work, plan)
            ingest(work, GivenRuns((GivenRun(plan.proposed[0].alpha, {"a": 0.5, "b": 0.5}, "", 2),)))
        else:
            train_runs(work, plan)
        found, _ = report(work, plan)
        assert len(found.runs) == 1
        assert "One true run is known" in found.sentence
        assert not exact_corners(work, "simple")  # trained elsewhere


def test_a_weighting_whose_run_failed_is_proposed_again(folder):
    with opened(tiny(folder)) as work:
        preview(work, fit(work))
        plan = plan_runs(work, 2)
        work.store.fail(JOINT, plan.proposed[0].alpha, "the judge is out", seconds=1.0)
        assert plan_runs(work, 2).proposed == plan.proposed
        assert plan_runs(work, 2).known == 0


def test_the_command_proposes_writes_a_table_reads_it_and_redraws(folder, capsys, monkeypatch):
    monkeypatch.setattr("previa.show.outputs.find_spec", lambda name: None)  # figures are tested elsewhere
    file = write_study(
        folder,
        preview={"methods": ["simple", "warped"]},
        mixture={"seeds": 1, "snapshots": 1},
        truth={"steps": 0},
    )
    one = ("--quiet", "--workers", "1")
    said = lambda *words: (main([*map(str, words), *one]), capsys.readouterr())  # noqa: E731
    said("preview", file)
    code, out = said("validate", file, "--runs", 3, "--dry-run")
    assert code == 0
    assert out.out.count("to train: (") == 3
    assert ", pick, about" in out.out
    assert "Nothing was trained" in out.out
    code, out = said("validate", file, "--runs", 3, "--template", folder / "runs.csv")
    assert code == 0
    assert "--results" in out.out
    with (folder / "runs.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert float(rows[0]["rows_a"]) == pytest.approx(float(rows[0]["alpha_a"]))  # mean losses
    for number, row in enumerate(rows):
        row |= {f"score_{task}": 0.5 + 0.1 * number for task in TASKS}
    with (folder / "runs.csv").open("w", newline="") as table:
        write = csv.DictWriter(table, rows[0])
        write.writeheader()
        write.writerows(rows[:2])
    code, out = said("validate", file, "--results", folder / "runs.csv")
    assert code == 0
    assert "of 1 pairs of runs" in out.out
    with Store.read(folder / "out" / "study.db") as store:
        assert JOINT not in store.methods()
        assert len(store.preview(GIVEN)) == 2
        assert store.get("validation")["spearman"] is None
    page = (folder / "out" / "report.html").stat().st_mtime_ns
    code, out = said("validate", file, "--runs", 1)
    assert code == 0
    assert "Of 3 true runs" in out.out
    assert (folder / "out" / "report.html").stat().st_mtime_ns > page
    assert said("validate", file, "--results", "x", "--template", "y")[0] == 2
