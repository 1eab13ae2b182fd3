"""Exact squared gradients of a real sentence encoder on real sentences, beside a plain training pass and beside the loop.

    OMP_NUM_THREADS=1 python benchmarks/squared_gradients_minilm.py --model DIR --data FOLDER [--sentences 1024] [--rounds 3]

--model: a folder with a BERT-like encoder and its tokenizer, as all-MiniLM-L6-v2; a fresh head of two classes is put on it.
--data: a folder with sst2_train.tsv.xz (label<TAB>sentence), or $PREVIA_DATA/sentiment, or ../shared/data/sentiment.
Without the one or the other the script says so and measures nothing.

Counted first. P = 10.6 M of the 22.7 M parameters are in matrices that multiply each token. A plain pass does 6*P*T
floating-point operations a sentence of T tokens. The hooks do the same products, split by sentence, and one multiply-add and 12
bytes of cached traffic for each of P squares. At 46 GB/s from the last cache that is 2.8 ms, and at 55 GFLOP/s a plain pass
over T = 23 tokens, the mean of SST-2, takes 27 ms: a ratio of 1.10 for the squares. A product over 23 tokens instead of 736
runs at 0.85 of the speed, which a third of the pass feels: 1.06. So 1.16 is what to expect, more for shorter sentences.

Both passes get the same batches of 32, and take turns batch by batch in one process: the plain pass runs whenever
squared_gradients asks for the next batch. Numbers are CPU seconds (time.process_time); the ratio is the median over rounds.
Everything is in it: the check of two sentences by the loop, float64 sums, the mean. Sentences are sorted by length, longest
first, as the command line does it, which hurts the ratio and helps the time; --order given leaves them as they are.
"""

from __future__ import annotations

import argparse
import lzma
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

import previa.fit.square_sums as sums_module
import previa.fit.squares as squares_module
import previa.fit.tape as tape_module
from previa.fit.batches import Examples
from previa.fit.labels import Given
from previa.fit.loop import one_by_one
from previa.fit.squared_gradients import SquaredGradients, squared_gradients

Batch = dict[str, Tensor]


def loss(model: torch.nn.Module, batch: Batch) -> Tensor:
    """One cross-entropy a sentence."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return functional.cross_entropy(logits, batch["labels"], reduction="none")


def plain(model: torch.nn.Module, batch: Batch) -> None:
    """What a training step does before its optimizer: the gradient of the mean loss."""
    torch.autograd.grad(loss(model, batch).mean(), list(model.parameters()))


def read(model: Path, data: Path, sentences: int, order: str) -> tuple[torch.nn.Module, list[Batch]]:
    """The model in evaluation mode, and batches of 32 sentences."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging

    logging.set_verbosity_error()
    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_pretrained(
        model, num_labels=2, dtype=torch.float32
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    with lzma.open(data / "sst2_train.tsv.xz", "rt", encoding="utf8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file][:sentences]
    found = [(tokenizer(text)["input_ids"], int(label)) for label, text in rows]
    if order == "length":
        found.sort(key=lambda row: -len(row[0]))
    batches = []
    for start in range(0, len(found), 32):
        part = found[start : start + 32]
        ids = [torch.tensor(tokens) for tokens, _ in part]
        padded = torch.nn.utils.rnn.pad_sequence(ids, True, tokenizer.pad_token_id)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in ids], True)
        labels = torch.tensor([label for _, label in part])
        batches.append({"input_ids": padded, "attention_mask": mask, "labels": labels})
    return network, batches


def measured(model: torch.nn.Module, batches: list[Batch]) -> tuple[float, float, SquaredGradients]:
    """CPU seconds of the plain pass and of the squared gradients, taking turns batch by batch."""
    spent = 0.0

    def turns() -> Iterator[Batch]:
        nonlocal spent
        for batch in batches:
            start = time.process_time()
            plain(model, batch)
            spent += time.process_time() - start
            yield batch

    start = time.process_time()
    found = squared_gradients(model, turns(), Given(loss))
    return spent, time.process_time() - start - spent, found


def parts(model: torch.nn.Module, batches: list[Batch]) -> dict[str, float]:
    """CPU seconds of what the hooks add, by kind."""
    seconds: dict[str, float] = defaultdict(float)
    undo: list[Callable[[], None]] = []

    def timed(owner: object, name: str, label: str) -> None:
        function = getattr(owner, name)

        def wrapped(*args: object, **kwargs: object) -> object:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[label] += time.process_time() - start

        setattr(owner, name, wrapped)
        undo.append(lambda: setattr(owner, name, function))

    timed(squares_module, "add_products", "products of matrices, squared")
    timed(squares_module, "_embedding", "embeddings")
    timed(tape_module, "add_squares", "all layers")
    timed(sums_module.SquareSums, "_flush", "float64 sums")
    timed(sums_module.Check, "hold", "check by the loop")
    try:
        squared_gradients(model, batches, Given(loss))
    finally:
        for back in undo:
            back()
    return dict(seconds)


def loop(model: torch.nn.Module, batches: list[Batch], examples: int) -> tuple[float, float]:
    """CPU seconds an example of the loop over single sentences without padding, and the hooks' largest error to it."""
    every = len(batches) // max(1, examples // 4)
    few = [{name: tensor[:4] for name, tensor in batch.items()} for batch in batches[:: max(1, every)]]
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    start = time.process_time()
    for batch in few:
        alone = [
            {n: t[:, : int(one["attention_mask"].sum())] if n != "labels" else t for n, t in one.items()}
            for one in Examples(batch)
        ]
        one_by_one(model, alone, Given(loss), sums)
    spent = (time.process_time() - start) / sum(len(batch["labels"]) for batch in few)
    found = squared_gradients(model, few, Given(loss))
    told = [
        name for name, total in sums.items() if total.any() and not name.endswith("key.bias")
    ]  # zero but for rounding
    return spent, max(float((found.sum[name] - sums[name]).abs().max() / sums[name].max()) for name in told)


def main() -> None:
    """Measure, print, and fail where the hooks disagree with the loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sentences", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--order", choices=["length", "given"], default="length")
    given = parser.parse_args()
    folders = [given.data] if given.data else []
    if "PREVIA_DATA" in os.environ:
        folders.append(Path(os.environ["PREVIA_DATA"]) / "sentiment")
    folders.append(Path(__file__).resolve().parents[2] / "shared" / "data" / "sentiment")
    data = next((folder for folder in folders if (folder / "sst2_train.tsv.xz").is_file()), None)
    if given.model is None or not (given.model / "config.json").is_file() or data is None:
        lacking = "sst2_train.tsv.xz (--data FOLDER)" if data is None else "the encoder (--model DIR)"
        print(f"squared_gradients_minilm: skipped, {lacking} is not there.")
        sys.exit(0)
    model, batches = read(given.model, data, given.sentences, given.order)
    lengths = torch.cat([batch["attention_mask"].sum(1) for batch in batches]).float()
    widest = [batch["input_ids"].shape[1] for batch in batches]
    print(
        f"{len(lengths)} sentences, {lengths.mean():.1f} tokens on average, {statistics.mean(widest):.1f} with padding"
    )
    ratios = []
    for number in range(given.rounds):
        before, after, found = measured(model, batches)
        assert set(found.ways.values()) == {"hook"}, found.note
        ratios.append(after / before)
        print(
            f"round {number + 1}: plain {before:.2f} s, squared gradients {after:.2f} s, ratio {ratios[-1]:.3f}"
        )
    print(f"ratio, median: {statistics.median(ratios):.3f}")
    for name, seconds in parts(model, batches).items():
        print(f"  {name:<32} {seconds:.2f} s")
    alone, error = loop(model, batches, 64)
    print(
        f"loop over single sentences: {alone * len(lengths) / after:.1f} x the hooks' time; largest error {error:.1e}"
    )
    assert error < 1e-4, "hooks and loop disagree"


if __name__ == "__main__":
    main()
