"""A web server on this machine that misbehaves as told: what tests of downloads talk to."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class LocalServer:
    """Serves files by path; the fields say how, and `asked` is what it was asked for.

    Attributes:
        files: content by path.
        ranges: whether it heeds the header Range.
        cuts: of each answer in turn, after how many bytes the connection breaks; later ones are whole.
        status: by path, the status to answer with in place of the file.
        says_length: whether it sends the header Content-Length.
        shift: added to where a range begins.
        delay: seconds before each answer.
        lie: added to every length that it tells.
        tags: by path, the ETag of the file.
        conditions: whether it heeds the header If-Range.
        asked: (path, Range) of each request for content.
        heads: path of each request for headers alone.
        if_range: what each request for content had in the header If-Range.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    status: dict[str, int] = field(default_factory=dict)
    says_length: bool = True
    shift: int = 0
    delay: float = 0.0
    lie: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    conditions: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    if_range: list[str | None] = field(default_factory=list)

    def reset(self) -> None:
        fresh = LocalServer(url=self.url)
        self.__dict__.update(fresh.__dict__)


@contextlib.contextmanager
def serve() -> Iterator[LocalServer]:
    """Run a server in a thread, on a free port of the loopback device."""
    server = LocalServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, wanted, condition = (
                self.path.lstrip("/"),
                self.headers.get("Range"),
                self.headers.get("If-Range"),
            )
            server.asked.append((path, wanted))
            server.if_range.append(condition)
            time.sleep(server.delay)
            if condition and server.conditions and condition != server.tags.get(path):
                wanted = None
            if (body := self._answer(path, wanted)) is not None:
                self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

        def do_HEAD(self) -> None:
            server.heads.append(self.path.lstrip("/"))
            self._answer(self.path.lstrip("/"), None)

        def _answer(self, path: str, wanted: str | None) -> bytes | None:
            """Send the headers; return what is to follow them, None after a refusal."""
            status, content = server.status.get(path), server.files.get(path, b"")
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
            if status == 416 and not wanted:  # no range asked for, none to refuse
                status = None
            if status or path not in server.files:
                self.send_error(status or 404)
                return None
            body, told = content[start:], len(content) + server.lie
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start + server.shift}-{told - 1}/{told}")
            if server.says_length:
                self.send_header("Content-Length", str(told - start))
            if path in server.tags:
                self.send_header("ETag", server.tags[path])
            self.end_headers()
            return body

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            http.shutdown()
