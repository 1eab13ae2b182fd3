"""Text generated in batches is the text generated one by one."""

import pickle
from collections import Counter

import pytest
import sacrebleu
import torch
from transformers import AutoTokenizer

import tiny_folders
from previa.errors import InputError
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


class Parrot(torch.nn.Module):
    """Continues every prompt with the same text."""

    def __init__(self, config, continuation):
        super().__init__()
        self.config, self.continuation = config, torch.tensor([continuation])
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def generate(self, input_ids, **more):
        return torch.cat([input_ids, self.continuation.expand(len(input_ids), -1)], 1)


COMPLETIONS = ["w3 w4", " w3 w4 ", "w4 w3", "w7"]


def parrot(folder):
    """It says "w3 w4" and the end; the rows have different completions."""
    model, test = made(folder, True)
    rows = [{**row, "completion": c} for row, c in zip(test.rows, COMPLETIONS, strict=True)]
    reader = test.task.tokenizer.tokenizer
    says = reader("w3 w4")["input_ids"]
    return Parrot(model.config, [*says, reader.eos_token_id]), held_out(rows, test.task)


def chrf(found, wanted):
    """F of characters' n-grams, n = 1 to 6, without spaces; recall counts beta^2 = 4 times: averaged over n with any."""
    rates = []
    for n in range(1, 7):
        grams = [
            [text.replace(" ", "")[i : i + n] for i in range(len(text.replace(" ", "")) - n + 1)]
            for text in (found, wanted)
        ]
        if grams[0] and grams[1]:
            shared = sum((Counter(grams[0]) & Counter(grams[1])).values())
            rates.append((shared / len(grams[0]), shared / len(grams[1])))
    precision, recall = (sum(r) / len(rates) for r in zip(*rates, strict=True))
    return 100 * 5 * precision * recall / (4 * precision + recall) if precision + recall else 0.0


def test_exact_match_bleu_and_chrf_are_those_by_hand(tmp_path):
    model, test = parrot(tmp_path)
    assert Generated("exact-match", True, 5)(model, test).tolist() == [1, 1, 0, 0]
    values = Generated("chrf", True, 5)(model, test)
    assert values.tolist() == pytest.approx([chrf("w3 w4", c) for c in COMPLETIONS], abs=1e-9)
    assert values[0] == 100 > values[2] > values[3] > 0
    bleu = sacrebleu.corpus_bleu(["w3 w4"] * 4, [COMPLETIONS]).score
    assert Generated("bleu", True, 5)(model, test).mean().item() == pytest.approx(bleu, abs=1e-9)


def test_generated_text_needs_a_tokenizer_and_a_prompt(tmp_path):
    model, test = made(tmp_path, True)
    columns = columns_of({"input_ids": [5, 6]}, CausalLM.roles, {})
    rows = [{"input_ids": [5, 6]}]
    with pytest.raises(InputError, match="needs a tokenizer"):
        Generated("exact-match", True)(model, held_out(rows, CausalLM(columns, model.config, None)))
    task = CausalLM(columns, model.config, test.task.tokenizer)
    with pytest.raises(InputError, match="item 1 has no prompt"):
        Generated("exact-match", True)(model, held_out(rows, task))


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
