"""Figures 7 and 10: sizes, sentences and tokens: Multi30k's captions, or IWSLT2017 by its name on the hub."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from _shared import data
from torch import Tensor

from previa.run.tokens import IGNORED, Example, padded

TASKS = ("de-en", "fr-en")
LANGUAGES = {"de": "German", "fr": "French", "en": "English"}
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<de>", "<fr>", "<en>")
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TURNS = "<start_of_turn>user\nTranslate this {} sentence into {}:\n{}<end_of_turn>\n<start_of_turn>model\n"
Pairs = list[tuple[str, str]]
"""(source, target) of each sentence"""
Row = dict[str, list[int]]
"""input_ids, and labels"""


@dataclass(frozen=True)
class Settings:
    """Sizes and hyper-parameters of one scale."""

    model: str  # a name of the hub; "": one that is trained here
    words: int  # the most of a sentence, in each of the languages
    training: int  # sentence pairs of each task, at most
    test: int  # sentences of each
    steps: int  # of every finetuning, joint ones too
    grid: int  # steps of the previews' weights
    joint: int  # and of the joint runs'
    fisher: int  # sentences of each task for squared gradients
    width: int = 128
    layers: int = 3
    heads: int = 4
    vocabulary: int = 3000
    pretrain_steps: int = 650
    pretrain_batch: int = 64
    pretrain_lr: float = 3e-3
    pretrain_pairs: int = 3000  # that the base has seen in the tasks' direction; they are not in ``training``
    pretrain_share: float = (
        0.1  # of each task in the base's training; the rest is from English to both languages
    )
    rank: int = 8
    targets: tuple[str, ...] = LINEAR
    batch: int = 32
    micro_batch: int = 32
    lr: float = 0.05
    betas: tuple[float, float] = (0.9, 0.99995)
    ess: float = 1e7
    joint_ess: float = 1e7
    hess_init: float = 3e-4
    clip_radius: float | None = None  # of IVON's g/(h+delta)
    warmup: int = 0
    delta: float = 1e-6
    adamw_lr: float = 1e-3
    adamw_joint: int = 2  # steps of the weights of AdamW's joint runs
    new_tokens: int = 28  # of a translation, at most
    score_batch: int = 128
    lowercase: bool = True
    synthetic: bool = False  # sentences are made up, so that no data are needed


@cache
def sentences(s: Settings) -> dict[str, tuple[Pairs, Pairs, Pairs]]:
    """task -> (seen by the base, training, test); line i of every language is one sentence, so tasks share their targets."""
    if s.model:
        return {task: hub_pairs(task, s) for task in TASKS}
    train, test = (made_up(s) if s.synthetic else read(part) for part in ("train", "test_2016_flickr"))
    kept, tested = (short(part, s.words) for part in (train, test))
    seen, own = kept[: s.pretrain_pairs], kept[s.pretrain_pairs :][: s.training]
    found = {}
    for task in TASKS:
        source, target = task.split("-")
        parts = (train, seen), (train, own), (test, tested[: s.test])
        before, training, held_out = ([(t[source][i], t[target][i]) for i in rows] for t, rows in parts)
        found[task] = before, training, held_out
    return found


def read(part: str) -> dict[str, list[str]]:
    """A part of Multi30k: language -> its lines."""
    found = {}
    for language in LANGUAGES:
        with gzip.open(data("multi30k", f"{part}.{language}.gz"), "rt", encoding="utf8") as file:
            found[language] = file.read().splitlines()
    return found


def short(lines: dict[str, list[str]], words: int) -> list[int]:
    """The sentences that have no more words than that in any language."""
    each = zip(*lines.values(), strict=True)
    return [i for i, same in enumerate(each) if max(len(line.split()) for line in same) <= words]


def made_up(s: Settings) -> dict[str, list[str]]:
    """Sentences of 30 words whose forms end in their language's letters."""
    stems = [a + b for a in ("ka", "lo", "mi", "nu", "pe") for b in ("ba", "do", "fi", "gu", "he", "ju")]
    rng = np.random.default_rng(0)
    lines = [rng.choice(stems, int(n)) for n in rng.integers(3, 8, s.pretrain_pairs + s.training + s.test)]
    return {language: [" ".join(w + language for w in line) for line in lines] for language in LANGUAGES}


def hub_pairs(task: str, s: Settings) -> tuple[Pairs, Pairs, Pairs]:
    """The paper's data by their name on the hub; the base has seen none of them from us."""
    from datasets import load_dataset

    source, target = task.split("-")
    found = []
    for split, most in (("train", s.training), ("test", s.test)):
        rows = load_dataset(
            "IWSLT/iwslt2017", f"iwslt2017-{task}", split=split, revision="refs/convert/parquet"
        )
        pairs = [(row["translation"][source], row["translation"][target]) for row in rows]
        fits = [p for p in pairs if split == "test" or max(len(text.split()) for text in p) <= s.words]
        found.append(fits[:most])
    return [], found[0], found[1]


def train_tokenizer(s: Settings) -> Any:
    """A byte-pair encoding of the three languages together, lower-cased, with a token for each of them."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer(models.BPE(unk_token="<unk>"))
    pieces.normalizer = normalizers.Lowercase()
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.decoder = decoders.Metaspace()
    lines = [line for part in sentences(s).values() for pairs in part[:2] for pair in pairs for line in pair]
    trainer = trainers.BpeTrainer(vocab_size=s.vocabulary, special_tokens=list(SPECIAL), show_progress=False)
    pieces.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens=list(SPECIAL[4:]),
    )  # fmt: skip


def prompt(s: Settings, task: str, text: str) -> str:
    """What stands before the translation."""
    source, target = task.split("-")
    if s.model:
        return TURNS.format(LANGUAGES[source], LANGUAGES[target], text)
    return f"<{source}>{text}<{target}>"


def tokenised(s: Settings, reader: Any, task: str, pairs: Pairs) -> list[Row]:
    """Tokens of each pair, and as labels those of the translation and of the end."""
    end = reader.eos_token_id
    first = reader([prompt(s, task, source) for source, _ in pairs])["input_ids"]
    rest = reader([target for _, target in pairs], add_special_tokens=False)["input_ids"]
    return [
        {"input_ids": [*a, *b, end], "labels": [IGNORED] * len(a) + [*b, end]}
        for a, b in zip(first, rest, strict=True)
    ]


def collate(pad: int, batch: Sequence[Row]) -> dict[str, Tensor]:
    """Tokens, labels and masks, [B, T], filled on the right."""
    return padded([Example(row) for row in batch], {"input_ids": pad, "labels": IGNORED})
