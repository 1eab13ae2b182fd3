"""The figure of quality against cost: each name beside its mark and upon nothing else, whatever the numbers are."""

import math
import sys

import numpy as np
import pytest

from previa.errors import InputError
from previa.show._labels import Scene, arranged, ends
from previa.show._quality_rows import ERROR, RANK, Point, points
from previa.show.quality_cost import _caption, quality_cost

METHODS = {  # label, cost in joint runs, MSE over simple averaging's, Spearman
    "simple": ("Simple averaging", 3, 1, 0.5),
    "squared_gradients": ("Squared gradients", 3.3, 0.6, 0.6),
    "ivon_hessian": ("IVON Hessian", 3.02, 0.4, 0.65),
    "mixture_10": ("Mixture of 10", 4, 0.3, 0.7),
    "mixture_20": ("Mixture of 20", 5.5, 0.27, 0.74),
    "mixture_30": ("Mixture of 30", 7, 0.25, 0.78),
    "warped": ("Warped", 3.1, 0.3, 0.8),
    "centre": ("Centre", 3.4, 0.12, 0.9),
    "anchored_1": ("Anchored, 1 run", 4.1, 0.02, 0.98),
    "anchored_4": ("Anchored, 4 runs", 7.1, 0.0004, 0.995),
    "scores_1": ("Scores, 1 run", 4, 0.1, 0.7),
    "scores_4": ("Scores, 4 runs", 7, 0.004, 0.96),
    "scores_gp_4": ("GP on scores, 4 runs", 7, 0.05, 0.9),
    "refined_20": ("Refined, 20 %", 17, 0.0006, 0.99),
}


def rows(*studies, seeds=3, draw=0):
    """Made-up rows, one a study, method and seed, as an experiment hands them over."""
    draw, found = np.random.default_rng(draw), []
    for study in studies:
        for seed in range(seeds):
            here = {"study": study, "seed": seed}
            found.append(
                {**here, "method": "joint", "label": "truth", "cost": 66, "mse": 0.0, "spearman": 1.0}
            )
            found.append(
                {**here, "method": "joint_again", "label": "", "cost": 66, "mse": 3e-5, "spearman": 0.996}
            )
            for method, (label, cost, mse, rank) in METHODS.items():
                noisy = {
                    "mse": 0.15 * mse * math.exp(0.3 * draw.normal()),
                    "spearman": 1 - (1 - rank) * math.exp(0.2 * draw.normal()),
                }
                found.append({**here, "method": method, "label": label, "cost": cost, **noisy})
    return found


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The figure as it is saved."""
    made = []
    monkeypatch.setattr(
        sys.modules[quality_cost.__module__], "save", lambda figure, path: made.append(figure)
    )

    def draw(found, **options):
        quality_cost(found, tmp_path / "x.png", **options)
        made[-1].canvas.draw()
        return made[-1]

    return draw


def names(axes):
    return {text.get_text(): text.get_window_extent() for text in axes.texts}


@pytest.mark.parametrize("seed", range(3))
def test_no_name_covers_a_mark_or_another_name_or_leaves_its_panel(drawn, seed):
    made = drawn(rows("MNIST", draw=seed), columns=1)
    assert len(made.axes) == 2
    for axes in made.axes:
        boxes = list(names(axes).values())
        assert len(boxes) == len(METHODS) + 2  # and those of the truth's cost and of the band
        frame = axes.get_window_extent()
        for i, box in enumerate(boxes):
            assert not box.count_overlaps(boxes[:i])
            assert frame.x0 <= box.x0 < box.x1 <= frame.x1 + 1  # a pixel's rounding
            assert frame.y0 <= box.y0 < box.y1 <= frame.y1 + 1
            for dots in axes.collections:
                (x, y), radius = (
                    dots.get_offset_transform().transform(dots.get_offsets())[0],
                    np.sqrt(dots.get_sizes()[0]) / 3,
                )
                near = np.clip([x, y], [box.x0, box.y0], [box.x1, box.y1]) - [x, y]
                assert np.linalg.norm(near) >= radius * made.dpi / 72


def test_the_better_preview_is_above_and_the_dearer_one_to_the_right(drawn):
    for axes in drawn(rows("MNIST", seeds=1), columns=1).axes:
        at = {}
        for dots, point in zip(axes.collections, points(rows("MNIST", seeds=1), RANK if axes.get_title(loc="left") else ERROR)[:-1], strict=True):  # fmt: skip
            at[point.method] = dots.get_offset_transform().transform(dots.get_offsets())[0]
        assert at["anchored_4"][1] > at["anchored_1"][1] > at["simple"][1]
        assert at["anchored_4"][0] > at["anchored_1"][0] > at["simple"][0]


def test_seeds_are_one_mark_with_a_bar_and_sizes_of_one_method_are_joined(drawn):
    axes = drawn(rows("MNIST"), columns=1).axes[0]
    seen = points(rows("MNIST"), RANK)
    lines = [(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in axes.lines]
    for point in seen[:-1]:
        own = [1 - row["spearman"] for row in rows("MNIST") if row["method"] == point.method]
        assert (point.value, point.low, point.high) == pytest.approx((np.mean(own), min(own), max(own)))
        assert ((point.cost, point.cost), (point.low, point.high)) in lines
    by = {point.method: point for point in seen}
    for series in (
        ("anchored_1", "anchored_4"),
        ("mixture_10", "mixture_20", "mixture_30"),
        ("scores_1", "scores_4"),
    ):
        assert (tuple(by[m].cost for m in series), tuple(by[m].value for m in series)) in lines
    assert ((66, 66), (0, 1)) in lines  # the truth's cost, over the whole height


def test_a_study_has_a_panel_for_each_measure_and_one_column_fits_a_paper(drawn):
    def few(*studies):
        return [row for row in rows(*studies, seeds=1) if row["method"] in ("simple", "warped", "joint")]

    made = drawn(few("a", "b", "c"), columns=3, title="All")
    assert len(made.axes) == 6
    assert {axes.get_title(loc="left") for axes in made.axes} == {"a", "b", "c", ""}
    assert drawn(few("a"), columns=1).get_size_inches()[0] < 5


def test_what_was_not_measured_is_left_out(drawn):
    found = [{**row, "spearman": None} if row["method"] == "warped" else row for row in rows("a", seeds=1)]
    upper, lower = drawn(found).axes
    assert "Warped" not in names(upper)
    assert "Warped" in names(lower)
    alone = [row for row in found if row["method"] not in ("simple", "joint", "joint_again")]
    upper, lower = drawn(alone).axes
    assert "Centre" in names(upper)
    assert not names(lower)  # an error relative to nothing


def test_rows_that_cannot_be_drawn_are_named(tmp_path):
    with pytest.raises(InputError, match="nothing to draw"):
        quality_cost([], tmp_path / "x.png")
    with pytest.raises(InputError, match=r"row 0 has no \['cost', 'label'\]"):
        quality_cost([{"study": "a", "method": "simple"}], tmp_path / "x.png")
    wrong = {"study": "a", "method": "simple", "label": "Simple", "cost": 0, "spearman": 0.5}
    with pytest.raises(InputError, match="row 0, simple in a: the cost is 0"):
        quality_cost([wrong], tmp_path / "x.png")


def test_uniform_weights_cost_nothing_and_are_no_mark(drawn):
    even = {"study": "a", "method": "uniform", "label": "Uniform", "cost": 0.0, "spearman": None, "mse": None}
    for axes in drawn([*rows("a", seeds=1), even]).axes:
        assert "Uniform" not in names(axes)


def test_a_kind_of_preview_looks_the_same_whatever_its_family_and_size():
    def look(method):
        return Point(method, "", 1, 1, 1, 1).look

    assert look("anchored_full_1") == look("anchored_full_4") == look("von_anchored") == look("anchored_4")
    assert look("scores_gp_full_4") == look("scores_gp") != look("scores_full_4")
    assert look("anchored_short_4").hollow
    assert look("mixture_10") == look("simple") != look("warped")


def test_the_caption_says_what_is_on_the_figure_and_no_more():
    def caption(found):
        return _caption(found, [RANK])

    bare = [row for row in rows("a", seeds=1) if row["method"] != "joint_again"]
    short = {**bare[-1], "method": "anchored_short_4", "label": "4 short runs"}
    assert "Hollow: short runs" in caption([*bare, short])
    assert not any(word in caption(bare) for word in ("Hollow", "seeds", "Grey band"))
    assert all(word in caption(rows("a")) for word in ("means over up to 3 seeds", "Grey band"))


def test_a_file_of_a_hostile_name_and_one_method_is_written(tmp_path):
    row = {"study": "$x^2_{", "method": "mine", "label": "$\\frac{", "cost": 2.0, "spearman": 0.5}
    quality_cost([row], tmp_path / "x.png", measures=[RANK])
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_lone_name_stands_right_beside_its_mark():
    size = np.array([[40.0, 8.0]])
    scene = Scene(np.array([[98.0, 98, 102, 102]]), np.zeros((0, 4)), np.array([0.0, 0, 200, 200]))
    corner = arranged(np.array([[100.0, 100.0]]), size, scene)
    assert np.linalg.norm(ends(np.array([[100.0, 100.0]]), corner, size) - 100) < 5  # points
    assert corner[0, 1] == pytest.approx(96, abs=1.5)  # its middle at the mark's height
