"""What the report shows of searches, disagreements, checks and true runs, in real Chromium: nothing interpolated is called measured."""

# ruff: noqa: F401, F811  fixtures come by import
import numpy as np
import pytest

from browser_report import HOSTILE, IN_BROWSER, TASKS, browser, cells, opened, set_slider
from previa.show import write_report
from previa.study.disagreement import disagreement
from previa.study.simplex import grid
from previa.study.surrogate import interpolated
from synthetic_previews import made_up, study

pytestmark = IN_BROWSER

FACTS = {
    "method": "mixture",
    "unit": "accuracy",
    "searches": {"mixture": {"candidates": 231, "why_ended": f"the budget of 12 {HOSTILE}"}},
    "preflight": [
        {"name": "base", "sentence": f"All experts come from one base {HOSTILE}.", "level": "ok"},
        {"name": "apart", "sentence": "Two experts are far apart.", "level": "warning"},
        {"name": "odd", "sentence": "A level of another version.", "level": "later"},
    ],
    "validation": {
        "sentence": f"The pick is as good as it seemed {HOSTILE}.",
        "proposed": [
            {"alpha": [1 / 3, 1 / 3, 1 / 3], "why": "uniform"},
            {"alpha": [1, 0, 0], "why": HOSTILE},
        ],
    },
}


def searched(path, T=3):
    """A search of a dozen weightings, its interpolation, and what else a study of many parts knows."""
    truth = made_up(TASKS[T], steps=3)
    rng = np.random.default_rng(0)
    whole = made_up(TASKS[T], steps=6, slow=0.1)
    few = whole.rows(sorted(rng.choice(len(whole), min(12, len(whole) - 1), replace=False)))
    previews = {"simple": made_up(TASKS[T], steps=6, slow=0.3), "mixture": few, "corrected": whole}
    between = interpolated(few, grid(T, {2: 40, 3: 20, 5: 5}[T]))
    facts = FACTS if T == 3 else {**FACTS, "validation": None}
    write_report(
        path, name="searched", tasks=TASKS[T], convention="mean", truth=truth, previews=previews, comparison=None,
        recommendation={}, facts=facts, disagreement=disagreement(previews) if T < 5 else {"sentence": "They do."},
        surrogates={"mixture": {"alphas": between.preview.alphas, "scores": between.preview.scores, "sd": between.sd}},
    )  # fmt: skip
    return path, few, between


def lightness(cell):
    """The mean of a cell's red, green and blue, 0 to 255."""
    return np.mean([int(c) for c in cell.get_attribute("fill")[4:-1].split()])


def test_a_search_is_drawn_as_interpolated_beside_what_was_evaluated(opened, tmp_path):
    path, few, between = searched(tmp_path / "r.html")
    page = opened(path=path)
    words = page.locator("#between").inner_text()
    assert "interpolated" in words
    assert "12 weightings were evaluated of 231 candidates" in words
    assert page.locator("#between .read").count() == len(grid(3, 20))
    assert page.locator("#between .ring-front").count() == len(few)
    assert page.locator("#between [data-row]").count() == 0  # nothing there can be pinned
    at = 77
    told = page.locator("#between .read title").nth(at).text_content()
    mean, sd = between.preview.mean[at], np.sqrt((between.sd[at] ** 2).sum()) / 3
    assert told.startswith("interpolated at")
    assert [float(x) for x in told.rsplit(": ", 1)[1].split(" ± ")] == pytest.approx(
        [mean, 1.96 * sd], abs=0.0006
    )
    before = [c.get_attribute("fill") for c in page.locator("#between .read").all()[:40]]
    page.locator("input[name=between][value=sd]").check()
    assert "standard deviation" in page.locator("#between .scale").inner_text()
    assert page.locator("#between .ruler span").count() == 5  # numbers from 0 to the least sure
    sds = np.sqrt((between.sd**2).sum(axis=1))
    assert lightness(page.locator("#between .read").nth(int(sds.argmax()))) < 10  # dark is unsure
    assert lightness(page.locator("#between .read").nth(int(sds.argmin()))) > 200
    assert [c.get_attribute("fill") for c in page.locator("#between .read").all()[:40]] != before
    set_slider(page, "[data-weight='0']", 0)
    set_slider(page, "[data-weight='1']", 0)  # follows the preference: the last task alone
    told = page.locator("#between .read title").nth(at).text_content()
    assert float(told.rsplit(": ", 1)[1].split(" ± ")[0]) == pytest.approx(
        between.preview.scores[at, 2], abs=0.0006
    )
    page.locator("details.all summary").click()
    assert page.locator("#weightings tbody tr").count() == len(few)  # the table has what was measured
    page.locator("input[name=method][value=simple]").check()
    assert page.locator("#between").inner_text() == ""


@pytest.mark.parametrize("T", [2, 5])
def test_other_numbers_of_tasks_have_a_curve_or_slices(opened, tmp_path, T):
    path, few, between = searched(tmp_path / "r.html", T)
    page = opened(path=path)
    if T == 2:
        assert page.locator("#between .band").count() == 1
        assert page.locator("#between .dot").count() == 6
    else:
        assert page.locator("#between figure:has(.read)").count() == 4  # the first task with each other one
        assert page.locator("#between figure").first.locator(".read").count() == len(grid(3, 5))
        assert page.locator("#between figure").first.locator(".ring-front").count() == len(few)
        best = between.preview.mean.max()
        told = page.locator("#between figure").first.locator(".read title").all_text_contents()
        assert max(float(x.rsplit(": ", 1)[1].split(" ± ")[0]) for x in told) == pytest.approx(
            best, abs=0.0006
        )
        assert page.locator("#disagreement").inner_text().endswith("They do.")


def test_the_disagreement_is_a_map_and_a_sentence(opened, tmp_path):
    page = opened(path=searched(tmp_path / "r.html")[0])
    assert page.locator("#disagreement .read").count() == 12
    assert "methods has in its best tenth" in page.locator("#disagreement").inner_text()
    spread = page.evaluate("JSON.parse(document.getElementById('data').textContent).disagreement.spread")
    assert lightness(page.locator("#disagreement .read").nth(int(np.argmax(spread)))) < 10
    assert page.locator("#disagreement .ruler span").last.inner_text() == (
        f"{100 * max(spread):.0f} %" if max(spread) >= 0.1 else f"{100 * max(spread):.1f} %"
    )
    assert page.locator("#disagreement-mark").is_hidden()
    set_slider(page, "[data-weight='0']", 3)  # it was found for the study's own preference, and stays
    assert "Under the study's own preference" in page.locator("#disagreement-mark").inner_text()
    page.locator("#reset").click()
    assert page.locator("#disagreement-mark").is_hidden()


def test_checks_true_runs_and_the_corrected_preview_are_told(opened, tmp_path):
    page = opened(path=searched(tmp_path / "r.html")[0])
    checks = page.locator("#trust .check")
    assert [c.get_attribute("class") for c in checks.all()] == ["check ok", "check warning", "check note"]
    assert HOSTILE in checks.first.inner_text()
    told = page.locator("#validation").inner_text()
    assert "The pick is as good as it seemed" in told
    true = made_up(TASKS[3], steps=3)
    uniform = true.mean[true.index([1 / 3, 1 / 3, 1 / 3])]
    assert f"(uniform): true mean {uniform:.3f}" in told
    assert page.get_by_text("Corrected by true runs").count() >= 1
    assert page.locator("img").count() == 0


def test_a_report_of_this_kind_fits_a_phone(opened, tmp_path):
    page = opened(path=searched(tmp_path / "r.html")[0], width=390, scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("input[name=between][value=sd]").check()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_region_of_a_search_is_a_share_of_all_weightings(opened, tmp_path):
    whole = made_up(TASKS[3], steps=8, slow=0.1)
    few = whole.rows(range(0, 45, 5))
    advice = {
        "region": whole.alphas[:18].tolist(), "region_rule": "surrogate", "region_fraction": 0.4,  # more than were evaluated
        "alpha": few.alphas[0].tolist(), "sentence": "Use it. It is good.", "verdict_sentence": f"Validate first {HOSTILE}.",
    }  # fmt: skip
    write_report(
        tmp_path / "r.html", name="searched", tasks=TASKS[3], convention="mean", truth=None, previews={"mixture": few},
        comparison=None, recommendation=advice, facts={"method": "mixture"},
    )  # fmt: skip
    page = opened(path=tmp_path / "r.html")
    assert (
        page.locator("#maps .dot").count() == 4
    )  # of the region's 18 those that were evaluated: nothing else is drawn
    assert "About 40 % of the weightings are as good" in page.locator("#live").inner_text()
    assert "40 % of all weightings, going by what lies between" in page.locator("#choice-note").inner_text()
    assert page.locator("#sentence .lead").inner_text() == f"Validate first {HOSTILE}."
    assert page.locator("#sentence .more").inner_text() == "Use it. It is good."
    write_report(
        tmp_path / "r.html", name="searched", tasks=TASKS[3], convention="mean", truth=None, previews={"mixture": few},
        comparison=None, recommendation=advice, facts={"method": "mixture"},
        surrogates={"mixture": {"alphas": whole.alphas, "scores": whole.scores, "sd": 0 * whole.scores + 0.01}},
    )  # fmt: skip
    page = opened(path=tmp_path / "r.html")
    assert page.locator("#maps .dot").count() == 0
    assert page.locator("#between .dot").count() == 18  # the region lies where it was interpolated
    assert "dotted in the interpolated picture" in page.locator("#choice-note").inner_text()
