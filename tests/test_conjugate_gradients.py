"""Conjugate gradients against direct solvers, and Gaussians known by nothing but their products."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from previa import Beta, Diagonal, Flat, Full, Isotropic, Layout, Mixture, mode_parts, modes
from previa.core.conjugate_gradients import TOLERANCE, conjugate_gradients
from previa.errors import InputError, ParamsError, PrecisionError

SHAPES = {"w": (3, 2), "b": (4,)}
P = 10


def draw(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in SHAPES.items()}


def definite(seed, n=P, condition=10.0):
    """A symmetric matrix with eigenvalues from 1 to ``condition``."""
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return Q @ torch.diag(torch.logspace(0, torch.tensor(condition).log10().item(), n).double()) @ Q.T


@dataclass
class ByProducts:
    """What a user may write: a mean, and a function for H v. The diagonal comes from H here."""

    mean: dict
    H: torch.Tensor

    @property
    def layout(self):
        return Layout.of(self.mean)

    def mode(self):
        return Flat.of(self.mean)

    def times(self, v):
        return v @ self.H

    def diagonal(self):
        return self.H.diagonal()


def family(seed):
    return ByProducts(draw(seed), definite(seed))


def jacobi(H):
    return lambda r: r / H.diagonal(dim1=-2, dim2=-1)


def rows_times(H):
    return lambda v: (H @ v.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("condition", [1.0, 10.0, 1e4])
def test_solutions_are_those_of_a_direct_solver(condition):
    H = torch.stack([definite(seed, condition=condition) for seed in range(4)])
    b = torch.randn(4, P, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    x, iterations, residual = conjugate_gradients(rows_times(H), jacobi(H), b, 200, 1e-10)
    # the error is the residual's 1e-10 of |b|, times at most the condition
    torch.testing.assert_close(x, torch.linalg.solve(H, b), rtol=0, atol=1e-10 * condition * float(b.norm()))
    assert bool((residual <= 1e-10).all())
    assert bool((iterations <= 4 * P).all())  # n steps in exact arithmetic


def test_every_row_rests_when_it_is_solved():
    """An easy row beside a hard one stops early, and neither disturbs the other."""
    H = torch.stack([torch.eye(P, dtype=torch.float64), definite(0, condition=1e4)])
    b = torch.ones(2, P, dtype=torch.float64)
    x, iterations, _ = conjugate_gradients(rows_times(H), jacobi(H), b, 200)
    alone = [conjugate_gradients(rows_times(H[i : i + 1]), jacobi(H[i : i + 1]), b[:1], 200) for i in (0, 1)]
    assert iterations[0] == 1 < iterations[1]
    for i in (0, 1):
        torch.testing.assert_close(x[i], alone[i][0][0], rtol=1e-12, atol=1e-12)
        assert iterations[i] == alone[i][1][0]


def test_a_zero_right_hand_side_is_solved_at_once():
    H = definite(0)[None]
    x, iterations, residual = conjugate_gradients(
        rows_times(H), jacobi(H), torch.zeros(1, P, dtype=torch.float64), 200
    )
    assert not x.any()
    assert iterations.item() == residual.item() == 0


def test_a_direction_without_curvature_is_refused():
    H = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))[None]
    with pytest.raises(PrecisionError, match="not positive definite"):
        conjugate_gradients(rows_times(H), lambda r: r, torch.tensor([[0.0, 1.0]]).double(), 10)


def test_an_end_before_the_solution_is_told():
    found = modes([[0.5, 0.5]], [family(0), family(1)], max_iterations=1)
    assert found.stats["converged"].item() == 0
    assert found.stats["iterations"].item() == 1
    assert found.stats["residual"].item() > TOLERANCE


# Gaussians known by their products ------------------------------------------------------------------------------------------

ALPHAS = [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.6, 0.4], [0.1, 0.1, 0.8]]
# The residual is 1e-6 of the plain average's in the norm of M^-1; errors of theta are at most some ten times that here.
SOLVED = {"rtol": 0, "atol": 1e-5}


def test_modes_are_those_of_the_full_posteriors():
    qs = [family(seed) for seed in range(3)]
    found = modes(ALPHAS, qs)
    full = modes(ALPHAS, [Full(q.mean, q.H) for q in qs])
    torch.testing.assert_close(found.params.vector, full.params.vector, **SOLVED)
    assert found.params.layout == qs[0].layout
    assert set(found.stats) == {"iterations", "converged", "residual"}
    assert bool((found.stats["converged"] == 1).all())


@pytest.mark.parametrize("t", [0, 1, 2])
def test_a_corner_returns_the_task_exactly(t):
    qs = [family(seed) for seed in range(3)]
    found = modes([[float(s == t) for s in range(3)]], qs)
    torch.testing.assert_close(found.params.vector[0], qs[t].mode().vector, rtol=0, atol=0)
    assert found.stats["iterations"].item() == 0


def test_order_scale_and_copies():
    qs = [family(seed) for seed in range(3)]
    one = modes([[0.2, 0.3, 0.5]], qs).params.vector
    torch.testing.assert_close(modes([[0.5, 0.2, 0.3]], [qs[2], qs[0], qs[1]]).params.vector, one, **SOLVED)
    torch.testing.assert_close(modes([[1.4, 2.1, 3.5]], qs).params.vector, one, rtol=0, atol=1e-9)
    copies = modes([[0.2, 0.3, 0.5]], [qs[0]] * 3).params.vector[0]
    torch.testing.assert_close(copies, qs[0].mode().vector, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prior", [Isotropic(draw(9), 0.7), Diagonal(draw(9), 0.7), family(9)])
def test_a_prior_has_the_weight_that_is_left(prior):
    qs = [family(seed) for seed in range(2)]
    H = prior.H if isinstance(prior, ByProducts) else 0.7 * torch.eye(P, dtype=torch.float64)
    full = modes([[0.3, 0.2]], [Full(q.mean, q.H) for q in qs], Full(draw(9), H)).params.vector
    torch.testing.assert_close(modes([[0.3, 0.2]], qs, prior).params.vector, full, **SOLVED)


def test_diagonal_tasks_go_beside_products():
    qs = [family(0), Diagonal(draw(1), 2.0)]
    dense = [Full(draw(0), qs[0].H), Full(draw(1), 2.0 * torch.eye(P, dtype=torch.float64))]
    full = modes([[0.4, 0.6]], dense)
    torch.testing.assert_close(modes([[0.4, 0.6]], qs).params.vector, full.params.vector, **SOLVED)


@settings(max_examples=20, deadline=None)
@given(st.floats(-15, 15))
def test_there_is_no_absolute_floor(log_scale):
    """Precisions of 1e-15 to 1e15 all over: modes depend on their ratios alone."""
    scale = 10.0**log_scale
    plain = modes([[0.3, 0.7]], [family(0), family(1)]).params.vector
    scaled = modes([[0.3, 0.7]], [ByProducts(draw(s), scale * definite(s)) for s in (0, 1)])
    torch.testing.assert_close(scaled.params.vector, plain, rtol=1e-9, atol=1e-9)


def test_float32_means_give_float32_parameters():
    qs = [ByProducts(draw(seed, torch.float32), definite(seed)) for seed in range(2)]
    found = modes([[0.3, 0.7]], qs).params.vector
    assert found.dtype == torch.float32
    wide = [ByProducts({n: v.double() for n, v in q.mean.items()}, q.H) for q in qs]
    # rounding of the result to float32
    torch.testing.assert_close(found.double(), modes([[0.3, 0.7]], wide).params.vector, rtol=1e-7, atol=1e-7)


def test_many_weightings_in_chunks_are_those_one_at_a_time(monkeypatch):
    qs = [family(seed) for seed in range(3)]
    alphas = torch.rand(7, 3, generator=torch.Generator().manual_seed(0)).double() + 0.01
    monkeypatch.setattr("previa.core.conjugate_gradients.HELD", 3 * 8 * P)
    chunked = modes(alphas, qs)
    each = torch.cat([modes(alpha[None], qs).params.vector for alpha in alphas])
    torch.testing.assert_close(chunked.params.vector, each, rtol=0, atol=1e-9)


def test_what_does_not_go_together_is_refused():
    q = family(0)
    with pytest.raises(
        InputError, match="Full cannot be merged with a posterior that is known by its products"
    ):
        modes([[0.5, 0.5]], [q, Full(q.mean, q.H)])
    with pytest.raises(InputError, match="Beta cannot be merged"):
        modes([[0.5]], [q], Beta({"w": torch.ones(3) + 1}, {"w": torch.ones(3) + 1}))
    with pytest.raises(InputError, match="mixture's components must be members of an exponential family"):
        Mixture([q, q])
    with pytest.raises(InputError, match="ByProducts has no closed form"):
        next(mode_parts([[1.0]], [q]))
    other = ByProducts({"w": torch.zeros(3, 2), "b": torch.zeros(5)}, definite(0, 11))
    with pytest.raises(ParamsError, match=r"'b' has shape \(5,\), but .* have \(4,\)"):
        modes([[0.5, 0.5]], [q, other])
    turned = ByProducts(dict(reversed(draw(1).items())), definite(1))
    with pytest.raises(ParamsError, match="another order"):
        modes([[0.5, 0.5]], [q, turned])


def test_a_prior_of_too_much_negative_weight_is_refused():
    with pytest.raises(PrecisionError, match="gamma = 1 - sum"):
        modes([[1.0, 1.0]], [family(0), family(1)], Isotropic(draw(9), 100.0))
