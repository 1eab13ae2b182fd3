"""Reading the public ivon-opt: a stand-in with its attributes, and the package itself where it can be imported."""

from types import SimpleNamespace

import pytest
import torch

from ivon_toy import Oracle, flat, gradients, loss, network, optimizer_of
from previa.errors import InputError, ParamsError, PrecisionError
from previa.fit.ivon_interop import read_ivon_opt


def group(params, start=1.0, ess=10.0, weight_decay=0.5):
    """A group as ivon-opt has it: hess is one vector over its parameters, here start, start+1, ..."""
    params = list(params)
    size = sum(p.numel() for p in params)
    hess = start + torch.arange(size, dtype=torch.float32)
    return {
        "params": params,
        "hess": hess,
        "ess": ess,
        "weight_decay": weight_decay,
        "momentum": torch.zeros(size),
    }


def stand_in(*groups):
    return SimpleNamespace(param_groups=list(groups))


def state_of(*groups):
    """The state_dict of such an optimizer: parameters by number."""
    numbers = iter(range(99))
    return {
        "state": {},
        "param_groups": [{**g, "params": [next(numbers) for _ in g["params"]]} for g in groups],
    }


def test_each_parameter_gets_its_part_of_hess():
    model = network()
    posterior = read_ivon_opt(stand_in(group(model.parameters())), model)
    assert torch.equal(posterior.mode().vector, flat(model))
    assert torch.equal(posterior.natural()[0], 10.0 * (1.5 + torch.arange(32)))
    assert posterior.precision["0.weight"].shape == (5, 3)


def test_groups_are_read_with_their_own_options_and_order():
    model = network()
    groups = group(model[2].parameters(), ess=2.0), group(model[0].parameters(), start=7.0, weight_decay=0.0)
    precision = read_ivon_opt(stand_in(*groups), model).precision
    assert precision["2.weight"].flatten()[0] == 2.0 * 1.5
    assert precision["0.weight"].flatten()[0] == 10.0 * 7.0


def test_a_state_dict_reads_as_its_optimizer():
    model = network()
    everything = group(model.parameters())
    assert torch.equal(
        read_ivon_opt(state_of(everything), model).natural()[0],
        read_ivon_opt(stand_in(everything), model).natural()[0],
    )


def test_frozen_parameters_are_left_out():
    model = network()
    everything, trainable = group(model.parameters()), group(model[2].parameters())
    model[0].requires_grad_(False)
    for source in (stand_in(everything), state_of(everything)):
        precision = read_ivon_opt(source, model).precision
        assert list(precision) == ["2.weight", "2.bias"]
        assert precision["2.weight"].flatten()[0] == 10.0 * (1.0 + 20 + 0.5)  # after the 20 frozen ones
    assert read_ivon_opt(state_of(trainable), model).precision["2.weight"].flatten()[0] == 10.0 * 1.5


def test_what_cannot_be_read_says_why():
    model = network()
    with pytest.raises(InputError, match="do not hold 'hess', 'ess' and 'weight_decay'"):
        read_ivon_opt(torch.optim.SGD(model.parameters(), lr=0.1), model)
    with pytest.raises(InputError, match=r"A previa IVON gives its posterior"):
        read_ivon_opt(optimizer_of(model), model)
    with pytest.raises(InputError, match="this dict do not hold"):
        read_ivon_opt({"model": 1}, model)
    with pytest.raises(InputError, match=r"a state_dict of 2 groups does not say"):
        read_ivon_opt(state_of(group(model[0].parameters()), group(model[2].parameters())), model)
    with pytest.raises(ParamsError, match="the state_dict has 2 parameters, but the model has 4"):
        read_ivon_opt(state_of(group(model[0].parameters())), model)
    with pytest.raises(InputError, match=r"not in the optimizer: '2\.weight', '2\.bias'"):
        read_ivon_opt(stand_in(group(model[0].parameters())), model)
    short = group(model.parameters()) | {"hess": torch.ones(3)}
    with pytest.raises(ParamsError, match="'hess' has 3 entries, but the 4 parameters of its group have 32"):
        read_ivon_opt(stand_in(short), model)
    with pytest.raises(PrecisionError, match=r"0\.weight"):
        read_ivon_opt(stand_in(group(model.parameters(), start=-0.5)), model)


def test_the_package_itself_follows_the_same_equations_and_is_read():
    """Samples and gradients seen from outside; where it is not installed, as in our own checks, there is nothing to do."""
    ivon = pytest.importorskip("ivon")
    model = network()
    public = ivon.IVON(
        model.parameters(),
        lr=0.1,
        ess=100.0,
        hess_init=0.5,
        beta1=0.9,
        beta2=0.99,
        weight_decay=1e-2,
        clip_radius=0.4,
    )
    oracle = Oracle(flat(model), lr=0.1, ess=100.0, hess_init=0.5, b1=0.9, b2=0.99, delta=1e-2, xi=0.4)
    for _ in range(20):
        with public.sampled_params(train=True):
            public.zero_grad()
            loss(model).backward()
            theta, grad = flat(model), gradients(model)
        public.step()
        oracle.step([(theta, grad)])
    for source in (public, public.state_dict()):
        posterior = read_ivon_opt(source, model)
        torch.testing.assert_close(posterior.mode().vector.double(), oracle.m, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            posterior.natural()[0].double(), 100 * (oracle.h + 1e-2), rtol=1e-4, atol=0
        )


def test_a_posterior_of_the_package_is_where_our_own_training_starts():
    pretrained, model = network(seed=3), network()
    posterior = read_ivon_opt(stand_in(group(pretrained.parameters())), pretrained)
    optimizer = optimizer_of(model, weight_decay=0.0)
    optimizer.load_posterior(model, posterior, ess=10.0)
    assert torch.equal(flat(model), flat(pretrained))
    assert torch.equal(optimizer.posterior(model).natural()[0], 100.0 * (1.5 + torch.arange(32)))
