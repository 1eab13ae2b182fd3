"""Three finetunings of one base by a plain Trainer: `python train.py` writes the folders base, films, food and phones.

`python train.py --base DIR` starts from a model of yours. Without it a tiny one is made and pretrained, which takes seconds.
"""

import argparse
import json
from pathlib import Path

from rows import EVERYWHERE, NEUTRAL, OF_TASK
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)


def finetune(start: str, out: str, rows: str, *, steps: int, lr: float) -> None:
    """The model of one folder, trained on the rows of a file, to another folder."""
    set_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(start)
    tokenizer = AutoTokenizer.from_pretrained(start)
    read = [json.loads(line) for line in Path(rows).read_text(encoding="utf-8").splitlines()]
    examples = [{**tokenizer(row["text"], truncation=True), "labels": row["label"]} for row in read]
    arguments = TrainingArguments(
        output_dir="trainer",
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=lr,
        lr_scheduler_type="constant",
        save_strategy="no",
        report_to="none",
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=examples, processing_class=tokenizer)
    trainer.train()
    trainer.save_model(out)


def tiny(folder: str) -> None:
    """A BERT of one layer, with a tokenizer that knows the words of rows.py."""
    words = {*EVERYWHERE, *NEUTRAL}.union(*OF_TASK.values())
    known = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(words)])}
    inner = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=32, **names).save_pretrained(folder)
    set_seed(0)
    config = BertConfig(
        vocab_size=len(known),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertForSequenceClassification(config).save_pretrained(folder)


def main() -> None:
    """The base, saved once with its head; then each task from that folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", help="a folder or a name that from_pretrained takes")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--lr", type=float, default=1e-3, help="2e-5 suits most models of usual size")
    given = parser.parse_args()
    if given.base:
        set_seed(0)  # of the fresh head: one for all tasks
        AutoModelForSequenceClassification.from_pretrained(given.base, num_labels=2).save_pretrained("base")
        AutoTokenizer.from_pretrained(given.base).save_pretrained("base")
    else:
        tiny("untrained")
        finetune("untrained", "base", "rows/general.jsonl", steps=120, lr=2e-3)
    for task in OF_TASK:
        finetune("base", task, f"rows/{task}-train.jsonl", steps=given.steps, lr=given.lr)


if __name__ == "__main__":
    main()
