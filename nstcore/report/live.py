"""The page while the run goes on, served on the loopback address.

    GET  /KEY/                  the page
    GET  /KEY/data?known=...    what has come since, as JSON; asked once a second while somebody looks at the page
    POST /KEY/stop              "stop and keep"; needs the token that stands in the page

Only this machine can connect, and only who knows the key, a random word in the address that the run prints: other
people with an account on this machine do not. Requests under another host name than 127.0.0.1 or localhost are refused,
so that no foreign site can come through a name that it points here (DNS rebinding), and so are those that a browser
says another site has made.

The run never waits for it: requests have threads of their own, and what goes wrong in one ends only that one.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..errors import OptionError
from .page import page
from .recorder import Recorder

ADDRESS = "127.0.0.1"

_PATIENCE = 10.0  # seconds that a connection may take
_LOOKING = 4.0  # seconds for which a page that has asked counts as looked at
_NOTICE = 0.2  # seconds after which the server sees that it is to end, at most
_FAREWELL = 3.0  # seconds in which pages that are looked at get the end
_NOTHING = "there is nothing here: the page has the whole address that the run has printed"


class Live:
    """Serves a recorder's page from `start` to the end of the `with` block, which waits a moment so that the pages that
    are looked at get the last news.

    Parameters
    ----------
    recorder : Recorder
    port : int
        0 for a free one.

    Attributes
    ----------
    recorder : Recorder
    address : str
        "http://127.0.0.1:8000/KEY/"
    stop_asked : bool
        Whether a page has asked to stop.

    Raises
    ------
    OptionError
        If the port cannot be had.
    """

    def __init__(self, recorder: Recorder, port: int = 0) -> None:
        self.recorder, self.token, self.stop_asked = recorder, secrets.token_urlsafe(24), False
        self._asked, self._told = 0.0, threading.Event()
        self._thread: threading.Thread | None = None
        try:
            self._server = _Server((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            why = (getattr(error, "strerror", None) or str(error)).lower()
            raise OptionError(
                f"--live: expected a port that is free, got {port} ({why}); take another, or none for a free one"
            ) from None
        self._server.live = self
        self.port: int = self._server.server_address[1]
        self.home = f"/{secrets.token_urlsafe(12)}/"
        self.address = f"http://{ADDRESS}:{self.port}{self.home}"
        self.hosts = {f"{ADDRESS}:{self.port}", f"localhost:{self.port}"}

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            if self.recorder.ended and self._is_looked_at():
                self._told.wait(_FAREWELL)
            self._server.shutdown()
        self._server.server_close()

    def start(self) -> None:
        """From here on there is something to see; earlier visitors wait until now."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_NOTICE,), daemon=True)
        self._thread.start()

    def refresh(self) -> None:
        """Tell the recorder whether somebody is looking; for the run's thread, at every step."""
        self.recorder.watched = self._is_looked_at()

    def _is_looked_at(self) -> bool:
        return self._asked > 0 and time.monotonic() - self._asked < _LOOKING

    # -- what a request gets, in a thread of its own -------------------------------------------------------------------

    def page(self) -> bytes:
        """The page as it is now."""
        self._asked = time.monotonic()
        return page({**self.recorder.data(), "token": self.token}, live=True)

    def news(self, known: list[int]) -> bytes:
        """What has come since a page knew so many evaluations, frames, events and large pictures; all of it, once the
        run has ended."""
        self._asked = time.monotonic()
        ended = self.recorder.ended
        found: dict[str, Any] = {"final": self.recorder.data()} if ended else self.recorder.since(*known)
        return json.dumps(found, allow_nan=False).encode()

    def told(self) -> None:
        """A page has the end."""
        if self.recorder.ended:
            self._told.set()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = os.name == "posix"  # elsewhere it would share a port that is in use
    live: Live

    def handle_error(self, *_: object) -> None:
        """A visitor that has gone is no news."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _PATIENCE
    server: _Server
    server_version, sys_version = "nstcore", ""

    def do_GET(self) -> None:
        live = self.server.live
        if not self._is_ours():
            self._refuse(403, "this page is for this machine's own browser")
        elif self._is_at(""):
            self._answer("text/html; charset=utf-8", live.page())
        elif self._is_at("data"):
            self._answer("application/json", live.news(_known(urlsplit(self.path).query)))
            live.told()
        else:
            self._refuse(404, _NOTHING)

    def do_POST(self) -> None:
        live = self.server.live
        origin = self.headers.get("Origin", "").removeprefix("http://")
        token = self.headers.get("X-Token", "")
        if (
            not self._is_ours()
            or origin not in live.hosts
            or not secrets.compare_digest(token.encode(), live.token.encode())
        ):
            self._refuse(403, "only the page itself may ask for that")
        elif not self._is_at("stop"):
            self._refuse(404, _NOTHING)
        else:
            live.stop_asked = True
            self._answer("application/json", b"{}")

    def _is_at(self, place: str) -> bool:
        return secrets.compare_digest(urlsplit(self.path).path.encode(), f"{self.server.live.home}{place}".encode())

    def _is_ours(self) -> bool:
        """Whether this is asked for under our own name, and not by another site."""
        site = self.headers.get("Sec-Fetch-Site", "none")
        return self.headers.get("Host", "") in self.server.live.hosts and site in ("none", "same-origin")

    def _answer(self, kind: str, content: bytes, code: int = 200) -> None:
        self.send_response(code)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, code: int, why: str) -> None:
        self._answer("text/plain; charset=utf-8", f"{why}\n".encode(), code)

    def log_message(self, *_: object) -> None:
        """The terminal belongs to the run."""


def _known(query: str) -> list[int]:
    """known=EVALUATIONS,FRAMES,EVENTS,PICTURES; zeros for anything else."""
    words = parse_qs(query).get("known", [""])[0].split(",")
    numbers = [int(word) if word.isascii() and word.isdigit() and len(word) < 12 else 0 for word in words]
    return numbers if len(numbers) == 4 else [0, 0, 0, 0]
