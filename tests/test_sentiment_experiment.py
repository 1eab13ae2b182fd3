"""Figures 5 and 6: cutting an encoder to its top layers changes nothing but the time, and no test text is trained on."""

import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

pytest.importorskip("transformers")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "experiments"
RESULTS = ROOT / "docs" / "experiments"


@pytest.fixture
def module(monkeypatch):
    """module(name) -> a script of experiments/, imported as they import each other."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def classifier(kind):
    """A small classifier of three layers, the same at each call."""
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        RobertaConfig,
        RobertaForSequenceClassification,
    )

    config, build = {
        "bert": (BertConfig, BertForSequenceClassification),
        "roberta": (RobertaConfig, RobertaForSequenceClassification),
    }[kind]
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    return build(config(**sizes)).eval()


@pytest.fixture
def tokens():
    """Texts of lengths 1 to 8, padded to 9."""
    ids = torch.randint(5, 50, (8, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) <= torch.arange(8)[:, None]).long()
    return {"input_ids": ids * mask + (1 - mask), "attention_mask": mask}


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("top", [1, 2])
def test_a_model_cut_to_its_top_layers_is_the_whole_model(module, tokens, kind, top):
    """Logits and gradients of the top parameters, up to the rounding of float32."""
    layers = module("_sentiment_layers")
    labels, mask = torch.arange(8) % 2, tokens["attention_mask"]
    whole, cut = classifier(kind), layers.upper(classifier(kind), top)
    hidden = layers.lower(classifier(kind), top, tokens)
    expected, found = whole(**tokens).logits, cut(inputs_embeds=hidden, attention_mask=mask).logits
    assert torch.allclose(found, expected, atol=1e-6)
    for logits in (expected, found):
        cross_entropy(logits, labels).backward()
    own, every = dict(cut.named_parameters()), dict(whole.named_parameters())
    assert 0 < len(own) < len(every)
    for name, parameter in own.items():
        assert torch.allclose(parameter.grad, every[name].grad, atol=1e-6), name


def test_the_first_token_of_a_layer_does_not_see_padding(module, tokens):
    layers = module("_sentiment_layers")
    cut, mask = layers.upper(classifier("bert"), 1), tokens["attention_mask"]
    hidden = layers.lower(classifier("bert"), 1, tokens)
    other = hidden + 7.0 * (1 - mask)[..., None]  # in the padding
    a, b = (cut(inputs_embeds=h, attention_mask=mask).logits for h in (hidden, other))
    assert torch.equal(a, b)


def test_sentences_are_the_same_whatever_their_marks(module):
    rows = [(1, "A fine film !"), (0, "dull")]
    assert module("_sentiment_data").without(rows, [(1, "a FINE film.")]) == [(0, "dull")]


def test_no_test_sentence_is_among_those_trained_on(module):
    """RT and SST-2 share their source (data README); the four sets as the experiment reads them."""
    sets = module("_sentiment_data")
    try:
        texts = sets.from_files()
    except SystemExit:
        pytest.skip("there is no sentiment/ in $PREVIA_DATA or ../shared/data")
    trained = [row for task in sets.TASKS for row in texts[task][0]]
    for task in sets.TASKS:
        assert len(sets.without(texts[task][1], trained)) == len(texts[task][1]), task
    for part in texts["SST-2"]:
        assert len(sets.without(texts["RT"][0], part)) == len(texts["RT"][0])


def test_words_by_checksums_are_never_padding(module):
    ids, mask = module("_sentiment_data").checksums(7, 4)(["a b", "", "one two three four five"])
    assert mask.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert ids[0, 2:].tolist() == [0, 0]
    assert ids[2].min() >= 3
    assert ids.max() < 7


def test_the_papers_runs_are_as_long_as_the_papers(module):
    """B.5: 5, 5 and 2 epochs for the tasks, 3 on the concatenation, batches of 16."""
    s = module("fig5_fig6_sentiment").scales("")["paper"]
    sizes = 8530, 67_349, 112_000  # RT, SST-2, a fifth of Yelp
    assert [s.steps(e, n) for e, n in zip(s.own_epochs, sizes, strict=True)] == [2666, 21_047, 14_000]
    assert s.steps(s.joint_epochs, sum(sizes)) == 35_227
    assert max(sizes) <= s.training
    assert (s.top, s.hub, s.batch) == (0, True, 16)


def test_the_pairs_are_the_edges_of_the_triangle(module):
    script = module("fig5_fig6_sentiment")
    rows = script.rows(script.scales("")["paper"])
    for t in range(3):
        edge = rows[rows[:, t] == 0]
        assert np.allclose(np.sort(edge[:, t - 1]), np.linspace(0, 1, 21))
    assert len(rows) == 66 + 1 + 30  # spacing 0.1, uniform, and the odd multiples of 0.05 on the edges
    assert sorted(map(tuple, rows.tolist()), key=script.coarse)[-1].count(0.0) == 1


NAMES = {
    "simple averaging": "simple",
    "squared gradients with the base's, prior 0.001": "squared_gradients",
    "the same, expected labels": "squared_gradients_expected",
    **{f"without the base's, prior {p}": f"squared_gradients_prior_{p}" for p in ("10", "0.1", "0.001")},
    "RegMean (inputs' second moments)": "regmean",
    "mixture of 2 seeds, EM": "mixture_2",
    "averaging, both seeds pooled": "simple_2_pooled",
    "weights alpha^0.5: averaging": "simple_warped",
    "weights alpha^0.5: squared gradients": "squared_gradients_warped",
}
PAIRS = {"RT, SST-2": "rt_sst2", "RT, Yelp": "rt_yelp", "SST-2, Yelp": "sst2_yelp"}


def table(head):
    """The rows of the page's table that begins with this heading, without marks of emphasis."""
    page = (RESULTS / "fig5_fig6_sentiment.md").read_text(encoding="utf-8")
    lines = page.split(f"\n| {head} |")[1].split("\n\n")[0].split("\n")[2:]
    return {
        row[0]: row[1:] for row in ([c.strip(" *") for c in line.strip("| ").split("|")] for line in lines)
    }


def agree(text, value):
    """Whether ``text`` is the value, rounded to as many digits."""
    return abs(float(text) - value) <= 0.5001 * 10.0 ** -len(text.split(".")[1])


def test_the_page_has_the_numbers_of_its_json():
    methods = json.loads((RESULTS / "fig6_sentiment.json").read_text())["methods"]
    rows = table("method")
    assert {NAMES[label] for label in rows} == set(methods)
    for label, cells in rows.items():
        q = methods[NAMES[label]]
        share = q["mse"] / methods["simple"]["mse"]
        numbers = q["mse"], share, q["spearman"], q["regret_at_1"], q["offset"]
        assert all(agree(*pair) for pair in zip(cells, numbers, strict=True)), label
    rows = table("pair")
    assert rows.keys() == PAIRS.keys()
    for label, (mse, other, *cells) in rows.items():
        methods = json.loads((RESULTS / f"fig5_{PAIRS[label]}.json").read_text())["methods"]
        one, two = methods["simple"], methods["squared_gradients"]
        first, share = other.rstrip(")").split(" (")
        texts = mse, first, share, *cells
        numbers = (
            one["mse"], two["mse"], two["mse"] / one["mse"], one["spearman"], two["spearman"],
            one["regret_at_1"], two["regret_at_1"], two["regret_noise"],
        )  # fmt: skip
        assert all(agree(*pair) for pair in zip(texts, numbers, strict=True)), label
