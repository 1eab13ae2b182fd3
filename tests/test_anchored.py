"""Anchored previews go through every joint run and every task's own, whatever the family; a formula by hand is the oracle."""

import math
from functools import partial
from itertools import combinations

import pytest
import torch

from families import CLOSED, FAMILIES, SHAPES, P, draw, families, tolerance
from previa.core.anchored import anchored, left_out
from previa.core.isotropic import Isotropic
from previa.core.modes import Modes, modes
from previa.core.params import Flat
from previa.core.runs import Run
from previa.core.warp import warp, warped
from previa.errors import AlphaError, InputError, NotFiniteError, ParamsError

DTYPES = {"float64": torch.float64, "float32": torch.float32}
powers = pytest.mark.parametrize("p", [1.0, 0.3])
numbers = pytest.mark.parametrize(("T", "p"), [(2, 0.3), (3, 1.0), (5, 0.3)])
tasks = pytest.mark.parametrize("T", [2, 3, 5])


def rows(A, T, seed=0):
    """Weightings inside the simplex, float64 [A, T]."""
    draws = torch.rand(A, T, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.05
    return draws / draws.sum(-1, keepdim=True)


def posteriors(family="isotropic", T=3, dtype=torch.float64):
    return [FAMILIES[family](seed, dtype) for seed in range(T)]


def method_of(qs):
    return partial(modes, posteriors=qs)


def run(alpha, seed=40, dtype=torch.float64):
    """A joint run; Beta's parameters lie between 0 and 1, and so do these."""
    return Run(tuple(float(a) for a in alpha), draw(seed, unit=True, dtype=dtype))


def runs(T, n=3, dtype=torch.float64):
    return [run(alpha, 40 + r, dtype) for r, alpha in enumerate(rows(n, T, seed=9))]


def theta(anchor):
    return Flat.of(anchor.params).vector


def preview(qs, anchors, alphas, p=1.0):
    return anchored(method_of(qs), anchors, p=p)(torch.as_tensor(alphas, dtype=torch.float64)).params.vector


# Laws ---------------------------------------------------------------------------------------------------------------------


@families
@numbers
def test_corners_are_the_tasks_own_modes(family, T, p):
    qs = posteriors(family, T)
    found = preview(qs, runs(T), torch.eye(T), p)
    torch.testing.assert_close(found, torch.stack([q.mode().vector for q in qs]), **tolerance(family))
    assert torch.equal(found, modes(torch.eye(T), qs).params.vector)  # anchors add nothing, not even rounding


@families
@numbers
@pytest.mark.parametrize("dtype", DTYPES)
def test_anchors_are_reproduced_bit_for_bit_wherever_they_are_asked_for(family, T, p, dtype):
    anchors = runs(T, dtype=DTYPES[dtype])
    at = torch.tensor([anchor.alpha for anchor in anchors], dtype=torch.float64)
    alphas = torch.cat([rows(2, T), at.flip(0)])
    found = preview(posteriors(family, T, DTYPES[dtype]), anchors, alphas, p)
    expected = torch.stack([theta(anchor) for anchor in anchors]).flip(0)
    assert torch.equal(found[2:], expected.to(found))  # in the method's dtype: a full precision's is float64


@families
@powers
def test_beside_an_anchor_the_preview_is_almost_the_anchor(family, p):
    """What bit-for-bit anchors could hide: the formula itself goes through them, from every side."""
    anchors = runs(3)
    for anchor in anchors:
        beside = torch.tensor(anchor.alpha, dtype=torch.float64) + 1e-5 * torch.tensor([1.0, -2.0, 1.0])
        found = preview(posteriors(family), anchors, [beside.tolist()], p)
        # slopes are some tens; EM ends a little off, elsewhere in other company
        torch.testing.assert_close(found[0], theta(anchor), rtol=0, atol=2e-3)


@families
@tasks
def test_adding_an_anchor_moves_the_preview_there_to_it_and_the_corners_and_other_anchors_not(family, T):
    qs, anchors = posteriors(family, T), runs(T)
    new = run(rows(1, T, seed=5)[0], 60)
    before = preview(qs, anchors, [new.alpha])
    assert (before[0] - theta(new)).abs().max() > 0.1
    after = preview(qs, [*anchors, new], [new.alpha, *torch.eye(T).tolist(), *(a.alpha for a in anchors)])
    assert torch.equal(after[0], theta(new))
    kept = preview(qs, anchors, [*torch.eye(T).tolist(), *(a.alpha for a in anchors)])
    torch.testing.assert_close(after[1:], kept, **tolerance(family))


@families
@powers
def test_the_order_of_anchors_is_irrelevant(family, p):
    qs, alphas = posteriors(family), rows(4, 3)
    anchors = runs(3, 5)
    expected = preview(qs, anchors, alphas, p)
    order = [anchors[r] for r in (3, 0, 4, 1, 2)]
    torch.testing.assert_close(preview(qs, order, alphas, p), expected, **tolerance(family))


@families
@pytest.mark.parametrize("n", [1, 3, 6])  # fewer anchors than terms, and more: every path of the cardinals
def test_the_order_of_tasks_is_irrelevant(family, n):
    qs, anchors, alphas, order = posteriors(family), runs(3, n), rows(4, 3), [2, 0, 1]
    turned = [Run(tuple(anchor.alpha[t] for t in order), anchor.params) for anchor in anchors]
    found = preview([qs[t] for t in order], turned, alphas[:, order], 0.3)
    torch.testing.assert_close(found, preview(qs, anchors, alphas, 0.3), **tolerance(family))


@families
@powers
def test_an_anchor_that_lies_on_the_preview_already_changes_nothing(family, p):
    qs, alphas = posteriors(family), rows(5, 3)
    middles = [run(alpha, 40 + r) for r, alpha in enumerate([[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])]
    for anchors in ([], middles):
        method = anchored(method_of(qs), anchors, p=p)
        same = Run((1 / 3,) * 3, method(torch.full((1, 3), 1 / 3, dtype=torch.float64)).params.row(0))
        found = preview(qs, [*anchors, same], alphas, p)
        torch.testing.assert_close(found, method(alphas).params.vector, **tolerance(family))


@powers
def test_without_anchors_it_is_the_warped_method(p):
    method = method_of(posteriors("diagonal"))
    found = anchored(method, [], p=p)(rows(4, 3)).params.vector
    assert torch.equal(found, warped(method, p)(rows(4, 3)).params.vector)


def test_the_methods_statistics_are_kept_and_its_memory_is_not_written_over():
    kept = torch.zeros(2, P, dtype=torch.float64)
    layout = FAMILIES["isotropic"](0).layout

    def constant(alphas):
        return Modes(Flat(layout, kept[: len(alphas)]), {"iterations": torch.arange(len(alphas))})

    found = anchored(constant, [run([0.5, 0.5])])(rows(2, 2))
    assert found.stats["iterations"].tolist() == [0, 1]
    assert not kept.any()
    assert (found.params.vector != 0).all()


# Oracles ------------------------------------------------------------------------------------------------------------------


@powers
def test_isotropic_with_the_standard_design_is_the_formula_by_hand(p):
    """METHOD.md 10(b), a term a line: midpoints of the three edges and the centroid, T = 3."""
    t = [draw(seed) for seed in range(3)]
    e = {pair: draw(50 + r, unit=True) for r, pair in enumerate(combinations(range(3), 2))}
    c = draw(60, unit=True)
    middle = {pair: [0.5 if k in pair else 0.0 for k in range(3)] for pair in e}
    anchors = [Run((1 / 3, 1 / 3, 1 / 3), c), *(Run(tuple(middle[pair]), e[pair]) for pair in e)]
    alphas = torch.cat([rows(20, 3), torch.tensor([[0.2, 0.8, 0.0], [0.0, 0.7, 0.3]], dtype=torch.float64)])
    found = anchored(method_of([Isotropic(params) for params in t]), anchors, p=p)(alphas).params

    def without(w, name):
        total = sum(w[k] * t[k][name] for k in range(3))
        for i, j in e:
            total = total + 4 * w[i] * w[j] * (e[i, j][name] - (t[i][name] + t[j][name]) / 2)
        return total

    for a, w in enumerate(warp(alphas, p).tolist()):
        for name in SHAPES:
            bump = c[name] - without([1 / 3] * 3, name)
            expected = without(w, name) + 27 * w[0] * w[1] * w[2] * bump
            torch.testing.assert_close(found[name][a], expected, **CLOSED)


@pytest.mark.parametrize("T", [3, 5])
def test_one_anchor_at_the_centroid_bulges_evenly(T):
    """The same to all edges, for tasks that lie symmetrically: on an edge's middle it counts less than at the centre."""
    layout = FAMILIES["isotropic"](0).layout
    zero = Isotropic(Flat(layout, torch.zeros(P, dtype=torch.float64)))
    centre = Run((1 / T,) * T, Flat(layout, torch.ones(P, dtype=torch.float64)))
    eye = torch.eye(T, dtype=torch.float64)
    middles = torch.stack([(eye[s] + eye[t]) / 2 for s, t in combinations(range(T), 2)])
    found = preview([zero] * T, [centre], middles)[:, 0]
    torch.testing.assert_close(found, found[:1].expand(len(middles)), **CLOSED)
    assert 0 < float(found[0]) < 1


def test_float32_previews_are_those_of_float64_to_a_few_roundings():
    wide, narrow = (
        preview(posteriors("isotropic", 3, dtype), runs(3, 6, dtype), rows(20, 3), 0.3)
        for dtype in DTYPES.values()
    )
    # inputs below 4, residuals below 5 counted up to 5 times in all, each rounded to 6e-8 of itself: some 1e-6
    torch.testing.assert_close(narrow.double(), wide, rtol=0, atol=4e-6)


@powers
def test_what_is_left_out_is_previewed_by_the_others_as_refitted_by_hand(p):
    qs, anchors = posteriors("diagonal"), runs(3, 4)
    found = left_out(method_of(qs), anchors, p=p)
    assert len(found) == 4
    for r, each in enumerate(found):
        others = [anchor for k, anchor in enumerate(anchors) if k != r]
        torch.testing.assert_close(each.vector, preview(qs, others, [anchors[r].alpha], p)[0], **CLOSED)
    (alone,) = left_out(method_of(qs), anchors[:1], p=p)
    torch.testing.assert_close(
        alone.vector, warped(method_of(qs), p)([anchors[0].alpha]).params.vector[0], **CLOSED
    )


def test_weights_with_zeros_have_anchors_under_a_power_below_one():
    edge = run([0.2, 0.8, 0.0])
    qs = posteriors("diagonal")
    assert torch.equal(preview(qs, [edge, *runs(3, 2)], [edge.alpha], 0.3)[0], theta(edge))
    # an edge's anchor says nothing of the other edges: w_s w_t of its own pair is its only term
    other = [[0.0, 0.5, 0.5], [0.4, 0.0, 0.6]]
    middle = run([0.5, 0.5, 0.0])
    torch.testing.assert_close(
        preview(qs, [middle], other, 0.3), warped(method_of(qs), 0.3)(other).params.vector, **CLOSED
    )


# Bad input ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("anchors", "error", "words"),
    [
        ([run([1.0, 0.0, 0.0])], AlphaError, "is a corner of the simplex"),
        ([run([0.5, 0.5, 0.0]), run([0.5, 0.5, 0.0], 41)], AlphaError, "two are trained at"),
        ([run([0.5, 0.3, 0.1])], InputError, "anchors: weights sum to 0.9; with anchors every weighting should sum to 1"),
        ([run([0.5, 0.5]), run([0.5, 0.5, 0.0])], AlphaError, r"another at \(0.5, 0.5, 0.0\); expected one weight"),
        ([run([0.5, 0.5])], AlphaError, "3 tasks need"),
        ([Run((0.5, 0.5, 0.0), {"a.weight": torch.zeros(3, 2)})], ParamsError, r"anchor \(0.5, 0.5, 0.0\).*'a.bias' is missing"),
        ([Run((0.5, 0.5, 0.0), draw(0) | {"scale": torch.tensor(math.nan)})], NotFiniteError, "anchor .*'scale'"),
    ],
)  # fmt: skip
def test_runs_that_are_no_anchors_are_refused(anchors, error, words):
    with pytest.raises(error, match=words):
        anchored(method_of(posteriors()), anchors)


def test_weightings_that_do_not_sum_to_one_have_no_anchored_preview():
    method = anchored(method_of(posteriors()), runs(3))
    with pytest.raises(InputError, match=r"alphas: weights sum to 1\.5"):
        method(torch.tensor([[0.5, 0.5, 0.5]]))
    rounded = method(torch.tensor([[0.333333, 0.333333, 0.333333]]))  # text of six digits
    exact = method(torch.tensor([[1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64))
    torch.testing.assert_close(rounded.params.vector, exact.params.vector, rtol=0, atol=1e-6)
