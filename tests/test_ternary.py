"""The triangle's sides are numbered as in report.html: a reader of both must not be misled."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from previa.show._look import figure
from previa.show.ternary import frame, gridded
from previa.study.simplex import grid, uniform


def test_each_side_reads_the_weight_of_the_corner_that_it_leaves_as_in_the_html():
    made = figure(5, 5)
    axes = made.add_axes((0.2, 0.2, 0.6, 0.6), projection="ternary")
    frame(axes, ("top", "left", "right"))
    made.canvas.draw()
    corners = axes.transData.transform([[0, 1], [-(3**-0.5), 0], [3**-0.5, 0]])  # mpltern: of height 1
    # As in page/3_triangle.js: from the top along the left side, from the left along the bottom, from the right up.
    names = {text.get_text(): to_hex(text.get_color()) for text in axes.texts}
    assert len(set(names.values())) == 3
    for axis, start, end in ((axes.taxis, 0, 1), (axes.laxis, 1, 2), (axes.raxis, 2, 0)):
        shown = [(t.label1 if t.label1.get_visible() else t.label2) for t in axis.get_major_ticks()]
        assert [text.get_text() for text in shown] == ["0.2", "0.4", "0.6", "0.8"]
        assert {to_hex(text.get_color()) for text in shown} == {names[("top", "left", "right")[start]]}
        for text in shown:
            w = float(text.get_text())
            box = text.get_window_extent()
            off = np.linalg.norm(
                [(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2] - w * corners[start] - (1 - w) * corners[end]
            )
            assert off < 0.1 * np.linalg.norm(corners[0] - corners[1])


@pytest.mark.parametrize("names", [("a", "b", "c"), ("a long name for a task",) * 3])
def test_no_number_of_a_side_touches_another_or_a_corner(names):
    width, height = 3.3, 3.2  # and the panel as in contours
    made = figure(width, height)
    place = 0.4 / width, 0.6 / height, 2.45 / width, 2.12 / height
    axes = made.add_axes(place, projection="ternary")
    frame(axes, names)
    made.canvas.draw()
    numbers = [
        label.get_window_extent()
        for axis in (axes.taxis, axes.laxis, axes.raxis)
        for tick in axis.get_major_ticks()
        for label in (tick.label1, tick.label2)
        if label.get_visible()
    ]
    boxes = numbers + [text.get_window_extent() for text in axes.texts]
    assert len(numbers) == 12
    for i, box in enumerate(boxes):
        assert made.bbox.x0 <= box.x0
        assert box.x1 <= made.bbox.x1
        assert not box.count_overlaps(boxes[:i])


def test_a_point_amid_a_fine_grid_is_not_drawn_and_every_other_design_is():
    """Uniform weights lie amid three points of most grids: their noise was a spot of its own size in every triangle."""
    for n in (10, 20, 50):
        alphas = np.vstack([grid(3, n), uniform(3)])
        assert gridded(alphas).tolist() == [True] * (len(alphas) - 1) + [False]
    assert gridded(grid(3, 12)).all()  # uniform is one of these
    assert gridded(np.vstack([grid(3, 4), uniform(3)])).all()  # a coarse grid needs it
    assert gridded(np.vstack([grid(3, 10)[1:], uniform(3)])).all()  # no whole grid
    assert gridded(np.random.default_rng(0).dirichlet([1, 1, 1], 80)).all()
