"""A live model takes on merged parameters without a copy, and comes back as it was."""

import pytest
import torch
from torch import nn

from previa.core.params import Flat, Layout
from previa.errors import ParamsError
from previa.run.live import evaluating, live, recalibrated, running_statistics, trainable, unchanged


class Tied(nn.Module):
    """An embedding whose matrix is the output layer's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.embed(tokens))


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def flat(model: nn.Module) -> Flat:
    return Flat.of({name: p.detach().clone() for name, p in trainable(model).items()})


def test_a_placed_row_is_the_model_and_shares_its_memory():
    model, other = small(), small()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    rows = torch.stack([flat(model).vector, flat(other).vector])
    x = torch.randn(6, 4)
    with live(model, flat(model).layout) as place:
        place(rows[1])
        torch.testing.assert_close(model(x), other.eval()(x), rtol=0, atol=0)
        assert model[0].weight.data_ptr() == rows[1].data_ptr()


def test_the_model_comes_back_with_its_own_parameters_and_modes_even_after_an_exception():
    model = small()
    model[2].eval()  # one module of its own mode
    before, memory = flat(model).vector.clone(), model[0].weight.data_ptr()
    with pytest.raises(RuntimeError, match="boom"), live(model, flat(model).layout) as place:
        place(torch.zeros_like(before))
        assert not model.training
        assert not torch.is_grad_enabled()
        raise RuntimeError("boom")
    assert torch.equal(flat(model).vector, before)
    assert model[0].weight.data_ptr() == memory
    assert model.training
    assert not model[2].training
    assert torch.is_grad_enabled()
    assert all(p.requires_grad for p in model.parameters())


def test_tied_parameters_are_placed_once_and_stay_tied():
    model = Tied()
    layout = Layout.of(trainable(model))
    assert list(layout.places) == ["embed.weight"]
    with live(model, layout) as place:
        place(torch.arange(15.0))
        assert model.out.weight is model.embed.weight
        assert torch.equal(model.out.weight, torch.arange(15.0).view(5, 3))


def test_a_tied_parameter_is_known_by_its_second_name():
    model = Tied()
    with live(model, Layout((("out.weight", (5, 3)),))) as place:
        place(torch.ones(15))
        assert bool((model.embed.weight == 1).all())


def test_both_names_of_a_tied_parameter_are_refused():
    model = Tied()
    with (
        pytest.raises(ParamsError, match=r"'embed.weight' and 'out.weight' are one tied"),
        live(model, Layout.of(dict(model.named_parameters(remove_duplicate=False)))),
    ):
        pass


def test_a_model_in_half_precision_gets_its_own_dtype():
    model = small().bfloat16()
    layout = Layout.of(trainable(model))
    with live(model, layout) as place:
        place(torch.full((layout.size,), 0.5, dtype=torch.float64))
        assert model[0].weight.dtype == torch.bfloat16
        assert model(torch.ones(1, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_frozen_parameters_may_be_left_out_and_trainable_ones_may_not():
    model = small()
    names = {name: p for name, p in trainable(model).items() if not name.startswith("3.")}
    with (
        pytest.raises(ParamsError, match=r"'3.weight' is in no posterior.*Freeze it"),
        live(model, Layout.of(names)),
    ):
        pass
    model[3].requires_grad_(False)
    with live(model, Layout.of(names)) as place:
        place(torch.zeros(Layout.of(names).size))
        assert float(model[3].weight.abs().sum()) > 0
    with live(small(), Layout.of(dict(small().named_parameters()))) as place:  # naming frozen ones is allowed
        assert callable(place)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ((("0.weight", (8, 5)),), r"has shape \(8, 4\) in the model, but \(8, 5\)"),
        ((("5.weight", (8, 4)),), "not in the model"),
        ((("1.running_mean", (4,)),), "a buffer of the model"),
    ],
)
def test_parameters_of_another_model_are_refused(shapes, message):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(4))
    with pytest.raises(ParamsError, match=message), live(model, Layout(shapes)):
        pass


def test_a_vector_of_another_length_is_refused():
    model = small()
    with pytest.raises(ParamsError, match="cannot hold"), live(model, flat(model).layout) as place:
        place(torch.zeros(3))


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ParamsError, match="no parameter"):
        trainable(nn.ReLU())


def test_recalibration_gives_the_statistics_of_the_batches_and_leaving_gives_back_the_models_own():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.9))
    own = [buffer.clone() for buffer in running_statistics(model)]
    assert len(own) == 3
    batches = [torch.randn(50, 4), torch.randn(50, 4) + 3]
    with live(model, flat(model).layout) as place:
        place(flat(model).vector * 2)
        recalibrated(batches)(model)
        expected = model[0](torch.cat(batches)).mean(0)
        torch.testing.assert_close(model[1].running_mean, expected)
        assert not model[1].training
        assert model[1].momentum == 0.1
        unchanged(model)
        torch.testing.assert_close(model[1].running_mean, expected)
    assert all(torch.equal(a, b) for a, b in zip(own, running_statistics(model), strict=True))


def test_evaluating_restores_modes():
    model = small()
    with evaluating(model):
        assert not model[2].training
    assert model[2].training
