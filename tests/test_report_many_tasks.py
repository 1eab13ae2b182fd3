"""Four tasks and more in real Chromium: lines across tasks, their table, slices, and what if, each linked to the others."""

# ruff: noqa: F401, F811  fixtures come by import
import numpy as np
import pytest

from browser_report import HOSTILE, IN_BROWSER, TASKS, browser, cells, in_view, opened, set_slider
from previa.study.knee import knee_of
from synthetic_previews import study

pytestmark = IN_BROWSER


def strands(page):
    return page.locator("#many .strand")


def many(opened, T=5, steps=4, **options):
    truth, previews = study(TASKS[T], steps=steps, truth_steps=2)
    return opened(TASKS[T], truth, previews, **options), previews["mixture"]


def test_a_line_for_each_weighting_is_hovered_focused_and_pinned_as_a_point_is(opened):
    page, preview = many(opened)
    assert strands(page).count() == len(preview) == 70
    line = page.locator("#many .strand[data-row='7']")
    line.focus()
    page.keyboard.press("ArrowDown")  # the next lower value
    order = np.argsort(-preview.mean, kind="stable")
    row = order[list(order).index(7) + 1]
    assert in_view(page)[0] == "In view"
    assert [float(w) for w in in_view(page)[1]] == preview.alphas[row].tolist()
    page.keyboard.press("Enter")
    assert page.locator("#many .strand-pinned").count() == 1
    assert page.locator("#maps .pinned").count() >= 1
    page.keyboard.press("Escape")
    box = page.locator("#many .catch").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.95, box["y"] + box["height"] * 0.4)
    page.locator("#many .strand-here").wait_for(state="attached")
    assert in_view(page)[0] == "In view"
    page.mouse.click(box["x"] + box["width"] * 0.95, box["y"] + box["height"] * 0.4)
    assert in_view(page)[0] == "Pinned"


def test_lines_and_the_table_show_each_other(opened):
    page, preview = many(opened)
    rows = page.locator("#weightings tbody tr")
    rows.nth(2).hover()
    best = np.argsort(-preview.mean, kind="stable")[2]
    assert page.locator("#many .strand-here").get_attribute("d") == page.locator(
        f"#many .strand[data-row='{best}']"
    ).get_attribute("d")
    rows.nth(2).click()
    page.mouse.move(5, 5)
    assert in_view(page)[0] == "Pinned"
    assert rows.nth(2).get_attribute("class") == "held"
    rows.first.focus()
    page.keyboard.press("ArrowDown")
    assert rows.nth(1).get_attribute("class") == "seen"
    page.keyboard.press("Enter")
    assert rows.nth(1).get_attribute("class").split() == ["seen", "held"] or "held" in rows.nth(
        1
    ).get_attribute("class")
    page.keyboard.press("Escape")
    cells(page, "mixture").nth(11).focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#weightings tr.seen").count() == 1


def test_a_floor_filters_lines_and_table_alike(opened):
    page, preview = many(opened, hash="#f=0.8,,,,")
    kept = int((preview.scores[:, 0] >= 0.8).sum())
    assert 0 < kept < len(preview)
    assert page.locator("#many .strand:not(.short)").count() == kept
    assert strands(page).count() == len(preview)  # faint, not hidden
    assert page.locator("#weightings tbody tr").count() == kept
    assert page.locator("#many .floor").count() == 1


@pytest.mark.parametrize("T", [4, 5])
def test_a_slice_shows_the_best_measured_weighting_of_each_pair_of_weights(opened, T):
    page, preview = many(opened, T)
    pairs = page.locator("#slices figure")
    assert pairs.count() == {4: 6, 5: 4}[T]
    if T == 5:
        page.locator("#slice-task").select_option("2")
        assert pairs.first.get_attribute("data-pair") == "0 2"
    s, t = map(int, pairs.first.get_attribute("data-pair").split())
    points = pairs.first.locator("[data-row]")
    groups = {}
    for alpha, mean in zip(preview.alphas, preview.mean, strict=True):
        groups.setdefault((alpha[s], alpha[t]), []).append((mean, tuple(alpha)))
    assert points.count() == len(groups)
    points.nth(4).focus()
    page.keyboard.press("Enter")
    page.evaluate("document.activeElement.blur()")
    alpha = [float(a) for a in in_view(page)[1]]
    here = groups[alpha[s], alpha[t]]
    assert preview.mean[preview.index(alpha)] == pytest.approx(max(here)[0], abs=1e-7)
    assert page.locator("#slices .pinned").count() >= 1


@pytest.mark.parametrize("T", [2, 3, 5])
def test_what_if_gives_way_in_proportion_and_names_what_was_previewed(opened, T):
    page, preview = many(opened, T)
    pick = preview.alphas[preview.mean.argmax()]
    set_slider(page, "[data-ask='0']", 0.7)
    asked = np.array([float(page.locator(f"[data-ask='{t}']").input_value()) for t in range(T)])
    wanted = pick * (0.3 / (1 - pick[0]))
    wanted[0] = 0.7
    np.testing.assert_allclose(asked, wanted, atol=0.0051)
    shown = np.array([float(a) for a in page.locator("#what-if-alpha").inner_text().split(" / ")])
    gaps = np.linalg.norm(preview.alphas - wanted, axis=1)
    assert np.linalg.norm(shown - wanted) == pytest.approx(gaps.min(), abs=0.01)
    assert "nearest previewed weighting" in page.locator("#what-if").inner_text()
    assert in_view(page)[0] == "Pinned"
    row = preview.index(shown)
    change = preview.scores[row] - preview.scores[preview.mean.argmax()]
    said = page.locator("#what-if td.delta").all_inner_texts()
    for text, true in zip(said, [*change, preview.mean[row] - preview.mean.max()], strict=True):
        assert float(text.replace("−", "-")) == pytest.approx(true, abs=0.00051)
    for t, bar in enumerate(page.locator("#what-if rect").all()[:T]):
        assert ("worse" in bar.get_attribute("class")) == (change[t] < 0)
    before = page.locator("#what-if-alpha").inner_text()
    slider = page.locator("[data-ask='0']")
    slider.focus()
    for _ in range(25):
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == "0.95"
    assert page.locator("#what-if-alpha").inner_text() != before


def test_the_knee_is_the_one_that_python_finds(opened):
    truth, previews = study(TASKS[4], steps=4, truth_steps=4)
    page = opened(TASKS[4], truth, previews)
    for method in ("simple", "mixture"):
        page.locator(f"input[name=method][value={method}]").check()
        row = knee_of(previews[method])
        text = page.locator("#knee").inner_text()
        if row is None:
            assert "no knee" in text
        else:
            assert (
                text.split(": ")[1]
                .split(".  ")[0]
                .startswith(" / ".join(f"{a:.2f}" for a in previews[method].alphas[row]))
            )
            assert page.locator("#fronts path.knee").count() == 3


@pytest.mark.parametrize(
    ("T", "hash", "scheme"),
    [
        (2, "#f=0.8,", "dark"), (3, "#v=worst&f=,0.8,", "light"), (5, "#r=1&f=0.8,,,,", "dark"), (5, "", "light"),
    ],
)  # fmt: skip
def test_the_explorer_fits_a_phone_in_both_themes(opened, T, hash, scheme):
    page, _ = many(opened, T, width=390, scheme=scheme, hash=hash)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("#preference").is_visible()
    assert page.locator("img").count() == 0
