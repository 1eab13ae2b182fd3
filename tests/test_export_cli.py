"""`previa export` as its users meet it."""

import json
import sys

import pytest

from previa.cli import main
from tiny_study import NAME, write_study


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, N in (("de", 100), ("fr", 40)):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(f'{{"text": "{"w " * (len(name) * (i % 3 + 1))}"}}\n' for i in range(N))
        )
    yield tmp_path
    sys.modules.pop(NAME, None)


DATA = ("--data", "de=de.jsonl", "--data", "fr=fr.jsonl")


def test_it_prints_the_table_and_writes_into_a_folder_named_for_the_stack(folder, capsys):
    assert main(["export", "--alpha", "0.4,0.6", "--to", "trl", *DATA]) == 0
    said = capsys.readouterr().out
    assert "rows drawn  epochs  fraction" in said
    assert "Tokens of de, fr: words in 'text'." in said
    assert f"{folder / 'export-trl' / 'trl.yaml'}\n{folder / 'export-trl' / 'trl.lock.json'}\n" in said
    assert "Use: trl sft --config trl.yaml" in said
    lock = json.loads((folder / "export-trl/trl.lock.json").read_text())
    assert (lock["draw"], lock["seed"], lock["convention"]) == (140, 0, "mean")
    assert [task["count"] for task in lock["tasks"]] == [56, 84]


def test_settings_are_heard(folder, capsys):
    words = [
        "--draw",
        "50",
        "--seed",
        "7",
        "--convention",
        "sum",
        "--average",
        "rows",
        "--out",
        "here",
        "--tokens",
        "de=3.5",
    ]
    assert (
        main(
            [
                "export",
                "--alpha",
                "0.5,0.5",
                "--to",
                "ms-swift",
                *DATA,
                *words,
                "--materialise",
                "--task-column",
                "source",
            ]
        )
        == 0
    )
    assert "de: given; fr: words in 'text'" in capsys.readouterr().out
    lock = json.loads((folder / "here/ms-swift.lock.json").read_text())
    assert [task["count"] for task in lock["tasks"]] == [36, 14]
    assert (lock["seed"], lock["average"], lock["tasks"][0]["tokens_per_row"]) == (7, "rows", 3.5)
    rows = [json.loads(line) for line in (folder / "here/mixture.jsonl").read_text().splitlines()]
    assert {row["source"] for row in rows} == {"de", "fr"}
    assert len(rows) == 50


def test_stacks_without_weights_get_the_mixed_data_unasked(folder, capsys):
    assert (
        main(["export", "--alpha", "0.5,0.5", "--to", "torchtune", *DATA, "--epochs", "0.5", "--quiet"]) == 0
    )
    assert len((folder / "export-torchtune/mixture.jsonl").read_text().splitlines()) == 70
    said = capsys.readouterr().err
    assert said == "count rows and tokens: 2 of 2\nmix rows: 70 of 70\n"


def test_a_study_file_gives_tasks_convention_and_seed_and_functions_need_their_sizes(folder, capsys):
    study = str(write_study(folder, study={"convention": "sum", "seed": 9}))
    words = ["export", "--alpha", "0.2,0.3,0.5", "--to", "datasets", "--average", "rows", "--study", study]
    assert main(words) == 1
    assert f"task 'a': '{NAME}:a' is no data file" in capsys.readouterr().err
    sizes = ["--rows", "a=40", "--rows", "b=60", "--data", "c=de.jsonl"]
    assert main([*words, *sizes]) == 0
    said = capsys.readouterr().out
    assert f"Note: the data of a is the function {NAME}:a: put the path of a data set in its place." in said
    lock = json.loads((folder / "export-datasets/datasets.lock.json").read_text())
    assert (lock["convention"], lock["seed"]) == ("sum", 9)
    assert [task["share"] for task in lock["tasks"]] == pytest.approx([8 / 76, 18 / 76, 50 / 76])
    assert main([*words, *sizes, "--out", "x", "--materialise"]) == 1
    assert "mixed data can only be written from data files" in capsys.readouterr().err


def test_too_many_epochs_are_refused_after_the_table_and_nothing_is_written(folder, capsys):
    words = ["export", "--alpha", "0.1,0.9", "--to", "trl", *DATA, "--draw", "600"]
    assert main(words) == 1
    said = capsys.readouterr()
    assert "rows drawn" in said.out
    assert "task 'fr': 540 rows drawn of its 40 are 13.5 epochs; at most 10 are allowed" in said.err
    assert not (folder / "export-trl").exists()
    assert main([*words, "--max-epochs", "14"]) == 0


def test_tasks_of_different_columns_are_pointed_out(folder, capsys):
    (folder / "fr.jsonl").write_text('{"prompt": "a", "completion": "b c"}\n' * 40)
    assert main(["export", "--alpha", "0.5,0.5", "--to", "ms-swift", *DATA]) == 0
    assert "Note: tasks have different columns (de: text; fr: completion, prompt)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        (1, "3 weights; expected 2, one for each of de, fr", ["--alpha", "0.2,0.3,0.5", "--to", "trl", *DATA]),
        (1, "weights should sum to 1", ["--alpha", "0.2,0.3", "--to", "trl", *DATA]),
        (1, "has to be said: --average rows, or --average tokens. Datasets feed any trainer",
         ["--alpha", "0.5,0.5", "--to", "datasets", *DATA]),
        (1, "--to megatron --average rows: Megatron cuts the tokens", ["--alpha", "1", "--to", "megatron", "--data", "a=b", "--average", "rows"]),
        (1, "task 'it': there is no file it.jsonl", ["--alpha", "1", "--to", "trl", "--data", "it=it.jsonl"]),
        (1, "should hold tokenizer.json" , ["--alpha", "0.5,0.5", "--to", "trl", *DATA, "--tokenizer", "none"]),
        (2, "Where is the tasks' data?", ["--alpha", "1", "--to", "trl"]),
        (2, "give one of them", ["--alpha", "0.5,0.5", "--to", "trl", *DATA, "--draw", "5", "--epochs", "1"]),
        (2, "there is no task 'xx'. The tasks are de, fr", ["--alpha", "0.5,0.5", "--to", "trl", *DATA, "--rows", "xx=5"]),
        (2, "'many' is no number", ["--alpha", "0.5,0.5", "--to", "trl", *DATA, "--rows", "de=many"]),
        (2, "'de.jsonl' should be NAME=VALUE", ["--alpha", "1", "--to", "trl", "--data", "de.jsonl"]),
        (2, "Invalid value for '--to'", ["--alpha", "1", "--to", "nothing", *DATA]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_sentence(code, said, words, capsys):
    assert main(["export", *words]) == code
    err = capsys.readouterr().err
    assert said in " ".join(err.replace("│", " ").split())
