"""The command line as its users meet it: every command, its exit code, its errors, and what a stop or a kill leaves."""

import io
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

import click
import pytest
import torch

import previa
from previa.cli import cli, main
from previa.errors import StoreError
from previa.io.checkpoint import open_checkpoint
from previa.study.settings import METHODS
from previa.study.store import Store
from tiny_study import NAME, rows, write_study

ALONE = ("--workers", "1", "--quiet")
WEIGHTINGS, JOINT = (
    17,
    8,
)  # of three tasks on grids of 4 and 2 steps, with uniform and size-proportional weights


@pytest.fixture(autouse=True)
def forget_the_module():
    yield
    sys.modules.pop(NAME, None)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a study that has run, where said.out and said.err hold what it said."""
    folder = tmp_path_factory.mktemp("finished")
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert main(["run", str(write_study(folder)), *ALONE]) == 0
    (folder / "said.out").write_text(out.getvalue())
    (folder / "said.err").write_text(err.getvalue())
    return folder


@pytest.fixture
def no_figures(monkeypatch):
    """As where matplotlib is not installed: drawing takes seconds."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def commands(group: click.Group = cli, path: tuple[str, ...] = ()):
    """Every command, with the words that call it."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


# Help ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "command"),
    [((), cli), *commands()],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_every_help_shows_an_example_that_the_command_understands(path, command, capsys):
    assert main([*path, "--help"]) == 0
    shown = capsys.readouterr().out
    example = re.search(r"Examples?:\n((?: +previa .*\n)+)", shown)
    assert example, shown
    for line in example[1].splitlines():
        _, *words = shlex.split(re.split(r" {3,}", line.strip())[0])
        assert tuple(words[: len(path)]) == path
        called = cli
        while isinstance(called, click.Group):
            called = called.commands[words.pop(0)]
        called.make_context(called.name, words)  # raises where an option or an argument is wrong


def test_the_commands_are_those_of_the_documentation_in_the_order_of_the_work(capsys):
    assert list(cli.commands) == [
        "demo", "run", "check", "fit", "preview", "anchors", "refine", "recommend", "compare", "validate", "revise", "report",
        "view", "finetune", "merge", "posterior", "export",
    ]  # fmt: skip
    assert main([]) == 2
    shown = capsys.readouterr()
    assert [line.split()[0] for line in shown.err.split("Commands:\n")[1].splitlines()] == list(cli.commands)
    assert "..." not in shown.err.split("Commands:\n")[1]  # no summary is cut


def test_help_and_errors_of_usage_import_neither_torch_nor_numpy():
    code = f"""
import sys
from previa.cli import main
for words in {[[*path, "--help"] for path, _ in [((), cli), *commands()]]!r}:
    assert main(words) == 0
assert main(["--version"]) == 0 and main(["merge"]) == 2
print({{"torch", "numpy", "matplotlib", "rich"}} & set(sys.modules))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "set()"


# Every command works ------------------------------------------------------------------------------------------------------


def test_run_writes_everything_and_says_what_to_open(finished):
    said, out = (finished / "said.out").read_text(), finished / "out"
    assert {path.name for path in out.iterdir()} >= {
        "study.db", "preview.csv", "summary.json", "report.html", "contours.png", "histograms.png", "per_task.png", "runs",
    }  # fmt: skip
    assert said.splitlines()[-1] == f"Open the report: {out / 'report.html'}"
    for method in METHODS:
        assert re.search(rf"^{method} +\d\.\d\d\d ", said, re.MULTILINE)
        assert f"preview, {method}: {WEIGHTINGS} of {WEIGHTINGS}" in (finished / "said.err").read_text()
    assert (
        "Verdict: Train at the pick" in said
    )  # the tiny study picks a corner: the joint run is the task's own
    assert max(len(line) for line in said.split("\n\n")[1].splitlines()) <= 80


def test_fit_then_preview_do_the_parts_of_run_and_recommend_needs_a_preview(folder, capsys, no_figures):
    study = str(write_study(folder, preview={"methods": ["simple", "ivon_hessian"]}))
    assert main(["fit", study, *ALONE]) == 0
    assert "previa preview" in capsys.readouterr().out
    for command in ("recommend", "compare", "report"):
        assert main([command, study]) == 1
        assert "nothing was previewed yet" in capsys.readouterr().err
    assert main(["preview", study, *ALONE]) == 0
    assert "Open the report" in capsys.readouterr().out
    assert {method for method, _ in rows(folder / "out/study.db")} == {"simple", "ivon_hessian"}
    assert main(["compare", study]) == 1
    assert "fewer than three weightings have a joint run" in capsys.readouterr().err


def test_demo_runs_its_own_study_file_in_its_folder(folder, monkeypatch, capsys, no_figures):
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(previa.cli.study, "_run", lambda *arguments: calls.append(arguments))
        assert main(["demo", "--out", "mine"]) == 0
    assert calls[0][0].read_text().count("[[task]]") == 3
    write_study(folder, preview={"methods": ["simple"]}, study={"out": "."})
    (folder / "study.toml").rename(folder / "mine" / "study.toml")  # as if its user had changed it
    assert main(["demo", "--out", "mine", *ALONE]) == 0
    assert f"Open the report: {folder / 'mine' / 'report.html'}" in capsys.readouterr().out


def test_recommend_takes_a_study_its_folder_or_its_store(finished, capsys):
    sentences = set()
    for results in ("study.toml", "out", "out/study.db"):
        assert main(["recommend", str(finished / results)]) == 0
        sentences.add(capsys.readouterr().out)
    assert len(sentences) == 1
    said = (
        sentences.pop()
    )  # the tiny study picks a corner, where the joint run is the task's own: no merged model to ship
    assert said.startswith("Verdict: Train at the pick: its gain over uniform weights is more than noise.")
    assert "\nUse a = " in said
    assert main(["recommend", str(finished / "out"), "--json", "--method", "simple"]) == 0
    assert sum(json.loads(capsys.readouterr().out)["alpha"]) == pytest.approx(1)


def test_metric_weights_change_the_recommendation(finished, capsys):
    assert main(["recommend", str(finished / "out"), "--metric-weight", "a=b"]) == 2
    assert "'b' is no number" in capsys.readouterr().err
    picks = {}
    for task in "abc":
        others = [word for other in "abc" if other != task for word in ("--metric-weight", f"{other}=0")]
        assert main(["recommend", str(finished / "out"), "--method", "simple", "--json", *others]) == 0
        found = json.loads(capsys.readouterr().out)
        picks[task] = tuple(found["alpha"])
        assert found["score"] == pytest.approx(found["per_task"][task])
    assert len(set(picks.values())) > 1


def test_the_study_file_decides_as_it_stands_now(finished, folder, capsys):
    file = write_study(
        folder, study={"out": str(finished / "out")}, recommend={"method": "mixture"}, c={"metric_weight": 0}
    )
    found = []
    for results in (file, finished / "out"):
        assert main(["recommend", str(results), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["alpha"] != found[1]["alpha"]
    assert found[0]["score"] == pytest.approx(sum(found[0]["per_task"][task] for task in "ab") / 2)
    assert "warped" in found[0]["others"]
    assert "warped" not in found[1]["others"]


@pytest.mark.parametrize(
    ("tasks", "changes", "said"),
    [
        ("ab", {}, "dropped 'c'"),
        ("abcd", {}, "added 'd'"),
        ("bac", {}, "their order was 'a', 'b', 'c' and is 'b', 'a', 'c'"),
        ("abc", {"b": {"data": f"{NAME}:d"}}, f'task \'b\'.data was "{NAME}:b" and is "{NAME}:d"'),
    ],
)
def test_results_of_other_tasks_are_no_advice_on_these(finished, folder, capsys, tasks, changes, said):
    file = write_study(folder, tasks, study={"out": str(finished / "out")}, **changes)
    for command in ("recommend", "compare", "report"):
        assert main([command, str(file)]) == 1
        message = capsys.readouterr().err
        assert said in message
        assert f"`previa revise {file}`" in message


def test_a_folder_without_results_means_the_study_file_in_it(finished, capsys):
    assert main(["recommend", str(finished)]) == 0
    of_the_folder = capsys.readouterr().out
    assert main(["recommend", str(finished / "study.toml")]) == 0
    assert capsys.readouterr().out == of_the_folder


def test_compare_prints_a_table_or_json(finished, capsys):
    assert main(["compare", str(finished / "study.toml")]) == 0
    assert f"Best of {JOINT} joint runs" in capsys.readouterr().out
    assert main(["compare", str(finished / "study.toml"), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["methods"]) == {*METHODS, "warped"}


def test_report_writes_into_a_new_folder_and_names_its_files(finished, folder, capsys):
    assert main(["report", str(finished / "out"), "--out", "else/where"]) == 0
    names = capsys.readouterr().out.split()
    assert all((folder / name).stat().st_size for name in names)
    assert {name.rpartition("/")[2] for name in names} >= {"report.html", "summary.json", "preview.csv"}


def test_finetune_writes_a_checkpoint_and_scores_and_disturbs_no_report(finished, folder, capsys):
    study = str(finished / "study.toml")
    words = ["finetune", study, "--alpha", "0.2,0.3,0.5", "--quiet"]
    assert main([*words, "--checkpoint", "mine.safetensors"]) == 0
    said = capsys.readouterr().out
    assert re.fullmatch(r"Scores: a \S+, b \S+, c \S+\nModel: mine.safetensors\n", said)
    model = previa_model()
    model.load_state_dict(dict(open_checkpoint(folder / "mine.safetensors")))
    assert main([*words, "--warm-start", "mixture"]) == 0
    assert "joint_from_mixture-0.2-0.3-0.5.safetensors" in capsys.readouterr().out
    assert main(["compare", study, "--json"]) == 0  # where warm-started runs are neither preview nor truth
    assert set(json.loads(capsys.readouterr().out)["methods"]) == {*METHODS, "warped"}


def test_anchors_are_announced_trained_and_reported_and_then_refined(folder, capsys, no_figures):
    study = str(write_study(folder, preview={"methods": ["simple", "warped", "anchored"]}))
    assert main(["anchors", study, "--budget", "2", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines() == [
        "to train: (0.333333, 0.333333, 0.333333), 3 steps from the preview, 0.38 of a joint run",
        "to train: (0, 0.5, 0.5), 3 steps from the preview, 0.38 of a joint run",
        "2 runs, 0.75 joint runs in all. Nothing was trained.",
    ]
    assert not (folder / "out/runs").exists()
    assert main(["anchors", study, "--budget", "1", *ALONE]) == 0
    said = capsys.readouterr().out
    assert "Warped weights: weights to the power" in said
    assert "can anchor the preview" not in said
    assert "One joint run is an anchor" in said
    assert (
        main(["anchors", study, "--alpha", "0.5,0,0.5", "--from", "base", "--steps", "full", "--dry-run"])
        == 0
    )
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [
        "there: (0.333333, 0.333333, 0.333333) from preview", "to train: (0.5, 0, 0.5), 8 steps from the base, 1 of a joint run"
    ]  # fmt: skip
    assert main(["refine", study, "--alpha", "0.5,0,0.5", "--steps", "2,8", "--quiet"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"weights +steps +score +over the preview +joint runs", table[0])
    assert [re.sub(r" +", " ", line).split(" ")[3] for line in table[1:4]] == ["0", "2", "8"]
    assert table[3].endswith("1.00")
    with Store.read(folder / "out/study.db") as store:
        assert store.get("method") == "anchored"
        assert {"anchored", "scores", "scores_gp", "refined_2", "refined_8"} <= set(store.methods())


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["anchors", "study.toml", "--budget", "2", "--alpha", "0.5,0.5,0"], 2, "give one of the two"),
        (["anchors", "study.toml", "--steps", "many"], 2, "'many' should be a whole number from 1 up"),
        (["anchors", "study.toml", "--alpha", "1,0,0"], 1, "is a corner of the simplex"),
        (["anchors", "study.toml", "--alpha", "0.5,0.5"], 1, "2 weights; expected 3"),
        (["refine", "study.toml", "--alpha", "0.5,0.5,0", "--steps", "5,3"], 1, "rising whole numbers"),
        (["refine", "study.toml"], 2, "Missing option '--alpha'"),
    ],
)
def test_wrong_words_about_anchors_are_named(folder, capsys, words, code, message):
    write_study(folder, preview={"methods": ["simple", "anchored"]})
    assert main(words) == code
    assert message in capsys.readouterr().err


def test_the_command_that_is_proposed_is_of_the_same_files(folder, capsys, no_figures):
    (folder / "my study").mkdir()
    study = write_study(folder, preview={"methods": ["simple", "anchored"]})
    moved = study.rename(folder / "my study" / study.name)
    (folder / f"{NAME}.py").rename(moved.with_name(f"{NAME}.py"))
    assert main(["preview", "my study/study.toml", "--out", "my out", *ALONE]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "previa anchors 'my study/study.toml' --budget 4 --out 'my out'" in said


def test_refine_says_wrong_steps_before_it_trains(folder, capsys):
    write_study(folder, preview={"methods": ["simple", "anchored"]})
    assert main(["refine", "study.toml", "--alpha", "0.5,0.5,0", "--steps", "5,3"]) == 1
    assert "rising whole numbers" in capsys.readouterr().err
    assert not (folder / "out/runs").exists()


def test_anchors_that_would_serve_nothing_are_refused(folder, capsys):
    write_study(folder, preview={"methods": ["simple", "warped"]})
    assert main(["anchors", "study.toml"]) == 1
    assert "methods of [preview] has no 'anchored', which is what anchors serve" in capsys.readouterr().err


def previa_model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))


def test_merge_averages_checkpoints_and_follows_their_posteriors(finished, folder, capsys):
    runs = finished / "out" / "runs"
    words = ["merge", "--alpha", "0.4,0.6", "--out", "merged.safetensors"]
    for task in "ab":
        words += ["--task", f"{task}={runs / task / 'model.safetensors'}"]
    assert main(words) == 0
    a, b = (open_checkpoint(runs / task / "model.safetensors") for task in "ab")
    merged = dict(open_checkpoint(folder / "merged.safetensors"))
    torch.testing.assert_close(merged["0.weight"], 0.4 * a["0.weight"] + 0.6 * b["0.weight"])
    for task in "ab":
        words += ["--precision", f"{task}={runs / task / 'ivon-0-8.safetensors'}"]
    assert main([*words, "--dtype", "float16"]) == 0
    weighted = open_checkpoint(folder / "merged.safetensors")
    assert weighted.dtype_of("0.weight") == torch.float16
    assert not torch.allclose(weighted["0.weight"].float(), merged["0.weight"], atol=1e-3)
    assert capsys.readouterr().out == "Model: merged.safetensors\n" * 2


def test_posterior_files_are_made_and_shown(folder, capsys):
    study = write_study(folder)
    assert main(["posterior", "squared-gradients", str(study), *ALONE]) == 0
    made = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert set(made) == set("abc")
    assert not list(folder.glob("out/runs/*/ivon*"))  # nothing else is trained
    assert main(["posterior", "show", made["a"]]) == 0
    shown = dict(re.split(r"  +", line) for line in capsys.readouterr().out.splitlines())
    assert shown["source"] == "squared_gradients"
    assert (shown["convention"], shown["examples"], shown["parameters"]) == ("mean", "40", "51")


def test_progress_bars_go_where_results_do_not(folder, capsys):
    study = str(write_study(folder, preview={"methods": ["simple"]}))
    assert main(["fit", study, "--workers", "1"]) == 0
    said = capsys.readouterr()
    assert "3/3" in said.err
    assert said.out.count("\n") == 1


# Exit codes ---------------------------------------------------------------------------------------------------------------


def test_a_real_process_ends_with_the_code_and_one_sentence(folder):
    def call(*words: str) -> tuple[int, str]:
        made = subprocess.run([sys.executable, "-m", "previa", *words], capture_output=True, text=True)
        assert made.stdout == ""
        return made.returncode, made.stderr

    assert call("recommend", "none.db") == (
        1,
        "previa: none.db: there is no such file. Has the study been run?\n",
    )
    code, said = call("recommend", "none.db", "--debug")  # wherever it stands
    assert code == 1
    assert "Traceback" in said
    code, said = call("recommend")
    assert code == 2
    assert "Missing argument" in said
    assert "Try 'previa recommend --help'" in said


def test_a_reader_that_has_had_enough_is_no_error(finished):
    command = f"{shlex.quote(sys.executable)} -m previa recommend {shlex.quote(str(finished / 'out'))} --json | head -1"
    made = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (made.stdout, made.stderr) == ("{\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runn", "x"], "Did you mean 'run'?"),
        (["run"], "Missing argument 'STUDY.toml'"),
        (["run", "x", "--workers", "0"], "'--workers'"),
        (["run", "x", "--worker", "1"], "Did you mean '--workers'?"),
        (["finetune", "x"], "Missing option '--alpha'"),
        (["finetune", "study.toml", "--alpha", "a,b"], "should be numbers with commas between, as 0.4,0.6"),
        (["merge", "--task", "a", "--alpha", "1", "--out", "x"], "'a' should be NAME=VALUE"),
        (["merge", "--task", "a=1", "--task", "a=2", "--alpha", "1", "--out", "x"], "'a' is given twice"),
    ],
)  # fmt: skip
def test_wrong_usage_is_2(words, said, folder, capsys):
    write_study(folder)
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_debug_raises_the_error_itself_and_a_bug_says_how_to_report_it(folder, monkeypatch, capsys):
    (folder / "study.db").write_bytes(b"x" * 5000)
    with pytest.raises(StoreError):
        main(["--debug", "recommend", "study.db"])

    def bug(path):
        raise KeyError("surprise")

    monkeypatch.setattr(previa.study.store.Store, "read", bug)
    assert main(["recommend", "study.db"]) == 1
    assert re.fullmatch(
        r"previa: an error that should not happen, KeyError: 'surprise'\. Run again with --debug .*\n",
        capsys.readouterr().err,
    )
    with pytest.raises(KeyError):
        main(["recommend", "study.db", "--debug"])


# Stopped and killed -------------------------------------------------------------------------------------------------------


def start(folder, *words: str) -> subprocess.Popen:
    """`previa` in a process, and a group, of its own, where each score takes 150 ms."""
    environment = {**os.environ, "TINY_SLOW": "0.15", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "previa", *words], cwd=folder, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for_rows(process: subprocess.Popen, store, method: str, count: int) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        try:
            if len(rows(store, method)) >= count:
                return
        except sqlite3.OperationalError:  # not made yet
            pass
        time.sleep(0.01)
    raise TimeoutError


def wait_for_end_of_all(group: int) -> None:
    """Worker processes, too."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise TimeoutError("workers outlive their parent")


def records(folder) -> dict[str, int]:
    return {
        path.name: path.stat().st_mtime_ns
        for path in folder.glob("out/**/*.json")
        if path.parent != folder / "out"
    }


@pytest.mark.parametrize(
    ("phase", "stop"), [("simple", signal.SIGKILL), ("joint", signal.SIGKILL), ("joint", signal.SIGINT)]
)
def test_a_run_stopped_in_its_middle_goes_on_with_what_is_missing(phase, stop, folder, no_figures):
    study, store = write_study(folder), folder / "out" / "study.db"
    if phase == "joint":
        assert main(["preview", str(study), *ALONE]) == 0
    process = start(folder, "run", "study.toml", "--workers", "1" if phase == "simple" else "2")
    wait_for_rows(process, store, phase, 2)
    os.kill(process.pid, stop) if stop == signal.SIGKILL else os.killpg(
        process.pid, stop
    )  # a terminal stops all
    _, said = process.communicate(timeout=180)
    wait_for_end_of_all(process.pid)
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert (
            said.splitlines()[-1]
            == "previa: stopped. What is done is kept; the same command goes on from there."
        )
        assert "Traceback" not in said
    else:
        assert process.returncode == -signal.SIGKILL
    kept, made = rows(store), records(folder)
    assert 2 <= len(rows(store, phase)) < (WEIGHTINGS if phase == "simple" else JOINT)
    assert main(["run", str(study), *ALONE]) == 0
    after = rows(store)
    assert len(after) == (len(METHODS) + 1) * WEIGHTINGS + JOINT  # and warped
    assert {row: after[row] for row in kept} == kept  # the same numbers and seconds: none was scored again
    assert made == records(folder)
    assert not list(folder.glob("out/**/*.part"))


def test_a_run_stopped_while_its_workers_start_says_one_sentence(folder):
    process = start(folder, "run", str(write_study(folder)), "--workers", "2")
    deadline = time.monotonic() + 240
    while not (folder / "out/study.db").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)  # into the workers' imports
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=180)
    wait_for_end_of_all(process.pid)
    assert process.returncode == 130
    assert "Traceback" not in said


def test_a_damaged_file_of_a_finished_run_is_made_again(folder, no_figures):
    study = write_study(folder, preview={"methods": ["simple", "ivon_hessian"]})
    assert main(["preview", str(study), *ALONE]) == 0
    before, made = rows(folder / "out/study.db"), records(folder)
    file = folder / "out/runs/a/ivon-0-8.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    (folder / "out/runs/b/model.safetensors").unlink()
    assert main(["preview", str(study), *ALONE]) == 0
    assert file.read_bytes() == whole
    assert rows(folder / "out/study.db") == before  # the same parameters: nothing is scored again
    assert {name for name, at in records(folder).items() if made[name] != at} == {"ivon-0.json"}
