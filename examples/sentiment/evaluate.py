"""Accuracies of folders on each task's test rows, with transformers alone: `python evaluate.py films merged`."""

import json
import sys
from pathlib import Path

import torch
from rows import OF_TASK
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def accuracy(folder: str, task: str) -> float:
    """The share of a task's test rows that a folder's model gets right."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lines = Path(f"rows/{task}-test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    inputs = tokenizer([row["text"] for row in rows], padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        guesses = model(**inputs).logits.argmax(-1)
    return (guesses == torch.tensor([row["label"] for row in rows])).double().mean().item()


def main() -> None:
    """A line of JSON for each folder."""
    for folder in sys.argv[1:]:
        found = {task: accuracy(folder, task) for task in OF_TASK}
        print(json.dumps({"folder": folder, **found}))


if __name__ == "__main__":
    main()
