"""Finetuning from folder to folder, by the command and by the function: what is written, resumed, refused."""

import csv
import json

import pytest
import torch
import transformers
from PIL import Image

from previa.cli import main
from previa.errors import FileError, InputError
from previa.io import load_posterior, merge_checkpoints, open_checkpoint, open_posterior
from previa.run.accelerate_loop import accelerator_of
from previa.run.accelerate_step import Loop
from previa.run.hf_finetune import finetune_folder
from previa.run.hf_rows import Reading, collate_of, counter_of, read_task
from previa.run.ivon_checkpoint import posterior_for_model
from previa.run.recipe import AdamWRecipe, IvonRecipe, Recipe
from previa.run.transformers_model import load_model
from tiny_folders import (
    adapter,
    classifier,
    labelled,
    language_model,
    sentences,
    translator,
    viewer,
    write_lines,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated"
)  # peft asks for it
IVON = IvonRecipe(lr=0.05, ess=100.0, hess_init=0.5, betas=(0.9, 0.5), weight_decay=1e-3)
CLASSES = Reading(task_type="sequence-classification")


def recipe(optimizer=IVON, **options):
    return Recipe(**{"optimizer": optimizer, "steps": 6, "batch_size": 4, "sampling": "sample", **options})


@pytest.fixture
def base(tmp_path):
    classifier(tmp_path / "base", hidden_dropout_prob=0.1)
    return tmp_path / "base"


@pytest.fixture
def data(tmp_path):
    return {
        name: str(write_lines(tmp_path / f"{name}.jsonl", labelled(12, seed=i)))
        for i, name in enumerate(("de", "fr"))
    }


def run(model, data, alpha, how, out, reading=CLASSES, **options):
    return finetune_folder(
        model, data, alpha, how, out, reading=reading, accelerator=accelerator_of(cpu=True), **options
    )


def weights(folder):
    return dict(open_checkpoint(folder))


def test_the_command_writes_a_folder_that_transformers_and_merge_take(tmp_path, base, data, capsys):
    """Each task's own run by IVON, a Hessian-weighted merge of the two, and a joint run that starts from it."""
    common = ["finetune", "--task-type", "sequence-classification", "--steps", "6", "--lr", "0.05", "--quiet"]
    ivon = [
        "--optimizer",
        "ivon",
        "--ess",
        "100",
        "--hess-init",
        "0.5",
        "--beta2",
        "0.5",
        "--batch-size",
        "4",
    ]
    for task, file in data.items():
        out = str(tmp_path / task)
        assert (
            main(
                [
                    *common,
                    *ivon,
                    "--model",
                    str(base),
                    "--task",
                    f"{task}={file}",
                    "--snapshots",
                    "3",
                    "--out",
                    out,
                ]
            )
            == 0
        )
    printed = capsys.readouterr().out
    assert "de: share 1, 24 rows, 2 epochs" in printed
    assert f"Model: {tmp_path / 'fr'}" in printed

    model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "de", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "de")("w3 w4")["input_ids"] == [2, 8, 9, 3]
    posterior, said = load_posterior(tmp_path / "de" / "posterior.safetensors", weights(tmp_path / "de"))
    assert torch.equal(posterior.mode()["classifier.weight"], model.classifier.weight)
    assert (said.examples, said.batch_size, said.steps, said.ess, said.reduction) == (12, 4, 6, 100.0, "mean")
    early, said = load_posterior(tmp_path / "de" / "snapshots" / "step-3.safetensors")
    assert said.steps == 3
    assert not torch.equal(early.mode().vector, posterior.mode().vector)
    assert not (tmp_path / "de.training").exists()

    tasks = {task: tmp_path / task for task in data}
    merged = tmp_path / "merged" / "model.safetensors"
    merged.parent.mkdir()
    merge_checkpoints(
        None, tasks, [0.4, 0.6], merged, precisions={task: folder / "posterior.safetensors" for task, folder in tasks.items()}
    )  # fmt: skip
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (merged.parent / file).write_bytes((base / file).read_bytes())
    named = [part for task, file in data.items() for part in ("--task", f"{task}={file}")]
    code = main(
        [
            *common,
            *named,
            "--model",
            str(merged.parent),
            "--alpha",
            "0.4,0.6",
            "--out",
            str(tmp_path / "joint"),
        ]
    )
    assert code == 0
    assert "fr: share 0.6" in capsys.readouterr().out
    record = json.loads((tmp_path / "joint" / "previa-finetune.json").read_text())
    assert record["facts"]["alpha"] == [0.4, 0.6]
    assert record["facts"]["model"] == str(merged.parent)
    assert sum(record["rows"].values()) == 6 * 16
    assert len(record["losses"]) == 6
    assert not (tmp_path / "joint" / "posterior.safetensors").exists(), "AdamW leaves none"
    start, end = weights(merged.parent), weights(tmp_path / "joint")
    assert not torch.equal(start["classifier.weight"], end["classifier.weight"])


def test_training_starts_from_the_model_that_was_given(tmp_path, base, data):
    """With a learning rate of zero the merged preview comes out as it went in."""
    run(base, data, (0.3, 0.7), recipe(AdamWRecipe(lr=0.0)), tmp_path / "out")
    one, other = weights(base), weights(tmp_path / "out")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("optimizer", [IVON, AdamWRecipe(lr=1e-2)], ids=["ivon", "adamw"])
def test_a_killed_run_goes_on_and_ends_in_the_same_folder(tmp_path, base, data, optimizer):
    how = recipe(optimizer, snapshots=(2, 5) if optimizer is IVON else ())
    whole = run(base, data, (0.3, 0.7), how, tmp_path / "whole")

    def kill(what, done, total):
        if done == 5:
            raise KilledError

    loop = Loop(save_every=2)
    with pytest.raises(KilledError):
        run(base, data, (0.3, 0.7), how, tmp_path / "later", loop=loop, progress=kill)
    assert not (tmp_path / "later").exists()
    later = run(base, data, (0.3, 0.7), how, tmp_path / "later", loop=loop)
    assert later.resumed_at == 4
    assert later.losses == whole.losses
    files = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*.safetensors"))
    assert len(files) == (4 if optimizer is IVON else 1)
    for file in files:
        one, other = weights(tmp_path / "whole" / file), weights(tmp_path / "later" / file)
        assert all(torch.equal(one[name], other[name]) for name in one), file
    again = run(base, data, (0.3, 0.7), how, tmp_path / "later", loop=loop)
    assert (again.losses, again.rows) == (later.losses, later.rows), "the same call again does nothing"


def test_another_run_is_not_written_over_one_that_is_there(tmp_path, base, data):
    run(base, data, (0.3, 0.7), recipe(), tmp_path / "out")
    before = weights(tmp_path / "out")
    with pytest.raises(FileError, match="exists already, and is not the result of this very run"):
        run(base, data, (0.4, 0.6), recipe(), tmp_path / "out")
    assert torch.equal(weights(tmp_path / "out")["classifier.weight"], before["classifier.weight"])


def test_a_posterior_to_start_from_hands_over_its_curvature(tmp_path, base, data):
    run(base, data, (0.3, 0.7), recipe(), tmp_path / "first")
    still = IvonRecipe(lr=0.0, ess=300.0, hess_init=0.5, betas=(0.9, 1 - 1e-7), weight_decay=1e-3)
    with_start = run(
        tmp_path / "first", data, (1, 0), recipe(still, steps=1), tmp_path / "second", start=tmp_path / "first" / "posterior.safetensors"
    )  # fmt: skip
    first, second = (
        open_posterior(tmp_path / name / "posterior.safetensors").file for name in ("first", "second")
    )
    name = "precision/classifier.weight"
    torch.testing.assert_close(second[name], 3 * first[name], rtol=1e-3, atol=0)
    assert with_start.memory == pytest.approx(1, abs=1e-6)
    assert any("100 % its initial value" in sentence for sentence in with_start.sentences())


def test_rows_and_tokens_are_two_objectives(tmp_path):
    language_model(tmp_path / "lm")
    rows = [{"prompt": "w1 w2", "completion": text} for text in sentences(12, low=1, high=9)]
    file = str(write_lines(tmp_path / "de.jsonl", rows))
    results = {}
    for per_token in (False, True):
        reading = Reading(task_type="causal-lm", per_token=per_token)
        out = tmp_path / str(per_token)
        done = run(tmp_path / "lm", {"de": file}, (1,), recipe(AdamWRecipe(lr=1e-2)), out, reading)
        results[per_token] = (
            done,
            json.loads((out / "previa-finetune.json").read_text())["facts"]["tokens_per_row"],
        )
        transformers.AutoModelForCausalLM.from_pretrained(out)
    assert results[False][0].losses != results[True][0].losses
    mean = sum(len(row["completion"].split()) + 1 for row in rows) / 12  # and the end-of-text token
    assert results[False][1] is None
    assert results[True][1] == {"de": pytest.approx(mean)}


def test_an_adapter_is_trained_alone_and_written_as_one(tmp_path):
    language_model(tmp_path / "lm")
    adapter(tmp_path / "lora", tmp_path / "lm")
    file = str(write_lines(tmp_path / "de.jsonl", [{"text": text} for text in sentences(8)]))
    run(tmp_path / "lora", {"de": file}, (1,), recipe(), tmp_path / "out", Reading(task_type="causal-lm"))
    before, after = weights(tmp_path / "lora"), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    posterior, _ = load_posterior(tmp_path / "out" / "posterior.safetensors", after)
    assert set(posterior.layout.places) == set(after)
    again = load_model(tmp_path / "out", "AutoModelForCausalLM")  # on the base that it names
    assert sum(p.requires_grad for p in again.model.parameters()) == len(after)
    second = run(
        tmp_path / "out", {"de": file}, (1,), recipe(), tmp_path / "second", Reading(task_type="causal-lm"),
        start=tmp_path / "out" / "posterior.safetensors",
    )  # fmt: skip
    assert second.path == tmp_path / "second"


def test_translations_train(tmp_path):
    translator(tmp_path / "t5")
    rows = [{"de": a, "en": b} for a, b in zip(sentences(8), sentences(8, seed=1), strict=True)]
    file = tmp_path / "de.csv"
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, ["de", "en"])
        writer.writeheader()
        writer.writerows(rows)
    reading = Reading(task_type="seq2seq", columns={"source": "de", "target": "en"}, per_token=True)
    run(tmp_path / "t5", {"de": str(file)}, (1,), recipe(), tmp_path / "out", reading)
    made = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").state_dict()
    before = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "t5").state_dict()
    assert made.keys() == before.keys()
    assert all(bool(value.isfinite().all()) for value in made.values())
    assert any(not torch.equal(made[name], before[name]) for name in made)


def pictures(folder, shade):
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (8, 8), (shade, 40 * number, 255 - shade)).save(folder / f"{number}.png")
    rows = [{"image": f"{number}.png", "label": number % 3} for number in range(6)]
    return str(write_lines(folder / "rows.jsonl", rows))


def test_pictures_of_two_tasks_come_from_their_own_folders_in_the_order_of_the_rows(tmp_path):
    viewer(tmp_path / "vit")
    data = {"a": pictures(tmp_path / "a", 10), "b": pictures(tmp_path / "b", 200)}
    reading = Reading(task_type="image-classification")
    loaded = load_model(tmp_path / "vit", "AutoModelForImageClassification")
    tasks, rows = {}, {}
    for name, place in data.items():
        tasks[name], rows[name], empty = read_task(name, place, loaded, reading)
        assert empty == 0
    mixed = [rows["b"][0], rows["a"][1], rows["b"][2], rows["a"][0]]
    batch = collate_of(tasks)(mixed)
    for i, row in enumerate(mixed):
        alone = collate_of({row["task"]: tasks[row["task"]]})([row])
        assert torch.equal(batch["pixel_values"][i], alone["pixel_values"][0])
        assert batch["labels"][i] == alone["labels"][0]
    run(tmp_path / "vit", data, (0.5, 0.5), recipe(), tmp_path / "out", reading)
    assert (tmp_path / "out" / "preprocessor_config.json").exists()
    posterior, _ = load_posterior(tmp_path / "out" / "posterior.safetensors", weights(tmp_path / "out"))
    assert set(posterior.layout.places) == set(weights(tmp_path / "out")), (
        "transformers renames a ViT's tensors in files"
    )
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    for_model = posterior_for_model(model, posterior)
    for name, p in model.named_parameters():
        assert torch.equal(for_model.mode()[name], p)
    query, stored = (
        "vit.layers.0.attention.q_proj.weight",
        "vit.encoder.layer.0.attention.attention.query.weight",
    )
    assert torch.equal(for_model.precision[query], posterior.precision[stored])
    with pytest.raises(InputError, match="--per-token is for tasks whose labels are tokens"):
        counter_of(tasks["a"])


def test_a_loss_of_ones_own(tmp_path, base, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\n\ndef rows():\n    return [{'input_ids': [2, 6 + i, 3], 'labels': [i % 3]} for i in range(8)]\n\n"
        "def loss(model, batch):\n    ids = {k: batch[k] for k in ('input_ids', 'attention_mask')}\n"
        "    return torch.nn.functional.cross_entropy(model(**ids).logits, batch['labels'][:, 0], reduction='none')\n"
    )
    monkeypatch.chdir(tmp_path)
    reading = Reading(task_type="mine:loss")
    found = run(base, {"de": "mine:rows"}, (1,), recipe(), tmp_path / "out", reading)
    assert found.rows == {"de": 24}


def test_rows_with_nothing_to_predict_are_left_out_and_counted(tmp_path):
    language_model(tmp_path / "lm")
    rows = [
        {"prompt": "w1 " * 20, "completion": "w2"},
        *({"prompt": "w1", "completion": "w2 w3"} for _ in range(4)),
    ]
    file = str(write_lines(tmp_path / "de.jsonl", rows))
    found = run(
        tmp_path / "lm", {"de": file}, (1,), recipe(), tmp_path / "out", Reading(task_type="causal-lm")
    )
    assert found.empty == {"de": 1}
    assert "1 rows with nothing to predict left out" in found.sentences()[0]
    write_lines(tmp_path / "fr.jsonl", rows[:1])
    with pytest.raises(InputError, match="task 'fr': none of the 1 rows"):
        run(
            tmp_path / "lm",
            {"fr": str(tmp_path / "fr.jsonl")},
            (1,),
            recipe(),
            tmp_path / "fr",
            Reading(task_type="causal-lm"),
        )


FOLDER = ["--model", "base", "--task-type", "causal-lm", "--steps", "3", "--lr", "0.1", "--out", "o"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study.toml", "--alpha", "1", "--steps", "3"], "--steps does not go with STUDY.toml"),
        (["study.toml"], "Missing option '--alpha'"),
        (FOLDER, "Missing option '--task'"),
        ([*FOLDER, "--task", "a=x", "--warm-start", "simple"], "--warm-start goes with STUDY.toml only"),
        ([*FOLDER, "--task", "a=x", "--task", "b=y"], "Missing option '--alpha': one weight per --task"),
        ([*FOLDER, "--task", "a=x", "--ess", "10"], "--ess is for --optimizer ivon"),
        (
            [*FOLDER, "--task", "a=x", "--optimizer", "ivon", "--snapshots", "three"],
            "should be steps with commas",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_usage_is_said(arguments, message, capsys):
    assert main(["finetune", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "a=x.jsonl", "--optimizer", "ivon"], "with mean losses IVON needs one ess"),
        (["--task", "a=x.jsonl"], "base: no such folder"),
        (["--task", "a=x.jsonl", "--task", "b=y.jsonl", "--alpha", "1"], "1 weights; expected 2"),
    ],
    ids=["ess", "model", "alpha"],
)
def test_wrong_values_are_said_in_a_sentence(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["finetune", *FOLDER, *arguments]) == 1
    assert message in capsys.readouterr().err
