"""What no family and no mixture can be made of is said in a sentence, not found out as NaN or as an AttributeError."""

import math

import numpy as np
import pytest
import torch

from previa import Beta, Diagonal, Full, Isotropic, Mixture, StudentT, modes
from previa.core.params import Flat, Layout
from previa.errors import AlphaError, InputError, ParamsError

MEAN = {"w": torch.tensor([1.0, -2.0])}


@pytest.mark.parametrize("two", [2.0, 2 * np.eye(2), [[2.0, 0.0], [0.0, 2.0]], torch.tensor(2.0)])
def test_a_number_and_an_array_serve_as_precision(two):
    made, plain = Full(MEAN, two), Full(MEAN, 2 * torch.eye(2, dtype=torch.float64))
    assert torch.equal(made.natural()[0], plain.natural()[0])
    assert torch.equal(made.log_density({"w": torch.zeros(2)}), plain.log_density({"w": torch.zeros(2)}))


@pytest.mark.parametrize("wrong", [{"w": torch.ones(2)}, "much", None])
def test_anything_else_is_no_precision(wrong):
    with pytest.raises(ParamsError, match="expected a matrix"):
        Full(MEAN, wrong)


def test_a_matrix_that_is_not_symmetric_is_refused_and_rounding_is_not():
    with pytest.raises(ParamsError, match="not symmetric: two opposite entries differ by 10"):
        Full(MEAN, torch.tensor([[1.0, 5.0], [-5.0, 1.0]]))
    H = torch.tensor([[2.0, 1.0], [1.0 + 1e-7, 2.0]], dtype=torch.float64)
    assert torch.equal(Full(MEAN, H).precision, Full(MEAN, H.T.contiguous()).precision)


@pytest.mark.parametrize("weights", [[math.nan, 0.5], [math.inf, 0.5], [0.5, 0.6], [1.0, 0.0]])
def test_weights_must_be_a_distribution(weights):
    q = Isotropic(MEAN)
    with pytest.raises(AlphaError, match="above zero and sum to one"):
        Mixture([q, q], weights)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_is_positive_and_finite(temperature):
    with pytest.raises(InputError, match="above zero and finite"):
        Mixture([Isotropic(MEAN)], temperature=temperature)


def test_components_are_alike_and_single():
    diagonal, full = Diagonal(MEAN, 1.0), Full(MEAN, 1.0)
    with pytest.raises(InputError, match="component 1 is Full, but component 0 is Diagonal"):
        Mixture([diagonal, full])
    with pytest.raises(ParamsError, match="component 1"):
        Mixture([diagonal, Diagonal({"w": torch.zeros(3)}, 1.0)])
    batch = Isotropic(Flat(Layout((("w", (2,)),)), torch.zeros(3, 2)))
    with pytest.raises(InputError, match="component 0 is a batch of shape"):
        Mixture([batch])
    for wrong in (diagonal, "ab", 3):
        with pytest.raises(InputError, match=r"(expected a list|members of an exponential)"):
            Mixture(wrong)
    for weights, temperature in (("ab", 1.0), (None, "hot")):
        with pytest.raises(InputError, match="must be numbers"):
            Mixture([diagonal, diagonal], weights, temperature)


@pytest.mark.parametrize("most", [0, -1, 1.5, "many"])
def test_iterations_are_a_whole_number_from_one(most):
    with pytest.raises(InputError, match="max_iterations is"):
        modes([[1.0]], [Mixture([Isotropic(MEAN)])], max_iterations=most)


FAMILIES = (
    lambda x: Isotropic(x),
    lambda x: Diagonal(x, 1.0),
    lambda x: Full(x, 1.0),
    lambda x: StudentT(x, 1.0, 3.0),
    lambda x: Beta(x, x),
)


@pytest.mark.parametrize("make", FAMILIES)
def test_what_is_no_tensors_by_name_is_refused_by_every_family(make):
    for wrong in (torch.ones(2), 2.0, "w", None, [torch.ones(2)], Isotropic(MEAN)):
        with pytest.raises(ParamsError, match=f"found a {type(wrong).__name__}; expected tensors by name"):
            make(wrong)
    for value in (np.ones(2), 2.0):
        with pytest.raises(ParamsError, match=f"'w' is a {type(value).__name__}; expected a torch tensor"):
            make({"w": value})


def test_a_second_set_of_parameters_is_checked_like_the_first():
    for wrong in (3.0, torch.ones(2)):
        with pytest.raises(ParamsError, match="Beta: b: found a"):
            Beta({"w": torch.full((2,), 2.0)}, wrong)
    with pytest.raises(ParamsError, match="precision: found a Tensor"):
        Diagonal(MEAN, torch.ones(2))
    with pytest.raises(ParamsError, match="'w' is a float"):
        Diagonal(MEAN, {"w": 1.0})


@pytest.mark.parametrize("nu", ["a", None, 0, -1.0, math.nan, math.inf])
def test_degrees_of_freedom_are_a_finite_number_above_zero(nu):
    with pytest.raises(InputError, match="StudentT: nu must be finite and above zero; found"):
        StudentT(MEAN, 1.0, nu)
