"""The mixed data itself: the planned rows of each task, in an order that the seed decides, without rows in memory."""

import json
import tracemalloc
from collections import Counter
from hashlib import sha256

import pytest
from datasets import load_dataset
from datasets.utils.logging import disable_progress_bar

from previa.errors import FileError, InputError
from previa.export.materialise import materialise
from previa.export.plan import Plan, Task

disable_progress_bar()
SIZES = {"de": 40, "fr": 7, "it, ü": 3}


@pytest.fixture
def files(tmp_path):
    """A data file of each of three formats, whose rows say which they are."""
    de, fr, it = tmp_path / "de.jsonl", tmp_path / "fr.csv", tmp_path / "it.json"
    de.write_text("".join(f'{{"text": "de {i}",  "n": 1.0}}\n\n' for i in range(40)), encoding="utf-8-sig")
    fr.write_text("text,n\n" + "".join(f'"fr\n{i}",1\n' for i in range(7)))
    it.write_text(json.dumps([{"text": f"it {i}", "n": None} for i in range(3)]))
    return dict(zip(SIZES, map(str, (de, fr, it)), strict=True))


def plan(files, draw=60, seed=0, alpha=(0.5, 0.3, 0.2)):
    tasks = tuple(
        Task(name, files[name], N, 2.0, a) for (name, N), a in zip(SIZES.items(), alpha, strict=True)
    )
    return Plan(tasks=tasks, draw=draw, average="rows", seed=seed)


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_task_has_its_rows_none_twice_before_all_came_once(files, tmp_path):
    p = plan(files)
    out = tmp_path / "mixture.jsonl"
    digest = materialise(p, out)
    assert digest == sha256(out.read_bytes()).hexdigest()
    drawn = read(out)
    assert Counter(row["task"] for row in drawn) == {"de": 30, "fr": 18, "it, ü": 12}
    for name, N in SIZES.items():
        texts = [row["text"] for row in drawn if row["task"] == name]
        for start in range(0, len(texts), N):
            assert len(set(texts[start : start + N])) == len(texts[start : start + N])
    fr = [row["text"] for row in drawn if row["task"] == "fr"]
    assert fr[:7] != fr[7:14]  # in another order (of 5040; the seed is fixed)
    assert [row["task"] for row in drawn] != sorted(row["task"] for row in drawn)


def test_rows_are_as_in_their_file_but_for_the_task_in_front(files, tmp_path):
    materialise(plan(files), tmp_path / "mixture.jsonl")
    lines = (tmp_path / "mixture.jsonl").read_text(encoding="utf-8").splitlines()
    de = next(line for line in lines if line.startswith('{"task": "de"'))
    assert de.endswith(',  "n": 1.0}')  # numbers and blanks are not written anew
    assert {tuple(json.loads(line)) for line in lines} == {("task", "text", "n")}
    found = load_dataset(
        "json", data_files=str(tmp_path / "mixture.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert Counter(found["task"]) == {"de": 30, "fr": 18, "it, ü": 12}


def test_the_seed_decides_and_a_tasks_order_does_not_depend_on_the_others(files, tmp_path):
    def of(name, **settings):
        materialise(plan(files, **settings), tmp_path / "out.jsonl")
        return [row["text"] for row in read(tmp_path / "out.jsonl") if row["task"] == name]

    assert of("fr") == of("fr")
    assert of("fr") != of("fr", seed=1)
    alone = of("fr", alpha=(0.0, 1.0, 0.0), draw=18)
    assert alone == of("fr")


def test_any_prefix_of_the_mixture_has_the_shares(files, tmp_path):
    """Urn drawing: of the first 3000 of 6000 rows, a share differs from the whole by at most five standard deviations."""
    materialise(plan(files, draw=6000), tmp_path / "out.jsonl")
    first = Counter(row["task"] for row in read(tmp_path / "out.jsonl")[:3000])
    for name, q in zip(SIZES, (0.5, 0.3, 0.2), strict=True):
        assert abs(first[name] - 3000 * q) < 5 * (3000 * q * (1 - q) / 2) ** 0.5


def test_rows_are_not_held_in_memory(tmp_path):
    """20 MB of rows, mixed with less than 3 MB of Python's memory; the file is mapped, not read."""
    big = tmp_path / "big.jsonl"
    with big.open("w") as file:
        for i in range(2500):
            file.write(json.dumps({"text": f"{i} " + "x" * 8000}) + "\n")
    p = Plan(tasks=(Task("big", str(big), 2500, 2.0, 1.0),), draw=2500, average="rows")
    tracemalloc.start()
    materialise(p, tmp_path / "out.jsonl")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "out.jsonl").stat().st_size > big.stat().st_size
    assert peak < 3e6


def test_progress_is_told_up_to_the_last_row(files, tmp_path):
    told = []
    materialise(plan(files, draw=10_000), tmp_path / "out.jsonl", progress=lambda *each: told.append(each))
    assert told == [("mix rows", done, 10_000) for done in (4096, 8192, 10_000)]


def test_an_empty_object_gets_its_task_too(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n{ }")
    materialise(
        Plan(tasks=(Task("a", str(tmp_path / "a.jsonl"), 2, None, 1.0),), draw=2, average="rows"),
        tmp_path / "out.jsonl",
    )
    assert read(tmp_path / "out.jsonl") == [{"task": "a"}] * 2


def test_what_cannot_be_mixed_is_refused_and_leaves_nothing(files, tmp_path):
    out = tmp_path / "out" / "mixture.jsonl"
    out.parent.mkdir()

    def refused(error, said, p, **settings):
        with pytest.raises(error, match=said):
            materialise(p, out, **settings)
        assert not list(out.parent.iterdir())

    refused(InputError, r"have a column 'n' already.*--task-column NAME", plan(files), column="n")
    short = dict(files)
    short["fr"] = str(tmp_path / "short.csv")
    (tmp_path / "short.csv").write_text("text,n\na,1\n")
    refused(InputError, r"short.csv has 1 rows, not 7 as planned", plan(short))
    refused(InputError, r"'m:f' is none. Write its rows to a .jsonl file", plan({**files, "de": "m:f"}))
    refused(
        FileError,
        r"no.jsonl: this data file cannot be read",
        plan({**files, "de": str(tmp_path / "no.jsonl")}),
    )
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n' * 39 + "not json\n")
    refused(
        FileError,
        r"bad.jsonl, row 40: this is not valid JSON",
        plan({**files, "de": str(tmp_path / "bad.jsonl")}, draw=80),
    )
    nan = tmp_path / "nan.json"
    nan.write_text('[{"text": NaN}, {"text": 1}, {"text": 2}]')
    refused(InputError, "a value that JSON cannot", plan({**files, "it, ü": str(nan)}))
    with pytest.raises(FileError, match="cannot be written: No such file"):
        materialise(plan(files), tmp_path / "none" / "out.jsonl")
