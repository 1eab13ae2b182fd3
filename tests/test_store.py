"""The store: what goes in comes out, whatever is killed, cut or mistaken."""

import csv
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from previa.errors import AlphaError, FileError, InputError, NotFiniteError, ScoreError, StoreError
from previa.study import _database, _items
from previa.study.simplex import grid
from previa.study.store import Store

TASKS = ("a", "b")
FACTS = {"finetune": {"lr": 0.1, "betas": (0.9, 0.99)}, "seed": 0, "task": [{"name": "a"}, {"name": "b"}]}


def opened(path, **change):
    return Store.open(path, **({"tasks": TASKS, "convention": "mean", "fingerprint": FACTS} | change))


@pytest.fixture
def store(tmp_path):
    with opened(tmp_path / "study.db") as s:
        yield s


scores = st.one_of(
    st.floats(-1e6, 1e6),
    st.integers(-5, 5),
    st.lists(st.booleans(), min_size=11, max_size=11),
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=11, max_size=11),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(scores, min_size=2, max_size=2), st.floats(0, 1), st.floats(0, 1e5))
def test_what_is_recorded_is_read_back_exactly(values, w, seconds):
    with tempfile.TemporaryDirectory() as folder:
        with opened(Path(folder) / "study.db") as s:
            s.record(
                "simple",
                [w, 1 - w],
                dict(zip(TASKS, values, strict=True)),
                seconds=seconds,
                stats={"k": 3, "bad": math.nan},
            )
        with Store.read(Path(folder) / "study.db") as s:
            p = s.preview("simple")
    np.testing.assert_array_equal(p.alphas, [[w, 1 - w]])
    assert (p.seconds, p.stats["k"][0], p.stats["seconds"][0]) == (seconds, 3, seconds)
    assert np.isnan(p.stats["bad"][0])
    for t, value in enumerate(values):
        if isinstance(value, list):
            np.testing.assert_array_equal(p.items[t][0], np.array(value, np.float32))
            assert p.scores[0, t] == np.array(value, np.float32).mean(dtype=np.float64)
        else:
            assert p.items[t] is None
            assert p.scores[0, t] == value


def test_right_or_wrong_takes_a_bit_an_item():
    right = (np.arange(9000) % 7 < 3).astype(np.float32)
    noise = np.random.default_rng(0).random(9000).round().astype(np.float32)
    assert len(_items.pack(right)) < len(_items.pack(noise)) < 9000 / 8 + 32
    for items in (right, noise, noise + 0.5):
        np.testing.assert_array_equal(_items.unpack(_items.pack(items), 9000), items)


def test_bytes_that_are_not_those_of_so_many_items_are_refused():
    with pytest.raises(ValueError, match="the scores of 20 items take 2 bytes"):
        _items.unpack(_items.pack(np.ones(9, np.float32)), 20)


def test_a_preview_is_sorted_and_a_second_score_takes_the_place_of_the_first(store):
    alphas = grid(2, 4)
    for a in (3, 0, 4, 1, 2, 3):
        store.record("simple", alphas[a] + 1e-12, {"a": a, "b": 2 * a}, seconds=1.0)
    p = store.preview("simple")
    np.testing.assert_allclose(p.alphas, alphas, rtol=0, atol=2e-12)
    np.testing.assert_array_equal(p.scores[:, 1], 2 * np.arange(5))
    assert (store.methods(), p.seconds) == (("simple",), 5.0)
    assert p.provenance["method"] == "simple"


def test_only_what_has_no_score_is_missing_and_failures_are_tried_again(store):
    alphas = grid(2, 4)
    assert store.missing("simple", alphas).tolist() == [0, 1, 2, 3, 4]
    store.record("simple", alphas[1], {"a": 1, "b": 1}, seconds=1)
    store.fail("simple", alphas[2], "score() raised ValueError: no", seconds=1)
    assert store.missing("simple", alphas).tolist() == [0, 2, 3, 4]
    assert store.failures("simple") == [((0.5, 0.5), "score() raised ValueError: no")]
    p = store.preview("simple")
    assert p.ok.tolist() == [True, False]
    store.record("simple", alphas[2], {"a": 1, "b": 1}, seconds=1)
    assert store.failures("simple") == []
    with pytest.raises(AlphaError, match="mixture: weights should sum to 1"):
        store.missing("mixture", [[0.5, 0.6]])


def test_costs_add_up_and_facts_are_kept(tmp_path):
    with opened(tmp_path / "new" / "study.db", provenance={"version": "1", "host": "x"}) as s:
        s.add_seconds("finetune/ivon", 2.5)
        s.add_seconds("finetune/ivon", 1.5)
        s.put("sizes", {"a": np.int64(3), "b": np.arange(2)})
        s.put("sizes", {"a": 4, "b": [0, 1]})
        s.put("more", {"inside": MappingProxyType({"at": Path("x") / "y"})})
        with pytest.raises(InputError, match="share should be plain JSON"):
            s.put("share", math.nan)
    with opened(tmp_path / "new" / "study.db", provenance={"version": "2"}) as s:
        assert s.seconds() == {"finetune/ivon": 4.0}
        assert s.get("sizes") == {"a": 4, "b": [0, 1]}
        assert s.get("more") == {"inside": {"at": "x/y"}}
        assert s.get("nothing", 7) == 7
        assert s.provenance == {"version": "2", "host": "x"}
        assert s.fingerprint["finetune"] == {"lr": 0.1, "betas": [0.9, 0.99]}


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (
            math.nan,
            NotFiniteError,
            r"mixture at \(0.25, 0.75\), task 'b': scores should be finite. Found nan",
        ),
        ([1.0, math.inf, math.nan], NotFiniteError, r"task 'b'.*Found inf at item 1, 2 of 3"),
        ([1e300], NotFiniteError, r"Found 1e\+300 at item 0"),
        ("0.5", ScoreError, "a number, or one number a test item. Found '0.5'"),
        (None, ScoreError, "Found None"),
        ([[1.0]], ScoreError, r"shape \(1, 1\)"),
        ([], ScoreError, r"shape \(0,\)"),
    ],
)
def test_what_is_no_score_is_refused_naming_method_alpha_and_task(store, value, error, words):
    with pytest.raises(error, match=words):
        store.record("mixture", [0.25, 0.75], {"a": 1.0, "b": value}, seconds=1)
    assert store.methods() == ()


def test_scores_of_other_tasks_are_refused(store):
    with pytest.raises(InputError, match=r"Missing \['b'\], unknown \['c'\]"):
        store.record("simple", [0.25, 0.75], {"a": 1.0, "c": 1}, seconds=1)


def test_another_number_of_test_items_is_refused_until_none_are_left(store):
    store.declare("simple", {"v": 1})
    store.record("simple", [0.5, 0.5], {"a": [1, 0, 1], "b": 1}, seconds=1)
    with pytest.raises(
        InputError, match="task 'a': found 2 scores of test items, but earlier weightings have 3"
    ):
        store.record("simple", [0, 1], {"a": [1, 0], "b": 1}, seconds=1)
    with pytest.raises(
        InputError, match="task 'b': found 1 scores of test items, but earlier weightings have none"
    ):
        store.record("simple", [0, 1], {"a": [1, 0, 1], "b": [1]}, seconds=1)
    store.declare("simple", {"v": 2})
    store.record("simple", [0, 1], {"a": [1, 0], "b": [1]}, seconds=1)
    assert len(store.preview("simple")) == 1


def test_results_that_rest_on_other_facts_are_removed_and_counted(store):
    for m in ("simple", "mixture"):
        store.declare(m, {"posterior": "x"})
        for alpha in grid(2, 2):
            store.record(m, alpha, {"a": [1, 0], "b": 2}, seconds=1)
    assert store.declare("mixture", {"posterior": "x"}) == 0
    assert store.declare("mixture", {"posterior": "y"}) == 3
    assert store.methods() == ("simple",)
    assert (store.facts("mixture"), store.facts("other")) == ({"posterior": "y"}, None)
    store.record("new", [1, 0], {"a": [1, 0], "b": 2}, seconds=1)
    assert store.declare("new", {}) == 1


def test_a_method_of_which_nothing_is_recorded_is_refused(store):
    with pytest.raises(InputError, match="nothing is recorded of 'joint', only of"):
        store.preview("joint")


def test_everything_is_exported_as_one_table(store, tmp_path):
    store.record("simple", [0.25, 0.75], {"a": [1, 0], "b": 2}, seconds=1, stats={"iterations": 4})
    store.fail("simple", [1, 0], "no", seconds=2)
    store.record("joint", [1, 0], {"a": [1, 1], "b": 3}, seconds=3)
    store.export_csv(tmp_path / "preview.csv")
    rows = (tmp_path / "preview.csv").read_text().splitlines()
    assert list(csv.reader(rows)) == [
        ["method", "alpha_a", "alpha_b", "score_a", "score_b", "mean", "status", "seconds", "iterations"],
        ["joint", "1.0", "0.0", "1.0", "3.0", "2.0", "ok", "3.0", ""],
        ["simple", "0.25", "0.75", "0.5", "2.0", "1.25", "ok", "1.0", "4.0"],
        ["simple", "1.0", "0.0", "", "", "", "failed", "2.0", ""],
    ]
    with pytest.raises(FileError, match="cannot be written"):
        store.export_csv(tmp_path / "nowhere" / "preview.csv")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fingerprint": FACTS | {"seed": 1}}, "another study: seed was 0 and is 1. Put that back"),
        (
            {"fingerprint": FACTS | {"finetune": {"lr": 0.2}}},
            "finetune.betas was .* and is absent; finetune.lr was 0.1 and is 0.2",
        ),
        ({"fingerprint": FACTS | {"task": [{"name": "a"}, {"name": "c"}]}}, 'task.2.name was "b" and is "c"'),
        ({"tasks": ("a", "c")}, r'tasks was \["a", "b"\] and is \["a", "c"\]'),
        ({"convention": "sum"}, 'convention was "mean" and is "sum"'),
    ],
)
def test_another_study_is_refused_and_the_facts_that_differ_are_named(store, change, words):
    with pytest.raises(StoreError, match=words):
        opened(store.path, **change)


@pytest.mark.parametrize(
    "change",
    [{"tasks": ("a", "a")}, {"tasks": "ab"}, {"convention": "none"}, {"fingerprint": {"f": object()}}],
)
def test_facts_that_cannot_be_are_refused(tmp_path, change):
    with pytest.raises(InputError):
        opened(tmp_path / "study.db", **change)


def test_a_store_opened_for_reading_cannot_be_written_and_sees_what_is_written_meanwhile(store):
    with Store.read(store.path) as reader:
        assert reader.methods() == ()
        store.record("simple", [1, 0], {"a": 1, "b": 2}, seconds=1)
        assert reader.methods() == ("simple",)
        with pytest.raises(StoreError, match=r"opened for reading .* Use Store\.open"):
            reader.put("x", 1)


# ------------------------------------------------------------------------------------------------ files that are no store


def filled(path, rows=40):
    with opened(path) as s:
        for alpha in grid(2, rows):
            s.record("simple", alpha, {"a": np.arange(300) * 0.1, "b": 2}, seconds=1)
    return path


def both(path):
    return (lambda: opened(path), lambda: Store.read(path))


def test_what_is_no_store_is_refused_in_a_sentence_and_left_as_it_is(tmp_path):
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE cake (slice)")
    db.close()
    (tmp_path / "text.db").write_text("Dear diary, " * 1000)
    for name, words in (
        ("other.db", "an SQLite file of another program"),
        ("text.db", "no result store of previa"),
    ):
        before = (tmp_path / name).read_bytes()
        for attempt in both(tmp_path / name):
            with pytest.raises(StoreError, match=rf"{name}: .*{words}"):
                attempt()
        assert (tmp_path / name).read_bytes() == before
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreError, match="an empty file"):
        Store.read(tmp_path / "empty.db")
    with opened(tmp_path / "empty.db") as s:  # a kill before the first table leaves this
        assert s.methods() == ()


def test_a_store_whose_making_was_ended_early_is_refused_for_reading_and_made_anew_for_writing(tmp_path):
    _database.connect(tmp_path / "study.db", write=True).close()
    with pytest.raises(StoreError, match="this store names no tasks; the run that made it was ended early"):
        Store.read(tmp_path / "study.db")
    with opened(tmp_path / "study.db") as s:
        assert s.tasks == TASKS


def test_a_store_of_another_schema_is_refused(tmp_path):
    path = filled(tmp_path / "study.db", 1)
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 7")
    db.close()
    for attempt in both(path):
        with pytest.raises(
            StoreError, match=r"has schema 7, and this version of previa reads schema 1\. Use the version"
        ):
            attempt()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
def test_a_truncated_store_is_refused_and_left_as_it_is(tmp_path, share):
    path = filled(tmp_path / "study.db")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    for attempt in both(path):
        with pytest.raises(StoreError, match=r"study\.db: this (store is damaged|is no result store)"):
            attempt()
    assert path.read_bytes() == data[: int(len(data) * share)]


@pytest.mark.parametrize("seed", range(12))
def test_a_store_with_garbage_in_it_is_refused_or_read_as_it_was(tmp_path, seed):
    path = filled(tmp_path / "study.db")
    with Store.read(path) as s:
        truth = s.preview("simple")
    rng = np.random.default_rng(seed)
    data = bytearray(path.read_bytes())
    at = int(rng.integers(100, len(data) - 300))
    data[at : at + 300] = rng.bytes(300)
    path.write_bytes(data)
    with suppress(StoreError), Store.read(path) as s:  # found, or it hit a part that holds nothing
        np.testing.assert_array_equal(s.preview("simple").items[0], truth.items[0])


def test_a_missing_file_and_a_folder_that_cannot_be_are_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="there is no such file"):
        Store.read(tmp_path / "study.db")
    with pytest.raises(FileError, match="its folder cannot be made"):
        opened(tmp_path / "file" / "study.db")
    with pytest.raises(FileError, match="cannot be opened"):
        opened(tmp_path)


@contextmanager
def nobody():
    """Not the administrator, to whom every folder is writable."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def locked():
    """A folder with a store that nobody may write."""
    folder = Path(tempfile.mkdtemp())
    filled(folder / "study.db", 3)
    (folder / "study.db").chmod(0o444)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_store_that_cannot_be_written_can_be_read(locked):
    with nobody():
        with pytest.raises(FileError, match="cannot be written"):
            opened(locked / "study.db")
        with pytest.raises(FileError, match="cannot be opened"):
            opened(locked / "new.db")
        with Store.read(locked / "study.db") as s:
            assert len(s.preview("simple")) == 4


def test_results_that_wait_in_the_log_of_a_folder_that_cannot_be_written_are_not_forgotten(locked):
    (locked / "study.db-wal").write_bytes(b"x" * 100)
    with (
        nobody(),
        pytest.raises(StoreError, match=r"'study\.db-wal' beside it holds results .* Copy both files"),
    ):
        Store.read(locked / "study.db")


def test_a_store_closed_by_all_is_one_file(tmp_path):
    filled(tmp_path / "a study#1?.db", 3)
    with Store.read(tmp_path / "a study#1?.db") as s:
        assert len(s.preview("simple")) == 4
    assert [f.name for f in tmp_path.iterdir()] == ["a study#1?.db"]


# ------------------------------------------------------------------------------------------------------- kills and crowds

WRITER = """
import sys
import numpy as np
from previa.study.simplex import grid
from previa.study.store import Store
s = Store.open(sys.argv[1], tasks=("a", "b"), convention="mean", fingerprint={"x": 1})
alphas = grid(2, 5000)
for i in s.missing("simple", alphas):
    s.record("simple", alphas[i], {"a": np.full(2000, i / 7, np.float32), "b": [i % 2] * 500}, seconds=1.0)
    print(i, flush=True)
"""


def writer(path):
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)


def check_whole(p):
    i = np.rint(p.alphas[:, 0] * 5000)
    assert p.ok.all()
    np.testing.assert_array_equal(p.items[0], np.repeat((i / 7).astype(np.float32)[:, None], 2000, axis=1))
    np.testing.assert_array_equal(p.items[1], np.repeat((i % 2).astype(np.float32)[:, None], 500, axis=1))


def test_a_killed_writer_loses_nothing_that_it_recorded_and_the_next_goes_on(tmp_path):
    path, done, rng = tmp_path / "study.db", 0, np.random.default_rng(0)
    for _ in range(4):
        process = writer(path)
        assert int(process.stdout.readline()) >= done  # what was recorded is not recorded again
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        said = process.stdout.read().split()
        process.wait()
        process.stdout.close()
        with Store.read(path) as s:
            p = s.preview("simple")
        check_whole(p)
        done = max(done + 1, *(int(i) + 1 for i in said), 0) if said else done + 1
        assert done <= len(p) <= done + 1
        done = len(p)
    assert done > 4


def test_a_writer_killed_at_its_start_leaves_nothing_in_the_way(tmp_path):
    for i in range(6):
        path = tmp_path / f"{i}.db"
        process = writer(path)
        limit = time.monotonic() + 20
        while not path.exists() and time.monotonic() < limit:
            time.sleep(0.0005)
        time.sleep(i * 0.0007)
        process.kill()
        process.wait()
        process.stdout.close()
        with opened(path, fingerprint={"x": 1}) as s:
            assert len(s.missing("simple", grid(2, 5000))) >= 4900


def test_several_read_whole_rows_while_one_writes(tmp_path):
    path, counts = tmp_path / "study.db", [[], []]
    process = writer(path)
    process.stdout.readline()

    def look(seen):
        while len(seen) < 5:
            with Store.read(path) as s:
                p = s.preview("simple")
            check_whole(p)
            seen.append(len(p))

    readers = [threading.Thread(target=look, args=(seen,)) for seen in counts]
    for r in readers:
        r.start()
    for r in readers:
        r.join()
    process.kill()
    process.wait()
    process.stdout.close()
    for seen in counts:
        assert len(seen) == 5
        assert seen == sorted(seen)


def test_two_that_make_the_same_store_at_once_agree(tmp_path):
    for i in range(5):
        stores = []

        def make(path=tmp_path / f"{i}.db", stores=stores):
            with opened(path) as s:
                stores.append(s.tasks)

        threads = [threading.Thread(target=make) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert stores == [TASKS] * 4


def test_a_lock_that_stays_is_named(store, monkeypatch):
    monkeypatch.setattr("previa.study._database.PATIENCE", 0.05)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another process has kept this store locked"):
        opened(store.path)
    other.close()


def test_methods_may_have_been_scored_on_other_items(tmp_path):
    with Store.open(tmp_path / "study.db", tasks=("a", "b"), convention="mean", fingerprint={}) as store:
        store.record("whole", [0.5, 0.5], {"a": np.ones(6), "b": np.zeros(5)}, seconds=0)
        store.record("first_items", [0.5, 0.5], {"a": np.ones(3), "b": np.zeros(2)}, seconds=0)
        store.record("given", [0.5, 0.5], {"a": 0.25, "b": 0.75}, seconds=0)
        assert [i.shape for i in store.preview("whole").items] == [(1, 6), (1, 5)]
        assert [i.shape for i in store.preview("first_items").items] == [(1, 3), (1, 2)]
        assert store.preview("given").items == (None, None)
        with pytest.raises(InputError, match="found 4 scores of test items, but earlier weightings have 6"):
            store.record("whole", [1, 0], {"a": np.ones(4), "b": np.zeros(5)}, seconds=0)
        store.declare("whole", {"other": True})  # forgets what was scored, and on how many items
        store.record("whole", [1, 0], {"a": np.ones(4), "b": np.zeros(5)}, seconds=0)
        assert [i.shape for i in store.preview("whole").items] == [(1, 4), (1, 5)]
