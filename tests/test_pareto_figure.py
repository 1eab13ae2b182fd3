"""The picture of fronts: any number of tasks, odd studies, one scale for all methods, and marks that say what they mean."""

from importlib import import_module

import numpy as np
import pytest
from PIL import Image

from previa.errors import FileError, InputError
from previa.show._fronts import MANY, caption, drawn
from previa.show._look import LABELS
from previa.show.pareto import _legend, _limits, _pair, _rows, conflicts, figure, pareto
from previa.study.pareto import compare_fronts
from previa.study.preview import Preview
from synthetic_previews import made_up, study

TASKS = ("code", "maths", "chat", "law", "medicine")


def noisy(preview, N=200):
    """The same preview with scores of N test items each."""
    hard = np.random.default_rng(0).uniform(size=(len(preview.tasks), N))
    items = tuple((hard[t] < preview.scores[:, t, None]).astype(np.float32) for t in range(len(hard)))
    return Preview(
        preview.tasks, preview.alphas, np.stack([i.mean(1, dtype=np.float64) for i in items], 1), items
    )


def texts(made):
    """All that is written in a figure."""
    from matplotlib.text import Text

    return [t.get_text() for t in made.findobj(Text) if t.get_text()]


@pytest.mark.parametrize("T", [2, 3, 4, 5])
def test_a_picture_for_any_number_of_tasks_is_a_small_png(T, tmp_path):
    truth, previews = study(TASKS[:T], steps=4, truth_steps=4, methods=("simple", "mixture"))
    pareto(noisy(truth), previews, tmp_path / "a.png", title="A study", unit="accuracy")
    assert (tmp_path / "a.png").stat().st_size < 300_000
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 400
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_every_judged_weighting_is_of_one_kind_and_its_words_count_them():
    truth, previews = study(TASKS[:3], steps=10, truth_steps=10)
    d = drawn(noisy(truth), previews["simple"])
    assert sum(mask.astype(int) for mask in d.kinds.values()).tolist() == [1] * 66
    found = compare_fronts(noisy(truth), previews["simple"])
    assert d.kinds["good"].sum() == (found.near & found.on_previewed).sum()
    assert d.kinds["good"].sum() + d.kinds["missed"].sum() == found.near.sum()
    n = found.on_previewed.sum()
    k, chance = d.kinds["good"].sum(), found.near.mean()
    assert d.words[0] == f"{n} of 66 weightings on the previewed front"
    assert (
        d.words[1]
        == f"{k} of these near-optimal: {100 * found.near_share:.0f} % (by chance {100 * chance:.0f} %)"
    )


def test_without_scores_of_test_items_nothing_is_called_near_optimal():
    truth, previews = study(TASKS[:3], steps=10, truth_steps=10, methods=("simple",))
    d = drawn(truth, previews["simple"])
    assert "on the true front" in d.words[1]
    words = caption(TASKS[:3], "accuracy", {"simple": d})
    made = _rows(TASKS[:3], {"simple": d}, "accuracy", "", words)
    _legend(made, {"simple": d}, "on the true front", "", words, pairs=True)
    assert "near-optimal" not in words.lower()
    assert not any("near-optimal" in text for text in texts(made))


def test_what_cannot_be_judged_is_drawn_as_what_it_is():
    truth, previews = study(TASKS[:3], steps=10, truth_steps=10, methods=("simple",))
    for judge, preview in ((None, previews["simple"]), (truth, previews["simple"].rows([0, 1]))):
        d = drawn(judge, preview)
        assert d.fronts is None
        assert set(d.kinds) == {"rest", "unknown"}
        assert d.words[0].endswith("on its front")


@pytest.mark.parametrize("T", [2, 3, 4])
def test_methods_share_their_axes_and_nothing_falls_outside(T):
    truth, previews = study(TASKS[:T], steps=6, truth_steps=6)
    shown = {m: drawn(truth, p) for m, p in previews.items()}
    for t in range(T):
        low, high = _limits(shown, t)
        for d in shown.values():
            seen = np.concatenate([d.scores[:, t], d.fronts.previewed[d.fronts.on_previewed, t]])
            assert low < seen.min()
            assert seen.max() < high


def test_the_line_is_the_front_of_the_two_tasks_shown():
    truth = made_up(TASKS[:2], steps=10)
    made = figure(4, 4)
    axes = made.add_subplot()
    d = drawn(truth, truth)
    _pair(axes, d, (0, 1), [(0, 1), (0, 1)])
    x, y = axes.lines[0].get_data()
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) <= 0).all()
    for a, b in zip(x, y, strict=True):
        assert not ((d.scores[:, 0] > a) & (d.scores[:, 1] > b)).any()


def test_of_many_tasks_the_pairs_most_in_conflict_are_shown():
    x = np.linspace(0, 1, 9)
    scores = np.column_stack([x, x**2, 1 - x, 0.5 + 0 * x])  # 0 and 1 rise together, 2 falls, 3 is flat
    scores[4] = np.nan
    pairs = conflicts(scores)
    assert {(0, 2), (1, 2)} <= set(pairs)
    assert (0, 1) not in pairs


def test_every_method_is_named_and_the_caption_says_what_it_must(tmp_path, monkeypatch):
    truth, previews = study(TASKS[:2], steps=4, truth_steps=4)
    made = []
    monkeypatch.setattr(import_module("previa.show.pareto"), "save", lambda figure, path: made.append(figure))
    pareto(noisy(truth), previews, tmp_path / "a.png", unit="accuracy")
    pareto(None, previews, tmp_path / "a.png")
    pareto(truth, {}, tmp_path / "a.png")
    first, second, third = (" ".join(" ".join(texts(m)).split()) for m in made)
    for method in previews:
        assert LABELS[method] in first
    assert "at its true scores (accuracy)" in first
    assert "within noise of some weighting on the true front" in first
    assert "really trained" not in first  # diamonds are previewed scores, and some truths are no training
    assert "Diamonds are previewed scores" in first
    assert "Diamonds" not in second + third
    assert "Trade-offs: the previewed Pareto front" in second
    assert "true" not in second
    assert "Trade-offs: the true Pareto front" in third


@pytest.mark.parametrize("T", [2, 3])
@pytest.mark.parametrize("methods", [("simple",), ("simple", "mixture"), tuple(LABELS)[:4]])
def test_axis_labels_legend_and_caption_do_not_lie_upon_each_other(T, methods, tmp_path, monkeypatch):
    truth, previews = study(TASKS[:T], steps=20 // T, truth_steps=20 // T, methods=methods)
    rng = np.random.default_rng(0)  # points of every kind, so that the legend is as long as it gets
    previews = {
        m: Preview(p.tasks, p.alphas, p.scores + 0.05 * rng.normal(size=p.scores.shape))
        for m, p in previews.items()
    }
    made = []
    monkeypatch.setattr(import_module("previa.show.pareto"), "save", lambda figure, path: made.append(figure))
    pareto(noisy(truth), previews, tmp_path / "a.png", unit="accuracy")
    made[0].canvas.draw()
    legend = made[0].legends[0].get_window_extent()
    assert (
        max(
            t.get_window_extent().y1
            for t in made[0].texts
            if "is a weighting at its true scores" in " ".join(t.get_text().split())
        )
        <= legend.y0
    )
    labels = [axes.xaxis.label for axes in made[0].axes if axes.name != "ternary"]
    assert legend.y1 < min(label.get_window_extent().y0 for label in labels if label.get_text())


def test_the_more_weightings_the_smaller_their_marks_and_no_previewed_scores_on_top():
    truth, previews = study(TASKS[:3], steps=25, truth_steps=25, methods=("simple",))
    few, many = (
        drawn(noisy(t), p) for t, p in ((made_up(TASKS[:3], steps=8),) * 2, (truth, previews["simple"]))
    )
    assert len(many.alphas) > MANY
    assert few.diamonds
    assert not many.diamonds
    assert "Diamonds" not in caption(TASKS[:3], "accuracy", {"simple": many})
    for kind in ("good", "missed", "rest"):
        assert many.mark(kind)["s"] < 0.5 * few.mark(kind)["s"]
    assert many.mark("bad")["s"] > many.mark("good")["s"]


def test_odd_studies_are_drawn_too(tmp_path):
    tasks = (
        "$x_1$ & co",
        "a/very/long_path-to_some_dataset/with more words than any corner can hold",
        "数字",
    )
    truth, previews = study(tasks, steps=4, truth_steps=4, methods=("my_own",))
    pareto(truth, previews, tmp_path / "names.png")
    two = tasks[1:]
    truth, none = made_up(two, steps=6), made_up(two, steps=6, failed=range(7))
    some = made_up(two, steps=12, failed=[0, 4])
    pareto(truth, {"simple": some, "mixture": none, "few": some.rows([3, 5])}, tmp_path / "failed.png")
    pareto(truth.rows([3]), {"simple": some.rows([3, 5])}, tmp_path / "two_points.png")
    pareto(truth.rows([]), {"simple": some, "mixture": none.rows([])}, tmp_path / "empty.png")
    pareto(none, {"simple": none}, tmp_path / "nothing.png")
    flat = Preview(tasks[:2], [[0.5, 0.5], [0, 1], [1, 0]], np.full((3, 2), 0.5))
    pareto(flat, {"simple": flat}, tmp_path / "flat.png")
    assert len(list(tmp_path.glob("*.png"))) == 6


def test_what_cannot_be_drawn_is_said(tmp_path):
    truth, previews = study(TASKS[:2], steps=4, truth_steps=4)
    with pytest.raises(InputError, match="name of the truth"):
        pareto(truth, {"joint": truth}, tmp_path / "a.png")
    with pytest.raises(InputError, match="nothing to draw"):
        pareto(None, {}, tmp_path / "a.png")
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be written"):
        pareto(truth, previews, tmp_path / "file" / "a.png")
