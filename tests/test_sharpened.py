"""What a report says of how its preview was sharpened: from the store's facts alone, and nothing where it has none."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from previa.show._look import label
from previa.show._methods import finetunings, parted, place
from previa.show._sharp_words import of_rivals
from previa.show.outputs import Results, publish
from previa.show.sharpened import drawn
from previa.study.preference import Preference
from sharpened_study import ITEMS, OFF, anchors_of, sharpened_store

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def no_figures(monkeypatch):
    """As where matplotlib is not installed: drawing takes seconds."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def of(store):
    return Results.of(store).summary["sharpened"]


def said(sharper, start):
    """The one sentence that begins so."""
    (found,) = [s for s in sharper["sentences"] if s.startswith(start)]
    return found


def test_a_study_without_such_facts_has_no_such_part(tmp_path, no_figures):
    with sharpened_store(tmp_path / "s.db", facts=False) as store:
        found = Results.of(store)
        assert found.summary["sharpened"] is None
        publish(store, found, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert '"sharpened":null' in page
    assert drawn(None) == ({}, {})


def test_the_summary_carries_the_choice_the_anchors_and_the_band(tmp_path):
    with sharpened_store(tmp_path / "s.db") as store:
        found, facts = of(store), {name: store.get(name) for name in ("powers", "anchors", "band")}
    assert found["powers"] == facts["powers"]
    assert [a["alpha"] for a in found["anchors"]] == [list(alpha) for alpha in anchors_of(3)]
    for ours, theirs in zip(found["anchors"], facts["anchors"], strict=True):
        assert ours["mean"] == pytest.approx(np.mean(list(theirs["scores"].values())))
        assert ours["left_out_mean"] == pytest.approx(np.mean(list(theirs["left_out"].values())))
    assert found["pairs"] == [["simple", "warped"], ["simple", "anchored"]]
    assert (found["anchored"], found["rivals"]) == (["anchored"], ["scores", "scores_gp"])
    assert found["band"]["half_width"] == 0.013


def test_a_stranger_reads_what_was_chosen_from_what_and_by_what(tmp_path):
    with sharpened_store(tmp_path / "s.db") as store:
        found = of(store)
    words = said(found, "Warped weights: ")
    assert "p = 0.35 on Simple averaging" in words
    assert "Of 2 families and 7 powers it has the least joint loss: 0.4, where p = 1 has 0.452" in words
    words = said(found, "The joint loss is ")  # once for all
    assert "on 900 training examples at 19 weightings" in words
    assert words.endswith(
        "No test item was used for the choice; for the anchored preview no joint run but the anchors, for the others none."
    )
    words = said(found, "4 joint runs are anchors")
    assert "3 of them began at the preview" in words
    assert "Cost: 1.3 of full joint runs" in words
    words = said(found, "Anchored at joint runs: a mean score")
    assert (
        "± 1.3 points (90 %; the median over weightings, from leave-one-anchor-out of 4 anchors and the test items"
        in words
    )


@pytest.mark.parametrize(
    ("p", "words"), [(1.0, "none below 1 has less joint loss"), (0.12, "smallest power that was tried")]
)
def test_a_choice_at_an_end_of_what_was_tried_is_said(p, words, tmp_path):
    with sharpened_store(tmp_path / "s.db") as store:
        tried = {"simple": {"1.0": 0.5, "0.5": 0.4, "0.12": 0.3}}
        store.put("powers", {"warped": {"chosen": {"method": "simple", "p": p}, "losses": tried}})
        assert words in said(of(store), "Warped weights: ")


@pytest.mark.parametrize(
    ("p", "families", "words"),
    [
        (0.5, ("simple",), "0.5, as the study file sets it, on Simple averaging."),
        (1.0, ("simple",), "1, as the study file sets it, on Simple averaging."),
        (
            0.5,
            ("simple", "ivon_hessian"),
            "0.5, as the study file sets it, on Simple averaging, the one of 2 families with the least joint loss.",
        ),
    ],
)
def test_a_power_set_by_hand_is_no_finding(p, families, words, tmp_path):
    with sharpened_store(tmp_path / "s.db") as store:
        tried = {name: {str(p): 0.4 + i} for i, name in enumerate(families)}
        store.put("powers", {"warped": {"chosen": {"method": "simple", "p": p}, "losses": tried}})
        found = of(store)
    assert said(found, "Warped weights: ") == f"Warped weights: weights to the power p = {words}"
    assert ("for the choice" in said(found, "The joint loss is ")) == (len(families) > 1)


def test_losses_that_could_not_be_measured_are_not_counted(tmp_path):
    with sharpened_store(tmp_path / "s.db") as store:
        tried = {"simple": {"1.0": None, "0.5": 0.4, "0.12": None}}
        store.put("powers", {"warped": {"chosen": {"method": "simple", "p": 0.5}, "losses": tried}})
        words = said(of(store), "Warped weights: ")
        assert words.endswith("the least joint loss of 1 family and 1 power.")  # and not the smallest tried
        store.put("powers", {"warped": {"chosen": {"method": "simple", "p": 0.5}, "losses": {}}})
        assert said(of(store), "Warped weights: ").endswith("p = 0.5 on Simple averaging.")


def test_what_chose_a_power_is_told_of_each_method(tmp_path):
    with sharpened_store(tmp_path / "s.db") as store:
        powers = store.get("powers")
        store.put("powers", {"warped": powers["warped"]})
        assert said(of(store), "The joint loss is ").endswith(
            "No joint run and no test item was used for the choice."
        )
        store.put("powers", {"anchored": powers["anchored"]})
        assert said(of(store), "The joint loss is ").endswith(
            "anchored preview no joint run but the anchors."
        )
        few = {**powers["anchored"], "examples": 1, "alphas": [[0.5, 0.5, 0.0]]}
        store.put("powers", {"warped": powers["warped"], "anchored": few})
        assert (
            "on 900 training examples at 19 weightings (Warped weights), on 1 training example at 1 weighting (Anchored at "
            "joint runs)." in said(of(store), "The joint loss is ")
        )


def test_one_is_told_as_one(tmp_path):
    with sharpened_store(tmp_path / "s.db", tasks=("x", "y"), truth=False) as store:
        store.put("anchors", [{**one, "share": 1.0} for one in store.get("anchors")])
        store.record("refined_1", (0.5, 0.5), dict.fromkeys("xy", np.ones(ITEMS)), seconds=1.0)
        found = of(store)
    assert said(found, "One joint run is an anchor").endswith("Cost: 1 full joint run.")
    assert said(found, "The same 1 anchor and task runs")
    assert said(found, "At ").endswith("1.0000 after 1 step.")


def test_other_metric_weights_than_the_studys_have_no_band_and_their_own_left_out_errors(
    tmp_path, no_figures
):
    start, even = "Each anchor left out in turn", {"a": 2.0, "b": 2.0, "c": 2.0}
    with sharpened_store(tmp_path / "s.db") as store:
        store.put("left_out", {"anchored": 0.008, "scores": 0.021})
        store.put("band", {**store.get("band"), "rests_on": {"weights": dict.fromkeys("abc", 1.0)}})
        same = Results.of(store, preference=Preference(weights=even)).summary["sharpened"]
        assert same["band"]["half_width"] == 0.013
        assert "to 0.8 points" in said(same, start)

        results = Results.of(store, preference=Preference(weights={"a": 1.0, "b": 0.0, "c": 0.0}))
        other = results.summary["sharpened"]
        assert other["band"] is None
        assert drawn(other)[1] == {}
        assert "the band is for the study's metric weights" in said(other, "No error band is shown")
        errors = [one["left_out"]["a"] - one["scores"]["a"] for one in store.get("anchors")]
        rms = 100 * np.sqrt(np.mean(np.square(errors)))
        assert f"to {rms:.2g} points by their parameters (root mean square)" in said(other, start)
        publish(store, results, tmp_path)
        assert "to 0.8 points" not in (tmp_path / "report.html").read_text()

        store.put("anchors", [{**one, "left_out": None} for one in store.get("anchors")])
        other = Results.of(store, preference=Preference(weights={"a": 3.0})).summary["sharpened"]
        assert not [s for s in other["sentences"] if s.startswith(start)]


def test_a_rival_that_ranks_better_with_the_larger_error_is_not_told_to_be_better_in_all(tmp_path):
    claim = "add nothing to the scores of the runs in this study."
    with sharpened_store(tmp_path / "s.db", off={**OFF, "scores": 0.0, "anchored": 0.3}) as store:
        found = Results.of(store)
        words = said(found.summary["sharpened"], "Interpolated scores of the same runs")
        assert "does as well or better for ranking and picking: " in words
        assert words.endswith(claim)  # less error, too
        ours = found.comparison.methods["anchored"]
        worse = replace(found.comparison.methods["scores"], mse=2 * ours.mse)
        comparison = replace(found.comparison, methods={"anchored": ours, "scores": worse})
        (words,) = of_rivals(["anchored"], ["scores"], comparison, [])
        assert words.endswith(
            f"{claim} The mean squared error disagrees: {ours.mse:.2g} of the anchored preview, {2 * ours.mse:.2g} of the other."
        )


def test_score_interpolation_is_judged_beside_the_anchored_preview(tmp_path):
    worse, better = {**OFF, "scores": 0.3, "scores_gp": 0.4}, {**OFF, "scores": 0.0, "anchored": 0.3}
    for i, (off, words) in enumerate([(worse, "does less well"), (better, "does as well")]):
        with sharpened_store(tmp_path / f"{i}.db", off=off) as store:
            found = Results.of(store)
            sentence = said(
                found.summary["sharpened"], "Interpolated scores of the same runs, without any merging, "
            )
            assert words in sentence
            ours, rival = found.comparison.methods["anchored"], found.comparison.methods["scores"]
            assert f"regret {rival.regret_at_1:.3f} and Spearman {rival.spearman:.3f}" in sentence
            assert f"against {ours.regret_at_1:.3f} and {ours.spearman:.3f}" in sentence
    with sharpened_store(tmp_path / "2.db", truth=False) as store:
        assert "cannot be told here" in said(of(store), "The same 4 anchors and task runs")


def test_the_band_is_counted_at_joint_runs_that_it_was_not_made_from(tmp_path):
    with sharpened_store(tmp_path / "s.db") as store:
        found, preview, truth = of(store), store.preview("anchored"), store.preview("joint")
        inside = []
        for i, alpha in enumerate(truth.alphas):
            if alpha.max() < 1 and not any(np.allclose(alpha, a) for a in anchors_of(3)):
                inside.append(abs(preview.mean[preview.index(alpha)] - truth.mean[i]) <= 0.013)
        assert found["band"]["coverage"] == pytest.approx(np.mean(inside))
        assert f"a band of this width held {100 * np.mean(inside):.0f} %" in said(
            found, "Anchored at joint runs: a mean"
        )
    with sharpened_store(tmp_path / "t.db", truth=False) as store:
        assert of(store)["band"]["coverage"] is None
        store.put("band", {**store.get("band"), "offset": -0.02})
        assert "previewed 2 points too low on average" in said(of(store), "Anchored at joint runs: a mean")


def test_scores_of_the_runs_themselves_are_no_preview(tmp_path):
    with sharpened_store(tmp_path / "s.db") as store:
        for name in ("anchors", "left_out"):
            store.record(name, anchors_of(3)[0], dict.fromkeys("abc", np.ones(ITEMS)), seconds=0.1)
        assert set(Results.of(store).previews) == set(OFF)


def test_steps_from_a_preview_are_told_and_are_no_maps(tmp_path):
    alpha = (0.5, 0.3, 0.2)
    with sharpened_store(tmp_path / "s.db", facts=False) as store:
        for k, level in ((0, 0.8), (25, 0.9), (100, 0.95)):
            items = (np.arange(ITEMS) < level * ITEMS).astype(np.float32)
            store.record(f"refined_{k}", alpha, dict.fromkeys("abc", items), seconds=1.0, stats={"steps": k})
        found = Results.of(store)
        true = store.preview("joint").at([alpha]).mean[0]
    assert set(found.previews) == set(OFF)
    sharper = found.summary["sharpened"]
    (one,) = sharper["refined"]
    assert one == {"alpha": list(alpha), "steps": [0, 25, 100], "means": pytest.approx([0.8, 0.9, 0.95]), "true": pytest.approx(true)}  # fmt: skip
    words = said(sharper, "The preview at ")
    assert (
        "scores 0.8000, and goes on by joint training to 0.9000 after 25 steps, 0.9500 after 100 steps"
        in words
    )
    assert f"the joint run there has {true:.4f}" in words


def test_the_look_from_the_centre_says_how_far_it_was_trusted(tmp_path):
    with sharpened_store(tmp_path / "s.db", facts=False, off={**OFF, "centre": 0.03}) as store:
        assert of(store) is None
        reason = "steps with damping 1: the joint loss falls by 0.1, 80% of the promised 0.125."
        store.put(
            "centre",
            {"p": 0.5, "damping": 1.0, "reason": reason, "looks": 2, "evaluations": 90, "passes": 32.0},
        )
        found = of(store)
        assert said(found, "One look from the centre: ") == (
            f"One look from the centre: {reason} It took 2 looks at all training data, in all 32 training passes with the losses "
            "measured."
        )
        assert found["pairs"] == []


def test_what_leaving_out_says_is_told_with_or_without_a_truth(tmp_path):
    with sharpened_store(tmp_path / "s.db", truth=False) as store:
        assert not [s for s in of(store)["sentences"] if s.startswith("Each anchor left out")]
        store.put("left_out", {"anchored": 0.008, "scores": 0.021})
        words = said(of(store), "Each anchor left out in turn")
        assert "to 0.8 points by their parameters and to 2.1 points by their scores alone" in words
        store.put("left_out", {"anchored": None, "scores": 0.021})
        assert not [s for s in of(store)["sentences"] if s.startswith("Each anchor left out")]


def test_one_anchor_makes_no_band_to_rely_on(tmp_path):
    with sharpened_store(tmp_path / "s.db", tasks=("x", "y")) as store:
        found = of(store)
    assert "take the band for a guess" in said(found, "Anchored at joint runs: a mean")
    assert said(found, "One joint run is an anchor, a diamond in the maps")


@pytest.mark.parametrize("absent", ["powers", "anchors", "band"])
def test_any_of_the_facts_may_be_absent(absent, tmp_path, no_figures):
    with sharpened_store(tmp_path / "s.db") as store:
        store.put(absent, None)
        found = Results.of(store)
        publish(store, found, tmp_path)
    sharper = found.summary["sharpened"]
    assert not sharper[absent]
    json.dumps(sharper, allow_nan=False)


def test_anchors_without_scores_have_no_mean(tmp_path):
    with sharpened_store(tmp_path / "s.db") as store:
        store.put("anchors", [{"alpha": [0.5, 0.5, 0], "from": "/runs/a", "steps": None, "share": None, "scores": {"a": 1.0}, "left_out": None}])  # fmt: skip
        (anchor,) = of(store)["anchors"]
        assert (anchor["mean"], anchor["left_out_mean"]) == (None, None)
        assert "Cost" not in said(of(store), "One joint run is an anchor")


def test_names_in_the_facts_stay_text(tmp_path, no_figures):
    with sharpened_store(tmp_path / "s.db") as store:
        losses = {HOSTILE: {"1.0": 0.5, "0.5": 0.4}}
        store.put("powers", {"warped": {"chosen": {"method": HOSTILE, "p": 0.5}, "losses": losses}})
        store.put("anchors", [{"alpha": [0.5, 0.5, 0], "from": HOSTILE, "steps": 1, "share": 1.0, "scores": {}, "left_out": {}}])  # fmt: skip
        publish(store, Results.of(store), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<img" not in page
    assert page.count("</script>") == 2
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert data["facts"]["sharpened"]["anchors"][0]["from"] == HOSTILE


def test_a_family_in_front_names_what_is_sharpened_and_what_it_costs():
    assert parted("ivon_hessian_warped") == ("ivon_hessian", "warped")
    assert parted("anchored") == ("", "anchored")
    assert parted("mixture_10") == ("mixture_10", "")
    assert label("ivon_hessian_warped") == "Hessian-weighted, IVON, warped"
    assert finetunings("ivon_hessian_anchored") == ("finetune/ivon", "powers", "anchors")
    of_squares = {"warped": {"chosen": {"method": "squared_gradients", "p": 0.5}}}
    assert finetunings("warped", of_squares) == ("finetune/adamw", "squared_gradients", "powers")
    assert finetunings("warped") == ("finetune/ivon", "powers")
    assert finetunings("scores") == ("finetune/ivon", "anchors")
    order = [
        "simple",
        "ivon_hessian",
        "mixture_10",
        "mixture",
        "scores",
        "ivon_hessian_warped",
        "warped",
        "anchored",
        "mine",
    ]
    shuffled = [*order[1::2], *order[::2]]
    assert sorted(shuffled, key=place) == order


@pytest.mark.parametrize("T", [2, 3, 4])
def test_the_figures_mark_the_anchors_and_the_band(T, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(sys.modules["previa.show.contours"], "save", lambda figure, path: made.append(figure))
    with sharpened_store(tmp_path / "s.db", tasks=("a", "b", "c", "d")[:T]) as store:
        found = Results.of(store)
    from previa.show import contours

    anchors, band = drawn(found.summary["sharpened"])
    contours(found.truth, found.previews, tmp_path / "x.png", anchors=anchors, band=band)
    caption = " ".join(made[0].texts[-1].get_text().split())
    diamonds = [
        dots for axes in made[0].axes for dots in axes.collections
        if len(dots.get_offsets()) and len(dots.get_paths()) == 1 and len(dots.get_paths()[0].vertices) == 5
        and dots.get_linewidths()[0] < 1.4
    ]  # fmt: skip
    assert ("◇ a joint run as its anchor" in caption) == (T < 4)
    assert ("shaded: its error band" in caption) == (T == 2)
    assert len(diamonds) == {2: 1, 3: 4, 4: 0}[T]
    if T == 2:
        (shade,) = [
            c
            for c in made[0].axes[0].collections
            if type(c).__name__ in ("PolyCollection", "FillBetweenPolyCollection")
        ]
        corners, line = shade.get_paths()[0].vertices, found.previews["anchored"].mean
        assert corners[:, 1].max() == pytest.approx(line.max() + 0.013)
        assert corners[:, 1].min() == pytest.approx(line.min() - 0.013)
