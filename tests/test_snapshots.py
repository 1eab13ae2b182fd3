"""A posterior from checkpoints alone: the two-pass oracle, the order of snapshots, what never moved, and lazy reading."""

import pytest
import torch
from torch import Tensor

from previa.core.merge import merge
from previa.core.params import Params
from previa.errors import InputError, NotFiniteError, ParamsError, PrecisionError
from previa.fit.snapshots import snapshot_posterior
from previa.io.checkpoint import open_checkpoint, save_checkpoint

SHAPES = {"a.weight": (3, 4), "a.bias": (3,), "scale": ()}


def snapshot(seed: int, scale: float = 0.01, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A model near one base, as a run leaves it."""
    base, draw = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(shape, generator=base).double() + scale * torch.randn(shape, generator=draw).double()
        ).to(dtype)
        for name, shape in SHAPES.items()
    }


SIX = [snapshot(k) for k in range(6)]


def two_passes(snapshots: list[dict[str, Tensor]], name: str) -> tuple[Tensor, Tensor]:
    """(average, variance), all snapshots at once in float64."""
    stacked = torch.stack([one[name].double() for one in snapshots])
    return stacked.mean(0), stacked.var(0, correction=1)


@pytest.mark.parametrize("K", [2, 3, 6])
@pytest.mark.parametrize("floor", [1e-6, 0.1, 1.0, 10.0])
def test_mean_and_variance_are_those_of_two_passes(K, floor):
    found = snapshot_posterior(SIX[:K], floor=floor)
    for name in SHAPES:
        average, s2 = two_passes(SIX[:K], name)
        torch.testing.assert_close(found.mean[name], average.float())
        expected = 1 / torch.maximum(s2, floor * s2.mean())
        # float32's rounding of the result; the variance itself is summed in float64
        torch.testing.assert_close(found.precision[name], expected.float(), rtol=1e-6, atol=0)


def test_a_small_spread_around_large_parameters_is_not_lost_in_rounding():
    far = [{n: t.double() + 1e4 for n, t in snapshot(k, 1e-4, torch.float64).items()} for k in range(4)]
    found = snapshot_posterior(far, floor=1e-9)
    for name in SHAPES:
        _, s2 = two_passes(far, name)
        torch.testing.assert_close(found.precision[name], 1 / s2, rtol=1e-5, atol=0)
    assert found.mean["scale"].dtype == torch.float64


def test_the_order_of_snapshots_is_irrelevant():
    one, other = snapshot_posterior(SIX), snapshot_posterior([SIX[k] for k in (3, 1, 5, 0, 4, 2)])
    for there, back in zip(one.natural(), other.natural(), strict=True):
        torch.testing.assert_close(there, back, rtol=1e-6, atol=0)  # sums in another order


def test_shifting_the_snapshots_moves_the_mean_and_scaling_them_the_precision():
    shifted = [{n: t + 1 for n, t in one.items()} for one in SIX]
    scaled = [{n: 4 * t for n, t in one.items()} for one in SIX]  # a power of two: exact
    plain = snapshot_posterior(SIX)
    torch.testing.assert_close(snapshot_posterior(shifted).mean["a.bias"], plain.mean["a.bias"] + 1)
    torch.testing.assert_close(snapshot_posterior(scaled).precision["a.bias"], plain.precision["a.bias"] / 16)


def test_the_mean_may_be_the_last_snapshot():
    found = snapshot_posterior(SIX, mean=SIX[-1])
    assert all(torch.equal(found.mean[name], SIX[-1][name]) for name in SHAPES)
    assert torch.equal(found.natural()[0], snapshot_posterior(SIX).natural()[0])
    with pytest.raises(ParamsError, match="mean: tensor 'scale' is missing"):
        snapshot_posterior(SIX, mean={n: t for n, t in SIX[0].items() if n != "scale"})


def test_the_floor_is_relative_to_each_tensors_own_scale():
    tiny = [{n: t * (1e-6 if n == "a.weight" else 1.0) for n, t in one.items()} for one in SIX]
    plain, small = snapshot_posterior(SIX, floor=0.5), snapshot_posterior(tiny, floor=0.5)
    torch.testing.assert_close(small.precision["a.bias"], plain.precision["a.bias"])
    torch.testing.assert_close(
        small.precision["a.weight"], plain.precision["a.weight"] * 1e12, rtol=1e-4, atol=0
    )
    for name in SHAPES:
        limit = 1 / (0.5 * two_passes(SIX, name)[1].mean())
        assert float(plain.precision[name].max()) <= float(limit) * (1 + 1e-6)
    one = snapshot_posterior(SIX, floor=1e9)
    assert all(
        float(h.max() / h.min()) < 1 + 1e-6 for h in one.precision.values()
    )  # plain averaging in each tensor


def test_what_never_moved_has_the_smallest_precision():
    still = [{n: t.clone() for n, t in one.items()} for one in SIX]
    for one in still:
        one["a.weight"][1] = 7.0
        one["frozen"] = torch.full((2, 2), 3.0)
    found = snapshot_posterior(still, floor=0.1)
    h = found.precision["a.weight"]
    assert float(h[1].min()) == float(h[1].max()) == float(h.min()) > 0
    assert float(h[[0, 2]].max()) > float(h[1].max())
    everything = min(float(part.min()) for part in found.precision.values())
    assert found.precision["frozen"].unique().tolist() == pytest.approx([everything])
    assert bool((found.mean["frozen"] == 3).all())


def test_a_task_that_did_not_use_a_row_leaves_it_to_the_task_that_did():
    used, unused = ([{"rows": one["a.weight"].clone()} for one in SIX] for _ in range(2))
    for k, one in enumerate(unused):
        one["rows"][0] = 0.0  # never moved from its base
        one["rows"][1:] += 0.001 * k
    posteriors = [snapshot_posterior(used, floor=0.01), snapshot_posterior(unused, floor=0.01)]
    merged = merge([0.5, 0.5], posteriors).mode()["rows"][0]
    theirs = posteriors[0].mean["rows"][0]
    assert float(merged.norm() / theirs.norm()) > 0.6  # plain averaging would leave half of it


class Counted(dict):
    """Parameters that count how often each tensor was made, and how many are alive."""

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.reads: list[str] = []

    def __getitem__(self, name: str) -> Tensor:
        self.reads.append(name)
        return super().__getitem__(name)


def test_each_tensor_is_read_once_and_one_snapshot_after_another():
    counted = [Counted(one) for one in SIX]
    snapshot_posterior(counted)
    assert all(one.reads == list(SHAPES) for one in counted)


def test_checkpoints_are_read_lazily_and_in_any_order_of_names(tmp_path):
    paths = []
    for k, one in enumerate(SIX[:3]):
        paths.append(tmp_path / f"{k}.safetensors")
        save_checkpoint(paths[-1], one if k else {name: one[name] for name in reversed(one)})
    found = snapshot_posterior([open_checkpoint(path) for path in paths])
    expected = snapshot_posterior(SIX[:3])
    for name in SHAPES:
        assert torch.equal(found.precision[name], expected.precision[name])


def test_inputs_stay_as_they_are_and_half_precision_is_upcast():
    before = [{n: t.clone() for n, t in one.items()} for one in SIX]
    snapshot_posterior(SIX)
    assert all(torch.equal(a[n], b[n]) for a, b in zip(before, SIX, strict=True) for n in SHAPES)
    half = [snapshot(k, scale=1.0, dtype=torch.bfloat16) for k in range(4)]
    found = snapshot_posterior(half, floor=1e-6)
    for name in SHAPES:
        average, s2 = two_passes(half, name)
        torch.testing.assert_close(found.mean[name], average.float())
        torch.testing.assert_close(found.precision[name], (1 / s2).float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: s.pop("scale"), ParamsError, "snapshot 2 lacks tensor 'scale', unlike snapshot 0"),
        (
            lambda s: s.update(more=torch.ones(2)),
            ParamsError,
            "snapshot 2 has tensor 'more', unlike snapshot 0",
        ),
        (
            lambda s: s.update({"a.bias": torch.ones(4)}),
            ParamsError,
            r"snapshot 2: tensor 'a.bias' has shape \(4,\), but snapshot 0 has \(3,\)",
        ),
        (
            lambda s: s.update(scale=torch.tensor(float("nan"))),
            NotFiniteError,
            "snapshot 2: tensor 'scale' holds NaN",
        ),
        (lambda s: s.update(scale=torch.tensor(3)), ParamsError, "snapshot 2: tensor 'scale' is torch.int64"),
    ],
)
def test_a_snapshot_of_another_model_is_named(change, error, message):
    snapshots = [dict(one) for one in SIX[:3]]
    change(snapshots[2])
    with pytest.raises(error, match=message):
        snapshot_posterior(snapshots)


def test_what_gives_no_variance_is_refused():
    with pytest.raises(InputError, match="1 snapshots; a variance needs two at least"):
        snapshot_posterior(SIX[:1])
    with pytest.raises(InputError, match="floor is 0; expected a number above zero"):
        snapshot_posterior(SIX, floor=0)
    with pytest.raises(PrecisionError, match="all 3 snapshots are the same in every tensor"):
        snapshot_posterior([SIX[0]] * 3)


def test_a_tensor_that_never_moved_has_the_smallest_precision_of_all_under_any_floor():
    one, other = (
        {"a": torch.zeros(2), "b": torch.tensor([5.0])},
        {
            "a": torch.full((2,), 2.0),
            "b": torch.tensor([5.0]),
        },
    )
    for floor in (0.01, 1.0, 100.0):
        h = snapshot_posterior([one, other], floor=floor).precision
        assert float(h["b"]) == float(h["a"].min())


@pytest.mark.parametrize("apart", [1e-20, 1e30])
def test_a_precision_that_its_dtype_cannot_hold_is_not_blamed_on_training(apart):
    near = [{"a": torch.tensor([0.0, 1.0])}, {"a": torch.tensor([apart, 1.0])}]
    with pytest.raises(PrecisionError, match=r"tensor .a.: .*torch.float32\. Hand in float64"):
        snapshot_posterior(near)
    wide = [{"a": one["a"].double()} for one in near]
    assert float(snapshot_posterior(wide).precision["a"].min()) > 0


def test_an_iterator_or_one_snapshot_alone_is_refused_in_words():
    for wrong in (iter(SIX), SIX[0]):
        with pytest.raises(InputError, match=r"expected a list of snapshots"):
            snapshot_posterior(wrong)


def test_bare_tensors_are_no_snapshots_and_a_word_is_no_floor():
    with pytest.raises(ParamsError, match="snapshot 0: found a Tensor; expected tensors by name"):
        snapshot_posterior([torch.ones(2), torch.zeros(2)])
    with pytest.raises(InputError, match="floor is 'a'; expected a number above zero"):
        snapshot_posterior(SIX, floor="a")
