"""A web server on this machine that fails on demand, for tests of downloads."""

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
    """Serves files by path; the fields say how, and record the requests.

    Attributes:
        files: content by path.
        ranges: whether it obeys the header Range.
        cuts: of each answer in turn, after how many bytes the connection breaks; later answers are
            complete.
        status: by path, the status to answer with instead of the file.
        says_length: whether it sends the header Content-Length.
        shift: added to the first byte of a range.
        delay: seconds before each answer.
        extra_length: added to every length that it sends.
        tags: by path, the ETag of the file.
        conditions: whether it obeys the header If-Range.
        asked: (path, Range) of each request for content.
        head_requests: path of each request for headers alone.
        if_range: the header If-Range of each request for content.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    status: dict[str, int] = field(default_factory=dict)
    says_length: bool = True
    shift: int = 0
    delay: float = 0.0
    extra_length: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    conditions: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    head_requests: list[str] = field(default_factory=list)
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
            path = self.path.lstrip("/")
            wanted = self.headers.get("Range")
            condition = self.headers.get("If-Range")
            server.asked.append((path, wanted))
            server.if_range.append(condition)
            time.sleep(server.delay)
            if condition and server.conditions and condition != server.tags.get(path):
                wanted = None
            if (body := self._answer(path, wanted)) is not None:
                self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

        def do_HEAD(self) -> None:
            server.head_requests.append(self.path.lstrip("/"))
            self._answer(self.path.lstrip("/"), None)

        def _answer(self, path: str, wanted: str | None) -> bytes | None:
            """Send the headers and return the content to send; None after an error status."""
            status = server.status.get(path)
            content = server.files.get(path, b"")
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
            if status == 416 and not wanted:  # no range was asked for
                status = None
            if status or path not in server.files:
                self.send_error(status or 404)
                return None
            body = content[start:]
            sent_length = len(content) + server.extra_length
            self.send_response(206 if start else 200)
            if start:
                first = start + server.shift
                sent_range = f"bytes {first}-{sent_length - 1}/{sent_length}"
                self.send_header("Content-Range", sent_range)
            if server.says_length:
                self.send_header("Content-Length", str(sent_length - start))
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
