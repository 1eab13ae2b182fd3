"""Rows come from every kind of local file as they were written, and what is wrong with one is said with its place."""

import io
import json

import numpy as np
import pytest

from previa.data.files import read_rows
from previa.data.hub import hub_rows, saved_rows
from previa.data.images import open_image
from previa.errors import FileError, InputError

ROWS = [{"text": 'a, "quoted" b', "label": 1}, {"text": "zwei\nZeilen ü", "label": 0}]


def as_csv(rows, separator=","):
    import csv

    out = io.StringIO()
    writer = csv.DictWriter(out, ["text", "label"], delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", json.dumps(ROWS)),
        ("data.json", json.dumps({"data": ROWS, "version": 1})),
        ("lines.json", "\n".join(json.dumps(row) for row in ROWS)),
        ("rows.jsonl", "\n\n".join(json.dumps(row) for row in ROWS) + "\n"),
        ("ROWS.NDJSON", "\ufeff" + "\n".join(json.dumps(row) for row in ROWS)),
    ],
)
def test_json_in_every_form_gives_the_rows(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert list(read_rows(tmp_path / name)) == ROWS


@pytest.mark.parametrize(("name", "separator"), [("rows.csv", ","), ("rows.tsv", "\t")])
def test_tables_give_the_rows_as_text(tmp_path, name, separator):
    (tmp_path / name).write_text(as_csv(ROWS, separator), encoding="utf-8", newline="")
    assert list(read_rows(tmp_path / name)) == [{**row, "label": str(row["label"])} for row in ROWS]


def test_parquet_gives_the_rows(tmp_path):
    from pyarrow import Table, parquet

    parquet.write_table(Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    assert list(read_rows(tmp_path / "rows.parquet")) == ROWS


def test_text_gives_its_lines_and_leaves_out_blank_ones(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n  two \n", encoding="utf-8")
    assert list(read_rows(tmp_path / "a.txt")) == [{"text": "one"}, {"text": "  two "}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": }\n', "line 2: not JSON"),
        ("a.jsonl", '{"a": 1}\n[1]\n', r"line 2: list '\[1\]'; expected an object with columns"),
        ("a.json", "{", "not JSON .* Expected a list of objects"),
        ("a.json", "3", "holds a int; expected a list"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "line 3: 3 fields, but the header has 2"),
        ("a.csv", "a,a\n1,2\n", "header is .* each once"),
        ("a.csv", 'a,b\n"1,2\n', "line 2: unexpected end of data"),
        ("a.csv", "a,b\n", "holds no rows"),
        ("a.txt", "\n \n", "holds no rows"),
        ("a.parquet", "PAR1", "not a whole parquet file"),
        ("a.xlsx", "x", r"ending in '\.xlsx'; expected one of \.json, .*\.txt.* module:function"),
        ("a.txt", b"\xff\xfe\x00", "not UTF-8 text"),
        ("a.json", b"\xff\xfe\x00", "not UTF-8 text"),
    ],
)
def test_a_bad_file_is_named_with_its_place(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FileError, match=message):
        read_rows(file)


def test_what_is_no_file_is_said_so(tmp_path):
    with pytest.raises(FileError, match="does not exist; expected a file of rows"):
        read_rows(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(FileError, match="is a folder"):
        read_rows(tmp_path / "folder.csv")


def test_without_network_the_local_alternative_is_named():
    with pytest.raises(FileError, match=r"hub cannot be reached.*\.jsonl, .*\.parquet.*module:function"):
        hub_rows("nobody/nothing-of-the-kind", config="x")


def test_a_saved_data_set_is_read_by_split(tmp_path):
    from datasets import Dataset, DatasetDict

    table = Dataset.from_list(ROWS)
    table.save_to_disk(tmp_path / "one")
    DatasetDict(train=table, test=table.select([1])).save_to_disk(tmp_path / "two")
    assert [dict(row) for row in saved_rows(tmp_path / "one")] == ROWS
    assert [dict(row) for row in saved_rows(tmp_path / "two", split="test")] == ROWS[1:]
    with pytest.raises(InputError, match=r"no split 'dev'; it has train, test"):
        saved_rows(tmp_path / "two", split="dev")
    with pytest.raises(FileError, match="without a data set"):
        saved_rows(tmp_path)


def test_a_picture_is_opened_from_every_form(tmp_path):
    from PIL import Image

    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    held = {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}
    for value in (image, pixels, pixels.tolist(), held, {"bytes": None, "path": "a.png"}, "a.png"):
        assert np.array_equal(np.asarray(open_image(value, tmp_path)), pixels)
    assert open_image(pixels[:, :, 0]).mode == "RGB"
    (tmp_path / "b.png").write_bytes(b"none")
    for name in ("b.png", "c.png"):
        with pytest.raises(FileError, match="no picture that can be read"):
            open_image(name, tmp_path)
    with pytest.raises(InputError, match="a picture is int; expected"):
        open_image(3)
