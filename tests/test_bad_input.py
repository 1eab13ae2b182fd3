"""Bad input as its users meet it: one clear sentence that says where, what was found, what was expected and what to do.

Nothing is lost by it: what was there is left as it was, and what could be done is done.
"""

import json
import math
import os
import re
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from previa.cli import main
from previa.data import digits
from tiny_study import NAME, rows, write_study

ALONE = ("--workers", "1", "--quiet")
SIMPLE = {"preview": {"methods": ["simple"]}}
WEIGHT = "0.weight"  # [6, 4]


@pytest.fixture(autouse=True)
def forget_the_module():
    yield
    sys.modules.pop(NAME, None)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """As where matplotlib is not installed: drawing takes seconds."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a study that was previewed by simple averaging and IVON's Hessian."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        study = write_study(folder, preview={"methods": ["simple", "ivon_hessian"]}, mixture={"seeds": 1})
        assert main(["preview", str(study), *ALONE]) == 0
    sys.modules.pop(NAME)
    return folder


def refused(capsys, words: list[object]) -> str:
    """The one sentence that these words are refused with."""
    assert main([str(word) for word in words]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if not re.search(r": \d+ of \d+$", line)]
    assert len(said) == 1, said
    assert said[0].startswith("previa: ")
    assert said[0][-1] in ".?)"
    assert "Traceback" not in said[0]
    assert "should not happen" not in said[0]
    return said[0].removeprefix("previa: ")


# Study files and the functions they name ----------------------------------------------------------------------------------

STUDIES = {
    "an unknown key": (
        {"finetune": {"step": 3}},
        "study.toml, [finetune]: there is no key 'step'. Did you mean 'steps'? Known are: steps, batch_size,",
    ),
    "an unknown section": ({"fintune": {"steps": 3}}, "there is no section 'fintune'. Did you mean 'finetune'?"),
    "a value out of range": ({"finetune": {"lr": -1}}, "[finetune]: lr should be a finite number above 0. Found -1"),
    "one task only": ({"tasks": "a"}, "study.toml: a study weighs at least two tasks, each a [[task]]. Found 1."),
    "two tasks of one name": ({"tasks": "aba"}, "[[task]] number 3: two tasks are named 'a'. Rename one."),
    "a missing module": (
        {"study": {"model": "tiny_task:build"}},
        "model = 'tiny_task:build': there is no module 'tiny_task' in {folder}, in the current directory, or installed. Did "
        "you mean 'tiny_tasks'?",
    ),
    "a missing function": ({"study": {"score": f"{NAME}:scor"}}, f"module '{NAME}' has no 'scor'. Did you mean 'score'?"),
    "a missing data function": ({"b": {"data": f"{NAME}:bb"}}, f"data of task 'b' = '{NAME}:bb': module '{NAME}' has no 'bb'"),
    "a model that is none": ({"study": {"model": f"{NAME}:a"}}, "returned tuple; expected a torch.nn.Module"),
    "data that is no pair": ({"b": {"data": f"{NAME}:build"}}, "returned Sequential; expected the pair (train, test)"),
    "a loss that raises": (
        {"study": {"loss": f"{NAME}:bad_loss"}, **SIMPLE},
        "task 'a', IVON run 0: ValueError: no such batch (in bad_loss, line ",
    ),
    "a training that diverges": (
        {"finetune": {"lr": 1e30}, **SIMPLE},
        "task 'a', IVON run 0: finetune at (1): the loss of task 'a' is NaN or infinite at step ",
    ),
    "a checkpoint that is not there": (
        {"a": {"checkpoint": "none.safetensors"}, **SIMPLE},
        "{folder}/none.safetensors: there is no such file; expected a safetensors file. Check the path.",
    ),
    "a posterior without its checkpoint": (
        {"a": {"posterior": "h.safetensors"}},
        "[[task]] 'a': a posterior needs its checkpoint. Add checkpoint = ...",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STUDIES)
def test_a_study_that_cannot_run_says_why(case, folder, capsys):
    change, sentence = STUDIES[case]
    said = refused(capsys, ["run", write_study(folder, **change), *ALONE])
    assert sentence.replace("{folder}", str(folder)) in said


def test_a_study_file_that_is_none_is_named(folder, capsys):
    (folder / "study.toml").write_text("[study\n")
    assert "study.toml: this is not valid TOML" in refused(capsys, ["run", "study.toml"])
    assert "none.toml: this study file cannot be read: No such file" in refused(capsys, ["run", "none.toml"])


# Checkpoints and posteriors that tasks bring ------------------------------------------------------------------------------

Change = dict[str, Tensor | None]
BROUGHT: dict[str, tuple[Change, Change | None, str]] = {
    "a missing tensor": ({WEIGHT: None}, None, "task 'a', {checkpoint}: tensor '0.weight' is missing"),
    "an extra tensor": (
        {"9.weight": torch.ones(3)},
        None,
        "task 'a', {checkpoint}: tensor '9.weight' is not in the study's model. All tasks must come from one base model.",
    ),
    "a misshapen tensor": (
        {WEIGHT: torch.ones(6, 5)},
        None,
        "tensor '0.weight' has shape (6, 5), but those of the study's model have (6, 4). All tasks must come from one base "
        "model. Was a token or a class added for one of them?",
    ),
    "NaN in a checkpoint": (
        {WEIGHT: torch.full((6, 4), math.nan)},
        None,
        "{checkpoint}: tensor '0.weight' holds NaN or infinity in 24 of 24 entries read; expected finite numbers.",
    ),
    "infinity in a checkpoint": ({WEIGHT: torch.full((6, 4), math.inf)}, None, "'0.weight' holds NaN or infinity"),
    "a precision of zero": (
        {},
        {f"precision/{WEIGHT}": torch.zeros(6, 4)},
        "{posterior}: precision of tensor '0.weight': the smallest entry is 0, but it must be above zero.",
    ),
    "a negative precision": ({}, {f"precision/{WEIGHT}": -torch.ones(6, 4)}, "the smallest entry is -1, but it must be above"),
    "NaN in a precision": (
        {},
        {f"precision/{WEIGHT}": torch.full((6, 4), math.nan)},
        "{posterior}: tensor 'precision/0.weight' holds NaN or infinity in 24 of 24 entries",
    ),
    "a missing precision": ({}, {f"precision/{WEIGHT}": None}, "3 tensors have a precision and 4 a mean; expected the same"),
    "a misshapen precision": ({}, {f"precision/{WEIGHT}": torch.ones(6, 5)}, "'0.weight' has shape (6, 5)"),
}  # fmt: skip


def changed(source: Path, target: Path, change: Change) -> Path:
    """A copy of a safetensors file with other tensors, or without one."""
    tensors = {**load_file(source), **change}
    with safe_open(source, "pt") as file:
        save_file({name: t for name, t in tensors.items() if t is not None}, target, file.metadata())
    return target


@pytest.mark.parametrize("case", BROUGHT)
def test_a_bad_checkpoint_or_posterior_of_a_task_is_named_before_anything_is_trained(
    case, folder, finished, capsys
):
    change, precision, sentence = BROUGHT[case]
    runs, names = finished / "out/runs/a", {"checkpoint": folder / "a.safetensors"}
    changed(runs / "model.safetensors", names["checkpoint"], change)
    methods = ["simple"]
    if precision is not None:
        names["posterior"] = changed(runs / "ivon-0-8.safetensors", folder / "h.safetensors", precision)
        methods.append("ivon_hessian")
    own = {name: path.name for name, path in names.items()}
    study = write_study(folder, a=own, preview={"methods": methods}, mixture={"seeds": 1})
    said = refused(capsys, ["preview", study, *ALONE])
    assert sentence.format(**names) in said
    assert not (folder / "out/runs").exists()


@pytest.mark.parametrize("size", [0, 5, 300, -1])
def test_a_checkpoint_that_was_cut_short_is_named(size, folder, finished, capsys):
    whole = (finished / "out/runs/a/model.safetensors").read_bytes()
    (folder / "a.safetensors").write_bytes(whole[:size])
    study = write_study(folder, a={"checkpoint": "a.safetensors"}, **SIMPLE)
    said = refused(capsys, ["preview", study, *ALONE])
    wrong = "not a whole safetensors file" if size else "the file is empty; expected safetensors"
    assert said.startswith(f"{folder / 'a.safetensors'}: {wrong}")
    assert "opy, download or save it again" in said


# Merging files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({WEIGHT: None}, "task 'b': tensor '0.weight' is missing; those of task 'a' have it. All tasks must come from one base"),
        ({"x": torch.ones(1)}, "task 'b': tensor 'x' is not in those of task 'a'."),
        ({WEIGHT: torch.ones(6, 5)}, "'0.weight' has shape (6, 5), but those of task 'a' have (6, 4)."),
        ({WEIGHT: torch.full((6, 4), math.inf)}, "task 'b': b.safetensors: tensor '0.weight' holds NaN or infinity"),
    ],
    ids=["missing", "extra", "misshapen", "infinite"],
)  # fmt: skip
def test_checkpoints_that_do_not_merge_say_why_and_the_old_result_stays(
    change, sentence, folder, finished, capsys
):
    a = finished / "out/runs/a/model.safetensors"
    changed(finished / "out/runs/b/model.safetensors", folder / "b.safetensors", change)
    Path("merged.safetensors").write_text("old")
    words = ["merge", "--task", f"a={a}", "--task", "b=b.safetensors", "--out", "merged.safetensors"]
    assert sentence in refused(capsys, [*words, "--alpha", "0.4,0.6"])
    assert Path("merged.safetensors").read_text() == "old"
    assert {path.name for path in folder.iterdir()} == {"b.safetensors", "merged.safetensors"}


def test_a_bad_precision_or_a_posterior_for_a_checkpoint_is_refused(folder, finished, capsys):
    a, b = (finished / f"out/runs/{task}/model.safetensors" for task in "ab")
    p, q = (finished / f"out/runs/{task}/ivon-0-8.safetensors" for task in "ab")
    changed(q, folder / "q.safetensors", {f"precision/{WEIGHT}": torch.zeros(6, 4)})
    both = ["merge", "--alpha", "0.4,0.6", "--out", "m.safetensors", "--task", f"a={a}", "--task"]
    bad = [*both, f"b={b}", "--precision", f"a={p}", "--precision", "b=q.safetensors"]
    assert "task 'b': precision of tensor '0.weight': the smallest entry is 0" in refused(capsys, bad)
    assert "'b' has no partner" in refused(capsys, [*both, f"b={b}", "--precision", f"a={p}"])
    assert f"task 'b': {q} is a posterior file, not a checkpoint" in refused(capsys, [*both, f"b={q}"])
    assert "without a posterior's provenance" in refused(capsys, ["posterior", "show", a])


ALPHAS = {
    "1.5,-0.5": ("must not be negative; found -0.5", "weights should not be negative"),
    "0.5,0.6": ("alpha sums to 1.1; without a base model it must sum to 1", "weights should sum to 1. Found (0.5, 0.6)"),
    "nan,1": ("alpha holds NaN or infinity", "weights should be finite"),
    "0.2,0.3,0.5": ("--alpha 0.2,0.3,0.5: 3 weights; expected 2, one for each of a, b.", "3 weights; expected 2, one for each of a, b."),
}  # fmt: skip


@pytest.mark.parametrize("alpha", ALPHAS)
def test_weights_off_the_simplex_are_refused_before_any_work(alpha, folder, finished, capsys):
    words = ["merge", "--alpha", alpha, "--out", "merged.safetensors"]
    for task in "ab":
        words += ["--task", f"{task}={finished}/out/runs/{task}/model.safetensors"]
    assert ALPHAS[alpha][0] in refused(capsys, words)
    study = write_study(folder, "ab")
    assert ALPHAS[alpha][1] in refused(capsys, ["finetune", study, "--alpha", alpha])
    assert not (folder / "out").exists()


def test_a_warm_start_that_the_study_does_not_have_is_refused_before_any_work(folder, capsys):
    study = write_study(folder, "ab", **SIMPLE)
    said = refused(capsys, ["finetune", study, "--alpha", "1,0", "--warm-start", "best"])
    assert said == "--warm-start best: the study has no such preview. Its methods are simple."
    assert not (folder / "out").exists()


# Stores -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(finished, folder):
    """A copy of the finished study; its store."""
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    return folder / "out/study.db"


def set_schema(store: Path) -> None:
    with closing(sqlite3.connect(store)) as db:
        db.execute("PRAGMA user_version = 99")
        db.commit()


STORES = {
    "cut short": (lambda store: store.write_bytes(store.read_bytes()[:9000]), "this store is damaged"),
    "overwritten": (lambda store: store.write_bytes(b"x" * 9000), "this is no result store of previa"),
    "of another schema": (set_schema, "this store has schema 99, and this version of previa reads schema 1."),
}


@pytest.mark.parametrize("case", STORES)
def test_a_store_that_cannot_be_used_is_named_and_left_as_it_is(case, copied, capsys):
    spoil, sentence = STORES[case]
    spoil(copied)
    before = copied.read_bytes()
    for words in (
        ["run", "study.toml", *ALONE],
        ["recommend", "out"],
        ["report", "study.toml"],
        ["compare", copied],
    ):
        said = refused(capsys, words)
        assert f"out/study.db: {sentence}" in said
        assert re.search("use another path|move it away|give the study another folder", said)
    assert copied.read_bytes() == before
    assert (copied.parent / "runs/a/model.safetensors").exists()


def test_a_store_of_another_study_names_what_differs(copied, capsys):
    before = rows(copied)
    write_study(copied.parent.parent, finetune={"lr": 0.2}, b={"data": f"{NAME}:d"})
    said = refused(capsys, ["run", "study.toml", *ALONE])
    assert "out/study.db: this store holds the results of another study: " in said
    assert "finetune.lr was 0.1 and is 0.2" in said
    assert "Put that back, or give the study another output folder." in said
    assert rows(copied) == before


def test_a_store_that_is_not_there_asks_whether_the_study_has_run(folder, capsys):
    write_study(folder)
    assert refused(capsys, ["recommend", "study.toml"]).endswith(
        "out/study.db: there is no such file. Has the study been run?"
    )


def test_a_method_or_task_that_is_not_in_the_store_is_named(finished, capsys):
    out = finished / "out"
    said = refused(capsys, ["recommend", out, "--method", "mixture"])
    assert said.endswith("there is no preview 'mixture', only simple, ivon_hessian.")
    assert "['a', 'b', 'c']. Found 'x'" in refused(capsys, ["recommend", out, "--metric-weight", "x=1"])
    assert "not negative, and one positive" in refused(capsys, ["report", out, "--metric-weight", "a=-1"])


# Folders ------------------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_named_before_any_work(finished, folder, capsys):
    study = write_study(folder, **SIMPLE)
    (folder / "file").touch()
    a = f"a={finished}/out/runs/a/model.safetensors"
    for words in (
        ["run", study, "--out", "file/x", *ALONE],
        ["demo", "--out", "file/x"],
        ["report", finished / "out", "--out", "file/x"],
        ["finetune", study, "--alpha", "0.2,0.3,0.5", "--checkpoint", "file/x/y.safetensors"],
        ["merge", "--task", a, "--alpha", "1", "--out", "file/x/y.safetensors"],
    ):
        said = refused(capsys, words)
        assert "file/x" in said
        assert "Not a directory" in said or "its folder file/x does not exist" in said
    assert "this is a folder" in refused(
        capsys, ["finetune", study, "--alpha", "0.2,0.3,0.5", "--checkpoint", folder]
    )
    assert not (folder / "out").exists()


@pytest.fixture
def locked():
    """A folder that nobody may write; its user is nobody, since every folder is writable to the administrator."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    if os.geteuid():
        yield folder
    else:
        os.seteuid(65534)
        yield folder
        os.seteuid(0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_folder_that_may_not_be_written_is_named(locked, capsys, monkeypatch):
    monkeypatch.chdir("/")
    for out in (locked, locked / "out"):
        said = refused(capsys, ["demo", "--out", out])
        assert said == f"{out}: the folder cannot be written: Permission denied. Choose another with --out."


# Scores -------------------------------------------------------------------------------------------------------------------


def test_a_score_that_raises_or_is_nan_costs_its_weighting_alone_and_is_tried_again(folder, capsys):
    study, store = write_study(folder, **SIMPLE), folder / "out/study.db"
    fates = Path("fates")
    fates.write_text("oxn" + "o" * 14 + "ox")  # 17 weightings, then the joint runs
    assert main(["run", str(study), *ALONE]) == 0
    said = capsys.readouterr().out
    assert (
        "Note: simple has no score at (0, 0.25, 0.75) and 1 more: task 'b': RuntimeError: the judge is out (in score, line "
        in said
    )
    assert "Note: joint has no score at (0, 0.5, 0.5): task 'b': RuntimeError" in said
    assert "The same command tries again what failed." in said
    before = rows(store)
    assert len(before) == 17 + 8
    failed = {row: message for row, (_, _, message) in before.items() if message}
    assert sorted(method for method, _ in failed) == ["joint", "simple", "simple"]
    assert any("task 'b': 25 of 25 scores are NaN or infinite." in message for message in failed.values())
    summary = json.loads((folder / "out/summary.json").read_text())
    assert summary["methods"]["simple"]["failed"] == 3 - 1
    fates.unlink()
    assert main(["run", str(study), *ALONE]) == 0
    assert "has no score" not in capsys.readouterr().out
    after = rows(store)
    assert {row: after[row] for row in before if row not in failed} == {
        row: before[row] for row in before if row not in failed
    }
    assert not any(message for _, _, message in after.values())


def test_where_every_score_fails_the_reason_is_said_and_what_was_trained_is_kept(folder, capsys):
    study = write_study(folder, **SIMPLE)
    Path("fates").write_text("x" * 17)
    said = refused(capsys, ["run", study, *ALONE])
    assert said.startswith(
        "simple: all 17 weightings failed; at (0, 0, 1): task 'b': RuntimeError: the judge is out"
    )
    said = refused(capsys, ["recommend", study])
    assert (
        "simple has no score at any weighting; at (0, 0, 1): task 'b': RuntimeError: the judge is out" in said
    )
    made = (folder / "out/runs/a/ivon-0.json").stat().st_mtime_ns
    assert main(["preview", str(study), *ALONE]) == 0
    assert (folder / "out/runs/a/ivon-0.json").stat().st_mtime_ns == made


def test_a_method_that_failed_everywhere_does_not_hide_the_others(folder, capsys):
    study = write_study(folder, preview={"methods": ["simple", "ivon_hessian"]}, mixture={"seeds": 1})
    Path("fates").write_text("o" * 17 + "x" * 17)
    assert "ivon_hessian: all 17 weightings failed" in refused(capsys, ["preview", study, *ALONE])
    assert main(["report", str(study)]) == 0
    summary = json.loads((folder / "out/summary.json").read_text())
    assert summary["recommendation"]["method"] == "simple"
    assert (summary["methods"]["ivon_hessian"]["failed"], summary["methods"]["ivon_hessian"]["pick"]) == (
        17,
        None,
    )
    said = refused(capsys, ["recommend", study, "--method", "ivon_hessian"])
    assert "ivon_hessian has no score at any weighting" in said


# What is not installed ----------------------------------------------------------------------------------------------------


def test_the_demo_without_scikit_learn_says_how_to_get_it(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digits._images.cache_clear()
    said = refused(capsys, ["demo", "--out", "demo-out"])
    assert (
        said == "The digits come with scikit-learn, which is not installed: run `pip install 'previa[demo]'`."
    )


@pytest.mark.parametrize("missing", ["matplotlib", "mpltern"])
def test_without_matplotlib_everything_else_is_written_and_it_is_said(missing, folder, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "matplotlib")
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["preview", str(write_study(folder, **SIMPLE)), *ALONE]) == 0
    assert "Note: no PNG figures were drawn; `pip install 'previa[plot]'` brings" in capsys.readouterr().out
    made = {path.name for path in (folder / "out").iterdir()}
    assert made >= {"report.html", "summary.json", "preview.csv"}
    assert not [name for name in made if name.endswith(".png")]
    assert "No PNG figures" in (folder / "out/report.html").read_text()
