"""VON: exact on a Gaussian, at the optimum of the ELBO elsewhere, positive definite always, and clear about bad input."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from previa import Full
from previa.errors import InputError, NotFiniteError, ParamsError, PrecisionError
from previa.fit import derivatives as chunking
from previa.fit.derivatives import by_autograd
from previa.fit.von import stepped, von

A = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]], dtype=torch.float64)
CENTRE = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
START = {"w": torch.zeros(2), "b": torch.zeros(1)}


def gaussian(z):
    """l = (z - CENTRE)' A (z - CENTRE) / 2."""
    d = z - CENTRE
    return 0.5 * ((d @ A) * d).sum(-1), d @ A, A.expand(len(z), 3, 3)


def skewed(z):
    """l = e^x - 2x: convex, with a skewed density."""
    e = z.exp()
    return (e - 2 * z)[:, 0], e - 2, e[:, :, None]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_matrices(n, P, seed, definite):
    M = torch.randn(n, P, P, generator=seeded(seed), dtype=torch.float64)
    return M @ M.mT + 0.1 * torch.eye(P) if definite else M + M.mT


def test_a_gaussian_target_is_recovered_exactly():
    """S forgets its start as 0.9^steps, and no noise is left in m then: 400 steps leave 1e-18 of it."""
    q = von(gaussian, START, precision=10.0, steps=400, generator=seeded())
    torch.testing.assert_close(q.precision, A, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q.mode().vector, CENTRE, rtol=1e-7, atol=1e-7)
    assert q.mode()["b"].shape == (1,)


def test_it_ends_at_the_maximum_of_the_elbo():
    """The oracle maximises the ELBO by quadrature: E_q[e^x] = e^(m + v/2). 0.02 is the noise of 400 steps x 30 samples."""
    q = von(skewed, {"x": torch.zeros(1)}, precision=1.0, samples=30, steps=400, averaged=0.9, generator=seeded())  # fmt: skip
    negative = lambda x: math.exp(x[0] + math.exp(x[1]) / 2) - 2 * x[0] - x[1] / 2  # noqa: E731
    m, log_v = minimize(negative, np.zeros(2)).x
    assert q.mode()["x"].item() == pytest.approx(m, abs=0.02)
    assert q.precision.item() == pytest.approx(math.exp(-log_v), rel=0.02)


def test_one_step_is_the_equation():
    """A slow oracle: the same draws, each sample differentiated alone, inverses written out."""
    S, m, eps = 2.0 * A, 0.3 * CENTRE, torch.randn(3, 3, generator=seeded(), dtype=torch.float64)
    loss = lambda x: (0.1 * (x - CENTRE).pow(4)).sum() + x.square().sum()  # noqa: E731
    q = von(by_autograd(loss), {"w": m}, precision=S, lr=0.2, steps=1, averaged=0.0, generator=seeded())
    L = torch.linalg.cholesky(S)
    H, g = torch.zeros(3, 3).double(), torch.zeros(3).double()
    for e in eps:
        z = m + torch.linalg.inv(L).T @ e
        H += torch.autograd.functional.hessian(loss, z) / 3
        g += (torch.autograd.functional.jacobian(loss, z) + S @ (m - z)) / 3
    new = 0.8 * S + 0.2 * H
    torch.testing.assert_close(q.precision, new)
    torch.testing.assert_close(q.mode().vector, m - 0.2 * torch.linalg.inv(new) @ g)


def test_the_elbo_rises():
    seen = []
    von(skewed, {"x": torch.full((1,), 3.0)}, precision=4.0, steps=60, generator=seeded(),
        watch=lambda step, elbo: seen.append((step, elbo)))  # fmt: skip
    assert [step for step, _ in seen] == list(range(1, 61))
    elbos = [elbo for _, elbo in seen]
    assert np.mean(elbos[:5]) < np.mean(elbos[20:25]) < np.mean(elbos[-20:])


def test_averaging_the_last_steps_averages_natural_parameters():
    """lr = 1 forgets everything: the iterates are as many independent estimates, and 4 of 8 steps are kept."""
    settings = {"precision": 1.0, "lr": 1.0, "samples": 2}
    last = [von(skewed, {"x": torch.zeros(1)}, steps=n, averaged=0.0, generator=seeded(), **settings) for n in (5, 6, 7, 8)]  # fmt: skip
    mean = von(skewed, {"x": torch.zeros(1)}, steps=8, averaged=0.5, generator=seeded(), **settings)
    for found, *parts in zip(mean.natural(), *(q.natural() for q in last), strict=True):
        torch.testing.assert_close(found, torch.stack(parts).mean(0))


def test_averaging_takes_noise_away():
    """40 fits end about the optimum with less spread when their last half is averaged."""
    spread = {}
    for averaged in (0.0, 0.5):
        ends = [
            von(skewed, {"x": torch.full((1,), 0.7)}, precision=2.0, steps=30, averaged=averaged, generator=seeded(s))
            for s in range(40)
        ]  # fmt: skip
        spread[averaged] = torch.cat([q.precision.log().flatten() for q in ends]).std().item()
    assert spread[0.5] < 0.8 * spread[0.0]


@pytest.mark.parametrize("seed", range(5))
def test_a_step_keeps_half_of_every_precision(seed):
    """new - S/2 >= 0 for any symmetric direction, however large; to rounding of the largest eigenvalue."""
    S, G = random_matrices(4, 5, seed, definite=True), 30 * random_matrices(4, 5, seed + 50, definite=False)
    new, L = stepped(S, torch.linalg.cholesky(S), G, 0.5, "here")
    torch.testing.assert_close(L @ L.mT, new)
    scale = torch.linalg.eigvalsh(new).amax(-1)
    assert bool((torch.linalg.eigvalsh(new - S / 2).amin(-1) > -1e-10 * scale).all())


def test_a_step_that_loses_less_than_half_is_the_plain_one():
    S, H = random_matrices(3, 4, 0, definite=True), random_matrices(3, 4, 1, definite=True)
    new, _ = stepped(S, torch.linalg.cholesky(S), H - S, 0.3, "here")
    torch.testing.assert_close(new, 0.7 * S + 0.3 * H)


def test_only_the_matrix_that_needs_it_takes_the_safe_step():
    S = torch.eye(2, dtype=torch.float64).repeat(2, 1, 1)
    G = torch.stack([torch.eye(2), -9 * torch.eye(2)]).double()
    new, _ = stepped(S, S.clone(), G, 0.1, "here")
    torch.testing.assert_close(new[0], 1.1 * S[0])
    torch.testing.assert_close(new[1], (1 - 0.9 + 0.405) * S[1])  # 1 + x + x^2/2 at x = -0.9


def test_a_loss_that_is_not_convex_has_a_posterior():
    """Between the wells of (x^2 - 1)^2 the curvature is negative; the fit ends in one of them, or over both."""
    wells = by_autograd(lambda x: 3 * (x.square() - 1).square().sum())
    q = von(wells, {"x": torch.zeros(2)}, precision=20.0, steps=100, generator=seeded())
    assert q.precision.diagonal().min() > 0


def test_a_precision_lost_to_rounding_is_an_error():
    S = torch.diag(torch.tensor([1.0, 1e-30], dtype=torch.float64))[None]
    G = torch.full((1, 2, 2), 1e20, dtype=torch.float64)
    with pytest.raises(PrecisionError, match="von, step 3: the precision is no longer positive definite"):
        stepped(S, S.sqrt(), G, 1.0, "von, step 3")


def test_a_number_is_that_times_the_identity_and_the_start_is_left_alone():
    start = {"w": torch.ones(3)}
    matrix = 2 * torch.eye(3)
    one = von(gaussian, start, precision=2.0, generator=seeded())
    two = von(gaussian, start, precision=matrix, generator=seeded())
    assert torch.equal(one.precision, two.precision)
    assert torch.equal(one.mode().vector, two.mode().vector)
    assert torch.equal(start["w"], torch.ones(3))
    assert torch.equal(matrix, 2 * torch.eye(3))
    again = von(gaussian, start, precision=2.0, generator=seeded(1))
    assert not torch.equal(one.mode().vector, again.mode().vector)  # another seed, other draws


def test_hessians_that_do_not_fit_in_memory_together_change_nothing(monkeypatch):
    whole = von(skewed, {"x": torch.zeros(1)}, precision=1.0, samples=5, generator=seeded())
    monkeypatch.setattr(chunking, "ENTRIES", 2)
    pieces = von(skewed, {"x": torch.zeros(1)}, precision=1.0, samples=5, generator=seeded())
    torch.testing.assert_close(whole.precision, pieces.precision)
    torch.testing.assert_close(whole.mode().vector, pieces.mode().vector)


def test_it_is_a_full_gaussian_to_merge():
    q = von(gaussian, START, precision=1.0, generator=seeded())
    assert isinstance(q, Full)
    assert torch.isfinite(q.log_density(START))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"lr": 0.0}, InputError, r"von: lr is 0.0"),
        ({"lr": 1.5}, InputError, r"von: lr is 1.5"),
        ({"lr": "0.1"}, InputError, r"von: lr is '0.1'"),
        ({"generator": None}, InputError, "generator is None; expected a torch.Generator"),
        ({"start": torch.zeros(3)}, ParamsError, "found a Tensor; expected tensors by name"),
        ({"samples": 0}, InputError, "von: 0 samples and 25 steps"),
        ({"steps": 0}, InputError, "3 samples and 0 steps"),
        ({"steps": 2.5}, InputError, "2.5 steps, but it needs whole numbers"),
        ({"precision": {"x": torch.ones(3)}}, InputError, "von: precision is dict"),
        ({"averaged": 1.5}, InputError, "von: averaged is 1.5"),
        ({"precision": -1.0}, PrecisionError, "not positive definite"),
        ({"precision": torch.eye(2)}, ParamsError, r"3 parameters need \(3, 3\)"),
        ({"start": {"w": torch.full((3,), math.nan)}}, NotFiniteError, "'w' holds NaN"),
    ],
)
def test_settings_that_make_no_fit_are_refused(change, error, words):
    settings = {"start": START, "precision": 1.0, "generator": seeded(), **change}
    start = settings.pop("start")
    with pytest.raises(error, match=words):
        von(gaussian, start, **settings)


def test_a_loss_that_overflows_names_the_step():
    """A start far outside: exp(800) is infinite in float64."""
    with pytest.raises(NotFiniteError, match="von, step 1: the loss holds NaN or infinity"):
        von(skewed, {"x": torch.full((1,), 800.0)}, precision=1.0, generator=seeded())


def test_a_loss_that_curves_downwards_has_no_gaussian():
    def at(theta):
        eye = torch.eye(2, dtype=torch.float64)
        return -theta.square().sum(-1), -2 * theta, -2 * eye.expand(len(theta), 2, 2)

    start = {"w": torch.zeros(2, dtype=torch.float64)}
    with pytest.raises(PrecisionError, match="curves downwards"):
        von(at, start, precision=1.0, generator=torch.Generator().manual_seed(0))
