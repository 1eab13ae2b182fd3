"""The report as a file: complete in itself, small, safe against hostile names, tolerant of what is missing."""

import base64
import hashlib
import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from previa.errors import FileError, InputError
from previa.show import write_report
from previa.show._look import landscapes
from previa.show.report import _led
from previa.study.compare import compare
from previa.study.pareto import compare_fronts
from previa.study.preference import Preference, experts_of
from previa.study.recommend import recommend
from synthetic_previews import made_up, study, written

TASKS = ("digits 0-3", "digits 4-6", "digits 7-9")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u2028 & {{script}} '\""


def with_items(preview):
    """The same, with scores of 50 test items each."""
    N = 50
    spread = np.linspace(-0.3, 0.3, N)
    items = tuple((s[:, None] + spread).astype(np.float32) for s in preview.scores.T)
    return replace(preview, items=items)


def embedded(page):
    """The JSON inside a page, as the browser reads it."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_a_report_of_231_weightings_by_5_methods_is_one_small_file(tmp_path):
    truth, previews = study(TASKS)
    assert {len(p) for p in previews.values()} == {231}
    page = written(tmp_path / "r.html", TASKS, truth, previews).read_text()
    assert len(page.encode()) < 1_000_000
    five = tuple("abcde")
    truth, previews = study(
        five, steps=6, truth_steps=6, methods=("simple", "ivon_hessian", "squared_gradients", "mixture")
    )
    truth, previews = with_items(truth), {m: with_items(p) for m, p in previews.items()}
    assert {len(p) for p in previews.values()} == {210}
    wide = written(tmp_path / "r.html", five, truth, previews).stat().st_size
    assert wide * 231 / 210 < 1_000_000  # five tasks, with intervals
    assert not re.search(
        r"\b(?:src|href)\s*=\s*['\"]?[^#'\"\s]", page.split("<script>")[0]
    )  # only links within the page
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(|WebSocket|sendBeacon", page)
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_the_page_allows_its_own_script_and_style_and_nothing_else(tmp_path):
    truth, previews = study(TASKS, steps=6)
    page = written(tmp_path / "r.html", TASKS, truth, previews).read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        content = re.search(f"<{tag}>(.*?)</{tag}>", page, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval)\b", page)


def test_scores_and_weights_survive_the_way_into_the_page(tmp_path):
    truth, previews = study(TASKS, steps=6, methods=("simple", "mixture"))
    data = embedded(written(tmp_path / "r.html", TASKS, truth, previews).read_text())
    assert data["tasks"] == list(TASKS)
    assert [m["key"] for m in data["methods"]] == ["joint", "simple", "mixture"]
    assert len(data["designs"]) == 2  # shared by methods that were scored at the same weightings
    for method, preview in zip(data["methods"], [truth, *previews.values()], strict=True):
        np.testing.assert_allclose(data["designs"][method["design"]], preview.alphas, atol=1e-6)
        np.testing.assert_allclose(method["scores"], preview.scores, rtol=1e-5)  # six digits are kept
        assert method["pick"] == int(np.argmax(preview.mean))


def test_errors_and_typical_noise_are_those_of_the_items(tmp_path):
    preview = with_items(made_up(TASKS, steps=4))
    rng = np.random.default_rng(0)
    items = tuple(rng.random(i.shape).astype(np.float32) for i in preview.items)
    scores = np.stack([i.mean(axis=1, dtype=float) for i in items], axis=1)
    preview = replace(preview, items=(*items[:2], None), scores=scores)
    page = written(tmp_path / "r.html", TASKS, None, {"mine": preview}, bare=True).read_text()
    mine = embedded(page)["methods"][0]
    assert mine["errors"][3][0] == pytest.approx(items[0][3].std() / np.sqrt(50), rel=0.006)
    assert mine["errors"][3][2] is None
    pick = mine["pick"]
    for t in (0, 1):
        apart = [np.std(x - items[t][pick]) / np.sqrt(50) for i, x in enumerate(items[t]) if i != pick]
        assert mine["noise"][t] == pytest.approx(np.median(apart), rel=0.006)  # three digits are kept
    assert mine["noise"][2] is None


def test_the_studys_own_preference_and_its_experts_go_in(tmp_path):
    truth, previews = study(TASKS, steps=4, truth_steps=2, methods=("simple",))
    wish = Preference({TASKS[0]: 3}, {TASKS[1]: 0.5}, worst=True, relative_to=experts_of(previews["simple"]))
    facts = {"method": "simple"}
    options = {"name": "n", "convention": "mean", "comparison": None, "recommendation": {}}
    write_report(
        tmp_path / "r.html",
        tasks=TASKS,
        truth=truth,
        previews=previews,
        facts=facts,
        preference=wish,
        **options,
    )
    data = embedded((tmp_path / "r.html").read_text())
    assert data["preference"] == {
        "weights": [3, 1, 1],
        "floors": [None, 0.5, None],
        "worst": True,
        "relative": True,
    }
    assert data["experts"] == pytest.approx(list(wish.relative_to.values()))
    _, lands = landscapes(truth, previews, wish)
    assert data["methods"][1]["pick"] == lands["simple"].pick
    inner = previews["simple"].rows((previews["simple"].alphas > 0).all(axis=1))
    write_report(
        tmp_path / "r.html", tasks=TASKS, truth=None, previews={"simple": inner}, facts=facts, **options
    )
    assert embedded((tmp_path / "r.html").read_text())["experts"] == [None, None, None]


def test_hostile_names_stay_text(tmp_path):
    tasks = (HOSTILE, "b", "c")
    truth, previews = study(tasks, steps=4, truth_steps=2)
    page = written(tmp_path / "r.html", tasks, truth, previews, name=HOSTILE, sentence=HOSTILE).read_text()
    assert embedded(page)["tasks"] == list(tasks)
    assert html.escape(" ".join(HOSTILE.split())) in page
    assert "<img" not in page
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "\u2028" not in page.split('id="data">')[1]


def test_half_a_surrogate_pair_in_a_name_is_no_reason_to_fail(tmp_path):
    tasks = ("a\ud83d", "b")
    truth, previews = study(tasks, steps=4, truth_steps=2)
    assert written(tmp_path / "r.html", tasks, truth, previews, name="\ud83d").stat().st_size > 0


def test_missing_values_are_no_error(tmp_path):
    failing = made_up(TASKS, steps=4, failed=[2, 3])
    page = written(tmp_path / "r.html", TASKS, None, {"mine": failing}, bare=True).read_text()
    data = embedded(page)
    assert data["chosen"] == "mine"
    assert data["comparison"] is None
    assert data["methods"][0]["failed"] == 2
    assert data["methods"][0]["scores"][2] == [None, None, None]
    assert "No recommendation was made" in page


def test_the_preview_shown_first_is_the_recommended_or_else_the_one_of_least_regret(tmp_path):
    truth, previews = study(TASKS, steps=4, truth_steps=2)
    comparison = {
        "methods": {
            m: {"regret_at_1": np.float64(r)}
            for m, r in zip(previews, (3, 2, float("nan"), 1, 2), strict=True)
        }
    }
    path = tmp_path / "r.html"
    for facts, first in (({"method": "simple"}, "simple"), ({}, "squared_gradients")):
        page = written(path, TASKS, truth, previews, comparison=comparison, facts=facts).read_text()
        assert embedded(page)["chosen"] == first


def test_metric_weights_decide_the_pick(tmp_path):
    truth, previews = study(TASKS, steps=4, truth_steps=4, methods=("simple",))
    facts = {"metric_weights": {TASKS[0]: 1, TASKS[1]: 0, TASKS[2]: 0}}
    data = embedded(written(tmp_path / "r.html", TASKS, truth, previews, facts=facts).read_text())
    assert data["importance"] == [1, 0, 0]
    simple = data["methods"][1]
    assert simple["pick"] == int(np.argmax(previews["simple"].scores[:, 0]))


def test_what_cannot_be_reported_is_said(tmp_path):
    truth, previews = study(TASKS, steps=4, truth_steps=2)
    with pytest.raises(InputError, match="the report is of the tasks"):
        written(tmp_path / "r.html", ("a", "b", "c"), truth, previews)
    with pytest.raises(InputError, match="name of the truth"):
        written(tmp_path / "r.html", TASKS, truth, {"joint": truth})
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        written(tmp_path / "file" / "r.html", TASKS, truth, previews)


def test_what_compare_and_recommend_return_goes_in_as_it_is(tmp_path):
    truth, previews = study(TASKS, steps=10, truth_steps=10)
    references = {"uniform": [1 / 3] * 3, "size_proportional": [0.5, 0.3, 0.2]}
    comparison = compare(truth, previews, **references)
    advice = recommend(previews["mixture"], truth=truth, others={"simple": previews["simple"]}, **references)
    facts = {"method": "mixture", "seconds": {}}
    write_report(
        tmp_path / "r.html", name="A study", tasks=TASKS, convention="sum", truth=truth, previews=previews,
        comparison=comparison, recommendation=advice, facts=facts,
    )  # fmt: skip
    data = embedded((tmp_path / "r.html").read_text())
    assert data["comparison"]["methods"]["mixture"]["regret_at_1"] == pytest.approx(
        comparison.methods["mixture"].regret_at_1, rel=1e-5
    )
    assert data["recommendation"]["alpha"] == pytest.approx(list(advice.alpha))
    picked = data["methods"][-1]
    assert data["designs"][picked["design"]][picked["pick"]] == pytest.approx(list(advice.alpha))


def test_fronts_go_in_as_rows_of_the_truth(tmp_path):
    truth, previews = study(TASKS, steps=6, truth_steps=3, methods=("simple", "mixture"))
    data = embedded(written(tmp_path / "r.html", TASKS, truth, previews).read_text())
    assert data["pairs"] == [[0, 1], [0, 2], [1, 2]]
    for method, preview in previews.items():
        found, front = compare_fronts(truth, preview), data["fronts"][method]
        assert front["rows"] == list(range(len(truth)))
        assert front["previewed"] == np.flatnonzero(found.on_previewed).tolist()
        assert front["good"] == np.flatnonzero(found.on_true).tolist()  # no items: noise unknown
        assert front["sentence"] == found.sentence
        assert front["noise"] is None
    alone = embedded(written(tmp_path / "r.html", TASKS, None, previews).read_text())
    assert alone["fronts"] == {}


def test_the_verdict_leads_or_else_the_first_sentences_and_the_rest_follows():
    said = "Use a = 0.25, b = 0.75. The gain over uniform is +0.02, in joint runs, 95 % sure and well known. The preview is."
    lead, more = _led({"sentence": said})
    assert lead.startswith("Use a = 0.25, b = 0.75. The gain")
    assert more == "The preview is."
    assert _led({"sentence": said, "verdict_sentence": "Train at the pick."}) == ("Train at the pick.", said)
    assert _led({"sentence": f"None keeps it. {said}", "verdict_sentence": "None keeps it."}) == (
        "None keeps it.",
        said,
    )
    assert _led({})[0].startswith("No recommendation")
