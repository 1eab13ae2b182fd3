"""previa posterior squared-gradients on folders of transformers: right numbers, right names, stopped and gone on, or a sentence."""

import json
import signal

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import tiny_folders as tiny
from previa.cli import main
from previa.errors import FileError, InputError
from previa.io import load_posterior, open_checkpoint, open_posterior
from previa.run import square_pass
from previa.run.precision_file import Prior
from previa.run.transformers_squares import Wanted, transformers_squares

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


def ran(capsys, *arguments, code=0):
    assert main(["posterior", "squared-gradients", "--quiet", *map(str, arguments)]) == code
    return " ".join("".join(capsys.readouterr()).split())


def squares(model, losses):
    """Mean over examples of the squared gradient, one example at a time, by name."""
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in params.items()}
    for loss in losses:
        grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        for name, grad in zip(params, grads, strict=True):
            if grad is not None:
                total[name] += grad.double() ** 2 / len(losses)
    return total


def damped(F, relative=1.0):
    means = {name: float(tensor.mean()) for name, tensor in F.items()}
    smallest = min(mean for mean in means.values() if mean > 0)
    return {name: tensor + relative * (means[name] or smallest) for name, tensor in F.items()}


def assert_precision(file, expected):
    """Equal to 1e-5 of each tensor's largest entry, where that is more than rounding noise."""
    noise = 1e-12 * max(
        float(tensor.max()) for tensor in expected.values()
    )  # a key's bias is zero but for that
    found = open_posterior(file)
    assert not found.has_mean
    assert dict(found.layout.shapes) == {name: tuple(tensor.shape) for name, tensor in expected.items()}
    for name, tensor in expected.items():
        error = (found.file[f"precision/{name}"] - tensor).abs().max()
        assert error <= 1e-5 * tensor.max() + noise, f"{name}: {float(error / tensor.max())}"
    return found.provenance


def class_losses(model, folder, rows):
    words = tiny.PreTrainedTokenizerFast.from_pretrained(folder)
    return [
        cross_entropy(model(**words(r["text"], return_tensors="pt")).logits, torch.tensor([r["label"]]))
        for r in rows
    ]


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """(folder of a classifier, its model, rows, their file)"""
    folder = tmp_path_factory.mktemp("classes")
    model, rows = tiny.classifier(folder / "model"), tiny.labelled(11)
    return folder / "model", model, rows, tiny.write_lines(folder / "rows.jsonl", rows)


def test_a_classifiers_precision_is_the_oracles_with_its_prior_and_provenance(classes, tmp_path, capsys):
    folder, model, rows, file = classes
    out = tmp_path / "q.safetensors"
    said = ran(
        capsys, "--model", folder, "--data", file, "--task-type", "sequence-classification", "--out", out, "--batch-size", 4
    )  # fmt: skip
    expected = damped(squares(model, class_losses(model, folder, rows)))
    found = assert_precision(out, expected)
    assert (found.source, found.reduction, found.examples, found.batch_size, found.label_mode) == (
        "squared_gradients", "mean", 11, 4, "given",
    )  # fmt: skip
    share = torch.cat(
        [
            (1 - F / h).flatten()
            for F, h in zip(
                squares(model, class_losses(model, folder, rows)).values(), expected.values(), strict=True
            )
        ]
    )
    # a key's bias, 1 % of the parameters, has rounding noise for a gradient
    assert found.prior_share == pytest.approx(float(share.mean()), rel=1e-2)
    assert found.prior_relative == 1
    assert "11 examples, given labels, mean of the losses" in said
    assert f"Posterior: {out}" in said
    assert [path.name for path in tmp_path.iterdir()] == ["q.safetensors"]
    load_posterior(out, open_checkpoint(folder))


def test_under_the_sum_it_counts_all_rows_also_where_some_were_drawn(classes, tmp_path, capsys):
    folder, _, rows, file = classes
    common = [
        "--model",
        folder,
        "--data",
        file,
        "--task-type",
        "sequence-classification",
        "--max-examples",
        5,
        "--seed",
        3,
    ]
    said = ran(capsys, *common, "--out", tmp_path / "mean.safetensors")
    ran(capsys, *common, "--out", tmp_path / "sum.safetensors", "--reduction", "sum")
    assert "5 examples of 11, drawn by the seed" in said
    mean, total = (open_posterior(tmp_path / f"{name}.safetensors") for name in ("mean", "sum"))
    for name in mean.file:
        torch.testing.assert_close(total.file[name], len(rows) * mean.file[name], rtol=1e-5, atol=0)
    assert total.provenance.examples == len(rows)
    assert json.loads(total.file.metadata["made"])["used"] == 5


@pytest.mark.parametrize("labels", ["sampled", "expected"])
def test_other_labels_than_the_datas(classes, tmp_path, capsys, labels):
    folder, model, rows, file = classes
    out = tmp_path / "q.safetensors"
    ran(
        capsys,
        "--model",
        folder,
        "--data",
        file,
        "--task-type",
        "sequence-classification",
        "--labels",
        labels,
        "--out",
        out,
    )
    assert open_posterior(out).provenance.label_mode == labels
    if labels == "expected":
        losses = []
        for c in range(3):
            for loss in class_losses(model, folder, [{**row, "label": c} for row in rows]):
                losses.append(
                    (-loss.detach() / 2).exp() * loss * 3**0.5
                )  # each class counts p_c, and the mean is over three
        assert_precision(out, damped(squares(model, losses)))


STOPPED = {"labels": "sampled", "batch_size": 2, "task_type": "sequence-classification"}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, "killed"])
def test_a_pass_that_ended_early_goes_on_to_the_same_numbers(classes, tmp_path, monkeypatch, how):
    folder, _, _, file = classes
    wanted = Wanted(model=str(folder), data=str(file), **STOPPED)
    transformers_squares(wanted, tmp_path / "whole.safetensors", Prior(1.0))
    out, partial = tmp_path / "q.safetensors", tmp_path / ".q.safetensors.partial"
    if how == "killed":  # nothing is done on the way out: what counts is what was written before
        monkeypatch.setattr(square_pass, "SECONDS", 0.0)
    before = signal.getsignal(signal.SIGTERM)

    def stop(what, done, total):
        if what == "squared gradients" and done == 6:
            if how == "killed":
                raise SystemExit
            signal.raise_signal(how)

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        transformers_squares(wanted, out, Prior(1.0), stop)
    assert partial.exists()
    assert not out.exists()
    assert signal.getsignal(signal.SIGTERM) is before
    made = transformers_squares(wanted, out, Prior(1.0))
    assert made.measured.resumed == 6 if how != "killed" else 0 < made.measured.resumed <= 6
    assert f"went on after {made.measured.resumed} examples" in " ".join(made.sentences())
    assert not partial.exists()
    one, other = open_checkpoint(out), open_checkpoint(tmp_path / "whole.safetensors")
    for name in one:  # the first batch after the stop is checked again, and rounds otherwise
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-10)


def test_a_pass_of_other_facts_is_not_gone_on_with(classes, tmp_path):
    folder, _, _, file = classes
    wanted = Wanted(model=str(folder), data=str(file), **STOPPED)

    def stop(what, done, total):
        if what == "squared gradients":
            signal.raise_signal(signal.SIGINT)

    out = tmp_path / "q.safetensors"
    with pytest.raises(KeyboardInterrupt):
        transformers_squares(wanted, out, Prior(1.0), stop)
    other = Wanted(model=str(folder), data=str(file), **{**STOPPED, "labels": "given"})
    with pytest.raises(
        InputError,
        match=r"partial: the sums of a stopped pass with labels = 'sampled', but this one has 'given'",
    ):
        transformers_squares(other, out, Prior(1.0))
    changed = tiny.write_lines(tmp_path / "rows.jsonl", tiny.labelled(11, seed=5))
    with pytest.raises(InputError, match="a stopped pass with data"):
        transformers_squares(Wanted(model=str(folder), data=str(changed), **STOPPED), out, Prior(1.0))


def word_losses(model, examples):
    """(tokens, labels of the next tokens from the start on) of each example"""
    return [
        cross_entropy(
            model(input_ids=torch.tensor([ids])).logits[0, :-1], torch.tensor(labels[1:]), ignore_index=-100
        )
        for ids, labels in examples
    ]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words") / "model"
    return folder, tiny.language_model(folder), tiny.PreTrainedTokenizerFast.from_pretrained(folder)


def test_a_language_models_texts_lines_with_one_token_are_left_out_and_told(words, tmp_path, capsys):
    folder, model, tokenizer = words
    lines = [*tiny.sentences(6), "w3", " ".join(["w1"] * 30)]
    (tmp_path / "a.txt").write_text("\n\n".join(lines), encoding="utf-8")
    said = ran(
        capsys,
        "--model",
        folder,
        "--data",
        tmp_path / "a.txt",
        "--task-type",
        "causal-lm",
        "--out",
        tmp_path / "q",
    )
    assert "rows with nothing to predict, left out: 1" in said
    assert "examples longer than the model takes, cut: 1" in said
    examples = [(tokenizer(line)["input_ids"][:16],) * 2 for line in lines if line != "w3"]
    assert_precision(tmp_path / "q", damped(squares(model, word_losses(model, examples))))


def test_of_a_prompt_no_token_is_supervised(words, tmp_path, capsys):
    folder, model, tokenizer = words
    rows = [
        {"prompt": a, "completion": b}
        for a, b in zip(tiny.sentences(5), tiny.sentences(5, seed=9), strict=True)
    ]
    file = tiny.write_lines(tmp_path / "a.jsonl", rows)
    ran(
        capsys,
        "--model",
        folder,
        "--data",
        file,
        "--task-type",
        "causal-lm",
        "--out",
        tmp_path / "q",
        "--max-length",
        40,
    )
    examples = []
    for row in rows:
        before, after = tokenizer(row["prompt"])["input_ids"], [*tokenizer(row["completion"])["input_ids"], 4]
        examples.append((before + after, [-100] * len(before) + after))
    assert_precision(tmp_path / "q", damped(squares(model, word_losses(model, examples))))


def test_tokens_that_the_data_brings_are_taken_as_they_are(words, tmp_path, capsys):
    folder, model, _ = words
    rows = [
        {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]},
        {"input_ids": [9, 10, 11], "labels": [9, 10, 11]},
    ]
    file = tiny.write_lines(tmp_path / "a.json", rows)
    ran(capsys, "--model", folder, "--data", file, "--task-type", "causal-lm", "--out", tmp_path / "q")
    losses = word_losses(model, [(row["input_ids"], row["labels"]) for row in rows])
    assert_precision(tmp_path / "q", damped(squares(model, losses)))


def test_padding_that_the_data_brings_is_none_of_its_tokens(words, tmp_path, capsys):
    folder, model, _ = words
    rows = [
        {"input_ids": [5, 6, 7, 0, 0], "attention_mask": [1, 1, 1, 0, 0], "labels": [5, 6, 7, 0, 0]},
        {
            "input_ids": [0, 8, 9, 10, 11],
            "attention_mask": [0, 1, 1, 1, 1],
            "labels": [-100, -100, 9, 10, 11],
        },
    ]
    common = ["--model", folder, "--task-type", "causal-lm", "--out", tmp_path / "q", "--data"]
    ran(capsys, *common, tiny.write_lines(tmp_path / "a.jsonl", rows))
    losses = word_losses(model, [([5, 6, 7], [5, 6, 7]), ([8, 9, 10, 11], [-100, 9, 10, 11])])
    assert_precision(tmp_path / "q", damped(squares(model, losses)))
    for mask in ([1, 0, 1, 1, 1], [1, 1]):
        holes = tiny.write_lines(tmp_path / "b.jsonl", [{**rows[0], "attention_mask": mask}])
        assert "row 1: attention_mask" in ran(capsys, *common, holes, code=1)


def test_what_a_model_raises_on_a_batch_is_told(words, tmp_path, capsys):
    folder, _, _ = words
    file = tiny.write_lines(tmp_path / "a.jsonl", [{"input_ids": [5, 6, tiny.VOCABULARY + 3]}])
    said = ran(
        capsys, "--model", folder, "--data", file, "--task-type", "causal-lm", "--out", tmp_path / "q", code=1
    )
    assert "the model or its loss cannot take a batch of these rows: IndexError" in said


def test_a_model_in_bfloat16_and_frozen_parameters(words, tmp_path, capsys):
    folder, _, _ = words
    (tmp_path / "a.txt").write_text("\n".join(tiny.sentences(8)), encoding="utf-8")
    common = [
        "--model",
        folder,
        "--data",
        tmp_path / "a.txt",
        "--task-type",
        "causal-lm",
        "--frozen",
        "embed_tokens",
        "--frozen",
        "norm",
    ]
    ran(capsys, *common, "--out", tmp_path / "full")
    ran(capsys, *common, "--out", tmp_path / "half", "--dtype", "bf16")
    full, half = (open_posterior(tmp_path / name) for name in ("full", "half"))
    assert not [name for name in full.layout.places if "norm" in name or "embed" in name]
    for name in full.file:
        assert half.file.dtype_of(name) == torch.float32
        assert float(half.file[name].mean() / full.file[name].mean()) == pytest.approx(1, abs=0.1)


def test_an_adapters_precision_has_its_files_names(words, tmp_path, capsys):
    base, _, tokenizer = words
    model = tiny.adapter(tmp_path / "adapter", base)
    lines = tiny.sentences(6)
    (tmp_path / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    ran(
        capsys,
        "--model",
        tmp_path / "adapter",
        "--data",
        tmp_path / "a.txt",
        "--task-type",
        "causal-lm",
        "--out",
        tmp_path / "q",
    )
    examples = [(tokenizer(line)["input_ids"],) * 2 for line in lines]
    F = squares(model, word_losses(model, examples))
    assert_precision(tmp_path / "q", {n.replace(".default", ""): h for n, h in damped(F).items()})
    load_posterior(tmp_path / "q", open_checkpoint(tmp_path / "adapter"))


def test_a_translators_precision_is_the_oracles(tmp_path, capsys):
    folder = tmp_path / "model"
    model, tokenizer = tiny.translator(folder), tiny.PreTrainedTokenizerFast.from_pretrained(folder)
    rows = [
        {"translation": {"de": a, "en": b}}
        for a, b in zip(tiny.sentences(7), tiny.sentences(7, seed=4), strict=True)
    ]
    file = tiny.write_lines(tmp_path / "a.jsonl", rows)
    ran(
        capsys, "--model", folder, "--data", file, "--task-type", "seq2seq", "--column", "source=translation.de",
        "--column", "target=translation.en", "--out", tmp_path / "q", "--batch-size", 3,
    )  # fmt: skip
    losses = []
    for row in rows:
        ids, labels = (
            torch.tensor([tokenizer(row["translation"][name])["input_ids"]]) for name in ("de", "en")
        )
        losses.append(model(input_ids=ids, labels=labels).loss)
    assert_precision(tmp_path / "q", damped(squares(model, losses)))


def test_pictures_in_parquet_with_the_names_of_their_classes(tmp_path, capsys):
    import io

    from PIL import Image
    from pyarrow import Table, parquet

    model, draw = tiny.viewer(tmp_path / "model"), np.random.default_rng(0)
    pixels = draw.integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)
    names, rows = ["cat", "dog", "owl"] * 2, []
    for picture, name in zip(pixels, names, strict=True):
        held = io.BytesIO()
        Image.fromarray(picture).save(held, "png")
        rows.append({"image": {"bytes": held.getvalue(), "path": None}, "label": name})
    parquet.write_table(Table.from_pylist(rows), tmp_path / "a.parquet")
    ran(
        capsys, "--model", tmp_path / "model", "--data", tmp_path / "a.parquet", "--task-type", "image-classification",
        "--out", tmp_path / "q",
    )  # fmt: skip
    x = (torch.tensor(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    losses = [cross_entropy(model(pixel_values=x[i : i + 1]).logits, torch.tensor([i % 3])) for i in range(6)]
    F = damped(squares(model, losses))
    # transformers writes this model's tensors under other names than it has them; they are told by their values
    weights = open_checkpoint(tmp_path / "model")
    assert set(weights) != set(F)
    theta = dict(model.named_parameters())
    names = {
        n: next(m for m in theta if theta[m].shape == t.shape and torch.equal(theta[m], t))
        for n, t in weights.items()
    }
    assert_precision(tmp_path / "q", {n: F[m] for n, m in names.items()})


OWN = """
import torch

def model():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)

def rows():
    draw = torch.Generator().manual_seed(1)
    return ({"x": torch.randn(3, generator=draw), "name": "n"} for _ in range(5))

def loss(model, batch):
    return model(batch["x"]).square().sum(1) * len(batch["name"][0])
"""


def test_a_loss_and_a_model_of_ones_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_own_module.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ran(
        capsys,
        "--model",
        "my_own_module:model",
        "--data",
        "my_own_module:rows",
        "--task-type",
        "my_own_module:loss",
        "--out",
        "q",
    )
    torch.manual_seed(0)
    model, draw = torch.nn.Linear(3, 2), torch.Generator().manual_seed(1)
    losses = [model(torch.randn(1, 3, generator=draw)).square().sum() for _ in range(5)]
    assert_precision("q", damped(squares(model, losses)))
    said = ran(
        capsys, "--model", "my_own_module:model", "--data", "my_own_module:rows", "--task-type", "my_own_module:loss", "--out", "q",
        "--labels", "sampled", code=1,
    )  # fmt: skip
    assert "not with a loss of your own" in said


def test_a_model_that_predicts_numbers_or_several_classes(tmp_path, capsys):
    for kind, classes, label in (("regression", 1, 0.5), ("multi_label_classification", 3, [1.0, 0.0, 1.0])):
        folder = tmp_path / kind
        model = tiny.classifier(folder, classes=classes, problem_type=kind)
        rows = [{"text": text, "label": label} for text in tiny.sentences(4)]
        file = tiny.write_lines(tmp_path / f"{kind}.jsonl", rows)
        common = [
            "--model",
            folder,
            "--data",
            file,
            "--task-type",
            "sequence-classification",
            "--out",
            tmp_path / "q",
        ]
        ran(capsys, *common)
        words = tiny.PreTrainedTokenizerFast.from_pretrained(folder)
        losses = [
            model(**words(r["text"], return_tensors="pt"), labels=torch.tensor([label])).loss for r in rows
        ]
        assert_precision(tmp_path / "q", damped(squares(model, losses)))
        assert "only for one class of several" in ran(capsys, *common, "--labels", "sampled", code=1)


def test_precisions_with_one_common_prior_are_merged(classes, tmp_path, capsys):
    folder, _, _, file = classes
    other = tmp_path / "other"
    model = tiny.classifier(other, seed=1)
    tiny.write_lines(tmp_path / "b.jsonl", tiny.labelled(6, seed=8))
    for name, at, data in (("a", folder, file), ("b", other, tmp_path / "b.jsonl")):
        ran(
            capsys,
            "--model",
            at,
            "--data",
            data,
            "--task-type",
            "sequence-classification",
            "--out",
            tmp_path / f"{name}.safetensors",
        )
    files = [f"{name}={tmp_path / name}.safetensors" for name in "ab"]
    assert main(["posterior", "damp", *files, "--prior", "10", "--out", str(tmp_path / "damped")]) == 0
    assert "of it the prior" in capsys.readouterr().out
    before = {name: open_posterior(tmp_path / f"{name}.safetensors") for name in "ab"}
    after = {name: open_posterior(tmp_path / "damped" / f"{name}.safetensors") for name in "ab"}
    F = {}
    for name, q in before.items():
        prior = json.loads(q.file.metadata["made"])["prior"]
        F[name] = {n: q.file[f"precision/{n}"].double() - prior[n] for n in q.layout.places}
    for n in F["a"]:
        common = 10 * (F["a"][n].mean() + F["b"][n].mean()) / 2
        for name in "ab":
            expected = (F[name][n] + common).float()
            torch.testing.assert_close(after[name].file[f"precision/{n}"], expected, rtol=1e-5, atol=0)
    assert after["a"].provenance.prior_relative == 10
    assert main([
        "merge", "--task", f"a={folder / 'model.safetensors'}", "--task", f"b={other / 'model.safetensors'}", "--alpha", "0.3,0.7",
        "--precision", f"a={tmp_path}/damped/a.safetensors", "--precision", f"b={tmp_path}/damped/b.safetensors",
        "--out", str(tmp_path / "merged.safetensors"),
    ]) == 0  # fmt: skip
    merged, theta = open_checkpoint(tmp_path / "merged.safetensors"), open_checkpoint(folder)
    name = "classifier.weight"
    h = {key: after[key].file[f"precision/{name}"] for key in "ab"}
    mine = dict(model.named_parameters())[name].detach()
    expected = (0.3 * h["a"] * theta[name] + 0.7 * h["b"] * mine) / (0.3 * h["a"] + 0.7 * h["b"])
    torch.testing.assert_close(merged[name], expected)


def test_only_files_that_say_their_prior_are_damped_and_none_is_replaced(classes, tmp_path):
    from previa.run.precision_file import damp

    folder, _, _, file = classes
    out = tmp_path / "a.safetensors"
    transformers_squares(
        Wanted(model=str(folder), data=str(file), task_type="sequence-classification"), out, Prior(1.0)
    )
    with pytest.raises(FileError, match="would replace the file"):
        damp({"a": out}, Prior(1.0), tmp_path)
    with pytest.raises(FileError, match="no such folder"):
        damp({"a": out}, Prior(1.0), tmp_path / "none")
    from previa.core.diagonal import Diagonal
    from previa.io import Provenance, save_posterior

    plain = Provenance(family="diagonal", source="ivon", reduction="mean", examples=3)
    save_posterior(tmp_path / "b", Diagonal({"w": torch.zeros(2)}, 1.0), plain)
    with pytest.raises(FileError, match="does not say which part of its precision is the prior"):
        damp({"b": tmp_path / "b"}, Prior(1.0), tmp_path)
    for bad in (Prior, lambda: Prior(-1.0), lambda: Prior(1.0, 1.0)):
        with pytest.raises(InputError, match="the prior is"):
            bad()


def changed(folder, to, **config):
    """A copy of a model's folder with another configuration."""
    import shutil

    shutil.copytree(folder, to)
    known = json.loads((to / "config.json").read_text("utf-8"))
    (to / "config.json").write_text(json.dumps({**known, **config}), encoding="utf-8")
    return to


def test_what_is_wrong_is_said_in_a_sentence(classes, words, tmp_path, capsys):
    folder, _, _, file = classes
    out = ["--out", tmp_path / "q"]
    fine = {"--model": folder, "--data": file, "--task-type": "sequence-classification"}

    def said(code=1, more=(), **other):
        arguments = {**fine, **{f"--{k.replace('_', '-')}": v for k, v in other.items()}}
        flat = [word for pair in arguments.items() if pair[1] is not None for word in pair]
        return ran(capsys, *flat, *out, *more, code=code)

    assert "Missing option '--model' (or give STUDY.toml alone)" in said(2, model=None)
    assert "Missing option '--task-type'" in said(2, task_type=None)
    assert "--workers is for STUDY.toml" in said(2, ["--workers", "2"])
    assert "--labels does not go with STUDY.toml" in ran(capsys, "study.toml", "--labels", "sampled", code=2)
    assert "expected one of sequence-classification, causal-lm" in said(task_type="classification")
    assert "no such folder; expected one that save_pretrained" in said(model=tmp_path / "none")
    assert "lacks 'score.weight'" in said(model=words[0])
    assert "the hub cannot be reached" in said(data="nobody/nothing").replace("Hugging Face ", "")
    assert "does not exist; expected a file of rows" in said(data=tmp_path / "none.csv")
    bad = tiny.write_lines(
        tmp_path / "bad.jsonl", [{"text": "w1 w2", "label": 0}, {"text": "w1", "label": "sad"}]
    )
    assert "row 2: label 'sad'; expected 0 to 2, or one of LABEL_0" in said(data=bad)
    empty = tiny.write_lines(
        tmp_path / "empty.jsonl", [{"text": "w1 w2", "label": 0}, {"text": None, "label": 1}]
    )
    assert "row 2: column 'text' is missing or empty" in said(data=empty)
    odd = tiny.write_lines(tmp_path / "odd.jsonl", [{"words": "w1", "stars": 0}])
    assert "the rows have the columns words, stars; expected input_ids" in said(data=odd)
    assert said(0, ["--column", "text=words", "--column", "label=stars"], data=odd)
    assert "--column text=none: the rows have the columns words, stars" in said(
        1, ["--column", "text=none"], data=odd
    )
    assert "--column tone=...: no such part; expected input_ids" in said(
        1, ["--column", "tone=words"], data=odd
    )
    (tmp_path / "one.txt").write_text("w1\n", encoding="utf-8")
    language = {"model": words[0], "task_type": "causal-lm", "data": tmp_path / "one.txt"}
    assert "none of 1 rows has anything to predict" in said(**language)
    assert "a pass for each word of the vocabulary" in said(1, ["--labels", "expected"], **language)
    assert "--device nowhere: " in said(1, ["--device", "nowhere"])
    assert "matches no parameter" in said(1, ["--frozen", "nothing"])
    assert "no regular expression" in said(1, ["--frozen", "("])
    assert "the prior is -1.0 relative" in said(1, ["--prior", "-1"])
    assert "its folder does not exist" in said(1, ["--out", tmp_path / "no" / "q"])
    assert "this is a folder; expected the name of a file" in said(1, ["--out", tmp_path])
    bare = changed(folder, tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    assert "no tokenizer in it" in said(model=bare)
    assert said(0, ["--tokenizer", folder], model=bare)
    (bare / "config.json").unlink()
    assert "holds no config.json" in said(model=bare)
    (bare / "model.safetensors").unlink()
    torch.save({}, bare / "pytorch_model.bin")
    assert "it is a pickle" in said(model=bare)
    assert "cannot read it as BertForSequenceClassification" in said(
        model=changed(folder, tmp_path / "wide", hidden_size=24, intermediate_size=48)
    ).replace("AutoModel", "Bert")
    assert "an adapter on the base model" in said(
        model=lone_adapter(words[0], tmp_path), task_type="causal-lm"
    )


def lone_adapter(base, folder):
    tiny.adapter(folder / "lone", base)
    file = folder / "lone" / "adapter_config.json"
    config = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**config, "base_model_name_or_path": "someone/base"}), encoding="utf-8")
    return folder / "lone"
