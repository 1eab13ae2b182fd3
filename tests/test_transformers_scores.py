"""Scores of models of transformers: equal to loops over single items, whatever the batches."""

import copy
import functools
import pickle

import numpy as np
import pytest
import sacrebleu
import torch
from PIL import Image

import tiny_folders
import tiny_transformers as tiny
from previa.errors import InputError
from previa.run.classification import ImageClassification, SequenceClassification
from previa.run.columns import columns_of
from previa.run.generation import bleu_items
from previa.run.held_out import Budget, HeldOut, held_out
from previa.run.language import CausalLM
from previa.run.text_scores import LogLikelihood, accuracy, score_of


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


def test_bleu_items_average_to_the_corpus_bleu():
    found = ["the cat sat on the mat", "a dog ran in the park today", "no", "it is what it is now"]
    wanted = ["the cat sat on a mat", "a dog ran in the park", "yes it is", "it is what it was now"]
    assert bleu_items(found, wanted).mean().item() == pytest.approx(
        sacrebleu.corpus_bleu(found, [wanted]).score, abs=1e-9
    )


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


def test_an_unknown_score_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected accuracy"):
        score_of("bleu", "sequence-classification", tmp_path)
