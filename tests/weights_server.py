"""A web server on this machine, good and bad in as many ways as tests of the download need."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves one file in as many ways as there are paths; `requests` tells what was asked."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.tag: str | None = '"1"'
        self.cut: int | None = None  # close the connection after so many bytes of the file
        self.requests: list[tuple[str, str | None, str | None]] = []
        self.closing = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of these tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.rsplit("/", 1)[-1]
        self.server.requests.append((self.path, self.headers["Range"], self.headers["If-Range"]))
        getattr(self, path.replace("-", "_"), self.missing)()

    def whole(self) -> None:
        """As a good server does: ranges, and If-Range."""
        content, start = self.server.content, 0
        if self.headers["Range"] and self.headers["If-Range"] in (None, self.server.tag):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        elif start:
            self.answer(206, content[start:], {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"})
        else:
            self.answer(200, content)

    def no_ranges(self) -> None:
        self.answer(200, self.server.content)

    def no_if_range(self) -> None:
        del self.headers["If-Range"]
        self.whole()

    def wrong_piece(self) -> None:
        content = self.server.content
        if self.headers["Range"]:
            self.answer(206, content[3:], {"Content-Range": f"bytes 3-{len(content) - 1}/{len(content)}"})
        else:
            self.answer(200, content)

    def wrong_bytes(self) -> None:
        self.answer(200, bytes(len(self.server.content)))

    def longer(self) -> None:
        self.answer(200, self.server.content + b"x")

    def length_lies(self) -> None:
        self.answer(200, self.server.content, {"Content-Length": str(len(self.server.content) - 5)})

    def no_length(self) -> None:
        self.answer(200, self.server.content, {"Content-Length": None})

    def longer_without_length(self) -> None:
        self.answer(200, self.server.content + bytes(100), {"Content-Length": None})

    def encoded(self) -> None:
        self.answer(200, self.server.content, {"Content-Encoding": "gzip"})

    def silent(self) -> None:
        self.server.closing.wait(10)

    def stalls(self) -> None:
        self.server.cut = 1000
        self.answer(200, self.server.content)
        self.wfile.flush()
        self.server.closing.wait(10)

    def redirect(self) -> None:
        self.answer(302, b"", {"Location": "/whole"})

    def loop(self) -> None:
        self.answer(302, b"", {"Location": "/loop"})

    def to_file(self) -> None:
        self.answer(302, b"", {"Location": "file:///etc/passwd"})

    def to_ftp(self) -> None:
        self.answer(302, b"", {"Location": "ftp://127.0.0.1/x"})

    def no_http(self) -> None:
        self.wfile.write(b"SSH-2.0-nothing\r\n")

    def missing(self) -> None:
        self.answer(404, b"none")

    def answer(self, code: int, body: bytes, headers: dict[str, str | None] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), "ETag": self.server.tag, **(headers or {})}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        cut, self.server.cut = self.server.cut, None
        self.wfile.write(body[:cut])

    def log_message(self, *_: object) -> None:
        """Quiet."""
