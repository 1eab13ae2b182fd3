"""Two processes by `accelerate launch` (gloo, on the CPU): both end with the parameters that one process finds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tiny_folders
import two_processes
from previa.io import open_checkpoint, open_posterior
from previa.run.accelerate_loop import accelerator_of

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """(folder, what each of the two processes ended with)."""
    folder = tmp_path_factory.mktemp("two")
    tiny_folders.classifier(folder / "base", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    for number, task in enumerate("ab"):
        tiny_folders.write_lines(folder / f"{task}.jsonl", tiny_folders.labelled(12, seed=number))
    made = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
         "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", HERE / "two_processes.py", folder],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-3000:]
    return folder, [torch.load(folder / f"rank{rank}-of-2.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", ["ivon", "adamw"])
def test_the_loop_ends_with_the_same_parameters_in_both_and_in_one(ended, tmp_path, name):
    """Five rows a step for two, two samples, a parameter without gradient, stopped and resumed; one process never stopped."""
    _, (first, second) = ended
    one = two_processes.loop(name, tmp_path, accelerator_of(cpu=True), stopped=False)
    assert first[name]["resumed_at"] == second[name]["resumed_at"] == 2
    for key in ("theta", "h", "losses"):
        assert torch.equal(first[name][key], second[name][key])
        # sums of the rows' gradients in another order; h multiplies them by ess
        torch.testing.assert_close(
            first[name][key].double(), one[key].double(), rtol=1e-3, atol=1e-3 if key == "h" else 1e-4
        )
    assert not torch.allclose(one["theta"], two_processes.flat(two_processes.with_a_spare_part()), atol=1e-3)


@pytest.mark.filterwarnings("ignore:IVON's Hessian is still")
@pytest.mark.parametrize("kind", ["classes", "tokens"])
def test_the_trainer_ends_with_the_same_parameters_in_both_and_in_one(ended, tmp_path, kind):
    folder, (first, second) = ended
    name = f"trainer-{kind}"
    one = two_processes.trainer(tmp_path, kind, 1)
    for key, atol in (("theta", 1e-5), ("h", 1e-3)):
        assert torch.equal(first[name][key], second[name][key])
        torch.testing.assert_close(first[name][key], one[key], rtol=1e-3, atol=atol)
    saved = open_posterior(folder / f"{name}-2" / "checkpoint-4" / "posterior.safetensors")
    assert saved.provenance.batch_size == 8
    h = torch.cat([saved.file[f"precision/{p}"].flatten() for p in saved.layout.places])
    assert torch.equal(h, first[name]["h"])


def test_the_command_writes_one_folder_and_speaks_once(ended, tmp_path, monkeypatch):
    folder, (first, second) = ended
    assert first["command"][0] == second["command"][0] == 0
    assert f"Model: {folder / 'joint'}" in first["command"][1]
    assert not second["command"][1]
    for name in ("base", "a.jsonl", "b.jsonl"):
        (tmp_path / name).symlink_to(folder / name)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert two_processes.command(tmp_path)[0] == 0
    for file in ("model.safetensors", "posterior.safetensors"):
        one, two = open_checkpoint(tmp_path / "joint" / file), open_checkpoint(folder / "joint" / file)
        for tensor in one:
            torch.testing.assert_close(
                one[tensor], two[tensor], rtol=1e-3, atol=1e-4 if file[0] == "m" else 1e-2
            )
