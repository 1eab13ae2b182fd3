"""Which gradients make a step of IVON: clipped, accumulated, averaged over samples, zeroed, or from elsewhere."""

import math

import pytest
import torch
from torch import nn

from ivon_toy import SETTINGS, curvature, flat, gradients, loss, network, optimizer_of, train
from previa.errors import InputError
from previa.fit.ivon import IVON


def test_clipping_inside_the_context_takes_effect():
    model = network()
    optimizer = optimizer_of(model)
    with optimizer.sampled():
        loss(model).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    optimizer.step()
    norm = math.sqrt(sum(optimizer.state[p]["g"].square().sum().item() for p in model.parameters()))
    assert norm == pytest.approx(0.1 * 1e-3, rel=1e-3)  # (1-b1) times the clipped norm


def test_clipping_between_a_single_sample_and_the_step_is_clipping_inside():
    inside, outside = network(), network()
    first, second = optimizer_of(inside), optimizer_of(outside)
    with first.sampled():
        loss(inside).backward()
        nn.utils.clip_grad_norm_(inside.parameters(), 1e-3)
    first.step()
    with second.sampled():
        loss(outside).backward()
    nn.utils.clip_grad_norm_(outside.parameters(), 1e-3)
    second.step()
    assert torch.equal(flat(inside), flat(outside))
    assert torch.equal(curvature(first, inside), curvature(second, outside))


@pytest.mark.parametrize("late", [False, True], ids=["before the second sample", "before the step"])
def test_clipping_outside_with_several_samples_is_an_error(late):
    model = network()
    optimizer = optimizer_of(model)

    def spoiled_step():
        for sample in range(2):
            with optimizer.sampled():
                loss(model).backward()
            if sample == late:
                nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()

    with pytest.raises(InputError, match=r"Clip or unscale inside"):
        spoiled_step()
    train(model, optimizer, 1, samples=2)  # the samples were dropped, so the next step is a clean one


def test_zero_grad_between_samples_loses_none():
    models = network(), network()
    optimizers = [optimizer_of(model) for model in models]
    for model, optimizer, cleared in zip(models, optimizers, [False, True], strict=True):
        for _ in range(3):
            with optimizer.sampled():
                loss(model).backward()
            if cleared:
                optimizer.zero_grad()
        optimizer.step()
    assert torch.equal(flat(models[0]), flat(models[1]))


def test_zeroing_gradients_in_place_between_samples_is_an_error():
    model = network()
    optimizer = optimizer_of(model)
    with optimizer.sampled():
        loss(model).backward()
    optimizer.zero_grad(set_to_none=False)
    with pytest.raises(InputError, match="set_to_none=True"), optimizer.sampled():
        loss(model).backward()


def test_microbatches_in_one_context_are_the_whole_batch():
    whole, parts = network(torch.float64), network(torch.float64)
    first, second = optimizer_of(whole), optimizer_of(parts)
    train(whole, first, 3)
    for _ in range(3):
        with second.sampled():
            for k in range(4):
                (loss(parts, rows=slice(2 * k, 2 * k + 2)) / 4).backward()
        second.step()
    torch.testing.assert_close(
        flat(parts), flat(whole), rtol=1e-6, atol=1e-6
    )  # the loss is summed in float32
    torch.testing.assert_close(curvature(second, parts), curvature(first, whole), rtol=1e-6, atol=0)


def test_a_parameter_without_gradient_in_one_of_two_samples_counts_as_zero_there():
    p, q = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = IVON([p, q], **SETTINGS)
    for value in (p.sum(), p.sum() + q.sum()):
        with optimizer.sampled():
            value.backward()
        optimizer.zero_grad()
    optimizer.step()
    assert optimizer.state[p]["g"].item() == pytest.approx(0.1)
    assert optimizer.state[q]["g"].item() == pytest.approx(0.05)


def test_a_gradient_from_before_the_context_does_not_leak_in():
    clean, soiled = network(), network()
    first, second = optimizer_of(clean), optimizer_of(soiled)
    loss(soiled).backward()
    train(clean, first, 2)
    train(soiled, second, 2)
    assert torch.equal(flat(clean), flat(soiled))


def test_a_context_without_backward_counts_for_nothing():
    model = network()
    optimizer = optimizer_of(model)
    with optimizer.sampled(), torch.no_grad():
        loss(model)
    with pytest.raises(InputError, match="no gradients"):
        optimizer.step()
    with optimizer.sampled():
        loss(model).backward()
        expected = gradients(model)
    with optimizer.sampled(), torch.no_grad():
        loss(model)
    optimizer.step()
    found = torch.cat([optimizer.state[p]["g"].flatten() for p in model.parameters()])
    torch.testing.assert_close(found, 0.1 * expected)
