"""Text generated in batches is the text generated one by one."""

import pickle

import pytest
import torch
from transformers import AutoTokenizer

import tiny_folders
from previa.run.columns import columns_of
from previa.run.generation import Generated, generated, prompt_of
from previa.run.held_out import held_out
from previa.run.language import CausalLM, Seq2Seq
from previa.run.text_scores import LogLikelihood
from previa.run.tokens import Tokenizer
from previa.run.transformers_tasks import shift_of

SOURCES = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9", "w10 w2"]


def made(folder, causal):
    model = (tiny_folders.language_model if causal else tiny_folders.translator)(folder)
    reader = Tokenizer(AutoTokenizer.from_pretrained(folder), None)
    names = ("prompt", "completion") if causal else ("source", "target")
    rows = [dict(zip(names, (source, "w3 w4"), strict=True)) for source in SOURCES]
    columns = columns_of(rows[0], (CausalLM if causal else Seq2Seq).roles, {})
    more = () if causal else (shift_of(model),)
    task = (CausalLM if causal else Seq2Seq)(columns, model.config, reader, *more)
    return model, held_out(rows, task)


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_greedy_texts_in_batches_are_those_one_by_one(tmp_path, causal):
    model, test = made(tmp_path, causal)
    model.config.use_cache = False
    reader = test.task.tokenizer.tokenizer
    alone = []
    for number in range(len(test)):
        prompt = prompt_of(test, number, causal)
        ids = torch.tensor([prompt])
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=5,
            eos_token_id=4,
        )
        alone.append(reader.decode(out[0, len(prompt) if causal else 0 :], skip_special_tokens=True))
    assert generated(model, test, causal, 5) == alone
    assert any(alone)


@torch.no_grad()
@pytest.mark.parametrize("metric", ["bleu", "chrf", "exact-match"])
def test_each_item_has_a_score(tmp_path, metric):
    model, test = made(tmp_path, True)
    values = Generated(metric, True, 5)(model, test)
    assert values.shape == (4,)
    assert values.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_test_data_survives_pickling_and_scores_the_same_without_carrying_the_model(tmp_path, causal):
    model, test = made(tmp_path, causal)
    again = pickle.loads(pickle.dumps(test))
    score = LogLikelihood(causal)
    assert torch.equal(score(model, again), score(model, test))
    assert again.digest() == test.digest()
    if not causal:
        assert b"T5ForConditionalGeneration" not in pickle.dumps(test.task.shift)
