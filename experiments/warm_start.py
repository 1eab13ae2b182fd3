"""How many steps a joint run saves that starts from the merged preview, and not from the base.

Two tasks, SST-2 and polar Yelp reviews, and one encoder: each task finetuned alone, the two averaged at uniform weights, then
joint runs from the base and from the average, on the same rows in the same order, with the test loss along the way. Small scale:
the MiniLM encoder whose folder PREVIA_MINILM names; tiny: an encoder from a configuration, words by their checksums. A rerun goes
on where it stopped.
"""

import json
import os
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _results import write_json
from _shared import Options, machine, options, tsv
from torch.nn import Module
from torch.nn.functional import cross_entropy

from previa import AdamWRecipe, Isotropic, Recipe, merge, open_checkpoint, save_checkpoint
from previa.core.params import Params
from previa.run.accelerate_loop import Loop, accelerator_of, finetune_accelerated
from previa.run.joint_data import Mixture

TASKS = ("SST-2", "Yelp")
ALPHA = (0.5, 0.5)
LEVELS = (0.25, 0.5, 1.0)  # how far through the run from the base


@dataclass(frozen=True)
class Settings:
    """Sizes and hyper-parameters of one scale."""

    train: int  # rows of each task
    test: int
    words: int  # tokens kept of a text
    alone: int  # steps of a task's own run
    joint: int  # and of a joint one
    every: int  # steps between two looks at the test losses
    seeds: int
    lr: float = 5e-5
    batch: int = 16


SCALES = {
    "tiny": Settings(train=64, test=16, words=12, alone=4, joint=8, every=2, seeds=1, lr=1e-3),
    "small": Settings(train=1600, test=200, words=32, alone=60, joint=120, every=10, seeds=3),
}


def encoder(o: Options, seed: int) -> Module:
    """The base with two classes: the head's first parameters are of the seed, the same for all runs."""
    from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()  # that the head is new is no news
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    if o.scale == "tiny":
        config = BertConfig(
            vocab_size=2000, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        )
        return BertForSequenceClassification(config)
    return AutoModelForSequenceClassification.from_pretrained(minilm(o), num_labels=2, dtype=torch.float32)


def minilm(o: Options) -> str:
    """The encoder's folder. Ends the program, saying so, where there is none."""
    folder = os.environ.get("PREVIA_MINILM", "")
    if not (Path(folder) / "model.safetensors").is_file():
        print(
            f"skipped: {o.name} needs an encoder: PREVIA_MINILM names no folder with model.safetensors (found {folder!r})"
        )
        raise SystemExit(0)
    return folder


def tokenized(o: Options, s: Settings, seed: int) -> dict[str, tuple[list[dict], list[dict]]]:
    """task -> (train, test), rows of tokens with a label; the test rows are the same for every seed."""

    def polar(rows: list[list[str]]) -> list[tuple[int, str]]:
        return [(int(int(row[0]) > 3), row[-1]) for row in rows if int(row[0]) != 3]

    def binary(rows: list[list[str]]) -> list[tuple[int, str]]:
        return [(int(row[0]), row[-1]) for row in rows]

    texts = {
        "SST-2": (binary(tsv("sentiment/sst2_train.tsv.xz")), binary(tsv("sentiment/sst2_test.tsv.xz"))),
        "Yelp": (
            polar(tsv("sentiment/yelp_reviews_dev.tsv.xz")),
            polar(tsv("sentiment/yelp_reviews_test.tsv.xz")),
        ),
    }
    if o.scale == "tiny":

        def ids(text: str) -> list[int]:
            return [3 + zlib.crc32(word.encode()) % 1997 for word in text.lower().split()[: s.words]]
    else:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(minilm(o))

        def ids(text: str) -> list[int]:
            return tokenizer(text, truncation=True, max_length=s.words)["input_ids"]

    found = {}
    for task, (train, test) in texts.items():
        parts = []
        for rows, size, key in ((train, s.train, seed), (test, s.test, 0)):
            order = np.random.default_rng([key, len(task)]).permutation(len(rows))[:size]
            parts.append([{"input_ids": ids(rows[i][1]), "labels": rows[i][0]} for i in order])
        found[task] = parts[0], parts[1]
    return found


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Rows padded to the longest."""
    longest = max(len(row["input_ids"]) for row in rows)
    padded = [row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows]
    mask = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]
    return {
        "input_ids": torch.tensor(padded),
        "attention_mask": torch.tensor(mask),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def loss(model: Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of each text."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return cross_entropy(logits, batch["labels"], reduction="none")


@torch.no_grad()
def look(model: Module, tests: dict[str, list[dict]]) -> dict[str, float]:
    """The mean test loss and accuracy over the tasks, each at ALPHA's weight."""
    model.eval()
    device = next(model.parameters()).device
    found = {"loss": 0.0, "score": 0.0}
    for weight, rows in zip(ALPHA, tests.values(), strict=True):
        rows = sorted(rows, key=lambda row: len(row["input_ids"]))
        for start in range(0, len(rows), 50):
            batch = {name: values.to(device) for name, values in collate(rows[start : start + 50]).items()}
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            found["loss"] += (
                weight * float(cross_entropy(logits, batch["labels"], reduction="sum")) / len(rows)
            )
            found["score"] += weight * float((logits.argmax(-1) == batch["labels"]).sum()) / len(rows)
    return found


def train(
    o: Options, s: Settings, model: Module, data: dict, alpha: tuple, steps: int, seed: int, watch=None
) -> None:
    """A finetuning in place, at a constant learning rate: how far a run is does not depend on how long it will be."""
    recipe = Recipe(optimizer=AdamWRecipe(lr=s.lr), steps=steps, batch_size=s.batch, sampling="sample")
    finetune_accelerated(
        model, Mixture(data, alpha, recipe, seed=seed), loss=loss, collate=collate, watch=watch,
        loop=Loop(micro_batch=s.batch, schedule="constant"), accelerator=accelerator_of(cpu=o.device == "cpu"),
    )  # fmt: skip


def preview_at(o: Options, s: Settings, data: dict, seed: int) -> Params:
    """The average of the tasks' own runs at ALPHA, kept in the work folder."""
    file = o.out / f"preview-{seed}.safetensors"
    if not file.exists():
        ends = []
        for task in TASKS:
            model = encoder(o, seed)
            train(o, s, model, {task: data[task][0]}, (1.0,), s.alone, seed)
            ends.append(Isotropic({name: p.detach().cpu().clone() for name, p in model.named_parameters()}))
        save_checkpoint(file, merge(ALPHA, ends).mode())
    return open_checkpoint(file)


def curve(o: Options, s: Settings, data: dict, seed: int, name: str) -> list[dict[str, float]]:
    """The test losses along the joint run from the base ("cold") or from the average ("warm"), kept in the work folder."""
    file = o.out / f"{name}-{seed}.json"
    if file.exists():
        return json.loads(file.read_text())
    model, tests = encoder(o, seed), {task: rows for task, (_, rows) in data.items()}
    if name == "warm":
        preview = preview_at(o, s, data, seed)
        with torch.no_grad():
            for key, p in model.named_parameters():
                p.copy_(preview[key])
    seen = [{"step": 0, **look(model, tests)}]

    def watch(step: int, model: Module, optimizer: object) -> None:
        if step % s.every == 0:
            seen.append({"step": step, **look(model, tests)})
            print(f"seed {seed}, {name}, step {step}: loss {seen[-1]['loss']:.4f}", flush=True)

    train(o, s, model, {task: rows for task, (rows, _) in data.items()}, ALPHA, s.joint, seed + 100, watch)
    file.write_text(json.dumps(seen))
    return seen


def one_seed(o: Options, s: Settings, seed: int) -> dict[str, list[dict[str, float]]]:
    """Both curves of a seed."""
    data = tokenized(o, s, seed)
    return {name: curve(o, s, data, seed, name) for name in ("cold", "warm")}


def first_below(seen: list[dict[str, float]], level: float) -> int | None:
    """The first step at which the loss is at most ``level``."""
    return next((int(one["step"]) for one in seen if one["loss"] <= level), None)


def saved(curves: dict[str, list[dict[str, float]]], s: Settings) -> list[dict[str, float | None]]:
    """For the losses that the cold run has at parts of its length: the steps that each run takes to them."""
    rows = []
    for part in LEVELS:
        level = min(one["loss"] for one in curves["cold"] if one["step"] <= part * s.joint)
        cold, warm = first_below(curves["cold"], level), first_below(curves["warm"], level)
        rows.append(
            {"loss": level, "cold": cold, "warm": warm, "saved": None if warm is None else cold - warm}
        )
    return rows


def main() -> int:
    """Run, print the table, write warm_start.json."""
    o = options("warm_start", __doc__ or "")
    if o.scale not in SCALES:
        raise SystemExit("the paper has no such experiment: choose --scale small or tiny")
    s, started = SCALES[o.scale], time.perf_counter()
    o.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1 if o.scale == "tiny" else max(1, (os.cpu_count() or 2) // 2))
    runs = {seed: one_seed(o, s, seed) for seed in range(o.seed, o.seed + s.seeds)}
    levels = {seed: saved(curves, s) for seed, curves in runs.items()}
    print("\nseed  test loss  reached from the base  from the preview  saved")
    for seed, rows in levels.items():
        for row in rows:
            warm, gain = (str(row[key]) if row[key] is not None else "never" for key in ("warm", "saved"))
            print(f"{seed:4}  {row['loss']:9.4f}  {row['cold']:21}  {warm:>16}  {gain:>5}")
    facts = {
        "name": o.name, "title": "Joint finetuning from the merged preview and from the base", "command": o.command,
        "scale": o.scale, "machine": machine(o), "seconds": time.perf_counter() - started, "settings": vars(s),
        "tasks": TASKS, "alpha": ALPHA, "levels": {str(seed): rows for seed, rows in levels.items()},
        "curves": {str(seed): curves for seed, curves in runs.items()},
    }  # fmt: skip
    o.docs.mkdir(parents=True, exist_ok=True)
    write_json(o.docs / f"{o.stem}.json", facts)
    print(f"\nNumbers: {o.docs / f'{o.stem}.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
