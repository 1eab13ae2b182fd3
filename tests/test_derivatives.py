"""Derivatives of a loss for variational fits: autograd against a formula, a few samples at a time, and bad ones refused."""

import pytest
import torch

from previa.errors import InputError, NotFiniteError, ParamsError
from previa.fit import derivatives as module
from previa.fit.derivatives import by_autograd, chunks, evaluated
from toy import derivatives, draw_losses

THETA = torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_autograd_agrees_with_the_formula_of_the_toy():
    """A wrong sign or a missing outer product in either would show; 1e-10 is rounding of sums of ten terms."""
    for a, b in zip(*draw_losses(2), strict=True):
        A, c = torch.from_numpy(a), torch.from_numpy(b)
        for found, expected in zip(
            by_autograd(lambda x, A=A, c=c: (A @ x + c).logsumexp(0))(THETA),
            derivatives(a, b)(THETA),
            strict=True,
        ):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_no_graph_is_kept_for_parameters_inside_the_loss():
    inside = torch.ones(2, dtype=torch.float64, requires_grad=True)
    for part in by_autograd(lambda x: (x * inside).pow(4).sum())(THETA):
        assert not part.requires_grad


def test_a_few_samples_at_a_time_are_all_samples(monkeypatch):
    quartic = by_autograd(lambda x: x.pow(4).sum() + x[0] * x[1])
    whole = quartic(THETA)
    monkeypatch.setattr(module, "ENTRIES", 3 * 4)
    pieces = list(evaluated(quartic, THETA, "here"))
    assert [rows for rows, *_ in pieces] == [slice(0, 3), slice(3, 6), slice(6, 7)]
    for number, expected in enumerate(whole):
        torch.testing.assert_close(torch.cat([piece[1 + number] for piece in pieces]), expected)


def test_a_matrix_larger_than_the_memory_asked_for_still_goes_one_by_one():
    assert list(chunks(2, 1 << 20)) == [slice(0, 1), slice(1, 2)]
    assert list(chunks(0, 10)) == []


@pytest.mark.parametrize(
    ("loss", "gradient", "hessian", "words"),
    [
        ((), (7, 2), (7, 2, 2), r"here: the loss has shape \(\), but 7 samples of 2 parameters need \(7,\)"),
        ((7,), (2,), (7, 2, 2), r"here: the gradient has shape \(2,\)"),
        ((7,), (7, 2), (2, 2), r"here: the Hessian has shape \(2, 2\)"),
    ],
)
def test_wrong_shapes_are_refused(loss, gradient, hessian, words):
    def wrong(_):
        return torch.zeros(loss), torch.zeros(gradient), torch.zeros(hessian)

    with pytest.raises(ParamsError, match=words):
        list(evaluated(wrong, THETA, "here"))


@pytest.mark.parametrize("which", range(3))
def test_what_is_not_finite_is_refused_and_says_where(which):
    def broken(theta):
        parts = [torch.zeros(7), torch.zeros(7, 2), torch.zeros(7, 2, 2)]
        parts[which].view(-1)[3] = float("nan")
        return tuple(parts)

    name = ("loss", "gradient", "Hessian")[which]
    with pytest.raises(NotFiniteError, match=f"von, step 4: the {name} holds NaN"):
        list(evaluated(broken, THETA, "von, step 4"))


def test_two_parts_instead_of_three_are_refused():
    with pytest.raises(ParamsError, match="here: the derivatives returned tuple of length 2"):
        list(evaluated(lambda _: (torch.zeros(7), torch.zeros(7, 2)), THETA, "here"))


@pytest.mark.parametrize(
    ("returned", "said"), [(None, "returned NoneType"), ((1.0, 2.0, 3.0), "the loss is float")]
)
def test_what_is_no_tensor_is_named(returned, said):
    with pytest.raises(ParamsError, match=said):
        list(evaluated(lambda _: returned, THETA, "here"))


@pytest.mark.parametrize(
    "loss",
    [lambda theta: (torch.ones(3, 2) @ theta).sum(), lambda theta: theta.square().sum(0, keepdim=True)],
    ids=["float32 data", "shape [1]"],
)
def test_a_loss_that_torch_cannot_differentiate_is_refused_in_a_sentence(loss):
    with pytest.raises(InputError, match=r"by_autograd: the loss cannot be differentiated: .*float64"):
        by_autograd(loss)(THETA)
