"""True scores as a table: what is read back, and what each mistake is called, by line and column."""

import numpy as np
import pytest

from previa.errors import AlphaError, FileError, InputError
from previa.study.runs_csv import read_runs, write_template
from previa.study.simplex import grid

TASKS = ("a", "b")
HEADER = "alpha_a,alpha_b,score_a,score_b\n"


def table(tmp_path, text, encoding="utf-8"):
    file = tmp_path / "runs.csv"
    file.write_text(text, encoding=encoding)
    return file


def test_runs_are_read_by_the_names_of_their_columns_in_any_order(tmp_path):
    text = "score_b,name,alpha_a,rows_a,alpha_b,score_a\n0.5,first,0.25,.1,0.75,0.4\n\n-1,,1,,0,2e-1\n"
    found = read_runs(table(tmp_path, text, "utf-8-sig"), TASKS)
    assert [(run.alpha, run.scores, run.name, run.line) for run in found.runs] == [
        ((0.25, 0.75), {"a": 0.4, "b": 0.5}, "first", 2),
        ((1.0, 0.0), {"a": 0.2, "b": -1.0}, "", 4),
    ]
    assert found.empty == ()


def test_a_template_comes_back_with_the_same_weights_once_scores_are_filled_in(tmp_path):
    alphas, file = np.concatenate([grid(3, 3), [[1 / 3] * 3]]), tmp_path / "runs.csv"
    tasks = ("safety, first", 'the "second"', "dritte Größe")
    write_template(file, tasks, alphas, [f"run {i}" for i in range(len(alphas))], shares=alphas)
    with pytest.raises(InputError, match="no line has scores"):
        read_runs(file, tasks)
    with pytest.raises(InputError, match="may hold scores"):
        write_template(file, tasks, alphas, [""] * len(alphas))
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[1:4] = [line.removesuffix(",,,") + f",{i},.5,.25" for i, line in enumerate(lines[1:4])]
    file.write_text("\n".join(lines), encoding="utf-8")
    found = read_runs(file, tasks)
    assert np.array_equal([run.alpha for run in found.runs], alphas[:3])  # to the last bit
    assert [run.scores[tasks[0]] for run in found.runs] == [0, 1, 2]
    assert found.empty == tuple(range(5, len(alphas) + 2))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "this table is empty. Expected a line of columns, alpha_a, alpha_b, score_a, score_b"),
        ("alpha_a,alpha_b,score_a\n", "line 1: the column 'score_b' is missing"),
        ("a,b,score_a,score_b\n", "line 1: the column 'a' is unknown. Expected alpha_a, alpha_b"),
        ("alpha_a;alpha_b;score_a;score_b\n", "Cells should be separated by commas"),
        ("alpha_a,alpha_b,alpha_b,score_a,score_b\n", "the column 'alpha_b' is there 2 times"),
        (HEADER + "0.5,0.5,0.1\n", "line 2: 3 cells, but line 1 names 4 columns"),
        (HEADER + "0.5,0.5,1,1\n0.5,half,1,1\n", "line 3, column 'alpha_b': expected a finite number. Found 'half'"),
        (HEADER + "0.5,0.5,,1\n", "line 2, column 'score_a': expected a finite number. The cell is empty"),
        (HEADER + "0.5,0.5,nan,1\n", "line 2, column 'score_a': expected a finite number. Found 'nan'"),
        (HEADER + "0.5,0.5,1,1\n0.2,0.8,1,1\n0.50,0.5,1,2\n", "line 4: the weights (0.5, 0.5) stand in line 2 already"),
        (HEADER, "no line has scores"),
        (HEADER + '"0.5,0.5,1,1\n', "no CSV file"),
    ],
)  # fmt: skip
def test_a_mistake_is_called_by_line_and_column(tmp_path, text, said):
    with pytest.raises(InputError) as error:
        read_runs(table(tmp_path, text), TASKS)
    assert said in str(error.value)


def test_weights_that_are_none_are_called_by_line_and_columns(tmp_path):
    with pytest.raises(AlphaError) as error:
        read_runs(table(tmp_path, HEADER + "0.5,0.5,1,1\n0.5,0.4,1,1\n"), TASKS)
    assert "line 3: weights should sum to 1" in str(error.value)
    assert "the columns alpha_a, alpha_b" in str(error.value)
    with pytest.raises(FileError, match="cannot be read"):
        read_runs(tmp_path / "none.csv", TASKS)
    with pytest.raises(InputError, match="no CSV file in UTF-8"):
        read_runs(table(tmp_path, "name\xe9\n", "latin-1"), TASKS)
    with pytest.raises(FileError, match="cannot be written"):
        write_template(tmp_path / "no" / "runs.csv", TASKS, [[0.5, 0.5]], [""])


def test_weights_as_people_type_them_are_made_to_sum_to_one(tmp_path):
    header = "alpha_a,alpha_b,alpha_c,score_a,score_b,score_c\n"
    rows = "0.333,0.333,0.333,1,1,1\n0.5,0.25,0.255,1,1,1\n0.4,0.35,0.25,1,1,1\n"
    found = [run.alpha for run in read_runs(table(tmp_path, header + rows), ("a", "b", "c")).runs]
    assert found[0] == pytest.approx((1 / 3,) * 3, abs=1e-12)
    assert sum(found[1]) == pytest.approx(1, abs=1e-12)
    assert found[2] == (0.4, 0.35, 0.25)  # as it stands
    for wrong in ("0.33,0.33,0.33", "0.5,0.506,0", "-0.003,0.5,0.5"):
        with pytest.raises(AlphaError, match="line 2: weights should"):
            read_runs(table(tmp_path, header + wrong + ",1,1,1\n"), ("a", "b", "c"))
