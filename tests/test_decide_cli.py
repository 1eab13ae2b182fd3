"""Preferences on the command line: floors, the worst task, relative scores, the Pareto front, and the verdict."""

import json
import re

import numpy as np
import pytest

from previa.cli import main
from previa.cli._options import preference_of
from previa.study.knee import front_of, knee_of
from previa.study.simplex import find, grid, uniform
from previa.study.store import Store

TASKS = ("chat", "code", "safety")
ALPHAS = np.vstack([grid(3, 8), uniform(3)])
TRUE = [*range(0, 45, 4), 45]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A store of two previews and a few joint runs, with scores of single items."""
    path = tmp_path_factory.mktemp("decide") / "study.db"
    rng = np.random.default_rng(0)
    hard = [rng.random(120) for _ in TASKS]
    with Store.open(path, tasks=TASKS, convention="mean", fingerprint={}) as store:
        for method, power, shift in (("simple", 1.0, 0.0), ("warped", 0.5, 0.0), ("joint", 0.4, 0.06)):
            for a, alpha in enumerate(ALPHAS):
                if method != "joint" or a in TRUE:
                    level = 0.95 * alpha ** (0.5 * power) + shift * (alpha > 0)
                    scores = {
                        t: (h < s).astype(np.float32) for t, h, s in zip(TASKS, hard, level, strict=True)
                    }
                    store.record(method, alpha, scores, seconds=0.1)
        store.put("method", "warped")
    return path


def told(capsys, *words):
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def advised(capsys, results, *words):
    return json.loads(told(capsys, "recommend", results, "--json", *words))


def test_floors_may_be_written_as_in_a_sentence_and_move_the_pick(results, capsys):
    plain = advised(capsys, results)
    assert plain["floors"] == []
    floored = advised(capsys, results, "--floor", "safety>=0.85")
    assert floored["per_task"]["safety"] >= 0.85 > plain["per_task"]["safety"]
    assert advised(capsys, results, "--floor", "safety=0.85") == floored
    assert advised(capsys, results, "--floor", "safety >= 0.85") == floored
    (floor,) = floored["floors"]
    assert (floor["task"], floor["floor"]) == ("safety", 0.85)
    assert floor["margin"] == pytest.approx(floored["per_task"]["safety"] - 0.85)
    both = told(capsys, "recommend", results, "--floor", "safety=0.9", "--floor", "code=0.9")
    assert "\nVerdict: No weighting keeps all of code >= 0.9, safety >= 0.9: " in both
    assert "What counts: mean score, safety >= 0.9, code >= 0.9." in both


def test_the_worst_task_and_relative_scores_count_on_request(results, capsys):
    weights = ("--metric-weight", "chat=4")
    assert advised(capsys, results, *weights)["measure"] == "weighted mean score"
    worst = advised(capsys, results, "--worst", *weights)
    assert worst["score"] == pytest.approx(min(worst["per_task"].values()))
    relative = advised(capsys, results, "--worst", "--relative")
    with Store.read(results) as store:
        preview = store.preview("warped")
    experts = [preview.scores[find(preview.alphas, e), t] for t, e in enumerate(np.eye(3))]
    shares = np.array([relative["per_task"][task] for task in TASKS]) / experts
    assert relative["score"] == pytest.approx(shares.min())
    said = told(capsys, "recommend", results, "--worst", "--relative")
    assert "What counts: score of the worst task, relative to the experts." in said


def test_every_recommendation_begins_with_a_verdict(results, capsys):
    said = told(capsys, "recommend", results)
    found = advised(capsys, results)
    assert said.startswith(f"Verdict: {found['verdict_sentence']}\n")
    assert found["verdict"] in ("train at the pick", "uniform is as good")
    assert said.endswith(f"{found['sentence']}\n")
    table = [line.split() for line in said.split("\n\n")[1].splitlines()]
    assert table[0] == [
        "weighting",
        *TASKS,
        "previewed",
        *(["joint", "run"] if found["uniform"]["true_score"] else []),
    ]
    (pick,) = [row for row in table if row[0].startswith("pick")]
    start = next(i for i, cell in enumerate(pick) if re.fullmatch(r"[01]\.\d{3}", cell))
    assert [float(cell) for cell in pick[start : start + 3]] == pytest.approx(found["alpha"], abs=5e-4)
    assert float(pick[start + 3]) == pytest.approx(found["score"], abs=5e-4)
    assert "What counts" not in said


def test_the_pareto_front_is_listed_with_pick_and_knee_in_aligned_columns(results, capsys):
    said = told(capsys, "recommend", results, "--pareto")
    with Store.read(results) as store:
        preview = store.preview("warped")
    head, _, *rows, more = said.split("\nThe ")[1].splitlines()
    number = int(front_of(preview).sum())
    assert head.startswith(f"{number} weightings that no other one beats in every task")
    assert more == f"... and {number - len(rows) + 1} more, in the report, or with --json."
    assert rows[0].split() == ["w", "chat", "w", "code", "w", "safety", "chat", "code", "safety", "value"]
    assert 21 <= len(rows) <= 23  # the best, and pick and knee wherever they are
    assert {re.search(r"\d(?=  [a-z]|$)", row).end() for row in rows[1:]} == {len(rows[0])}
    values = [float(row.split()[6]) for row in rows[1:]]
    assert values == sorted(values, reverse=True)
    (bend,) = [row for row in rows if "knee" in row]
    assert [float(w) for w in bend.split()[:3]] == pytest.approx(preview.alphas[knee_of(preview)], abs=5e-4)
    assert sum("pick" in row for row in rows) == 1
    assert "misses a floor" in told(capsys, "recommend", results, "--pareto", "--floor", "code=0.8")
    front = advised(capsys, results, "--pareto")["pareto"]
    assert len(front) == number
    assert sum(row["knee"] for row in front) == sum(row["pick"] for row in front) == 1


def test_compare_and_report_take_the_same_preferences(results, capsys, tmp_path, monkeypatch):
    plain = json.loads(told(capsys, "compare", results, "--json"))
    floored = json.loads(told(capsys, "compare", results, "--json", "--worst", "--floor", "code=0.9"))
    assert floored["truth"]["best_alpha"] != plain["truth"]["best_alpha"]
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    told(capsys, "report", results, "--out", tmp_path, "--floor", "code=0.9", "--worst")
    summary = json.loads((tmp_path / "summary.json").read_text())["recommendation"]
    assert summary["measure"] == "score of the worst task"
    assert [f["task"] for f in summary["floors"]] == ["code"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--floor", "safety"], 2, "'safety' should be NAME=VALUE"),
        (["--floor", "safety>=high"], 2, "'high' is no number"),
        (["--floor", "safety=0.5", "--floor", "safety>=0.6"], 2, "'safety' is given twice"),
        (
            ["--floor", "speed=1"],
            1,
            "floors should be of the tasks ['chat', 'code', 'safety']. Found 'speed'",
        ),
        (["--floor", "safety=nan"], 1, "floors should be finite numbers"),
    ],
)
def test_a_preference_that_is_none_is_refused_in_a_sentence(results, capsys, words, code, message):
    assert main(["recommend", str(results), *words]) == code
    assert message in capsys.readouterr().err


def test_numbers_stand_after_the_last_sign_since_names_may_have_one():
    wish = preference_of(["x = y=2", "a>=b = 0"], ["x = y>=0.5", "a>=b=.25", " c >= -1 "])
    assert wish.weights == {"x = y": 2.0, "a>=b": 0.0}
    assert wish.floors == {"x = y": 0.5, "a>=b": 0.25, "c": -1.0}
