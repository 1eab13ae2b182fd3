"""Accuracy of a folder on each task's test rows, with transformers alone: `python evaluate.py merged`."""

import json
import sys
from pathlib import Path

import torch
from rows import OF_TASK
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def main() -> None:
    """A line of JSON: task -> accuracy."""
    (folder,) = sys.argv[1:]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = {}
    for task in OF_TASK:
        lines = Path(f"rows/{task}-test.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        inputs = tokenizer([row["text"] for row in rows], padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            guesses = model(**inputs).logits.argmax(-1)
        found[task] = (guesses == torch.tensor([row["label"] for row in rows])).double().mean().item()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
