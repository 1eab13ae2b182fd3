"""The texts of figures 5 and 6: IMDB, RT, SST-2 and Yelp, from the data folder or by their names on the hub."""

import zlib
from collections.abc import Callable, Mapping

import numpy as np
import torch
from _shared import tsv
from torch import Tensor

TASKS = ("RT", "SST-2", "Yelp")
Batch = dict[str, Tensor]
Rows = list[tuple[int, str]]
"""(0 or 1, text)"""
Tokenizer = Callable[[list[str]], tuple[Tensor, Tensor]]
"""texts -> tokens and mask, both [N, words]"""


def from_files() -> dict[str, tuple[Rows, Rows]]:
    """name -> (train, test) of the data folder; stars 1, 2 of Yelp are 0, stars 4, 5 are 1.

    RT and SST-2 share their source: every sentence of SST-2 is taken out of RT, of which a quarter of the rest is the test part.
    """

    def read(name: str) -> Rows:
        return [(int(row[0]), row[-1]) for row in tsv(f"sentiment/{name}.tsv.xz")]

    def polar(name: str) -> Rows:
        return [(int(stars > 3), text) for stars, text in read(name) if stars != 3]

    test = read("sst2_dev") + read("sst2_test")
    train = without(read("sst2_train"), test)
    rt = without(read("rt_polarity"), train + test)
    order = np.random.default_rng(0).permutation(len(rt))
    cut = len(rt) // 4
    return {
        "IMDB": (read("imdb_train"), read("imdb_test")),
        "RT": ([rt[i] for i in order[cut:]], [rt[i] for i in order[:cut]]),
        "SST-2": (train, test),
        "Yelp": (polar("yelp_reviews_dev"), polar("yelp_reviews_test")),
    }


def without(rows: Rows, others: Rows) -> Rows:
    """The rows whose text is not among the others', whatever its spaces, marks and capitals."""

    def letters(text: str) -> str:
        return "".join(c for c in text.lower() if c.isalnum())

    known = {letters(text) for _, text in others}
    return [row for row in rows if letters(row[1]) not in known]


def from_hub() -> dict[str, tuple[Rows, Rows]]:
    """The paper's own sets by their names on the hub, as they are; the first fifth of Yelp's training part."""
    from datasets import load_dataset

    names = {
        "IMDB": ("stanfordnlp/imdb", "text", "test", ""),
        "RT": ("cornell-movie-review-data/rotten_tomatoes", "text", "test", ""),
        "SST-2": ("stanfordnlp/sst2", "sentence", "validation", ""),
        "Yelp": ("fancyzhx/yelp_polarity", "text", "test", "[:20%]"),
    }
    found = {}
    for name, (source, text, test, part) in names.items():
        parts = [load_dataset(source, split=split) for split in (f"train{part}", test)]
        found[name] = tuple([(row["label"], row[text]) for row in rows] for rows in parts)
    return found


def tokenized(
    texts: Mapping[str, tuple[Rows, Rows]], tokens: Tokenizer, sizes: Mapping[str, tuple[int, int]], seed: int
) -> dict[str, tuple[Batch, Batch]]:
    """name -> (train, test), so many of each; the training part is drawn by ``seed``, the test part is every seed's."""
    found = {}
    for name, parts in texts.items():
        made = []
        for rows, size, key in zip(parts, sizes[name], (seed, 0), strict=True):
            order = np.random.default_rng([key, len(name)]).permutation(len(rows))[:size]
            input_ids, mask = tokens([rows[i][1] for i in order])
            labels = torch.tensor([rows[i][0] for i in order])
            made.append({"input_ids": input_ids, "attention_mask": mask, "labels": labels})
        found[name] = made[0], made[1]
    return found


def wordpieces(source: str, words: int) -> Tokenizer:
    """The tokenizer of a folder or a hub's name, texts cut to ``words`` tokens and padded to as many."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)

    def tokens(texts: list[str]) -> tuple[Tensor, Tensor]:
        made = tokenizer(texts, truncation=True, max_length=words, padding="max_length", return_tensors="pt")
        return made["input_ids"], made["attention_mask"]

    return tokens


def checksums(vocabulary: int, words: int) -> Tokenizer:
    """Words by their checksums, for an encoder that was never trained."""

    def tokens(texts: list[str]) -> tuple[Tensor, Tensor]:
        ids = torch.zeros(len(texts), words, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            found = [
                3 + zlib.crc32(word.encode()) % (vocabulary - 3) for word in text.lower().split()[:words]
            ]
            row[: len(found)] = torch.tensor(found)
        mask = (ids > 0).long()
        mask[:, 0] = 1  # a text without words is one of padding
        return ids, mask

    return tokens
