"""Mixtures of full Gaussians by natural gradients: an oracle by autograd, targets with known answers, and the paper's claim."""

import math

import numpy as np
import pytest
import torch

from previa import Diagonal, Flat, Full, Mixture
from previa.errors import InputError, NotFiniteError, ParamsError
from previa.fit import derivatives as chunking
from previa.fit.derivatives import by_autograd
from previa.fit.mixture_vi import mixture_vi, scattered
from previa.fit.von import von
from toy import Toy, derivatives, laplace

A = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
CENTRE = torch.tensor([1.0, -2.0], dtype=torch.float64)
LOG_Z = math.log(2 * math.pi) - 0.5 * math.log(5.0)  # of exp(-l) for the Gaussian l, det A = 5


def gaussian(z):
    """l = (z - CENTRE)' A (z - CENTRE) / 2."""
    d = z - CENTRE
    return 0.5 * ((d @ A) * d).sum(-1), d @ A, A.expand(len(z), 2, 2)


def two_humps(z):
    """-log of 0.3 N(-3, 1) + 0.7 N(3, 1/4)."""
    d = z - torch.tensor([-3.0, 3.0]).double()
    h = torch.tensor([1.0, 4.0]).double()
    log_p = torch.tensor([0.3, 1.4]).double().log() - 0.5 * math.log(2 * math.pi) - 0.5 * h * d.square()
    r = log_p.softmax(-1)
    g = (r * h * d).sum(-1, keepdim=True)
    hess = (r * (h - (h * d).square())).sum(-1, keepdim=True) + g.square()
    return -log_p.logsumexp(-1), g, hess[:, :, None]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def components(K, P, seed=0, spread=2.0):
    """K random Gaussians whose tensors have names and shapes."""
    random = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    generator, made = seeded(seed), []
    for _ in range(K):
        M = random(P, P)
        made.append(Full({"w": spread * random(P - 1), "b": random(1)}, M @ M.T + torch.eye(P)))
    return made


def one_step_by_autograd(loss, starts, *, lr, lr_weights, samples, seed):
    """METHOD 3 written out for pi = 1/K: h = log q + l differentiated by autograd, a sample and a component at a time."""
    K, P = len(starts), starts[0].layout.size
    q = Mixture(starts)
    density = lambda posterior, x: posterior.log_density(Flat(q.layout, x))  # noqa: E731
    h = lambda x: density(q, x) + loss(x)  # noqa: E731
    generator = seeded(seed)
    u = (float(torch.rand((), generator=generator, dtype=torch.float64)) + (math.sqrt(5) - 1) / 2) % 1
    eps = torch.randn(samples, P, generator=generator, dtype=torch.float64)
    z = []
    for s in range(samples):
        start = starts[min(K - 1, int((u + s) * K / samples))]
        z.append(start.mode().vector + torch.linalg.inv(torch.linalg.cholesky(start.precision)).T @ eps[s])
    precision, mu, logits = [], [], []
    for q_c in starts:
        delta = [float((density(q_c, x) - density(q, x)).exp()) / samples for x in z]
        hess = sum(d * torch.autograd.functional.hessian(h, x) for d, x in zip(delta, z, strict=True))
        gradient = sum(d * torch.autograd.functional.jacobian(h, x) for d, x in zip(delta, z, strict=True))
        precision.append(q_c.precision + lr * hess)
        mu.append(q_c.mode().vector - lr * torch.linalg.inv(precision[-1]) @ gradient)
        mean = (
            sum(float(h(x)) for x in z) / samples
        )  # h counts from it: E[delta_c] = 1 holds in expectation only
        logits.append(-lr_weights * sum(d * (float(h(x)) - mean) for d, x in zip(delta, z, strict=True)))
    return torch.stack(precision), torch.stack(mu), torch.tensor(logits, dtype=torch.float64).softmax(0)


@pytest.mark.parametrize(("K", "samples"), [(1, 1), (3, 6), (4, 3)])
def test_one_step_is_the_equation(K, samples):
    """The quartic term gives every sample a Hessian of its own; lr is small enough that no precision halves."""
    loss = lambda x: 0.5 * x.square().sum() + 0.1 * x.pow(4).sum() + x[0] * x[1] * x[2]  # noqa: E731
    starts, settings = components(K, 3), {"lr": 0.01, "lr_weights": 0.05, "samples": samples}
    fit = mixture_vi(by_autograd(loss), starts, steps=1, generator=seeded(5), **settings)
    precision, mu, pi = one_step_by_autograd(loss, starts, seed=5, **settings)
    torch.testing.assert_close(torch.stack([q.precision for q in fit.components]), precision)
    torch.testing.assert_close(torch.stack([q.mode().vector for q in fit.components]), mu)
    torch.testing.assert_close(fit.weights, pi)


@pytest.mark.parametrize("seed", range(20))
def test_no_component_is_left_as_it_started(seed):
    """The paper's 25 steps of 3 samples for 20 components: at random, one of them would be left out in one of three runs."""
    starts = [
        Full({"x": CENTRE + 1e3 * k}, A) for k in range(20)
    ]  # they do not overlap: only a component's own samples move it
    fit = mixture_vi(gaussian, starts, lr=0.02, lr_weights=0, samples=3, steps=25, generator=seeded(seed))
    moved = [
        float((q.mode().vector - s.mode().vector).norm())
        for q, s in zip(fit.components[1:], starts[1:], strict=True)
    ]
    assert min(moved) > 0


def test_weights_move_towards_the_components_of_small_h():
    """Equal components but for where they lie: the expected h decides, by lr_weights times its difference."""
    far = torch.tensor([4.0, 1.0], dtype=torch.float64)
    starts = [Full({"x": CENTRE}, A), Full({"x": CENTRE + far}, A)]
    fit = mixture_vi(gaussian, starts, lr=1e-9, lr_weights=0.1, samples=2000, steps=1, generator=seeded())
    found = float((fit.weights[1] / fit.weights[0]).log())
    # They do not overlap, so log q has the same mean at both, and E_c[l] differs by far' A far / 2
    assert found == pytest.approx(-0.1 * float(far @ A @ far) / 2, rel=0.05)


def test_one_component_is_von():
    """With the same draws, step for step; the mixture draws one number more a step, for its choice of components."""
    loss = by_autograd(lambda x: 0.5 * x.square().sum() + 0.1 * x.pow(4).sum())
    gaussians = [components(1, 3)[0]] * 2
    for step in range(5):
        one, two = seeded(step), seeded(step)
        torch.rand((), generator=one, dtype=torch.float64)
        start = gaussians[0].mode()
        gaussians = [
            von(loss, start, precision=gaussians[0].precision, lr=0.3, steps=1, averaged=0.0, generator=one),
            mixture_vi(loss, [gaussians[1]], lr=0.3, steps=1, generator=two).components[0],
        ]
        torch.testing.assert_close(gaussians[0].precision, gaussians[1].precision)
        torch.testing.assert_close(gaussians[0].mode().vector, gaussians[1].mode().vector)


def test_a_gaussian_target_is_recovered_exactly_by_one_component():
    start = Full({"x": torch.zeros(2)}, 10 * torch.eye(2))
    q = mixture_vi(gaussian, [start], lr=0.1, steps=400, generator=seeded())
    torch.testing.assert_close(q.components[0].precision, A, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q.mode().vector, CENTRE, rtol=1e-7, atol=1e-7)
    assert q.weights.tolist() == [1.0]


def test_a_gaussian_target_is_covered_by_many_components():
    """Any split of a Gaussian is a minimum of KL, so the density is compared: E_p[log p - log q] by 2000 draws of p."""
    starts = scattered(Full({"x": torch.zeros(2)}, A), 4, spread=1.5, generator=seeded())
    q = mixture_vi(gaussian, starts, lr=0.1, lr_weights=0.02, samples=8, steps=400, generator=seeded(1))
    z = (
        CENTRE
        + torch.linalg.solve(
            torch.linalg.cholesky(A).T, torch.randn(2, 2000, generator=seeded()).double()
        ).T.contiguous()
    )
    theta = Flat(q.layout, z)
    gap = Full({"x": CENTRE}, A).log_density(theta) - q.log_density(theta)
    assert abs(gap.mean().item()) < 0.01


def divergence_1d(q):
    """KL(q || p) by quadrature for `two_humps`, whose Z is 1."""
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    log_q = q.log_density(Flat(q.layout, x))
    return float((log_q.exp() * (log_q + two_humps(x)[0])).sum() * 24 / 4000)


def test_two_humps_need_two_components():
    """The answer is known: the target itself, KL = 0, where one Gaussian has 0.36 (log 1/0.7) in the better hump."""
    starts = [Full({"x": torch.tensor([x])}, torch.tensor([[0.2]])) for x in (-1.0, 1.0)]
    q = mixture_vi(two_humps, starts, lr=0.1, lr_weights=0.05, samples=10, steps=400, generator=seeded())
    assert divergence_1d(q) < 0.01
    order = np.argsort([c.mode().vector.item() for c in q.components])
    assert [q.components[i].mode().vector.item() for i in order] == pytest.approx([-3.0, 3.0], abs=0.1)
    assert [q.components[i].precision.item() for i in order] == pytest.approx([1.0, 4.0], rel=0.1)
    assert q.weights[order[0]].item() == pytest.approx(0.3, abs=0.05)
    one = von(
        two_humps,
        {"x": torch.full((1,), 3.0)},
        precision=1.0,
        samples=20,
        steps=100,
        generator=seeded(),
    )
    assert divergence_1d(one) > 0.3


def test_the_elbo_rises_to_log_z():
    seen = []
    starts = scattered(Full({"x": torch.zeros(2)}, 4 * A), 3, spread=2.0, generator=seeded())
    mixture_vi(gaussian, starts, lr=0.1, lr_weights=0.02, samples=6, steps=300, generator=seeded(),
               watch=lambda step, elbo: seen.append((step, elbo)))  # fmt: skip
    assert [step for step, _ in seen] == list(range(1, 301))
    elbos = np.array([elbo for _, elbo in seen])
    assert elbos[:10].mean() < elbos[20:40].mean() < LOG_Z
    assert elbos[-100:].mean() == pytest.approx(LOG_Z, abs=0.02)


def test_precisions_stay_positive_definite_where_the_loss_is_not_convex():
    """Full checks every component's precision; large steps of few samples are the hardest."""
    wells = by_autograd(lambda x: 3 * (x.square() - 1).square().sum())
    starts = scattered(Full({"x": torch.zeros(2)}, torch.eye(2)), 6, spread=1.0, generator=seeded())
    q = mixture_vi(wells, starts, lr=0.16, lr_weights=0.1, samples=1, steps=300, generator=seeded())
    assert all(torch.isfinite(c.mode().vector).all() for c in q.components)
    assert max(c.mode().vector.abs().max().item() for c in q.components) < 5


def test_a_component_of_no_weight_neither_flies_away_nor_spoils_the_others():
    """With z ~ q its step would grow as 1/pi. Its h is some 1e3 above the others': lr_weights 1 leaves it exp(-1000) = 0."""
    starts = [Full({"x": torch.full((2,), x)}, torch.eye(2)) for x in (0.0, 1.0, 40.0)]
    q = mixture_vi(gaussian, starts, lr=0.1, lr_weights=1.0, samples=3, steps=1, generator=seeded())
    assert len(q.components) == 2  # what has underflowed is no component
    q = mixture_vi(gaussian, starts, lr=0.1, lr_weights=1.0, samples=3, steps=200, generator=seeded())
    assert max(c.mode().vector.abs().max().item() for c in q.components) < 10


def test_components_without_a_sample_stay_where_they_are():
    starts = [Full({"x": torch.full((30,), x)}, torch.eye(30)) for x in (-50.0, 0.0, 50.0)]
    steep = by_autograd(lambda x: 2 * x.square().sum())
    q = mixture_vi(steep, starts, lr=0.1, samples=1, steps=1, generator=seeded())
    moved = [not torch.equal(c.mode().vector, s.mode().vector) for c, s in zip(q.components, starts, strict=True)]  # fmt: skip
    assert sum(moved) == 1


def test_it_is_reproducible_and_leaves_its_input_alone(monkeypatch):
    starts = components(3, 3)
    before = [(c.precision.clone(), c.mode().vector.clone()) for c in starts]
    loss = by_autograd(lambda x: 0.5 * x.square().sum())
    fit = lambda seed: mixture_vi(loss, starts, samples=6, steps=5, generator=seeded(seed))  # noqa: E731
    one, two, other = fit(0), fit(0), fit(1)
    monkeypatch.setattr(chunking, "ENTRIES", 9)  # one matrix at a time
    pieces = fit(0)
    for a, b, c, d in zip(one.components, two.components, other.components, pieces.components, strict=True):
        assert torch.equal(a.precision, b.precision)
        assert not torch.equal(a.precision, c.precision)
        torch.testing.assert_close(a.precision, d.precision)
        torch.testing.assert_close(a.mode().vector, d.mode().vector)
    for c, (precision, mean) in zip(starts, before, strict=True):
        assert torch.equal(c.precision, precision)
        assert torch.equal(c.mode().vector, mean)


def test_scattered_components_have_the_spread_and_the_precision_asked_for():
    q = Full({"x": CENTRE}, A)
    made = scattered(q, 4000, spread=2.0, generator=seeded())
    means = torch.stack([c.mode().vector for c in made])
    torch.testing.assert_close(means.mean(0), CENTRE, atol=0.1, rtol=0)  # 2 sd/sqrt(4000) is 0.03
    torch.testing.assert_close(torch.cov(means.T), 4 * torch.linalg.inv(A), atol=0.15, rtol=0)
    assert all(torch.equal(c.precision, A) for c in made)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"starts": []}, InputError, "at least one component"),
        ({"starts": Full({"w": torch.zeros(2)}, A)}, InputError, "starts is a Full; expected a list"),
        ({"starts": [{"w": torch.zeros(2)}]}, InputError, "component 0 is dict"),
        ({"lr_weights": -1.0}, InputError, "lr_weights is -1.0"),
        ({"lr": 2.0}, InputError, "mixture_vi: lr is 2.0"),
        ({"samples": 0}, InputError, "0 samples"),
        ({"lr": 0.9}, InputError, r"0.9 x 2 components / 1 samples .*: lower lr to 0.5"),
        (
            {"lr": 0.7, "samples": 2, "starts": [Full({"w": torch.zeros(2)}, A)] * 3},
            InputError,
            "lower lr to 0.66 ",
        ),
        ({"starts": [Diagonal({"w": torch.zeros(2)}, 1.0)]}, InputError, "component 0 is Diagonal"),
        (
            {"starts": [Full({"w": torch.zeros(2)}, A), Full({"v": torch.zeros(2)}, A)]},
            ParamsError,
            "component 1: tensor 'w' is missing",
        ),
        (
            {
                "starts": [
                    Full({"w": torch.zeros(1), "b": torch.zeros(1)}, A),
                    Full({"b": torch.zeros(1), "w": torch.zeros(1)}, A),
                ]
            },
            ParamsError,
            "component 1 has its tensors in another order",
        ),
    ],
)
def test_what_makes_no_fit_is_refused(change, error, words):
    settings = {"starts": [Full({"w": torch.zeros(2)}, A)] * 2, "samples": 1, **change}
    with pytest.raises(error, match=words):
        mixture_vi(gaussian, settings.pop("starts"), generator=seeded(), **settings)


def test_what_cannot_be_scattered_is_refused():
    q = Full({"x": CENTRE}, A)
    for wrong, number in ((q, -1), (q, 0), (q, 2.0), (Diagonal({"x": CENTRE}, 1.0), 2)):
        with pytest.raises(InputError, match="expected a Full Gaussian and a whole number"):
            scattered(wrong, number, generator=seeded())


def test_a_loss_that_breaks_down_names_the_step():
    calls = []

    def breaking(theta):
        calls.append(None)
        loss, g, H = gaussian(theta)
        return loss, g / (len(calls) < 4), H

    with pytest.raises(NotFiniteError, match="mixture_vi, step 4: the gradient holds NaN or infinity"):
        mixture_vi(breaking, [Full({"w": torch.zeros(2)}, A)], generator=seeded())


@pytest.mark.parametrize("seed", [2, 6])
def test_on_the_papers_toy_the_mixture_previews_ten_times_better_than_averaging(seed):
    """Figure 2's claim with the paper's own algorithms, in fewer steps than the experiment takes."""
    toy, mixtures = Toy(seed), []
    for t in range(3):
        generator = seeded(10 * seed + t)
        starts = scattered(laplace(toy.a[t], toy.b[t]), 10, spread=1.5, generator=generator)
        mixtures.append(
            mixture_vi(derivatives(toy.a[t], toy.b[t]), starts, lr=0.1, samples=10, steps=150, generator=generator)
        )  # fmt: skip
    assert toy.excess(mixtures) < 0.1 * toy.excess(toy.simple())


def test_a_mixture_needs_a_generator():
    q = Full({"w": torch.zeros(2, dtype=torch.float64)}, 1.0)
    with pytest.raises(InputError, match=r"generator is None; expected a torch.Generator"):
        mixture_vi(by_autograd(lambda theta: theta.square().sum()), [q], generator=None)
