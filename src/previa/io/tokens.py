"""Whether tokenizers of several checkpoints mean the same: rows of embeddings are merged by their number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from previa.errors import ParamsError

FILES = ("tokenizer.json", "vocab.txt", "vocab.json")


def check_tokens(folders: Mapping[str, Path]) -> None:
    """Raise ParamsError, naming the row and both tokens, where one number is another token in another tokenizer.

    folders: what errors call a checkpoint -> its folder. Looked at is the first of tokenizer.json, vocab.txt and vocab.json;
    folders without them are left out.
    """
    seen: dict[bytes, dict[int, str]] = {}
    for where, folder in folders.items():
        file = next((folder / name for name in FILES if (folder / name).is_file()), None)
        if file is None:
            continue
        raw = file.read_bytes()
        digest = hashlib.sha256(raw).digest()
        if digest in seen:
            continue
        rows = seen[digest] = _rows(file.name, raw.decode("utf-8", "replace"))
        first = next(iter(seen.values()))
        odd = next((n for n, token in rows.items() if first.get(n, token) != token), None)
        if odd is not None:
            raise ParamsError(
                f"{where}: {file} says that token {odd} is {rows[odd]!r}, but in the tokenizer of the first checkpoint it is "
                f"{first[odd]!r}. Rows of their embeddings mean different tokens, so their averages mean nothing. Finetune all "
                "tasks with one tokenizer."
            )


def _rows(name: str, text: str) -> dict[int, str]:
    """number -> token; empty where the file has a form of its own."""
    if name == "vocab.txt":
        return dict(enumerate(text.splitlines()))
    try:
        found = json.loads(text)
        if name == "vocab.json":
            return {int(number): str(token) for token, number in found.items()}
        vocabulary = found["model"]["vocab"]
        if isinstance(vocabulary, list):  # unigram: pairs of token and score
            rows = {number: str(pair[0]) for number, pair in enumerate(vocabulary)}
        else:
            rows = {int(number): str(token) for token, number in vocabulary.items()}
        return rows | {int(item["id"]): str(item["content"]) for item in found.get("added_tokens") or ()}
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}
