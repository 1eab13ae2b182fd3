"""Data files: the rows that `datasets` finds, tokens of what is learnt, and errors that name file and row."""

import json
import struct

import numpy as np
import pytest
from datasets import load_dataset
from datasets.utils.logging import disable_progress_bar

from previa.errors import FileError, InputError, MissingExtraError
from previa.export.counting import size_of, tokenizer
from previa.export.indexed import size_of_index
from previa.export.layouts import layout_of, supervised
from previa.export.sources import load_arguments, rows
from previa.export.tasks import Given, task_of

disable_progress_bar()
ROWS = [
    {"prompt": f"p {i}", "completion": "w " * (i % 3) + 'é\u2028, "quoted"\nline ' + "[]{}" * i}
    for i in range(57)
]
CONTENT = {
    "lines.jsonl": "\n\n".join(json.dumps(row, ensure_ascii=i % 2 == 0) for i, row in enumerate(ROWS)) + "\n \n",
    "array.json": json.dumps(ROWS, indent=1),
    "objects.json": "\n".join(json.dumps(row) for row in ROWS),
    "table.csv": "prompt,completion\n"
    + "".join(f'{row["prompt"]},"{row["completion"].replace(chr(34), chr(34) * 2)}"\r\n' for row in ROWS),
}  # fmt: skip


def write(folder, name, content=None):
    path = folder / name
    path.write_bytes((CONTENT[name] if content is None else content).encode())
    return path


@pytest.mark.parametrize("name", CONTENT)
def test_files_have_the_rows_that_datasets_finds(name, tmp_path):
    path = write(tmp_path, name)
    oracle = load_dataset(**load_arguments(str(path)), split="train", cache_dir=str(tmp_path / "cache"))
    assert list(rows(path)) == oracle.to_list() == ROWS


def test_parquet_has_them_too_and_says_what_is_not_installed(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    oracle = load_dataset(
        "json",
        data_files=str(write(tmp_path, "array.json")),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    oracle.to_parquet(str(path))
    assert list(rows(path)) == ROWS
    path.write_bytes(b"PAR1 no")
    with pytest.raises(FileError, match="no readable Parquet file"):
        list(rows(path))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"needs pyarrow: pip install 'previa\[data\]'"):
        list(rows(path))


def test_text_is_a_row_a_line_empty_ones_too(tmp_path):
    path = write(tmp_path, "text.txt", "a b\n\nc\r\nlast")
    oracle = load_dataset(**load_arguments(str(path)), split="train", cache_dir=str(tmp_path / "cache"))
    assert list(rows(path)) == oracle.to_list()
    assert [row["text"] for row in rows(path)] == ["a b", "", "c", "last"]


def test_characters_of_patterns_in_a_name_bring_this_file_alone(tmp_path):
    for name in ("a?.jsonl", "ab.jsonl", "[ab].jsonl", "*.jsonl"):
        write(tmp_path, name, json.dumps({"text": name}))
        arguments = load_arguments(str(tmp_path / name))
        found = load_dataset(**arguments, split="train", cache_dir=str(tmp_path / "cache"))
        assert found.to_list() == [{"text": name}]


def test_a_row_longer_than_the_window_is_read(tmp_path):
    long = [{"text": "x" * 3_000_000}, {"text": "y"}]
    assert list(rows(write(tmp_path, "a.json", json.dumps(long)))) == long


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n', r"a.jsonl, line 2: this is not valid JSON"),
        ("a.jsonl", "[1]\n", r"a.jsonl, line 1: a row should be an object.*Found list"),
        ("a.json", '[{"text": "a"}, 3]', r"a.json, row 2: a row should be an object. Found int"),
        ("a.json", '[{"text": "a"}, {"te', r"a.json, row 2: this is not valid JSON"),
        ("a.json", '[{"text": "a"}', r"a.json, row 2: this is not valid JSON"),
        ("a.csv", "a,b\n1,2\n1\n", r"a.csv, row 2: it has other columns than the header, a, b"),
        ("a.csv", "a,b\n1,2,3\n", r"a.csv, row 1: it has other columns"),
        ("a.xml", "<a/>", r"should end in .jsonl, .json, .csv, .parquet, .txt"),
    ],
)
def test_broken_files_are_refused_by_name_and_row(name, content, said, tmp_path):
    with pytest.raises(FileError, match=said):
        list(rows(write(tmp_path, name, content)))


def test_text_of_another_encoding_and_missing_files_are_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(FileError, match="not text in UTF-8"):
        list(rows(tmp_path / "a.txt"))
    with pytest.raises(FileError, match="cannot be read: No such file"):
        list(rows(tmp_path / "b.jsonl"))


# Layouts and counting -----------------------------------------------------------------------------------------------------


def test_only_what_is_learnt_counts():
    turns = [{"role": "user", "content": "a b c"}, {"role": "assistant", "content": "d e"}]
    assert supervised(turns) == ["d e"]
    assert supervised([{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]) == ["b"]
    parts = [{"type": "text", "text": "x"}, {"type": "image"}]
    assert supervised([{"role": "assistant", "content": parts}, {"role": "assistant", "content": None}]) == [
        "x"
    ]
    assert supervised("plain text") == ["plain text"]
    assert supervised(None) == []
    assert layout_of(("messages", "text")).kind == "chat"
    assert layout_of(("instruction", "input", "output")) == layout_of(("output", "instruction"))
    assert layout_of(("text", "label")).kind == "text"
    assert layout_of(("image", "label")) is None


def test_sizes_are_rows_and_mean_words_of_the_learnt_column(tmp_path):
    size = size_of("t", write(tmp_path, "lines.jsonl"))
    expected = sum(len(row["completion"].split()) for row in ROWS) / 57
    assert (size.rows, size.columns, size.how) == (57, ("prompt", "completion"), "words in 'completion'")
    assert size.tokens == pytest.approx(expected, rel=1e-12)
    assert size_of("t", tmp_path / "lines.jsonl", column="prompt").tokens == 2
    many = write(tmp_path, "many.txt", "a b\n" * 2500 + "c\n")  # more than two batches
    assert size_of("t", many).tokens == pytest.approx(5001 / 2501)


def test_a_tokenizer_folder_counts_its_own_tokens(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"a": 0, "-": 1, "b": 2, "?": 3}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.enable_truncation(2)
    made.enable_padding(length=9)
    made.save(str(tmp_path / "tokenizer.json"))
    file = write(tmp_path, "a.txt", "a-b\na b - b\n")
    size = size_of("t", file, tokenizer(tmp_path))
    assert (size.tokens, size.how) == ((3 + 4) / 2, "tokens in 'text'")
    with pytest.raises(FileError, match=r"no such file. A tokenizer's folder should hold tokenizer.json"):
        tokenizer(tmp_path / "none")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(FileError, match="this tokenizer cannot be read"):
        tokenizer(tmp_path)


def test_what_cannot_be_counted_is_said(tmp_path):
    with pytest.raises(InputError, match=r"row 2 of .* has no column 'text'; found other.*--column t=COLUMN"):
        size_of("t", write(tmp_path, "a.jsonl", '{"text": "a"}\n{"other": "b"}\n'))
    with pytest.raises(InputError, match="has no rows"):
        size_of("t", write(tmp_path, "b.jsonl", "\n"))
    with pytest.raises(InputError, match="holds no text that is learnt"):
        size_of("t", write(tmp_path, "c.jsonl", '{"messages": [{"role": "user", "content": "hi"}]}\n'))
    assert size_of("t", write(tmp_path, "d.jsonl", '{"image": "x", "label": 1}\n')).tokens is None


# A task from what is said of it -------------------------------------------------------------------------------------------


def test_a_task_is_counted_or_taken_as_given(tmp_path):
    file = str(write(tmp_path, "a.txt", "a b c\nd\n"))
    task, how = task_of("t", file, 0.5)
    assert (task.rows, task.tokens, task.columns, how) == (2, 2.0, ("text",), "words in 'text'")
    task, how = task_of("t", file, 0.5, Given(tokens=30))
    assert (task.rows, task.tokens, how) == (2, 30, "given")
    task, how = task_of("t", file, 0.5, Given(rows=9, tokens=30))  # all is said: the file is not read through
    assert (task.rows, task.columns, how) == (9, ("text",), "given")
    task, how = task_of("t", "module:function", 0.5, Given(rows=9))
    assert (task.rows, task.tokens, how) == (9, None, "not counted")


def test_a_task_of_unknown_or_contradictory_size_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"'hub/name' is no data file .*--rows t=N.*--tokens t=L"):
        task_of("t", "hub/name", 0.5)
    with pytest.raises(FileError, match=r"task 't': there is no file none.jsonl"):
        task_of("t", "none.jsonl", 0.5, Given(rows=3, tokens=3))
    file = str(write(tmp_path, "a.txt", "a b c\nd\n"))
    with pytest.raises(InputError, match="has 2 rows, but 3 are given"):
        task_of("t", file, 0.5, Given(rows=3))


def index(lengths, documents) -> bytes:
    """As Megatron's _IndexWriter writes it."""
    pointers = np.concatenate([[0], np.cumsum(lengths)[:-1]]) * 4
    return (
        b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 4, len(lengths), len(documents))
        + np.array(lengths, "<i4").tobytes() + pointers.astype("<i8").tobytes() + np.array(documents, "<i8").tobytes()
    )  # fmt: skip


def test_the_index_of_a_megatron_data_set_tells_documents_and_tokens(tmp_path):
    prefix = tmp_path / "de_text_document"
    prefix.with_suffix(".idx").write_bytes(
        index([5, 7, 9, 3], [0, 2, 3, 4])
    )  # two sequences in the first document
    task, how = task_of("t", str(prefix), 1.0)
    assert (task.rows, task.tokens, how) == (3, 8.0, "tokens of the index")
    prefix.with_suffix(".idx").write_bytes(index([5, 7, 9, 3], [0, 2, 3, 4])[:-20])
    with pytest.raises(FileError, match="cut off"):
        size_of_index(prefix)
    for wrong in (b"", b"MMIDIDX\x00\x00" + bytes(40), index([0], [0, 1])):
        prefix.with_suffix(".idx").write_bytes(wrong)
        with pytest.raises(FileError, match=r"no index of a Megatron data set|all its documents are empty"):
            size_of_index(prefix)
