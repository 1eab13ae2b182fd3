"""Kronecker factors are the second moments of what a loop over single examples sees, and only where that is right."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from previa.errors import InputError, NotFiniteError
from previa.fit.kronecker_factors import input_moments, kronecker_factors
from previa.fit.labels import Expected, Given, Sampled
from previa.fit.layer_moments import Expand, Reduce

# Float64: what is left is rounding of sums over some hundred terms.
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def loss(model, batch):
    """Half the squared norm of the output, weighted entry by entry so that no symmetry hides a mistake."""
    out = model(batch).flatten(1)
    weights = torch.linspace(0.3, 1.7, out.shape[1], dtype=out.dtype)
    return (weights * (out - 0.5) ** 2).sum(1) / 2


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def inputs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def oracle(model, place, batch, losses, patches=lambda module, a: a.reshape(1, -1, a.shape[-1])):
    """A (mean over positions) and B (sum over positions) of layer ``place`` of a Sequential, one example at a time."""
    layer, A, B = model[place], 0, 0
    for i in range(len(batch)):
        a = batch[i : i + 1] if place == 0 else model[:place](batch[i : i + 1])
        out = layer(a)
        rows = patches(layer, a)[0]
        rows = torch.cat([rows, torch.ones_like(rows[:, :1])], 1) if layer.bias is not None else rows
        A += rows.T @ rows / len(rows) / len(batch)
        for term in losses(model[place + 1 :](out)):
            (g,) = torch.autograd.grad(term.sum(), out, retain_graph=True)
            g = g[0].flatten(1).T if g.dim() == 4 else g.reshape(-1, g.shape[-1])
            B += g.T @ g / len(batch)
    return A.detach(), B.detach()


def half_square(out):
    return [loss(lambda _: out, None)]


@pytest.mark.parametrize("shape", [(6, 4), (6, 3, 4)], ids=["rows", "sequences"])
@pytest.mark.parametrize("place", [0, 2])
def test_factors_of_linear_layers_are_those_of_a_loop(shape, place):
    model, batch = mlp(), inputs(*shape)
    found = kronecker_factors(model, [batch], Given(loss)).mean[f"{place}.weight"]
    expected = oracle(model, place, batch, half_square)
    torch.testing.assert_close(found, expected, **EXACT)


def slow_patches(module, a):
    """Every window of the padded image by plain indexing, its entries in the order of the weight's."""
    (k, m), (s, t), (d, e) = module.kernel_size, module.stride, module.dilation
    a = functional.pad(a, (module.padding[1], module.padding[1], module.padding[0], module.padding[0]))
    high = (a.shape[2] - d * (k - 1) - 1) // s + 1
    wide = (a.shape[3] - e * (m - 1) - 1) // t + 1
    rows = [
        a[0, :, i * s : i * s + d * (k - 1) + 1 : d, j * t : j * t + e * (m - 1) + 1 : e].reshape(-1)
        for i in range(high)
        for j in range(wide)
    ]
    return torch.stack(rows)[None]


@pytest.mark.parametrize(
    "options", [{}, {"padding": 1}, {"stride": (2, 1), "padding": (0, 2)}, {"dilation": 2, "bias": False}]
)
def test_factors_of_convolutions_are_those_of_a_loop_over_patches(options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, (3, 2), **options), nn.Tanh()).double()
    batch = inputs(4, 2, 7, 6)
    found = kronecker_factors(model, [batch], Given(loss)).mean["0.weight"]
    torch.testing.assert_close(found, oracle(model, 0, batch, half_square, slow_patches), **EXACT)


def fisher(model, batch, names):
    """mean_i G_i G_i' of [weight, bias] of one layer, row by row, by the batch-1 loop."""
    parameters = [model.get_parameter(name) for name in names]
    total = 0
    for i in range(len(batch)):
        grads = torch.autograd.grad(loss(model, batch[i : i + 1]).sum(), parameters)
        G = torch.cat([grad.reshape(len(grad), -1) for grad in grads], 1).flatten()
        total += torch.outer(G, G) / len(batch)
    return total


@pytest.mark.parametrize("positions", [Expand(), Reduce()])
def test_for_one_example_the_kronecker_product_is_the_fisher(positions):
    model, batch = mlp(), inputs(1, 4)
    factors = kronecker_factors(model, [batch], Given(loss), positions=positions).mean
    for name, (A, B) in factors.items():
        torch.testing.assert_close(
            torch.kron(B, A), fisher(model, batch, [name, name.replace("weight", "bias")]), **EXACT
        )


def test_a_convolution_over_the_whole_image_is_a_linear_layer():
    """One position, one example: the Fisher itself, so the order of a patch's entries is the weight's."""
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Conv2d(2, 3, (4, 3), bias=False)).double(), inputs(1, 2, 4, 3)
    A, B = kronecker_factors(model, [batch], Given(loss)).mean["0.weight"]
    torch.testing.assert_close(torch.kron(B, A), fisher(model, batch, ["0.weight"]), **EXACT)


def test_reduce_is_exact_for_one_linear_sequence_averaged_at_the_end():
    """KFAC-reduce's own case: equal output gradients at all positions, so sum_r g_r a_r' = (sum_r g_r)(mean_r a_r)'."""

    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(1)

    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(4, 3), Mean()).double(), inputs(1, 5, 4)
    A, B = kronecker_factors(model, [batch], Given(loss), positions=Reduce()).mean["0.weight"]
    torch.testing.assert_close(torch.kron(B, A), fisher(model, batch, ["0.weight", "0.bias"]), **EXACT)


def test_expected_labels_are_the_weighted_sum_over_classes():
    model, batch = mlp(), inputs(5, 4)
    found = kronecker_factors(model, [batch], Expected(lambda model, batch: model(batch))).mean["2.weight"]

    def classes(out):
        log_p = out.log_softmax(1)
        return [-log_p[:, c] * log_p[:, c].detach().exp().sqrt() for c in range(3)]

    torch.testing.assert_close(found, oracle(model, 2, batch, classes), **EXACT)
    p = model(batch).softmax(1)  # B of the last layer is the known mean of diag(p) - p p'
    torch.testing.assert_close(found[1], (torch.diag(p.mean(0)) - p.T @ p / 5).detach(), **EXACT)


def test_drawn_labels_come_from_the_generator():
    model, batch = mlp(), inputs(5, 4)

    def draw(seed):
        labels = Sampled(lambda model, batch: model(batch), torch.Generator().manual_seed(seed))
        return kronecker_factors(model, batch.split(2), labels).mean["2.weight"][1]

    torch.testing.assert_close(draw(0), draw(0), **EXACT)
    assert not torch.allclose(draw(0), draw(1))


@pytest.mark.parametrize("sizes", [1, 2, [3, 0, 4]])
def test_how_examples_are_cut_into_batches_does_not_matter(sizes):
    model, batch = mlp(), inputs(7, 4)
    whole, cut = (
        kronecker_factors(model, batches, Given(loss)) for batches in ([batch], torch.split(batch, sizes))
    )
    assert cut.examples == whole.examples == 7
    for name in whole.mean:
        torch.testing.assert_close(cut.mean[name], whole.mean[name], **EXACT)
        torch.testing.assert_close(whole.sum[name][1], 7 * whole.mean[name][1])


def test_input_moments_are_the_factors_a_without_labels():
    model, batch = mlp(), inputs(7, 4)
    factors = kronecker_factors(model, [batch], Given(loss)).mean
    moments = input_moments(model, batch.split(3), lambda model, batch: model(batch))
    assert list(moments) == list(factors)
    for name, A in moments.items():
        torch.testing.assert_close(A, factors[name][0], **EXACT)


class Odd(nn.Module):
    """Layers that may not have factors, and one that may."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.good, self.twice, self.borrowed = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.tied, self.tied_too = nn.Linear(4, 4), nn.Linear(4, 4)
        self.tied_too.weight = self.tied.weight
        self.frozen_bias, self.frozen, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.grouped = nn.Conv2d(2, 4, (1, 2), groups=2)
        self.frozen_bias.bias.requires_grad_(False)
        self.frozen.weight.requires_grad_(False)
        self.unused = nn.Linear(4, 4)

    def forward(self, x):
        x = torch.tanh(self.good(x)) + self.tied(x) + self.tied_too(x)
        x = self.twice(torch.relu_(self.twice(x)))
        x = self.borrowed(x) + functional.linear(torch.sin(x), self.borrowed.weight)
        x = self.norm(self.frozen(self.frozen_bias(x)))
        return self.grouped(x.view(-1, 2, 1, 2)).flatten(1)


def test_layers_whose_gradient_their_own_use_does_not_explain_have_no_factors():
    model, batch = Odd().double(), inputs(6, 4)
    found = kronecker_factors(model, [batch], Given(loss))
    assert list(found.mean) == ["good.weight", "frozen_bias.weight"]
    assert found.mean["good.weight"][0].shape == (5, 5)  # with the bias
    assert found.mean["frozen_bias.weight"][0].shape == (4, 4)  # without
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(found.rest) == trainable - {"good.weight", "good.bias", "frozen_bias.weight"}


def test_a_change_in_place_after_a_layer_does_not_reach_its_gradient():
    torch.manual_seed(0)
    first, second = nn.Linear(4, 5), nn.Linear(5, 3)
    changed = nn.Sequential(first, nn.ReLU(inplace=True), second).double()
    kept = nn.Sequential(first, nn.ReLU(), second)
    one, other = (kronecker_factors(model, [inputs(6, 4)], Given(loss)).mean for model in (changed, kept))
    assert list(one) == ["0.weight", "2.weight"]
    for name in one:
        torch.testing.assert_close(one[name], other[name], **EXACT)


class SequenceFirst(nn.Module):
    """Positions along axis 0 inside, of which the end sees the mean, the first or the last."""

    def __init__(self, end):
        super().__init__()
        torch.manual_seed(0)
        self.end, self.inner, self.head = end, nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = torch.tanh(self.inner(x.transpose(0, 1)))
        return self.head(h.mean(0) if self.end == "mean" else h[self.end])


@pytest.mark.parametrize("end", ["mean", 0, -1])
@pytest.mark.parametrize("examples", [2, 5, 6])
def test_layers_with_positions_along_axis_0_have_no_factors(end, examples):
    """Also where there are as many positions as examples, which shapes do not tell apart."""
    model = SequenceFirst(end).double()
    found = kronecker_factors(model, [inputs(examples, n, 4) for n in (examples, 7)], Given(loss))
    assert list(found.mean) == ["head.weight"]
    assert found.rest == ("inner.weight", "inner.bias")


def test_models_stay_as_they_were():
    model, batch = mlp().eval(), inputs(3, 4)
    kronecker_factors(model, [batch], Given(loss))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_float32_models_have_float32_factors_that_were_summed_in_float64():
    model, batch = mlp(), inputs(40, 4)
    exact = kronecker_factors(model, [batch], Given(loss)).mean["2.weight"]
    rounded = kronecker_factors(model.float(), batch.float().split(1), Given(loss)).mean["2.weight"]
    assert rounded[0].dtype == torch.float32
    # float32 in the forward and backward pass of each example: a few 1e-7 of the largest entries
    torch.testing.assert_close(
        tuple(m.double() for m in rounded), exact, rtol=1e-5, atol=1e-6 * float(exact[0].max())
    )


def test_what_cannot_be_used_is_said():
    model = mlp()
    with pytest.raises(InputError, match="no examples"):
        kronecker_factors(model, [], Given(loss))
    with pytest.raises(InputError, match="no examples"):
        input_moments(model, [], lambda model, batch: model(batch))
    with pytest.raises(NotFiniteError, match=r"batch 1: the squared inputs of '0\.weight'"):
        kronecker_factors(model, [inputs(2, 4), inputs(2, 4) / 0.0], Given(loss))
    with pytest.raises(NotFiniteError, match=r"batch 1: the gradient of '0\.weight'"):
        kronecker_factors(model, [inputs(0, 4), inputs(2, 4) * torch.nan], Given(loss))
    with pytest.raises(NotFiniteError, match=r"batch 0: the gradient of '0\.weight'"):
        kronecker_factors(model, [inputs(2, 4)], Given(lambda model, batch: loss(model, batch) / 0.0))
    with pytest.raises(NotFiniteError, match=r"batch 0: the squared inputs of '0\.weight'"):
        input_moments(model, [inputs(2, 4) / 0.0], lambda model, batch: model(batch))
    with pytest.raises(InputError, match=r"Dropout.*eval\(\)"):
        kronecker_factors(nn.Sequential(nn.Linear(4, 3), nn.Dropout()), [inputs(2, 4)], Given(loss))


def test_a_layer_that_later_batches_use_otherwise_is_named():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x) if len(x) > 2 else self.layer(self.layer(x))

    with pytest.raises(InputError, match=r"batch 1 of 2 examples: the layer of 'layer\.weight'"):
        kronecker_factors(Moody().double(), [inputs(3, 4), inputs(2, 4)], Given(loss))
