"""The report of a live store over HTTP: to this machine alone, for reading alone, from the store as it is now."""

import hashlib
import html
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from previa.errors import FileError, PreviaError
from previa.study.store import Store

HOST = "127.0.0.1"
NOTHING = "nothing was previewed yet"
OTHERS = ("POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT")
FILES = ("", "-wal")  # of a store: what is written last stands in the second one

Pages = Callable[[Store, str], bytes]
"""the page of a store and of the stamp that it is made at"""


def stamp(path: Path) -> str:
    """What changes whenever a store is written to, without opening it: a hash of its files' times and sizes."""
    found = []
    for ending in FILES:
        try:
            seen = path.with_name(path.name + ending).stat()
        except OSError:  # not there: a store has a log only while it is written to
            continue
        if seen.st_size:  # reading makes an empty log, and takes it away
            found.append((ending, seen.st_mtime_ns, seen.st_size))
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def waiting(path: Path, what: str, why: str) -> bytes:
    """The page before there is anything to show: it says why, and looks again every few seconds."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="3">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>previa view</title><h1>{html.escape(what)}</h1><p>{html.escape(why)}</p>"
        f"<p>{html.escape(str(path))} is looked at again every few seconds.</p></html>"
    ).encode("utf-8", "xmlcharrefreplace")


@dataclass
class Live:
    """A store's page, made anew when the store has changed since; several requests at once make it once."""

    path: Path
    pages: Pages
    _made: tuple[str, bytes] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def page(self) -> bytes:
        """The page of now; one that says that it waits where nothing was previewed yet, or the store cannot be read."""
        with self._lock:
            now = stamp(self.path)  # before reading: what is written meanwhile makes another stamp
            if self._made is None or self._made[0] != now:
                self._made = (now, self._page(now))
            return self._made[1]

    def _page(self, now: str) -> bytes:
        try:
            with Store.read(self.path) as store:
                return self.pages(store, now)
        except PreviaError as error:
            early = not self.path.exists() or NOTHING in str(error)
            return waiting(self.path, NOTHING if early else "the report cannot be made now", str(error))


def server(path: Path, pages: Pages, *, port: int = 0) -> ThreadingHTTPServer:
    """A server of this store's page on 127.0.0.1; port 0: any that is free. `serve_forever` runs it, `server_close` ends it.

    It answers GET of "/" and of "/stamp" only, and only to who asks for 127.0.0.1 or localhost with its port: a foreign page
    whose name was made to point here is refused. Raises FileError where the port cannot be had.
    """
    live = Live(path, pages)

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "previa", ""

        def do_GET(self) -> None:
            if not self._local():
                return
            if self.path == "/":
                self._answer(200, live.page(), "text/html; charset=utf-8")
            elif self.path == "/stamp":
                self._answer(200, stamp(live.path).encode())
            else:
                self._answer(404, b"there is only / and /stamp\n")

        def refuse(self) -> None:
            if self._local():
                self._answer(405, b"only GET\n", allow="GET")

        def _local(self) -> bool:
            """Refuse a foreign Host: the defence against DNS rebinding."""
            own = {f"{name}:{self.connection.getsockname()[1]}" for name in (HOST, "localhost")}
            asked = [host.lower() for host in self.headers.get_all("Host") or []]
            if len(asked) == 1 and asked[0] in own:
                return True
            self._answer(403, b"this address is served as 127.0.0.1 or localhost only\n")
            return False

        def _answer(
            self, code: int, body: bytes, kind: str = "text/plain; charset=utf-8", allow: str = ""
        ) -> None:
            self.send_response(code)
            for name, value in {
                "Content-Type": kind,
                "Content-Length": str(len(body)),
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "X-Frame-Options": "DENY",
                "Referrer-Policy": "no-referrer",
                "Cross-Origin-Resource-Policy": "same-origin",
                **({"Allow": allow} if allow else {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the terminal is for the address."""

    for method in OTHERS:
        setattr(Handler, f"do_{method}", Handler.refuse)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A browser that went away in mid-answer is no error; all else is shown."""
            if not isinstance(sys.exc_info()[1], ConnectionError):
                super().handle_error(request, client_address)

    try:
        return Server((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise FileError(
            f"port {port} of {HOST} cannot be had: {getattr(error, 'strerror', None) or error}. "
            "Choose another with --port, or 0 for any that is free."
        ) from error
