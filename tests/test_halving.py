"""Cheap first: which weightings survive a round, parts of test data, and rounds of a study."""

import collections
import shutil
import sys

import numpy as np
import pytest
import torch

from previa.cli import main
from previa.errors import InputError
from previa.run.fit import fit
from previa.run.halving import FEWEST, halve, rounds
from previa.run.part import items_of, part_of
from previa.run.search_state import Aim, first_weightings
from previa.run.work import opened
from previa.study import simplex, survivors
from previa.study.file import read_study, study_from_dict
from previa.study.preference import Preference
from previa.study.preview import Preview
from previa.study.simplex import grid
from previa.study.store import Store
from previa.study.survivors import survivors as surviving
from tiny_folders import labelled, write_lines
from tiny_study import MODULE, NAME, rows, write_study


def items(T, N, steps, seed, own=0.05):
    """A preview whose items are right or wrong: each has a difficulty, and each weighting luck of its own with it."""
    alphas, rng = grid(T, steps), np.random.default_rng(seed)
    hard, slow = rng.uniform(size=(T, N)), rng.uniform(0.05, 0.3, T)
    level = 0.95 - 0.35 * np.exp(-alphas / slow)
    right = [
        (hard[t] + own * rng.normal(size=(len(alphas), N)) < level[:, [t]]).astype(np.float32)
        for t in range(T)
    ]
    return of(alphas, right)


def of(alphas, right):
    scores = np.stack([x.mean(axis=1, dtype=np.float64) for x in right], axis=1)
    return Preview(tuple("abcdefgh"[: alphas.shape[1]]), alphas, scores, tuple(right))


def halved(preview, seed, wish=Preference()):  # noqa: B008
    """The slow way with all scores at hand: (rows that reach the last round, item evaluations as a share of all)."""
    orders = [np.random.default_rng([seed, t]).permutation(x.shape[1]) for t, x in enumerate(preview.items)]
    left, spent = np.arange(len(preview)), 0
    for cap in [*rounds(preview.items[0].shape[1]), None]:
        part = of(
            preview.alphas[left], [x[left][:, o[:cap]] for x, o in zip(preview.items, orders, strict=True)]
        )
        spent += sum(x.size for x in part.items)
        if cap is not None:
            left = left[surviving(part, wish, seed=seed)]
    return left, spent / sum(x.size for x in preview.items)


# -- who survives


def test_the_best_of_all_items_is_hardly_ever_lost_and_rounds_cost_a_quarter_of_the_grid():
    lost, regret, cost = [], [], []
    for seed in range(12):
        preview = items(3, 1000, 14, seed)
        left, share = halved(preview, seed)
        regret.append(preview.mean.max() - preview.mean[left].max())
        lost.append(regret[-1] > 1e-9)
        cost.append(share)
    assert np.mean(lost) <= 1 / 12
    assert max(regret) < 0.002
    assert np.mean(cost) < 0.35


def test_luck_with_single_items_may_lose_the_best_but_never_much():
    regret = []
    for seed in range(8):
        preview = items(3, 600, 12, seed, own=1.0)  # a weighting's items are hardly paired with another's
        left, _ = halved(preview, seed)
        regret.append(preview.mean.max() - preview.mean[left].max())
    assert max(regret) < 2 * np.sqrt(0.2 / 600 / 3)  # two standard errors of a mean


def test_a_quarter_survives_at_least_and_half_at_most():
    steep = items(3, 4000, 12, 0)
    flat = of(steep.alphas, [np.ones((len(steep), 60), np.float32)] * 3)
    assert surviving(steep).sum() == np.ceil(len(steep) / 4)
    assert surviving(flat).sum() == np.ceil(len(flat) / 2)
    assert survivors.LEAST == 1 / 4
    assert survivors.MOST == 1 / 2


def test_what_survives_is_best_and_what_always_goes_on_does_whatever_it_scores():
    preview = items(3, 500, 10, 1)
    goes = surviving(preview)
    assert preview.mean[goes].min() >= preview.mean[~goes].max() - 1e-12
    corners = surviving(preview, always=np.eye(3))
    rows_of_corners = [simplex.find(preview.alphas, corner) for corner in np.eye(3)]
    assert not goes[rows_of_corners].all()
    assert corners[rows_of_corners].all()
    assert (corners | ~goes).all()


def test_a_weighting_that_failed_does_not_survive():
    preview = items(3, 200, 6, 2)
    best = int(preview.mean.argmax())
    scores = preview.scores.copy()
    scores[best] = np.nan
    kept = Preview(preview.tasks, preview.alphas, scores, preview.items)
    assert not surviving(kept, always=preview.alphas[[best]])[best]


def test_a_floor_that_is_missed_beyond_doubt_ends_it_but_a_doubtful_one_does_not():
    alphas = grid(2, 40)
    N = 400
    level = np.column_stack([np.linspace(0.5, 0.9, 41), np.linspace(0.95, 0.6, 41)])
    hard = np.random.default_rng(0).uniform(size=(2, N))
    preview = of(alphas, [(hard[t] < level[:, [t]]).astype(np.float32) for t in range(2)])
    floor = float(preview.scores[30, 0])  # fewer than half keep it
    goes = surviving(preview, Preference(floors={"a": floor}, weights={"a": 0, "b": 1}))
    kept = preview.scores[:, 0] >= floor
    assert goes[np.argmax(np.where(kept, preview.scores[:, 1], -1))]
    deviation = np.sqrt(floor * (1 - floor) / N)
    assert not goes[preview.scores[:, 0] < floor - 3 * deviation].any()
    assert goes[~kept].any()  # on other items they may keep it


def test_where_no_floor_is_kept_those_that_miss_it_least_go_on():
    preview = items(3, 300, 10, 3)
    wish = Preference(floors={"a": 2.0})
    goes = surviving(preview, wish)
    short = wish.shortfall(preview.scores, preview.tasks)
    assert short[goes].max() <= short[~goes].min() + 1e-12


def test_scores_without_items_are_refused_unless_the_task_does_not_count():
    whole = items(2, 100, 4, 0)
    bare = Preview(whole.tasks, whole.alphas, whole.scores, (None, whole.items[1]))
    with pytest.raises(InputError, match="'a': its score is one number"):
        surviving(bare)
    assert surviving(bare, Preference(weights={"a": 0})).any()
    with pytest.raises(InputError, match="'a': its score is one number"):
        surviving(bare, Preference(weights={"a": 0}, floors={"a": 0.5}))


def test_rounds_rise_and_leave_out_what_would_save_nothing():
    assert rounds(4000) == [250, 1000]
    assert rounds(400) == [32, 100]
    assert rounds(100) == [32]
    assert rounds(2 * FEWEST - 1) == []


# -- parts of test data

Pair = collections.namedtuple("Pair", "x y")


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 7

    def __getitem__(self, i):
        return 10 * i


def test_a_part_has_the_same_items_of_everything_and_is_of_the_same_kind():
    x, y = torch.arange(14).view(7, 2), np.arange(7)
    chosen = [4, 0, 6]
    for test, expected in (
        (x, x[chosen]),
        (y, y[chosen]),
        ([*"abcdefg"], [*"eag"]),
    ):
        part = part_of(test, chosen, "here")
        assert type(part) is type(test)
        assert list(map(str, part)) == list(map(str, expected))
    pair = part_of(Pair(x, {"names": [*"abcdefg"], "y": y}), chosen, "here")
    assert isinstance(pair, Pair)
    assert torch.equal(pair.x, x[chosen])
    assert pair.y["names"] == [*"eag"]
    assert pair.y["y"].tolist() == chosen
    part = part_of(Data(), chosen, "here")
    assert [part[i] for i in range(len(part))] == [40, 0, 60]
    assert items_of((x, y), "here") == 7


def test_a_part_of_a_data_set_of_hugging_face_is_one():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"text": [*"abcdefg"]})
    part = part_of(data, [4, 0], "here")
    assert isinstance(part, datasets.Dataset)
    assert part["text"][:] == ["e", "a"]


def test_a_part_of_a_table_is_its_rows():
    pandas = pytest.importorskip("pandas")
    part = part_of(pandas.DataFrame({"x": range(5)}), [3, 1], "here")
    assert part["x"].tolist() == [3, 1]


@pytest.mark.parametrize(
    ("test", "match"),
    [
        (3, "int, of which no part"),
        ("text", "str, of which no part"),
        ((torch.ones(3), 4.0), "float, of which no part"),
        (torch.tensor(1.0), "Tensor, of which no part"),
        ((torch.ones(3), torch.ones(4)), r"lengths \[3, 4\]"),
        (iter([1]), "no part"),
    ],
)
def test_what_has_no_parts_is_refused_in_a_sentence(test, match):
    with pytest.raises(InputError, match=f"task 'a'.*{match}"):
        part_of(test, [0], "task 'a'")


# -- rounds of a study


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A study with enough test items for two rounds."""
    more = MODULE.replace("examples(10, 30)", "examples(10, 300)").replace(
        "examples(11, 25)", "examples(11, 90)"
    )
    write_study(tmp_path, "ab", preview={"steps": 19, "methods": ["simple"]})
    (tmp_path / f"{NAME}.py").write_text(more)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop(NAME, None)


def test_rounds_of_a_study_are_in_the_store_with_what_they_took(folder):
    with opened(read_study(folder / "study.toml")) as work:
        runs = fit(work)
        found = halve(work, runs)
        store = work.store
        fact = store.get("halvings")["simple"]
        least, _ = first_weightings(work)
        assert store.methods() == ("simple", "simple_first_32", "simple_first_75")
        assert [one["method"] for one in fact["rounds"]] == ["simple_first_32", "simple_first_75", "simple"]
        assert [one["items"] for one in fact["rounds"]] == [
            {"a": 32, "b": 32},
            {"a": 75, "b": 75},
            {"a": 300, "b": 90},
        ]
        A = [one["weightings"] for one in fact["rounds"]]
        assert A[0] == 22
        assert A[1:] == [one["kept"] for one in fact["rounds"][:-1]]
        assert fact["cost"] == pytest.approx((A[0] * 64 + A[1] * 150 + A[2] * 390) / (22 * 390))
        assert all(simplex.find(found.alphas, alpha) is not None for alpha in least)
        first, second, whole = (
            store.preview(name) for name in ("simple_first_32", "simple_first_75", "simple")
        )
        x, y, z = (p.at(whole.alphas).items for p in (first, second, whole))
        for t, N in enumerate((300, 90)):  # nested, and the same items at every weighting
            assert np.array_equal(x[t], y[t][:, :32])
            order = np.random.default_rng([work.study.seed, t]).permutation(N)
            assert np.array_equal(y[t], z[t][:, order[:75]])
        recorded = rows(store.path)
        halve(work, runs)
        assert rows(store.path) == recorded  # again: nothing is done
        assert store.get("method") == "simple"


def test_the_command_scores_cheap_rounds_first_and_the_grid_can_be_completed(folder, monkeypatch):
    wishes = []
    monkeypatch.setattr(
        sys.modules["previa.cli.preview"], "publish", lambda study, out, **wish: wishes.append(wish)
    )
    assert main(["preview", "study.toml", "--cheap-first", "--quiet", "--floor", "a=0.2"]) == 0
    assert (wishes[0]["method"], dict(wishes[0]["preference"].floors)) == ("simple", {"a": 0.2})
    with Store.read(folder / "out/study.db") as store:
        assert 4 <= len(store.preview("simple")) < 22
        assert len(store.preview("simple_first_32")) == 22
    assert main(["preview", "study.toml", "--quiet"]) == 0
    with Store.read(folder / "out/study.db") as store:
        assert len(store.preview("simple")) == 22
    assert wishes[1] == {}


def test_single_numbers_and_small_test_sets_are_refused(folder):
    shutil.rmtree(folder / "out", ignore_errors=True)
    write_study(
        folder, "ab", study={"score": f"{NAME}:mean_score"}, preview={"steps": 4, "methods": ["simple"]}
    )
    (folder / f"{NAME}.py").write_text(MODULE.replace("examples(10, 30)", "examples(10, 300)"))
    with opened(read_study(folder / "study.toml")) as work, pytest.raises(InputError, match="is one number"):
        halve(work, fit(work))
    sys.modules.pop(NAME, None)
    (folder / f"{NAME}.py").write_text(MODULE)
    write_study(folder, "ab", study={"out": "other"}, preview={"steps": 4, "methods": ["simple"]})
    with opened(read_study(folder / "study.toml")) as work, pytest.raises(InputError, match="30 items"):
        halve(work, fit(work))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
def test_studies_of_folders_are_searched_and_halved_too(tmp_path):
    from previa.run.search import search
    from previa.run.search_state import Budget
    from test_transformers_study import settings

    table = settings(tmp_path)
    for name, N in (("a", 80), ("b", 70)):
        write_lines(tmp_path / f"{name}-test.jsonl", labelled(N, seed=3))
    table["preview"] = {"steps": 10, "methods": ["simple"]}
    with opened(study_from_dict(table, folder=tmp_path)) as work:
        runs = fit(work)
        one = search(work, runs, Budget(6), Aim(preference=Preference(worst=True)))
        assert len(one) == 6
        found = halve(work, runs)
        first = work.store.preview("simple_first_32").at(found.alphas)
        for t, N in enumerate((80, 70)):
            order = np.random.default_rng([work.study.seed, t]).permutation(N)
            assert np.array_equal(first.items[t], found.items[t][:, order[:32]])
        kept = {simplex.key(alpha) for alpha in work.store.preview("simple").alphas}
        assert {simplex.key(alpha) for alpha in one.alphas} <= kept
