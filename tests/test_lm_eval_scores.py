"""Tasks of lm-eval as scores of the live model: what lm-eval itself says of the same model in a folder."""

import functools
import pickle
import sys

import pytest
import torch
from transformers import AutoTokenizer

import tiny_folders
from previa.errors import InputError, MissingExtraError
from previa.run.columns import columns_of
from previa.run.fit import fit
from previa.run.held_out import held_out
from previa.run.language import CausalLM
from previa.run.lm_eval_scores import task_in
from previa.run.pipeline import preview
from previa.run.text_scores import score_of
from previa.run.tokens import Tokenizer
from previa.run.work import opened
from previa.study.file import study_from_dict

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: words.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: {better}}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
  - {{metric: brier_score, aggregation: brier_score, higher_is_better: false}}
"""
ITEMS = [
    {
        "question": f"w{i} w{i + 1}",
        "choices": [f"w{i + 2}", f"w{(3 * i) % 20} w{i}", f"w{i + 5}"],
        "answer": i % 3,
    }
    for i in range(12)
]


def installed():
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'previa[lm-eval]'")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study's folder with two tasks for lm-eval, a model, and test data of 9 items."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tasks").mkdir()
    for name, better in (("words", "true"), ("worse", "false")):
        (tmp_path / "tasks" / f"{name}.yaml").write_text(TASK.format(name=name, better=better))
    tiny_folders.write_lines(tmp_path / "words.jsonl", ITEMS)
    model = tiny_folders.language_model(tmp_path / "base")
    reader = Tokenizer(AutoTokenizer.from_pretrained(tmp_path / "base"), None)
    rows = [{"prompt": "w1 w2", "completion": "w3"}] * 9
    task = CausalLM(columns_of(rows[0], CausalLM.roles, {}), model.config, reader)
    return tmp_path, model, held_out(rows, task)


@torch.no_grad()
def by_hand(model, reader, items, length=False):
    """1 where the right choice has the largest log p, or log p of a character."""
    right = []
    for item in items:
        values = []
        for choice in item["choices"]:
            prompt, rest = (
                reader(text, add_special_tokens=False)["input_ids"] for text in (item["question"], choice)
            )
            logs = model(torch.tensor([prompt + rest])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
            total = logs[torch.arange(len(rest)), rest].sum().item()
            values.append(total / len(choice) if length else total)
        right.append(float(max(range(3), key=values.__getitem__) == item["answer"]))
    return right


@pytest.mark.filterwarnings("ignore")  # lm-eval's own
def test_items_are_the_first_of_the_task_each_scored_as_by_hand(study):
    installed()
    folder, model, test = study
    reader = test.task.tokenizer.tokenizer
    before = {name: (p, p.clone()) for name, p in model.named_parameters()}
    score = functools.partial(score_of, task_type="causal-lm", folder=folder)
    values = score("lm-eval:words")(model, test)
    assert values.tolist() == by_hand(model, reader, ITEMS[:9])
    assert 0 < values.mean() < 1
    normed = pickle.loads(pickle.dumps(score("lm-eval:words:acc_norm,none")))(model, test)
    assert normed.tolist() == by_hand(model, reader, ITEMS[:9], length=True)
    assert torch.equal(score("lm-eval:worse")(model, test), -values)
    for name, p in model.named_parameters():
        assert p is before[name][0]
        assert torch.equal(p, before[name][1])
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.flip(0))
    changed = score("lm-eval:words")(model, test)
    assert changed.tolist() == by_hand(model, reader, ITEMS[:9]) != values.tolist()


@pytest.mark.filterwarnings("ignore")
def test_an_adapters_model_is_scored_with_its_adapter(study):
    installed()
    folder, model, test = study
    score = score_of("lm-eval:words", "causal-lm", folder)
    adapted = tiny_folders.adapter(folder / "adapter", folder / "base")
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            p.mul_(10 if "lora_B" in name else 1)
    reader = test.task.tokenizer.tokenizer
    values = score(adapted, test).tolist()
    assert values == by_hand(adapted, reader, ITEMS[:9])
    assert values != score(model, test).tolist()


@pytest.mark.filterwarnings("ignore")
def test_what_has_no_number_an_item_or_is_not_there_is_refused(study, capfd):
    installed()
    folder, model, test = study
    score = functools.partial(score_of, task_type="causal-lm", folder=folder)
    with pytest.raises(InputError, match=r"brier_score .none. is not a mean.*acc, acc_norm, brier_score"):
        score("lm-eval:words:brier_score")(model, test)
    with pytest.raises(InputError, match="no metric 'f2'; expected one of acc, acc_norm, brier_score"):
        score("lm-eval:words:f2")
    (folder / "tasks" / "both.yaml").write_text("group: both\ntask: [words, worse]\n")
    with pytest.raises(InputError, match="a group of 2 tasks"):
        score("lm-eval:both")
    (folder / "tasks" / "lost.yaml").write_text(
        TASK.format(name="lost", better="true").replace("words.j", "no.j")
    )
    with pytest.raises(InputError, match="lm-eval:lost: the task cannot be read"):
        score("lm-eval:lost")
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("ignore")
def test_the_digest_tells_other_items_and_other_settings(study):
    installed()
    folder, _, _ = study
    digests = [score_of(f"lm-eval:{name}", "causal-lm", folder).digest() for name in ("words", "worse")]
    task_in.cache_clear()
    assert score_of("lm-eval:words", "causal-lm", folder).digest() == digests[0]
    task_in.cache_clear()
    tiny_folders.write_lines(folder / "words.jsonl", [*ITEMS[:-1], {**ITEMS[-1], "answer": 0}])
    digests.append(score_of("lm-eval:words", "causal-lm", folder).digest())
    assert len(set(digests)) == 3


def test_without_lm_eval_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtraError, match=r"previa\[lm-eval\]"):
        score_of("lm-eval:words", "causal-lm", tmp_path)


def test_a_classifier_has_no_task_of_lm_eval(tmp_path):
    with pytest.raises(InputError, match="expected accuracy"):
        score_of("lm-eval:words", "sequence-classification", tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_each_task_of_a_study_has_its_own_task_of_lm_eval(study):
    installed()
    folder, _, _ = study
    for number, name in enumerate(("words", "worse")):
        tiny_folders.language_model(folder / name, seed=number + 1)
        for part in ("train", "test"):
            rows = [{"text": text} for text in tiny_folders.sentences(9, seed=number)]
            tiny_folders.write_lines(folder / f"{name}-{part}.jsonl", rows)
    tasks = [
        {"name": name, "checkpoint": name, "train": f"{name}-train.jsonl", "test": f"{name}-test.jsonl",
         "score": f"lm-eval:{name}"}
        for name in ("words", "worse")
    ]  # fmt: skip
    table = {
        "study": {"name": "tiny", "model": "base"},
        "transformers": {"task_type": "causal-lm"},
        "task": tasks,
        "preview": {"steps": 4, "methods": ["simple"]},
    }
    with opened(study_from_dict(table, folder=folder)) as work:
        scores = preview(work, fit(work))["simple"].scores
    assert scores[:, 1].tolist() == (-scores[:, 0]).tolist()
    assert len(set(scores[:, 0])) > 1
