"""Workers: results as they come, a death loses one item, leaving early ends them."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from previa.errors import InputError, PreviaError
from previa.run.executors import map_processes

_offset: list[int] = []


def set_offset(value: int) -> None:
    _offset.append(value)


def refuse() -> None:
    raise ValueError("no such model")


def work(x: int) -> int:
    if x == 13:
        raise ValueError("an unlucky number")
    if x == 99:
        os.kill(os.getpid(), signal.SIGKILL)
    return x * x + (_offset[-1] if _offset else 0)


def awkward(what: str) -> object:
    if what == "leave":
        os._exit(3)
    return torch.get_num_threads() if what == "threads" else lambda: what


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_one_worker_is_this_process():
    outcomes = list(map_processes(lambda x: (os.getpid(), x), [1, 2], 1))
    assert [o.value for o in outcomes] == [(os.getpid(), 1), (os.getpid(), 2)]


def test_what_raises_is_an_outcome_and_the_others_go_on():
    outcomes = list(map_processes(work, [12, 13, 14], 1))
    assert [o.failure is None for o in outcomes] == [True, False, True]
    assert outcomes[1].failure.startswith("ValueError: an unlucky number (in work")


def test_a_worker_that_dies_loses_only_its_item():
    outcomes = {o.item: o for o in map_processes(work, [1, 2, 99, 13, 3, 4, 5], 2, set_offset, (100,))}
    assert sorted(outcomes) == [1, 2, 3, 4, 5, 13, 99]
    assert {i: outcomes[i].value for i in (1, 2, 3, 4, 5)} == {1: 101, 2: 104, 3: 109, 4: 116, 5: 125}
    assert "ended by SIGKILL. Out of memory?" in outcomes[99].failure
    assert "unlucky" in outcomes[13].failure


def test_workers_use_one_thread_and_unsendable_results_and_exits_are_failures():
    outcomes = {o.item: o for o in map_processes(awkward, ["threads", "lambda", "leave"], 2)}
    assert outcomes["threads"].value == 1
    assert "cannot be sent back" in outcomes["lambda"].failure
    assert outcomes["leave"].failure == "the worker process ended with exit code 3."


def test_a_failing_set_up_is_one_clear_error():
    with pytest.raises(PreviaError, match=r"could not start: ValueError: no such model"):
        list(map_processes(work, [1, 2], 2, refuse))


def test_functions_that_cannot_be_imported_are_refused():
    with pytest.raises(InputError, match="workers=1"):
        list(map_processes(lambda x: x, [1, 2], 2))


def test_no_items_need_no_workers():
    assert list(map_processes(work, [], 2)) == []


def test_less_than_one_worker_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        list(map_processes(work, [1], 0))


SCRIPT = """
import os, time
from previa.run.executors import map_processes
import signalled

if __name__ == "__main__":
    for _ in map_processes(signalled.work, [1, 2, 3], 2):
        print("done", flush=True)
"""
SIGNALLED = """
import os, time
def work(x):
    open(f"pid-{os.getpid()}", "w").close()
    time.sleep(600)
"""


def test_ctrl_c_ends_the_workers_at_once(tmp_path):
    (tmp_path / "signalled.py").write_text(SIGNALLED)
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("pid-*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: everyone in the group
    errors = process.communicate(timeout=180)[1]
    assert "KeyboardInterrupt" in errors
    assert "Process SpawnProcess" not in errors  # no traceback of a worker's
    for file in tmp_path.glob("pid-*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.name.removeprefix("pid-")), 0)


def test_an_unguarded_script_is_told_what_to_do(tmp_path):
    (tmp_path / "signalled.py").write_text(SIGNALLED)
    (tmp_path / "script.py").write_text(SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    found = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "if __name__ == '__main__':" in found.stderr


def test_leaving_early_ends_the_workers_at_once():
    start = time.perf_counter()
    outcomes = map_processes(sleep, [0.0, 600.0, 600.0], 2)
    assert next(outcomes).value == 0.0
    outcomes.close()
    assert time.perf_counter() - start < 60


def test_no_worker_hears_ctrl_c_not_even_the_first_while_it_starts(tmp_path):
    """A fresh process, since the first worker of all also starts multiprocessing's resource tracker, which unblocks SIGINT."""
    script = tmp_path / "masks.py"
    script.write_text(
        "import signal\n"
        "from previa.run.executors import map_processes\n"
        "def blocked(item):\n"
        "    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())\n"
        "if __name__ == '__main__':\n"
        "    print(sorted(outcome.value for outcome in map_processes(blocked, [1, 2], 2)))\n"
    )
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[True, True]"
