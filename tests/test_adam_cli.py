"""previa posterior adam reads what a real Trainer left, by name, and asks for what it cannot read."""

import json
import shutil

import pytest
import torch
from transformers import Trainer, TrainingArguments

import tiny_folders as tiny
from previa.cli import main
from previa.io import load_posterior, open_checkpoint, open_posterior
from previa.run.trainer_checkpoint import numbers_in_pickle, trainer_facts

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
ROWS, BATCH, ACCUMULATED = 24, 4, 2


def rows(N=ROWS):
    draw = torch.Generator().manual_seed(0)
    return [
        {"input_ids": torch.randint(5, tiny.VOCABULARY, (6,), generator=draw).tolist(), "labels": i % 3}
        for i in range(N)
    ]


def collate(rows):
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


def trained(model, folder, data, **more):
    """The Trainer after it wrote a checkpoint at the end of its two epochs."""
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=BATCH, gradient_accumulation_steps=ACCUMULATED, num_train_epochs=2,
        learning_rate=1e-3, weight_decay=0.1, save_strategy="epoch", logging_strategy="no", report_to=[], use_cpu=True, seed=1,
        disable_tqdm=True, dataloader_pin_memory=False, **more,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate)
    trainer.train()
    return trainer


def last(folder):
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(the Trainer, its last checkpoint's folder)"""
    folder = tmp_path_factory.mktemp("run")
    trainer = trained(tiny.classifier(folder / "base").train(), folder / "out", rows())
    return trainer, last(folder / "out")


def ran(capsys, *arguments, code=0):
    assert main(["posterior", "adam", *map(str, arguments)]) == code
    return " ".join("".join(capsys.readouterr()).split())


def moments(trainer, batch):
    """B v / (1 - beta2^n) of each parameter by name, from the optimizer in memory."""
    optimizer = trainer.optimizer.optimizer if hasattr(trainer.optimizer, "optimizer") else trainer.optimizer
    found = {}
    for name, p in trainer.model.named_parameters():
        if p.requires_grad:
            state = optimizer.state[p]
            found[name] = batch * state["exp_avg_sq"].double() / (1 - 0.999 ** int(state["step"]))
    return found


def without_prior(file):
    opened = open_posterior(file)
    prior = json.loads(opened.file.metadata["made"])["prior"]
    return {n: opened.file[f"precision/{n}"].double() - prior[n] for n in opened.layout.places}


def assert_moments(found, expected):
    """Equal to 1e-6 of the tensor's mean: the prior is once that, and float32 holds their sum."""
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert (found[name] - tensor).abs().max() <= 1e-6 * (tensor.mean() + tensor.max()), name


def test_moments_of_a_real_training_are_those_of_the_optimizer_by_name(run, tmp_path, capsys):
    trainer, folder = run
    out = tmp_path / "q.safetensors"
    said = ran(capsys, "--optimizer", folder / "optimizer.pt", "--out", out, "--allow-pickle")
    expected = moments(trainer, BATCH * ACCUMULATED)
    assert len({tuple(t.shape) for t in expected.values()}) < len(expected)  # shapes alone do not name them
    assert_moments(without_prior(out), expected)
    provenance = open_posterior(out).provenance
    steps = trainer.state.global_step
    assert (provenance.source, provenance.batch_size, provenance.steps, provenance.examples, provenance.beta2, provenance.power) == (
        "adam_moments", BATCH * ACCUMULATED, steps, ROWS, 0.999, 1.0,
    )  # fmt: skip
    assert (
        f"after {steps} steps of beta2 = 0.999, times 8 examples a step (4 rows x 2 accumulated x 1 processes)"
        in said
    )
    assert f"{ROWS} training examples, estimated from the Trainer's epochs" in said
    load_posterior(out, open_checkpoint(folder))


def test_a_folder_the_sum_and_the_root_as_asked(run, tmp_path, capsys):
    trainer, folder = run
    common = ["--optimizer", folder, "--allow-pickle", "--batch-size", 3, "--examples", 50]
    ran(capsys, *common, "--out", tmp_path / "root", "--power", 0.5, "--reduction", "sum")
    expected = {name: 50 * tensor.sqrt() for name, tensor in moments(trainer, 3).items()}
    assert_moments(without_prior(tmp_path / "root"), expected)
    assert open_posterior(tmp_path / "root").provenance.examples == 50


def test_an_adapters_training(tmp_path, capsys):
    tiny.language_model(tmp_path / "base")
    model = tiny.adapter(tmp_path / "adapter", tmp_path / "base").train()
    data = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in rows(8)]
    trainer = trained(model, tmp_path / "out", data)
    folder = last(tmp_path / "out")
    ran(capsys, "--optimizer", folder, "--out", tmp_path / "q", "--allow-pickle")
    expected = {n.replace(".default", ""): t for n, t in moments(trainer, BATCH * ACCUMULATED).items()}
    assert_moments(without_prior(tmp_path / "q"), expected)
    load_posterior(tmp_path / "q", open_checkpoint(folder))


def test_frozen_parameters_are_said_by_the_user(tmp_path, capsys):
    model = tiny.classifier(tmp_path / "base").train()
    for name, p in model.named_parameters():
        p.requires_grad_("embeddings" not in name)
    trainer = trained(model, tmp_path / "out", rows(8))
    folder = last(tmp_path / "out")
    common = ["--optimizer", folder, "--out", tmp_path / "q", "--allow-pickle"]
    assert "which no known rule cuts so" in ran(capsys, *common, code=1)
    ran(capsys, *common, "--frozen", "embeddings")
    assert_moments(without_prior(tmp_path / "q"), moments(trainer, BATCH * ACCUMULATED))


def test_what_is_not_there_is_asked_for(run, tmp_path, capsys):
    _, folder = run
    out = ["--out", tmp_path / "q"]
    assert "it is a pickle, which can run code" in ran(capsys, "--optimizer", folder, *out, code=1)
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(folder / "optimizer.pt", bare)
    read = ["--allow-pickle", *out, "--optimizer", bare]
    assert "Say it with --batch-size" in ran(capsys, *read, "--model", folder, code=1)
    assert "Say it with --examples" in ran(capsys, *read, "--model", folder, "--batch-size", 8, code=1)
    assert "holds no config.json" in ran(capsys, *read, "--batch-size", 8, "--examples", 24, code=1)
    ran(capsys, *read, "--model", folder, "--batch-size", 8, "--examples", 24)
    steps = ran(capsys, *read, "--model", folder, "--batch-size", 8, "--examples", 24, "--steps", 7, code=1)
    assert "Adam did 6 steps, but --steps says 7" in steps
    state = json.loads((folder / "trainer_state.json").read_text("utf-8"))
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / "trainer_state.json").write_text(
        json.dumps({**state, "global_step": 99}), encoding="utf-8"
    )
    said = ran(capsys, "--allow-pickle", *out, "--optimizer", tmp_path / "other", code=1)
    assert "Adam did 6 steps, but trainer_state.json says 99" in said


def test_a_count_of_steps_is_taken_where_the_state_has_none(run, tmp_path, capsys):
    trainer, folder = run
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    for one in state["state"].values():
        del one["step"]
    shutil.copytree(folder, tmp_path / "run")
    torch.save(state, tmp_path / "run" / "optimizer.pt")
    common = ["--allow-pickle", "--out", tmp_path / "q", "--optimizer", tmp_path / "run"]
    assert "Only that of Adam and AdamW" in ran(capsys, *common, code=1)
    ran(capsys, *common, "--steps", trainer.state.global_step)
    assert_moments(without_prior(tmp_path / "q"), moments(trainer, BATCH * ACCUMULATED))


def test_several_processes_multiply_the_batch(run, tmp_path):
    _, folder = run
    for name in ("trainer_state.json", "training_args.bin"):
        shutil.copy(folder / name, tmp_path)
    for i in range(4):
        (tmp_path / f"rng_state_{i}.pth").touch()
    assert trainer_facts(tmp_path).batch_size == BATCH * ACCUMULATED * 4
    assert trainer_facts(tmp_path / "none").batch_size is None


class Evil:
    def __reduce__(self):
        return print, ("this was run",)


def test_numbers_are_read_from_a_pickle_without_running_it(tmp_path, capsys):
    file = tmp_path / "training_args.bin"
    torch.save({"a": Evil(), "gradient_accumulation_steps": 300, "n": [1], "_n_gpu": 2}, file)
    assert numbers_in_pickle(file, ("gradient_accumulation_steps", "_n_gpu", "none")) == {
        "gradient_accumulation_steps": 300, "_n_gpu": 2,
    }  # fmt: skip
    assert capsys.readouterr().out == ""
    file.write_bytes(b"no zip")
    assert numbers_in_pickle(file, ("_n_gpu",)) == {}
    assert numbers_in_pickle(tmp_path / "none", ("_n_gpu",)) == {}
