"""modes_into: what previa.modes gives, in memory that is there, for every family; and averages beside a slow oracle."""

import pytest
import torch

from previa import Diagonal, Full, Isotropic, Kronecker, mode_parts, modes
from previa.core import averages, weighted
from previa.core.into import modes_into
from previa.errors import AlphaError, InputError, NotFiniteError, ParamsError, PrecisionError
from test_core_laws import EXACT, FAMILIES, SHAPES, draw

ALPHA = (0.2, 0.3, 0.5)


def places(dtype=torch.float64):
    return {name: torch.full(shape, 7.0, dtype=dtype) for name, shape in SHAPES.items()}


def filled(alpha, posteriors, prior=None, dtype=torch.float64):
    params = places(dtype)
    memory = {name: tensor.data_ptr() for name, tensor in params.items()}
    modes_into([params], [alpha], posteriors, prior)
    assert {name: tensor.data_ptr() for name, tensor in params.items()} == memory
    return params


def assert_is(params, flat):
    for name, tensor in params.items():
        torch.testing.assert_close(tensor, flat[name], **EXACT)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_modes_are_written_in_place(family):
    posteriors = [FAMILIES[family](seed) for seed in range(3)]
    assert_is(filled(ALPHA, posteriors), modes([ALPHA], posteriors).params.row(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_many_weightings_are_written_at_once(family):
    posteriors, alphas = (
        [FAMILIES[family](seed) for seed in range(3)],
        [ALPHA, (1.0, 0.0, 0.0), (0.1, 0.1, 0.8)],
    )
    outs = [places(), places(torch.float32), places()]
    modes_into(outs, alphas, posteriors)
    expected = modes(alphas, posteriors).params
    assert_is(outs[0], expected.row(0))
    assert_is(outs[2], expected.row(2))
    assert all(torch.equal(outs[1][name], expected.row(1)[name].float()) for name in SHAPES)


@pytest.mark.parametrize("family", ["isotropic", "diagonal", "full"])
@pytest.mark.parametrize("alpha", [(0.1, 0.2, 0.3), (0.5, 0.4, 0.3)])
def test_a_prior_counts_with_what_is_left_also_below_zero(family, alpha):
    posteriors, prior = [FAMILIES[family](seed) for seed in range(3)], FAMILIES[family](9)
    if family != "isotropic":  # a prior that negative weight does not let win
        prior = (
            Diagonal(draw(9), 0.01) if family == "diagonal" else Full(draw(9), 1e-3 * torch.eye(10).double())
        )
    assert_is(filled(alpha, posteriors, prior), modes([alpha], posteriors, prior).params.row(0))


def test_gaussians_known_by_products_are_written_in_place():
    posteriors = [Kronecker(draw(seed), {}, 1.0) for seed in range(2)]
    assert_is(filled((0.5, 0.5), posteriors), modes([(0.5, 0.5)], posteriors).params.row(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_entries_are_rounded_to_the_dtype_of_their_place_once(dtype):
    posteriors = [FAMILIES["isotropic"](seed) for seed in range(3)]  # of float64
    found, exact = filled(ALPHA, posteriors, dtype=dtype), modes([ALPHA], posteriors).params.row(0)
    assert all(torch.equal(found[name], exact[name].to(dtype)) for name in SHAPES)


def test_a_models_own_parameters_are_overwritten_and_still_train():
    layer = torch.nn.Linear(3, 2)
    params = dict(layer.named_parameters())
    posteriors = [Isotropic({n: torch.full_like(p, k) for n, p in params.items()}) for k in (1.0, 3.0)]
    modes_into([params], [(0.5, 0.5)], posteriors)
    assert torch.equal(layer(torch.ones(3)), torch.full((2,), 8.0))
    layer(torch.ones(3)).sum().backward()
    assert layer.weight.grad is not None


def test_a_corner_is_the_task_bit_for_bit_and_reads_no_other():
    posteriors = [Isotropic(draw(seed, dtype=torch.float32), 1.0 + seed) for seed in range(3)]
    posteriors[2].mode().vector.fill_(float("nan"))
    for alpha, t in (((1, 0, 0), 0), ((0, 2, 0), 1)):
        found = filled([float(a) for a in alpha], posteriors, dtype=torch.float32)
        assert all(torch.equal(found[name], posteriors[t].mode()[name]) for name in SHAPES)


def test_pieces_of_averages_are_the_whole(monkeypatch):
    posteriors = [Isotropic({"w": torch.randn(5000, dtype=torch.float64)}, 1.0 + k) for k in range(3)]
    alphas = torch.rand(40, 3, dtype=torch.float64)
    p = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    means = torch.stack([q.mode().vector for q in posteriors])
    oracle = (alphas * p / (alphas * p).sum(1, keepdim=True)) @ means
    monkeypatch.setattr(averages, "PIECE", 2048)
    monkeypatch.setattr(weighted, "CACHE", 40 * 1024)
    parts = [(entries, values.clone()) for entries, values in mode_parts(alphas, posteriors)]
    assert [entries.start for entries, _ in parts] == [0, 1024, 2048, 3072, 4096]
    for found in (torch.cat([v for _, v in parts], -1), modes(alphas, posteriors).params.vector):
        torch.testing.assert_close(found, oracle, **EXACT)


def test_means_of_two_dtypes_are_averaged_in_the_wider():
    posteriors = [Isotropic(draw(0, dtype=torch.float32)), Isotropic(draw(1))]
    found = modes([[0.5, 0.5]], posteriors).params
    assert found.vector.dtype == torch.float64
    oracle = (posteriors[0].mode().vector.double() + posteriors[1].mode().vector) / 2
    torch.testing.assert_close(found.vector[0], oracle, **EXACT)


@pytest.mark.parametrize("spread", [1.0, 0.05])  # tasks that have little in common, and finetuned ones
@pytest.mark.parametrize("alpha", [ALPHA, (0.4, 0.35, 0.25), (1 / 3, 1 / 3, 1 / 3), (0.5, 0.25, 0.25)])
def test_bf16_entries_are_the_exact_ones(alpha, spread):
    draws = [torch.randn(2 * 10**5, generator=torch.Generator().manual_seed(s)) for s in range(4)]
    tasks = [(draws[3] * (spread < 1) + spread * each).bfloat16() for each in draws[:3]]
    exact = sum(a * theta.double() for a, theta in zip(alpha, tasks, strict=True)).bfloat16()
    params = {"w": torch.empty_like(exact)}
    modes_into([params], [alpha], [Isotropic({"w": theta}) for theta in tasks])
    # such weights put some averages on the middle between two numbers; summed in float32, up to 1.4 % of entries are off
    assert (params["w"] != exact).double().mean() <= 1e-3


def test_settled_numbers_are_the_nearest_of_20_bits():
    x = torch.randn(10**4, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.linspace(
        -30, 30, 10**4
    )
    mantissa, exponent = torch.frexp(x.double())
    nearest = torch.ldexp((mantissa * 2**20).round(), exponent - 20)
    found = x.clone()
    averages.settle(found)
    ties = (mantissa * 2**20).frac().abs() == 0.5  # away from zero here, to even there
    assert torch.equal(found.double()[~ties], nearest[~ties])
    edges = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 1.0, -1.0])
    settled = edges.clone()
    averages.settle(settled)
    assert torch.equal(settled, edges)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda p: p.pop("scale"), ParamsError, "'scale' is missing"),
        (lambda p: p.update(scale=torch.ones(2)), ParamsError, "'scale' has shape"),
        (lambda p: p.update(scale=torch.tensor(1)), ParamsError, r"outs\[1\]: tensor 'scale' is torch.int64"),
        (
            lambda p: p.update({"a.weight": torch.ones(2, 3).T}),
            ParamsError,
            r"'a.weight' .* strides \(1, 3\)",
        ),
    ],
)
def test_places_that_do_not_fit_are_named(change, error, words):
    params = places()
    change(params)
    with pytest.raises(error, match=words):
        modes_into([places(), params], [ALPHA, ALPHA], [FAMILIES["isotropic"](seed) for seed in range(3)])


def test_what_makes_no_model_is_refused():
    posteriors = [FAMILIES["isotropic"](seed) for seed in range(3)]
    with pytest.raises(InputError, match="no posteriors"):
        modes_into([], [], [])
    with pytest.raises(InputError, match="outs is one mapping, and there are 1 weightings"):
        modes_into(places(), [ALPHA], posteriors)
    with pytest.raises(InputError, match="outs is 1 mappings, and there are 2 weightings"):
        modes_into([places()], [ALPHA, ALPHA], posteriors)
    with pytest.raises(AlphaError, match="negative"):
        modes_into([places()], [(1.0, 0.5, -0.5)], posteriors)
    with pytest.raises(PrecisionError, match="gamma = -2"):
        modes_into([places()], [(1.0, 1.0, 1.0)], posteriors, Isotropic(draw(9), 100.0))
    other = Isotropic(dict(reversed(draw(1).items())))
    with pytest.raises(ParamsError, match="another order"):
        modes_into([places()], [(0.5, 0.5)], [posteriors[0], other])
    with pytest.raises(NotFiniteError, match=r"'a.weight': a merged value does not fit torch.float16"):
        filled((1.0,), [Isotropic({n: 1e5 * t.abs() + 1e5 for n, t in draw(0).items()})], dtype=torch.float16)
