"""Laws that every posterior family obeys (METHOD 1), in one table; and slow oracles beside each fast path."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from previa import (
    Beta,
    Diagonal,
    Flat,
    Full,
    Isotropic,
    Kronecker,
    Layout,
    Mixture,
    StudentT,
    damped,
    merge,
    mode_parts,
    modes,
)
from previa.errors import AlphaError, InputError, NotFiniteError, ParamsError, PrecisionError

SHAPES = {"a.weight": (3, 2), "a.bias": (3,), "scale": ()}


def draw(
    seed: int, positive: bool = False, unit: bool = False, dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    out = {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in SHAPES.items()}
    if positive:
        return {name: value.exp() for name, value in out.items()}
    return {name: value.sigmoid() for name, value in out.items()} if unit else out


def full(seed: int) -> Full:
    P = Layout.of(draw(0)).size
    A = torch.randn(P, P + 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Full(draw(seed), A @ A.T / P)


FAMILIES: dict[str, Callable[[int], object]] = {
    "isotropic": lambda seed: Isotropic(draw(seed), 0.5 + seed % 3),
    "diagonal": lambda seed: Diagonal(draw(seed), draw(seed + 100, positive=True)),
    "full": full,
    "beta": lambda seed: Beta(
        {n: 1 + v for n, v in draw(seed, positive=True).items()},
        {n: 1 + v for n, v in draw(seed + 100, positive=True).items()},
    ),
    "student_t": lambda seed: StudentT(draw(seed), draw(seed + 100, positive=True), 4.0),
    "mixture": lambda seed: Mixture(
        [Diagonal(draw(10 * seed + k), draw(10 * seed + k + 100, positive=True)) for k in range(3)],
        [0.5, 0.3, 0.2],
    ),
    "mixture of full": lambda seed: Mixture([full(10 * seed + k) for k in range(2)]),
}
EXPONENTIAL = ["isotropic", "diagonal", "full", "beta"]
families = pytest.mark.parametrize("family", FAMILIES)
exponential = pytest.mark.parametrize("family", EXPONENTIAL)

# Float64 inputs: what is left is rounding in sums of three terms and one division.
EXACT = {"rtol": 1e-10, "atol": 1e-10}
# EM stops when no responsibility moves by more than 1e-8.
SETTLED = {"rtol": 1e-5, "atol": 1e-6}


def preview(alpha, posteriors, prior=None):
    return modes([alpha], posteriors, prior).params.vector[0]


@families
@pytest.mark.parametrize("t", [0, 1, 2])
def test_a_corner_returns_the_task(family, t):
    posteriors = [FAMILIES[family](seed) for seed in range(3)]
    alpha = [float(s == t) for s in range(3)]
    tolerance = EXACT if family in EXPONENTIAL else SETTLED
    torch.testing.assert_close(preview(alpha, posteriors), posteriors[t].mode().vector, **tolerance)


@families
def test_the_order_of_tasks_is_irrelevant(family):
    posteriors = [FAMILIES[family](seed) for seed in range(3)]
    there, back = (
        preview([0.2, 0.3, 0.5], posteriors),
        preview([0.5, 0.2, 0.3], [posteriors[i] for i in (2, 0, 1)]),
    )
    torch.testing.assert_close(there, back, **(EXACT if family in EXPONENTIAL else SETTLED))


@families
def test_scaling_alpha_does_not_move_the_mode_under_a_flat_prior(family):
    posteriors = [FAMILIES[family](seed) for seed in range(3)]
    one, seven = preview([0.2, 0.3, 0.5], posteriors), preview([1.4, 2.1, 3.5], posteriors)
    torch.testing.assert_close(one, seven, **(EXACT if family in EXPONENTIAL else SETTLED))


@families
def test_merging_copies_returns_the_copy(family):
    posterior = FAMILIES[family](1)
    merged = preview([0.2, 0.3, 0.5], [posterior] * 3)
    torch.testing.assert_close(
        merged, posterior.mode().vector, **(EXACT if family in EXPONENTIAL else SETTLED)
    )


@exponential
def test_merging_in_two_steps_equals_one(family):
    a, b, c = (FAMILIES[family](seed) for seed in range(3))
    once = merge([0.2, 0.3, 0.5], [a, b, c])
    twice = merge([1.0, 0.5], [merge([0.2, 0.3], [a, b]), c])
    for one, two in zip(once.natural(), twice.natural(), strict=True):
        torch.testing.assert_close(one, two, **EXACT)


@exponential
def test_a_mixture_of_one_equals_the_plain_family(family):
    posteriors = [FAMILIES[family](seed) for seed in range(3)]
    plain = preview([0.2, 0.3, 0.5], posteriors)
    mixed = preview([0.2, 0.3, 0.5], [Mixture([q]) for q in posteriors])
    torch.testing.assert_close(mixed, plain, **EXACT)


@exponential
def test_the_mode_maximises_the_weighted_sum_of_log_densities(family):
    posteriors = [FAMILIES[family](seed) for seed in range(3)]
    alpha = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    layout = posteriors[0].layout
    theta = preview([0.2, 0.3, 0.5], posteriors).clone().requires_grad_(True)
    total = sum(a * q.log_density(Flat(layout, theta)) for a, q in zip(alpha, posteriors, strict=True))
    (slope,) = torch.autograd.grad(total, theta)
    assert slope.abs().max() < 1e-8


@exponential
def test_a_batch_of_weightings_equals_one_at_a_time(family):
    posteriors = [FAMILIES[family](seed) for seed in range(3)]
    alphas = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.1, 0.1, 0.8]])
    together = modes(alphas, posteriors).params.vector
    merged = merge(alphas, posteriors).mode().vector
    each = torch.stack([merge(alpha, posteriors).mode().vector for alpha in alphas])
    torch.testing.assert_close(together, each, **EXACT)
    torch.testing.assert_close(merged, each, **EXACT)


@families
def test_batched_log_densities_equal_a_loop(family):
    posterior = FAMILIES[family](2)
    layout = posterior.layout
    rows = torch.rand(4, layout.size, dtype=torch.float64) * 0.8 + 0.1
    batched = posterior.log_density(Flat(layout, rows))
    looped = torch.stack([posterior.log_density(Flat(layout, row)) for row in rows])
    torch.testing.assert_close(batched, looped, rtol=1e-9, atol=1e-9)


# Oracles ------------------------------------------------------------------------------------------------------------------


def test_simple_averaging_is_isotropic_with_a_flat_prior():
    tasks = [draw(seed) for seed in range(3)]
    merged = merge([0.2, 0.3, 0.5], [Isotropic(task) for task in tasks]).mode()
    for name in SHAPES:
        torch.testing.assert_close(
            merged[name], 0.2 * tasks[0][name] + 0.3 * tasks[1][name] + 0.5 * tasks[2][name], **EXACT
        )


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_task_arithmetic_is_isotropic_with_a_prior_at_the_base(scale):
    base, tasks = draw(9), [draw(seed) for seed in range(2)]
    merged = merge([0.4 * scale, 0.6 * scale], [Isotropic(task) for task in tasks], Isotropic(base)).mode()
    for name in SHAPES:
        expected = base[name] + scale * (
            0.4 * (tasks[0][name] - base[name]) + 0.6 * (tasks[1][name] - base[name])
        )
        torch.testing.assert_close(merged[name], expected, **EXACT)


def test_daheim_et_al_is_diagonal_with_a_prior_at_the_base():
    base, h0 = draw(9), draw(19, positive=True)
    tasks, hs = [draw(0), draw(1)], [draw(10, positive=True), draw(11, positive=True)]
    alpha = [0.4, 0.3]
    posteriors = [
        Diagonal(task, {n: h0[n] + h[n] for n in SHAPES}) for task, h in zip(tasks, hs, strict=True)
    ]
    merged = merge(alpha, posteriors, Diagonal(base, h0)).mode()
    for name in SHAPES:
        hbar = h0[name] + sum(a * h[name] for a, h in zip(alpha, hs, strict=True))
        step = sum(
            a * (h0[name] + h[name]) * (t[name] - base[name])
            for a, h, t in zip(alpha, hs, tasks, strict=True)
        )
        torch.testing.assert_close(merged[name], base[name] + step / hbar, **EXACT)


def test_full_precision_solves_the_normal_equations():
    a, b = full(0), full(1)
    merged = merge([0.3, 0.7], [a, b]).mode().vector
    left = 0.3 * a.precision + 0.7 * b.precision
    right = 0.3 * a.precision @ a.mode().vector + 0.7 * b.precision @ b.mode().vector
    torch.testing.assert_close(left @ merged, right, rtol=1e-9, atol=1e-9)


def test_beta_has_the_mode_of_its_appendix_without_the_log():
    q = Beta({"x": torch.tensor([3.0])}, {"x": torch.tensor([5.0])})
    assert q.mode()["x"].item() == pytest.approx((3 - 1) / (3 + 5 - 2))


@pytest.mark.parametrize("family", ["isotropic", "diagonal", "full", "beta", "student_t"])
def test_log_densities_equal_those_of_torch_distributions(family):
    q, theta = FAMILIES[family](3), draw(7, unit=True)
    x = Flat.of(theta).vector
    P = x.numel()
    if family == "isotropic":
        expected = torch.distributions.Normal(q.mode().vector, q.precision.rsqrt()).log_prob(x).sum()
    elif family == "diagonal":
        expected = (
            torch.distributions.Normal(q.mode().vector, Flat.of(q.precision).vector.rsqrt()).log_prob(x).sum()
        )
    elif family == "full":
        expected = torch.distributions.MultivariateNormal(
            q.mode().vector, precision_matrix=q.precision
        ).log_prob(x)
    elif family == "beta":
        expected = torch.distributions.Beta(Flat.of(q.a).vector, Flat.of(q.b).vector).log_prob(x).sum()
    else:
        from scipy.stats import multivariate_t

        shape = torch.diag(1 / Flat.of(q.precision).vector)
        expected = torch.tensor(
            multivariate_t(q.mode().vector.numpy(), shape.numpy(), df=q.nu).logpdf(x.numpy())
        )
    assert P == 10
    torch.testing.assert_close(q.log_density(theta), expected, rtol=1e-9, atol=1e-9)


def test_chunks_of_parameters_give_the_same_modes_as_the_whole():
    P = 5000  # with 700 weightings a chunk has 2995 entries
    generator = torch.Generator().manual_seed(0)
    posteriors = [
        Diagonal({"w": torch.randn(P, generator=generator)}, {"w": torch.rand(P, generator=generator) + 0.1})
        for _ in range(3)
    ]
    alphas = torch.rand(700, 3, generator=generator).double() + 0.01
    whole = modes(alphas, posteriors).params.vector
    parts = torch.cat([values.clone() for _, values in mode_parts(alphas, posteriors)], -1)
    oracle = torch.stack([merge(alpha, posteriors).mode().vector for alpha in alphas])
    assert sum(1 for _ in mode_parts(alphas, posteriors)) > 1
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    # float32: each side rounds three products, two sums and a quotient; terms cancel, so the error is relative to them
    torch.testing.assert_close(whole, oracle, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("K", [3, 12])
def test_few_and_many_members_take_different_paths_to_the_same_sums(K):
    posteriors = [FAMILIES["diagonal"](seed) for seed in range(K)]
    alphas = torch.rand(5, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    oracle = torch.stack([merge(alpha, posteriors).mode().vector for alpha in alphas])
    torch.testing.assert_close(modes(alphas, posteriors).params.vector, oracle, **EXACT)


@settings(max_examples=30, deadline=None)
@given(st.floats(-12, 12), st.floats(-12, 12), st.floats(0.01, 0.99))
def test_hessian_weighting_has_no_absolute_floor(log_a, log_b, share):
    """Precisions of 1e-12 to 1e12 weigh by their ratio alone: a bare epsilon would turn tiny ones into plain averaging."""
    a, b = 10.0**log_a, 10.0**log_b
    q = [Diagonal({"x": torch.tensor([0.0])}, a), Diagonal({"x": torch.tensor([1.0])}, b)]
    merged = merge([share, 1 - share], q).mode()["x"].item()
    expected = (1 - share) * b / (share * a + (1 - share) * b)
    assert merged == pytest.approx(expected, rel=1e-5, abs=1e-30)


# Damping ------------------------------------------------------------------------------------------------------------------


def test_damping_is_relative_to_the_tensors_own_scale():
    fishers = [{"w": torch.tensor([0.0, 2e-15]), "u": torch.tensor([4.0, 4.0])} for _ in range(2)]
    precisions, share = damped(fishers, relative=0.5)
    torch.testing.assert_close(precisions[0]["w"], torch.tensor([0.5e-15, 2.5e-15]))
    torch.testing.assert_close(precisions[1]["u"], torch.tensor([6.0, 6.0]))
    assert share == pytest.approx((1 + 0.2 + 1 / 3 + 1 / 3) / 4)


def test_damping_gives_a_tensor_that_no_task_uses_the_smallest_prior_of_the_others():
    precisions, _ = damped([{"w": torch.tensor([1.0]), "unused": torch.tensor([0.0])}] * 2, relative=0.1)
    assert precisions[0]["unused"].item() == pytest.approx(0.1)
    Diagonal({"w": torch.tensor([1.0]), "unused": torch.tensor([0.0])}, precisions[0])  # a valid precision


def test_damping_refuses_what_is_no_fisher():
    with pytest.raises(InputError, match="relative must be above zero"):
        damped([draw(0, positive=True)], relative=0.0)
    with pytest.raises(PrecisionError, match="Fisher of task 1 is negative"):
        damped([draw(0, positive=True), draw(0)])


# Bad input ----------------------------------------------------------------------------------------------------------------


def broken(**change: object) -> dict[str, torch.Tensor]:
    params = {**draw(1), **change}
    return {name: value for name, value in params.items() if value is not None}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (broken(scale=None), "'scale' is missing"),
        (broken(extra=torch.zeros(2)), "'extra' is not in"),
        (
            broken(**{"a.bias": torch.zeros(4, dtype=torch.float64)}),
            r"'a.bias' has shape \(4,\), but .* have \(3,\)",
        ),
    ],
)
def test_tensors_that_differ_between_tasks_are_named(params, words):
    with pytest.raises(ParamsError, match=words):
        merge([0.5, 0.5], [Isotropic(draw(0)), Isotropic(params)])
    with pytest.raises(ParamsError, match=words):
        modes([[0.5, 0.5]], [Isotropic(draw(0)), Isotropic(params)])


def test_tensors_in_another_order_are_refused_and_not_mixed_up():
    with pytest.raises(ParamsError, match="another order"):
        merge([0.5, 0.5], [Isotropic(draw(0)), Isotropic(dict(reversed(draw(1).items())))])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_named(value):
    with pytest.raises(NotFiniteError, match=r"'a\.bias' holds NaN or infinity"):
        Isotropic(broken(**{"a.bias": torch.tensor([0.0, value, 0.0])}))
    with pytest.raises(NotFiniteError, match="precision: tensor 'scale'"):
        Diagonal(draw(0), {**draw(0, positive=True), "scale": torch.tensor(value)})


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_precisions_must_be_above_zero(value):
    with pytest.raises(PrecisionError, match=r"'scale'.* must be above zero"):
        Diagonal(draw(0), {**draw(0, positive=True), "scale": torch.tensor(value)})
    with pytest.raises(PrecisionError, match="above zero"):
        Isotropic(draw(0), value)
    with pytest.raises(PrecisionError, match="not positive definite"):
        Full({"x": torch.zeros(2)}, torch.diag(torch.tensor([1.0, value])))
    with pytest.raises(PrecisionError, match="above 1"):
        Beta({"x": torch.tensor([1 + value])}, {"x": torch.tensor([2.0])})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_precisions_must_be_finite(value):
    h = Flat.of(draw(0, positive=True))
    h.vector[0] = value
    for precision in (value, h):
        with pytest.raises(NotFiniteError, match=r"precision of tensor .* holds NaN or infinity"):
            Diagonal(draw(0), precision)
    with pytest.raises(PrecisionError, match="finite and above zero"):
        Isotropic(draw(0), value)
    for H in (torch.diag(torch.tensor([1.0, value])), torch.tensor([[1.0, value], [0.0, 1.0]])):
        with pytest.raises(NotFiniteError, match="Full: the precision holds NaN or infinity"):
            Full({"x": torch.zeros(2)}, H)
    with pytest.raises(NotFiniteError, match="Kronecker: rest holds NaN or infinity"):
        Kronecker(draw(0), {}, value)


@pytest.mark.parametrize("value", [1e300, 1e-300])
def test_numbers_beyond_float32_are_no_precisions_of_it(value):
    for family in (Diagonal, Isotropic):
        with pytest.raises((NotFiniteError, PrecisionError)):
            family({"x": torch.zeros(2)}, value)
        wide = family({"x": torch.zeros(2, dtype=torch.float64)}, value)
        assert wide.natural()[0][0].item() == value


def test_blocks_are_refused_where_there_are_no_responsibilities():
    qs = [Diagonal(draw(seed), 1.0) for seed in range(2)]
    P = qs[0].layout.size
    kronecker = [Kronecker(draw(seed), {}, 1.0) for seed in range(2)]
    for posteriors in (qs, kronecker, [full(0), full(1)]):
        with pytest.raises(InputError, match="blocks are for mixtures and Student-t"):
            modes([[0.5, 0.5]], posteriors, blocks=((0, P),))
    for blocks in ([(0, P), (P, P)], [(0, P - 1), (P - 1, 1), (1, P)], [(0, P + 1)], []):
        with pytest.raises(InputError, match="must tile"):
            modes([[1.0]], [Mixture(qs)], blocks=blocks)


@pytest.mark.parametrize(
    ("alpha", "words"),
    [
        ([0.5, -0.5], "must not be negative; found -0.5"),
        ([0.5, math.nan], "NaN or infinity"),
        ([0.0, 0.0], "zero for every task"),
        ([0.5, 0.3, 0.2], r"shape \(3,\), but 2 tasks need \(2,\)"),
    ],
)
def test_weightings_that_make_no_sense_are_refused(alpha, words):
    with pytest.raises(AlphaError, match=words):
        merge(alpha, [Isotropic(draw(0)), Isotropic(draw(1))])


def test_families_cannot_be_mixed():
    with pytest.raises(InputError, match="posterior 1 is Diagonal, but posterior 0 is Isotropic"):
        merge([0.5, 0.5], [Isotropic(draw(0)), Diagonal(draw(1), 1.0)])


def test_a_mixture_has_no_closed_form_and_says_where_to_go():
    with pytest.raises(InputError, match=r"products of Mixture posteriors.*previa\.modes"):
        merge([1.0], [FAMILIES["mixture"](0)])


def test_a_prior_of_too_much_negative_weight_is_refused():
    tasks = [Diagonal(draw(seed), 1.0) for seed in range(2)]
    with pytest.raises(PrecisionError, match=r"gamma = -1"):
        merge([1.0, 1.0], tasks, Diagonal(draw(9), 5.0))
    with pytest.raises(PrecisionError, match=r"gamma = -1"):
        modes([[1.0, 1.0]], tasks, Diagonal(draw(9), 5.0))


def test_integer_tensors_are_no_parameters():
    with pytest.raises(ParamsError, match=r"'steps' is torch\.int64"):
        Isotropic({"steps": torch.tensor([3])})


def test_half_precision_is_upcast():
    q = Isotropic({"x": torch.tensor([1.5], dtype=torch.bfloat16)})
    assert q.mode()["x"].dtype == torch.float32


def test_inputs_are_not_modified():
    mean, h = draw(0), draw(1, positive=True)
    kept = (
        {name: value.clone() for name, value in {**mean}.items()},
        {name: value.clone() for name, value in h.items()},
    )
    modes([[0.5, 0.5]], [Diagonal(mean, h), Diagonal(draw(2), h)])
    for before, after in zip(kept, (mean, h), strict=True):
        assert all(torch.equal(before[name], after[name]) for name in SHAPES)


def test_a_flat_is_views_of_its_vector():
    flat = Flat.of(draw(0, dtype=torch.float32))
    flat.vector[:] = 3.0
    assert set(flat) == set(SHAPES)
    assert all(
        bool((value == 3).all()) and tuple(value.shape) == SHAPES[name] for name, value in flat.items()
    )
    assert "Flat(3 tensors, 10 parameters" in repr(flat)
    with pytest.raises(ParamsError, match="cannot hold 10"):
        Flat(flat.layout, torch.zeros(9))


def test_quadratic_losses_are_previewed_exactly_by_their_hessians():
    """Least squares: Laplace posteriors with autograd's Hessians are the losses themselves, so previews are joint minimisers."""
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(12, 3, generator=generator).double(), torch.randn(12, generator=generator).double())
        for _ in range(3)
    ]

    def loss(w, t):
        X, y = data[t]
        return 0.5 * (X @ w - y).square().mean()

    alpha = [0.2, 0.3, 0.5]
    posteriors = []
    for t, (X, y) in enumerate(data):
        own = torch.linalg.lstsq(X, y).solution
        H = torch.autograd.functional.hessian(lambda w, t=t: loss(w, t), own)
        posteriors.append(Full({"w": own}, H))
    total = lambda w: float(sum(a * loss(torch.from_numpy(w), t) for t, a in enumerate(alpha)))  # noqa: E731
    joint = minimize(total, np.zeros(3), method="BFGS", options={"gtol": 1e-9}).x
    torch.testing.assert_close(preview(alpha, posteriors), torch.from_numpy(joint), rtol=1e-5, atol=1e-5)
