"""`previa view`: a live store served to this machine alone, and a page that follows it."""

# ruff: noqa: F401, F811  fixtures come by import
import http.client
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from browser_report import IN_BROWSER, browser
from previa.cli.view import page as page_of
from previa.errors import FileError
from previa.show.serve import server, stamp
from previa.study.simplex import grid
from previa.study.store import Store

TASKS = ("a", "<b>")
RNG = np.random.default_rng(0)


def opened_store(path):
    return Store.open(path, tasks=TASKS, convention="mean", fingerprint={})


def record(store, alphas, method="simple"):
    for alpha in alphas:
        scores = {task: 0.5 + 0.4 * a for task, a in zip(TASKS, np.sqrt(alpha), strict=True)}
        store.record(method, alpha, scores, seconds=0.1)


@contextmanager
def served(path):
    with server(path, page_of) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield running.server_port
        finally:
            running.shutdown()
            thread.join()


def ask(port, where="/", method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, where, headers={"Host": host} if host is not None else {})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


def test_what_a_store_holds_is_served_as_it_grows(tmp_path):
    path = tmp_path / "study.db"
    with served(path) as port:
        answer, body = ask(port)
        assert answer.status == 200
        assert "nothing was previewed yet" in body  # not even a file
        with opened_store(path) as store:
            assert "nothing was previewed yet" in ask(port)[1]
            stamps = {ask(port, "/stamp")[1]}
            for alphas, count in ((grid(2, 2), 3), (grid(2, 3), 5)):  # two of the second are there already
                record(store, alphas)
                body = ask(port)[1]
                assert body.count('"key":"simple"') == 1
                assert f'"stamp":"{ask(port, "/stamp")[1]}"' in body
                assert len(Store.read(path).preview("simple")) == count
                stamps.add(ask(port, "/stamp")[1])
            assert len(stamps) == 3
            assert ask(port, "/stamp")[1] in stamps  # asking changes nothing


def test_only_reading_by_this_machines_own_names_is_answered(tmp_path):
    with opened_store(tmp_path / "study.db") as store:
        record(store, grid(2, 2))
    with served(tmp_path / "study.db") as port:
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}"):
            assert ask(port, "/stamp", host=host)[0].status == 200
        for host in (
            "evil.example",
            f"evil.example:{port}",
            "127.0.0.1",
            f"127.0.0.1:{port + 1}",
            f"0.0.0.0:{port}",
            "",
        ):
            for where in ("/", "/stamp"):
                answer, body = ask(port, where, host=host)
                assert answer.status == 403, host
                assert "simple" not in body
        for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
            answer, _ = ask(port, "/", method)
            assert (answer.status, answer.getheader("Allow")) == (405, "GET")
        for where in ("/study.db", "/../study.db", "/stamp/", "/?x"):
            assert ask(port, where)[0].status == 404
        answer, body = ask(port)
        assert answer.getheader("Cache-Control") == "no-store"
        policy = body.split('Content-Security-Policy" content="')[1].split('"')[0]
        assert policy.startswith("default-src 'none'")
        assert policy.endswith("connect-src 'self'")


def test_the_address_is_of_this_machine_only_and_a_port_in_use_is_said(tmp_path):
    with server(tmp_path / "study.db", page_of) as running:
        assert running.server_address[0] == "127.0.0.1"
        with pytest.raises(FileError, match="Choose another with --port"):
            server(tmp_path / "study.db", page_of, port=running.server_port)


def test_a_store_that_is_none_is_said_on_the_page(tmp_path):
    path = tmp_path / "study.db"
    path.write_text("no store, but <b>text</b> " * 99)
    with served(path) as port:
        answer, body = ask(port)
        assert answer.status == 200
        assert "the report cannot be made now" in body
        assert "<b>" not in body


def test_a_stamp_changes_with_the_write_ahead_log(tmp_path):
    with opened_store(tmp_path / "study.db") as store:
        before = stamp(tmp_path / "study.db")
        assert stamp(tmp_path / "study.db") == before
        store.put("note", 1)
        assert stamp(tmp_path / "study.db") != before


def test_the_command_says_where_and_ends_with_control_c(tmp_path):
    with opened_store(tmp_path / "study.db") as store:
        record(store, grid(2, 2))
    command = [sys.executable, "-m", "previa", "view", str(tmp_path), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        line = running.stdout.readline()
        port = int(line.split("http://127.0.0.1:")[1].split("/")[0])
        assert '"key":"simple"' in ask(port)[1]
        running.send_signal(signal.SIGINT)
        out, error = running.communicate(timeout=20)
    assert running.returncode == 0
    assert out.startswith("Ended")
    assert error == ""


@pytest.mark.browser
@IN_BROWSER[1]
def test_the_page_follows_the_store_and_keeps_its_view(browser, tmp_path):
    path = tmp_path / "study.db"
    complaints, foreign = [], []
    with opened_store(path) as store, served(path) as port:
        record(store, grid(2, 2))
        page = browser.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        home = f"http://127.0.0.1:{port}/"
        page.on(
            "request", lambda request: None if request.url.startswith(home) else foreign.append(request.url)
        )
        page.goto(f"{home}#v=worst&f=0.6,&pin=0.5,0.5")
        points = page.locator("#maps [data-row]")
        assert points.count() == 3
        record(store, grid(2, 5))
        points.nth(6).wait_for(timeout=30000)
        assert points.count() == 7
        assert page.locator("input[name=worst][value=worst]").is_checked()
        assert page.locator("#panel-title").inner_text() == "Pinned"
        assert page.locator(".point.short").count() == 1
        page.close()
    assert complaints == []
    assert foreign == []


def test_a_search_is_served_with_what_lies_between_its_few_weightings(tmp_path):
    path = tmp_path / "study.db"
    with opened_store(path) as store:
        record(store, [[1, 0], [0.75, 0.25], [0.4, 0.6], [0, 1]])
        store.put(
            "searches",
            {"simple": {"goal": "best", "candidates": 101, "steps": 100, "why_ended": "the budget"}},
        )
    with served(path) as port:
        body = ask(port)[1]
    assert '"surrogates":{"simple":{"alphas":' in body
    assert '"why_ended":"the budget"' in body
