"""Adam's second moment as a precision: the right scale, the right names, and a refusal of everything else."""

import re

import pytest
import torch
from torch import Tensor, nn

from previa.core.damping import damped
from previa.core.diagonal import Diagonal
from previa.core.merge import merge
from previa.errors import FileError, InputError, NotFiniteError, ParamsError
from previa.fit.adam_moments import adam_moments
from previa.fit.labels import Given
from previa.fit.parameter_order import trainer_groups
from previa.fit.squared_gradients import squared_gradients
from previa.io.optimizer_file import open_optimizer
from previa.io.posterior_file import load_posterior, save_posterior
from previa.io.provenance import Provenance, check_conventions

BATCH = 8


class Block(nn.Module):
    """A block as transformers have it: two norms and two linear layers, of which several tensors have one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(4)
        self.up = nn.Linear(4, 4)
        self.q_norm = nn.RMSNorm(4)
        self.down = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.q_norm(self.up(self.input_layernorm(x))).relu())


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), Block(), nn.Linear(4, 2))
    for p in model.parameters():  # ones and zeros of norms would be alike
        p.data += 0.1 * torch.randn(p.shape)
    return model


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 3, generator=draw)
    return x, (x[:, 0] > 0).long()


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> dict[str, list[Tensor]]:
    """name -> the batch gradient of each step."""
    x, y = data()
    seen: dict[str, list[Tensor]] = {name: [] for name, _ in model.named_parameters()}
    for step in range(steps):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        optimizer.zero_grad()
        loss(model, (x[rows], y[rows])).mean().backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                seen[name].append(p.grad.clone())
        optimizer.step()
    return seen


def hf_groups(model: nn.Module) -> list[dict]:
    named = dict(model.named_parameters())
    decay, rest = trainer_groups(model)
    return [
        {"params": [named[n] for n in decay], "weight_decay": 0.1},
        {"params": [named[n] for n in rest], "weight_decay": 0.0},
    ]


# v is accumulated in float32, and corrected for its start by a division: a few rounding errors of 6e-8.
ROUNDED = {"rtol": 1e-5, "atol": 0.0}


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_after_one_step_it_is_the_batch_times_the_squared_gradient(kind, amsgrad):
    model = net()
    optimizer = kind(model.parameters(), lr=0.1, amsgrad=amsgrad)
    gradients = train(model, optimizer, 1)
    found = adam_moments(optimizer, model, batch_size=BATCH)
    assert list(found.mean) == list(dict(model.named_parameters()))
    for name, (g,) in gradients.items():
        torch.testing.assert_close(found.mean[name], BATCH * g.square(), **ROUNDED)


def test_after_several_steps_it_is_their_weighted_mean():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.9, 0.7), amsgrad=True)
    gradients = train(model, optimizer, 4)
    found = adam_moments(optimizer, model, batch_size=BATCH)
    weights = torch.tensor([0.7**3, 0.7**2, 0.7, 1.0])
    for name, g in gradients.items():  # weights that sum to one: that is what 1 - beta2^n is for
        expected = BATCH * torch.einsum("s,s...->...", weights / weights.sum(), torch.stack(g).square())
        torch.testing.assert_close(found.mean[name], expected, **ROUNDED)
    assert (found.steps, found.beta2, found.unused) == (4, 0.7, ())


def test_with_a_short_memory_and_one_example_it_is_the_squared_gradient():
    model = net()
    frozen = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 1e-6))
    x, y = (part[:1] for part in data())
    for _ in range(3):
        frozen.zero_grad()
        loss(model, (x, y)).mean().backward()
        frozen.step()
    exact = squared_gradients(model, [(x, y)], Given(loss)).mean
    found = adam_moments(frozen, model, batch_size=1).mean
    torch.testing.assert_close(found.vector, exact.vector, rtol=1e-4, atol=1e-12)


def test_at_a_minimum_it_estimates_the_mean_of_squared_gradients():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(256, 3, generator=draw) * torch.tensor([1.0, 3.0, 0.1])
    y = x @ torch.tensor([[1.0], [0.0], [2.0]]) + torch.randn(256, 1, generator=draw)
    model = nn.Linear(3, 1, bias=False)
    model.weight.data = torch.linalg.lstsq(x, y).solution.T.clone()
    squares = lambda m, batch: (m(batch[0]) - batch[1]).square().squeeze(-1)  # noqa: E731
    exact = squared_gradients(model, [(x, y)], Given(squares)).mean
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    for _ in range(3000):
        rows = torch.randint(256, (BATCH,), generator=draw)
        optimizer.zero_grad()
        squares(model, (x[rows], y[rows])).mean().backward()
        optimizer.step()
    found = adam_moments(optimizer, model, batch_size=BATCH)
    # some 1000 batches count at beta2 = 0.999: a relative error of sqrt(2 * 0.0005) = 3 %, more with heavy tails
    torch.testing.assert_close(found.mean.vector, exact.vector, rtol=0.15, atol=0.0)
    half = adam_moments(optimizer, model, batch_size=BATCH, power=0.5)
    torch.testing.assert_close(half.mean.vector.square(), found.mean.vector, **ROUNDED)


@pytest.mark.parametrize("as_dict", [False, True])
def test_names_are_right_under_the_trainers_two_groups(as_dict):
    model = net()
    groups = hf_groups(model)
    assert [len(group["params"]) for group in groups] == [4, 7]
    order = [p for group in groups for p in group["params"]]
    assert [id(p) for p in order] != [id(p) for p in model.parameters()]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    gradients = train(model, optimizer, 1)
    found = adam_moments(optimizer.state_dict() if as_dict else optimizer, model, batch_size=BATCH)
    for name, (g,) in gradients.items():
        torch.testing.assert_close(found.mean[name], BATCH * g.square(), **ROUNDED)


def test_the_trainers_groups_leave_biases_and_norms_of_every_kind_without_decay():
    decay, rest = trainer_groups(net())
    assert decay == ["0.weight", "1.up.weight", "1.down.weight", "2.weight"]
    assert rest == [
        "0.bias", "1.input_layernorm.weight", "1.input_layernorm.bias", "1.up.bias", "1.q_norm.weight", "1.down.bias", "2.bias"
    ]  # fmt: skip


def by_names(model):
    return torch.optim.AdamW(list(model.named_parameters())[::-1])


def by_dimension(model):
    p = list(model.parameters())
    return torch.optim.AdamW(
        [{"params": [q for q in p if q.dim() > 1]}, {"params": [q for q in p if q.dim() < 2]}]
    )


def old_trainer(model):  # norms that are no LayerNorm have decay
    named = dict(model.named_parameters())
    rest = {n for n in named if "bias" in n or "layernorm" in n}
    return torch.optim.AdamW(
        [{"params": [p for n, p in named.items() if n not in rest]}, {"params": [named[n] for n in named if n in rest]}]
    )  # fmt: skip


@pytest.mark.parametrize("make", [by_names, by_dimension, old_trainer])
def test_a_state_dict_of_any_known_order_is_read_as_the_optimizer_itself(make):
    model = net()
    optimizer = make(model)
    train(model, optimizer)
    direct = adam_moments(optimizer, model, batch_size=BATCH)
    stored = adam_moments(optimizer.state_dict(), model, batch_size=BATCH)
    assert torch.equal(direct.mean.vector, stored.mean.vector)


def test_parameters_by_name_as_fsdp_writes_them_are_read():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer)
    state, names = optimizer.state_dict(), [name for name, _ in model.named_parameters()]
    state["state"] = {names[i]: one for i, one in state["state"].items()}
    state["param_groups"][0]["params"] = names
    found = adam_moments(state, model, batch_size=BATCH)
    assert torch.equal(found.mean.vector, adam_moments(optimizer, model, batch_size=BATCH).mean.vector)


class Oddly(nn.Module):
    """By its name one vector has no decay, by its class the other: of the Trainer's releases, some had this and some that."""

    def __init__(self) -> None:
        super().__init__()
        self.layernorm_scale = nn.Parameter(torch.ones(4))
        self.scaler = nn.RMSNorm(4)


def test_numbers_that_can_be_named_in_two_ways_are_named_by_the_caller():
    model = Oddly()
    optimizer = torch.optim.AdamW([{"params": [model.layernorm_scale]}, {"params": [model.scaler.weight]}])
    (3 * model.layernorm_scale.sum() + 5 * model.scaler.weight.sum()).backward()
    optimizer.step()
    message = "parameter 0 of the optimizer may be 'scaler.weight' or 'layernorm_scale', which have one shape. Pass names="
    with pytest.raises(InputError, match=message):
        adam_moments(optimizer.state_dict(), model, batch_size=1)
    order = [["layernorm_scale"], ["scaler.weight"]]
    found = adam_moments(optimizer.state_dict(), model, batch_size=1, names=order).mean
    assert [float(found[name].mean()) for (name,) in order] == pytest.approx([9.0, 25.0], rel=1e-5)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([["0.weight"]], r"names holds 1 names, but the optimizer's groups have 2 parameters"),
        ([["0.bias", "0.weight"]], r"parameter 0 has shape \(2, 2\) there, but '0.bias' has \(2,\)"),
        ([["0.weight", "0.weight"]], "'0.weight' in the optimizer is named twice"),
        ([["0.weight", "1.bias"]], "'1.bias' in the optimizer is no parameter of the model"),
    ],
)
def test_names_that_do_not_fit_are_refused(names, message):
    model = nn.Sequential(nn.Linear(2, 2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    with pytest.raises(ParamsError, match=message):
        adam_moments(optimizer.state_dict(), model, batch_size=1, names=names)
    with pytest.raises(InputError, match="names are for a state_dict"):
        adam_moments(optimizer, model, batch_size=1, names=names)


def test_another_model_is_refused_naming_tensor_and_shapes():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer)
    wider = net()
    wider[2] = nn.Linear(4, 5)
    with pytest.raises(
        ParamsError, match=r"parameter 9 has shape \(2, 4\) there, but '2.weight' has \(5, 4\)"
    ):
        adam_moments(optimizer.state_dict(), wider, batch_size=BATCH)
    with pytest.raises(ParamsError, match="groups have 11 parameters, and the model 12 trainable ones"):
        adam_moments(optimizer.state_dict(), nn.Sequential(*net(), nn.RMSNorm(2)), batch_size=BATCH)
    with pytest.raises(InputError, match="trainable parameters of the model are not in the optimizer"):
        adam_moments(optimizer, net(), batch_size=BATCH)


def test_frozen_parameters_are_left_out_in_every_form():
    model = net()
    everything = torch.optim.AdamW(model.parameters())
    model[0].requires_grad_(False)
    train(model, everything)
    some = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    train(model, some)
    for optimizer in (everything, some):
        direct = adam_moments(optimizer, model, batch_size=1)
        stored = adam_moments(optimizer.state_dict(), model, batch_size=1)
        assert torch.equal(direct.mean.vector, stored.mean.vector)
        assert "0.weight" not in direct.mean


def test_a_parameter_without_a_gradient_is_zero_and_named():
    model = net()
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer)
    for source in (optimizer, optimizer.state_dict()):
        found = adam_moments(source, model, batch_size=BATCH)
        assert found.unused == ("unused",)
        assert float(found.mean["unused"].abs().sum()) == 0
    precisions, _ = damped([found.mean, found.mean])
    assert bool((precisions[0].vector > 0).all())


def test_an_optimizer_that_never_stepped_is_refused():
    model = net()
    for source in (torch.optim.AdamW(model.parameters()), torch.optim.AdamW(model.parameters()).state_dict()):
        with pytest.raises(InputError, match="holds no state for any parameter"):
            adam_moments(source, model, batch_size=BATCH)


def test_bfloat16_states_are_read_in_full_precision():
    model = net().bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    x, y = data()
    loss(model, (x[:BATCH].bfloat16(), y[:BATCH])).mean().backward()
    optimizer.step()
    found = adam_moments(optimizer, model, batch_size=BATCH)
    assert found.mean.vector.dtype == torch.float32
    for name, p in model.named_parameters():
        v = optimizer.state[p]["exp_avg_sq"]
        assert v.dtype == torch.bfloat16
        # The division by 1 - beta2 = 1e-3 is done in float64, not on bfloat16's grid.
        torch.testing.assert_close(
            found.mean[name].double(), BATCH * v.double() / (1 - 0.999), rtol=1e-6, atol=0
        )


def broken(change) -> tuple[torch.optim.Optimizer, nn.Module]:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer)
    change(optimizer)
    return optimizer, model


def as_8bit(optimizer):
    for p, one in optimizer.state.items():
        v = one["exp_avg_sq"].to(torch.uint8)
        optimizer.state[p] = {
            "step": 3,
            "state1": v,
            "state2": v,
            "qmap1": v,
            "qmap2": v,
            "absmax1": v,
            "absmax2": v,
        }


class Quantised(Tensor):
    pass


def as_subclass(optimizer):
    for one in optimizer.state.values():
        one["exp_avg_sq"] = one["exp_avg_sq"].as_subclass(Quantised)


def scaled(optimizer):
    for one in optimizer.state.values():
        one["s"] = torch.ones(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (as_8bit, "the state of '?[^ ]+'? holds absmax1, absmax2, qmap1.* Only that of Adam and AdamW"),
        (as_subclass, r"exp_avg_sq, step \(a Quantised\)\. Only that of Adam"),
        (scaled, "holds exp_avg, exp_avg_sq, s, step. Only that of Adam"),
        (lambda o: [one.pop("step") for one in o.state.values()], "Only that of Adam"),
        (lambda o: [group.pop("betas") for group in o.param_groups], "Only that of Adam"),
    ],
)
def test_another_optimizers_state_is_refused_in_a_sentence(change, message):
    optimizer, model = broken(change)
    with pytest.raises(InputError, match=message) as caught:
        adam_moments(optimizer, model, batch_size=BATCH)
    assert "squared_gradients needs no optimizer" in str(caught.value)


@pytest.mark.parametrize(
    "kind", [torch.optim.SGD, torch.optim.Adamax, torch.optim.RMSprop, torch.optim.NAdam]
)
def test_torchs_other_optimizers_are_refused(kind):
    model = net()
    optimizer = kind(model.parameters(), lr=0.01, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
    train(model, optimizer)
    with pytest.raises(InputError, match="Only that of Adam and AdamW"):
        adam_moments(optimizer, model, batch_size=BATCH)


def test_what_is_no_state_dict_two_beta2_nan_and_odd_numbers_are_refused():
    optimizer, model = broken(lambda o: None)
    with pytest.raises(InputError, match=r"a mapping with the keys 0\.bias, 0\.weight"):
        adam_moments(model.state_dict(), model, batch_size=BATCH)
    for batch_size, power in ((0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0), (8, 0.0), (8, 2.0)):
        with pytest.raises(InputError, match="expected at least 1, and above 0 up to 1"):
            adam_moments(optimizer, model, batch_size=batch_size, power=power)
    optimizer.state[next(model.parameters())]["exp_avg_sq"][0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match=r"second moment of '0.weight'"):
        adam_moments(optimizer, model, batch_size=BATCH)
    p = list(net().parameters())
    two = torch.optim.AdamW([{"params": p[:1], "betas": (0.9, 0.9)}, {"params": p[1:]}]).state_dict()
    with pytest.raises(InputError, match=r"beta2 \[0.9, 0.999\]; expected one for all"):
        adam_moments(two, net(), batch_size=BATCH, names=[[n for n, _ in net().named_parameters()][:1],
                                                          [n for n, _ in net().named_parameters()][1:]])  # fmt: skip


def test_an_optimizer_file_is_read_with_leave_and_as_the_optimizer_itself(tmp_path):
    model = net()
    optimizer = torch.optim.AdamW(hf_groups(model), lr=0.1)
    train(model, optimizer)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 3}, tmp_path / "all.pth"
    )
    torch.save(optimizer.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"optimizer_states": [optimizer.state_dict()]}, tmp_path / "last.ckpt")  # Lightning's
    direct = adam_moments(optimizer, model, batch_size=BATCH)
    for path in (tmp_path, tmp_path / "all.pth", tmp_path / "old.pt", tmp_path / "last.ckpt"):
        found = adam_moments(open_optimizer(path, allow_pickle=True), net(1), batch_size=BATCH)
        assert torch.equal(found.mean.vector, direct.mean.vector)
        assert found.provenance == direct.provenance
    with pytest.raises(
        FileError, match=r"optimizer.pt: it is a pickle.* pass allow_pickle=True \(--allow-pickle\)"
    ):
        open_optimizer(tmp_path)


class Code:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_files_that_are_no_optimizers_are_refused(tmp_path, capsys):
    with pytest.raises(FileError, match=r"expected an optimizer's file, or a folder with optimizer.pt"):
        open_optimizer(tmp_path, allow_pickle=True)
    file = tmp_path / "optimizer.pt"
    for content, message in (
        ({"model": {}}, "holds 0 optimizers' states"),
        ([1], "holds 0 optimizers' states"),
        (
            {"a": {"state": {}, "param_groups": []}, "b": {"state": {}, "param_groups": []}},
            "holds 2 optimizers'",
        ),
        ({"optimizer_states": [{"state": {}, "param_groups": []}] * 2}, "holds 2 optimizers'"),
        (
            {"state": {}, "param_groups": [], "more": Code()},
            r"cannot be read as tensors and plain containers \(Unsupported global: GLOBAL \S+ was not an allowed global by default\)\. It is damaged",
        ),
    ):
        torch.save(content, file)
        with pytest.raises(FileError, match=message) as caught:
            open_optimizer(file, allow_pickle=True)
        assert str(file) in str(caught.value)
        assert str(caught.value).isprintable()  # no codes that colour a terminal
    whole = file.read_bytes()
    for cut in (whole[: len(whole) // 2], b"", b"not a pickle"):
        file.write_bytes(cut)
        with pytest.raises(FileError, match="cannot be read"):
            open_optimizer(file, allow_pickle=True)
    assert capsys.readouterr().out == ""


def test_two_tasks_merge_and_their_posteriors_say_where_they_come_from(tmp_path):
    found = {}
    for seed, task in enumerate("ab"):
        model = net(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        train(model, optimizer)
        found[task] = (dict(model.named_parameters()), adam_moments(optimizer, model, batch_size=BATCH))
    precisions, share = damped([moments.mean for _, moments in found.values()])
    posteriors = [Diagonal(params, h) for (params, _), h in zip(found.values(), precisions, strict=True)]
    corner = merge([0.0, 1.0], posteriors).mode()
    for name, p in found["b"][0].items():
        torch.testing.assert_close(corner[name], p.detach())
    facts = Provenance(
        family="diagonal", reduction="mean", examples=64, prior_relative=10.0, prior_share=share,
        **found["a"][1].provenance,
    )  # fmt: skip
    save_posterior(tmp_path / "a.safetensors", posteriors[0], facts)
    _, stored = load_posterior(tmp_path / "a.safetensors")
    assert stored == facts
    assert (stored.source, stored.power, stored.steps, stored.memory) == ("adam_moments", 1.0, 3, None)


def test_two_powers_are_not_of_one_scale():
    facts = {"family": "diagonal", "reduction": "mean", "examples": 64}
    one = Provenance(source="adam_moments", power=1.0, **facts)
    half = Provenance(source="adam_moments", power=0.5, **facts)
    squares = Provenance(source="squared_gradients", **facts)
    check_conventions({"a": one, "b": squares})
    check_conventions({"a": half, "b": half})
    with pytest.raises(
        InputError, match=re.escape("task 'b': its precision is of squared gradients to the power 0.5")
    ):
        check_conventions({"a": squares, "b": half})
