"""What tests/test_two_processes.py launches in two processes: each training writes what every process ends with."""

import sys
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path

import torch
from torch.nn import Linear
from transformers import TrainingArguments

from previa.cli import main as previa
from previa.run.accelerate_loop import Loop, accelerator_of, finetune_accelerated
from previa.run.ivon_trainer import IvonTrainer
from previa.run.joint_data import Mixture, TrainerRows
from previa.run.recipe import AdamWRecipe, IvonRecipe, Recipe
from tiny_transformers import classifier, collate, flat, language_model, losses, sentences, supervised, texts

TASKS = {"a": sentences(20, seed=1), "b": sentences(12, seed=2, tilt=0.2)}
TEXTS = {"a": texts(20, seed=3, length=7), "b": texts(12, seed=4, length=7)}
IVON = IvonRecipe(lr=0.05, ess=200.0, hess_init=0.5, betas=(0.9, 0.5), weight_decay=1e-3, samples=2)
ONCE = IvonRecipe(lr=0.05, ess=200.0, hess_init=0.5, betas=(0.9, 0.5), weight_decay=1e-3)
ALPHA = (0.3, 0.7)


def with_a_spare_part(seed=0):
    """A model with a parameter that no loss depends on."""
    model = classifier(seed)
    model.spare = Linear(2, 2)
    return model


def loop(name, folder, accelerator, *, stopped):
    """Five rows a step, so that two processes cannot share them evenly; micro-batches of two."""
    rank = accelerator.process_index
    optimizer = IVON if name == "ivon" else AdamWRecipe(lr=1e-2)
    recipe = Recipe(optimizer=optimizer, steps=5, batch_size=5, sampling="sample")
    model = with_a_spare_part(seed=rank)  # the first process's parameters are everybody's
    found = finetune_accelerated(
        model, Mixture(TASKS, ALPHA, recipe), loss=losses, collate=collate, accelerator=accelerator,
        loop=Loop(micro_batch=2, clip_norm=0.5, save_every=2), state=folder / f"{name}.safetensors",
        watch=stop_after_three(accelerator) if stopped else None,
    )  # fmt: skip
    return {
        "theta": flat(model), "losses": found.losses, "resumed_at": found.resumed_at,
        "h": found.optimizer.posterior(model).natural()[0] if name == "ivon" else torch.zeros(1),
    }  # fmt: skip


class StoppedError(Exception):
    pass


def stop_after_three(accelerator):
    def watch(step, model, optimizer):
        if step == 3:
            accelerator.wait_for_everyone()
            raise StoppedError

    return watch


def trainer(folder, kind, processes):
    """The Trainer on the same rows, a batch of eight in all; a model whose loss ignores the number of items, and one not."""
    model, data = (classifier(), TASKS) if kind == "classes" else (language_model(), TEXTS)
    recipe = Recipe(optimizer=ONCE, steps=4, batch_size=8, sampling="sample")
    rows = TrainerRows(
        data, ALPHA, recipe, seed=42, averages_tokens=None if kind == "classes" else supervised
    )
    made = IvonTrainer(
        model=model, train_dataset=rows, data_collator=collate, ivon=ONCE,
        args=TrainingArguments(
            output_dir=str(folder / f"trainer-{kind}-{processes}"), per_device_train_batch_size=4 // processes, max_steps=4,
            gradient_accumulation_steps=2, lr_scheduler_type="constant", save_strategy="steps", save_steps=2, report_to="none",
            disable_tqdm=True, use_cpu=True, max_grad_norm=0.5, train_sampling_strategy="sequential",
            logging_strategy="no", dataloader_pin_memory=False,
        ),
    )  # fmt: skip
    made.train()
    return {"theta": flat(model), "h": made.optimizer.optimizer.posterior(model).natural()[0]}


def command(folder):
    """The command, as `accelerate launch -m previa finetune` runs it in every process; its status."""
    with redirect_stdout(StringIO()) as printed:
        status = previa(
            ["finetune", "--model", str(folder / "base"), "--task", f"a={folder / 'a.jsonl'}", "--task", f"b={folder / 'b.jsonl'}",
             "--task-type", "sequence-classification", "--alpha", "0.3,0.7", "--steps", "4", "--lr", "0.05", "--batch-size", "5",
             "--optimizer", "ivon", "--ess", "200", "--hess-init", "0.5", "--beta2", "0.5", "--micro-batch", "2", "--quiet",
             "--out", str(folder / "joint")]
        )  # fmt: skip
    return status, printed.getvalue()


def main(folder):
    accelerator = accelerator_of(cpu=True)
    processes, rank = accelerator.num_processes, accelerator.process_index
    found = {}
    for name in ("ivon", "adamw"):
        with suppress(StoppedError):
            loop(name, folder, accelerator, stopped=True)
        accelerator.wait_for_everyone()
        found[name] = loop(name, folder, accelerator, stopped=False)
    for kind in ("classes", "tokens"):
        found[f"trainer-{kind}"] = trainer(folder, kind, processes)
    found["command"] = command(folder)
    torch.save(found, folder / f"rank{rank}-of-{processes}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
