"""Every trap seen in public implementations of IVON, by name."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from ivon_toy import SETTINGS, curvature, flat, loss, network, optimizer_of, train
from previa.core.diagonal import Diagonal
from previa.errors import InputError
from previa.fit import blocks as blocks_module
from previa.fit.ivon import IVON
from previa.fit.noise import Noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_step_after_a_resume_is_that_of_the_uninterrupted_run(dtype):
    model = network(dtype)
    optimizer = optimizer_of(model)
    train(model, optimizer, 3, samples=2)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(model, optimizer, 3)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = network(dtype, seed=9)
    resumed.load_state_dict(saved["model"])
    later = optimizer_of(resumed, seed=10, lr=9.0)
    later.load_state_dict(saved["optimizer"])
    train(resumed, later, 3)
    assert torch.equal(flat(resumed), flat(model))
    assert torch.equal(curvature(later, resumed), curvature(optimizer, model))
    assert later.memory == optimizer.memory


def test_a_loaded_state_shares_nothing_with_its_source():
    model, other = network(), network()
    source, target = optimizer_of(model), optimizer_of(other)
    train(model, source, 1)
    target.load_state_dict(source.state_dict())
    before = curvature(target, other)
    train(model, source, 2)
    assert torch.equal(curvature(target, other), before)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_a_copy_trains_on_as_the_original(copied):
    model = network()
    optimizer = optimizer_of(model)
    train(model, optimizer, 2)
    twin, twin_optimizer = copied((model, optimizer))
    train(model, optimizer, 2)
    train(twin, twin_optimizer, 2)
    assert torch.equal(flat(model), flat(twin))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_leaving_the_context_restores_every_bit(dtype):
    model = network(dtype)
    optimizer = optimizer_of(model)
    train(model, optimizer, 2)
    before = flat(model)
    with optimizer.sampled():
        assert not torch.equal(flat(model), before)
    assert torch.equal(flat(model), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_exception_leaves_the_mean_and_no_sample(dtype):
    model = network(dtype)
    optimizer = optimizer_of(model)
    before = flat(model)

    def interrupted():
        with optimizer.sampled():
            loss(model).backward()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert torch.equal(flat(model), before)
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(InputError, match="no gradients taken at a sample"):
        optimizer.step()
    train(model, optimizer, 1)
    assert not torch.equal(flat(model), before)


def test_an_interrupt_while_noise_is_drawn_leaves_the_mean(monkeypatch):
    p, q = nn.Parameter(torch.randn(64)), nn.Parameter(torch.randn(64))
    optimizer = IVON([p, q], **SETTINGS)
    before = p.detach().clone(), q.detach().clone()
    monkeypatch.setattr(blocks_module, "CACHED", 16)
    fill, calls = optimizer._noise.fill, []

    def interrupted(tensors):
        fill(tensors)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(optimizer._noise, "fill", interrupted)
    with pytest.raises(KeyboardInterrupt), optimizer.sampled():
        raise AssertionError("never entered")
    assert torch.equal(p, before[0])
    assert torch.equal(q, before[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_moves_by_steps_below_its_resolution(dtype):
    p = nn.Parameter(torch.ones(16, dtype=dtype))
    optimizer = IVON([p], lr=1e-4, ess=1e6, hess_init=1.0)
    for _ in range(200):
        with optimizer.sampled():
            p.sum().backward()  # pushes down by 1e-4 a step; 1 in bfloat16 has neighbours at 0.996
        optimizer.step()
    assert p.dtype == dtype
    # 200 steps of 1e-4 over h+delta, which the noise of h_hat moves by a few percent; and p's own rounding
    torch.testing.assert_close(p.float(), torch.full((16,), 0.98), rtol=0, atol=0.005)
    assert optimizer.state[p]["H"].dtype == torch.float32


def test_half_precision_finds_no_curvature_in_its_rounding_error():
    """m = 1.003 rounds to 1 in bfloat16: a displacement of -0.003 at each sample, which is no noise."""
    model = nn.Module()
    model.p = nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
    optimizer = IVON(model.parameters(), lr=0.0, ess=1e10, hess_init=1.0, betas=(0.9, 0.9))
    optimizer.load_posterior(model, Diagonal({"p": torch.full((4096,), 1.003)}, 1e10))
    with optimizer.sampled():
        (model.p.float() * 1e-6).sum().backward()  # a linear loss: curvature 0
    optimizer.step()
    # h falls from 1 to about b2; the rounding error would make it 1 + 0.1*(1e10*1e-6*-0.003 - 1) + ... = 6.6
    assert curvature(optimizer, model).mean().item() == pytest.approx(0.905, abs=0.005)


def test_weights_written_into_a_half_precision_model_are_kept():
    model = network(torch.bfloat16)
    optimizer = optimizer_of(model, lr=0.0)
    train(model, optimizer, 1)
    with torch.no_grad():
        model[0].weight[0] = 7.0
    train(model, optimizer, 1)
    assert model[0].weight[0].tolist() == [7.0] * 3
    assert optimizer.posterior(model).mean["0.weight"][0].tolist() == [7.0] * 3


def test_a_parameter_without_gradient_stays_as_it_is():
    model = network()
    optimizer = optimizer_of(model)
    with optimizer.sampled():
        model[0](torch.ones(1, 3)).sum().backward()  # the last layer takes no part
    optimizer.step()
    weight = model[2].weight
    assert torch.equal(weight, network()[2].weight)
    assert optimizer.state[weight]["step"] == 0
    assert torch.equal(optimizer.state[weight]["H"], torch.full((2, 5), 0.51))
    assert not optimizer.state[weight]["g"].any()
    assert optimizer.state[model[0].weight]["step"] == 1


def test_a_parameter_used_late_takes_its_first_step_as_a_first_step():
    """Momentum is debiased by the parameter's own count: step one moves by lr, however many steps others took."""
    early, late = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = IVON([early, late], lr=0.1, ess=100.0, hess_init=1.0)
    for used in [early] * 20 + [late]:
        with optimizer.sampled():
            used.sum().backward()
        optimizer.step()
    assert late.item() == pytest.approx(-0.1, rel=1e-3)


def test_frozen_parameters_get_no_noise_and_do_not_move():
    model = network()
    model[0].requires_grad_(False)
    optimizer = optimizer_of(model)
    with optimizer.sampled():
        assert torch.equal(model[0].weight, network()[0].weight)
        loss(model).backward()
    optimizer.step()
    assert torch.equal(model[0].weight, network()[0].weight)
    assert list(optimizer.posterior(model).mode()) == ["2.weight", "2.bias"]


def test_parameters_keep_their_storages():
    model = network()
    before = [(p.data_ptr(), p.untyped_storage().nbytes()) for p in model.parameters()]
    optimizer = optimizer_of(model)
    train(model, optimizer, 2)
    assert [(p.data_ptr(), p.untyped_storage().nbytes()) for p in model.parameters()] == before


def test_a_saved_stream_goes_on_on_another_device_of_its_kind():
    """One process saves the state, all load it: the second GPU must draw the noise of the first."""
    first = Noise(torch.Generator().manual_seed(3))
    torch.empty(4).normal_(generator=first._stream("cpu:0"))
    other = Noise()
    other.__setstate__(first.__getstate__())
    later = torch.empty(4).normal_(generator=other._stream("cpu:1"))
    assert torch.equal(later, torch.empty(4).normal_(generator=first._stream("cpu:0")))


def test_two_devices_of_one_process_have_streams_of_their_own():
    noise = Noise(torch.Generator().manual_seed(3))
    drawn = [torch.empty(4).normal_(generator=noise._stream(device)) for device in ("cpu:0", "cpu:1")]
    assert not torch.equal(*drawn)
    other = Noise()
    other.__setstate__(noise.__getstate__())
    for device in ("cpu:0", "cpu:1"):
        later = torch.empty(4).normal_(generator=noise._stream(device))
        assert torch.equal(later, torch.empty(4).normal_(generator=other._stream(device)))
