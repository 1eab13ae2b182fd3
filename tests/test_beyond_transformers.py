"""The transformer studies beyond the paper: their shortcuts give what they stand for. Models are made from configurations."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))
pytest.importorskip("transformers")

from _beyond_sentiment import Turned
from _beyond_translation import coefficients, filled, products
from _sentiment_layers import First
from transformers import BertConfig, BertModel

from previa import Flat, Run, warp

WEIGHTS = ((0.3, 0.7), (1.0, 0.0), (0.0, 1.0))


@pytest.fixture
def layer():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=20, **sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return BertModel(config).eval().encoder.layer[0]


@pytest.mark.parametrize("kind", ["none", "numbers", "booleans"])
def test_maps_turned_to_the_query_give_what_the_layer_gives_at_the_first_token(layer, kind):
    hidden = torch.randn(3, 5, 16)
    seen = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]], dtype=torch.bool)[:, None, None]
    masks = {
        "none": None,
        "booleans": seen,
        "numbers": torch.zeros(3, 1, 1, 5).masked_fill(~seen, -torch.inf),
    }
    own, turned = First(layer), Turned(layer)
    assert torch.allclose(own(hidden, masks[kind]), turned(hidden, masks[kind]), atol=1e-6)


def test_maps_turned_to_the_query_have_the_gradients_of_the_layer(layer):
    hidden, found = torch.randn(3, 5, 16), []
    for module in (First(layer), Turned(layer)):
        layer.zero_grad()
        module(hidden).square().sum().backward()
        found.append({n: p.grad.clone() for n, p in layer.named_parameters()})
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], atol=1e-5), name


@pytest.fixture
def factors():
    """Of two tasks and one anchor: A [r, in], B [out, r]."""
    torch.manual_seed(1)
    return [Flat.of({"m.lora_A.w": torch.randn(2, 5), "m.lora_B.w": torch.randn(4, 2)}) for _ in range(3)]


def update(flat):
    return flat["m.lora_B.w"] @ flat["m.lora_A.w"]


@pytest.mark.parametrize("alpha", WEIGHTS)
@pytest.mark.parametrize("p", [1.0, 0.5])
def test_products_are_the_exact_weighted_sum_of_the_updates(factors, alpha, p):
    found = products(factors[:2], [], p, 6)(torch.tensor([alpha], dtype=torch.float64))
    w = warp(alpha, p).tolist()
    exact = sum(c * update(f) for c, f in zip(w, factors, strict=False))
    assert torch.allclose(update(found.params.row(0)), exact, atol=1e-5)


@pytest.mark.parametrize("p", [1.0, 0.25])
def test_products_go_through_the_update_of_an_anchor_and_of_the_tasks(factors, p):
    anchor = Run((0.5, 0.5), factors[2])
    at = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    found = products(factors[:2], [anchor], p, 6)(at)
    for row, own in enumerate((factors[2], factors[0], factors[1])):
        assert torch.allclose(update(found.params.row(row)), update(own), atol=1e-5)


def test_coefficients_of_runs_sum_to_one():
    alphas = torch.tensor([[0.1, 0.9], [0.6, 0.4], [0.5, 0.5]], dtype=torch.float64)
    found = coefficients(2, [(0.5, 0.5), (0.25, 0.75)], 0.5)(alphas)
    assert torch.allclose(found.sum(1), torch.ones(3), atol=1e-6)


def test_factors_filled_to_a_higher_rank_are_the_same_update_and_cut_off_again_the_same_factors(factors):
    wide = filled(factors[0], 7)
    assert wide["m.lora_A.w"].shape == (7, 5)
    assert torch.equal(update(wide), update(factors[0]))
    assert torch.equal(filled(wide, 2).vector, factors[0].vector)
