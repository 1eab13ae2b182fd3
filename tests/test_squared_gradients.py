"""Squared gradients are those of the loop over single examples, for every layer, tie, label mode and way of cutting."""

import math
from collections import UserDict
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from previa.errors import InputError, NotFiniteError
from previa.fit.labels import Expected, Given, Sampled
from previa.fit.squared_gradients import squared_gradients


def loss(model, batch):
    """Half the squared norm of the output, weighted entry by entry so that no symmetry hides a mistake."""
    out = model(batch).flatten(1)
    weights = torch.linspace(0.3, 1.7, out.shape[1], dtype=out.dtype)
    return (weights * (out - 0.5) ** 2).sum(1) / 2


HALF_SQUARE = Given(loss)


def oracle(model, batches, losses=lambda model, one: [loss(model, one)]):
    """The definition, in float64 sums: one example, one backward pass, square, add; then divide by N."""
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in params.items()}
    count = 0
    for batch in batches:
        for i in range(len(batch)):
            count += 1
            for term in losses(model, batch[i : i + 1]):
                grads = torch.autograd.grad(
                    term.sum(), list(params.values()), allow_unused=True, retain_graph=True
                )
                for name, grad in zip(params, grads, strict=True):
                    if grad is not None:
                        total[name] += grad.to_dense().double() ** 2
    return {name: tensor / count for name, tensor in total.items()}


def assert_close(found, expected, tolerance=1e-5):
    """Equal within ``tolerance`` of the tensor's largest entry: float32 rounding of products of some 100 terms."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        error = (found[name] - tensor).abs().max()
        assert error <= tolerance * tensor.abs().max(), f"{name}: {float(error)}"


def ways(result):
    return set(result.ways.values())


def images(*shape):
    return lambda B: torch.randn(B, *shape)


def tokens(high, *shape):
    return lambda B: torch.randint(high, (B, *shape))


class Scaled(nn.Embedding):
    """As in Gemma: an embedding that is none, since its forward multiplies."""

    def forward(self, x):
        return super().forward(x) * 7.0


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, x):
        return self.inner(torch.tanh(self.inner(x)))


class TiedDecoder(nn.Module):
    """Input and output embeddings are one parameter; positions have no batch axis, as in GPT."""

    def __init__(self, functionally):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, 6), nn.Embedding(8, 6)
        self.norm, self.inner = nn.LayerNorm(6), nn.Linear(6, 6)
        self.functionally = functionally
        if not functionally:
            self.head = nn.Linear(6, 11, bias=False)
            self.head.weight = self.tokens.weight

    def forward(self, x):
        h = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
        h = self.norm(torch.tanh(self.inner(h)))
        return functional.linear(h, self.tokens.weight) if self.functionally else self.head(h)


class Patches(nn.Module):
    """As in ViT: a module that owns two parameters and a layer, and uses the parameters itself."""

    def __init__(self):
        super().__init__()
        self.cls, self.positions = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(1, 5, 4))
        self.project = nn.Conv2d(2, 4, 2, 2)

    def forward(self, x):
        x = self.project(x).flatten(2).transpose(1, 2)
        return torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions


class MyNorm(nn.Module):
    """As in Llama: a root-mean-square norm of its own class."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 0.01)


class Attention(nn.Module):
    """nn.MultiheadAttention, whose output projection is used without a call of its module."""

    def __init__(self, batch_first):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first)

    def forward(self, x):
        x = self.inner(x)
        x = x if self.attention.batch_first else x.transpose(0, 1)
        y, _ = self.attention(x, x, x)
        return y if self.attention.batch_first else y.transpose(0, 1)


class Owner(nn.Module):
    """A model that owns a parameter itself."""

    def __init__(self):
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.tensor(1.3)), nn.Linear(3, 4)

    def forward(self, x):
        return self.scale * self.inner(x)


class Masked(nn.Module):
    """A replayed module with an argument that all examples share."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        mask = torch.ones(6, 6, dtype=torch.bool).triu(1)
        return self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]


class Functional(nn.Module):
    """A layer that is never called: its parameters are used by a function."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 4)

    def forward(self, x):
        return functional.linear(x, self.inner.weight, self.inner.bias)


class RelativeBias(nn.Module):
    """As in T5: a table looked up once for all examples, in a shape that cannot take one copy an example."""

    def __init__(self):
        super().__init__()
        self.table, self.inner = nn.Embedding(5, 2), nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x) + self.table(torch.arange(5) % 4).permute(1, 0).sum(1).mean()


class SharedMaximum(nn.Module):
    """A table looked up once for all examples, whose copies would change the result without an error."""

    def __init__(self):
        super().__init__()
        self.table, self.inner = nn.Embedding(5, 2), nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x) * self.table(torch.arange(5)).max(0).values.sum()


class InTwoUnits(nn.Module):
    """A layer called by the model and, inside another module with its own parameter, once more."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.outer = Outer(self.inner)

    def forward(self, x):
        return self.inner(torch.tanh(self.outer(x)))


class Outer(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.scale = inner, nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        return self.scale * self.inner(x)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x):
        return self.inner(x)[0]


class Sequence(nn.Module):
    """A convolution over time after an embedding, with the axes swapped on the way."""

    def __init__(self):
        super().__init__()
        self.tokens, self.conv = nn.Embedding(9, 6), nn.Conv1d(6, 4, 3, padding=1, groups=2)

    def forward(self, x):
        return self.conv(self.tokens(x).transpose(1, 2)).relu_()


def batch_norm(norm):
    """Running statistics and parameters away from 0 and 1."""
    with torch.no_grad():
        for tensor in (norm.running_mean, norm.weight, norm.bias):
            tensor.normal_()
        norm.running_var.uniform_(0.5, 2)
    return norm


HOOKED = {
    "linear": (lambda: nn.Linear(5, 3), images(5)),
    "linear, two in a row": (lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), images(5)),
    "linear without bias": (lambda: nn.Linear(5, 3, bias=False), images(5)),
    "linear over tokens": (lambda: nn.Linear(5, 3), images(7, 5)),
    "linear over two axes": (lambda: nn.Linear(5, 3), images(2, 4, 5)),
    "linear, too large for the cache": (lambda: nn.Linear(1100, 600), images(2, 1100)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), images(4, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), images(3, 8, 7)),
    "conv2d, uneven": (lambda: nn.Conv2d(3, 4, (3, 2), (2, 1), (1, 0), (1, 2)), images(3, 8, 7)),
    "conv2d, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2), images(4, 8, 7)),
    "conv2d, depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False), images(4, 6, 6)),
    "conv2d, same": (lambda: nn.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2)), images(3, 8, 7)),
    "conv2d, valid": (lambda: nn.Conv2d(3, 4, 3, padding="valid"), images(3, 8, 7)),
    "conv2d, reflect": (lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="reflect"), images(3, 8, 7)),
    "conv2d, circular same": (
        lambda: nn.Conv2d(3, 4, (4, 3), padding="same", padding_mode="circular"),
        images(3, 8, 7),
    ),
    "conv1d, replicate": (lambda: nn.Conv1d(3, 4, 3, padding=1, padding_mode="replicate"), images(3, 8)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, padding=1), images(2, 4, 3, 4)),
    "embedding": (lambda: nn.Embedding(9, 4), tokens(9, 6)),
    "embedding of one token": (lambda: nn.Embedding(9, 4), tokens(9)),
    "embedding, padding row": (lambda: nn.Embedding(5, 4, padding_idx=2), tokens(5, 6)),
    "embedding, sparse": (lambda: nn.Embedding(5, 4, sparse=True), tokens(5, 6)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4)), images(7, 5)),
    "layer norm over two axes": (lambda: nn.LayerNorm((3, 4)), images(2, 3, 4)),
    "layer norm without bias": (lambda: nn.LayerNorm(4, bias=False), images(4)),
    "rms norm": (lambda: nn.RMSNorm(4), images(3, 4)),
    "batch norm 1d": (lambda: nn.Sequential(nn.Linear(3, 4), batch_norm(nn.BatchNorm1d(4))), images(3)),
    "batch norm 1d over time": (lambda: batch_norm(nn.BatchNorm1d(4)), images(4, 5)),
    "batch norm 2d": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), batch_norm(nn.BatchNorm2d(4)), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1)
        ),
        images(2, 5, 5),
    ),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.GroupNorm(3, 6)), images(2, 5, 5)),
    "first layer changed in place": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True)),
        images(4),
    ),
    "called twice": (Twice, images(5)),
    "one module at two places": (lambda: nn.Sequential(m := nn.Linear(4, 4), nn.Tanh(), m), images(3, 4)),
    "tied embeddings": (lambda: TiedDecoder(functionally=False), tokens(11, 7)),
    "scaled embedding": (lambda: nn.Sequential(Scaled(9, 4), nn.Linear(4, 2)), tokens(9, 6)),
    "scaled embedding, padding row": (
        lambda: nn.Sequential(Scaled(9, 4, padding_idx=2), nn.Linear(4, 2)),
        tokens(9, 6),
    ),
    "embedding and convolution": (Sequence, tokens(9, 5)),
    "float64": (lambda: nn.Linear(5, 3).double(), lambda B: torch.randn(B, 5).double()),
}
REPLAYED = {
    "embedding, gradient by frequency": (
        lambda: nn.Sequential(nn.Embedding(5, 4, scale_grad_by_freq=True)),
        tokens(5, 6),
    ),
    "embedding, norm bounded": (lambda: nn.Sequential(nn.Embedding(5, 4, max_norm=0.5)), tokens(5, 6)),
    "patches": (lambda: nn.Sequential(Patches(), nn.Linear(4, 3)), images(2, 4, 4)),
    "layer inside and outside of a unit": (InTwoUnits, images(4)),
    "own norm": (lambda: nn.Sequential(nn.Linear(3, 4), MyNorm(), nn.Linear(4, 2)), images(5, 3)),
    "prelu": (lambda: nn.Sequential(nn.Linear(3, 4), nn.PReLU(4)), images(3)),
    "transposed convolution": (lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 3)), images(2, 4, 4)),
    "attention": (lambda: Attention(batch_first=True), images(5, 4)),
    "lstm": (Recurrent, images(5, 3)),
    "patched forward": (lambda: nn.Sequential(patched(nn.Linear(3, 4)), nn.Linear(4, 2)), images(3)),
    "weight norm": (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))), images(3)),
    "transformer layer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), images(5, 4)),
}
LOOPED = {
    "parameter of the model itself": (Owner, images(3)),
    "layer used functionally": (Functional, images(3)),
    "attention with a mask as long as the batch": (Masked, images(6, 4)),
    "relative bias": (RelativeBias, images(4)),
    "shared maximum": (SharedMaximum, images(4)),
    "embedding tied functionally": (lambda: TiedDecoder(functionally=True), tokens(11, 7)),
    "attention with the batch second": (lambda: Attention(batch_first=False), images(3, 4)),
    "attention with the batch second, as many": (lambda: Attention(batch_first=False), images(6, 4)),
}


def patched(module):
    module.forward = lambda x: 3 * functional.linear(x, module.weight, module.bias)
    return module


def table():
    for way, cases in (("hook", HOOKED), ("replay", REPLAYED), ("loop", LOOPED)):
        for name, (make, data) in cases.items():
            yield pytest.param(make, data, way, id=name)


@pytest.mark.filterwarnings(
    "ignore:Using padding='same' with even kernel lengths"
)  # torch's own, about speed
@pytest.mark.parametrize(("make", "data", "way"), [*table()])
def test_every_module_gives_what_the_loop_over_single_examples_gives(make, data, way):
    torch.manual_seed(0)
    model = make().eval()
    batches = [data(6), data(3), data(1)]
    result = squared_gradients(model, batches, HALF_SQUARE)
    assert_close(result.mean, oracle(model, batches))
    assert way in ways(result), result.note
    assert bool(result.note) == (way == "loop")
    assert ways(result) <= {"hook", way}
    assert result.examples == 10
    assert result.mean.vector.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(("make", "data", "way"), [*table()])
def test_the_cut_into_batches_does_not_matter(make, data, way):
    torch.manual_seed(1)
    model, examples = make().eval(), data(7)
    whole = squared_gradients(model, [examples], HALF_SQUARE)
    for size in (1, 4):
        assert_close(squared_gradients(model, examples.split(size), HALF_SQUARE).mean, whole.mean)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([1, 2]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.one_of(st.integers(0, 2), st.just("valid"), st.just("same")),
    st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
)
def test_every_convolution(groups, kernel, stride, dilation, padding, mode):
    stride = 1 if padding == "same" else stride
    torch.manual_seed(0)
    kinds = {"stride": stride, "padding": padding, "dilation": dilation, "padding_mode": mode}
    model = nn.Conv2d(2, 4, (3, kernel), groups=groups, **kinds)
    x = torch.randn(3, 2, 7, 8)
    result = squared_gradients(model, [x], HALF_SQUARE)
    assert ways(result) == {"hook"}, result.note
    assert_close(result.mean, oracle(model, [x]))


def test_a_value_worked_out_by_hand():
    # y = w x + b with w = (2, -1), b = 1; loss = y^2/2, so d/dw = y x and d/db = y.
    # x = (1, 1): y = 2, squares (4, 4) and 4. x = (0, 2): y = -1, squares (0, 4) and 1.
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, -1.0]]))
        model.bias.fill_(1.0)
    batch = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    result = squared_gradients(model, [batch], Given(lambda model, x: model(x)[:, 0] ** 2 / 2))
    assert result.mean["weight"].tolist() == [[2.0, 4.0]]
    assert result.mean["bias"].tolist() == [2.5]
    assert result.sum["weight"].tolist() == [[4.0, 8.0]]
    assert result.provenance == {"source": "squared_gradients", "examples": 2, "label_mode": "given"}


def test_it_is_not_the_square_of_the_mean_gradient():
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    batch = torch.tensor([[1.0], [-1.0]])  # gradients 1 and -1: their mean is zero, the mean of squares one
    result = squared_gradients(model, [batch], Given(lambda model, x: model(x)[:, 0]))
    assert result.mean["weight"].item() == 1.0


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def logits(model, x):
    return model(x)


def test_expected_labels_equal_the_definition():
    model, x = classifier(), torch.randn(7, 4)

    def weighted(model, one):
        log_p = model(one).log_softmax(1)[0]
        return [log_p.detach()[c].mul(0.5).exp() * -log_p[c] for c in range(3)]

    assert_close(squared_gradients(model, x.split(3), Expected(logits)).mean, oracle(model, [x], weighted))


def test_expected_labels_are_the_average_over_many_sampled_ones():
    model, x = classifier(), torch.randn(6, 4)
    exact = squared_gradients(model, [x], Expected(logits)).mean.vector
    many = x.repeat(2000, 1)
    sampled = squared_gradients(model, [many], Sampled(logits, torch.Generator().manual_seed(0))).mean.vector
    # 12,000 draws: the standard error is about 1 % of the larger entries; 5 of them.
    assert ((sampled - exact).abs() <= 0.05 * exact.max()).all()


def test_sampled_labels_follow_their_generator_and_not_the_cut_into_batches():
    model, x = classifier(), torch.randn(40, 4)

    def draw(seed, batches):
        return squared_gradients(model, batches, Sampled(logits, torch.Generator().manual_seed(seed))).mean

    assert_close(draw(3, x.split(7)), draw(3, [x]))
    assert not torch.allclose(draw(4, [x]).vector, draw(3, [x]).vector)
    # The same draws by the loop, for a model that needs it.
    model = Functional()
    looped = squared_gradients(model, x[:, :3].split(7), Sampled(logits, torch.Generator().manual_seed(3)))
    whole = squared_gradients(model, [x[:, :3]], Sampled(logits, torch.Generator().manual_seed(3)))
    assert ways(looped) == {"loop"}
    assert_close(looped.mean, whole.mean)


def test_sampled_labels_have_the_models_frequencies():
    p = torch.tensor([0.5, 0.2, 0.3])
    drawn = Sampled(logits, torch.Generator().manual_seed(0)).targets(p.log().expand(40_000, 3))
    counts = torch.bincount(drawn, minlength=3) / 40_000
    assert ((counts - p).abs() < 4 * (p * (1 - p) / 40_000).sqrt()).all()  # four standard errors


@pytest.mark.parametrize("labels", [Given(loss), Expected(logits), Sampled(logits, torch.Generator())])
def test_tied_parameters_are_summed_before_squaring_in_every_label_mode(labels):
    torch.manual_seed(0)
    model, x = Twice(), torch.randn(6, 5)
    torch.manual_seed(0)
    alone = nn.Linear(5, 5)
    tied = nn.Sequential(alone, nn.Tanh(), nn.Linear(5, 5))
    tied[2].weight, tied[2].bias = alone.weight, alone.bias
    if isinstance(labels, Sampled):
        labels.generator.manual_seed(0)
    once = squared_gradients(model, [x], labels).mean
    if isinstance(labels, Sampled):
        labels.generator.manual_seed(0)
    assert torch.allclose(once.vector, squared_gradients(tied, [x], labels).mean.vector)


def test_unused_parameters_are_zero_and_frozen_ones_absent():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = classifier(), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    model, x = Half(), torch.randn(5, 4)
    model.used[0].weight.requires_grad_(False)
    result = squared_gradients(model, [x], HALF_SQUARE)
    assert list(result.mean) == [
        "used.0.bias",
        "used.2.weight",
        "used.2.bias",
        "unused.weight",
        "unused.bias",
    ]
    assert not result.mean["unused.weight"].any()
    assert_close(result.mean, oracle(model, [x]))
    assert ways(result) == {"hook"}


def state(model):
    return {
        "modes": [module.training for module in model.modules()],
        "flags": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": [
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
            for m in model.modules()
        ],
        "values": [p.detach().clone() for p in model.parameters()],
    }


def assert_same_state(before, after):
    for part in ("modes", "flags", "hooks"):
        assert before[part] == after[part]
    for part in ("grads", "values"):
        for x, y in zip(before[part], after[part], strict=True):
            assert (x is None and y is None) or torch.equal(x, y)


@pytest.mark.parametrize("make", [Twice, lambda: Attention(True), Functional], ids=["hook", "replay", "loop"])
def test_the_model_is_left_as_it_was(make):
    model = make().train()  # nothing in them depends on the mode
    next(model.parameters()).requires_grad_(False)
    last = list(model.parameters())[-1]
    last.grad = torch.ones_like(last)
    x = torch.randn(4, 5, next(model.parameters()).shape[-1])
    before = state(model)
    squared_gradients(model, [x], HALF_SQUARE)
    assert_same_state(before, state(model))


@pytest.mark.parametrize("where", ["forward", "loss"])
def test_an_exception_leaves_no_hooks_and_no_frozen_parameters(where):
    class Broken(nn.Module):
        def forward(self, x):
            if where == "forward":
                raise ZeroDivisionError
            return x

    model = nn.Sequential(nn.Linear(3, 3), Broken())
    before = state(model)

    def divide(model, x):
        model(x)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        squared_gradients(model, [torch.randn(2, 3)], Given(divide))
    assert_same_state(before, state(model))


@pytest.mark.parametrize(
    "module",
    [
        nn.Dropout(0.1),
        nn.BatchNorm1d(3),
        nn.InstanceNorm1d(3, track_running_stats=True),
        nn.LSTM(3, 3, num_layers=2, dropout=0.5),
        nn.MultiheadAttention(3, 1, dropout=0.5),
    ],
    ids=lambda module: type(module).__name__,
)
def test_training_mode_is_refused_where_it_matters(module):
    model = nn.Sequential(nn.Linear(3, 3), module).train()
    with pytest.raises(InputError, match=r"module '1' .* Call model\.eval\(\) first"):
        squared_gradients(model, [torch.randn(4, 3)], HALF_SQUARE)


def test_batch_statistics_in_eval_mode_are_refused():
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)).eval()
    with pytest.raises(InputError, match="track_running_stats=False"):
        squared_gradients(model, [torch.randn(4, 3)], HALF_SQUARE)


def test_training_mode_without_chance_is_fine():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0)).train()
    x = torch.randn(4, 3)
    assert_close(squared_gradients(model, [x], HALF_SQUARE).mean, oracle(model, [x]))


def test_losses_that_mix_examples_are_refused():
    model = nn.Linear(3, 2)
    centred = Given(lambda model, x: ((model(x) - model(x).mean(0)) ** 2).sum(1))
    with pytest.raises(InputError, match=r"batch 0: its first 2 examples have the losses .* alone"):
        squared_gradients(model, [torch.randn(5, 3)], centred)


def test_functional_dropout_is_refused():
    model = nn.Sequential(nn.Linear(30, 20))
    noisy = Given(lambda model, x: functional.dropout(model(x), 0.5, training=True).square().sum(1))
    with pytest.raises(InputError, match="depends on chance"):
        squared_gradients(model, [torch.randn(5, 30)], noisy)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_named_with_its_batch(bad):
    model, x = classifier(), torch.randn(6, 4)
    x[4, 1] = bad
    with pytest.raises(NotFiniteError, match=r"batch 2: .*'0\.weight'"):
        squared_gradients(model, x.split(2), HALF_SQUARE)


def test_a_wrong_shape_of_losses_or_logits_is_explained():
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    with pytest.raises(InputError, match=r"shape \(\), but the batch has 4 examples.*reduction='none'"):
        squared_gradients(model, [x], Given(lambda model, x: model(x).sum()))
    for labels in (Expected(lambda m, x: m(x).sum(1)), Sampled(lambda m, x: m(x).sum(1), torch.Generator())):
        with pytest.raises(InputError, match=r"shape \(4,\).*Expected \(4, C\)"):
            squared_gradients(model, [x], labels)


def test_batches_are_any_nesting_and_others_need_a_split():
    model, x, y = nn.Linear(3, 2), torch.randn(4, 3), torch.tensor([0, 1, 1, 0])

    def nested(model, batch):
        return functional.cross_entropy(model(batch["x"][0]) * batch["scale"], batch["y"], reduction="none")

    class Pair(NamedTuple):
        x: list
        rest: UserDict

    class Bag:
        def __init__(self, x, y):
            self.x, self.y = x, y

    def bagged(model, bag):
        return functional.cross_entropy(model(bag.x) * 2, bag.y, reduction="none")

    batch = {"x": [x], "y": y, "scale": torch.tensor(2.0), "name": "a batch"}
    expected = squared_gradients(model, [batch], Given(nested)).mean
    pair = Pair([x], UserDict(y=y, scale=torch.tensor(2.0)))
    named = Given(lambda m, b: nested(m, {"x": b.x, "y": b.rest.data["y"], "scale": b.rest["scale"]}))
    assert_close(squared_gradients(model, [pair], named).mean, expected)
    with pytest.raises(InputError, match="split="):
        squared_gradients(model, [Bag(x, y)], Given(bagged))

    def split(bag):
        return [Bag(bag.x[i : i + 1], bag.y[i : i + 1]) for i in range(len(bag.x))]

    assert_close(squared_gradients(model, [Bag(x, y)], Given(bagged), split=split).mean, expected)
    with pytest.raises(InputError, match=r"lengths \[3, 4\]"):
        squared_gradients(model, [(x, y[:3])], Given(lambda m, b: m(b[0]).sum(1)))


def test_nothing_to_do_is_an_error():
    with pytest.raises(InputError, match="no examples"):
        squared_gradients(nn.Linear(3, 2), [], HALF_SQUARE)
    with pytest.raises(InputError, match="requires_grad is False"):
        squared_gradients(nn.Linear(3, 2).requires_grad_(False), [torch.randn(2, 3)], HALF_SQUARE)


def test_the_check_finds_a_wrong_hook():
    # An embedding table looked up once for all examples, whose rows are as many as the examples: not per example.
    class Bias(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.inner = nn.Embedding(4, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.inner(x) @ self.table(torch.arange(4)).t()

    model, x = Bias(), torch.randn(4, 3)
    checked = squared_gradients(model, [x], HALF_SQUARE)
    assert "differ from the loop" in checked.note
    assert_close(checked.mean, oracle(model, [x]))
    assert ways(squared_gradients(model, [x], HALF_SQUARE, check=0)) == {"hook"}


def test_a_kink_that_rounding_opens_does_not_send_a_model_to_the_loop():
    # A ReLU at zero up to rounding, which depends on the batch's size: the losses agree, the gradients do not.
    class Kink(nn.Module):
        def forward(self, x):
            return torch.relu(x + (1e-9 if len(x) > 1 else -1e-9))

    model, x = nn.Sequential(nn.Linear(3, 2, bias=False), Kink(), nn.Linear(2, 2)), torch.randn(4, 3)
    with torch.no_grad():
        model[0].weight[0] = 0
    assert ways(squared_gradients(model, [x], HALF_SQUARE)) == {"hook"}


def test_the_check_waits_for_a_batch_of_several_examples():
    model, x = SharedMaximum(), torch.randn(5, 4)
    batches = [x[:1], x[1:]]  # alone, an example can be told apart from no other
    result = squared_gradients(model, batches, HALF_SQUARE)
    assert result.ways == {"table.weight": "loop", "inner.weight": "hook", "inner.bias": "hook"}
    assert_close(result.mean, oracle(model, batches))


def test_empty_batches_add_nothing():
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    result = squared_gradients(model, [x[:0], x, x[:0]], HALF_SQUARE)
    assert result.examples == 4
    assert_close(result.mean, oracle(model, [x]))


def test_a_batch_of_half_precision_is_summed_in_float32():
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)).bfloat16(),
        torch.randn(16, 8).bfloat16(),
    )
    result = squared_gradients(model, [x], Given(lambda m, x: m(x).float().square().sum(1)))
    wide = squared_gradients(model.float(), [x.float()], Given(lambda m, x: m(x).square().sum(1)))
    assert ways(result) == {"hook"}
    assert_close(result.mean, wide.mean, tolerance=0.05)  # bfloat16 keeps 8 bits


def test_inputs_that_ask_for_gradients_keep_theirs():
    model, x = nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    result = squared_gradients(model, [x], HALF_SQUARE)
    assert x.grad is None
    assert_close(result.mean, oracle(model, [x.detach()]))


def test_it_works_without_gradients_switched_on():
    model, x = Twice(), torch.randn(4, 5)
    with torch.no_grad():
        result = squared_gradients(model, [x], HALF_SQUARE)
    assert_close(result.mean, oracle(model, [x]))
