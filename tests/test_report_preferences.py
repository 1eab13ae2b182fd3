"""The sliders of the report in real Chromium: one preference recolours all, and means what it means in Python."""

# ruff: noqa: F401, F811  fixtures come by import
from dataclasses import replace

import numpy as np
import pytest

from browser_report import HOSTILE, IN_BROWSER, TASKS, browser, cells, in_view, opened, set_slider
from previa.export.stacks import STACKS
from previa.show._look import landscapes
from previa.study.knee import knee_of
from previa.study.pareto import paired_error
from previa.study.preference import Preference, experts_of
from previa.study.simplex import nearest
from synthetic_previews import made_up, study

pytestmark = IN_BROWSER


def picked(page):
    """What the live line says of the pick, in all its digits."""
    node = page.locator("#live")
    return (
        [float(a) for a in node.get_attribute("data-pick").split(",")],
        float(node.get_attribute("data-value")),
        float(node.get_attribute("data-short")),
    )


def random_preference(rng, tasks, scores, experts):
    """Weights, floors within the scores, mean or worst task, as they are or relative; and its place in the address."""
    relative, worst = bool(rng.integers(2)), bool(rng.integers(2))
    weights = np.round(rng.uniform(0, 4, len(tasks)), 1) * rng.integers(0, 2, len(tasks))
    weights[rng.integers(len(tasks))] = 1.5
    seen = scores / (np.array(list(experts.values())) if relative else 1.0)
    floors = {}
    for t, task in enumerate(tasks):
        if rng.random() < 0.4:
            floors[task] = float(np.round(rng.uniform(seen[:, t].min(), seen[:, t].max()), 4))
    wish = Preference(
        dict(zip(tasks, weights.tolist(), strict=True)), floors, worst, experts if relative else {}
    )
    parts = (
        "w=" + ",".join(map(str, weights.tolist())),
        "f=" + ",".join(str(floors.get(task, "")) for task in tasks),
        f"v={'worst' if worst else 'mean'}",
        f"r={int(relative)}",
    )
    return wish, "#" + "&".join(parts)


@pytest.mark.parametrize("T", [2, 3, 5])
def test_the_page_values_and_picks_as_python_does_under_any_preference(opened, T):
    truth, previews = study(TASKS[T], steps={2: 20, 3: 12, 5: 4}[T], truth_steps=2)
    page = opened(TASKS[T], truth, previews)
    chosen = previews["mixture"]
    experts = experts_of(chosen)
    rng = np.random.default_rng(T)
    met = 0
    for _ in range(10):
        wish, hash = random_preference(rng, TASKS[T], chosen.scores, experts)
        page.evaluate("hash => { location.hash = hash; }", hash)
        page.evaluate("new Promise((done) => setTimeout(done, 0))")  # hashchange comes as a task of its own
        _, lands = landscapes(truth, {"mixture": chosen}, wish)
        land = lands["mixture"]
        alpha, value, short = picked(page)
        np.testing.assert_allclose(alpha, chosen.alphas[land.pick], atol=1e-6)
        assert value == pytest.approx(land.mean[land.pick], abs=1e-6)  # scores have eight digits on the page
        expected = 0.0 if land.short is None else land.short[land.pick]
        assert short == pytest.approx(expected, abs=1e-6)
        met += expected > 0
    assert met < 10  # most are not about floors that nothing keeps


def test_a_weight_slider_moves_the_pick_and_all_that_follows_from_it(opened):
    page = opened(TASKS[3], *study(TASKS[3], steps=10, truth_steps=10))
    before, colour = picked(page)[0], cells(page, "mixture").nth(30).get_attribute("fill")
    table = page.locator("#choice").inner_text()
    assert page.locator("#sentence-mark").is_hidden()
    for t in (0, 1):
        set_slider(page, f"[data-weight='{t}']", 0)
    alpha = picked(page)[0]
    assert alpha == [0, 0, 1]
    assert alpha != before
    assert cells(page, "mixture").nth(30).get_attribute("fill") != colour
    assert page.locator("#choice").inner_text() != table
    assert page.locator("#sentence-mark").is_visible()
    assert "Your preference" in page.locator("#live").inner_text()
    assert "regret 0.000" in page.locator("#live").inner_text()  # the truth is best there, too
    assert in_view(page) == ("The pick", ["0.00", "0.00", "1.00"])
    assert "weighted mean over tasks" in page.locator("#legend").inner_text()
    assert page.locator(".wish output").nth(4).inner_text() == "100 %"
    set_slider(page, "[data-weight='2']", 0)  # one has to count
    assert page.locator("[data-weight='2']").input_value() == "0.1"
    page.locator("#reset").click()
    assert picked(page)[0] == before
    assert page.locator("#choice").inner_text() == table
    assert page.locator("#sentence-mark").is_hidden()
    assert cells(page, "mixture").nth(30).get_attribute("fill") == colour


def test_a_floor_dims_what_misses_it_and_hides_nothing(opened):
    truth, previews = study(TASKS[3], steps=10, truth_steps=5)
    page = opened(TASKS[3], truth, previews)
    page.evaluate("location.hash = '#f=,0.9,'")
    page.locator(".cell.short").first.wait_for()
    for method, preview in (("joint", truth), ("mixture", previews["mixture"])):
        missed = preview.scores[:, 1] < 0.9
        assert cells(page, method).count() == len(preview)
        assert page.locator(f"#maps figure[data-method={method}] .cell.short").count() == missed.sum()
    kept = int((previews["mixture"].scores[:, 1] >= 0.9).sum())
    assert f"{kept} of 66 weightings keep the floor" in page.locator("#live").inner_text()
    page.locator("details.all summary").click()
    assert (
        f"{kept} of {kept} weightings that keep the floors, of 66" in page.locator("#weightings").inner_text()
    )
    assert page.locator("#legend").get_by_text("misses a floor").count() == 1
    page.locator("#maps figure[data-method=mixture] .cell.short").first.hover()
    assert "Misses a floor" in page.locator("#panel").inner_text()
    assert "misses a floor" in page.locator("#maps .cell.short").first.get_attribute("aria-label")
    page.evaluate("location.hash = '#f=0.96,0.96,0.96'")  # more than any has
    page.get_by_text("No weighting keeps the floors").wait_for()
    assert "are as good" not in page.locator("#live").inner_text()
    slider = page.locator("[data-floor='1']")
    assert slider.get_attribute("aria-valuetext").startswith("≥ 0.96")
    slider.press("Home")
    assert slider.get_attribute("aria-valuetext") == "off"


def test_a_run_speaks_for_a_pick_only_if_it_is_near(opened):
    whole = made_up(TASKS[3], steps=10)
    fine = made_up(TASKS[3], steps=20)
    runs = fine.rows([fine.index(a) for a in ([0.1, 0.1, 0.8], [0.9, 0.05, 0.05])])
    page = opened(TASKS[3], runs, {"mine": whole}, bare=True, hash="#w=0,0,1")
    assert picked(page)[0] == [0, 0, 1]  # 0.2 from the nearest run
    text = page.locator("#live").inner_text()
    assert "No joint run is near it" in text
    assert ": regret" not in text
    assert "the best of the truth has" in text
    set_slider(page, "[data-weight='0']", 1)
    set_slider(page, "[data-weight='2']", 0)
    assert picked(page)[0] == [0.9, 0, 0.1]
    assert "this is the nearest run, 0.90 / 0.05 / 0.05" in page.locator("#live").inner_text()
    assert "regret 0.000" in page.locator("#live").inner_text()


def row_of(page, name):
    """The weights and numbers of a row of the choice."""
    return (
        page.locator("#choice tr", has=page.get_by_role("rowheader", name=name))
        .locator("td")
        .all_inner_texts()
    )


@pytest.mark.parametrize("hash", ["#w=3,1,0.5", "#f=0.93,,", "#f=0.8,0.8,0.8&w=1,2,1"])
def test_the_choice_and_the_trade_offs_have_one_knee_that_of_what_may_be_picked(opened, hash):
    truth, previews = study(TASKS[3], steps=10, truth_steps=5)
    page = opened(TASKS[3], truth, previews, hash=hash)
    floors = (
        [float(f) if f else -1 for f in hash[3:].split("&")[0].split(",")] if hash[1] == "f" else [-1] * 3
    )
    mine = previews["mixture"]
    allowed = mine.rows((mine.scores >= floors).all(axis=1))
    assert 0 < len(allowed) <= len(mine)
    knee = [f"{a:.2f}" for a in allowed.alphas[knee_of(allowed)]]
    assert [cell.split("\n")[0] for cell in row_of(page, "Knee")[:3]] == knee
    assert " / ".join(knee) in page.locator("#knee").inner_text()
    assert set(row_of(page, "Robust centre")[:4]) == {"–"}  # it is the study's own preference's


@pytest.mark.parametrize("scrolled", [0, 300, 700])
def test_a_slider_stays_under_the_hand_though_the_choice_above_it_changes(opened, scrolled):
    page = opened(TASKS[3], *study(TASKS[3], steps=6, truth_steps=3))
    page.evaluate("y => scrollTo({ top: y, behavior: 'instant' })", scrolled)
    top = "document.querySelector(\"[data-weight='1']\").getBoundingClientRect().top"
    before = page.evaluate(top)
    for many in (3, 0, 2.2):
        set_slider(page, "[data-weight='1']", many)
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert page.evaluate(top) == pytest.approx(before, abs=1)
    page.locator("#reset").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "reset"  # the keyboard keeps its place
    assert page.locator("#reset").get_attribute("aria-disabled") == "true"


def test_scores_far_from_0_keep_the_digits_that_tell_near_best_ones_apart(opened):
    low = made_up(TASKS[3], steps=10)
    low = replace(low, scores=-300 * (1 - low.scores))
    page = opened(TASKS[3], None, {"mine": low}, bare=True)
    best = np.sort(low.mean)[-2:]
    assert f"{best[1]:.1f}" != f"{best[0]:.1f}"  # as they are told apart
    assert f"mean −{-best[1]:.1f} as previewed" in page.locator("#live").inner_text()
    scores = [float(s.replace("−", "-")) for s in page.locator("#panel tr.on td").all_inner_texts() if s]
    assert scores == pytest.approx([best[1]], abs=0.051)


def test_the_worst_task_counts_where_it_is_chosen(opened):
    truth, previews = study(TASKS[3], steps=10, truth_steps=5)
    page = opened(TASKS[3], truth, previews)
    page.locator("input[name=worst][value=worst]").check()
    worst = previews["mixture"].scores.min(axis=1)
    alpha, value, _ = picked(page)
    assert value == pytest.approx(worst.max(), abs=1e-6)
    assert alpha == pytest.approx(previews["mixture"].alphas[worst.argmax()].tolist(), abs=1e-6)
    assert page.locator("#panel tr.on th").inner_text() == "worst task"
    true = truth.scores.min(axis=1)
    assert f"the best of the truth has {true.max():.3f}" in page.locator("#live").inner_text()


def test_relative_scores_are_shares_of_the_experts_and_a_floor_stays_the_same_floor(opened):
    truth, previews = study(TASKS[3], steps=10, truth_steps=5)
    page = opened(TASKS[3], truth, previews, hash="#f=0.85,,")
    faint = page.locator("#maps .cell.short").count()
    assert faint > 0
    page.locator("#relative").check()
    wish = Preference(relative_to=experts_of(previews["mixture"]))
    assert page.locator("#maps .cell.short").count() == faint
    assert "relative to each task's own expert" in page.locator("#legend").inner_text()
    alpha, value, _ = picked(page)
    row = nearest(previews["mixture"].alphas, alpha)
    assert value == pytest.approx(wish.value(previews["mixture"].scores, TASKS[3])[row], abs=1e-6)
    page.locator("#relative").uncheck()
    assert page.locator("#maps .cell.short").count() == faint


def test_without_corners_nothing_is_relative_and_the_page_says_why(opened):
    whole = made_up(TASKS[3], steps=6)
    inner = whole.rows((whole.alphas > 0).all(axis=1))
    page = opened(TASKS[3], None, {"mine": inner}, bare=True, hash="#r=1&f=0.9,,")
    assert page.locator("#relative").is_disabled()
    assert "has no positive score at its own corner" in page.locator("#preference").inner_text()
    assert page.locator(".cell.short").count() == 0  # a share of nothing is no floor


def with_items(preview, N=80, seed=0):
    """The same with scores of N test items, right or wrong."""
    rng = np.random.default_rng(seed)
    items = tuple((rng.random((len(preview), N)) < s[:, None]).astype(np.float32) for s in preview.scores.T)
    return replace(
        preview, items=items, scores=np.stack([i.mean(axis=1, dtype=float) for i in items], axis=1)
    )


def test_every_score_has_its_interval_and_the_region_its_noise(opened):
    preview = with_items(made_up(TASKS[3], steps=6))
    page = opened(TASKS[3], None, {"mine": preview}, bare=True)
    cells(page, "mine").nth(9).hover()
    half = 1.96 * preview.items[0][9].std(dtype=float) / np.sqrt(80)
    for text in (
        page.locator("#panel tbody tr").first.inner_text(),
        cells(page, "mine").nth(9).get_attribute("aria-label"),
    ):
        said = float(text.split("± ")[1].split(",")[0])
        assert said == pytest.approx(
            half, abs=0.0007
        )  # three digits on the page, of an error of three digits
    set_slider(page, "[data-weight='2']", 0)
    w = np.array([0.5, 0.5, 0])
    value = preview.scores @ w
    pick = nearest(preview.alphas, picked(page)[0])
    mask = np.arange(len(preview)) == pick
    noise = [np.median(np.delete(paired_error(i, np.arange(len(preview)) == preview.mean.argmax())[:, 0],
                                 preview.mean.argmax())) for i in preview.items]  # fmt: skip
    margin = 1.96 * np.sqrt(sum((w * noise) ** 2))
    near = (value >= value[mask] - margin).mean()
    shown = f"{100 * near:.0f} %" if near >= 0.1 else f"{100 * near:.1f} %"
    assert f"Roughly {shown} of the weightings are as good" in page.locator("#live").inner_text()
    assert "the noise of the test items" in page.locator("#live").inner_text()


def test_the_keyboard_alone_sets_a_preference_and_walks_the_map(opened):
    page = opened(TASKS[3], *study(TASKS[3], steps=6, truth_steps=3))
    slider = page.locator("[data-weight='1']")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == "1.3"
    page.wait_for_url("**#w=1,1.3,1*")
    page.locator("[data-floor='0']").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    assert "≥" in page.locator("[data-floor='0']").get_attribute("aria-valuetext")
    page.locator("#relative").focus()
    page.keyboard.press("Space")
    assert page.locator("#relative").is_checked()
    cells(page, "mixture").nth(0).focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.wait_for_url("**pin=0,0.1666*")
    page.locator("#reset").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "w=" not in url and "pin=" in url)


def test_a_view_survives_in_its_address(opened):
    page = opened(TASKS[3], *study(TASKS[3], steps=10, truth_steps=5))
    assert "#" not in page.url  # nothing to say of the page's own start
    page.locator("input[name=method][value=simple]").check()
    page.locator("input[name=show][value='1']").check()
    page.locator("input[name=level][value=gap]").check()
    page.locator("input[name=worst][value=worst]").check()
    set_slider(page, "[data-weight='0']", 2.5)
    set_slider(page, "[data-floor='2']", 40)
    cells(page, "simple").nth(12).click()
    page.mouse.move(5, 5)
    page.wait_for_url("**pin=*")
    seen = (in_view(page), picked(page), page.locator("#live").inner_text(), page.url)
    floor = page.locator("[data-floor='2']").get_attribute("aria-valuetext")
    page.reload()
    assert (in_view(page), picked(page), page.locator("#live").inner_text(), page.url) == seen
    assert page.locator("input[name=method][value=simple]").is_checked()
    assert page.locator("input[name=show][value='1']").is_checked()
    assert page.locator("input[name=level][value=gap]").is_checked()
    assert page.locator("input[name=worst][value=worst]").is_checked()
    assert page.locator("[data-weight='0']").input_value() == "2.5"
    assert page.locator("[data-floor='2']").get_attribute("aria-valuetext") == floor


@pytest.mark.parametrize(
    "hash",
    [
        "#main", "#w=1,2", "#w=-1,2,3", "#w=0,0,0", "#w=NaN,1,1", "#w=1e999,1,1", f"#m={HOSTILE}", "#m=joint", "#m=__proto__",
        "#show=9", "#show=-5", "#show=1.5", "#level=high", "#f=a,b,c", "#pin=0.31,0.31,0.38", "#pin=1,1,1", "#v=best&r=maybe", "#%E0%A4%A",
        "#f=Infinity,,", "#w=" + "1," * 4000,
    ],
)  # fmt: skip
def test_what_is_stale_or_hostile_in_an_address_is_ignored(shared, hash):
    page, before = shared
    page.goto("about:blank")
    page.goto(page.uri + hash)
    assert (in_view(page), picked(page)) == before
    assert page.locator("input[name=method]:checked").get_attribute("value") == "mixture"
    assert page.locator("img").count() == 0


@pytest.fixture(scope="module")
def shared(browser, tmp_path_factory):
    """One page for all addresses, and what it shows without any."""
    from synthetic_previews import written

    path = written(
        tmp_path_factory.mktemp("r") / "r.html", TASKS[3], *study(TASKS[3], steps=6, truth_steps=3)
    )
    context = browser.new_context()
    page = context.new_page()
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.uri = path.as_uri()
    page.goto(page.uri)
    yield page, (in_view(page), picked(page))
    context.close()
    assert complaints == []


def test_both_commands_are_copied_and_name_the_weighting(opened):
    page = opened(TASKS[3], *study(TASKS[3], steps=6, truth_steps=3))
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    cells(page, "mixture").nth(8).click()
    page.mouse.move(5, 5)
    for name, words in (
        ("Train it", "previa finetune study.toml --alpha "),
        ("Export it to", "previa export --study study.toml --alpha "),
    ):
        button = page.get_by_role("button", name=f"Copy the command: {name}")
        button.click()
        button.filter(has_text="Copied").wait_for()
        text = page.evaluate("navigator.clipboard.readText()")
        assert text.startswith(words)
        alpha = text.split("--alpha ")[1].split()[0]
        assert sum(map(float, alpha.split(","))) == pytest.approx(1, abs=1e-9)
    assert text.endswith("--to trl")
    stacks = page.get_by_label("Training stack")
    assert set(stacks.locator("option").all_inner_texts()) == set(STACKS)
    stacks.select_option("olmo-core")
    assert page.locator("#export-command").inner_text().endswith("--to olmo-core")


def test_a_merge_command_is_offered_where_the_facts_bring_one(opened):
    facts = {"study": "s.toml", "merge": ["--task", f"a={HOSTILE}", "--task", "b=b"]}
    page = opened(TASKS[2], *study(TASKS[2], steps=4, truth_steps=2), facts=facts)
    text = page.locator("#merge-command").inner_text()
    assert text.startswith(f"previa merge --task 'a={HOSTILE}' --task b=b --alpha 0.")
    assert page.locator("img").count() == 0
