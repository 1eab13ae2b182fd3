"""EM for mixtures (Algorithm 1) and MM for Student-t: monotone, right against scipy, and honest about what it did."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from previa import Diagonal, Flat, Full, Isotropic, Mixture, StudentT, merge, modes
from previa.core.em import _ascend, _Product
from previa.core.weighted import weighted_modes
from previa.errors import AlphaError, InputError
from toy import excess_losses


def mixture(seed: int, P: int = 6, K: int = 3, spread: float = 2.0, temperature: float = 1.0) -> Mixture:
    generator = torch.Generator().manual_seed(seed)
    parts = [
        Diagonal(
            {"w": spread * torch.randn(P, generator=generator, dtype=torch.float64)},
            {"w": torch.randn(P, generator=generator, dtype=torch.float64).exp()},
        )
        for _ in range(K)
    ]
    weights = torch.rand(K, generator=generator) + 0.1
    return Mixture(parts, weights / weights.sum(), temperature)


def objective(alpha, posteriors, theta):
    return float(sum(a * q.log_density(theta) for a, q in zip(alpha, posteriors, strict=True)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.floats(0.1, 4.0), st.sampled_from([0.5, 1.0, 10.0]))
def test_em_never_lowers_the_objective(seed, K, spread, temperature):
    posteriors = [mixture(3 * seed + t, K=K, spread=spread, temperature=temperature) for t in range(3)]
    alpha = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    product = _Product(alpha, posteriors, None)
    theta = Flat(
        product.layout, torch.randn(1, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )
    before = -np.inf
    for _ in range(15):
        F, weights, _ = product.e_step(theta, torch.arange(1))
        assert F.item() >= before - 1e-9 * abs(F.item())
        before, theta = F.item(), product.m_step(weights)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 20.0))
def test_mm_never_lowers_the_objective_of_student_t(seed, nu):
    generator = torch.Generator().manual_seed(seed)
    posteriors = [
        StudentT({"w": 3 * torch.randn(5, generator=generator).double()}, 1.0 + t, nu) for t in range(3)
    ]
    alpha = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    product = _Product(alpha, posteriors, None)
    theta = Flat(product.layout, torch.randn(1, 5, generator=generator).double())
    before = -np.inf
    for _ in range(15):
        F, weights, _ = product.e_step(theta, torch.arange(1))
        assert F.item() >= before - 1e-9 * abs(F.item())
        before, theta = F.item(), product.m_step(weights)


@pytest.mark.parametrize("kind", ["mixture", "student_t"])
def test_em_ends_where_scipy_ends_from_there(kind):
    if kind == "mixture":
        posteriors = [mixture(t) for t in range(3)]
    else:
        posteriors = [StudentT({"w": torch.randn(6).double() * 2}, 2.0, 3.0) for _ in range(3)]
    alpha = [0.2, 0.5, 0.3]
    found = modes([alpha], posteriors)
    layout = posteriors[0].layout
    assert bool(found.stats["converged"].all())
    start = found.params.vector[0]
    oracle = minimize(
        lambda x: -objective(alpha, posteriors, Flat(layout, torch.from_numpy(x))),
        start.numpy(),
        method="BFGS",
    )
    assert found.stats["objective"].item() == pytest.approx(-oracle.fun, rel=1e-7)
    np.testing.assert_allclose(start.numpy(), oracle.x, atol=1e-4)


def test_the_objective_reported_is_the_weighted_log_density():
    posteriors = [mixture(t) for t in range(3)]
    found = modes([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2]], posteriors)
    for row, alpha in enumerate([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2]]):
        expected = objective(alpha, posteriors, found.params.row(row))
        assert found.stats["objective"][row].item() == pytest.approx(expected, rel=1e-9)


def test_several_starts_are_never_worse_than_the_first():
    posteriors = [mixture(t, spread=4.0) for t in range(3)]
    alphas = torch.rand(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alphas = alphas / alphas.sum(-1, keepdim=True)
    product = _Product(alphas, posteriors, None)
    weights = torch.cat([a[:, None] * q.start() for a, q in zip(alphas.T, posteriors, strict=True)], -1)
    one = _ascend(product, product.m_step(weights), 500)
    best = modes(alphas, posteriors)
    gain = best.stats["objective"] - one["objective"]
    assert gain.min() >= -1e-9
    assert gain.max() > 1e-3  # for some weightings another start is better, and is taken
    assert set(best.stats["start"].tolist()) > {0.0}


def test_the_log_determinant_of_each_component_counts():
    """Equal distances, different precisions: the responsibility is not 1/2, as it would be without log det."""
    a = Diagonal({"w": torch.tensor([1.0, 1.0])}, 1.0)
    b = Diagonal({"w": torch.tensor([0.5, 0.5])}, 4.0)
    _, r = Mixture([a, b]).bound({"w": torch.zeros(2)})
    # distances h (theta-m)^2 are 2 and 2; log det differ by 2 log 4 / 2
    assert r[1].item() == pytest.approx(4 / 5)


def test_responsibilities_survive_a_million_parameters():
    P = 1_000_000
    near, far = Diagonal({"w": torch.zeros(P)}, 1e3), Diagonal({"w": torch.ones(P)}, 1e3)
    log_q, r = Mixture([near, far]).bound({"w": torch.full((P,), 0.2)})
    assert torch.isfinite(log_q)
    assert r.tolist() == [1.0, 0.0]


def test_a_hot_mixture_blends_where_a_cold_one_picks():
    cold, hot = mixture(0, P=200, K=3), mixture(0, P=200, K=3, temperature=1000.0)
    picked, blended = (modes([[1.0]], [q]).stats["effective_k"].item() for q in (cold, hot))
    assert picked < 1.01
    assert blended > 2.0


def test_blocks_are_a_product_of_mixtures():
    posteriors = [mixture(t) for t in range(2)]
    blocks = ((0, 2), (2, 6))
    found = modes([[0.4, 0.6]], posteriors, blocks=blocks)
    for start, stop in blocks:
        alone = modes([[0.4, 0.6]], [q.part(start, stop) for q in posteriors])
        torch.testing.assert_close(found.params.vector[:, start:stop], alone.params.vector)
    with pytest.raises(InputError, match="must tile the 6 parameters"):
        modes([[0.4, 0.6]], posteriors, blocks=((0, 2), (3, 6)))


def test_a_prior_pulls_when_alpha_sums_to_less_than_one():
    posteriors = [mixture(t) for t in range(2)]
    prior = Diagonal({"w": torch.zeros(6, dtype=torch.float64)}, 1e6)
    strong = modes([[0.25, 0.25]], posteriors, prior).params.vector
    assert strong.abs().max() < 1e-4
    with pytest.raises(AlphaError, match="prior of negative weight"):
        modes([[1.0, 1.0]], posteriors, prior)


def test_max_iterations_is_reported_as_not_converged():
    posteriors = [mixture(t, spread=0.5) for t in range(3)]
    found = modes([[0.2, 0.3, 0.5]], posteriors, max_iterations=1)
    assert found.stats["converged"].item() == 0.0


def test_em_in_float32_stops_where_its_rounding_ends():
    """Responsibilities of float32 parameters never settle to 1e-8: EM must stop when the objective no longer rises."""
    generator = torch.Generator().manual_seed(0)

    def one() -> Mixture:
        means = [torch.randn(500, generator=generator) * 0.1 for _ in range(4)]
        return Mixture([Diagonal({"w": m}, {"w": torch.rand(500, generator=generator) + 0.5}) for m in means])

    posteriors = [one() for _ in range(3)]
    alphas = torch.tensor([[0.2, 0.3, 0.5], [0.4, 0.4, 0.2], [0.6, 0.2, 0.2]])
    found = modes(alphas, posteriors)
    assert bool(found.stats["converged"].all())
    assert found.stats["iterations"].max() < 200
    wide = [
        Mixture(
            [Diagonal({"w": q.mode()["w"].double()}, {"w": q.precision["w"].double()}) for q in p.components]
        )
        for p in posteriors
    ]
    torch.testing.assert_close(
        found.stats["objective"], modes(alphas, wide).stats["objective"], rtol=1e-6, atol=1e-4
    )


def test_student_t_of_many_degrees_of_freedom_is_the_gaussian():
    generator = torch.Generator().manual_seed(0)
    means = [{"w": torch.randn(4, generator=generator).double()} for _ in range(3)]
    heavy = modes([[0.2, 0.3, 0.5]], [StudentT(m, 2.0, 1e9) for m in means]).params.vector
    light = modes([[0.2, 0.3, 0.5]], [Diagonal(m, 2.0) for m in means]).params.vector
    torch.testing.assert_close(heavy, light, rtol=1e-6, atol=1e-6)


def test_student_t_lets_a_far_task_pull_less():
    near, far = {"w": torch.zeros(3).double()}, {"w": torch.full((3,), 100.0).double()}
    close = {"w": torch.ones(3).double()}
    heavy = modes([[0.4, 0.4, 0.2]], [StudentT(m, 1.0, 2.0) for m in (near, close, far)]).params.vector
    assert heavy.abs().max() < 2.0  # the Gaussian merge is 20.4


def test_a_mixture_and_a_plain_posterior_of_its_family_merge():
    plain = Diagonal({"w": torch.zeros(6).double()}, 1.0)
    one = modes([[0.5, 0.5]], [mixture(1), plain]).params.vector
    two = modes([[0.5, 0.5]], [mixture(1), Mixture([plain])]).params.vector
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Mixture([]), "at least one component"),
        (lambda: Mixture([Isotropic({"w": torch.zeros(1)})], [0.5, 0.5]), "weights for 1 components"),
        (lambda: Mixture([Isotropic({"w": torch.zeros(1)})] * 2, [0.5, 0.6]), "sum to one"),
        (lambda: Mixture([Isotropic({"w": torch.zeros(1)})] * 2, [1.0, 0.0]), "above zero"),
        (
            lambda: Mixture([Isotropic({"w": torch.zeros(1)})], temperature=0.0),
            "temperature must be above zero",
        ),
        (lambda: StudentT({"w": torch.zeros(1)}, 1.0, nu=0.0), "nu must be finite and above zero"),
        (lambda: modes([[1.0]], []), "there are no posteriors"),
    ],
)
def test_mixtures_and_student_t_refuse_what_makes_no_density(make, words):
    with pytest.raises(InputError, match=words):
        make()


# The toy of figure 2 (METHOD 5) -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 6])
def test_on_the_papers_toy_a_mixture_previews_ten_times_better_than_averaging(seed):
    """The paper's claim in its smallest case. A Laplace posterior may be worse than averaging here, and is not tested."""
    excess = excess_losses(seed)
    assert excess["mixture"] < 0.1 * excess["simple"]


# Full precisions: many matrices, of which saturated responsibilities use few ------------------------------------------------


def full_mixture(seed: int, P: int = 5, K: int = 4, spread: float = 3.0) -> Mixture:
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for _ in range(K):
        A = torch.randn(P, 2 * P, generator=generator, dtype=torch.float64)
        mean = spread * torch.randn(P, generator=generator, dtype=torch.float64)
        parts.append(Full({"w": mean}, A @ A.T))
    return Mixture(parts, torch.rand(K, generator=generator).softmax(-1))


def test_the_density_of_full_components_is_torchs():
    q, theta = full_mixture(0), torch.randn(7, 5, dtype=torch.float64)
    found = q.stacked.log_density(Flat(q.layout, theta))
    for k, c in enumerate(q.components):
        there = torch.distributions.MultivariateNormal(c.mode().vector, precision_matrix=c.precision)
        torch.testing.assert_close(found[:, k], there.log_prob(theta))
        torch.testing.assert_close(c.log_density(Flat(q.layout, theta)), there.log_prob(theta))
        torch.testing.assert_close(q.stacked.log_density(Flat(q.layout, theta[0]))[k], found[0, k])


@pytest.mark.parametrize("spread", [0.1, 3.0])  # blended and saturated responsibilities
def test_em_of_full_mixtures_ends_where_its_own_equation_holds(spread):
    """theta = (sum w H)^-1 sum w H m with w = alpha_t r_tk(theta) (eq. 12), by the plain sums over all components."""
    posteriors = [full_mixture(t, spread=spread) for t in range(3)]
    alphas = torch.tensor([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0], [0.6, 0.1, 0.3], [0.0, 0.4, 0.6]]).double()
    found = modes(alphas, posteriors)
    assert bool(found.stats["converged"].all())
    for alpha, theta in zip(alphas, found.params.vector, strict=True):
        H, Hm = torch.zeros(5, 5).double(), torch.zeros(5).double()
        for a, q in zip(alpha, posteriors, strict=True):
            _, r = q.bound(Flat(q.layout, theta))
            for w, c in zip(a * r, q.components, strict=True):
                H += w * c.precision
                Hm += w * c.precision @ c.mode().vector
        torch.testing.assert_close(torch.linalg.solve(H, Hm), theta, rtol=1e-6, atol=1e-6)


def test_weights_of_zero_are_left_out_of_a_merge_of_full_precisions():
    """Each row against the merge of its own members alone; rows of all patterns in one call, in whatever order."""
    members = [c for t in range(3) for c in full_mixture(t).components]
    weights = torch.rand(20, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = torch.where(torch.rand(20, 12, generator=torch.Generator().manual_seed(2)) < 0.8, 0.0, weights)
    weights[:, 0] += 0.1
    found = weighted_modes(weights, members).vector
    for w, theta in zip(weights, found, strict=True):
        used = w.nonzero().flatten().tolist()
        alone = merge(w[used] / w[used].sum(), [members[k] for k in used]).mode().vector
        torch.testing.assert_close(theta, alone)
