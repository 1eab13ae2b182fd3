"""The static figures: what they must cover, what they must survive, what a reader must be able to see."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from previa.errors import FileError, InputError, MissingExtraError
from previa.show import contours, histograms, per_task
from previa.show._fonts import fallbacks, readable
from previa.show._level import level
from previa.show._look import MAP, Landscape, averaged, figure, landscapes, levels, plain, save
from previa.show._scale import graded
from previa.show.ternary import filled, scale
from previa.study.preference import Preference
from synthetic_previews import made_up, study

PICTURES = [contours, histograms, per_task]
TASKS = {
    2: ("de-en", "fr-en"),
    3: ("digits 0-3", "digits 4-6", "digits 7-9"),
    4: ("code", "maths", "chat", "law"),
}


@pytest.mark.parametrize("draw", PICTURES)
@pytest.mark.parametrize("T", [2, 3, 4])
def test_a_picture_for_any_number_of_tasks_is_a_small_png(draw, T, tmp_path):
    truth, previews = study(TASKS[T], steps=20 if T < 4 else 6, truth_steps=10 if T < 4 else 4)
    draw(truth, previews, tmp_path / "a.png", unit="accuracy")
    assert (tmp_path / "a.png").stat().st_size < 300_000
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 400
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]  # no half-written file beside it


@pytest.mark.parametrize("seed", range(30))
def test_contour_levels_cover_the_lowest_and_the_highest_score(seed):
    rng = np.random.default_rng(seed)
    scores = rng.normal(rng.normal() * 100, 10.0 ** rng.integers(-6, 4), size=50)
    scores[rng.integers(50)] = np.nan
    steps = levels(scores)
    assert steps[0] <= np.nanmin(scores)
    assert steps[-1] >= np.nanmax(scores)
    assert 2 <= len(steps) <= 40
    assert np.all(np.diff(steps) > 0)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e6])
def test_a_flat_landscape_has_one_band_around_it(value):
    steps = levels(np.full(5, value))
    assert steps[0] < value < steps[-1]


def land(mean):
    """What is drawn of made-up means, at as many weightings of two tasks."""
    w = np.linspace(0, 1, len(mean))
    return Landscape(np.stack([w, 1 - w], 1), np.stack([mean] * 2, 1), np.asarray(mean), 1.0)


@pytest.mark.parametrize("seed", range(10))
def test_graded_levels_cover_all_scores_and_never_drop(seed):
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.integers(-5, 4)
    truth, preview = (size * (rng.normal() - rng.exponential(0.1, 60) ** p) for p in (2, 1))
    preview[rng.integers(60)] = np.nan
    steps = graded({"joint": land(truth), "simple": land(preview)})
    assert steps[0] <= min(truth.min(), np.nanmin(preview))
    assert steps[-1] >= max(truth.max(), np.nanmax(preview))
    assert np.all(np.diff(steps) > 0)
    assert 2 <= len(steps) <= 40


def test_levels_are_finer_on_the_truths_plateau_and_even_where_it_has_none():
    plateau = np.concatenate([np.linspace(0.3, 0.85, 20), np.linspace(0.85, 0.919, 60)])
    steps = graded({"joint": land(plateau), "simple": land(np.linspace(0.3, 0.8, 20))})
    coarse, fine = np.diff(steps[steps < 0.8]), np.diff(steps[steps > 0.9])
    assert np.ptp(coarse) < 1e-9
    assert fine.max() < coarse.min() / 4
    assert np.histogram(plateau, steps)[0].max() < 0.2 * len(plateau)
    low, high = (
        np.linspace(0.3, 0.7, 30),
        np.linspace(0.7, 0.91, 30),
    )  # an eighth in a band is not a plateau yet
    even = graded({"joint": land(np.concatenate([low, high])), "simple": land(plateau)})
    assert np.ptp(np.diff(even)) < 1e-9  # the previews' crowds do not count


def test_lines_of_finer_levels_are_fainter_since_their_density_is_no_steepness():
    made = figure(4, 4)
    axes = made.add_axes((0.05, 0.05, 0.9, 0.9), projection="ternary")
    preview = made_up(TASKS[3], steps=10)
    filled(axes, preview.alphas, preview.mean, scale(np.array([0.4, 0.6, 0.8, 0.84, 0.88, 0.92, 1.0]), MAP))
    found = {tuple(c.levels): c.get_alpha() for c in axes.collections if not c.filled}
    assert found[0.4, 0.6, 0.8] > 2 * found[0.84, 0.88, 0.92, 1.0]


def test_a_band_of_a_higher_score_is_always_of_a_lighter_colour():
    colours = scale(np.array([0.3, 0.4, 0.5, 0.9, 0.902, 0.904, 0.91]), MAP)
    light = colours.colours(colours.norm((colours.levels[1:] + colours.levels[:-1]) / 2))[:, :3] @ [
        0.3,
        0.6,
        0.1,
    ]
    assert np.all(np.diff(light) > 0)


def test_what_is_said_of_levels_is_measured():
    """Once it was a fixed sentence, "usually too low", beside previews that were too high."""
    truth = land([0.5, 0.6, 0.5])
    low, high = land([0.45, 0.55, 0.45]), land([0.5, 0.55, 0.62])
    assert level({"joint": truth, "simple": low}).startswith(
        "Previewed minus true: −0.050 on average, −0.050 at the pick."
    )
    both = level({"joint": truth, "simple": low, "mixture": high})
    assert both.startswith("Previewed minus true: −0.050 to +0.023 on average, −0.050 to +0.12 at the picks.")
    assert "need not be right" in level({"simple": low})
    assert level({"joint": truth}) == ""
    elsewhere = Landscape(low.alphas[:1] * 0.9 + 0.05, low.scores[:1], low.mean[:1], 1.0)
    assert "need not be right" in level({"joint": truth, "simple": elsewhere})
    assert "on average, " not in level({"joint": truth, "simple": land([np.nan] * 3), "mixture": elsewhere})


def test_no_weighting_is_left_white_not_even_the_best():
    """Sample the drawn pixel of every weighting; white would be a hole (matplotlib leaves out what lies above)."""
    preview = made_up(TASKS[3], steps=10)
    made = figure(6, 6)
    axes = made.add_axes((0.05, 0.05, 0.9, 0.9), projection="ternary")
    axes.set_axis_off()
    filled(axes, preview.alphas, preview.mean, scale(levels(preview.mean), MAP))
    made.canvas.draw()
    pixels = np.asarray(made.canvas.buffer_rgba())
    inside = preview.alphas * 0.98 + 0.02 / 3  # a hair off the border
    x, y = (axes.transProjection + axes.transData).transform(inside).round().astype(int).T
    colours = pixels[len(pixels) - 1 - y, x, :3]
    assert (colours.min(axis=1) < 250).all()


def test_a_failed_weighting_leaves_a_hole_and_is_not_interpolated():
    preview = made_up(TASKS[3], steps=4, failed=[7])
    made = figure(6, 6)
    axes = made.add_axes((0.05, 0.05, 0.9, 0.9), projection="ternary")
    axes.set_axis_off()
    filled(axes, preview.alphas, preview.mean, scale(levels(preview.mean), MAP))
    made.canvas.draw()
    pixels = np.asarray(made.canvas.buffer_rgba())
    near = preview.alphas[7] * 0.9 + 0.1 / 3  # beside its cross
    x, y = (axes.transProjection + axes.transData).transform(near[None]).round().astype(int)[0]
    assert pixels[len(pixels) - 1 - y, x, :3].min() > 250


def test_ties_go_to_the_weighting_nearest_to_uniform_then_to_the_first():
    alphas = np.array([[1.0, 0.0], [0.6, 0.4], [0.4, 0.6], [0.0, 1.0]])
    scores = np.zeros((4, 2))
    assert (
        Landscape(alphas, scores, np.ones(4), 1.0).pick == 2
    )  # (.4, .6) comes first in the order of weights
    assert Landscape(alphas, scores, np.array([2.0, 1.0, np.nan, 1.0]), 1.0).pick == 0
    assert Landscape(alphas, scores, np.full(4, np.nan), 1.0).pick is None


def test_metric_weights_move_the_drawn_mean():
    truth, previews = study(TASKS[3], steps=4, truth_steps=4)
    preference = Preference(weights={TASKS[3][0]: 1, TASKS[3][1]: 0, TASKS[3][2]: 0})
    tasks, lands = landscapes(truth, previews, preference)
    assert tasks == TASKS[3]
    np.testing.assert_array_equal(lands["joint"].mean, truth.scores[:, 0])
    assert averaged("accuracy", preference).startswith("weighted mean")
    assert averaged("accuracy") == "mean over tasks (accuracy)"


def test_a_pick_keeps_the_floors_or_misses_them_least():
    truth, previews = study(TASKS[3], steps=4, truth_steps=4)
    best = truth.scores[:, 1].max()
    _, lands = landscapes(truth, previews, Preference(floors={TASKS[3][1]: best}))
    assert truth.scores[lands["joint"].pick, 1] == best
    _, lands = landscapes(truth, previews, Preference(floors={TASKS[3][1]: best + 1}))
    assert truth.scores[lands["joint"].pick, 1] == best


@pytest.mark.parametrize("draw", PICTURES)
def test_odd_studies_are_drawn_too(draw, tmp_path):
    tasks = (
        "$x_1$ & co",
        "a/very/long_path-to_some_dataset/with more words than any corner can hold",
        "数字",
    )
    truth, previews = study(tasks, steps=6, truth_steps=4, methods=("simple", "my_own"))
    draw(truth, previews, tmp_path / "names.png")
    draw(None, previews, tmp_path / "no_truth.png")
    draw(truth, {}, tmp_path / "truth_alone.png")
    some, none = made_up(tasks, steps=4, failed=[0, 7]), made_up(tasks, steps=4, failed=range(15))
    draw(truth, {"simple": some, "mixture": none}, tmp_path / "failed.png")
    draw(truth.rows([3]), {"simple": some.rows([3, 5])}, tmp_path / "two_points.png")
    draw(truth.rows([]), {"simple": some, "mixture": none.rows([])}, tmp_path / "empty.png")
    assert len(list(tmp_path.glob("*.png"))) == 6


def test_names_are_wrapped_shortened_and_never_mathematics():
    assert plain("de-en") == "de-en"
    assert plain("$x$") == r"\$x\$"
    assert plain("line\nbreak") == "line break"
    long = plain("organisation/some_dataset-with-a-long-name-and-version-2", width=12)
    assert long.count("\n") <= 2
    assert long.startswith("organ")
    assert long.endswith("2")
    assert plain("tasks of the first kind", width=12, lines=3).replace("\n", " ") == "tasks of the first kind"


def test_what_cannot_be_drawn_is_said(tmp_path):
    truth, previews = study(TASKS[2], steps=4)
    other = made_up(("de-en", "nl-en"), steps=4)
    with pytest.raises(InputError, match="'mixture' is of the tasks"):
        contours(truth, {"mixture": other}, tmp_path / "a.png")
    with pytest.raises(InputError, match="nothing to draw"):
        histograms(None, {}, tmp_path / "a.png")
    with pytest.raises(InputError, match="name of the truth"):
        histograms(truth, {"joint": truth}, tmp_path / "a.png")
    with pytest.raises(InputError, match="at least two tasks"):
        per_task(made_up(("one",), steps=1), {}, tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        contours(truth, previews, tmp_path / "file" / "a.png")


def test_without_matplotlib_the_error_names_the_extra(monkeypatch, tmp_path):
    truth, previews = study(TASKS[2], steps=4)
    monkeypatch.setitem(sys.modules, "mpltern", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'previa\[plot\]'"):
        contours(truth, previews, tmp_path / "a.png")


def test_the_room_imports_neither_torch_nor_matplotlib_and_draws_without_pyplot():
    code = (
        "import sys, previa.show\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)\n"
        "from previa.show._look import figure\n"
        "figure(1, 1)\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("T", [2, 3, 4])
@pytest.mark.parametrize(
    "title", ["digits", "a study whose name is so long that it stands before the caption"]
)
def test_the_caption_of_each_tasks_scores_lies_below_all_numbers(T, title, tmp_path, monkeypatch):
    made = []
    monkeypatch.setitem(per_task.__globals__, "save", lambda drawn, path: made.append(drawn))
    truth, previews = study(TASKS[T], steps=4, truth_steps=4)
    per_task(truth, previews, tmp_path / "a.png", title=title, unit="accuracy")
    made[0].canvas.draw()
    caption = made[0].texts[-1].get_window_extent()
    numbers = [
        tick.label1.get_window_extent()
        for axes in made[0].axes
        for tick in axes.xaxis.get_major_ticks()
        if tick.label1.get_visible() and tick.label1.get_text()
    ]
    assert numbers
    assert caption.y1 < min(box.y0 for box in numbers)


@pytest.fixture
def made(caught):
    return caught


def words(drawn):
    """The caption, in one line."""
    return drawn.texts[-1].get_text().replace("\n", " ")


@pytest.mark.parametrize("T", [4, 5])
@pytest.mark.parametrize("methods", [3, 8])
def test_legend_and_caption_of_many_tasks_have_rooms_of_their_own(T, methods, made):
    truth = made_up("abcdefgh"[:T], steps=3)
    long = {f"a method of the study with a name of {i} and more words": truth for i in range(methods)}
    drawn = made(
        contours, truth, long, title="a study whose name is so long that it stands before the caption"
    )
    key, caption = drawn.legends[0].get_window_extent(), drawn.texts[-1].get_window_extent()
    assert caption.y1 < key.y0
    assert key.y1 < min(axes.xaxis.label.get_window_extent().y0 for axes in drawn.axes)
    assert key.x1 < drawn.bbox.x1
    assert caption.y0 > 0


def test_a_long_caption_of_a_triangle_lies_below_its_corners(made):
    title = "a study whose name is so long that it stands before the caption, on lines of its own"
    drawn = made(contours, None, {"simple": made_up(TASKS[3], steps=5)}, title=title)
    corners = [t.get_window_extent().y0 for axes in drawn.axes if axes.name == "ternary" for t in axes.texts]
    assert len(drawn.texts[-1].get_text().splitlines()) > 4
    assert drawn.texts[-1].get_window_extent().y1 < min(corners)


def test_a_dot_of_the_best_score_is_a_whole_dot(made):
    one = made_up(TASKS[4], steps=5)
    one = replace(one, scores=np.round(one.scores, 1))  # the best is on the highest level
    drawn = made(per_task, None, {"simple": one})
    for axes in drawn.axes:
        x, y = axes.lines[0].get_data()
        y = axes.transData.transform(np.column_stack([x, y]))[:, 1]
        radius = axes.lines[0].get_markersize() / 2 * drawn.dpi / 72
        assert y.max() + radius < axes.bbox.y1
        assert y.min() - radius > axes.bbox.y0


def dotted(axes):
    """How many weightings of a map have a small dot."""
    from matplotlib.collections import PathCollection

    marks = [c for c in axes.collections if isinstance(c, PathCollection)]
    return sum(len(c.get_offsets()) for c in marks if 4 < c.get_sizes()[0] < 12)


@pytest.mark.parametrize("draw", [contours, per_task])
def test_a_map_of_few_weightings_shows_which_were_scored_and_says_so(draw, made):
    few, many = made_up(TASKS[3], steps=5, failed=[3]), made_up(TASKS[3], steps=8)
    drawn = made(draw, None, {"simple": few, "mixture": many})
    maps = [axes for axes in drawn.axes if axes.name == "ternary"]
    assert {dotted(axes) for axes in maps} == {20, 0}
    assert "dots: weightings that were scored; between them it is interpolated" in words(drawn)
    assert "dots" not in words(made(draw, None, {"mixture": many}))


@pytest.mark.parametrize("draw", [contours, per_task])
def test_a_truth_of_few_runs_is_its_points_alone(draw, made):
    truth, simple = made_up(TASKS[3], steps=2), made_up(TASKS[3], steps=8)
    drawn = made(draw, truth, {"simple": simple})
    first = drawn.axes[0]
    assert not any(getattr(c, "filled", False) for c in first.collections)
    pixels = np.asarray(drawn.canvas.buffer_rgba())
    x, y = (first.transProjection + first.transData).transform([[0.4, 0.3, 0.3]]).round().astype(int)[0]
    assert pixels[len(pixels) - 1 - y, x, :3].min() == 255
    assert "the truth: its runs alone" in words(drawn)
    assert "its runs alone" not in words(made(draw, made_up(TASKS[3], steps=8), {"simple": simple}))


def test_the_caption_says_where_bands_of_colour_are_uneven(made):
    one = made_up(TASKS[3], steps=10)
    flat, even = (
        np.append(np.linspace(0.3, 0.85, 20), np.linspace(0.85, 0.919, 46)),
        np.linspace(0.3, 0.7, 66),
    )
    plateau, slope = (replace(one, scores=np.repeat(mean[:, None], 3, axis=1)) for mean in (flat, even))
    assert "Colour bands are narrower near the best." in words(made(contours, plateau, {}))
    assert "narrower" not in words(made(contours, slope, {}))


@pytest.mark.parametrize("T", [2, 3, 4])
@pytest.mark.parametrize("draw", PICTURES)
def test_a_unit_that_says_no_more_than_score_is_not_repeated(draw, T, made):
    from matplotlib.text import Text

    truth, previews = study(TASKS[T], steps=4, truth_steps=4)
    plain_unit = [text.get_text() for text in made(draw, truth, previews).findobj(Text)]
    assert not [text for text in plain_unit if "(score" in text]
    named = [text.get_text() for text in made(draw, truth, previews, unit="accuracy").findobj(Text)]
    assert any("(accuracy" in text for text in named)


def test_words_for_what_is_judged():
    assert averaged("score") == "mean score over tasks"
    assert averaged("score", Preference(worst=True)) == "score of the worst task"
    assert (
        averaged("BLEU", Preference(relative_to={"a": 1.0}))
        == "mean over tasks (BLEU, relative to its own expert)"
    )


RARE = "\u2910"  # an arrow: not in matplotlib's own font, but in the STIX fonts that come with it
NOWHERE = "\U000ff123"  # for private use: in no font


def test_a_letter_that_the_font_lacks_is_taken_from_another_font(tmp_path):
    assert fallbacks("é★…−") == ()
    assert fallbacks(RARE)
    made = figure(2, 1)
    text = made.text(0.1, 0.5, f"task {RARE}")
    readable(made)
    made.canvas.draw()  # a missing letter is a warning, and warnings are errors here
    assert text.get_family()[0] == "DejaVu Sans"
    made.text(0.1, 0.1, NOWHERE)
    save(made, tmp_path / "a.png")  # a box, without a word


def test_a_letter_that_no_font_has_stays_as_it_is():
    assert fallbacks(NOWHERE) == ()
    assert fallbacks(RARE + NOWHERE) == fallbacks(RARE)
