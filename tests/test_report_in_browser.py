"""The report opened from disk in real headless Chromium: it works by mouse and by keys, and never uses the network."""

# ruff: noqa: F401, F811  fixtures come by import
import sys
from dataclasses import replace

import numpy as np
import pytest

from browser_report import HOSTILE, IN_BROWSER, TASKS, browser, cells, in_view, opened
from previa.show.outputs import Results, publish
from previa.study.compare import compare
from previa.study.pareto import compare_fronts, front
from sharpened_study import ITEMS, anchors_of, sharpened_store
from synthetic_previews import made_up, study

pytestmark = IN_BROWSER


def test_pointing_shows_a_weighting_and_clicking_pins_it(opened):
    page = opened(TASKS[3], *study(TASKS[3]))
    assert page.locator("h1").inner_text() == "A study"
    assert "no detectable gain" in page.locator("#sentence").inner_text()
    assert page.locator("#maps figure").count() == 2
    assert cells(page, "joint").count() == 66
    assert cells(page, "mixture").count() == 231
    assert in_view(page)[0] == "Recommended"

    cells(page, "mixture").nth(100).hover()  # rows are lexicographic: the 101st weighting of spacing 0.05
    assert in_view(page) == ("In view", ["0.25", "0.25", "0.50"])
    assert "0.25,0.25,0.5" in page.locator("#command").inner_text()
    cells(page, "mixture").nth(100).click()
    page.mouse.move(5, 5)
    assert in_view(page) == ("Pinned", ["0.25", "0.25", "0.50"])
    assert page.locator("#command").inner_text() == "previa finetune study.toml --alpha 0.25,0.25,0.5"
    assert cells(page, "mixture").nth(100).get_attribute("aria-pressed") == "true"
    panel = page.locator("#panel").inner_text()
    assert "not trained at this weighting" in panel
    assert "Mean by the other previews" in panel
    page.get_by_role("button", name="Unpin").click()
    assert in_view(page)[0] == "Recommended"


def test_the_keyboard_walks_pins_and_lets_go(opened):
    page = opened(TASKS[3], *study(TASKS[3]))
    cells(page, "mixture").nth(0).focus()  # all on the last task: the lower right corner
    page.keyboard.press("ArrowLeft")
    assert in_view(page) == ("In view", ["0.00", "0.05", "0.95"])
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    weights = in_view(page)[1]
    assert weights[0] == "0.05"
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("digits 0-3 0.")
    page.get_by_role("button", name="Copy the command: Train it").focus()
    assert in_view(page)[0] == "In view"  # the command of the point one came from
    page.get_by_role("button", name="Copy the command: Train it").press("Enter")
    assert page.locator("#panel .command button").first.inner_text() in {"Copied", "Copy"}
    cells(page, "mixture").nth(5).focus()
    page.evaluate("document.activeElement.blur()")
    assert in_view(page) == ("Pinned", weights)
    cells(page, "mixture").nth(5).focus()
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    assert in_view(page)[0] == "Recommended"
    assert (
        page.locator("figure[data-method='mixture'] [tabindex='0']").count() == 1
    )  # one stop for the Tab key


def test_the_quality_table_can_be_judged_by_one_task(opened):
    truth, previews = study(TASKS[3], steps=10)
    comparison = compare(truth, previews, uniform=[1 / 3] * 3, size_proportional=[0.5, 0.3, 0.2]).to_dict()
    page = opened(TASKS[3], truth, previews, comparison=comparison)
    overall = page.locator("#quality tbody").inner_text()
    page.locator("input[name=judge][value='2']").check()
    assert page.locator("#quality tbody").inner_text() != overall
    assert (
        "picks 0.00 / 0.00 / 1.00" in page.locator("#quality tbody").inner_text()
    )  # it is best at its own corner


def test_a_study_in_which_everything_failed_opens_too(opened):
    failed = made_up(TASKS[3], steps=4, failed=range(15))
    page = opened(TASKS[3], failed, {"simple": failed}, bare=True)
    cells(page, "simple").nth(4).click()
    assert "failed" in page.locator("#panel").inner_text()
    assert "15 weightings of Simple averaging" in page.locator("#trust").inner_text()


def test_every_method_score_and_level_can_be_chosen(opened):
    truth, previews = study(TASKS[3])
    page = opened(TASKS[3], truth, previews)
    colours = set()
    for method in previews:
        page.locator(f"input[name=method][value={method}]").check()
        assert page.locator("#maps figure").last.get_attribute("data-method") == method
        assert cells(page, method).count() == 231
        colours.add(cells(page, method).nth(117).get_attribute("fill"))
    assert len(colours) == 4  # two of the five are the same by construction
    truth_colour = cells(page, "joint").nth(30).get_attribute("fill")
    page.locator("input[name=show][value='1']").check()
    assert cells(page, "joint").nth(30).get_attribute("fill") != truth_colour
    page.locator("input[name=level][value=gap]").check()
    assert "below the map's own best" in page.locator("#legend").inner_text()


def test_a_hostile_task_name_is_shown_and_does_nothing(opened):
    page = opened(TASKS[3], *study(TASKS[3]), name=f"Study {HOSTILE}")
    assert page.locator("img").count() == 0
    assert page.title() == f"Study {HOSTILE} · previa"
    assert page.locator("#choice th").get_by_text(HOSTILE).count() == 1
    assert page.locator("#panel").get_by_text(HOSTILE).count() == 1


def test_the_tables_put_the_least_regret_first_and_say_what_to_doubt(opened):
    page = opened(TASKS[3], *study(TASKS[3]))
    assert page.locator("#quality tbody tr").first.get_attribute("data-method") == "mixture"
    heads = page.locator("#quality thead th").all_inner_texts()
    assert heads.index("regret@1") == 1
    assert max(i for i, h in enumerate(heads) if "MSE" in h) > max(
        i for i, h in enumerate(heads) if "rank" in h
    )
    trust = page.locator("#trust").inner_text()
    for words in (
        "99 % initial value",
        "convention “mean”",
        "400",
        "by construction",
        "biased low",
        "No weighting failed",
    ):
        assert words in trust


@pytest.mark.parametrize("T", [2, 4])
def test_two_tasks_are_curves_and_four_are_points_and_a_table(opened, T):
    truth, previews = study(TASKS[T], steps=20 if T == 2 else 6, truth_steps=10 if T == 2 else 4)
    page = opened(TASKS[T], truth, previews)
    assert page.locator("#maps figure").count() == (1 if T == 2 else 2)
    cells(page, "mixture").last.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.evaluate("document.activeElement.blur()")
    title, weights = in_view(page)
    assert title == "Pinned"
    assert abs(sum(map(float, weights)) - 1) < 0.01
    if T == 4:
        page.get_by_role("button", name="weight of maths").click()
        assert page.locator("#weightings tbody tr").first.locator("td").nth(1).inner_text() == "1.00"
        page.locator("select").first.select_option("3")
        assert "score on law" in page.locator("figure").first.text_content()


@pytest.mark.parametrize("T", [2, 3, 4])
def test_trade_offs_show_each_weighting_at_its_true_scores_in_every_pair_of_tasks(opened, T):
    truth, previews = study(TASKS[T], steps=6, truth_steps=3)
    found = {method: compare_fronts(truth, preview) for method, preview in previews.items()}
    page = opened(TASKS[T], truth, previews)
    assert page.locator("#front-sentence").inner_text() == found["mixture"].sentence
    charts = page.locator("#fronts figure")
    assert charts.count() == {2: 1, 3: 3, 4: 3}[T]
    for method in ("simple", "mixture"):
        page.locator(f"input[name=method][value={method}]").check()
        on, good = found[method].on_previewed, found[method].on_true
        for kind, mask in {
            "good": on & good,
            "bad": on & ~good,
            "missed": ~on & good,
            "rest": ~on & ~good,
        }.items():
            assert charts.first.locator(f".front.{kind}").count() == mask.sum(), kind
        assert charts.first.locator(".ghost").count() == on.sum()
    assert charts.last.locator("[data-row]").count() == len(truth)
    assert page.locator("img").count() == 0


def test_a_hypervolume_without_its_chance_is_left_out(opened, monkeypatch):
    """Of many tasks too few points count to tell what blind draws reach; a share alone would read as a feat."""
    truth, previews = study(TASKS[3], steps=6, truth_steps=3)
    assert "hypervolume" in opened(TASKS[3], truth, previews).locator("#front-help").inner_text()
    rough = lambda *both: replace(compare_fronts(*both), volume_by_chance=None)  # noqa: E731
    monkeypatch.setattr("synthetic_previews.compare_fronts", rough)
    page = opened(TASKS[3], truth, previews)
    assert "hypervolume" not in page.locator("#front-help").inner_text()


def test_a_weighting_pinned_among_the_trade_offs_is_pinned_everywhere(opened):
    truth, previews = study(TASKS[3], steps=6, truth_steps=3)
    page = opened(TASKS[3], truth, previews)
    points = page.locator("#fronts figure").first.locator("[data-row]")
    point = points.and_(page.locator("[data-row='1']"))  # rows are lexicographic: 0, 1/3, 2/3
    point.focus()
    page.keyboard.press("Enter")
    page.evaluate("document.activeElement.blur()")
    assert in_view(page) == ("Pinned", ["0.00", "0.333", "0.667"])
    assert page.locator("#front-here").inner_text().startswith("True scores at digits 0-3 0.00")
    assert page.locator("#fronts .pinned").count() == 3
    page.keyboard.press("Tab")
    points.first.focus()
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    assert "Point at a weighting" in page.locator("#front-here").inner_text()


def test_without_truth_the_trade_offs_are_the_previews_own_and_say_so(opened):
    _, previews = study(TASKS[3], steps=6)
    page = opened(TASKS[3], None, previews, bare=True)
    on = front(previews["mixture"].scores)
    assert page.locator("#fronts figure").first.locator(".front.unknown").count() == on.sum()
    said = page.locator("#front-sentence").inner_text()
    assert said.startswith(f"{on.sum()} of {len(on)} weightings are on this front")
    assert "biased low" in said


def test_a_study_without_truth_comparison_or_facts_opens_too(opened):
    page = opened(TASKS[3], None, {"mine": made_up(TASKS[3], steps=6, failed=[3, 4])}, bare=True)
    assert page.locator("#maps figure").bounding_box()["width"] <= 480  # one map alone is not blown up
    assert "same colours" not in page.locator("#legend").inner_text()
    assert "unknown here" in page.locator("#quality").inner_text()
    assert "2 weightings of mine" in page.locator("#trust").inner_text()
    assert cells(page, "mine").nth(3).get_attribute("aria-label").endswith("not scored")
    cells(page, "mine").nth(3).click()
    assert "failed" in page.locator("#panel").inner_text()


@pytest.mark.parametrize("T", [2, 3, 4])
def test_nothing_runs_over_the_edge_of_a_phone(opened, T):
    tasks = (*TASKS[T][:-1], "a_very_long_task_name_" * 9)
    facts = {"sizes": dict.fromkeys(tasks, 400), "test_sizes": dict.fromkeys(tasks, 90)}
    page = opened(tasks, *study(tasks, steps=6, truth_steps=4), width=390, facts=facts)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_theme_follows_the_system_and_the_button(opened):
    page = opened(TASKS[2], *study(TASKS[2], steps=6, truth_steps=4), scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Switch between light and dark").click()
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert light != dark
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    page.emulate_media(media="print")  # paper is light
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light


def sharper(folder, T, monkeypatch, **options):
    """A sharpened study's report, hostile names included; drawn without figures, which take seconds."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with sharpened_store(folder / "s.db", tasks=TASKS[T], **options) as store:
        powers = store.get("powers") or {}
        if powers and T == 3:
            for k in (0, 25):
                store.record(
                    f"refined_{k}", anchors_of(3)[0], dict.fromkeys(TASKS[T], np.ones(ITEMS)), seconds=1.0
                )
        for found in powers.values():
            found["losses"][HOSTILE] = {"1.0": 0.5}
        if powers:
            store.put("powers", powers)
        publish(store, Results.of(store), folder)
    return folder / "report.html"


def test_the_report_tells_how_its_preview_was_sharpened(opened, tmp_path, monkeypatch):
    page = opened(path=sharper(tmp_path, 3, monkeypatch))
    section = page.locator("#sharpened-section")
    words = section.inner_text()
    assert "p = 0.25 on Simple averaging" in words
    assert "± 1.3 points (90 %;" in words
    assert page.locator("#sharpened-maps figure").count() == 3  # simple once, warped, anchored
    assert section.locator(".chosen").all_inner_texts() == ["0.4", "0.4"]
    rows = section.locator("table").first.locator("tbody tr")
    assert rows.count() == 3
    assert section.locator("table").first.locator("thead th").all_inner_texts()[:2] == ["Family", "p = 1"]
    assert section.locator("tbody th").get_by_text(HOSTILE).count() == 2  # one in each table of powers
    assert page.locator("img").count() == 0
    steps = section.locator("table").filter(has_text="25 steps")
    assert steps.locator("tbody tr").inner_text().split() == [
        "0.333",
        "/",
        "0.333",
        "/",
        "0.333",
        "1.000",
        "1.000",
        "–",
    ]
    for name, n in (("simple", 0), ("warped", 0), ("anchored", len(anchors_of(3)))):
        assert page.locator(f"#sharpened-maps figure[data-method={name}] .anchor").count() == n
    assert page.locator("#maps figure[data-method=anchored] .anchor").count() == 4
    assert page.locator("#legend .anchor").count() == 1
    page.locator("#sharpened-maps figure[data-method=warped] [data-row]").nth(7).click()
    assert in_view(page)[0] == "Pinned"
    assert page.locator("#maps .pinned").count() >= 1
    page.locator("input[name=show][value='1']").check()  # the maps of the section follow
    colours = [page.locator(f"{place} figure[data-method=anchored] [data-row]").nth(9).get_attribute("fill")
               for place in ("#maps", "#sharpened-maps")]  # fmt: skip
    assert colours[0] == colours[1]


def test_two_tasks_show_the_band_around_the_sharpened_curve(opened, tmp_path, monkeypatch):
    page = opened(path=sharper(tmp_path, 2, monkeypatch))
    assert page.locator("#maps .band").count() == 1
    assert page.locator("#sharpened-maps figure").count() == 2
    assert page.locator("#sharpened-maps .band").count() == 1
    assert page.locator("#sharpened-maps .anchor").count() == 1
    page.locator("input[name=method][value=simple]").check()
    assert page.locator("#maps .band").count() == 0


@pytest.mark.parametrize("T", [2, 3, 4])
def test_a_sharpened_report_fits_a_phone(opened, T, tmp_path, monkeypatch):
    page = opened(path=sharper(tmp_path, T, monkeypatch), width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("#sharpened-section").is_visible()


def test_an_older_store_has_no_such_section(opened, tmp_path, monkeypatch):
    page = opened(path=sharper(tmp_path, 3, monkeypatch, facts=False))
    assert not page.locator("#sharpened-section").is_visible()
    assert page.locator("#maps .anchor").count() == 0
