"""The experiments run end to end at their tiniest, their results are what the docs say they are, and the tables add nothing."""

import gzip
import importlib
import io
import json
import os
import re
import runpy
import shutil
import struct
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from previa.study.simplex import find

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "experiments"
RESULTS = ROOT / "docs" / "experiments"
SCRIPTS = sorted(FOLDER.glob("fig*.py"))
QUALITY = {
    "regret_at_1", "regret_noise", "gain_over_uniform", "spearman", "spearman_top25", "pairwise_accuracy", "iou_top10",
    "mse", "offset", "variance", "pick", "previewed_best", "true_score_at_pick", "seconds",
}  # fmt: skip
FACTS = {"name", "title", "command", "scale", "seed", "machine", "seconds", "unit", "settings", "tasks", "truth",
         "methods", "recommended", "pareto", "roles", "extra"}  # fmt: skip


@pytest.fixture
def module(monkeypatch):
    """module(name) -> a script of experiments/, imported as they import each other."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def run(script, *arguments, **environment):
    made = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, timeout=300, env={**os.environ, **environment},
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout


def check_facts(facts):
    """What every NAME.json of `finish` must hold, and hold together."""
    assert set(facts) >= FACTS
    assert facts["command"].startswith(
        f"python experiments/{facts['command'].split('/')[1].split('.py')[0]}.py "
    )
    assert set(facts["machine"]) == {"cores", "arch", "torch", "device"}
    T, truth = len(facts["tasks"]), facts["truth"]
    assert len(truth["best_alpha"]) == T
    assert facts["recommended"]["method"] in facts["methods"]
    assert set(facts["roles"].values()) <= set(facts["methods"])
    assert facts["methods"].keys() == facts["pareto"].keys()
    for name, q in facts["methods"].items():
        assert set(q) >= QUALITY, name
        assert sum(q["pick"]) == pytest.approx(1, abs=1e-5)  # six digits are written
        slack = 2e-5 * max(1, abs(truth["best_score"]), abs(q["mse"]))
        best = (
            q["true_score_at_pick"] + q["regret_at_1"]
        )  # of its own weightings, which may be fewer than the truth's
        assert best <= truth["best_score"] + slack, name
        if q["weightings"] == truth["weightings"]:
            assert best == pytest.approx(truth["best_score"], abs=slack), name
        assert q["offset"] ** 2 + q["variance"] == pytest.approx(q["mse"], abs=slack), name
        assert q["regret_at_1"] >= q["regret_at_k"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_figure_runs_end_to_end_and_again_at_the_tiny_scale(script, tmp_path):
    arguments = "--scale", "tiny", "--out", tmp_path / "out", "--docs", tmp_path / "docs", "--workers", 1
    printed = run(script, *arguments)
    if skipped := re.search("^skipped: .*", printed, re.M):
        pytest.skip(skipped[0])
    assert "regret@1" in printed
    made = {path.name: path for path in (tmp_path / "docs").iterdir()}
    facts = [json.loads(path.read_text()) for name, path in made.items() if name.endswith(".json")]
    assert facts
    for one in facts:
        check_facts(one)
        assert one["scale"] == "tiny"
        assert f"{one['name']}-tiny.png" in made
        assert f"{one['name']}-tiny-pareto.png" in made
    assert all(path.stat().st_size < 300_000 for path in made.values())
    again = run(script, *arguments)  # nothing is left to do: the numbers are the same
    assert again.count("regret@1") == printed.count("regret@1")
    for one in facts:
        after = json.loads(made[f"{one['name']}-tiny.json"].read_text())
        assert {n: q["mse"] for n, q in after["methods"].items()} == {
            n: q["mse"] for n, q in one["methods"].items()
        }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_posteriors", "digits_free_posteriors"])
def test_the_digits_scripts_take_the_same_options_and_do_not_train_again(name, tmp_path):
    arguments = "--scale", "tiny", "--seed", 3, "--out", tmp_path / "out", "--docs", tmp_path / "docs"
    run(FOLDER / f"{name}.py", *arguments)
    (file,) = (tmp_path / "docs").iterdir()
    assert file.name == f"{name}-tiny-seed3.json"
    facts = json.loads(file.read_text())
    assert facts["command"] == f"python experiments/{name}.py --scale tiny --seed 3 --seeds 1"

    def trained():
        files = (tmp_path / "out").rglob("*.safetensors")  # squared gradients are damped anew
        return {path: path.stat().st_mtime_ns for path in files if "squared" not in path.name}

    before = trained()
    assert before
    run(FOLDER / f"{name}.py", *arguments)
    assert trained() == before
    assert json.loads(file.read_text())["mean"] == facts["mean"]


def test_all_keeps_tiny_results_and_those_of_other_seeds_away_from_the_committed_ones(module):
    results = module("all").results
    assert results("small", 0) == results("paper", 0) == RESULTS
    assert results("small", 1).name == "docs-small-seed1"
    assert results("tiny", 0).name == "docs-tiny"


def test_the_toys_tasks_sit_at_the_corners_where_they_are_in_the_plane(module):
    seated = module("_toy_figure").seated
    own = np.array([[1.0, -6.0], [-8.0, 0.0], [1.0, 3.0]])  # right below, left, top
    assert seated(np.eye(3), own) == [2, 1, 0]
    assert seated(np.eye(3)[[1, 0, 2]], own[[1, 0, 2]]) == [2, 1, 0]  # whatever the order of the weightings


def test_pictures_name_methods_alike(module, monkeypatch):
    """Once "Simple averaging" stood beside "full Gaussian"."""
    results, drawn = module("_results"), []
    monkeypatch.setattr(
        results, "panels", lambda truth, previews, path, **o: drawn.append((*previews, o["truth_label"]))
    )
    monkeypatch.setattr(results, "pareto", lambda truth, previews, path, **o: drawn.append(tuple(previews)))

    class Store:
        preview = staticmethod(str)

    columns = [
        ("joint", "joint training"),
        ("simple", "simple"),
        ("von", "full Gaussian"),
        ("ivon_hessian", "IVON-HESS"),
    ]
    results.draw(Store, columns, Path(), "fig", title="", unit="")
    names = ("Simple averaging", "Full Gaussian", "IVON-HESS")
    assert drawn == [(*names, "Joint training"), names]


def test_another_seed_writes_other_files(module, tmp_path):
    options = module("_shared").options
    stems = [options("fig8_mock", "A mock.", ["--seed", k, "--out", str(tmp_path)]).stem for k in ("0", "1")]
    assert stems == ["fig8_mock", "fig8_mock-seed1"]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_committed_results_say_where_they_come_from_and_name_no_machine(path):
    text = path.read_text(encoding="utf-8")
    facts = json.loads(text)
    assert len(text) < 300_000
    assert not re.search(r'"(/|~|[A-Z]:\\)|/work|/home|/tmp|/Users', text)
    assert facts["command"].startswith("python experiments/")
    if path.stem.startswith("table") or path.stem == "fronts":
        assert all(row.keys() == facts["rows"][0].keys() for row in facts["rows"])
    elif path.stem == "beyond_centre":  # rows of beyond.json's studies and seeds
        assert {row["study"] for row in facts["rows"]} <= {
            "digits",
            "mnist_imbalanced",
            "mnist_balanced",
            "cifar",
        }
        assert all(
            (row["method"] and row.keys() >= {"seed", "reason", "passes"}) or "joint_runs" in row
            for row in facts["rows"]
        )
    elif "studies" in facts:  # quality against cost
        assert facts.keys() >= {"machine", "scale"}
        assert facts["scale"] != "tiny"
        for study in facts["studies"].values():
            assert len(study["seeds"]) >= 3
            assert study["methods"].keys() >= {"joint", "simple", "warped"}
            simple = study["methods"]["simple"]["mse"]
            for method in study["methods"].values():
                assert method["cost"] >= method["training"] >= 0  # evaluations are in the cost, too
            assert study["targets"]["full"]["mse_of_simple"] == pytest.approx(
                study["methods"]["anchored_full_4"]["mse"] / simple, rel=1e-3
            )
    elif "mean" in facts:  # over seeds
        assert facts.keys() >= {"machine", "seconds", "mean"}
        assert len(facts["seeds"]) == int(facts["command"].split()[-1])
    elif "curves" in facts:  # of trainings, where nothing is previewed
        assert facts.keys() >= {
            "name",
            "title",
            "command",
            "scale",
            "machine",
            "seconds",
            "settings",
            "tasks",
            "alpha",
            "levels",
        }
        assert facts["scale"] != "tiny"
        assert len(facts["alpha"]) == len(facts["tasks"])
        assert facts["levels"]
    else:
        check_facts(facts)
        assert facts["scale"] != "tiny"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.png")), ids=lambda path: path.stem)
def test_committed_pictures_are_small(path):
    assert path.stat().st_size < 300_000


@dataclass(frozen=True)
class Mock:
    """A made-up study of three tasks that went through options, open_store and finish, once for all tests."""

    facts: dict
    printed: str
    out: Path
    docs: Path


@pytest.fixture(scope="module")
def mock(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mock")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.syspath_prepend(str(FOLDER))
        shared = importlib.import_module("_shared")
        o = shared.options(
            "fig8_mock", "A mock.", ["--out", str(folder / "out"), "--docs", str(folder / "docs")]
        )
        alphas = shared.weightings(3, 4, (1, 1, 4))
        draws = np.random.default_rng(0).random((3, 60))
        with shared.open_store(o, tuple("abc"), {"n": 1}) as store:
            for method, level in (("joint", 0.9), ("simple", 0.6), ("von", 0.7), ("mixture_20", 0.8)):
                for row in store.missing(method, alphas):
                    scores = {
                        t: (draws[i] < level * alphas[row][i] ** 0.3).astype("f") for i, t in enumerate("abc")
                    }
                    store.record(method, alphas[row], scores, seconds=0.1)
            columns = [
                ("joint", "Joint"),
                ("simple", "Simple"),
                ("von", "Hessian"),
                ("mixture_20", "Mixture"),
            ]
            settings = {"sizes": dict.fromkeys("abc", 1)}
            facts = shared.finish(o, store, started=0.0, title="Mock", columns=columns, settings=settings)
    return Mock(facts, printed.getvalue(), folder / "out", folder / "docs")


def test_finish_writes_numbers_that_agree_and_prints_all_methods(mock):
    facts, written = mock.facts, json.loads((mock.docs / "fig8_mock.json").read_text())
    check_facts(written)
    assert written["roles"] == {"simple": "simple", "hessian": "von", "mixture": "mixture_20"}
    assert written["recommended"]["method"] == "mixture_20"
    assert written["truth"]["uniform_score"] == pytest.approx(facts["truth"]["uniform_score"], rel=1e-5)
    assert set(facts["methods"]["simple"]["per_task"]) == set("abc")
    assert all(name in mock.printed for name in ("simple", "von", "mixture_20", "cannot be told from 0"))
    assert str(mock.docs.parent) not in json.dumps(written)
    assert {path.name for path in mock.docs.iterdir()} == {
        f"fig8_mock{end}" for end in (".json", ".png", "-pareto.png")
    }


def test_a_regret_above_the_noise_is_warned_of(module, capsys):
    facts = {"title": "Mock", "methods": {}, "pareto": {"simple": {"sentence": "Well."}}, "truth": {"best_score": 0.9, "uniform_score": None, "weightings": 3},
             "recommended": {"method": "simple", "regret_at_1": 0.2, "regret_noise": 0.1, "within_noise": False}}  # fmt: skip
    module("_results").show(facts)
    assert "WARNING: the recommended weighting (simple) has a regret of 0.2000" in capsys.readouterr().out


def test_another_size_of_a_study_does_not_mix_with_the_old_one(module, mock):
    shared = module("_shared")
    o = shared.options("fig8_mock", "A mock.", ["--out", str(mock.out)])
    with pytest.raises(SystemExit, match=r"another study[\s\S]*To begin anew, remove"):
        shared.open_store(o, tuple("abc"), {"n": 2})


def test_weightings_are_the_grid_and_what_picks_are_held_against(module):
    weightings = module("_shared").weightings
    assert len(weightings(3, 4)) == 15 + 1
    assert len(weightings(3, 3)) == 10  # uniform is one of them
    rows = weightings(3, 4, (1, 1, 3))
    assert len(rows) == 15 + 2
    assert find(rows, (0.2, 0.2, 0.6)) is not None


def test_an_experiment_without_its_data_says_so_and_ends_well(module, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PREVIA_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["experiments/fig0_none.py"])
    with pytest.raises(SystemExit) as end:
        module("_shared").data("no-such-set", "train.npz")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("skipped: fig0_none needs no-such-set/train.npz")
    (tmp_path / "set").mkdir()
    assert module("_shared").data("set") == tmp_path / "set"


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("print('hello')", "ran"),
        ("print('skipped: fig0 needs mnist')", "skipped: fig0 needs mnist"),
        ("raise SystemExit(3)", "FAILED with status 3: see its output above"),
    ],
)
def test_the_summary_of_all_says_what_ran_was_skipped_and_failed(code, outcome, module, tmp_path):
    (tmp_path / "fig0.py").write_text(code)
    found, seconds = module("all").run(tmp_path / "fig0.py", [])
    assert (found, seconds > 0) == (outcome, True)


def test_data_files_are_read_as_they_were_written(module, tmp_path):
    shared, rng = module("_shared"), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    blobs = []
    for one in pixels:
        memory = io.BytesIO()
        Image.fromarray(one).save(memory, "PNG")
        blobs.append(memory.getvalue())
    offsets = np.cumsum([0, *map(len, blobs)])
    np.savez(
        tmp_path / "a.npz", blob=np.frombuffer(b"".join(blobs), "u1"), offsets=offsets, labels=np.arange(3)
    )
    found, labels = shared.images(tmp_path / "a.npz")
    assert np.array_equal(found, pixels)
    assert labels.tolist() == [0, 1, 2]
    content = struct.pack(">4B3I", 0, 0, 8, 3, 3, 4, 12) + pixels.tobytes()
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    assert np.array_equal(shared.idx(tmp_path / "a.gz"), pixels.reshape(3, 4, 12))


@pytest.fixture
def table(monkeypatch, module, tmp_path):
    """table(name, *files) -> the text and the rows of a table of copies of these JSON files."""

    def make(name, *files, stores=()):
        folder = tmp_path / f"{name}-{len(files)}"
        folder.mkdir()
        for file in files:
            shutil.copy(file, folder)
        monkeypatch.setattr(sys, "argv", [name, "--docs", str(folder), "--stores", *map(str, stores)])
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        return (folder / f"{name}.md").read_text(), json.loads((folder / f"{name}.json").read_text())["rows"]

    return make


def test_tables_set_our_numbers_under_the_papers(mock, table):
    facts, file = mock.facts, mock.docs / "fig8_mock.json"
    text, rows = table("table1", file)
    paper, ours, none = rows[0], rows[1], rows[3]
    assert (paper["from"], ours["from"], none["from"]) == ("paper", "here, small", "not run here")
    assert (paper["MSE simple"], paper["mixture / simple"], paper["regret@1"]) == (
        "0.2067",
        "0.22",
        "0.4 / 1.0 / 0.0",
    )
    mse = {n: q["mse"] for n, q in facts["methods"].items()}
    assert ours["mixture"] == f"{mse['mixture_20']:.4f}"
    assert ours["Hessian / simple"] == f"{mse['von'] / mse['simple']:.2f}"
    assert "| not run here |" in text
    assert len(rows) == 7 * 2

    _, rows = table("table2", file)
    q = facts["methods"]["simple"]
    assert rows[0]["mixture"] == "87.2 → 90.4"
    assert rows[1]["simple"] == f"{100 * q['previewed_best']:.1f} → {100 * q['true_score_at_pick']:.1f}"
    assert "within noise" in rows[1]["recommended: regret"]

    _, rows = table("table3", file)
    assert (rows[0]["mixture"], rows[0]["joint finetuning"]) == ("0.14, 0.46", "0.12, 0.46")
    assert rows[1]["simple"] == ", ".join(f"{w:.2f}" for w in q["pick"][:-1])


def test_the_fronts_of_every_preview_stand_beside_chance(mock, table):
    facts = mock.facts
    text, rows = table("fronts", mock.docs / "fig8_mock.json")
    assert [row["method"] for row in rows] == [one["label"] for one in facts["methods"].values()]
    assert rows[0]["study"] == "fig8_mock (small)"
    assert rows[0]["near-optimal"] == f"{facts['pareto']['simple']['near_share']:.2f}"
    assert "by chance" in text


def test_a_table_from_a_store_is_the_table_from_its_json(mock, table):
    _, from_json = table("table1", mock.docs / "fig8_mock.json")
    _, from_store = table("table1", stores=[mock.out / "results.sqlite"])
    assert from_store == from_json


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "fronts"])
def test_committed_tables_are_made_of_the_committed_results(name, table):
    """Where this fails: `make tables`."""
    text, _ = table(name, *RESULTS.glob("*.json"))
    assert text == (RESULTS / f"{name}.md").read_text(encoding="utf-8")


def test_the_digits_are_a_row_though_they_are_a_mean_over_seeds(table):
    _, rows = table("table1", RESULTS / "digits_posteriors.json")
    assert rows[-1]["setting"] == "MLP on digits, mean of 8 seeds"
    assert rows[-1]["mixture / simple"] == "0.69"
    _, rows = table("table2", RESULTS / "digits_posteriors.json")  # which has picks, not means of them
    assert rows[-1]["from"] == "not run here"


def test_the_papers_own_table_is_consistent(module):
    """Its regrets are not negative, its weights lie in the simplex, and it has no mixture beyond figures 8, 9 and 3."""
    for row in module("_tables").PAPER:
        assert min(r for r in row.regret if r is not None) >= 0
        for alpha in (*row.alphas, row.best_alpha):
            assert alpha is None or 0 <= sum(alpha) <= 1
        assert (
            (row.mse[2] is None) == (row.score[2] is None) == (row.alphas[2] is None) == (row.figure in "467")
        )


FREE = {
    "simple averaging": "simple, AdamW",
    "squared gradients, prior 10": "squared gradients, prior 10, beta2 0.999",
    "squared gradients, prior 1": "squared gradients, prior 1, beta2 0.999",
    "Adam's moments, prior 10": "Adam, prior 10, beta2 0.999",
    "Adam's moments, prior 1": "Adam, prior 1, beta2 0.999",
    "their root (`power=0.5`), prior 10": "root of Adam, prior 10, beta2 0.999",
    "their root, prior 1": "root of Adam, prior 1, beta2 0.999",
    "Adam's moments with beta2 = 0.9, prior 10": "Adam, prior 10, beta2 0.9",
    "Adam's moments with beta2 = 0.9, prior 1": "Adam, prior 1, beta2 0.9",
    "snapshots, the last ten of one run, floor 1": "snapshots of one run, floor 1",
    "snapshots, the last ten of one run, floor 0.1": "snapshots of one run, floor 0.1",
    "five seeds of IVON, simple averaging of their averages": "average of five seeds",
    "five seeds of IVON as snapshots, floor 1": "five seeds, floor 1",
    "uniform weights, without any preview": "uniform weights",
}
DIGITS = {
    "simple averaging (= task arithmetic)": "simple",
    "IVON's Hessian": "ivon_hessian",
    "mixture of 20, EM": "mixture",
    "mixture, responsibilities per layer": "mixture, per tensor",
    "mixture, temperature 30": "mixture, temperature 30",
    "mixture, temperature 1000": "mixture, temperature 1000",
    **{f"RegMean {k} at IVON's means": f"regmean, IVON, off-diagonal {float(k):g}" for k in ("0.9", "1.0")},
    **{f"RegMean {k} at AdamW's ends": f"regmean, AdamW, off-diagonal {float(k):g}" for k in ("0.9", "1.0")},
    **{f"K-FAC at IVON's means, damping {d}": f"kronecker, IVON, damping {d}" for d in ("0.01", "1", "100")},
    **{f"K-FAC, damping {d}": f"kronecker, AdamW, damping {d}" for d in ("0.01", "1", "100")},
    "Student-t on IVON's Hessian, nu = 1": "student_t, nu 1",
    "Student-t on IVON's Hessian, nu = 10 000": "student_t, nu 10000",
    "averaging of the AdamW runs": "simple, AdamW",
    "squared gradients, prior 10": "squared_gradients",
    **{f"squared gradients, prior {p}": f"squared_gradients, prior {p}" for p in ("0.01", "0.1", "1", "100")},
    "uniform weights, no preview": "uniform weights",
}


def page_rows(path, head):
    """The table of a page that begins with this heading, a dictionary a row, without marks of emphasis."""
    lines = path.read_text(encoding="utf-8").split(f"\n| {head} |")[1].split("\n\n")[0].split("\n")
    heads = [head, *(cell.strip() for cell in lines[0].strip(" |").split("|"))]
    for line in lines[2:]:
        cells = [cell.strip().strip("*") for cell in line.strip()[1:-1].split("|")]
        yield dict(zip(heads, cells, strict=True))


@pytest.mark.parametrize(
    ("page", "file", "names"),
    [("free-posteriors.md", "digits_free_posteriors", FREE), ("experiments/digits_posteriors.md", "digits_posteriors", DIGITS)],
)  # fmt: skip
def test_the_digits_pages_have_the_numbers_of_their_json(page, file, names):
    facts = json.loads((RESULTS / f"{file}.json").read_text())
    seeds, rows = facts["seeds"], list(page_rows(ROOT / "docs" / page, "posterior"))
    assert [row["posterior"] for row in rows if row["posterior"] not in names] == []
    assert len(rows) == len(names)
    keys = {"regret@1": "regret_at_1", "worst seed": "regret_at_1", "Spearman": "spearman", "top 25 %": "spearman_top25", "MSE": "mse",
            "offset": "offset", "difference in regret": "regret_at_1", "difference in Spearman": "spearman", "gain in Spearman": "spearman"}  # fmt: skip
    beside = "simple, AdamW"
    for row in rows:
        name = names[row.pop("posterior")]
        if file == "digits_posteriors":
            averaged_alike = "AdamW" in name or name.startswith("squared_gradients")
            beside = "simple, AdamW" if averaged_alike else "simple"
        for column, cell in ((c, cell) for c, cell in row.items() if cell):
            key = keys[column]
            if column == "worst seed":
                found = [max(seed[name][key] for seed in seeds)]
            elif " in " in column:
                apart = [(seed[name][key] or 0.0) - (seed[beside][key] or 0.0) for seed in seeds]
                found = [np.mean(apart), np.std(apart, ddof=1) / len(apart) ** 0.5]
            else:
                found = [facts["mean"][name][key]]
            for text, value in zip(cell.split(" ± "), found, strict=True):
                half = 0.5 * 10.0 ** -len(text.split(".")[1])
                assert float(text) == pytest.approx(value, abs=half * 1.0001), (name, column)


def test_the_toys_page_has_the_numbers_of_its_json():
    """Its first table; the second is of other draws, which are not kept."""
    names = {
        "simple averaging": "simple", "Hessian at the minimum (Laplace)": "laplace", "full Gaussian, VON": "von",
        "mixture of 10, EM": "mixture", "mixture, settings of B.2": "mixture_b2",
        "mixture, settings of B.2, 1000 steps": "mixture_b2_long", "mixture fitted on a grid": "mixture_grid",
    }  # fmt: skip
    draws = json.loads((RESULTS / "fig2_toy.json").read_text())["extra"]["draws"]
    rows = list(page_rows(RESULTS / "fig2_toy.md", "posterior"))
    assert len(rows) == len(names) + 1
    for row in rows:
        label, cells = row.pop("posterior"), row.values()
        assert list(row) == [str(d["seed"]) for d in draws]
        for cell, draw in zip(cells, draws, strict=True):
            excess = draw["mean_excess"]
            if label == "averaging / mixture":
                assert float(cell) == pytest.approx(
                    excess["simple"] / excess["mixture"], rel=0.015
                )  # two digits or more
            else:
                assert float(cell.strip("*")) == pytest.approx(excess[names[label]], abs=0.50001e-4), label
