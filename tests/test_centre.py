"""One look from the centre: exact where losses are quadratic, corners kept, and no step that the measured loss does not bear out."""

import math
from itertools import permutations

import pytest
import torch
from torch import nn
from torch.nn import functional

from previa import Diagonal, Flat, Full, Given, Isotropic, Layout, by_autograd, modes, squared_gradients
from previa.core.anchored import anchored
from previa.core.blend import blended, mixedness
from previa.core.expansion import Expansion, promised, scale, steps
from previa.core.kronecker import Kronecker, kronecker_damping
from previa.core.low_rank_gaussian import LowRankGaussian
from previa.core.runs import Run
from previa.errors import AlphaError, InputError, NotFiniteError, ParamsError, PrecisionError
from previa.fit.centre import DAMPINGS, FAIR, from_centre
from previa.fit.gradients import gradients_by_example, mean_gradient
from previa.fit.kronecker_factors import kronecker_factors
from previa.fit.labels import Expected
from previa.study.simplex import grid, probes

LAYOUT = Layout((("a.weight", (2, 2)), ("a.bias", (2,))))
P = 6
EXACT = {"rtol": 1e-9, "atol": 1e-9}  # of float64 systems with condition numbers below 1e4


class Quadratic:
    """T tasks with losses l_t = (theta - m_t)' H_t (theta - m_t) / 2."""

    def __init__(self, T, seed=0):
        generator = torch.Generator().manual_seed(seed)
        X = torch.randn(T, P, P, generator=generator, dtype=torch.float64)
        self.H = X @ X.mT + 0.1 * torch.eye(P)
        self.m = torch.randn(T, P, generator=generator, dtype=torch.float64)
        self.T = T
        self.looked = self.measured = 0

    def look(self, c):
        self.looked += 1
        return [
            Expansion(Full(c, H), Flat(LAYOUT, H @ (c.vector - m)))
            for H, m in zip(self.H, self.m, strict=True)
        ]

    def losses(self, theta):
        self.measured += 1
        d = theta.vector - self.m
        return 0.5 * torch.einsum("tp,tpq,tq->t", d, self.H, d)

    def simple(self, alphas):
        return modes(alphas, [Isotropic(Flat(LAYOUT, m)) for m in self.m])

    def optimum(self, alphas):
        """By one dense system a weighting."""
        return torch.stack(
            [
                torch.linalg.solve(
                    sum(a * H for a, H in zip(row, self.H, strict=True)),
                    sum(a * H @ m for a, H, m in zip(row, self.H, self.m, strict=True)),
                )
                for row in alphas
            ]
        )


def simplex(T, count=4):
    return torch.from_numpy(grid(T, count))


@pytest.mark.parametrize("T", [2, 3, 5])
@pytest.mark.parametrize("recentrings", [0, 2])
def test_quadratic_losses_give_the_joint_optimum_everywhere_from_any_centre(T, recentrings):
    q = Quadratic(T)
    found = from_centre(q.simple, q.look, q.losses, probes(T), recentrings=recentrings)
    assert found.damping == 0
    torch.testing.assert_close(found.preview(simplex(T)).params.vector, q.optimum(simplex(T)), **EXACT)


@pytest.mark.parametrize("T", [2, 3, 5])
def test_a_step_is_the_mode_of_the_expansions_as_posteriors(T):
    """An expansion is a Gaussian posterior with mean c - H^-1 g: the same preview by ``modes``."""
    q = Quadratic(T)
    seen = q.look(Flat(LAYOUT, torch.ones(P, dtype=torch.float64)))
    by_steps = 1 + steps(simplex(T), seen).params.vector
    by_modes = modes(simplex(T), [e.posterior() for e in seen]).params.vector
    torch.testing.assert_close(by_steps, by_modes, **EXACT)


def test_damping_is_a_prior_at_the_centre():
    q = Quadratic(3)
    c = Flat(LAYOUT, torch.ones(P, dtype=torch.float64))
    seen, alpha = q.look(c), torch.tensor([[0.3, 0.4, 0.3]], dtype=torch.float64)
    prior = Full(c, torch.diag(scale(seen)))
    weights = torch.cat(
        [alpha, torch.full((1, 1), 0.7, dtype=torch.float64)], 1
    )  # four tasks, one of them the prior
    expected = modes(weights, [*(e.posterior() for e in seen), prior]).params.vector
    torch.testing.assert_close(1 + steps(alpha, seen, damping=0.7).params.vector, expected, **EXACT)


def families(seed=0):
    """name -> three expansions about one centre, whose dense H is known by products with unit vectors."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def gram(n):
        X = normal(n + 3, n)
        return X.T @ X / n

    c, gs = Flat(LAYOUT, normal(P)), [Flat(LAYOUT, normal(P)) for _ in range(3)]
    curvatures = {
        "full": [Full(c, gram(P)) for _ in gs],
        "diagonal": [Diagonal(c, Flat(LAYOUT, normal(P).exp())) for _ in gs],
        "kronecker": [Kronecker(c, {"a.weight": (gram(3), gram(2))}, None, {"a.weight": 0.1}) for _ in gs],
        "low rank": [LowRankGaussian(c, normal(P, 2), 0.1 * (t + 1)) for t, _ in enumerate(gs)],
        "low rank, one delta": [LowRankGaussian(c, normal(P, 2), 0.1) for _ in gs],
    }
    return {name: [Expansion(q, g) for q, g in zip(qs, gs, strict=True)] for name, qs in curvatures.items()}


FAMILIES = sorted(families())


@pytest.mark.parametrize("damping", [0.0, 0.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_steps_of_every_family_are_those_of_its_dense_matrix(family, damping):
    seen = families()[family]
    eye = torch.eye(P, dtype=torch.float64)
    dense = [Expansion(Full(e.centre, e.times(eye)), e.gradient) for e in seen]
    alphas = simplex(3)
    found, expected = (steps(alphas, some, damping=damping).params.vector for some in (seen, dense))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # conjugate gradients end at 1e-8
    torch.testing.assert_close(
        promised(alphas, seen, expected), promised(alphas, dense, expected), rtol=1e-9, atol=1e-12
    )
    for one, other in zip(seen, dense, strict=True):
        torch.testing.assert_close(one.diagonal, other.diagonal, rtol=1e-12, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_of_tasks_is_irrelevant(family):
    seen, alphas = families()[family], simplex(3)
    expected = steps(alphas, seen, damping=0.1).params.vector
    for order in permutations(range(3)):
        found = steps(alphas[:, list(order)], [seen[t] for t in order], damping=0.1).params.vector
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_what_a_step_promises_is_what_a_quadratic_loss_does():
    q = Quadratic(3)
    c, alphas = Flat(LAYOUT, torch.zeros(P, dtype=torch.float64)), simplex(3)
    seen, x = q.look(c), torch.randn(len(alphas), P, generator=torch.Generator().manual_seed(1)).double()
    falls = torch.stack(
        [a @ (q.losses(c) - q.losses(Flat(LAYOUT, row))) for a, row in zip(alphas, x, strict=True)]
    )
    torch.testing.assert_close(promised(alphas, seen, x), falls, **EXACT)


@pytest.mark.parametrize("T", [2, 3, 5])
@pytest.mark.parametrize("p", [1.0, 0.3])
def test_blended_corners_are_the_tasks_own_and_equal_weights_the_centres(T, p):
    q = Quadratic(T)
    found = from_centre(q.simple, q.look, q.losses, probes(T), recentrings=0)
    method = blended(q.simple, found.preview, p=p)
    assert torch.equal(method(torch.eye(T, dtype=torch.float64)).params.vector, q.m)
    even = torch.full((1, T), 1 / T, dtype=torch.float64)
    torch.testing.assert_close(method(even).params.vector, q.optimum(even), **EXACT)


def test_blending_commutes_with_the_order_of_tasks():
    q, order = Quadratic(3), [2, 0, 1]
    other = Quadratic(3)
    other.H, other.m = q.H[order], q.m[order]
    alphas = simplex(3)
    parts = []
    for one, at in ((q, alphas), (other, alphas[:, order])):
        found = from_centre(one.simple, one.look, one.losses, probes(3))
        parts.append(blended(one.simple, found.preview, p=0.3)(at).params.vector)
    torch.testing.assert_close(parts[1], parts[0], **EXACT)


def test_mixedness_is_0_at_corners_1_in_the_middle_and_refuses_one_task():
    assert mixedness(torch.eye(4, dtype=torch.float64)).tolist() == [0] * 4
    assert float(mixedness(torch.full((1, 4), 0.25))) == 1
    with pytest.raises(AlphaError, match="one task"):
        mixedness(torch.ones(1, 1))


def test_a_centre_with_zero_gradients_moves_nothing():
    q = Quadratic(3)
    q.m = q.m[:1].expand(3, P).contiguous()  # all tasks agree, and the merge is where they do
    found = from_centre(q.simple, q.look, q.losses, probes(3))
    assert math.isinf(found.damping)
    assert "gradient is zero" in found.reason
    assert torch.equal(found.preview(simplex(3)).params.vector, q.m[:1].expand(15, P))


def test_a_diverging_step_is_refused_and_the_centre_stays():
    """Losses that rise wherever the quadratic says they fall: the gradient has the wrong sign."""
    q = Quadratic(3)

    def wrong(c):
        return [Expansion(e.curvature, Flat(LAYOUT, -e.g)) for e in q.look(c)]

    found = from_centre(q.simple, wrong, q.losses, probes(3))
    assert math.isinf(found.damping)
    assert found.reason.startswith("no step: at no damping")
    assert len(found.tried) == len(DAMPINGS) - DAMPINGS.index(1.0)
    even = q.simple(torch.full((1, 3), 1 / 3, dtype=torch.float64)).params.vector
    assert torch.equal(found.preview(simplex(3)).params.vector, even.expand(15, P))


def test_damping_is_raised_where_curvature_is_too_small():
    """Curvature a thousandth of the true one: undamped steps are a thousand times too long, and the loss would rise."""
    q = Quadratic(3)

    def flat(c):
        return [Expansion(Full(c, 1e-3 * H), e.gradient) for H, e in zip(q.H, q.look(c), strict=True)]

    found = from_centre(q.simple, flat, q.losses, probes(3), recentrings=0)
    assert 1 < found.damping < math.inf
    taken = next(t for t in found.tried if t.damping == found.damping)
    assert taken.trusted
    assert taken.measured >= FAIR * taken.promised > 0
    assert taken.measured == max(t.measured for t in found.tried if t.trusted)


def test_losses_that_are_no_numbers_are_not_trusted():
    q = Quadratic(3)
    even = q.simple(torch.full((1, 3), 1 / 3, dtype=torch.float64)).params.vector[0]

    def nowhere(theta):
        return q.losses(theta) if torch.equal(theta.vector, even) else torch.full((3,), math.nan)

    assert math.isinf(from_centre(q.simple, q.look, nowhere, probes(3)).damping)


def test_without_curvature_in_some_direction_the_step_is_damped():
    """No task sees the last parameter; damping takes its scale from the rest of its tensor."""
    q = Quadratic(3)

    def blind(c):
        seen = []
        for e in q.look(c):
            U = torch.linalg.cholesky(torch.as_tensor(e.curvature.precision))
            U[-1], g = 0, e.g.clone()
            g[-1] = 0
            seen.append(Expansion(LowRankGaussian(c, U, 1e-12), Flat(LAYOUT, g)))
        return seen

    found = from_centre(q.simple, blind, q.losses, probes(3), recentrings=0)
    assert math.isfinite(found.damping)
    assert torch.isfinite(found.preview(simplex(3)).params.vector).all()


def test_a_walk_at_one_weighting_is_an_anchor_there():
    """Curvature twice the true one halves every step; five looks at the weighting's own centre come within 1/32 of its optimum."""
    q, alpha = Quadratic(3), (0.6, 0.4, 0.0)

    def steep(c):
        return [Expansion(Full(c, 2 * H), e.gradient) for H, e in zip(q.H, q.look(c), strict=True)]

    found = from_centre(q.simple, steep, q.losses, [alpha], recentrings=4, at=alpha)
    at = torch.tensor([alpha], dtype=torch.float64)
    start, end = q.simple(at).params.vector - q.optimum(at), found.preview(at).params.vector - q.optimum(at)
    torch.testing.assert_close(end, start / 32, **EXACT)
    assert list(found.losses) == sorted(found.losses, reverse=True)
    method = anchored(q.simple, [Run(alpha, found.preview(at).params.row(0))], p=0.3)
    torch.testing.assert_close(method(at).params.vector, found.preview(at).params.vector, **EXACT)


@pytest.mark.parametrize("recentrings", [0, 1, 2])
def test_passes_are_counted(recentrings):
    q = Quadratic(3)

    def steep(c):  # half of each step, so that there is always something left to step to
        return [Expansion(Full(c, 2 * H), e.gradient) for H, e in zip(q.H, q.look(c), strict=True)]

    found = from_centre(q.simple, steep, q.losses, probes(3), recentrings=recentrings)
    assert (found.looks, found.evaluations) == (q.looked, q.measured)
    assert found.looks == recentrings + 1 == len(found.losses)
    assert found.passes == found.looks + found.evaluations / 3


def test_recentrings_lower_a_loss_that_is_no_quadratic():
    """Sums of log cosh, whose expansions hold near their centre only."""
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(3, 10, P, generator=generator, dtype=torch.float64)
    m = 2 * torch.randn(3, P, generator=generator, dtype=torch.float64)

    def task(t):
        return lambda x: (A[t] @ (x - m[t])).cosh().log().sum()

    def look(c):
        seen = []
        for t in range(3):
            _, g, H = by_autograd(task(t))(c.vector[None])
            seen.append(Expansion(Full(c, H[0]), Flat(LAYOUT, g[0])))
        return seen

    def losses(theta):
        return torch.stack([task(t)(theta.vector) for t in range(3)])

    qs = [Isotropic(Flat(LAYOUT, row)) for row in m]
    found = from_centre(lambda a: modes(a, qs), look, losses, probes(3), recentrings=3)
    assert list(found.losses) == sorted(found.losses, reverse=True)
    assert len(set(found.losses)) == 4


# The gradients and curvature of a model, held to autograd.


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


X = torch.randn(12, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
Y = torch.arange(12) % 3


def loss(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def logits(model, batch):
    return model(batch[0])


@pytest.mark.parametrize("size", [12, 5, 1])
def test_the_mean_gradient_is_autograds_however_batches_are_cut(model, size):
    found = mean_gradient(model, zip(X.split(size), Y.split(size), strict=True), loss)
    expected = torch.autograd.grad(loss(model, (X, Y)).mean(), list(model.parameters()))
    torch.testing.assert_close(found.mean.vector, torch.cat([g.flatten() for g in expected]))
    assert found.examples == 12
    assert found.loss == pytest.approx(float(loss(model, (X, Y)).mean().detach()))
    assert list(found.mean) == [name for name, _ in model.named_parameters()]


def test_gradients_are_the_same_where_the_caller_records_none(model):
    """As inside ``live``, which points a model at a centre under no_grad."""
    expected = (
        mean_gradient(model, [(X, Y)], loss).mean.vector,
        gradients_by_example(model, [(X, Y)], Given(loss)),
    )
    with torch.no_grad():
        found = (
            mean_gradient(model, [(X, Y)], loss).mean.vector,
            gradients_by_example(model, [(X, Y)], Given(loss)),
        )
    assert expected[0].abs().max() > 0
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_gradients_by_example_have_the_squares_of_squared_gradients(model):
    for labels in (Given(loss), Expected(logits)):
        U = gradients_by_example(model, [(X, Y)], labels)
        h = squared_gradients(model, [(X, Y)], labels).mean.vector
        torch.testing.assert_close(U.square().sum(1).float(), h.float(), rtol=1e-6, atol=1e-9)
        assert U.shape == (len(h), 12 if labels.mode == "given" else 36)


def test_expected_gradients_are_the_gauss_newton_matrix(model):
    """J' (diag p - p p') J by the Jacobian of the logits."""
    U = gradients_by_example(model, [(X, Y)], Expected(logits))
    params = dict(model.named_parameters())

    def outputs(*values):
        return torch.func.functional_call(model, dict(zip(params, values, strict=True)), (X,))

    J = torch.cat(
        [j.flatten(2) for j in torch.autograd.functional.jacobian(outputs, tuple(params.values()))], 2
    )
    p = model(X).softmax(1).detach()
    S = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    torch.testing.assert_close(U @ U.T, torch.einsum("ncp,ncd,ndq->pq", J, S, J) / 12)


def test_the_model_is_left_as_it_was(model):
    before = {name: p.clone() for name, p in model.named_parameters()}
    mean_gradient(model, [(X, Y)], loss)
    gradients_by_example(model, [(X, Y)], Given(loss))
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())


def test_a_look_at_a_model_by_kronecker_blocks_lowers_its_joint_loss(model):
    """The whole way on a small network: three tasks, one class each, from a merge of their gradient descents."""
    tasks = [(X[t::3], Y[t::3]) for t in range(3)]
    layout = Layout.of(dict(model.named_parameters()))
    start = Flat.of({name: p.detach().clone() for name, p in model.named_parameters()})

    def place(vector):
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(Flat(layout, vector)[name])

    def losses(theta):
        place(theta.vector)
        return torch.stack([loss(model, task).mean().detach() for task in tasks])

    def look(c):
        place(c.vector)
        gradients = [mean_gradient(model, [task], loss).mean for task in tasks]
        factors = [kronecker_factors(model, [task], Expected(logits)).mean for task in tasks]
        delta = kronecker_damping(factors, 1e-3)
        return [
            Expansion(Kronecker(c, one, None, delta), g) for one, g in zip(factors, gradients, strict=True)
        ]

    own = []
    for task in tasks:
        theta = start.vector.clone()
        for _ in range(20):
            place(theta)
            theta = theta - 0.3 * mean_gradient(model, [task], loss).mean.vector
        own.append(Isotropic(Flat(layout, theta)))

    def simple(alphas):
        return modes(alphas, own)

    found = from_centre(simple, look, losses, probes(3), recentrings=1)
    assert math.isfinite(found.damping)
    assert found.losses[1] < found.losses[0]
    at = torch.from_numpy(probes(3))
    joint = [
        float((at * torch.stack([losses(Flat(layout, v)) for v in method(at).params.vector])).sum(1).mean())
        for method in (simple, blended(simple, found.preview, p=0.5))
    ]
    assert joint[1] < 0.9 * joint[0]


# What is refused.


def test_what_is_no_expansion_is_refused():
    q = Quadratic(2)
    c = Flat(LAYOUT, torch.zeros(P, dtype=torch.float64))
    seen = q.look(c)
    with pytest.raises(InputError, match="curvature is a Isotropic"):
        Expansion(Isotropic(c), c)
    with pytest.raises(ParamsError, match=r"gradient: tensor 'a\.bias' is missing"):
        Expansion(seen[0].curvature, {"a.weight": torch.zeros(2, 2)})
    with pytest.raises(InputError, match="there are none"):
        steps([1.0], [])
    with pytest.raises(InputError, match="task 1 is a Diagonal, but that of task 0 is a Full"):
        steps([0.5, 0.5], [seen[0], Expansion(Diagonal(c, 1.0), c)])
    with pytest.raises(InputError, match="about another model"):
        steps([0.5, 0.5], [seen[0], q.look(Flat(LAYOUT, torch.ones(P).double()))[1]])
    with pytest.raises(InputError, match="damping is -1"):
        steps([0.5, 0.5], seen, damping=-1.0)
    with pytest.raises(InputError, match="known by its products"):
        families()["kronecker"][0].posterior()


def test_a_search_that_cannot_be_made_is_refused():
    q = Quadratic(3)
    with pytest.raises(InputError, match="recentrings is -1"):
        from_centre(q.simple, q.look, q.losses, probes(3), recentrings=-1)
    with pytest.raises(AlphaError, match="3 tasks need"):
        from_centre(q.simple, q.look, q.losses, probes(3), at=(0.5, 0.5))
    with pytest.raises(InputError, match="2 expansions, but there are 3 tasks"):
        from_centre(q.simple, lambda c: q.look(c)[:2], q.losses, probes(3))
    with pytest.raises(InputError, match=r"shape \(2,\); expected \(3,\)"):
        from_centre(q.simple, q.look, lambda theta: q.losses(theta)[:2], probes(3))
    elsewhere = Flat(LAYOUT, torch.ones(P, dtype=torch.float64))
    with pytest.raises(InputError, match="at other parameters than it was given"):
        from_centre(q.simple, lambda c: q.look(elsewhere), q.losses, probes(3))


def test_low_rank_precisions_that_are_none_are_refused():
    c = Flat(LAYOUT, torch.zeros(P, dtype=torch.float64))
    with pytest.raises(PrecisionError, match="delta is 0"):
        LowRankGaussian(c, torch.zeros(P, 2), 0.0)
    with pytest.raises(ParamsError, match=r"expected \(6, r\)"):
        LowRankGaussian(c, torch.zeros(5, 2), 1.0)
    with pytest.raises(NotFiniteError, match="NaN"):
        LowRankGaussian(c, torch.full((P, 2), math.nan), 1.0)


def test_low_rank_gaussians_merge_and_have_densities_as_their_dense_matrices():
    generator = torch.Generator().manual_seed(3)
    qs = [
        LowRankGaussian(
            Flat(LAYOUT, torch.randn(P, generator=generator).double()),
            torch.randn(P, 2, generator=generator).double(),
            0.5,
        )
        for _ in range(3)
    ]
    dense = [Full(q.mode(), q.times(torch.eye(P, dtype=torch.float64))) for q in qs]
    found, expected = (modes(simplex(3), some).params for some in (qs, dense))
    torch.testing.assert_close(found.vector, expected.vector, rtol=1e-6, atol=1e-6)
    for one, other in zip(qs, dense, strict=True):
        torch.testing.assert_close(one.log_density(found), other.log_density(found), **EXACT)


def test_gradients_without_examples_or_that_are_no_numbers_are_refused(model):
    with pytest.raises(InputError, match="no examples"):
        mean_gradient(model, [], loss)
    with pytest.raises(InputError, match="no examples"):
        gradients_by_example(model, [], Given(loss))
    with pytest.raises(NotFiniteError, match="batch 0"):
        mean_gradient(model, [(X * math.nan, Y)], loss)
    with pytest.raises(InputError, match="in training mode"):
        mean_gradient(nn.Sequential(model, nn.Dropout()).train(), [(X, Y)], loss)
