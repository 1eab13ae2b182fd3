"""The table of previews: it appears whole or not at all, whoever else writes it."""

import os
from pathlib import Path

import pytest

from previa.errors import FileError
from previa.study.preview import Preview
from previa.study.table import write_csv

PREVIEW = {"simple": Preview(("a", "b"), [[0.5, 0.5]], [[0.25, 0.75]])}


def test_two_processes_write_one_table_without_meeting(tmp_path, monkeypatch):
    path, replace = tmp_path / "preview.csv", Path.replace

    def the_other_is_done_first(part, target):
        monkeypatch.setattr(Path, "replace", replace)
        with monkeypatch.context() as other:
            other.setattr(os, "getpid", lambda: 10**7)
            write_csv(path, PREVIEW)
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", the_other_is_done_first)
    write_csv(path, PREVIEW)
    assert path.read_text().splitlines() == [
        "method,alpha_a,alpha_b,score_a,score_b,mean,status,seconds",
        "simple,0.5,0.5,0.25,0.75,0.5,ok,",
    ]
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_that_cannot_take_its_place_leaves_nothing_behind(tmp_path):
    (tmp_path / "preview.csv").mkdir()
    with pytest.raises(FileError, match="this table cannot be written"):
        write_csv(tmp_path / "preview.csv", PREVIEW)
    assert [p.name for p in tmp_path.iterdir()] == ["preview.csv"]
    with pytest.raises(FileError, match="this table cannot be written"):
        write_csv(tmp_path / "nowhere" / "preview.csv", PREVIEW)
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="this table cannot be written"):
        write_csv(tmp_path / "file" / "preview.csv", PREVIEW)
