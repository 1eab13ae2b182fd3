"""Pictures of searches and of many tasks: cells, ways and marks say what was measured, and any name can be drawn."""

import numpy as np
import pytest
from PIL import Image

from previa.errors import AlphaError, InputError
from previa.show._look import figure, landscapes
from previa.show._veil import veil
from previa.show.disagreement_map import _grouped, disagreement_map
from previa.show.parallel import _marked, parallel
from previa.show.slices import _steps, cells, slices
from previa.show.surrogate_map import _turns, surrogate_map
from previa.show.what_if import way, what_if
from previa.study.preference import Preference
from previa.study.simplex import grid
from synthetic_previews import made_up

NAMES = (
    "$x_1$ & co",
    "a/very/long_path-to_some_dataset/with more words than any corner can hold",
    "数字",
    "safety",
    "code",
    "f",
    "g",
    "h",
)
STEPS = {2: 12, 3: 8, 4: 5, 5: 4, 8: 3}


def preview(T, failed=()):
    return made_up(NAMES[:T], steps=STEPS[T], failed=failed)


def searched(one, path, **options):
    mean = one.mean
    rows = np.arange(0, len(one), 3)
    surrogate_map(
        one.rows(rows),
        one.alphas,
        mean,
        np.full(len(one), 0.01),
        path,
        order=list(one.alphas[rows]),
        start=T_START,
        **options,
    )


T_START = 4


def disagreeing(one, path, **options):
    picks = {"simple": one.alphas[0], "mixture": one.alphas[0], "$m$": one.alphas[-1]}
    options.pop("preference", None)
    disagreement_map(one.tasks, one.alphas, np.linspace(0, 1, len(one)), path, picks=picks, **options)


def from_uniform(one, path, **options):
    what_if(one, np.full(len(one.tasks), 1 / len(one.tasks)), path, **options)


PICTURES = [
    *((draw, T) for draw in (searched, disagreeing, parallel) for T in (2, 3, 5, 8)),
    *((slices, T) for T in (4, 5, 8)),
    *((from_uniform, T) for T in (2, 3, 4)),
]


@pytest.mark.parametrize(("draw", "T"), PICTURES)
def test_a_picture_for_any_number_of_tasks_and_any_names_is_a_small_png(draw, T, tmp_path):
    one = preview(T)
    floors = Preference(floors={NAMES[0]: float(np.median(one.scores[:, 0]))})
    options = {} if draw is disagreeing else {"preference": floors}
    draw(one, tmp_path / "a.png", title="$a$ study whose name is rather long", **options)
    assert (tmp_path / "a.png").stat().st_size < 300_000
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 400
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("draw", "T"), [(searched, 3), (disagreeing, 3), (parallel, 3), (slices, 4), (from_uniform, 2)]
)
def test_the_same_as_svg(draw, T, tmp_path):
    draw(preview(T), tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text(encoding="utf-8").startswith("<?xml")


def land(one, preference=None):
    return landscapes(None, {"p": one}, preference or Preference())[1]["p"]


@pytest.mark.parametrize("pair", [(0, 1), (1, 3), (0, 3)])
def test_a_cell_of_a_slice_is_the_best_measured_value_at_its_two_weights(pair):
    one = preview(4, failed=[3, 17])
    steps, exact = _steps(one.alphas)
    assert (steps, exact) == (5, True)
    places, best, missed = cells(land(one), pair, steps)
    assert not missed.any()
    for place, value in zip(places, best, strict=True):
        here = (np.abs(one.alphas[:, pair] - place[:2]) < 1e-9).all(axis=1)
        assert value == np.nanmax(land(one).mean[here])
        assert place.sum() == pytest.approx(1)
    assert len(places) <= 21
    assert best.max() == np.nanmax(land(one).mean)


def test_a_cell_prefers_a_weighting_that_keeps_the_floors_to_a_better_one_that_does_not():
    one = preview(4)
    floors = Preference(floors={NAMES[3]: float(np.quantile(one.scores[:, 3], 0.6))})
    places, best, missed = cells(land(one, floors), (0, 1), 5)
    kept = floors.keeps(one.scores, one.tasks)
    for place, value, without in zip(places, best, missed, strict=True):
        here = (np.abs(one.alphas[:, (0, 1)] - place[:2]) < 1e-9).all(axis=1)
        assert without == (not (here & kept).any())
        if not without:
            assert value == land(one).mean[here & kept].max()
    assert 0 < missed.sum() < len(missed)


def test_weightings_that_are_no_grid_are_put_into_cells_of_tenths():
    assert _steps(np.random.default_rng(0).dirichlet(np.ones(4), 60)) == (10, False)
    with_uniform = np.vstack([grid(4, 10), np.full(4, 0.25)])
    assert _steps(with_uniform) == (10, True)


def test_a_way_goes_through_its_start_to_the_corner_and_keeps_the_proportions_of_the_others():
    start = np.array([0.1, 0.2, 0.3, 0.4])
    rows = way(start, 1, np.array([0.0, 0.2, 0.6, 1.0]))
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    np.testing.assert_allclose(rows[1], start)
    np.testing.assert_allclose(rows[3], np.eye(4)[1], atol=1e-15)
    np.testing.assert_allclose(rows[:3, 3] / rows[:3, 0], 4)
    np.testing.assert_allclose(way(np.eye(3)[2], 2, np.array([0.4])), [[0.3, 0.3, 0.4]])


def test_names_of_one_weighting_are_joined_and_one_that_was_not_scored_is_left_out():
    one = preview(3, failed=[0])
    found = _marked(
        land(one),
        {"pick": one.alphas[5], "uniform": one.alphas[5], "knee": one.alphas[0], "x": [0.01, 0.01, 0.98]},
    )
    assert found == {"pick and uniform": 5}
    places = _grouped({"a": [1, 0, 0], "b": [0, 1, 0], "c": [1, 0, 0]}, 3)
    assert [methods for _, methods in places] == [["a", "c"], ["b"]]


def test_evaluated_weightings_are_told_apart_by_when_they_were_chosen():
    one = preview(3)
    order = [one.alphas[4], one.alphas[0], one.alphas[9], one.alphas[2]]
    turns = _turns(land(one), order, 2)
    assert turns[[4, 0, 9, 2, 1]].tolist() == [-1, -1, 1, 2, 0]


def test_what_misses_a_floor_is_hatched_and_the_rest_is_not():
    alphas = grid(3, 10)
    missed = alphas[:, 0] < 0.45
    made = figure(5, 5)
    axes = made.add_axes((0.05, 0.05, 0.9, 0.9), projection="ternary")
    axes.set_axis_off()
    veil(axes, alphas, missed)
    made.canvas.draw()
    pixels = np.asarray(made.canvas.buffer_rgba())[..., :3]

    def around(alpha):
        x, y = (axes.transProjection + axes.transData).transform(np.array([alpha])).round().astype(int)[0]
        return pixels[len(pixels) - 1 - y - 8 : len(pixels) - 1 - y + 8, x - 8 : x + 8]

    assert around([0.15, 0.4, 0.45]).min() < 200
    assert around([0.75, 0.125, 0.125]).min() == 255


def test_what_cannot_be_drawn_is_said(tmp_path):
    one = preview(3)
    with pytest.raises(InputError, match="4 to 8 tasks"):
        slices(one, tmp_path / "a.png")
    with pytest.raises(InputError, match=r"should be \[A\] = \(45,\)"):
        surrogate_map(one, one.alphas, np.zeros(3), np.zeros(45), tmp_path / "a.png")
    with pytest.raises(InputError, match="the spread should be"):
        disagreement_map(one.tasks, one.alphas, np.full(45, np.nan), tmp_path / "a.png", picks={})
    with pytest.raises(AlphaError, match="the pick of simple"):
        disagreement_map(one.tasks, one.alphas, np.zeros(45), tmp_path / "a.png", picks={"simple": [1, 1, 1]})
    failed = preview(4, failed=range(56))
    for draw in (slices, parallel):
        with pytest.raises(InputError, match="none of 56 weightings"):
            draw(failed, tmp_path / "a.png")
    with pytest.raises(InputError, match="three scored weightings"):
        from_uniform(one.rows([0, 1]), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_few_failed_weightings_are_drawn_around(tmp_path):
    for draw, T in ((searched, 3), (parallel, 3), (slices, 4), (from_uniform, 3)):
        draw(preview(T, failed=[0, 6]), tmp_path / f"{draw.__name__}.png")
    assert len(list(tmp_path.iterdir())) == 4


def test_named_lines_have_words_at_their_ends_and_numbers_under_their_axes(caught):
    one = made_up("abcdefgh", steps=3)
    marked = {"pick": one.alphas[40], "knee": one.alphas[41], "uniform": one.alphas[40]}
    made = caught(parallel, one, marked=marked)
    under, upper = made.axes[:2]
    names = {"pick and uniform", "knee"}
    assert names <= {text.get_text() for text in upper.texts}
    assert not [text for text in upper.texts if text.get_text().startswith("(")]
    for row, name in ((40, "pick and uniform"), (41, "knee")):
        height = next(t for t in under.texts if t.get_text() == name).get_window_extent().y1
        numbers = {
            text.xy[0]: float(text.get_text())
            for text in under.texts
            if text.get_text() not in names and abs(text.get_window_extent().y1 - height) < 4
        }
        np.testing.assert_allclose([numbers[t] for t in range(8)], one.alphas[row], atol=5e-4)
    boxes = [text.get_window_extent() for text in under.texts]
    assert made.texts[-1].get_window_extent().y1 < min(box.y0 for box in boxes)
    assert max(box.y1 for box in boxes) < under.bbox.y0
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("T", [2, 3])
def test_the_caption_of_ways_is_sentences(T, caught):
    words = (
        caught(what_if, made_up("abc"[:T], steps=6), np.full(T, 1 / T))
        .texts[-1]
        .get_text()
        .replace("\n", " ")
    )
    assert "(score)" not in words
    assert "measured." not in words.replace("Dots are measured", "")
    assert all(part.strip()[0].isupper() for part in words.rstrip(".").split(". "))
    assert ("joins measured scores" in words) == (T == 2)
    assert ("Gaussian process" in words) == (T > 2)
