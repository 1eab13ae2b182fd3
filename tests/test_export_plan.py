"""Plans: rows drawn and epochs, refusals that say what to do, the table, and what a hand-over leaves in its folder."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from previa import __version__
from previa.errors import AlphaError, FileError, InputError
from previa.export.handover import Options, write
from previa.export.plan import Plan, Task, check_epochs, rows_of_epochs
from previa.export.stack import MIXED
from previa.export.stacks import STACKS
from previa.export.table import counted, table

DE, FR = Task("de", "de.jsonl", 1000, 20.0, 0.4), Task("fr", "fr.jsonl", 50, 40.0, 0.6)


def test_rows_tokens_and_epochs_follow_from_the_shares():
    plan = Plan(tasks=(DE, FR), draw=700)
    de, fr = plan.parts  # 0.4 / 20 : 0.6 / 40 = 4 : 3
    assert (de.count, fr.count) == (400, 300)
    assert (de.epochs, fr.epochs) == (0.4, 6.0)
    assert (de.share, fr.token_share) == pytest.approx((4 / 7, 0.6))
    assert plan.tokens_drawn == 400 * 20 + 300 * 40
    by_rows = Plan(tasks=(DE, FR), draw=700, average="rows")
    assert by_rows.counts.tolist() == [280, 420]
    summed = Plan(tasks=(DE, FR), draw=700, convention="sum")
    assert summed.counts.tolist() == [651, 49]  # 400 : 30


def test_an_epoch_is_one_pass_over_the_tasks_with_any_weight():
    idle = Task("idle", "idle.jsonl", 10**9, 1.0, 0.0)
    assert rows_of_epochs((DE, FR, idle), 1.0) == 1050
    assert rows_of_epochs((DE, FR, idle), 2.5) == 2625
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="epochs should be a positive number"):
            rows_of_epochs((DE,), wrong)


def test_too_many_epochs_are_refused_saying_which_task_how_many_and_what_to_do():
    plan = Plan(tasks=(DE, FR), draw=1400)  # 600 of 50 rows
    with pytest.raises(
        InputError, match="task 'fr': 600 rows drawn of its 50 are 12 epochs; at most 10 are allowed"
    ) as said:
        check_epochs(plan, 10)
    assert "Draw at most 1,166 rows in all (--draw)" in str(said.value)
    assert "--max-epochs 12" in str(said.value)
    check_epochs(Plan(tasks=(DE, FR), draw=1166), 10)
    check_epochs(plan, 12)


@pytest.mark.parametrize(
    ("error", "said", "settings"),
    [
        (AlphaError, "sum to 1", {"tasks": (DE, DE.__class__("fr", "x", 5, 1.0, 0.7))}),
        (InputError, "tasks should have different names", {"tasks": (DE, DE)}),
        (InputError, "'mean' or 'sum'", {"convention": "average"}),
        (InputError, "task 'no': its data has no rows", {"tasks": (Task("no", "x", 0, 1.0, 1.0),)}),
        (InputError, "--tokens no=N", {"tasks": (Task("no", "x", 5, None, 1.0),)}),
        (InputError, "should have supervised tokens. Found 0", {"tasks": (Task("no", "x", 5, 0.0, 1.0),)}),
        (InputError, "task 'fr': its share of 0.00199 is less than one of 100 rows",
         {"tasks": (Task("de", "x", 5, 1.0, 0.99801), Task("fr", "x", 5, 1.0, 0.00199)), "draw": 100}),
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused(error, said, settings):
    with pytest.raises(error, match=said):
        Plan(**{"tasks": (DE, FR), "draw": 700, **settings})


def test_tokens_need_not_be_known_where_the_trainer_averages_over_rows():
    plan = Plan(tasks=(Task("a", "a", 5, None, 0.5), Task("b", "b", 5, 2.0, 0.5)), draw=10, average="rows")
    assert (plan.tokens_drawn, plan.token_shares, plan.parts[0].token_share) == (None, None, None)
    assert "-" in table(plan).splitlines()[1].split()


def test_the_table_has_a_line_a_task_sums_and_the_rule():
    plan = Plan(tasks=(DE, FR, Task("idle", "x", 7, 1.0, 0.0)), draw=700)
    head, de, fr, idle, total, _, rule = table(plan, "weight", {"de": 0.4, "fr": 12}).splitlines()
    assert head.split("  ")[0] == "task"
    assert de.split() == ["de", "0.4", "1,000", "20", "57.1", "%", "40.0", "%", "400", "0.40", "0.4"]
    assert fr.split() == ["fr", "0.6", "50", "40", "42.9", "%", "60.0", "%", "300", "6.00", "12"]
    assert idle.split() == ["idle", "0", "7", "1", "0.0", "%", "0.0", "%", "0", "-", "-"]
    assert total.split() == ["all", "1", "1,057", "700"]
    assert len({len(line) for line in (head, de, fr)}) == 1
    assert rule == (
        "alpha weighs mean losses; the trainer averages over tokens: shares of rows q_t ~ alpha_t / L_t. "
        "20,000 tokens in all."
    )
    assert counted({"de": "given", "fr": "words in 'text'", "it": "given"}).startswith(
        "Tokens of de, it: given; fr: words in 'text'. Words stand in for tokens"
    )


# What is left in the folder ------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path):
    tasks = []
    for name, N in (("de", 30), ("fr", 10)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(f'{{"text": "{name} {i}"}}\n' for i in range(N)))
        tasks.append(Task(name, str(path), N, 2.0, 0.5, ("text",)))
    return Plan(tasks=tuple(tasks), draw=20, seed=5)


def hand_over(plan, folder, name="trl", **options):
    stack = STACKS[name]
    return write(stack, plan, stack.export(plan, folder), folder, Options(counted={"de": "given"}, **options))


def test_the_lock_file_says_all_that_the_hand_over_rests_on(plan, tmp_path):
    out = tmp_path / "out"
    paths = hand_over(plan, out, mixed=True)
    assert [path.name for path in paths] == [MIXED, "trl.yaml", "trl.lock.json"]
    lock = json.loads((out / "trl.lock.json").read_text())
    de = lock["tasks"][0]
    assert lock["previa"] == __version__
    assert lock["alpha"] == {"de": 0.5, "fr": 0.5}
    assert (lock["stack"], lock["number_means"], lock["convention"], lock["average"], lock["seed"], lock["draw"]) == (
        "trl", "fraction", "mean", "tokens", 5, 20,
    )  # fmt: skip
    assert (de["rows"], de["tokens_per_row"], de["share"], de["count"], de["counted"]) == (
        30,
        2.0,
        0.5,
        10,
        "given",
    )
    assert de["number"] == 0.5
    assert de["sha256"] == sha256((tmp_path / "de.jsonl").read_bytes()).hexdigest()
    assert lock["written"] == {
        name: sha256((out / name).read_bytes()).hexdigest() for name in (MIXED, "trl.yaml")
    }
    assert not list(out.glob(".*")) + list(out.glob("*.part"))


def test_a_second_time_gives_the_same_bytes(plan, tmp_path):
    first = {path: path.read_bytes() for path in hand_over(plan, tmp_path / "out", "axolotl")}
    again = {path: path.read_bytes() for path in hand_over(plan, tmp_path / "out", "axolotl", overwrite=True)}
    assert first == again
    hand_over(plan, tmp_path / "trl")
    hand_over(plan, tmp_path / "trl")  # text of the same content is no conflict


def test_files_of_other_content_are_not_replaced_unless_told(plan, tmp_path):
    out = tmp_path / "out"
    hand_over(plan, out)
    (out / "trl.yaml").write_text("edited by hand")
    with pytest.raises(FileError, match=r"trl.yaml: it is there already, with other content.*--overwrite"):
        hand_over(plan, out)
    hand_over(plan, out, overwrite=True)
    assert "fraction" in (out / "trl.yaml").read_text()
    hand_over(plan, out, mixed=True)
    before = (out / MIXED).stat().st_mtime_ns
    with pytest.raises(FileError, match="mixed data is there already"):
        hand_over(plan, out, mixed=True)
    assert (out / MIXED).stat().st_mtime_ns == before


def test_a_place_that_cannot_be_written_is_said(plan, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"file.*cannot be written: .*--out"):
        hand_over(plan, tmp_path / "file" / "out")


def test_data_that_is_elsewhere_has_no_digest(tmp_path):
    tasks = (Task("a", "someone/a", 50, 9.0, 1.0),)
    *_, lock = hand_over(Plan(tasks=tasks, draw=20), tmp_path / "out")
    assert json.loads(Path(lock).read_text())["tasks"][0]["sha256"] is None
