"""The paper's layout: one colour scale, shared bins, each histogram under its triangle, and what must be refused."""

import importlib
import itertools
import re

import numpy as np
import pytest
from PIL import Image

from previa.errors import InputError
from previa.show._look import landscapes
from previa.show.histograms import shared_bins
from previa.show.panels import panels
from synthetic_previews import made_up, study

THREE = ("airplane car ship truck", "cat dog", "deer dog frog horse")


def columns(tasks, n, *, steps=10):
    """The truth and n previews named as a script would name them."""
    truth, previews = study(tasks, truth_steps=steps, steps=steps)
    made = list(previews.values())
    return truth, {f"Mixture, {i} components": made[i % len(made)] for i in range(n)}


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """draw(*args, **options) -> the figure, before it is a file."""
    module = importlib.import_module("previa.show.panels")
    caught = []
    monkeypatch.setattr(module, "save", lambda made, path: caught.append(made))

    def draw(*args, **options):
        panels(*args, tmp_path / "a.png", **options)
        return caught.pop()

    return draw


def triangles(made):
    return [axes for axes in made.axes if axes.name == "ternary"]


def lower(made):
    """The histograms: they alone have bars, of which the colour bar has none."""
    return [
        axes
        for axes in made.axes
        if axes.name != "ternary" and axes.patches and axes.get_label() != "<colorbar>"
    ]


@pytest.mark.parametrize(("T", "n"), [(2, 1), (2, 6), (3, 1), (3, 3), (3, 6)])
def test_two_to_seven_columns_are_one_small_png(T, n, tmp_path):
    truth, previews = columns(THREE[:T], n)
    panels(truth, previews, tmp_path / "a.png", title="A study", unit="accuracy")
    assert (tmp_path / "a.png").stat().st_size < 300_000
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        beside = {1: 1, 2: 2, 3: 3, 4: 2}.get(n + 1, 3)  # all can be read where the page is narrow
        assert 330 * beside < image.size[0] < 1400


def test_the_truth_and_the_previews_have_one_colour_scale(drawn):
    made = drawn(*columns(THREE, 3))
    scales = [axes.collections[0] for axes in triangles(made)]
    assert len(scales) == 4
    for one in scales[1:]:
        assert np.array_equal(one.levels, scales[0].levels)
        assert (one.norm.vmin, one.norm.vmax) == (scales[0].norm.vmin, scales[0].norm.vmax)


def test_histograms_share_their_bins_and_axes_and_stand_under_their_triangles(drawn):
    made = drawn(*columns(THREE, 3))
    below = lower(made)
    assert len(below) == 4
    assert len({axes.get_xlim() for axes in below}) == len({axes.get_ylim() for axes in below}) == 1
    for above, axes in zip(triangles(made), below, strict=True):
        a, b = above.get_position(), axes.get_position()
        assert (a.x0 + a.x1) == pytest.approx(b.x0 + b.x1)
        assert 0 < a.y0 - b.y1 < 0.1  # its own triangle's, not that of another row


def test_bars_count_every_weighting_and_share_bins_with_the_truth():
    truth, previews = columns(THREE, 2)
    _, lands = landscapes(truth, previews)
    bins, shares, top = shared_bins(lands)
    for method, land in lands.items():
        assert shares[method].sum() == pytest.approx(100)  # percent: none lies outside of the bins
        assert bins[0] <= land.mean.min() <= land.mean.max() <= bins[-1]
        assert shares[method].max() < top


def test_a_column_says_what_is_previewed_and_what_is_true_there(drawn):
    truth, previews = columns(THREE, 1)
    made = drawn(truth, previews, truth_label="Exact minimiser")
    texts = [text.get_text() for text in made.texts]
    name, preview = next(iter(previews.items()))
    pick = int(np.argmax(preview.mean))
    assert {"Exact minimiser", f"best {truth.mean.max():#.3g}", name} <= set(texts)
    assert f"★ previewed {preview.mean[pick]:#.3g}, true {truth.mean[pick]:#.3g}" in texts


def test_scores_that_are_no_shares_have_the_digits_that_tell_them_apart(drawn):
    truth = made_up(THREE, steps=10)
    far = {"some": made_up(THREE, steps=10, offset=0.1)}
    big = [type(p)(p.tasks, p.alphas, 1000 * p.scores - 6000) for p in (truth, *far.values())]
    texts = [text.get_text() for text in drawn(big[0], {"some": big[1]}).texts]
    assert f"best {big[0].mean.max():.0f}" in texts
    assert not any("e+" in text for text in texts)
    near = [type(p)(p.tasks, p.alphas, 100 + p.scores) for p in (truth, *far.values())]
    texts = [text.get_text() for text in drawn(near[0], {"some": near[1]}).texts]
    assert f"best {near[0].mean.max():.3f}" in texts


@pytest.mark.parametrize(
    ("T", "scale", "offset"),
    [(2, 1, 0), (3, 1, 0), (2, 0.1, 0.45), (2, 0.04, 0.48), (2, 1000, -6000), (2, 0.001, 0.5)],
)
def test_tick_labels_of_neighbouring_histograms_do_not_touch(drawn, T, scale, offset):
    truth, previews = columns(THREE[:T], 4)
    moved = {
        n: type(p)(p.tasks, p.alphas, scale * p.scores + offset) for n, p in [("", truth), *previews.items()]
    }
    made = drawn(moved.pop(""), moved)
    made.canvas.draw()
    rows = {}
    for axes in lower(made):
        low, high = axes.get_xlim()
        boxes = [
            tick.label1.get_window_extent()
            for tick in axes.xaxis.get_major_ticks()
            if low <= tick.get_loc() <= high and tick.label1.get_text()
        ]
        assert len(boxes) >= 2
        rows.setdefault(round(axes.get_position().y0, 3), []).extend(sorted(boxes, key=lambda box: box.x0))
    assert len(rows) == 2
    for ends in rows.values():
        assert all(left.x1 + 4 < right.x0 for left, right in itertools.pairwise(ends))


def test_the_median_and_a_pick_cover_no_number_and_no_bar_stands_on_the_frame(drawn):
    for T in (2, 3):
        truth, previews = columns(THREE[:T], 1)
        flat = {"worst": type(truth)(truth.tasks, truth.alphas, 0 * truth.scores + truth.scores.min())}
        made = drawn(truth, previews | flat)
        made.canvas.draw()
        for axes in lower(made):
            mark = next(line for line in axes.lines if line.get_marker() == "^").get_window_extent()
            numbers = [tick.label1.get_window_extent() for tick in axes.xaxis.get_major_ticks()]
            assert not mark.count_overlaps(numbers)
            bins = [bar for bar in axes.patches if hasattr(bar, "get_width")]
            bins = [bar.get_x() for bar in bins] + [bins[-1].get_x() + bins[-1].get_width()]
            assert axes.get_xlim()[0] < min(bins)
            assert max(bins) < axes.get_xlim()[1]
        for axes in [axes for axes in made.axes if any(line.get_marker() == "*" for line in axes.lines)]:
            star = next(line for line in axes.lines if line.get_marker() == "*").get_window_extent()
            assert not star.count_overlaps(
                [tick.label1.get_window_extent() for tick in axes.xaxis.get_major_ticks()]
            )


def test_corner_names_of_neighbours_stand_apart(drawn):
    made = drawn(*columns(("vehicles", "cat-dog", "animals"), 5))
    made.canvas.draw()
    names = [
        t.get_window_extent() for axes in triangles(made) for t in axes.texts if t.get_text() != "vehicles"
    ]
    for y in {round(box.y0) for box in names}:
        row = sorted((box for box in names if round(box.y0) == y), key=lambda box: box.x0)
        assert len(row) == 6
        assert all(
            left.x1 + 0.3 * made.dpi < right.x0 for left, right in itertools.pairwise(row)
        )  # 0.3 inches


@pytest.mark.parametrize("title", ["", "MNIST", "Figure 2, losses in two dimensions, seven draws"])
@pytest.mark.parametrize(("T", "n"), [(2, 1), (3, 1), (3, 2)])
def test_the_studys_name_is_whole_and_not_upon_the_heading(title, T, n, drawn):
    made = drawn(*columns(THREE[:T], n), title=title)
    made.canvas.draw()
    what = next(t for t in made.texts if t.get_text().startswith("Score of every"))
    others = [t for t in made.texts if t is not what]
    assert not what.get_window_extent().count_overlaps(
        [t.get_window_extent() for t in others if t.get_text()]
    )
    assert what.get_window_extent().x1 < made.bbox.x1
    if title:
        assert sum(title in " ".join(t.get_text().split()) for t in others) == 1


def test_a_pick_where_the_truth_was_not_trained_has_no_true_score(drawn):
    truth, previews = study(THREE, truth_steps=2, steps=10, methods=("simple",))
    found = [t.get_text() for t in drawn(truth, previews).texts if t.get_text().startswith("★ previewed")]
    assert len(found) == 1
    assert "true" not in found[0]


def test_failed_weightings_are_left_out_and_a_preview_without_scores_says_so(drawn):
    truth, previews = columns(THREE, 1, steps=4)
    nothing = made_up(THREE, steps=4, failed=range(15))
    made = drawn(truth, {**previews, "broken": nothing, "holed": made_up(THREE, steps=4, failed=[3])})
    assert "no weighting was scored" in [text.get_text() for text in made.texts]


def test_other_numbers_of_tasks_and_too_many_columns_are_refused(tmp_path):
    truth, previews = columns(("a", "b", "c", "d"), 2, steps=3)
    with pytest.raises(InputError, match=r"two or three tasks\. Found 4.*contours"):
        panels(truth, previews, tmp_path / "a.png")
    with pytest.raises(InputError, match=re.escape("at most 6 previews")):
        panels(*columns(THREE, 7, steps=3), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_lines_of_negative_scores_are_no_more_dashed_than_others(drawn):
    """A loss with its sign turned is a score; matplotlib dashes negative levels of one colour."""
    made = drawn(made_up(THREE, steps=4, offset=3.0), {"simple": made_up(THREE, steps=4, offset=3.1)})
    lines = [c for axes in triangles(made) for c in axes.collections if not getattr(c, "filled", True)]
    assert len(lines) == 2
    assert all(dashes is None for c in lines for _, dashes in c.get_linestyles())
