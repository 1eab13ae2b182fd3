"""What a person and a script get of a study: all of it from the store alone, complete, and valid."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest

from previa.cli import main
from previa.errors import FileError, StoreError
from previa.show.outputs import Results, publish
from previa.show.results import _twins
from previa.study.preference import Preference
from previa.study.simplex import grid, uniform
from previa.study.store import Store

METHODS = ("simple", "task_arithmetic", "ivon_hessian", "squared_gradients", "mixture")
SUMMARY = {
    "schema", "tasks", "convention", "methods", "truth", "recommendation", "seconds", "warnings", "version",
}  # fmt: skip
METHOD = {
    "mse", "offset", "spearman", "spearman_top25", "iou_top10", "regret_at_1", "regret_noise", "gain_over_uniform", "pick",
    "seconds", "pareto",
}  # fmt: skip
PARETO = {
    "near_share", "near_by_chance", "near_found", "exact_share", "exact_by_chance", "volume_share", "volume_by_chance", "luck",
    "volume_true", "reference", "noise", "sentence", "previewed_front", "true_front",
}  # fmt: skip
TRUTH = {"best_alpha", "best_score", "uniform_score", "size_proportional_score", "weightings", "seconds"}
RECOMMENDATION = {"alpha", "region_fraction", "sentence"}
FIGURES = {"contours.png", "histograms.png", "per_task.png", "pareto.png", "what_if.png", "disagreement.png"}
FILES = {"preview.csv", "summary.json", *FIGURES, "report.html"}
TASKS = ("a", "b", "c")
SIZES = {"a": 100, "b": 50, "c": 50}
ITEMS = 60


def fill(path, *, truth: int = 10, items: bool = True, steps: int = 5, **metric_weights: float) -> Store:
    """A store of made-up scores, where task t is the better the nearer alpha is to a point of its own."""
    store = Store.open(path, tasks=TASKS, convention="mean", fingerprint={}, provenance={"name": "made up"})
    draw = np.random.default_rng(0)
    limits = draw.uniform(size=(3, ITEMS))
    best = {"a": (0.8, 0.1, 0.1), "b": (0.2, 0.6, 0.2), "c": (0.2, 0.2, 0.6)}

    def scores(alpha, offset):
        found = {}
        for t, (task, point) in enumerate(best.items()):
            level = 0.9 - offset - 0.5 * np.abs(alpha - np.array(point)).max()
            right = (limits[t] < level).astype(np.float32)
            found[task] = right if items else float(right.mean())
        return found

    centre = uniform(3)
    sizes = np.array([0.5, 0.25, 0.25])
    for m, method in enumerate(METHODS):
        for alpha in (*grid(3, steps), centre, sizes):
            store.record(method, alpha, scores(alpha, 0.02 * m), seconds=0.5, stats={"iterations": 3.0})
    for alpha in (*grid(3, steps), centre)[:: -1 if truth else 1][:truth]:
        store.record("joint", alpha, scores(alpha, 0), seconds=2.0)
    store.put("sizes", SIZES)
    store.put("metric_weights", {"a": 1.0, "b": 1.0, "c": 1.0, **metric_weights})
    store.put("method", "ivon_hessian")
    store.put("unit", "accuracy")
    for name, seconds in (("finetune/ivon", 10.0), ("finetune/ivon_more", 30.0), ("squared_gradients", 5.0)):
        store.add_seconds(name, seconds)
    return store


def strict(text: str):
    """JSON as the standard has it: without NaN and infinity."""

    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with a store and all that is made from it."""
    folder = tmp_path_factory.mktemp("published")
    with fill(folder / "study.db") as store:
        made = publish(store, Results.of(store), folder)
    assert {path.name for path in made} == FILES
    return folder


@pytest.fixture
def no_figures(monkeypatch):
    """As where matplotlib is not installed: drawing takes seconds."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_the_summary_has_at_least_the_documented_keys(published):
    found = strict((published / "summary.json").read_text())
    assert set(found) >= SUMMARY
    assert (found["schema"], found["tasks"], found["convention"]) == (1, list(TASKS), "mean")
    assert set(found["methods"]) == set(METHODS)
    for quality in found["methods"].values():
        assert set(quality) >= METHOD
        assert sum(quality["pick"]) == pytest.approx(1)
        assert set(quality["pareto"]) >= PARETO
        assert quality["pareto"]["near_share"] is not None
    assert set(found["truth"]) >= TRUTH
    assert found["truth"]["weightings"] == 10
    assert set(found["recommendation"]) >= RECOMMENDATION
    assert found["recommendation"]["method"] == "ivon_hessian"
    assert found["recommendation"]["sentence"].startswith("Use ")
    assert isinstance(found["seconds"], dict)


def test_the_table_has_a_row_for_each_weighting_of_each_method(published):
    with (published / "preview.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    counts = {method: sum(row["method"] == method for row in table) for method in (*METHODS, "joint")}
    assert counts == {**dict.fromkeys(METHODS, 23), "joint": 10}
    for row in table:
        assert sum(float(row[f"alpha_{task}"]) for task in TASKS) == pytest.approx(1)
        mean = sum(float(row[f"score_{task}"]) for task in TASKS) / 3
        assert float(row["mean"]) == pytest.approx(mean)
        assert row["status"] == "ok"


def test_figures_and_report_are_written(published):
    for name in FILES:
        if name.endswith(".png"):
            assert (published / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert "made up" in (published / "report.html").read_text()


def test_report_makes_the_same_files_from_the_store_alone(published, tmp_path):
    (tmp_path / "moved").mkdir()
    shutil.copy(published / "study.db", tmp_path / "moved")
    assert main(["report", str(tmp_path / "moved" / "study.db")]) == 0
    for name in FILES:
        assert (tmp_path / "moved" / name).read_bytes() == (published / name).read_bytes(), name


def test_a_method_costs_the_finetunings_that_it_rests_on(published):
    found = strict((published / "summary.json").read_text())
    scoring = 23 * 0.5
    costs = {name: quality["seconds"] - scoring for name, quality in found["methods"].items()}
    assert costs == pytest.approx(
        {"simple": 10, "task_arithmetic": 10, "ivon_hessian": 10, "squared_gradients": 5, "mixture": 40}
    )
    assert found["truth"]["seconds"] == 20
    assert found["seconds"]["preview/mixture"] == scoring


def test_metric_weights_decide_what_is_best(tmp_path):
    with fill(tmp_path / "study.db", truth=0) as store:
        previews = store.preview("ivon_hessian")
        for t, task in enumerate(TASKS):
            alone = {other: float(other == task) for other in TASKS}
            found = Results.of(store, preference=Preference(weights=alone))
            assert found.recommendation.score == previews.scores[:, t].max()
            assert np.argmax(found.recommendation.alpha) == t
            assert found.summary["methods"]["simple"]["pick"] == list(found.recommendation.alpha)


def test_the_studys_own_metric_weights_count_and_only_those_that_are_named_change(tmp_path, no_figures):
    with fill(tmp_path / "study.db", a=0.0, b=0.0) as store:
        assert np.argmax(Results.of(store).recommendation.alpha) == 2
        changed = Results.of(store, preference=Preference(weights={"a": 9.0}))
        assert changed.weights == {"a": 9.0, "b": 0.0, "c": 1.0}
        assert np.argmax(changed.recommendation.alpha) == 0
        publish(store, changed, tmp_path / "new" / "folder")
    embedded = (tmp_path / "new/folder/report.html").read_text()
    assert '"importance":[0.9,0.0,0.1]' in embedded


def test_without_joint_runs_there_is_everything_but_a_comparison(tmp_path):
    with fill(tmp_path / "study.db", truth=0) as store:
        made = publish(store, Results.of(store), tmp_path)
    assert {path.name for path in made} == FILES
    is_without_truth(tmp_path)


def test_too_few_joint_runs_are_no_comparison(tmp_path, no_figures):
    with fill(tmp_path / "study.db", truth=2) as store:
        found = Results.of(store)
        publish(store, found, tmp_path)
    assert len(found.truth) == 2
    assert found.comparison is None
    is_without_truth(tmp_path)


def is_without_truth(folder):
    summary = strict((folder / "summary.json").read_text())
    assert summary["truth"] is None
    for quality in summary["methods"].values():
        assert set(quality) >= METHOD
        assert quality["regret_at_1"] is None
        assert quality["pareto"] is None
        assert sum(quality["pick"]) == pytest.approx(1)


def test_joint_runs_at_other_weightings_than_the_previews_are_no_comparison(tmp_path):
    with fill(tmp_path / "study.db", truth=0) as store:
        for first in (0.31, 0.32, 0.33, 0.34):
            scores = dict.fromkeys(TASKS, np.ones(ITEMS))
            store.record("joint", (first, 0.3, 0.7 - first), scores, seconds=1.0)
            store.record("joint_from_simple", (first, 0.3, 0.7 - first), scores, seconds=1.0)
        found = Results.of(store)
    assert found.comparison is None
    assert len(found.truth) == 4
    assert set(found.previews) == set(METHODS)


def test_scores_that_are_one_number_leave_the_noise_unknown(tmp_path):
    with fill(tmp_path / "study.db", items=False) as store:
        found = Results.of(store)
        made = publish(store, found, tmp_path)
    assert {path.name for path in made} == FILES
    summary = strict((tmp_path / "summary.json").read_text())
    for quality in summary["methods"].values():
        assert quality["regret_noise"] is None
        assert quality["regret_at_1"] is not None
        assert quality["pareto"]["near_share"] is None
        assert quality["pareto"]["exact_share"] is not None
    assert found.recommendation.region_rule == "range"


def test_the_method_is_the_one_asked_for_or_the_studys_or_the_last_there_is(tmp_path):
    with fill(tmp_path / "study.db") as store:
        assert Results.of(store).method == "ivon_hessian"
        assert Results.of(store, method="simple").method == "simple"
        with pytest.raises(StoreError, match="there is no preview 'best', only simple, task_arithmetic"):
            Results.of(store, method="best")
        store.put("method", "best")
        assert Results.of(store).method == "mixture"
        store.record("mine", uniform(3), dict.fromkeys(TASKS, np.ones(ITEMS)), seconds=1.0)
        assert Results.of(store, method="mine").recommendation.alpha == pytest.approx(uniform(3))


def test_what_does_not_beat_plain_averaging_is_said(published):
    warnings = strict((published / "summary.json").read_text())["warnings"]
    (said,) = [w for w in warnings if w.startswith("no better than simple averaging (regret ")]
    assert "mixture (regret " in said
    assert "task_arithmetic" not in said  # it is the same


def test_task_arithmetic_is_no_second_opinion_beside_simple_averaging(tmp_path):
    with fill(tmp_path / "study.db") as store:
        simple, other = store.preview("simple"), store.preview("mixture")
    assert _twins({"simple": simple, "task_arithmetic": simple}) == ["task_arithmetic"]
    assert _twins({"simple": simple, "task_arithmetic": other}) == []
    assert _twins({"mixture": other}) == []


def test_an_empty_store_and_a_folder_that_cannot_be_are_named(tmp_path):
    with (
        Store.open(tmp_path / "empty.db", tasks=TASKS, convention="mean", fingerprint={}) as store,
        pytest.raises(StoreError, match=r"nothing was previewed yet\. Run `previa preview`"),
    ):
        Results.of(store)
    (tmp_path / "file").touch()
    with fill(tmp_path / "study.db") as store:
        found = Results.of(store)
        with pytest.raises(FileError, match="the folder cannot be made: Not a directory"):
            publish(store, found, tmp_path / "file" / "x")
        (tmp_path / "summary.json").mkdir()
        with pytest.raises(FileError, match=r"summary\.json"):
            publish(store, found, tmp_path)


def test_parts_of_a_mixture_stand_before_the_whole_and_cost_its_runs(tmp_path, no_figures):
    with fill(tmp_path / "study.db", truth=0, items=False) as store:
        for name in ("mixture_20", "mixture_5", "mixture_of_mine"):
            for alpha in grid(3, 2):
                store.record(name, alpha, dict.fromkeys(TASKS, 0.5), seconds=1.0)
        found = Results.of(store)
    assert list(found.previews) == [
        "simple", "task_arithmetic", "squared_gradients", "ivon_hessian",
        "mixture_5", "mixture_20", "mixture", "mixture_of_mine",
    ]  # fmt: skip
    methods = found.summary["methods"]
    assert methods["mixture_5"]["seconds"] == 10.0 + 30.0 + 6.0  # finetunings, and six weightings
    assert methods["mixture_20"]["seconds_merging_and_scoring"] == 6.0
    assert methods["mixture_of_mine"]["seconds"] == 6.0
