"""IVON's posterior out and in, and what it refuses."""

import copy
import math

import pytest
import torch
from torch import nn

from ivon_toy import SETTINGS, curvature, flat, loss, network, optimizer_of, train
from previa.core.diagonal import Diagonal
from previa.errors import InputError, ParamsError
from previa.fit.ivon import IVON


def test_the_posterior_is_the_mean_and_ess_times_h_plus_delta():
    model = network()
    optimizer = optimizer_of(model)
    train(model, optimizer, 3)
    posterior = optimizer.posterior(model)
    assert torch.equal(posterior.mode().vector, flat(model))
    for name, p in model.named_parameters():
        assert torch.equal(posterior.precision[name], 100.0 * optimizer.state[p]["H"])
    train(model, optimizer, 1)
    assert not torch.equal(posterior.mode().vector, flat(model))  # it is a copy


def test_a_half_precision_posterior_has_the_mean_before_rounding():
    model = network(torch.bfloat16)
    optimizer = optimizer_of(model)
    train(model, optimizer, 3)
    mean = optimizer.posterior(model).mode()
    assert mean.vector.dtype == torch.float32
    assert torch.equal(mean.vector.bfloat16(), flat(model))
    assert not torch.equal(mean.vector, flat(model).float())


def test_a_loaded_posterior_is_where_training_starts():
    model, pretrained = network(), network(seed=4)
    source = optimizer_of(pretrained)
    train(pretrained, source, 3)
    posterior = source.posterior(pretrained)
    optimizer = optimizer_of(model, weight_decay=0.0, lr=0.0)
    train(model, optimizer, 2)
    optimizer.load_posterior(model, posterior)
    torch.testing.assert_close(optimizer.posterior(model).natural(), posterior.natural())
    assert optimizer.memory == 1.0
    train(model, optimizer, 1)
    assert torch.equal(flat(model), flat(pretrained))
    assert optimizer.memory == pytest.approx(0.99)


def test_curvature_is_kept_when_the_effective_sample_size_changes():
    model = network()
    optimizer = optimizer_of(model, ess=10.0, weight_decay=0.0)
    optimizer.load_posterior(model, Diagonal(dict(model.named_parameters()), 600.0), ess=200.0)
    torch.testing.assert_close(curvature(optimizer, model), torch.full((32,), 3.0))


def test_a_posterior_below_delta_can_be_started_from_since_only_h_plus_delta_counts():
    model = network()
    optimizer = optimizer_of(model, weight_decay=1.0)
    optimizer.load_posterior(model, Diagonal(dict(model.named_parameters()), 50.0))
    torch.testing.assert_close(curvature(optimizer, model), torch.full((32,), 0.5))


def test_an_effective_sample_size_of_zero_is_refused():
    model = network()
    optimizer = optimizer_of(model, weight_decay=1.0)
    with pytest.raises(InputError, match="ess is 0"):
        optimizer.load_posterior(model, Diagonal(dict(model.named_parameters()), 50.0), ess=0.0)
    assert not optimizer.state  # untouched


def test_a_posterior_of_another_model_cannot_be_started_from():
    model = network()
    with pytest.raises(ParamsError, match=r"tensor '0.bias' is not in the posterior"):
        optimizer_of(model).load_posterior(model, Diagonal({"0.weight": torch.zeros(5, 3)}, 1.0))


def test_a_trainable_parameter_outside_the_optimizer_is_named_unless_frozen():
    model = network()
    optimizer = IVON(model[2].parameters(), **SETTINGS)
    with pytest.raises(InputError, match=r"not in the optimizer: '0.weight', '0.bias'"):
        optimizer.posterior(model)
    model[0].requires_grad_(False)
    assert len(optimizer.posterior(model).mode()) == 2
    with pytest.raises(InputError, match="1 parameters of the optimizer are not in this model"):
        IVON([*model[2].parameters(), nn.Parameter(torch.zeros(1))], **SETTINGS).posterior(model)


def test_memory_is_the_weight_of_the_initial_curvature():
    """With no information (zero gradients) and no delta, h is its initial value times beta2^n, to first order."""
    model = nn.Module()
    model.p, model.unused = nn.Parameter(torch.ones(30)), nn.Parameter(torch.ones(10))
    optimizer = IVON(model.parameters(), lr=0.0, ess=10.0, hess_init=2.0, betas=(0.9, 0.999))
    assert optimizer.memory == 1.0
    for _ in range(100):
        with optimizer.sampled():
            (0 * model.p).sum().backward()
        optimizer.step()
    assert optimizer.memory == pytest.approx((30 * 0.999**100 + 10) / 40)
    torch.testing.assert_close(
        optimizer.state[model.p]["H"], torch.full((30,), 2.0 * 0.999**100), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lr": -1.0}, "lr is -1.0, but it must be a finite number"),
        ({"lr": math.nan}, "lr is nan"),
        ({"ess": 0.0}, "ess is 0.0, but it must be a finite number above zero"),
        ({"hess_init": 0.0}, "hess_init is 0.0"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001"),
        ({"clip_radius": 0.0}, "clip_radius is 0.0"),
        ({"betas": (0.9, 1.0)}, "a beta is 1.0"),
        ({"betas": 0.9}, "betas is 0.9, but it must be two numbers"),
        ({"ess": "many"}, "ess is 'many'"),
    ],
)
def test_an_option_out_of_range_is_named(options, sentence):
    with pytest.raises(InputError, match=sentence):
        optimizer_of(network(), **options)


def test_an_option_of_a_group_is_checked_too():
    with pytest.raises(InputError, match="ess is -1"):
        IVON([{"params": network().parameters(), "ess": -1.0}], **SETTINGS)


def test_what_needs_the_mean_refuses_inside_the_context():
    model = network()
    optimizer = optimizer_of(model)
    state = optimizer.state_dict()
    inside = [
        lambda: optimizer.sampled().__enter__(),
        optimizer.step,
        optimizer.state_dict,
        lambda: optimizer.load_state_dict(state),
        lambda: optimizer.posterior(model),
        lambda: copy.deepcopy(optimizer),
    ]
    with optimizer.sampled():
        for refused in inside:
            with pytest.raises(InputError, match=r"inside `with optimizer.sampled\(\)`"):
                refused()


def test_a_state_between_sample_and_step_is_refused():
    model = network()
    optimizer = optimizer_of(model)
    with optimizer.sampled():
        loss(model).backward()
    with pytest.raises(InputError, match="would lose the sample"):
        optimizer.state_dict()


def test_another_optimizers_state_is_refused():
    model = network()
    with pytest.raises(InputError, match=r"not the state of a previa\.IVON"):
        optimizer_of(model).load_state_dict(torch.optim.SGD(model.parameters(), lr=0.1).state_dict())


def test_sparse_gradients_and_integer_parameters_are_refused():
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = IVON(embedding.parameters(), **SETTINGS)
    with pytest.raises(InputError, match="sparse=False"), optimizer.sampled():
        embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match=r"torch.int64, not floating-point"):
        IVON([nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)], **SETTINGS)
