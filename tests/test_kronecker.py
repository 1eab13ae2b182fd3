"""Kronecker posteriors: the laws of METHOD 1, and the dense B (x) A as the slow oracle."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from previa import Diagonal, Flat, Full, Isotropic, damped, modes, squared_gradients
from previa.core.kronecker import Kronecker, kronecker_damping, regmean
from previa.errors import InputError, NotFiniteError, ParamsError, PrecisionError
from previa.fit.kronecker_factors import input_moments, kronecker_factors
from previa.fit.labels import Expected

# Names in an order in which a layer's bias is not beside its weight, a kernel, a layer without bias, parameters without factors.
SHAPES = {"a.weight": (3, 4), "norm": (5,), "a.bias": (3,), "conv.weight": (2, 3, 2, 2), "b.weight": (3, 2)}
P = 12 + 5 + 3 + 24 + 6
ALPHAS = [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.6, 0.4], [0.05, 0.05, 0.9]]
# Conjugate gradients end at a residual of 1e-6 of the plain average's; theta is then wrong by at most some ten times that.
SOLVED = {"rtol": 0, "atol": 1e-5}


def draw(seed, positive=False):
    generator = torch.Generator().manual_seed(seed)
    values = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in SHAPES.items()}
    return {n: v.exp() for n, v in values.items()} if positive else values


def gram(n, seed):
    X = torch.randn(n + 3, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return X.T @ X / (n + 3)


def factors(seed):
    return {
        "a.weight": (gram(5, seed), gram(3, seed + 50)),  # with the bias
        "conv.weight": (gram(12, seed + 1), gram(2, seed + 51)),
        "b.weight": (gram(2, seed + 2), None),
    }


def kronecker(seed, damping=0.1):
    delta = dict.fromkeys(("a.weight", "conv.weight"), damping) if damping else None
    return Kronecker(draw(seed), factors(seed), {"norm": draw(seed + 100, positive=True)["norm"]}, delta)


def dense(q):
    """The precision [P, P], built entry by entry from the definition."""
    H = torch.zeros(P, P, dtype=torch.float64)
    places, delta = q.layout.places, q.damping or {}
    for weight, (A, B) in q.factors.items():
        start, _, (out, *rest) = places[weight]
        n = math.prod(rest)
        bias = places.get(weight.replace("weight", "bias"), (0,))[0]
        where = {(i, j): start + i * n + j if j < n else bias + i for i in range(out) for j in range(len(A))}
        for (i, j), row in where.items():
            for (k, m), column in where.items():
                H[row, column] = (float(i == k) if B is None else B[i, k]) * A[j, m]
            H[row, row] += delta.get(weight, 0.0)
    start, stop, _ = places["norm"]
    H[start:stop, start:stop] = torch.diag(q.rest["norm"])
    return H


def preview(alpha, posteriors, prior=None):
    return modes([alpha], posteriors, prior).params.vector[0]


# Laws -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0, 1, 2])
def test_a_corner_returns_the_task(t):
    qs = [kronecker(seed) for seed in range(3)]
    alpha = [float(s == t) for s in range(3)]
    torch.testing.assert_close(preview(alpha, qs), qs[t].mode().vector, rtol=0, atol=0)


def test_the_order_of_tasks_is_irrelevant():
    qs = [kronecker(seed) for seed in range(3)]
    turned = preview([0.5, 0.2, 0.3], [qs[i] for i in (2, 0, 1)])
    torch.testing.assert_close(preview([0.2, 0.3, 0.5], qs), turned, **SOLVED)


def test_scaling_alpha_does_not_move_the_mode_under_a_flat_prior():
    qs = [kronecker(seed) for seed in range(3)]
    torch.testing.assert_close(preview([0.2, 0.3, 0.5], qs), preview([1.4, 2.1, 3.5], qs), **SOLVED)


def test_merging_copies_returns_the_copy():
    q = kronecker(1)
    torch.testing.assert_close(preview([0.2, 0.3, 0.5], [q] * 3), q.mode().vector, rtol=1e-12, atol=1e-12)


def test_the_mode_maximises_the_weighted_sum_of_log_densities():
    qs = [kronecker(seed) for seed in range(3)]
    theta = preview([0.2, 0.3, 0.5], qs).requires_grad_(True)
    start = sum(a * q.mode().vector for a, q in zip([0.2, 0.3, 0.5], qs, strict=True)).requires_grad_(True)

    def slope(at):
        total = sum(a * q.log_density(Flat(q.layout, at)) for a, q in zip([0.2, 0.3, 0.5], qs, strict=True))
        return torch.autograd.grad(total, at)[0].abs().max()

    assert slope(theta) < 1e-5 * slope(start)


# Oracles --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damping", [0.1, 0.0])
def test_products_and_diagonal_are_those_of_the_dense_matrix(damping):
    q, v = kronecker(3, damping), torch.randn(4, P, dtype=torch.float64)
    torch.testing.assert_close(q.times(v), v @ dense(q), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(q.diagonal(), dense(q).diagonal(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("damping", [0.1, 0.0])
def test_modes_are_those_of_the_full_posteriors(damping):
    qs = [kronecker(seed, damping) for seed in range(3)]
    found = modes(ALPHAS, qs)
    full = modes(ALPHAS, [Full(q.mean, dense(q)) for q in qs])
    torch.testing.assert_close(found.params.vector, full.params.vector, **SOLVED)
    assert bool((found.stats["converged"] == 1).all())


@pytest.mark.parametrize("prior", ["isotropic", "diagonal", "kronecker"])
def test_a_prior_has_the_weight_that_is_left(prior):
    qs, h = [kronecker(seed) for seed in range(2)], draw(33, positive=True)
    p0, H0 = {
        "isotropic": (Isotropic(draw(9), 0.3), 0.3 * torch.eye(P, dtype=torch.float64)),
        "diagonal": (Diagonal(draw(9), h), torch.diag(Flat.of(h).vector)),
        "kronecker": (kronecker(9), dense(kronecker(9))),
    }[prior]
    full = preview([0.2, 0.1], [Full(q.mean, dense(q)) for q in qs], Full(draw(9), H0))
    torch.testing.assert_close(preview([0.2, 0.1], qs, p0), full, **SOLVED)


def test_a_diagonal_task_goes_beside_kronecker_tasks():
    qs = [kronecker(0), Diagonal(draw(1), draw(31, positive=True))]
    full = [
        Full(draw(0), dense(qs[0])),
        Full(draw(1), torch.diag(Flat.of(draw(31, positive=True)).vector)),
    ]
    for alpha in ([0.4, 0.6], [0.0, 1.0]):
        torch.testing.assert_close(preview(alpha, qs), preview(alpha, full), **SOLVED)


def test_tasks_with_factors_for_different_layers_are_solved_as_one_system():
    some = factors(1)
    b = some.pop("b.weight")[0]
    rest = {"norm": draw(101, positive=True)["norm"], "b.weight": b.diagonal().expand(3, 2)}
    q = Kronecker(draw(1), some, rest, {"a.weight": 0.1, "conv.weight": 0.1})
    H = dense(kronecker(1))
    start, stop, _ = q.layout.places["b.weight"]
    H[start:stop, start:stop] = torch.diag(rest["b.weight"].flatten())
    full = preview([0.4, 0.6], [Full(draw(0), dense(kronecker(0))), Full(draw(1), H)])
    torch.testing.assert_close(preview([0.4, 0.6], [kronecker(0), q]), full, **SOLVED)


def test_log_densities_are_those_of_the_full_posterior():
    q, rows = kronecker(2), torch.randn(4, P, dtype=torch.float64)
    full = Full(q.mean, dense(q))
    theta = Flat(q.layout, rows)
    torch.testing.assert_close(q.log_density(theta), full.log_density(theta), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(q.log_density(draw(7)), full.log_density(draw(7)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("damping", [None, {"a.weight": 0.1, "conv.weight": 7.0}])
def test_regmean_takes_one_step(damping):
    """With B = I in all tasks the weighted sum is a Kronecker product itself, and so is its preconditioner."""
    moments = [{"a.weight": gram(5, seed), "conv.weight": gram(12, seed)} for seed in range(3)]
    qs = [regmean(draw(seed), one, damping=damping) for seed, one in enumerate(moments)]
    assert modes(ALPHAS, qs).stats["iterations"].max().item() == 1


def test_iterations_and_residual_are_the_worst_layers():
    """The parameters outside the layers take one step; that must not hide a layer that needs more."""
    stats = modes([[0.5, 0.5]], [kronecker(0), kronecker(1)], max_iterations=1).stats
    assert stats["converged"].item() == 0
    assert stats["residual"].item() > 1e-6
    assert modes([[0.5, 0.5]], [kronecker(0), kronecker(1)]).stats["iterations"].item() > 1


# Claims ---------------------------------------------------------------------------------------------------------------------


def regression(seed, N):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    return X, torch.randn(N, 3, generator=generator, dtype=torch.float64)


def least_squares(tasks, weights):
    """[weight, bias] that minimises sum_t w_t sum_i |W x_i + b - y_i|^2, by rows scaled with sqrt(w_t)."""
    X = torch.cat(
        [w**0.5 * functional.pad(X, (0, 1), value=1.0) for w, (X, _) in zip(weights, tasks, strict=True)]
    )
    Y = torch.cat([w**0.5 * Y for w, (_, Y) in zip(weights, tasks, strict=True)])
    return torch.linalg.lstsq(X, Y).solution.T


def as_params(W):
    return {"weight": W[:, :-1].contiguous(), "bias": W[:, -1].contiguous()}


@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_linear_regression_is_previewed_exactly_by_regmean(convention):
    """One linear layer, squared loss: I (x) A is the Hessian itself, so every preview is the joint least-squares solution."""
    tasks = [regression(seed, N) for seed, N in ((0, 9), (1, 30), (2, 17))]
    posteriors = []
    for X, Y in tasks:
        own = as_params(least_squares([(X, Y)], [1.0]))
        model = nn.Linear(4, 3).double()
        A = input_moments(model, [X], lambda model, x: model(x))["weight"]
        moments = {"weight": A * (len(X) if convention == "sum" else 1)}
        posteriors.append(regmean(own, moments, off_diagonal=1.0))
    found = modes(ALPHAS, posteriors).params
    for row, alpha in enumerate(ALPHAS):
        per_example = [
            a / (len(X) if convention == "mean" else 1) for a, (X, _) in zip(alpha, tasks, strict=True)
        ]
        joint = as_params(least_squares(tasks, per_example))
        # one conjugate-gradient step with the exact inverse: rounding of small solves
        torch.testing.assert_close(found["weight"][row], joint["weight"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found["bias"][row], joint["bias"], rtol=1e-9, atol=1e-9)


def test_a_small_network_is_merged_as_by_its_dense_kronecker_products():
    """From data to preview: K-FAC factors of two tasks, their squared gradients for the norm, one prior for both."""

    def net(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3))

    labels = Expected(lambda model, batch: model(batch))
    data = [torch.randn(20, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    nets = [net(seed) for seed in range(2)]
    fs = [kronecker_factors(model, [X], labels) for model, X in zip(nets, data, strict=True)]
    squares, _ = damped(
        [squared_gradients(model, [X], labels).mean for model, X in zip(nets, data, strict=True)]
    )
    assert fs[0].rest == ("1.weight", "1.bias")
    delta = kronecker_damping([f.mean for f in fs], 0.1)
    qs = [
        Kronecker(dict(model.named_parameters()), f.mean, h, delta)
        for model, f, h in zip(nets, fs, squares, strict=True)
    ]
    eye = torch.eye(qs[0].layout.size, dtype=torch.float64)
    full = modes(ALPHAS_2, [Full(q.mean, q.times(eye)) for q in qs]).params.vector
    merged = modes(ALPHAS_2, qs)
    # float32 parameters, and a preconditioned residual of 1e-6
    torch.testing.assert_close(merged.params.vector.double(), full, rtol=1e-4, atol=1e-5)
    assert merged.params.vector.dtype == torch.float32


ALPHAS_2 = [[0.5, 0.5], [0.9, 0.1]]

# Damping --------------------------------------------------------------------------------------------------------------------


def test_damping_is_relative_to_each_layers_own_scale_and_common_to_the_tasks():
    one = {"w": (torch.eye(2) * 2e-9, torch.eye(3) * 1e-9), "u": (torch.eye(2), None)}
    two = {"w": (torch.eye(2) * 4e-9, torch.eye(3) * 1e-9), "u": (torch.eye(2) * 3, None)}
    delta = kronecker_damping([one, two], 0.5)
    assert delta == pytest.approx({"w": 1.5e-18, "u": 1.0}, rel=1e-6)


def test_a_layer_that_no_task_uses_gets_the_smallest_damping_of_the_others():
    unused = {"w": (torch.eye(2), torch.zeros(3, 3)), "u": (torch.eye(2), torch.eye(2))}
    assert kronecker_damping([unused], 0.1)["w"] == pytest.approx(0.1)
    mean = {"w": torch.ones(3, 2), "u": torch.ones(2, 2)}
    qs = [Kronecker(mean, unused, None, kronecker_damping([unused], 0.1)) for _ in range(2)]
    torch.testing.assert_close(preview([0.5, 0.5], qs), torch.ones(10))


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_there_is_no_absolute_floor(scale):
    def scaled(seed, by):
        some = {name: (A * by, B) for name, (A, B) in factors(seed).items()}
        h = {"norm": draw(seed + 100, positive=True)["norm"] * by}
        return Kronecker(draw(seed), some, h, dict.fromkeys(some, 0.1 * by))

    plain = preview([0.3, 0.7], [scaled(0, 1.0), scaled(1, 1.0)])
    torch.testing.assert_close(preview([0.3, 0.7], [scaled(0, scale), scaled(1, scale)]), plain, **SOLVED)


def test_regmean_shrinks_the_moments_off_the_diagonal():
    A = gram(5, 0)
    q = regmean(draw(0), {"a.weight": A}, off_diagonal=0.9)
    found = q.factors["a.weight"][0]
    torch.testing.assert_close(found.diagonal(), A.diagonal())
    torch.testing.assert_close(found[0, 1], 0.9 * A[0, 1])
    # what has no moments is averaged plainly
    other = regmean(draw(1), {"a.weight": gram(5, 1)})
    merged = modes([[0.25, 0.75]], [q, other]).params["conv.weight"][0]
    torch.testing.assert_close(merged, 0.25 * draw(0)["conv.weight"] + 0.75 * draw(1)["conv.weight"])


# Bad input ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "rest", "error", "words"),
    [
        ({"x.weight": (gram(2, 0), None)}, {}, ParamsError, "'x.weight', which is no parameter"),
        ({"norm": (gram(5, 0), None)}, {}, ParamsError, "only matrices and kernels"),
        ({"a.weight": (gram(3, 0), gram(3, 1))}, {}, ParamsError, r"factor A of 'a.weight' has shape \(3, 3\)"),
        ({"a.weight": (gram(4, 0), gram(2, 1))}, {}, ParamsError, r"factor B of 'a.weight' has shape \(2, 2\)"),
        ({"b.weight": (gram(3, 0), None)}, {}, ParamsError, r"one for a bias, but no 'b.bias' of shape \(3,\)"),
        ({"a.weight": (gram(5, 0).triu(), None)}, {}, ParamsError, "factor A of 'a.weight' is not symmetric"),
        ({"a.weight": (gram(5, 0) * math.nan, None)}, {}, NotFiniteError, "factor A of 'a.weight' holds NaN"),
        ({"a.weight": (torch.diag(torch.tensor([0.0, 1, 1, 1, 1])), None)}, {}, PrecisionError, "Pass damping"),
        ({"a.weight": (gram(5, 0), -gram(3, 0))}, {}, PrecisionError, "factor B of 'a.weight' is not positive"),
        ({}, {"norm": torch.ones(5) * math.nan}, NotFiniteError, "precision of 'norm' holds NaN"),
        ({}, {"norm": None}, ParamsError, "'norm' has neither factors nor a precision"),
        ({}, {"norm": torch.ones(4)}, ParamsError, r"precision of 'norm' has shape \(4,\); expected \(5,\)"),
        ({}, {"norm": torch.zeros(5)}, PrecisionError, "smallest precision in rest is 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change, rest, error, words):
    h = {name: value for name, value in {"norm": torch.ones(5), **rest}.items() if value is not None}
    with pytest.raises(error, match=words):
        Kronecker(draw(0), {**factors(0), **change}, h)


@pytest.mark.parametrize("rest", [torch.tensor(1.0), "1"])
def test_a_rest_that_is_no_mapping_and_no_number_is_refused(rest):
    with pytest.raises(InputError, match=r"rest is a .*; expected precisions by name, or one number"):
        Kronecker(draw(0), factors(0), rest)


def test_a_batch_of_means_is_refused():
    batch = Flat(kronecker(0).layout, torch.zeros(3, P))
    with pytest.raises(ParamsError, match=r"the mean is a batch of shape \(3,\); .* mean\.row\(i\)"):
        Kronecker(batch, factors(0), 1.0)


def test_dampings_that_make_no_sense_are_refused():
    with pytest.raises(ParamsError, match=r"damping for 'a\.wieght', which has no factors"):
        Kronecker(draw(0), factors(0), 1.0, {"a.wieght": 1.0})
    with pytest.raises(PrecisionError, match="finite and not negative"):
        Kronecker(draw(0), factors(0), 1.0, {"a.weight": -1.0})
    with pytest.raises(PrecisionError, match="no negative eigenvalues"):
        Kronecker(draw(0), {**factors(0), "b.weight": (-gram(2, 0), None)}, 1.0, {"b.weight": 1.0})
    with pytest.raises(InputError, match="relative must be above zero"):
        kronecker_damping([factors(0)], 0.0)
    with pytest.raises(InputError, match=r"differ in having factors for 'b\.weight'"):
        kronecker_damping([factors(0), {k: v for k, v in factors(1).items() if k != "b.weight"}], 1.0)
    with pytest.raises(InputError, match="factors of no task"):
        kronecker_damping([], 0.1)
    with pytest.raises(InputError, match="task 0 has factors for no layer"):
        kronecker_damping([{}], 0.1)
    for relative in (math.nan, math.inf):
        with pytest.raises(InputError, match="relative must be"):
            kronecker_damping([factors(0)], relative)
    with pytest.raises(PrecisionError, match="all layers are zero"):
        kronecker_damping([{"w": (torch.zeros(2, 2), None)}], 1.0)
    with pytest.raises(InputError, match="off_diagonal must be from 0 to 1"):
        regmean(draw(0), {}, off_diagonal=1.5)


def test_factors_of_fewer_examples_than_inputs_are_refused_without_damping():
    """Rounded to float32 some of these have no eigenvalue below zero: that is luck, and their merges are noise."""
    for seed in range(20):
        X = torch.randn(9, 10, generator=torch.Generator().manual_seed(seed))
        A = X.T @ X / 9
        for pair in ((A, None), (A, torch.eye(3)), (torch.eye(4), A)):
            with pytest.raises(PrecisionError, match=r"of 'w' is not positive definite beyond rounding"):
                Kronecker({"w": torch.zeros(10 if pair[1] is A else 3, len(pair[0]))}, {"w": pair})
        Kronecker({"w": torch.zeros(3, 10)}, {"w": (A, None)}, damping={"w": 1e-3})


def test_small_inputs_beside_large_ones_are_no_missing_curvature():
    """Rounding is relative to each entry, so that scales of 1e-6 to 1e6 are as definite as all ones."""
    scale = torch.logspace(-6, 6, 5, dtype=torch.float64)
    A = gram(5, 0) * torch.outer(scale, scale)
    q = Kronecker(draw(0), {"a.weight": (A.float(), None)}, 1.0)
    expected = 3 * torch.linalg.slogdet(gram(5, 0)).logabsdet  # the scales' logarithms add up to zero
    peak = q.log_density(draw(0)) + 0.5 * P * math.log(2 * math.pi)
    torch.testing.assert_close(2 * peak, expected, rtol=1e-5, atol=1e-5)  # A in float32


def test_damping_below_the_factors_rounding_is_refused():
    A = torch.diag(
        torch.tensor([1e6, 1.0, -0.5])
    )  # within the rounding of a trace of 1e6, but H = A + 0.1 is indefinite
    mean = {"w": torch.zeros(2, 3)}
    with pytest.raises(PrecisionError, match=r"damping of 'w' is 0\.1, .* eigenvalues of -0\.5"):
        Kronecker(mean, {"w": (A, None)}, damping={"w": 0.1})
    assert torch.isfinite(Kronecker(mean, {"w": (A, None)}, damping={"w": 0.6}).log_density(mean))


@pytest.mark.parametrize("with_b", [False, True])
def test_a_damped_prior_of_negative_weight_is_subtracted_where_the_sum_is_definite(with_b):
    def q(value, scale, damping):
        B = gram(2, 5) + torch.eye(2) if with_b else None
        mean = {"w": torch.full((2, 2), value, dtype=torch.float64)}
        return Kronecker(mean, {"w": (gram(2, 3) * scale, B)}, damping={"w": damping})

    def dense_of(q):
        return Full(q.mean, q.times(torch.eye(4, dtype=torch.float64)))

    task, prior = q(1.0, 10.0, 0.01), q(0.0, 1e-3, 1.0)
    full = preview([1.5], [dense_of(task)], dense_of(prior))
    torch.testing.assert_close(preview([1.5], [task], prior), full, **SOLVED)


def test_an_indefinite_sum_is_refused_where_the_means_agree():
    """Every mean solves the equations then, but none is a maximum."""
    mean = {"w": torch.ones(2, 2, dtype=torch.float64)}
    task = Kronecker(mean, {"w": (torch.diag(torch.tensor([10.0, 0.1])), torch.eye(2))})
    prior = Kronecker(mean, {"w": (torch.eye(2) * 1e-3, torch.eye(2))}, damping={"w": 0.31})
    with pytest.raises(PrecisionError, match="weighted sum of the precisions is not positive definite"):
        preview([1.5], [task], prior)


def test_a_prior_of_too_much_negative_weight_is_refused():
    with pytest.raises(PrecisionError, match="gamma = 1 - sum"):
        preview([1.0, 1.0], [kronecker(0), kronecker(1)], Isotropic(draw(9), 100.0))


def test_inputs_are_not_modified():
    fs, mean = factors(0), draw(0)
    kept = [matrix.clone() for pair in fs.values() for matrix in pair if matrix is not None]
    modes(ALPHAS_2, [Kronecker(mean, fs, 1.0), kronecker(1)])
    left = [matrix for pair in fs.values() for matrix in pair if matrix is not None]
    assert all(torch.equal(a, b) for a, b in zip(kept, left, strict=True))
    assert all(torch.equal(mean[name], value) for name, value in draw(0).items())
