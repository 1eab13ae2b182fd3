"""A study of folders: previews of transformers' checkpoints and adapters from a study file, to the report and the joint run."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from previa.cli import main
from previa.errors import FileError, InputError, ParamsError, PreviaError, StudyError
from previa.io.adapter import merge_adapters
from previa.io.merge_folders import merge_folders
from previa.io.merging import Sources
from previa.run.fit import fit
from previa.run.given import given_mean, given_posterior
from previa.run.joint import finetune_at, truth
from previa.run.pipeline import preview
from previa.run.precision_file import Prior
from previa.run.resolve import load
from previa.run.text_scores import accuracy
from previa.run.transformers_squares import Wanted, transformers_squares
from previa.run.work import opened
from previa.study.file import study_from_dict
from tiny_folders import (
    SMALL,
    adapter,
    classifier,
    labelled,
    language_model,
    sentences,
    tokenizer,
    translator,
    viewer,
    write_lines,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
os.environ["HF_HUB_OFFLINE"] = "1"


def settings(tmp_path, make=classifier, task_type="sequence-classification", rows=labelled, **transformers):
    """A base, two tasks' checkpoints that are other models of the kind, and their rows."""
    make(tmp_path / "base", seed=0)
    for number, name in enumerate(("a", "b"), 1):
        make(tmp_path / name, seed=number)
        write_lines(tmp_path / f"{name}-train.jsonl", rows(12 + 4 * number, seed=10 * number))
        write_lines(tmp_path / f"{name}-test.jsonl", rows(9, seed=10 * number + 5))
    tasks = [
        {"name": name, "checkpoint": name, "train": f"{name}-train.jsonl", "test": f"{name}-test.jsonl"}
        for name in ("a", "b")
    ]
    return {
        "study": {"name": "tiny", "model": "base"},
        "transformers": {"task_type": task_type, **transformers},
        "task": tasks,
        "finetune": {"batch_size": 4},
        "preview": {"steps": 4},
    }


def previewed(table, folder):
    study = study_from_dict(table, folder=folder)
    with opened(study) as work:
        runs = fit(work)
        return work.ingredients, runs, preview(work, runs)


def score_of_folder(ingredients, folder, task):
    """The same score of a model that transformers loads from a folder."""
    model = ingredients.folders.loaded.model
    state = AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    with torch.no_grad():
        found = ingredients.score(model.eval(), ingredients.data[task][1])
    model.load_state_dict(before)
    return float(np.mean(np.asarray(found)))


def test_a_study_file_of_folders_gives_the_scores_of_the_folders_that_merge_writes(tmp_path):
    table = settings(tmp_path)
    ingredients, _, found = previewed(table, tmp_path)
    tasks = {name: tmp_path / name for name in ("a", "b")}
    assert set(found) == {"simple", "squared_gradients", "warped"}
    posteriors = {name: tmp_path / f"tiny-out/runs/{name}/squared_gradients.safetensors" for name in tasks}
    for method, precision in (("simple", None), ("squared_gradients", posteriors)):
        merge_folders(
            Sources(tmp_path / "base", tasks, precisions=precision), [[0.25, 0.75]], [tmp_path / method]
        )
        row = int(np.argmin(np.abs(found[method].alphas - [0.25, 0.75]).sum(1)))
        for t, name in enumerate(tasks):
            assert found[method].scores[row, t] == pytest.approx(
                score_of_folder(ingredients, tmp_path / method, name), abs=1e-6
            )


@pytest.mark.parametrize(
    ("make", "task_type", "rows"),
    [
        (language_model, "causal-lm", lambda N, seed: [{"text": text} for text in sentences(N, seed)]),
        (
            translator,
            "seq2seq",
            lambda N, seed: [
                {"source": one, "target": other}
                for one, other in zip(sentences(N, seed), sentences(N, seed + 1), strict=True)
            ],
        ),
        (
            viewer,
            "image-classification",
            lambda N, seed: [
                {
                    "image": np.random.default_rng(seed + i).integers(0, 255, (8, 8, 3)).tolist(),
                    "label": i % 3,
                }
                for i in range(N)
            ],
        ),
    ],
    ids=["causal-lm", "seq2seq", "image-classification"],
)
def test_every_task_type_is_previewed(tmp_path, make, task_type, rows):
    _, _, found = previewed(settings(tmp_path, make, task_type, rows), tmp_path)
    for one in found.values():
        assert one.ok.all()
        assert one.items[0].shape[-1] == 9


def trained(start, folder, seed):
    """The adapter after some steps that moved its factors a little."""
    shutil.copytree(start, folder)
    file = folder / "adapter_model.safetensors"
    draw = torch.Generator().manual_seed(seed)
    moved = {name: A + 0.1 * torch.randn(A.shape, generator=draw) for name, A in load_file(file).items()}
    save_file(moved, file, metadata={"format": "pt"})


def adapters(tmp_path, start=True):
    """A start, and two tasks' adapters of its settings on one base."""
    language_model(tmp_path / "base")
    adapter(tmp_path / "start", tmp_path / "base")
    for number, name in enumerate("ab"):
        trained(tmp_path / "start", tmp_path / name, seed=number)
    table = settings(
        tmp_path / "rows",
        language_model,
        "causal-lm",
        lambda N, seed: [{"text": x} for x in sentences(N, seed)],
    )
    for task in table["task"]:
        task |= {key: f"rows/{task[key]}" for key in ("train", "test")}
    return table | ({"transformers": {"task_type": "causal-lm", "adapter": "start"}} if start else {})


@pytest.mark.parametrize("start", [True, False])
def test_adapters_are_previewed_as_merged_factors(tmp_path, start):
    ingredients, runs, found = previewed(adapters(tmp_path, start), tmp_path)
    assert all(".lora_" in name for name in runs.base)
    from peft import PeftModel

    merge_adapters({name: tmp_path / name for name in "ab"}, [[0.5, 0.5]], [tmp_path / "merged"])
    merged = PeftModel.from_pretrained(
        LlamaForCausalLM.from_pretrained(tmp_path / "base"), str(tmp_path / "merged")
    )
    with torch.no_grad():
        expected = ingredients.score(merged.eval(), ingredients.data["b"][1])
    row = int(np.argmin(np.abs(found["simple"].alphas - 0.5).sum(1)))
    assert found["simple"].scores[row, 1] == pytest.approx(float(expected.mean()), rel=1e-6)


def test_adapters_of_two_initialisations_are_refused(tmp_path):
    table = adapters(tmp_path)
    shutil.rmtree(tmp_path / "b")
    adapter(tmp_path / "b", tmp_path / "base", seed=7)
    with pytest.raises(InputError, match=r"common initialisation: unlikely.*task 'a' and task 'b'"):
        load(study_from_dict(table, folder=tmp_path))


def test_joint_runs_of_adapters_need_the_adapter_that_they_start_from(tmp_path):
    table = adapters(tmp_path, start=False) | {"truth": {"steps": 2}}
    with pytest.raises(StudyError, match="adapter is missing"):
        load(study_from_dict(table, folder=tmp_path))
    table["transformers"]["adapter"] = "start"
    load(study_from_dict(table, folder=tmp_path))


def test_an_adapter_among_whole_models_and_the_reverse_are_refused(tmp_path):
    table = adapters(tmp_path)
    language_model(tmp_path / "whole")
    table["task"][1]["checkpoint"] = "whole"
    study = study_from_dict(table, folder=tmp_path)
    with pytest.raises(FileError, match=r"whole: no adapter_config.json"):
        given_mean(load(study), "b")
    table["task"][0]["checkpoint"], table["task"][1]["checkpoint"] = "whole", "a"
    del table["transformers"]["adapter"]
    with pytest.raises(InputError, match="an adapter, but the study merges whole models"):
        given_mean(load(study_from_dict(table, folder=tmp_path)), "b")


@pytest.mark.parametrize("make", [classifier, language_model])
def test_a_posterior_of_the_command_line_is_the_study_s_own(tmp_path, make):
    """previa posterior squared-gradients writes names of files; the study reads them as names of the model."""
    kind = "causal-lm" if make is language_model else "sequence-classification"
    table = settings(tmp_path, make, kind)
    for task in table["task"]:
        where = tmp_path / f"{task['name']}-squares.safetensors"
        wanted = Wanted(
            model=str(tmp_path / task["checkpoint"]), data=str(tmp_path / task["train"]), task_type=kind
        )
        transformers_squares(wanted, where, Prior(precision=1.0))
        task["posterior"] = where.name
    study = study_from_dict(table, folder=tmp_path)
    ingredients = load(study)
    posterior, provenance = given_posterior(ingredients, "a")
    assert provenance.source == "squared_gradients"
    with opened(study) as work:
        del work
    for task in table["task"]:
        del task["posterior"]
    with opened(
        study_from_dict(table | {"study": {"name": "own", "model": "base"}}, folder=tmp_path)
    ) as work:
        fit(work)
    own = load_file(tmp_path / "own-out/runs/a/fisher.safetensors")
    for name, values in own.items():
        torch.testing.assert_close(
            posterior.natural()[0][slice_of(posterior, name)], values.flatten() + 1.0, rtol=1e-4, atol=1e-6
        )


def slice_of(posterior, name):
    start, stop, _ = posterior.layout.places[name]
    return slice(start, stop)


def test_heads_of_their_own_are_each_task_s_and_are_not_merged(tmp_path):
    table = settings(tmp_path, heads=["classifier"])
    for number, name in enumerate("ab"):
        shutil.rmtree(tmp_path / name)
        classifier(tmp_path / name, seed=number + 1, classes=number + 2)
        for part in ("train", "test"):
            write_lines(tmp_path / f"{name}-{part}.jsonl", labelled(15, seed=number, classes=number + 2))
    ingredients, runs, found = previewed(table, tmp_path)
    assert not any("classifier" in name for name in runs.base)
    for t, name in enumerate("ab"):  # at its corner a task's preview is its own model
        corner = found["simple"].scores[int(found["simple"].alphas[:, t].argmax()), t]
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / name).eval()
        with torch.no_grad():
            expected = accuracy(model, ingredients.data[name][1].test)
        assert corner == pytest.approx(float(expected.mean()))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda t: t["study"].update(model="nowhere"), FileError, "no folder with a config.json"),
        (lambda t: t["study"].update(score="f1"), InputError, "accuracy"),
        (lambda t: t["study"].update(loss="m:f"), StudyError, "loss: is for models|loss is for models"),
        (lambda t: t["task"][0].pop("test"), StudyError, "'a': give train = ... and test = ..."),
        (lambda t: t["task"][0].update(data="m:f"), StudyError, "'a': give train"),
        (lambda t: t["task"][0].update(train="no.jsonl"), FileError, "no.jsonl: does not exist"),
        (lambda t: t["task"][0].update(columns={"text": "words"}), InputError, "'a'.*words"),
        (
            lambda t: t["transformers"].update(task_type="tagging"),
            StudyError,
            "task_type should be a function .*, or one of",
        ),
        (lambda t: t["transformers"].update(frozen=["zz"]), InputError, "frozen: 'zz': matches no parameter"),
        (lambda t: t["transformers"].update(heads=["head"]), StudyError, "heads: 'head' begins no name"),
        (
            lambda t: (t["transformers"].update(heads=["classifier"]), t.update(truth={"steps": 2})),
            StudyError,
            "Set steps = 0",
        ),
        (
            lambda t: (t["transformers"].update(dtype="bf16"), t["task"][1].pop("checkpoint")),
            StudyError,
            "dtype = 'bf16'",
        ),
    ],
)
def test_what_is_wrong_with_a_study_of_folders_is_said(tmp_path, change, error, said):
    table = settings(tmp_path)
    change(table)
    with pytest.raises(error, match=said):
        load(study_from_dict(table, folder=tmp_path))


def test_rows_without_the_section_are_refused(tmp_path):
    table = settings(tmp_path)
    del table["transformers"]
    with pytest.raises(StudyError, match=r"model should be a function.*needs the section"):
        study_from_dict(table, folder=tmp_path)
    table["study"]["model"] = "m:build"
    table["task"][0]["data"] = table["task"][1]["data"] = "m:rows"
    with pytest.raises(StudyError, match="train is for rows of a study with the section"):
        study_from_dict(table, folder=tmp_path)


def test_a_checkpoint_of_another_shape_is_refused_with_task_and_tensor(tmp_path):
    table = settings(tmp_path)
    shutil.rmtree(tmp_path / "b")

    tokenizer(tmp_path / "b")
    BertForSequenceClassification(BertConfig(**{**SMALL, "vocab_size": 30}, num_labels=3)).save_pretrained(
        tmp_path / "b"
    )
    with pytest.raises(ParamsError, match=r"task 'b'.*word_embeddings.*30"):
        previewed(table, tmp_path)


def test_joint_runs_by_adamw_are_the_truth_and_one_becomes_a_folder(tmp_path):
    table = settings(tmp_path) | {
        "truth": {"steps": 1, "optimizer": "adamw"},
        "adamw": {"steps": 3, "lr": 0.01},
        "finetune": {"batch_size": 4, "sampling": "loss"},
    }
    study = study_from_dict(table, folder=tmp_path)
    with opened(study) as work:
        runs = fit(work)
        found = truth(work)
        assert found.ok.all()
        assert len(found) == 4  # two corners, uniform, and by size
        one = finetune_at(work, [0.25, 0.75], runs=runs, warm_start="simple")
        score = score_of_folder(work.ingredients, one.path, "a")
    assert score == pytest.approx(one.scores["a"])
    assert json.loads((one.path / "previa.json").read_text())["alpha"] == [0.25, 0.75]
    assert (one.path / "tokenizer.json").is_file()


def test_tasks_without_checkpoints_are_finetuned_here(tmp_path):
    table = settings(tmp_path)
    for task in table["task"]:
        del task["checkpoint"]
    table["finetune"] = {"steps": 4, "batch_size": 4, "lr": 0.01}
    table["adamw"] = {"steps": 3}
    table["preview"] = {"steps": 2, "methods": ["simple", "ivon_hessian", "squared_gradients", "regmean"]}
    _, _, found = previewed(table, tmp_path)
    assert all(one.ok.all() for one in found.values())


def test_a_subset_of_the_test_rows_is_fixed_and_other_rows_are_other_results(tmp_path):
    table = settings(tmp_path, test_items=5)
    _, _, found = previewed(table, tmp_path)
    assert found["simple"].items[0].shape[-1] == 5
    write_lines(tmp_path / "a-test.jsonl", labelled(9, seed=99))
    with pytest.raises(PreviaError, match="data"):
        previewed(table, tmp_path)


def test_the_command_line_previews_a_study_of_folders(tmp_path):
    settings(tmp_path)
    (tmp_path / "study.toml").write_text(
        """
[study]
name = "tiny"
model = "base"
[transformers]
task_type = "sequence-classification"
[preview]
steps = 2
[[task]]
name = "a"
checkpoint = "a"
train = "a-train.jsonl"
test = "a-test.jsonl"
[[task]]
name = "b"
checkpoint = "b"
train = "b-train.jsonl"
test = "b-test.jsonl"
columns = {text = "text", label = "label"}
""",
        encoding="utf-8",
    )
    made = subprocess.run(
        [sys.executable, "-m", "previa", "run", str(tmp_path / "study.toml"), "--quiet"],
        capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, cwd=tmp_path.parent,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    assert (tmp_path / "tiny-out" / "report.html").is_file()
    assert "no joint runs" in made.stdout


def test_each_task_may_have_a_score_of_its_own(tmp_path):
    (tmp_path / "seven_scores.py").write_text("def seven(model, test):\n    return [7.0] * len(test)\n")
    table = settings(tmp_path)
    _, _, plain = previewed(table, tmp_path)
    table["study"]["name"] = "own"
    table["task"][1]["score"] = "seven_scores:seven"
    ingredients, _, found = previewed(table, tmp_path)
    assert found["simple"].scores[:, 0].tolist() == plain["simple"].scores[:, 0].tolist()
    assert set(found["simple"].scores[:, 1]) == {7.0}
    assert set(ingredients.code) == {"seven_scores"}


def test_nothing_is_trained_and_the_prior_is_small_unless_the_file_says_so(tmp_path):
    table = settings(tmp_path)
    study = study_from_dict(table, folder=tmp_path)
    assert (study.truth.steps, study.truth.optimizer, study.adamw.prior, study.adamw.lr) == (
        0,
        "adamw",
        0.1,
        5e-5,
    )
    assert study.preview.methods == ("simple", "squared_gradients", "warped", "anchored")
    table |= {"truth": {"steps": 3}, "adamw": {"prior": 10.0}, "preview": {"methods": ["simple"]}}
    study = study_from_dict(table, folder=tmp_path)
    assert (study.truth.steps, study.adamw.prior, study.preview.methods) == (3, 10.0, ("simple",))


def bert(folder, **changes):
    """The classifier of tiny_folders with other settings and its tokenizer."""
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(5)
    labels = changes.pop("labels", None)
    named = (
        {"label2id": labels, "id2label": {i: n for n, i in labels.items()}} if labels else {"num_labels": 3}
    )
    BertForSequenceClassification(BertConfig(**{**SMALL, **named, **changes})).save_pretrained(folder)
    tokenizer(folder)


def test_checkpoints_whose_weights_are_another_function_are_refused(tmp_path):
    table = settings(tmp_path)
    bert(tmp_path / "b", num_attention_heads=6)
    with pytest.raises(ParamsError, match=r"task 'b'.*num_attention_heads = 6, but the study's model has 2"):
        previewed(table, tmp_path)


def test_classes_of_other_names_are_refused_unless_heads_are_apart(tmp_path):
    table = settings(tmp_path)
    for name, order in (("base", "xyz"), ("a", "xyz"), ("b", "zyx")):
        bert(tmp_path / name, labels={n: i for i, n in enumerate(order)})
    with pytest.raises(ParamsError, match=r"task 'b'.*classes are .*heads"):
        previewed(table, tmp_path)
    table["transformers"]["heads"], table["study"]["name"] = ["classifier"], "apart"
    previewed(table, tmp_path)


def test_tied_and_untied_embeddings_are_not_merged(tmp_path):
    table = settings(
        tmp_path, language_model, "causal-lm", lambda N, seed: [{"text": x} for x in sentences(N, seed)]
    )
    shutil.rmtree(tmp_path / "b")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=False)).save_pretrained(tmp_path / "b")
    with pytest.raises(ParamsError, match=r"task 'b'.*tie_word_embeddings = False"):
        previewed(table, tmp_path)


def test_another_vocabulary_is_refused_unless_the_file_says_which_is_right(tmp_path):
    table = settings(tmp_path)
    file = tmp_path / "b" / "tokenizer.json"
    inner = json.loads(file.read_text())
    words = inner["model"]["vocab"]
    words["w1"], words["w2"] = words["w2"], words["w1"]
    file.write_text(json.dumps(inner))
    with pytest.raises(InputError, match=r"task 'b'.*another vocabulary"):
        load(study_from_dict(table, folder=tmp_path))
    table["transformers"]["tokenizer"] = "base"
    load(study_from_dict(table, folder=tmp_path))


def test_adapters_of_another_base_are_refused(tmp_path):
    table = adapters(tmp_path)
    language_model(tmp_path / "other", seed=8)
    table["study"]["model"] = "other"
    with pytest.raises(InputError, match="whose weights are not those of the study's model"):
        load(study_from_dict(table, folder=tmp_path))


def test_a_joint_run_starts_from_the_base_also_where_only_previews_were_asked_for(tmp_path):
    table = settings(tmp_path) | {"adamw": {"steps": 1, "lr": 1e-9}, "finetune": {"batch_size": 4}}
    with opened(study_from_dict(table, folder=tmp_path)) as work:
        made = finetune_at(work, [0.5, 0.5])
    base = load_file(tmp_path / "base" / "model.safetensors")
    for name, value in load_file(made.path / "model.safetensors").items():
        torch.testing.assert_close(value, base[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"heads": ["classifier"]}, "not trained here"), ({"dtype": "bf16"}, "for previews only")],
)
def test_what_only_previews_does_not_train(tmp_path, change, said):
    with (
        opened(study_from_dict(settings(tmp_path, **change), folder=tmp_path)) as work,
        pytest.raises(StudyError, match=said),
    ):
        finetune_at(work, [0.5, 0.5], runs=fit(work), warm_start="simple")


def test_a_base_without_the_head_previews_and_starts_nothing(tmp_path):
    table = settings(tmp_path)
    shutil.rmtree(tmp_path / "base")
    BertModel(BertConfig(**SMALL)).save_pretrained(tmp_path / "base")
    with opened(study_from_dict(table, folder=tmp_path)) as work:
        assert preview(work, fit(work))["simple"].ok.all()
        with pytest.raises(StudyError, match=r"finetune: .*would be random"):
            finetune_at(work, [0.5, 0.5])
    table["preview"]["methods"] = ["simple", "task_arithmetic"]
    with pytest.raises(StudyError, match="would be random"):
        load(study_from_dict(table, folder=tmp_path))


def test_export_finds_the_training_rows_of_a_study_of_folders(tmp_path):
    table = settings(tmp_path)
    lines = [
        '[study]\nname = "tiny"\nmodel = "base"\n[transformers]\ntask_type = "sequence-classification"\n'
    ]
    for task in table["task"]:
        lines.append("[[task]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in task.items()))
    (tmp_path / "study.toml").write_text("".join(lines), encoding="utf-8")
    arguments = [
        "export",
        "--alpha",
        "0.25,0.75",
        "--to",
        "datasets",
        "--study",
        str(tmp_path / "study.toml"),
    ]
    assert main([*arguments, "--average", "rows", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    lock = json.loads(next((tmp_path / "out").glob("*lock*")).read_text())
    assert "a-train.jsonl" in json.dumps(lock)
