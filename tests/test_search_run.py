"""A search of one preview of a study: its budget, its place in the store, and that the grid finds the same."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from previa.cli import main
from previa.core.modes import Modes
from previa.core.params import Flat, Layout
from previa.errors import InputError, ScoreError, StudyError
from previa.run.anchor_runs import plan_anchors, train_anchors
from previa.run.fit import fit
from previa.run.one_method import in_blocks
from previa.run.pipeline import preview
from previa.run.search import search
from previa.run.search_state import ENOUGH, STOPPED, Aim, Budget, first_weightings, pool_of
from previa.run.work import opened
from previa.study import search as study_search
from previa.study import simplex
from previa.study.file import read_study
from previa.study.item_noise import item_noise
from previa.study.preference import Preference, experts_of
from previa.study.store import Store
from tiny_study import NAME, rows, write_study

METHODS = ("simple", "mixture", "warped")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A study of three tasks whose runs are made."""
    folder = tmp_path_factory.mktemp("fitted")
    write_study(folder, preview={"steps": 5, "methods": [*METHODS]})
    with opened(read_study(folder / "study.toml")) as work:
        fit(work)
    sys.modules.pop(NAME, None)
    return folder


@pytest.fixture
def folder(fitted, tmp_path, monkeypatch):
    """A copy of it, as current directory."""
    shutil.copytree(fitted, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    yield tmp_path / "study"
    sys.modules.pop(NAME, None)


def found(folder, *budgets, **options):
    """(preview of each search in turn, the store's fact, all that is recorded)."""
    with opened(read_study(folder / "study.toml")) as work:
        runs = fit(work)
        previews = [search(work, runs, budget, **options) for budget in budgets]
        name = options.get("method") or work.store.get("method")
        return previews, work.store.get("searches")[name], rows(work.store.path, name)


def test_a_search_makes_as_many_evaluations_as_its_budget_and_begins_with_what_others_are_held_against(
    folder,
):
    (one,), fact, _ = found(folder, Budget(12), method="simple")
    assert len(one) == 12
    assert one.ok.all()
    with opened(read_study(folder / "study.toml")) as work:
        least, first = first_weightings(work)
        pool = pool_of(work)
    order = np.array(fact["order"])
    assert len(order) == fact["evaluations"] == fact["budget"] == 12
    assert np.allclose(order[:5], [*np.eye(3), [1 / 3] * 3, [40 / 120, 60 / 120, 20 / 120]])
    assert np.allclose(order[: len(first)], first)
    assert len(first) == fact["start"] == study_search.number_to_start(3) + 1
    assert len(least) == 5
    assert all(simplex.find(pool, alpha) is not None for alpha in order)
    assert fact["candidates"] == len(pool) == 23
    assert (fact["goal"], fact["engine"], fact["steps"], fact["minutes"]) == ("best", "previa", 5, None)
    assert fact["why_ended"] == "the evaluations were used up"


def test_a_larger_budget_goes_on_and_ends_where_one_search_ends(folder):
    (few, many), twice, _ = found(folder, Budget(10), Budget(14), method="simple")
    assert (len(few), len(many)) == (10, 14)
    shutil.rmtree(folder / "out/runs", ignore_errors=False)
    (folder / "out/study.db").unlink()
    sys.modules.pop(NAME, None)
    _, once, _ = found(folder, Budget(14), method="simple")
    assert once["order"] == twice["order"]


def test_the_same_search_again_evaluates_nothing(folder):
    _, _, first = found(folder, Budget(11), method="simple")
    (again,), fact, second = found(folder, Budget(11), method="simple")
    assert first == second  # the same rows of the database
    assert len(again) == 11
    assert fact["why_ended"] == "the evaluations were used up"


def test_the_whole_grid_finds_the_same_and_does_only_what_is_missing(folder):
    few = {method: found(folder, Budget(12), method=method)[0][0] for method in METHODS}
    study = read_study(folder / "study.toml")
    with opened(study) as work:
        before = rows(work.store.path)
        whole = preview(work, fit(work))
        after = rows(work.store.path)
    assert {key: after[key] for key in before} == before
    with opened(replace(study, out=folder / "other")) as work:  # without a search
        expected = preview(work, fit(work))
    for method in METHODS:
        assert len(whole[method]) == 23
        assert np.array_equal(expected[method].at(few[method].alphas).scores, few[method].scores)
        assert np.array_equal(expected[method].scores, whole[method].scores)


def test_by_default_the_preview_that_the_study_follows_is_searched(folder):
    _, fact, recorded = found(folder, Budget(9))
    assert len(recorded) == 9
    with Store.read(folder / "out/study.db") as store:
        assert store.methods() == ("warped",)
        assert store.get("powers")["warped"]["chosen"]["p"] > 0
        assert store.get("method") == "warped"
    assert fact["evaluations"] == 9


def test_a_search_killed_in_the_middle_goes_on_to_the_same_end(folder):
    script = f"""
from previa.run.fit import fit
from previa.run.search import search
from previa.run.search_state import Budget
from previa.run.work import opened
from previa.study.file import read_study
from previa.study.item_noise import item_noise
with opened(read_study({str(folder / "study.toml")!r})) as work:
    search(work, fit(work), Budget(18), method="simple")
"""
    environment = {**os.environ, "TINY_SLOW": "0.03", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    deadline = time.monotonic() + 120
    while len(rows(folder / "out/study.db", "simple")) < 12 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = rows(folder / "out/study.db", "simple")
    assert 12 <= len(kept) < 18
    with Store.read(folder / "out/study.db") as store:
        assert store.get("searches")["simple"]["why_ended"] == STOPPED
    _, resumed, after = found(folder, Budget(18), method="simple")
    assert {key: after[key] for key in kept} == kept
    with opened(replace(read_study(folder / "study.toml"), out=folder / "other")) as work:
        search(work, fit(work), Budget(18), method="simple")
        whole = work.store.get("searches")["simple"]
    assert resumed["order"] == whole["order"]


def test_a_weighting_that_fails_counts_and_is_not_tried_again_in_this_run_but_in_the_next(folder):
    (folder / "fates").write_text("." * 10 + "x" + "." * 100)  # the eleventh evaluation
    (one,), fact, recorded = found(folder, Budget(14), method="simple")
    assert len(recorded) == 14
    failed = [key for key, (_, _, message) in recorded.items() if message]
    assert len(failed) == 1
    assert int((~one.ok).sum()) == 1
    assert fact["evaluations"] == len(fact["order"]) == 13
    with Store.read(folder / "out/study.db") as store:
        assert any("1 of 14 weightings could not be scored" in warning for warning in store.get("warnings"))
    (again,), fact, _ = found(folder, Budget(14), method="simple")
    assert again.ok.sum() == fact["evaluations"] == 14
    (whole,), _, _ = found(folder, Budget(500), method="simple")
    assert whole.ok.all()
    assert len(whole) == 23
    with Store.read(folder / "out/study.db") as store:
        assert not any("could not be scored" in warning for warning in store.get("warnings"))


def test_where_all_fails_the_reason_is_raised(folder):
    (folder / "fates").write_text("x" * 100)
    with pytest.raises(ScoreError, match="the judge is out"):
        found(folder, Budget(14), method="simple")


def test_when_all_candidates_are_evaluated_the_search_ends(folder):
    (one,), fact, _ = found(folder, Budget(500), method="simple")
    assert len(one) == 23
    assert fact["why_ended"] == "all candidates were evaluated"


def test_minutes_are_kept_but_corners_uniform_and_size_proportional_are_always_evaluated(folder, monkeypatch):
    (one,), fact, _ = found(folder, Budget(minutes=1e-9), method="simple")
    assert len(one) == 5
    assert fact["why_ended"] == "the time was used up"
    monkeypatch.setenv("TINY_SLOW", "0.02")  # 0.06 s an evaluation
    began = time.monotonic()
    (one,), fact, _ = found(folder, Budget(minutes=0.8 / 60), method="simple")
    assert 5 < len(one) < 23
    assert time.monotonic() - began < 20
    assert fact["minutes"] == pytest.approx(0.8 / 60)


def test_a_search_may_stop_before_its_budget_when_nothing_above_the_noise_is_expected(folder):
    (one,), fact, _ = found(folder, Budget(22, stop_early=True), method="simple")
    assert 6 <= len(one) < 22
    assert fact["why_ended"] == "no candidate is expected to gain more than the noise of the test items"
    assert fact["stop_early"] is True
    with opened(read_study(folder / "study.toml")) as work:
        among = pool_of(work)[work.store.missing("simple", pool_of(work))]
    gains = study_search.expected_gain(one.alphas, one.scores, one.tasks, among)
    assert gains.max() < ENOUGH * item_noise(one)
    (whole,), fact, _ = found(folder, Budget(22), method="simple")  # unless that is not asked for
    assert len(whole) == 22
    with pytest.raises(InputError, match="goal 'best'"):
        found(folder, Budget(23, stop_early=True), aim=Aim("region"), method="simple")


@pytest.mark.parametrize("wrong", [{}, {"evaluations": 0}, {"minutes": 0}, {"minutes": float("nan")}, {"evaluations": 5, "minutes": 1}])  # fmt: skip
def test_what_is_no_budget_is_refused(wrong):
    with pytest.raises(InputError, match="budget"):
        Budget(**wrong)


def test_a_budget_without_room_for_the_references_is_refused_and_so_is_an_unknown_method(folder):
    with pytest.raises(InputError, match="are 5"):
        found(folder, Budget(4), method="simple")
    with pytest.raises(StudyError, match=r"no preview 'anchored'.*simple, mixture, warped"):
        found(folder, Budget(9), method="anchored")


def test_an_engine_is_told_what_is_known_and_its_choice_is_evaluated(folder):
    told = []

    def engine(alphas, scores, tasks, candidates, *, preference, goal, tolerance):
        told.append((len(alphas), len(candidates), tasks, dict(preference.floors), goal, tolerance))
        return len(candidates) - 1

    aim = Aim("region", Preference(floors={"a": 0.5}), tolerance=0.02)
    (one,), fact, _ = found(folder, Budget(8), aim=aim, method="simple", engine=engine, engine_name="mine")
    assert told == [
        (6, 17, ("a", "b", "c"), {"a": 0.5}, "region", 0.02),
        (7, 16, ("a", "b", "c"), {"a": 0.5}, "region", 0.02),
    ]
    assert fact["engine"] == "mine"
    assert fact["preference"] == {"weights": {}, "floors": {"a": 0.5}, "worst": False, "relative": False}
    assert len(one) == 8


@pytest.mark.parametrize("row", [-1, 17, 0.5, True, None])
def test_an_engine_that_names_no_candidate_is_refused(folder, row):
    with pytest.raises(InputError, match="a row of 17 candidates"):
        found(folder, Budget(8), method="simple", engine=lambda *_, **__: row)


def test_relative_scores_are_shares_of_the_experts_that_the_search_evaluated(folder):
    told = []

    def engine(*known, preference, **_):
        told.append(preference.relative_to)
        return 0

    (one,), _, _ = found(folder, Budget(7), aim=Aim(relative=True), method="simple", engine=engine)
    assert told == [experts_of(one)]


def test_the_region_is_as_wide_as_other_test_items_would_make_it(folder):
    told = []

    def engine(*known, tolerance, **_):
        told.append(tolerance)
        return 0

    found(folder, Budget(7), aim=Aim("region"), method="simple", engine=engine)
    assert 0 < told[0] < 0.2
    found(folder, Budget(8), aim=Aim("best"), method="simple", engine=engine)
    assert told[1] is None


def test_on_a_large_grid_neighbours_of_the_best_are_candidates_and_all_stay_on_the_grid(folder, monkeypatch):
    monkeypatch.setattr(study_search, "MOST", 20)  # the grid of 20 steps has 231
    monkeypatch.setattr(study_search, "SPREAD", 10)
    write_study(folder, preview={"steps": 20, "methods": ["simple"]})
    with opened(replace(read_study(folder / "study.toml"), out=folder / "large")) as work:
        pool = pool_of(work)
        assert len(pool) < 30
        offered = []

        def engine(alphas, scores, tasks, candidates, **wish):
            offered.append(candidates)
            return study_search.suggest(alphas, scores, tasks, candidates, **wish)

        one = search(work, fit(work), Budget(13), method="simple", engine=engine)
        beside = [row for some in offered for row in some if simplex.find(pool, row) is None]
        assert beside
        assert np.allclose(np.array(beside) * 20, np.rint(np.array(beside) * 20))
        assert len(one) == 13


def test_merges_in_blocks_are_those_of_all_rows_and_the_last_block_is_kept():
    alphas = simplex.grid(3, 4)
    calls = []

    def method(some):  # of its place in the block, as EM's starts are
        calls.append(len(some))
        place = torch.arange(len(some), dtype=torch.float64)[:, None]
        vector = torch.cat([some, place], 1).float()
        return Modes(Flat(Layout((("w", (4,)),)), vector), {"place": place[:, 0]})

    single = in_blocks(method, alphas, 6)
    order = [0, 3, 7, 14, 8]
    for row in order:
        one = single(torch.from_numpy(alphas[[row]]))
        assert one.params.vector[0].tolist() == pytest.approx([*alphas[row], row % 6])
        assert one.stats["place"].tolist() == [row % 6]
    assert calls == [6, 6, 3, 6]
    off = single(torch.tensor([[0.1, 0.2, 0.7]], dtype=torch.float64))
    assert off.params.vector[0].tolist() == pytest.approx([0.1, 0.2, 0.7, 0.0])


def test_anchored_previews_are_searched_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, "ab", preview={"steps": 6, "methods": ["simple", "anchored"]})
    try:
        with opened(read_study(tmp_path / "study.toml")) as work:
            runs = fit(work)
            train_anchors(work, runs, plan_anchors(work, budget=1))
            one = search(work, runs, Budget(6))
            assert len(one) == 6
            assert work.store.get("method") == "anchored"
            assert list(work.store.methods()) == ["anchored"]
            before = rows(work.store.path, "anchored")
            whole = preview(work, runs)["anchored"]
            assert np.array_equal(whole.at(one.alphas).scores, one.scores)
            assert {key: rows(work.store.path, "anchored")[key] for key in before} == before
    finally:
        sys.modules.pop(NAME, None)


def cli(*words):
    return main(["preview", "study.toml", "--quiet", *words])


def test_the_command_searches_and_recommends_under_the_preference(folder, capsys):
    assert cli("--budget", "11", "--method", "simple", "--floor", "a=0.1", "--metric-weight", "c=2") == 0
    out = capsys.readouterr()
    assert "search, simple: 11 of 11" in out.out + out.err
    assert "Use " in out.out
    assert (folder / "out/report.html").is_file()
    with Store.read(folder / "out/study.db") as store:
        fact = store.get("searches")["simple"]
    assert fact["preference"]["floors"] == {"a": 0.1}
    assert fact["preference"]["weights"] == {"a": 1.0, "b": 1.0, "c": 2.0}


def test_the_command_searches_for_so_long_and_for_the_region(folder, monkeypatch):
    wishes = []
    monkeypatch.setattr(
        sys.modules["previa.cli.preview"], "publish", lambda study, out, **wish: wishes.append(wish)
    )
    assert cli("--budget", "0.5s", "--goal", "region", "--worst", "--relative", "--method", "simple") == 0
    with Store.read(folder / "out/study.db") as store:
        fact = store.get("searches")["simple"]
    assert (fact["goal"], fact["minutes"]) == ("region", pytest.approx(0.5 / 60))
    assert (fact["preference"]["worst"], fact["preference"]["relative"]) == (True, True)
    assert (wishes[0]["method"], wishes[0]["relative"], wishes[0]["preference"].worst) == (
        "simple",
        True,
        True,
    )


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--goal", "best"], 2, "--goal says what a search is for"),
        (["--worst"], 2, "--worst says what a search is for"),
        (["--budget", "20", "--cheap-first"], 2, "give one of them"),
        (["--cheap-first", "--engine", "previa"], 2, "--goal, --engine and --stop-early are for --budget"),
        (["--budget", "20x"], 2, "should be a number of evaluations"),
        (["--budget", "0"], 2, "'0' leaves nothing to search with"),
        (["--budget", "0s"], 2, "'0s' leaves nothing to search with"),
        (["--budget", "2.5"], 2, "should be a number of evaluations"),
        (["--budget", "3"], 2, "3 evaluations are too few"),
        (["--budget", "4"], 2, "are at least 5"),
        (["--budget", "20", "--method", "nope"], 1, "no preview 'nope': the study has simple, mixture"),
        (["--cheap-first", "--method", "nope"], 1, "no preview 'nope'"),
        (["--budget", "20", "--stop-early", "--goal", "region"], 2, "--stop-early is for --goal best"),
        (["--budget", "20", "--floor", "z=1"], 1, "'z'"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_done(
    folder, capsys, monkeypatch, words, code, said
):
    monkeypatch.setattr("previa.run.fit.fit", lambda *_, **__: pytest.fail("something was trained"))
    assert cli(*words) == code
    assert said in capsys.readouterr().err.replace("\n", " ")
    with Store.read(folder / "out/study.db") as store:
        assert store.methods() == ()


def test_a_task_may_be_named_with_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, tasks="ab", preview={"steps": 5, "methods": ["simple"]}, a={"name": "x = y"})
    assert cli("--budget", "4", "--metric-weight", "x = y=2", "--floor", "x = y >= 0.1") == 0
    sys.modules.pop(NAME, None)
    with Store.read(tmp_path / "out/study.db") as store:
        wish = store.get("searches")["simple"]["preference"]
    assert wish["weights"] == {"x = y": 2.0, "b": 1.0}
    assert wish["floors"] == {"x = y": 0.1}
