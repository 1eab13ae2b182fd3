"""Weighted finetuning: a corner is the task's own run, two ways to weigh agree, a seed decides everything."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from previa.core.diagonal import Diagonal
from previa.core.params import Flat
from previa.errors import AlphaError, InputError, NotFiniteError, ParamsError
from previa.run.draws import Source, generator, joined
from previa.run.finetune import finetune
from previa.run.live import trainable
from previa.run.recipe import AdamWRecipe, IvonRecipe, Recipe

IVON = Recipe(optimizer=IvonRecipe(lr=0.1, ess=100.0), steps=12, batch_size=8)
SUM = Recipe(optimizer=IvonRecipe(lr=0.1), steps=12, batch_size=8, convention="sum")
ADAMW = Recipe(optimizer=AdamWRecipe(lr=1e-2), steps=12, batch_size=8)
SAMPLED = Recipe(optimizer=IvonRecipe(lr=0.1, ess=100.0), steps=12, batch_size=8, sampling="sample")
RECIPES = {"ivon": IVON, "sum": SUM, "adamw": ADAMW, "sample": SAMPLED}


def model() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def data(*names: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    found = {}
    for number, name in enumerate("abc"):
        draw = torch.Generator().manual_seed(number)
        N = 20 + 15 * number
        found[name] = torch.randn(N, 5, generator=draw), torch.randint(3, (N,), generator=draw)
    return {name: found[name] for name in names or "abc"}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_corner_is_the_tasks_own_run_bit_for_bit(recipe):
    corner = finetune(model(), data(), (0, 1, 0), recipe, seed=5)
    alone = finetune(model(), data("b"), (1,), recipe, seed=5)
    assert torch.equal(corner.params.vector, alone.params.vector)
    assert torch.equal(corner.losses, alone.losses)
    assert corner.ess == alone.ess
    if corner.posterior is not None:
        assert torch.equal(corner.posterior.natural()[0], alone.posterior.natural()[0])


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_seed_decides_everything_and_the_global_state_nothing(recipe):
    torch.manual_seed(1)
    first = finetune(model(), data(), (0.5, 0.3, 0.2), recipe, seed=1)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = finetune(model(), data(), (0.5, 0.3, 0.2), recipe, seed=1)
    assert torch.equal(first.params.vector, second.params.vector)
    assert torch.equal(torch.get_rng_state(), state)
    other = finetune(model(), data(), (0.5, 0.3, 0.2), recipe, seed=2)
    assert not torch.equal(first.params.vector, other.params.vector)


def test_the_model_is_left_as_it_came():
    net = model()
    net[2].eval()
    net[0].weight.grad = torch.ones(8, 5)
    before = Flat.of(trainable(net)).vector.clone()
    found = finetune(net, data(), (0.5, 0.5, 0), IVON)
    assert torch.equal(Flat.of(trainable(net)).vector, before)
    assert not torch.equal(found.params.vector, before)
    assert net.training
    assert not net[2].training
    assert torch.equal(net[0].weight.grad, torch.ones(8, 5))


def test_training_lowers_the_weighted_loss():
    recipe = Recipe(optimizer=AdamWRecipe(lr=1e-2), steps=200, batch_size=20)
    found = finetune(model(), data(), (0.7, 0.2, 0.1), recipe)
    assert found.losses[-20:].mean() < 0.9 * found.losses[:20].mean()
    assert found.losses.shape == (200,)


@pytest.mark.parametrize("convention", ["mean", "sum"])
@pytest.mark.parametrize("sampling", ["loss", "sample"])
def test_both_ways_to_weigh_have_the_gradient_of_the_stated_objective(convention, sampling):
    alpha, sizes = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([20.0, 35.0, 50.0])
    q = alpha if convention == "mean" else alpha * sizes / (alpha * sizes).sum()
    net = model().eval()
    exact = torch.zeros(Flat.of(trainable(net)).layout.size)
    for weight, (inputs, targets) in zip(q, data().values(), strict=True):
        grads = torch.autograd.grad(cross_entropy(net(inputs), targets), list(net.parameters()))
        exact += weight * torch.cat([grad.reshape(-1) for grad in grads])
    recipe = Recipe(
        optimizer=AdamWRecipe(lr=0.0), steps=1500, batch_size=8, convention=convention, sampling=sampling
    )
    gradients = []

    def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        model.eval()
        return cross_entropy(model(batch[0]), batch[1], reduction="none")

    net[0].bias.register_post_accumulate_grad_hook(lambda p: gradients.append(p.grad.clone()))
    finetune(net, data(), alpha, recipe, loss=loss)
    drawn = torch.stack(gradients)
    assert drawn.shape == (1500, 8)
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert bool(((drawn.mean(0) - exact[40:48]).abs() < 4.5 * error + 1e-6).all())


def test_the_sum_convention_states_its_ess():
    assert finetune(model(), data(), (0, 1, 0), SUM).ess == 35
    assert finetune(model(), data(), (0.5, 0.5, 0), SUM).ess == pytest.approx(27.5)
    assert finetune(model(), data(), (0.5, 0.5, 0), IVON).ess == 100


def test_snapshots_are_the_posteriors_along_the_run():
    recipe = Recipe(optimizer=IvonRecipe(lr=0.1, ess=100.0), steps=12, batch_size=8, snapshots=(6, 12))
    found = finetune(model(), data(), (1, 0, 0), recipe)
    assert len(found.snapshots) == 2
    assert torch.equal(found.snapshots[1].mode().vector, found.posterior.mode().vector)
    half = finetune(model(), data(), (1, 0, 0), Recipe(optimizer=recipe.optimizer, steps=6, batch_size=8))
    assert torch.equal(found.snapshots[0].mode().vector, half.posterior.mode().vector)
    assert torch.equal(found.snapshots[0].natural()[0], half.posterior.natural()[0])
    assert found.memory == pytest.approx(0.999**12)


def test_a_warm_start_begins_at_the_given_parameters():
    net = model()
    start = Flat.of({name: p.detach() + 1 for name, p in trainable(net).items()})
    still = Recipe(optimizer=AdamWRecipe(lr=0.0), steps=1, batch_size=4)
    torch.testing.assert_close(
        finetune(net, data(), (1, 0, 0), still, start=start).params.vector, start.vector
    )
    warm = finetune(net, data(), (1, 0, 0), IVON, start=start)
    assert float((warm.params.vector - start.vector).norm()) < float(
        (warm.params.vector - start.vector + 1).norm()
    )
    with pytest.raises(ParamsError, match="start: tensor"):
        finetune(net, data(), (1, 0, 0), IVON, start={"0.weight": torch.ones(8, 5)})


def test_a_posterior_start_hands_over_its_precision_and_its_scale():
    net = model()
    still = Recipe(optimizer=IvonRecipe(lr=0.0, ess=100.0, betas=(0.9, 1 - 1e-12)), steps=1, batch_size=4)
    mean = Flat.of({name: p.detach() for name, p in trainable(net).items()})
    start = Diagonal(mean, Flat(mean.layout, torch.linspace(50, 150, mean.layout.size)))
    same = finetune(net, data(), (1, 0, 0), still, start=start)
    torch.testing.assert_close(same.posterior.natural()[0], start.natural()[0], rtol=1e-4, atol=0)
    scaled = finetune(net, data(), (1, 0, 0), still, start=start, start_ess=50.0)
    torch.testing.assert_close(scaled.posterior.natural()[0], 2 * start.natural()[0], rtol=1e-4, atol=0)


def test_a_posterior_whose_h_is_negative_somewhere_can_be_a_start():
    net = model()
    recipe = Recipe(optimizer=IvonRecipe(lr=0.1, ess=100.0, weight_decay=1e-2), steps=2, batch_size=4)
    mean = Flat.of({name: p.detach() for name, p in trainable(net).items()})
    start = Diagonal(mean, 0.5)  # h + delta = 0.005
    assert bool(torch.isfinite(finetune(net, data(), (1, 0, 0), recipe, start=start).params.vector).all())


class Items(torch.utils.data.Dataset):
    def __init__(self, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.pair = pair

    def __len__(self) -> int:
        return len(self.pair[0])

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {"x": self.pair[0][row], "y": self.pair[1][row]}


def test_data_sets_and_mappings_train_as_tensors_do():
    def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return cross_entropy(model(batch["x"]), batch["y"], reduction="none")

    plain = finetune(model(), data(), (0.5, 0.2, 0.3), IVON)
    items = finetune(model(), {t: Items(d) for t, d in data().items()}, (0.5, 0.2, 0.3), IVON, loss=loss)
    trees = finetune(
        model(), {t: {"x": x, "y": y} for t, (x, y) in data().items()}, (0.5, 0.2, 0.3), IVON, loss=loss
    )
    assert torch.equal(plain.params.vector, items.params.vector)
    assert torch.equal(plain.params.vector, trees.params.vector)


@pytest.mark.filterwarnings("error")
def test_arrays_and_lists_of_examples_train_as_tensors_do():
    def readonly(tensor: torch.Tensor) -> np.ndarray:
        array = tensor.numpy().copy()
        array.flags.writeable = False
        return array

    forms = {
        "arrays": lambda x, y: (x.numpy(), y.numpy()),
        "readonly": lambda x, y: (readonly(x), y),
        "reversed": lambda x, y: (x.numpy()[::-1].copy()[::-1], y.numpy().astype(">i8")),
        "pairs": lambda x, y: list(zip(x, y, strict=True)),
        "pairs of arrays": lambda x, y: list(zip(x.numpy(), y.tolist(), strict=True)),
    }
    plain = finetune(model(), data(), (0.5, 0.2, 0.3), IVON)
    for name, form in forms.items():
        found = finetune(model(), {t: form(*d) for t, d in data().items()}, (0.5, 0.2, 0.3), IVON)
        assert torch.equal(plain.params.vector, found.params.vector), name


def test_a_list_is_a_data_set_and_a_tuple_a_tree():
    x, y = torch.ones(6, 2), torch.zeros(6)
    assert len(Source("a", [(x[0], y[0])] * 3)) == 3
    assert len(Source("a", [{"x": x[0], "y": 1}] * 3)) == 3
    assert len(Source("a", [x[0]] * 3)) == 3
    assert len(Source("a", (x, [y, y]))) == 6
    assert len(Source("a", x.numpy())) == 6


def test_tasks_whose_shapes_differ_are_passed_one_by_one_with_the_same_gradient():
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.embed.weight.data = torch.arange(28.0).view(7, 4) / 28

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.embed(tokens).sum(1)

    draw = torch.Generator().manual_seed(0)
    short, targets = torch.randint(1, 7, (16, 3), generator=draw), torch.randint(4, (16,), generator=draw)
    recipe = Recipe(optimizer=AdamWRecipe(lr=1e-2), steps=3, batch_size=8)
    net = Bag()
    equal = finetune(net, {"a": (short, targets), "b": (short, targets)}, (0.5, 0.5), recipe)
    long = torch.cat([short, torch.full((16, 1), 0)], 1)  # one more token, the same for all examples

    def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return cross_entropy(model(batch[0][:, :3]), batch[1], reduction="none")

    ragged = finetune(net, {"a": (short, targets), "b": (long, targets)}, (0.5, 0.5), recipe, loss=loss)
    torch.testing.assert_close(equal.params.vector, ragged.params.vector)


def test_tied_weights_train_as_one():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(5, 5)
            self.second = nn.Linear(5, 5)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.relu(self.first(x)))

    net = Tied()
    found = finetune(net, data(), (0.5, 0.5, 0), IVON)
    assert list(found.params) == ["first.weight", "first.bias", "second.bias"]
    assert net.second.weight is net.first.weight


def test_running_statistics_come_with_the_result_and_leave_the_model():
    net = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
    found = finetune(net, data(), (0.5, 0.5, 0), ADAMW)
    assert int(found.statistics["1.num_batches_tracked"]) == 12
    assert int(net[1].num_batches_tracked) == 0


def test_several_samples_of_theta_a_step_make_the_curvature_less_noisy():
    def spread(samples: int) -> float:
        recipe = Recipe(
            optimizer=IvonRecipe(lr=0.0, ess=100.0, betas=(0.9, 0.0), samples=samples), steps=1, batch_size=8
        )
        runs = [finetune(model(), data(), (1, 0, 0), recipe, seed=s).posterior.natural()[0] for s in range(8)]
        return float(torch.stack(runs).std(0).mean())

    assert spread(16) < 0.5 * spread(1)


def test_a_loss_that_is_not_finite_names_task_weighting_and_step():
    broken = data()
    broken["b"][0][3] = torch.nan
    with pytest.raises(
        NotFiniteError, match=r"finetune at \(0.5, 0.5, 0\): the loss of task 'b' is NaN.* at step \d"
    ):
        finetune(model(), broken, (0.5, 0.5, 0), ADAMW)
    with pytest.raises(NotFiniteError, match="finetune at"):
        finetune(model(), data(), (1, 0, 0), Recipe(optimizer=AdamWRecipe(lr=1e30), steps=3, batch_size=8))


def test_losses_that_are_not_per_example_are_refused():
    with pytest.raises(InputError, match=r"shape \(\) for a batch of 16 examples.*reduction='none'"):
        finetune(model(), data(), (0.5, 0.5, 0), ADAMW, loss=lambda m, b: cross_entropy(m(b[0]), b[1]))


def test_bad_weights_recipes_and_data_are_refused():
    with pytest.raises(AlphaError):
        finetune(model(), data(), (0.5, 0.6, 0.1), ADAMW)
    with pytest.raises(InputError, match="one ess common"):
        Recipe(optimizer=IvonRecipe(lr=0.1), steps=5)
    with pytest.raises(InputError, match="must not be given"):
        Recipe(optimizer=IvonRecipe(lr=0.1, ess=5.0), steps=5, convention="sum")
    with pytest.raises(InputError, match="snapshot after step 6"):
        Recipe(optimizer=AdamWRecipe(lr=0.1), steps=5, snapshots=(6,))
    with pytest.raises(InputError, match="at least 1"):
        Recipe(optimizer=AdamWRecipe(lr=0.1), steps=0)
    with pytest.raises(InputError, match="'loss' or 'sample'"):
        Recipe(optimizer=AdamWRecipe(lr=0.1), steps=1, sampling="often")
    for bad, message in (
        ((torch.ones(3, 2), torch.ones(4)), "lengths"),
        (3, "its data is int"),
        ((torch.ones(0, 2),), "empty"),
        ([], "empty"),
        ("text", "its data is str"),
        (
            [torch.ones(4, 3), torch.ones(4)],
            r"list, of Tensor of torch.float32 \(4, 3\) and .* a tuple \(inputs, targets\)",
        ),
        (["one", "two"], "list, of str and str"),
        ((torch.ones(2, 2), [0, 1]), "a tuple that holds int; expected a tuple"),
        ((torch.ones(2, 2), np.array(["a", "b"])), "a tuple that holds ndarray of <U1"),
        (((torch.ones(3), torch.tensor(1)),) * 4, "single examples are handed in as a list|Single examples"),
    ):
        with pytest.raises(InputError, match=f"task 'a'.*{message}"):
            Source("a", bad)


def test_batches_join_only_where_their_structure_is_the_same():
    one, two = {"x": torch.ones(2, 3), "n": 5}, {"x": torch.ones(1, 3), "n": 5}
    assert joined([one, two])["x"].shape == (3, 3)
    assert joined([one, {**two, "n": 6}]) is None
    assert joined([one, {**two, "m": 6}]) is None
    assert joined([one, {"x": torch.ones(1, 4), "n": 5}]) is None


def test_streams_differ_by_name_and_seed():
    draws = [torch.rand(3, generator=generator(s, *n)) for s, n in ((0, ("a",)), (0, ("b",)), (1, ("a",)))]
    assert len({tuple(draw.tolist()) for draw in draws}) == 3
    np.testing.assert_array_equal(draws[0], torch.rand(3, generator=generator(0, "a")))
