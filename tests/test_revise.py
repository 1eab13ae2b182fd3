"""Tasks were added, dropped, changed or put in another order: what is kept is what would be made again, and nothing is deleted."""

import sys

import numpy as np
import pytest
import torch

from previa.cli import main
from previa.errors import StoreError, StudyError
from previa.run.anchor_runs import plan_anchors, train_anchors
from previa.run.anchors import anchors_of
from previa.run.bench import bench_of
from previa.run.fit import fit, jobs_of
from previa.run.joint import JOINT, truth
from previa.run.revise import revise, said
from previa.run.validate import GIVEN
from previa.run.work import opened
from previa.study.file import study_from_dict
from previa.study.simplex import key
from previa.study.store import Store
from tiny_folders import classifier, labelled, write_lines
from tiny_study import MODULE, NAME


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the tiny study's module, as current directory."""
    (tmp_path / f"{NAME}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop(NAME, None)


def tiny(folder, tasks="abc", *, where=None, finetune=None, out="out", **sections):
    return study_from_dict(
        {
            "study": {"name": "tiny", "model": f"{NAME}:build", "score": f"{NAME}:score", "out": out},
            "task": [{"name": task, "data": (where or {}).get(task, f"{NAME}:{task}")} for task in tasks],
            "finetune": {"steps": 8, "batch_size": 8, "ess": 100.0, "betas": [0.9, 0.9], **(finetune or {})},
            "mixture": {"seeds": 1, "snapshots": 1},
            "preview": {"steps": 2, "methods": ["simple", "warped", "anchored"]},
            "truth": {"steps": 2},
            **sections,
        },
        folder=folder,
    )


def done(study):
    """The study with its own runs and its truth, as a store would have it."""
    with opened(study) as work:
        fit(work)
        truth(work)


def true_scores(study):
    with Store.read(study.out / "study.db") as store:
        if JOINT not in store.methods():
            return {}
        preview = store.preview(JOINT)
        return {
            key(alpha): [items[a].tolist() for items in preview.items]
            for a, alpha in enumerate(preview.alphas)
        }


@pytest.mark.parametrize("sampling", ["loss", "sample"])
@pytest.mark.parametrize("dropped", ["a", "b", "c"])
def test_what_is_kept_when_a_task_is_dropped_is_what_would_be_trained_without_it(folder, dropped, sampling):
    rest = "abc".replace(dropped, "")
    done(tiny(folder, finetune={"sampling": sampling}))
    study = tiny(folder, rest, finetune={"sampling": sampling})
    found = revise(study)
    kept = true_scores(study)
    assert len(kept) == len(found.rows) == 3  # both corners, and the middle of the edge between them
    fresh = tiny(folder, rest, finetune={"sampling": sampling}, out="fresh")
    done(fresh)
    again = true_scores(fresh)
    assert {alpha: again[alpha] for alpha in kept} == kept  # every test item alike
    # nothing of it is trained again, and no own run
    with opened(study) as work:
        bench = bench_of(work.ingredients)
        assert all(bench.done(job) for job in jobs_of(bench))
        ids = {key(alpha) for alpha in work.store.preview(JOINT).alphas}
        truth(work)
        assert ids < {key(alpha) for alpha in work.store.preview(JOINT).alphas}
    assert {alpha: true_scores(study)[alpha] for alpha in kept} == kept


def test_nothing_is_deleted_and_a_second_revision_has_a_number_of_its_own(folder):
    first = tiny(folder)
    done(first)
    before = true_scores(first)
    assert revise(tiny(folder, "ab")).moved.name == "study-before-1.db"
    with Store.read(folder / "out" / "study-before-1.db") as old:
        assert old.tasks == ("a", "b", "c")
        assert len(old.preview(JOINT)) == len(before)
    assert revise(first).moved.name == "study-before-2.db"
    assert [path.name for path in sorted((folder / "out").glob("*.db*"))] == [
        "study-before-1.db", "study-before-2.db", "study.db",
    ]  # fmt: skip
    assert not list((folder / "out").glob(".revise*"))


def test_a_task_is_added_own_runs_stay_and_true_scores_lack_one(folder):
    done(tiny(folder, "ab"))
    with opened(tiny(folder, "ab")) as work:
        stamps = {path: path.stat().st_mtime_ns for path in (folder / "out" / "runs").rglob("*")}
        work.store.record(GIVEN, [0.5, 0.5], {"a": 0.4, "b": 0.5}, seconds=0)
    found = revise(tiny(folder, "abd"))
    assert found.rows == ()
    assert found.lost == {JOINT: 4, GIVEN: 1}
    assert found.runs == (2, 3)
    assert any("1 own runs" in what and seconds > 0 for what, seconds in found.seconds.items())
    with opened(tiny(folder, "abd")) as work:
        fit(work)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if path.is_file())


def test_where_one_tasks_data_changed_rows_without_weight_on_it_stay(folder):
    (folder / "others.py").write_text(
        f"from {NAME} import examples\n"
        "def less():\n    return examples(2, 20), examples(12, 35)\n"
        "def more():\n    return examples(2, 50), examples(12, 35)\n"
        "def harder():\n    return examples(2, 20), examples(14, 35)\n"
    )
    study = tiny(folder, where={"c": "others:less"})
    done(study)
    before = true_scores(study)
    other_test = revise(tiny(folder, where={"c": "others:harder"}), dry_run=True)
    assert other_test.changes.tested == ("c",)
    assert other_test.rows == ()  # every row has a score on it
    more = tiny(folder, where={"c": "others:more"})
    found = revise(more)
    assert (found.changes.trained, found.changes.tested) == (("c",), ())
    assert true_scores(more) == {
        alpha: before[alpha] for alpha in map(key, ([1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]))
    }
    sys.modules.pop("others", None)


def test_the_order_of_the_tasks_moves_columns(folder):
    study = tiny(folder)
    done(study)
    before = true_scores(study)
    turned = tiny(folder, "cab")
    found = revise(turned)
    assert found.changes.reordered
    assert len(found.rows) == len(before)
    a, b, c = before[key([0.5, 0.5, 0])]
    assert true_scores(turned)[key([0, 0.5, 0.5])] == [c, a, b]
    sampled = {"sampling": "sample"}
    done(tiny(folder, finetune=sampled, out="sampled"))
    kept = revise(tiny(folder, "cab", finetune=sampled, out="sampled")).rows
    # with sampling a pair whose order stays draws the same, one whose order turned does not
    assert {row.alpha for row in kept} == {(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0.5, 0.5)}


def test_brought_scores_stay_without_weight_on_what_was_dropped(folder):
    study = tiny(folder)
    with opened(study) as work:
        work.store.record(GIVEN, [0.3, 0.7, 0], {"a": 0.1, "b": 0.2, "c": 0.3}, seconds=0)
        work.store.record(GIVEN, [0.3, 0.4, 0.3], {"a": 0.1, "b": 0.2, "c": 0.3}, seconds=0)
    found = revise(tiny(folder, "ba"))
    assert [(row.method, row.alpha, row.scores) for row in found.rows] == [
        (GIVEN, (0.7, 0.3), {"a": 0.1, "b": 0.2})
    ]
    assert found.lost == {GIVEN: 1}


@pytest.mark.parametrize("tasks", ["abcd", "bc"])
def test_anchors_that_hold_are_anchors_of_the_new_study_the_others_are_put_aside(folder, tasks):
    with opened(tiny(folder)) as work:
        runs = fit(work)
        train_anchors(
            work, runs, plan_anchors(work, alphas=[[0, 0.5, 0.5], [0.5, 0.25, 0.25]], start="base", steps=4)
        )
        before = {anchor.alpha: anchor for anchor in anchors_of(work)[0]}
    found = revise(tiny(folder, tasks))
    wanted = {"abcd": [(0, 0.5, 0.5, 0), (0.5, 0.25, 0.25, 0)], "bc": [(0.5, 0.5)]}[tasks]
    assert [alpha for _, alpha in found.anchors] == wanted
    assert found.anchors_lost == 2 - len(wanted)
    with opened(tiny(folder, tasks)) as work:
        anchors, notes = anchors_of(work)
        assert not notes
        assert [anchor.alpha for anchor in anchors] == wanted
        own = anchors[0]
        assert own.digest == before[0, 0.5, 0.5].digest
        assert (own.steps, own.origin, own.seconds) == (4, "base", before[0, 0.5, 0.5].seconds)
        # and it is what would be trained now
        train_anchors(work, fit(work), plan_anchors(work, alphas=[wanted[0]], start="base", steps=5))
        train_anchors(work, fit(work), plan_anchors(work, alphas=[wanted[0]], start="base", steps=4))
        assert anchors_of(work)[0][0].digest == own.digest
    assert len(list((folder / "out" / "anchors-before-1").glob("*.json"))) == 2


def test_another_checkpoint_of_a_task_leaves_all_true_runs(tmp_path):
    """Joint runs start from the base: what a task brings is for its previews alone. The same of folders."""
    classifier(tmp_path / "base", seed=0)
    for number, name in enumerate(("a", "b", "better", "c")):
        model = classifier(tmp_path / name, seed=0)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
        model.save_pretrained(tmp_path / name)
        write_lines(tmp_path / f"{name}.jsonl", labelled(12, number))

    def of(**tasks):
        return study_from_dict(
            {
                "study": {"name": "folders", "model": "base"},
                "transformers": {"task_type": "sequence-classification"},
                "task": [
                    {"name": t, "checkpoint": at, "train": f"{t}.jsonl", "test": f"{t}.jsonl"}
                    for t, at in tasks.items()
                ],
                "adamw": {"steps": 2},
                "preview": {"methods": ["simple"], "steps": 2},
                "truth": {"steps": 2},
            },
            folder=tmp_path,
        )

    first = of(a="a", b="b")
    with opened(first) as work:
        truth(work)
    before = true_scores(first)
    found = revise(of(a="better", b="b"))
    assert found.changes.brought == ("a",)
    assert true_scores(first) == before
    found = revise(of(b="b", a="better"))
    assert len(found.rows) == len(before)
    found = revise(of(a="better", c="c"))
    assert (found.changes.dropped, found.changes.added) == (("b",), ("c",))
    assert (found.rows, found.lost) == ((), {JOINT: len(before)})


def test_a_dry_run_changes_nothing(folder):
    done(tiny(folder))
    files = {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
    found = revise(tiny(folder, "ab"), dry_run=True)
    assert found.moved is None
    assert len(found.rows) == 3
    assert {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()} == files


def test_what_is_no_change_of_tasks_is_refused(folder):
    with pytest.raises(StoreError, match="no store to revise"):
        revise(tiny(folder))
    done(tiny(folder))
    with pytest.raises(StudyError, match="nothing to revise"):
        revise(tiny(folder))
    with pytest.raises(StudyError, match=r"not only tasks changed: finetune.steps was 8 and is 9"):
        revise(tiny(folder, "ab", finetune={"steps": 9}))
    with (
        pytest.raises(StoreError, match="`previa revise` keeps what still holds"),
        opened(tiny(folder, "ab")),
    ):
        pass


def test_the_command_says_what_is_kept_and_what_is_left(folder, capsys):
    study = tiny(folder)
    done(study)
    file = folder / "study.toml"
    file.write_text(
        f'[study]\nname = "tiny"\nmodel = "{NAME}:build"\nscore = "{NAME}:score"\nout = "out"\n'
        + "".join(f'[[task]]\nname = "{task}"\ndata = "{NAME}:{task}"\n' for task in "ab")
        + "[finetune]\nsteps = 8\nbatch_size = 8\ness = 100.0\nbetas = [0.9, 0.9]\n[mixture]\nseeds = 1\nsnapshots = 1\n"
        '[preview]\nsteps = 2\nmethods = ["simple", "warped"]\n[truth]\nsteps = 2\n'
    )
    assert main(["revise", str(file), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "changed: dropped: c" in out
    assert "kept: 2 of 2 own runs" in out
    assert "kept: 3 of 8 true scores of joint runs" in out
    assert "to do: 3 weightings by 2 previews" in out
    assert "Nothing was changed." in out
    assert main(["revise", str(file)]) == 0
    assert "study-before-1.db. Next: previa preview" in capsys.readouterr().out
    assert np.isclose(len(said(revise(study, dry_run=True), study)), 3)
