"""Scores of models of transformers: equal to loops over single items, whatever the batches."""

import copy
import functools
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import MBartConfig, MBartForConditionalGeneration

import tiny_folders
import tiny_transformers as tiny
from previa.errors import InputError
from previa.run.classification import ImageClassification, SequenceClassification
from previa.run.columns import columns_of
from previa.run.generation import bleu_items
from previa.run.held_out import Budget, HeldOut, held_out
from previa.run.language import CausalLM, Seq2Seq
from previa.run.resolve import importable
from previa.run.text_scores import LogLikelihood, accuracy, score_of
from previa.run.transformers_model import Loaded
from previa.run.transformers_tasks import shift_of, task_of


def held(kind, model, rows, **more):
    task = kind(columns_of(rows[0], kind.roles, {}), model.config, None)
    return held_out(rows, task, **more)


@torch.no_grad()
def test_accuracy_is_that_of_a_loop_over_single_items():
    model = tiny.classifier().eval()
    rows = tiny.sentences(20)
    test = held(SequenceClassification, model, rows)
    alone = [model(torch.tensor([r["input_ids"]])).logits.argmax().item() == r["labels"] for r in rows]
    assert accuracy(model, test).tolist() == alone


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 30, 4096])
def test_the_mean_log_likelihood_is_that_of_a_token_for_every_budget(tokens):
    model = tiny.language_model().eval()
    rows = tiny.texts(12)
    test = held(CausalLM, model, rows)
    test = HeldOut(test.task, test.examples, test.rows, Budget(tokens))
    each = torch.stack([tiny.losses(model, tiny.collate([row]))[0] * tiny.supervised(row) for row in rows])
    mean = -each.sum() / sum(map(tiny.supervised, rows))
    values = LogLikelihood(True)(model, test)
    assert values.mean().item() == pytest.approx(mean.item(), rel=1e-5)


@torch.no_grad()
def test_the_exponential_of_minus_the_mean_is_the_perplexity_of_all_tokens():
    model = tiny.language_model().eval()
    rows = tiny.texts(12)
    logs = []
    for row in rows:
        log_p = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        logs += [log_p[t - 1, label].item() for t, label in enumerate(row["labels"]) if label != -100]
    values = LogLikelihood(True)(model, held(CausalLM, model, rows))
    assert (-values.mean()).exp().item() == pytest.approx(math.exp(-sum(logs) / len(logs)), rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 4096])
def test_the_log_likelihood_of_targets_is_that_of_a_loop_over_single_items(tmp_path, tokens):
    model = tiny_folders.translator(tmp_path)
    rows = [{"input_ids": r["input_ids"][:4], "labels": r["input_ids"][1:]} for r in tiny.texts(9)]
    task = Seq2Seq(columns_of(rows[0], Seq2Seq.roles, {}), model.config, None, shift_of(model))
    sums, counts = [], []
    for row in rows:
        labels = torch.tensor([row["labels"]])
        loss = model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).loss.item()  # its own shift
        sums.append(-loss * labels.numel())
        counts.append(labels.numel())
    expected = [len(rows) * total / sum(counts) for total in sums]
    test = held_out(rows, task)
    test = HeldOut(task, test.examples, test.rows, Budget(tokens))
    assert LogLikelihood(False)(model, test).tolist() == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
def test_the_accuracy_of_an_adapters_model_is_that_of_its_merged_weights():
    rows = tiny.sentences(40)
    settings = LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS")
    model = get_peft_model(tiny.classifier(), settings).eval()
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.normal_(std=9.0)
    base = model.base_model.model
    with model.disable_adapter():
        plain = accuracy(model, held(SequenceClassification, model, rows))
    values = accuracy(model, held(SequenceClassification, model, rows))
    merged = model.merge_and_unload()
    assert merged is base
    assert torch.equal(accuracy(merged, held(SequenceClassification, merged, rows)), values)
    assert not torch.equal(values, plain)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_numbers_and_several_classes_have_scores_of_their_own(tmp_path, kind):
    model = tiny_folders.classifier(tmp_path, problem_type=kind)
    draw = np.random.default_rng(0)
    labels = draw.normal(size=(9, 3)) if kind == "regression" else draw.integers(2, size=(9, 3)).astype(float)
    rows = [
        {"input_ids": r["input_ids"], "labels": label.tolist()}
        for r, label in zip(tiny.sentences(9), labels, strict=True)
    ]
    expected = []
    for row in rows:
        logits = model(torch.tensor([row["input_ids"]])).logits[0].tolist()
        pairs = list(zip(logits, row["labels"], strict=True))
        if kind == "regression":
            expected.append(-sum((x - y) ** 2 for x, y in pairs) / 3)
        else:
            expected.append(sum((x > 0) == (y == 1) for x, y in pairs) / 3)
    values = accuracy(model, held(SequenceClassification, model, rows))
    assert values.tolist() == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_the_accuracy_of_pictures_is_that_of_a_loop_over_single_ones(tmp_path):
    model = tiny_folders.viewer(tmp_path)
    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)  # more than one batch
    rows = [
        {"image": Image.fromarray(p), "label": ["cat", "dog", "owl"][n % 3]} for n, p in enumerate(pictures)
    ]
    loaded = Loaded(model, tmp_path, tmp_path, {})
    test = held_out(rows, task_of("image-classification", loaded, rows))
    assert [len(numbers) for numbers, _ in test.batches()] == [64, 6]
    values = accuracy(model, test)
    pixels = torch.tensor(pictures).permute(0, 3, 1, 2) / 127.5 - 1
    alone = [model(p[None]).logits.argmax().item() == n % 3 for n, p in enumerate(pixels)]
    assert values.tolist() == alone
    assert 0 < values.mean() < 1


OWN = """
import torch
from previa.run.held_out import moved

def right(model, test):
    values = torch.empty(len(test))
    for numbers, batch in test.batches():
        batch = moved(batch, model)
        labels = batch.pop("labels")
        values[numbers] = (model(**batch).logits.argmax(-1) == labels).float()
    return values

def first(model, test):
    return test.rows[0]["labels"]
"""


class Small(torch.nn.Module):
    def __init__(self, model, most):
        super().__init__()
        self.model, self.most, self.config = model, most, model.config

    def forward(self, input_ids, **more):
        if len(input_ids) > self.most:
            raise torch.OutOfMemoryError("too large")
        return self.model(input_ids=input_ids, **more)


@torch.no_grad()
def test_batches_are_halved_when_memory_runs_out_and_one_item_too_large_is_an_error():
    model = tiny.classifier().eval()
    test = held(SequenceClassification, model, tiny.sentences(20))
    plain = accuracy(model, test)
    assert torch.equal(accuracy(Small(model, 3), test), plain)
    assert test.budget.tokens == 22  # 20 items of 9 tokens are too many, 10 and 5, too; 2 are not
    with pytest.raises(InputError, match="one test example"):
        accuracy(Small(model, 0), test)


FOUND = ["the cat sat on the mat", "a dog ran in a park", "no", "it is what it is now"]
WANTED = ["the cat sat on the mat today", "some dog ran to a park", "yes it is", "it is not what it was now"]


@pytest.mark.parametrize("chosen", [[0, 1, 2, 3], [1, 0], [1, 2], [3]])
def test_bleu_items_are_pseudo_values_of_the_corpus_bleu_without_them(chosen):
    """Only the first sentence has four words in a row right: without it, sacrebleu smooths."""
    found, wanted = [FOUND[n] for n in chosen], [WANTED[n] for n in chosen]

    def bleu(leave=None):
        kept = [n for n in range(len(chosen)) if n != leave]
        return sacrebleu.corpus_bleu([found[n] for n in kept], [[wanted[n] for n in kept]]).score

    values = bleu_items(found, wanted)
    N = len(chosen)
    if N > 1:
        without = [bleu(n) for n in range(N)]
        expected = [bleu() + (N - 1) * (sum(without) / N - w) for w in without]
        assert values.tolist() == pytest.approx(expected, abs=1e-9)
    assert values.mean().item() == pytest.approx(bleu(), abs=1e-9)


def test_the_subset_and_its_digest_are_fixed_by_the_seed_and_survive_pickling():
    model = tiny.classifier()
    rows = tiny.sentences(20)
    first, same, other = (held(SequenceClassification, model, rows, at_most=5, seed=s) for s in (1, 1, 2))
    assert first.digest() == same.digest() == pickle.loads(pickle.dumps(first)).digest() != other.digest()


def test_other_pixels_have_another_digest(tmp_path):
    model = tiny_folders.viewer(tmp_path)
    rows = [{"image": np.full((8, 8, 3), n, np.uint8), "label": n} for n in range(3)]
    kind = functools.partial(ImageClassification, processor=None, folder=tmp_path)
    task = kind(columns_of(rows[0], ImageClassification.roles, {}), model.config)
    first = held_out(rows, task).digest()
    assert first == held_out(copy.deepcopy(rows), task).digest()
    rows[2]["image"][7, 7, 2] += 1
    assert first != held_out(rows, task).digest()
    pictures = [{**row, "image": Image.fromarray(row["image"])} for row in rows]
    again = held_out(pictures, task).digest()
    rows[2]["image"][7, 7, 2] += 1
    pictures[2]["image"] = Image.fromarray(rows[2]["image"])
    assert held_out(pictures, task).digest() != again


@torch.no_grad()
def test_a_function_of_ones_own_gets_the_rows_and_batches(tmp_path):
    (tmp_path / "own_scores.py").write_text(OWN, encoding="utf-8")
    model = tiny.classifier().eval()
    test = held(SequenceClassification, model, tiny.sentences(20))
    with importable(tmp_path):
        right, first = (
            score_of(f"own_scores:{name}", "sequence-classification", tmp_path) for name in ("right", "first")
        )
    assert right(model, test).tolist() == accuracy(model, test).tolist()
    assert first(model, test) == test.rows[0]["labels"]


@torch.no_grad()
def test_the_pages_function_gives_each_item_its_largest_probability():
    page = (Path(__file__).parents[1] / "docs" / "transformers-scores.md").read_text(encoding="utf-8")
    made = {}
    exec(page.split("```python\n")[1].split("```")[0], made)
    model = tiny.classifier().eval()
    rows = tiny.sentences(20)
    alone = [model(torch.tensor([r["input_ids"]])).logits.softmax(-1).max().item() for r in rows]
    values = made["confidence"](model, held(SequenceClassification, model, rows))
    assert values.tolist() == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("start", [None, 3])
def test_a_model_that_begins_with_the_targets_language_shifts_labels_in_its_own_way(start):
    config = MBartConfig(
        vocab_size=23, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=16, pad_token_id=1, decoder_start_token_id=start,
    )  # fmt: skip
    shift = shift_of(MBartForConditionalGeneration(config))
    again = pickle.loads(pickle.dumps(shift))
    labels = torch.tensor([[7, 8, 2, 20], [9, 2, 21, -100]])
    assert shift(labels.clone()).tolist() == again(labels.clone()).tolist() == [[20, 7, 8, 2], [21, 9, 2, 21]]


def test_no_usable_row_is_an_error_that_says_where():
    model = tiny.language_model()
    rows = [{"input_ids": [3, 4, 5], "labels": [-100, -100, -100]}] * 4
    with pytest.raises(InputError, match=r"^task 'fr', test, none of 4 test rows has anything to predict"):
        held(CausalLM, model, rows, where="task 'fr', test")
    kept = held(CausalLM, model, [*rows, *tiny.texts(2)])
    assert [row["input_ids"] for row in kept.rows] == [row["input_ids"] for row in tiny.texts(2)]


def test_an_unknown_score_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected accuracy"):
        score_of("bleu", "sequence-classification", tmp_path)
