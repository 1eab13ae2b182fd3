"""Every picture is SVG where its path says so: well-formed, with nothing fetched from elsewhere, and the same again."""

from xml.etree import ElementTree

import pytest

from previa.show import contours, histograms, panels, pareto, per_task, quality_cost
from synthetic_previews import study

NAMES = {
    2: ("$a$ & <b>", "fr-en"),
    3: ("0-3", "a name/with_more than-a corner can hold", "7-9"),
    4: ("a", "b", "c", "d"),
}
SVG = "{http://www.w3.org/2000/svg}"


PICTURES = [(draw, T) for draw in (contours, histograms, panels, pareto, per_task) for T in NAMES]


@pytest.mark.parametrize(("draw", "T"), [case for case in PICTURES if case != (panels, 4)])
def test_a_path_that_ends_in_svg_is_written_as_svg_that_stands_alone(draw, T, tmp_path):
    truth, previews = study(NAMES[T], steps=4, truth_steps=4, methods=("simple", "mixture"))
    for name in ("a.svg", "b.SVG"):
        draw(truth, previews, tmp_path / name, title="x < y & z", unit="accuracy")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.SVG").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert len(root.findall(f".//{SVG}path")) > 20
    assert not root.findall(f".//{SVG}image")  # shapes, no picture of them
    links = {value for one in root.iter() for key, value in one.attrib.items() if key.endswith("href")}
    assert all(link.startswith("#") for link in links)
    assert {path.name for path in tmp_path.iterdir()} == {"a.svg", "b.SVG"}


def test_quality_against_cost_is_svg_too(tmp_path):
    rows = [
        {
            "study": "a",
            "method": method,
            "label": method,
            "cost": cost,
            "mse": 1 / cost,
            "spearman": 1 - 1 / cost,
        }
        for method, cost in (("simple", 2), ("mixture", 5), ("joint", 60))
    ]
    quality_cost(rows, tmp_path / "a.svg")
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag == f"{SVG}svg"
