"""Figures 7 and 10: BLEU by sentence, what is supervised, exact sums of updates, and translations in their order."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU

from previa import Diagonal, Flat
from previa.run.columns import Columns
from previa.run.generation import bleu_items
from previa.run.language import CausalLM
from previa.run.live import live, trainable
from previa.run.tokens import IGNORED, Tokenizer

FOLDER = Path(__file__).parent.parent / "experiments"
WORDS = [f"{a}{b}" for a in "bcdf" for b in "aeiou"]


@pytest.fixture(scope="module")
def scripts():
    """(the script, its runs, its texts, its picture), imported as they import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        names = "fig7_fig10_translation", "_translation", "_translation_text", "_translation_figure"
        yield tuple(importlib.import_module(name) for name in names)


@pytest.fixture(scope="module")
def bench(scripts, tmp_path_factory):
    """A base after three steps, in its folder."""
    script, runs, _, _ = scripts
    made = runs.Bench(script.SCALES["tiny"], tmp_path_factory.mktemp("translation"), "cpu", 0)
    (made.out / "runs").mkdir()
    runs.pretrain(made)
    importlib.import_module("_workers").adopt(made)
    return made


def texts(seed, n=40):
    """References, and translations in which a word in four is another one."""
    rng = np.random.default_rng(seed)
    references = [list(rng.choice(WORDS, int(k))) for k in rng.integers(4, 12, n)]
    found = [[w if rng.random() < 0.75 else str(rng.choice(WORDS)) for w in line] for line in references]
    return [" ".join(line) for line in found], [" ".join(line) for line in references]


def test_the_spread_of_the_shares_is_that_of_bleu_over_other_sentences():
    """Over 120 draws of 60 sentences: two estimates of one standard deviation, to 25 % (the draws' own error is 6.5 %)."""
    rng, (found, references), drawn = np.random.default_rng(2), texts(3, 1000), []
    for _ in range(120):
        rows = rng.integers(0, 1000, 60)
        one = BLEU().corpus_score([found[i] for i in rows], [[references[i] for i in rows]])
        drawn.append(one.score)
    said = bleu_items(found[:400], references[:400]).std().item() / 60**0.5
    assert said == pytest.approx(np.std(drawn), rel=0.25)


def test_capitals_count_unless_told(scripts, bench, monkeypatch):
    _, runs, text, _ = scripts
    said = {
        task: [target.upper() for _, target in parts[2]]
        for task, parts in text.sentences(bench.settings).items()
    }
    monkeypatch.setattr(runs, "translations", lambda bench, model, task: said[task])
    cased = replace(bench, settings=replace(bench.settings, lowercase=False))
    assert runs.score(bench, None)["de-en"].mean() == pytest.approx(100)
    assert runs.score(cased, None)["de-en"].mean() < 1


def test_precisions_by_rank_keep_the_means_and_each_ranks_sum(scripts, bench):
    draw = torch.Generator().manual_seed(0)
    mean = {n: torch.randn(p.shape, generator=draw) for n, p in trainable(bench.model()).items()}
    q = Diagonal(mean, {n: torch.rand(v.shape, generator=draw) + 0.1 for n, v in mean.items()})
    found = scripts[0].by_rank(q)
    for name, values in q.precision.items():
        along = 1 if "lora_A" in name else 0  # A is [rank, in], B is [out, rank]
        assert values.shape[1 - along] == bench.settings.rank
        torch.testing.assert_close(found.precision[name].sum(along), values.sum(along))
        assert float(found.precision[name].std(along).max()) < 1e-6
        torch.testing.assert_close(found.mean[name], mean[name])


def test_tasks_share_their_targets_and_the_base_has_seen_none_of_theirs(scripts):
    _, _, text, _ = scripts
    parts = text.sentences(scripts[0].SCALES["tiny"])
    for which in range(3):
        assert [b for _, b in parts["de-en"][which]] == [b for _, b in parts["fr-en"][which]]
    seen, own, test = parts["de-en"]
    assert not set(seen) & set(own)
    assert len(test) == scripts[0].SCALES["tiny"].test


def test_the_loss_is_that_of_the_products_causal_language_model(scripts, bench):
    _, runs, text, _ = scripts
    task, reader, model = "de-en", runs.tokenizer(bench), bench.model().eval()
    pairs = text.sentences(bench.settings)[task][1][:5]
    known = CausalLM(
        Columns({"prompt": "prompt", "completion": "completion"}), model.config, Tokenizer(reader, None)
    )
    rows = [{"prompt": text.prompt(bench.settings, task, a), "completion": b} for a, b in pairs]
    examples = [known.example(row, "here") for row in rows]
    assert [dict(e.inputs) for e in examples] == text.tokenised(bench.settings, reader, task, pairs)
    batch = known.collate(examples)
    expected = known.labels("given", torch.Generator()).loss(model, batch)
    assert runs.loss(model, batch).detach().numpy() == pytest.approx(expected.detach().numpy(), rel=1e-5)


def test_translations_come_in_the_order_of_the_sentences_whatever_goes_together(scripts, bench):
    _, runs, _, _ = scripts
    with torch.no_grad():
        model = bench.model().eval()
        for i, p in enumerate(
            model.parameters()
        ):  # the translations of a model that has hardly been trained are all alike
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
        together = runs.translations(bench, model, "de-en")
        alone = runs.translations(
            replace(bench, settings=replace(bench.settings, score_batch=1)), model, "de-en"
        )
    assert together == alone
    assert len(set(together)) > 1


def test_exact_sums_of_updates_are_the_weighted_sums_of_b_a(scripts, bench):
    script = scripts[0]
    model, r = bench.model(), bench.settings.rank
    draw = torch.Generator().manual_seed(0)
    means = [
        Flat.of({n: torch.randn(p.shape, generator=draw) for n, p in trainable(model).items()}) for _ in "ab"
    ]
    found = script.updates(means, torch.tensor([[0.3, 0.7], [1.0, 0.0]]))
    wide = bench.model(2 * r)
    batch = next(scripts[1].batches(bench, scripts[1].rows(bench, "de-en")[1], 4))
    for row, alpha in enumerate((0.3, 1.0)):
        for name in (n for n in means[0] if ".lora_A." in n):
            other = name.replace("lora_A", "lora_B")
            exact = sum(a * m[other] @ m[name] for a, m in zip((alpha, 1 - alpha), means, strict=True))
            both = found.params.row(row)
            torch.testing.assert_close(both[other] @ both[name], exact, rtol=1e-5, atol=1e-5)
    with (
        live(wide, found.params.layout) as place,
        live(model, means[0].layout) as own,
    ):  # at a corner: the task's own model
        place(found.params.row(1).vector)
        own(means[0].vector)
        torch.testing.assert_close(
            scripts[1].loss(wide, batch), scripts[1].loss(model, batch), rtol=1e-4, atol=1e-4
        )


def test_only_the_translation_and_its_end_are_supervised(scripts, bench):
    _, runs, _, _ = scripts
    reader = runs.tokenizer(bench)
    row = runs.rows(bench, "fr-en")[0][0]
    target = [n for n in row["labels"] if n != IGNORED]
    assert target[-1] == reader.eos_token_id
    assert row["input_ids"][-len(target) :] == target
    fr, en = (reader.convert_tokens_to_ids(f"<{x}>") for x in ("fr", "en"))
    prompt = row["input_ids"][: -len(target)]
    assert (prompt[0], prompt[-1]) == (fr, en)


def test_papers_scale_names_the_papers_model_and_its_lora_has_its_size(scripts):
    """B.6: some 0.9 million trained parameters, of gemma-2b: 18 layers of width 2048, 8 heads of 256 and one key and value."""
    s = scripts[0].SCALES["paper"]
    q, v = (s.rank * (2048 + out) for out in (8 * 256, 256))
    assert s.model == "google/gemma-2b-it"
    assert s.targets == ("q_proj", "v_proj")
    assert 18 * (q + v) == 921_600
    assert (s.lr, s.betas, s.ess, s.joint_ess, s.delta) == (0.05, (0.9, 0.99995), 1e7, 2e7, 1e-6)


def test_the_papers_scale_reads_the_hubs_rows_and_goes_the_same_way(scripts, bench, monkeypatch):
    """With a small model's folder in the place of the hub's name, and rows as IWSLT2017 has them."""
    _, runs, text, _ = scripts
    asked = []

    def load_dataset(name, config, *, split, revision):
        asked.append((name, config, split))
        source = config[-5:-3]
        lines = [f"Kaba{source} lodo{source}.", "mifi " * 30, f"nugu{source} pehe{source}"]
        return [{"translation": {source: line, "en": f"Kabaen lodoen {i}"}} for i, line in enumerate(lines)]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    s = replace(scripts[0].SCALES["paper"], model=str(bench.out / "base"), words=10, test=2, new_tokens=3)
    big = replace(bench, settings=s)
    train, test = runs.rows(big, "de-en")
    assert asked == [("IWSLT/iwslt2017", f"iwslt2017-{task}", split) for task in text.TASKS for split in ("train", "test")]  # fmt: skip
    assert (len(train), len(test)) == (
        2,
        2,
    )  # the long one is no training sentence; test sentences are not chosen
    reader = runs.tokenizer(big)
    prompt = reader.decode([n for n, label in zip(train[0]["input_ids"], train[0]["labels"], strict=True) if label == IGNORED])  # fmt: skip
    assert "german" in prompt.replace(" ", "")
    model = big.model().eval()
    assert {name.split(".")[-4] for name in trainable(model)} == {"q_proj", "v_proj"}
    with torch.no_grad():
        assert all(len(items) == 2 for items in runs.score(big, model).values())
        assert all((items < 0).all() for items in runs.likelihood(big, model).values())


RESULTS = FOLDER.parent / "docs" / "experiments"


def table(head):
    """The rows of the page's table that begins so: the cells as written, without marks of emphasis."""
    page = (RESULTS / "fig7_fig10_translation.md").read_text(encoding="utf-8")
    lines = page.split(f"\n| {head} |")[1].split("\n\n")[0].split("\n")[2:]
    return [[cell.strip().strip("*") for cell in line.strip()[1:-1].split("|")] for line in lines]


def facts(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def assert_agree(cell, value):
    """To the digits that are written."""
    assert float(cell) == pytest.approx(value, abs=0.50001 * 10.0 ** -len(cell.split(".")[1]))


def test_the_pages_errors_in_bleu_are_those_of_its_json():
    methods = facts("fig7_translation")["methods"]
    columns = [
        methods[n] for n in ("simple", "ivon_hessian", "squared_gradients", "squared_gradients_prior_0.1")
    ]
    rows = {row[0].split(" (")[0]: row[1:5] for row in table("BLEU, mean of both pairs")}
    for label, key in (
        ("ours: MSE", "mse"),
        ("offset", "offset"),
        ("Spearman", "spearman"),
        ("regret@1", "regret_at_1"),
    ):
        for cell, q in zip(rows[label], columns, strict=True):
            assert_agree(cell, q[key])
    for cell, q in zip(rows["share of averaging's MSE"][1:], columns[1:], strict=True):
        assert_agree(cell, q["mse"] / columns[0]["mse"])


def test_the_pages_shares_by_likelihood_and_beyond_the_paper_are_those_of_its_json():
    study, adamw = facts("fig7_translation"), facts("fig10_translation_adamw")

    def share(of, name):
        return of[name]["mse"] / of["simple"]["mse"]

    likely = study["extra"]["likelihood"]["methods"]
    names = (
        "simple",
        "ivon_hessian",
        "squared_gradients",
        "squared_gradients_prior_0.1",
        "ivon_hessian_by_rank",
        "product",
    )
    shares, ranks, regrets = (row[1:] for row in table("log-likelihood a token"))
    for i, name in enumerate(names):
        assert_agree(ranks[i], likely[name]["spearman"])
        assert_agree(regrets[i], likely[name]["regret_at_1"])
        if i:
            assert_agree(shares[i], share(likely, name))
    beyond = [
        (study, name) for name in ("product", "simple_warped", "ivon_hessian_by_rank", "ivon_hessian_warped")
    ]
    beyond += [(adamw, name) for name in ("squared_gradients", "squared_gradients_prior_0.1", "product")]
    for (of, name), cells in zip(beyond, table("method"), strict=True):
        assert_agree(cells[1], share(of["methods"], name))
        assert_agree(cells[2], share(of["extra"]["likelihood"]["methods"], name))
        assert_agree(cells[3], of["methods"][name]["spearman"])
        assert_agree(cells[4], of["methods"][name]["regret_at_1"])
