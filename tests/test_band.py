"""Bands of anchored previews: laws, their parts, and the share of joint runs that they hold in simulated studies."""

import numpy as np
import pytest

from previa.errors import InputError
from previa.run.run_scores import interpolated
from previa.study.band import _student, band, covers
from previa.study.design import NOISE, propose, variance
from previa.study.preview import Preview
from previa.study.simplex import grid

P = 0.35


def made_up(T, n, seed, *, noise=0.004):
    """A study whose scores saturate in alpha^q, with runs that scatter: preview, own, left out, alone, and the truth."""
    rng = np.random.default_rng(seed)
    q, slow, gap = rng.uniform(0.2, 0.5), rng.uniform(0.1, 0.6, T), rng.uniform(0.2, 0.6, T)
    tasks = tuple("abcdefgh"[:T])

    def score(alphas):
        w = alphas**q / (alphas**q).sum(axis=1, keepdims=True)
        return 0.9 - gap * np.exp(-w / slow) - 0.1 * (1 - w) + noise * rng.normal(size=w.shape)

    anchors = propose(T, n)
    corners, own = score(np.eye(T)), score(anchors)

    def by(rows, at):
        return Preview(tasks, at, interpolated(corners, anchors[rows], own[rows], at, p=P))

    at = grid(T, {2: 20, 3: 10, 5: 4}[T])
    every = np.arange(n)
    left = [by(np.delete(every, r), anchors[[r]]).scores[0] for r in range(n)]
    return (
        by(every, at),
        Preview(tasks, anchors, own),
        Preview(tasks, anchors, left),
        by(every[:0], anchors),
        Preview(tasks, at, score(at)),
    )


@pytest.mark.parametrize("n", [1, 2, 4, 8])
@pytest.mark.parametrize("T", [2, 3, 5])
def test_nine_in_ten_joint_runs_lie_within_the_band(T, n):
    held, of_tasks = [], []
    for seed in range(6):
        *looks, truth = made_up(T, n, seed)
        found = band(*looks, p=P)
        held.append(covers(found, truth))
        of_tasks.append(np.mean([covers(found, truth, task) for task in truth.tasks]))
    assert np.mean(held) > 0.85
    assert np.mean(of_tasks) > 0.8  # tasks miss on their own side, so a little less


def test_more_anchors_make_it_narrower():
    widths = [
        np.mean([np.median(band(*made_up(3, n, seed)[:4], p=P).half_width) for seed in range(6)])
        for n in (1, 4, 8)
    ]
    assert widths[0] > 1.3 * widths[1] > 1.3 * widths[2]


def test_it_grows_where_runs_leave_more_uncertain():
    preview, own, *rest, _ = made_up(3, 4, 0)
    found = band(preview, own, *rest, p=P)
    v = np.sqrt(variance(preview.alphas, own.alphas, p=P) + NOISE)
    assert np.allclose(found.of_preview / v, found.of_preview[0] / v[0])
    assert found.half_width[preview.index([1, 0, 0])] < found.half_width[preview.index([0.9, 0.1, 0])]


def test_the_formula_by_hand_for_one_anchor():
    tasks, at = ("a", "b"), np.array([[0.5, 0.5]])
    own, seen = Preview(tasks, at, [[0.8, 0.9]]), Preview(tasks, at, [[0.7, 0.8]])
    preview = Preview(tasks, grid(2, 4), np.full((5, 2), 0.8))
    found = band(preview, own, seen, seen, p=1)
    s = 0.1 / np.sqrt(variance(at, p=1)[0] + NOISE)
    assert np.allclose(found.half_width, 2.353363 * s * np.sqrt(variance(grid(2, 4), at, p=1) + NOISE))
    assert found.offset == pytest.approx(-0.1)
    assert found.left_out_rms == pytest.approx(0.1)


def test_misses_twice_as_large_make_it_twice_as_wide_and_task_order_is_irrelevant():
    preview, own, left, alone, _ = made_up(3, 4, 1)
    found = band(preview, own, left, alone, p=P)
    twice = [Preview(own.tasks, own.alphas, own.scores + 2 * (x.scores - own.scores)) for x in (left, alone)]
    assert np.allclose(band(preview, own, *twice, p=P).half_width, 2 * found.half_width)

    def turned(x):
        return Preview(x.tasks[::-1], x.alphas[:, ::-1], x.scores[:, ::-1])

    again = band(*(turned(x) for x in (preview, own, left, alone)), p=P)
    assert np.allclose(again.half_width, found.half_width)
    assert np.allclose(again.task_half_widths[:, ::-1], found.task_half_widths)


def test_the_anchors_may_come_in_any_order():
    preview, own, left, alone, _ = made_up(3, 4, 2)
    found = band(preview, own, left, alone, p=P)
    assert np.allclose(
        band(preview, own, left.rows([2, 0, 3, 1]), alone.rows([3, 2, 1, 0]), p=P).half_width,
        found.half_width,
    )


def test_test_items_add_the_noise_of_a_test_set_in_squares():
    preview, *looks, _ = made_up(2, 4, 3)
    rng = np.random.default_rng(0)
    items = tuple(
        (rng.random((len(preview), 400)) < preview.scores[:, [t]]).astype(np.float32) for t in range(2)
    )
    scores = np.stack([i.mean(axis=1) for i in items], axis=1)
    seen = Preview(preview.tasks, preview.alphas, scores, items)
    found = band(seen, *looks, p=P)
    binomial = np.sqrt((scores * (1 - scores) / 400).sum(axis=1)) / 2
    assert np.allclose(found.of_items, 1.645 * binomial, rtol=0.12)  # 1000 draws
    assert np.allclose(found.half_width**2, found.of_preview**2 + found.of_items**2)
    assert (band(preview, *looks, p=P).of_items == 0).all()


def test_weights_of_tasks_choose_what_the_band_is_of():
    *looks, truth = made_up(3, 4, 4)
    found = band(*looks, p=P, weights={"a": 1, "b": 0, "c": 0})
    assert np.allclose(found.half_width, found.task_half_widths[:, 0])
    assert covers(found, truth) == covers(found, truth, "a")


def test_corners_and_anchors_do_not_count_as_covered():
    *looks, truth = made_up(3, 4, 5)
    off = Preview(truth.tasks, truth.alphas, truth.scores + 9)
    assert covers(band(*looks, p=P), off) == 0
    with pytest.raises(InputError, match="beside the runs"):
        covers(band(*looks, p=P), off.at([[1, 0, 0], [0.5, 0.5, 0]]))


def test_the_facts_are_plain_numbers_for_the_store():
    *looks, truth = made_up(3, 4, 6)
    found = band(*looks, p=P, level=0.8)
    facts = found.facts("anchored", truth)
    assert facts["method"] == "anchored"
    assert facts["level"] == 0.8
    assert facts["coverage"] == covers(found, truth)
    assert found.half_width.min() < facts["half_width"] < found.half_width.max()
    assert found.facts("anchored")["coverage"] is None
    scores = looks[0].scores.copy()
    scores[5] = np.nan  # a weighting that failed is left out
    assert np.isfinite(
        band(Preview(truth.tasks, truth.alphas, scores), *looks[1:]).facts("m", truth)["half_width"]
    )
    with pytest.raises(InputError, match="no scored weighting beside"):
        band(looks[0].at(np.eye(3)), *looks[1:]).facts("m")
    assert all(isinstance(facts[k], float) for k in ("half_width", "left_out_rms", "offset"))


@pytest.mark.parametrize(
    ("level", "nu", "t"),
    [(0.9, 1, 6.313752), (0.9, 3, 2.353363), (0.95, 4, 2.776445), (0.9, 10_000, 1.645006)],
)
def test_quantiles_of_students_distribution(level, nu, t):
    assert _student(level, nu) == pytest.approx(t, abs=1e-5)


def test_what_makes_no_band_is_refused():
    preview, own, left, alone, truth = made_up(3, 2, 7)
    with pytest.raises(InputError, match="at least one"):
        band(preview, own.rows([]), left.rows([]), alone.rows([]))
    with pytest.raises(InputError, match="Found 2, 1 and 2"):
        band(preview, own, left.rows([0]), alone)
    with pytest.raises(InputError, match="level"):
        band(preview, own, left, alone, level=90)
    with pytest.raises(InputError, match="alone is of tasks"):
        band(preview, own, left, Preview(("a", "b", "d"), alone.alphas, alone.scores))
    with pytest.raises(InputError, match="has no score"):
        band(preview, own, Preview(left.tasks, left.alphas, left.scores * np.nan), alone)
    with pytest.raises(InputError, match="covers"):
        covers(band(preview, own, left, alone), truth, "z")
