"""Files from the network that are whole and right or absent, fetched by one process at a time."""

from __future__ import annotations

import hashlib
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from tqdm import tqdm

from radin.errors import DataError

try:
    import fcntl
except ImportError:  # Windows: two processes that fetch at once are then not kept apart
    fcntl = None  # type: ignore[assignment]

TIMEOUT = 30.0  # seconds without an answer
CHUNK = 1 << 18


def download(url: str, path: Path, num_bytes: int, sha256: str, progress: bool = True) -> Path:
    """Fetch `url` into `path`, which appears only once it is whole and has the right checksum.

    What has arrived is kept beside it as `.part`, and the next call asks the server for the rest only.

    Args:
        num_bytes: its size, beyond which nothing is taken.
        sha256: hex, of the whole file.
        progress: whether to show a bar.

    Raises DataError when the server cannot be reached, refuses, breaks off or sends another file.
    """
    part = path.with_name(path.name + ".part")
    reason, furthest = "", -1
    with tqdm(total=num_bytes, desc=path.name, unit="B", unit_scale=True, disable=not progress) as bar:
        while (have := _size(part)) < num_bytes:
            if have <= furthest:  # a connection that broke off is opened again as long as it brings something
                kept = f"; {have} of {num_bytes} bytes are kept in {part}, so call again for the rest" if have else ""
                raise DataError(f"{url}: could not be downloaded ({reason}){kept}.")
            furthest = have
            reason = _receive(url, part, num_bytes, bar)
    if _sha256(part) != sha256:
        part.unlink()
        raise DataError(
            f"{url}: what arrived does not have the checksum of the official file, so it was deleted. Call again; if "
            "that does not help, the file has changed there or is changed on its way."
        )
    return part.replace(path)


def check_sha256(path: Path, sha256: str) -> None:
    """Raise DataError unless the file has this checksum."""
    if _sha256(path) != sha256:
        raise DataError(f"{path} does not have the checksum of the official file; replace or remove it.")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(url: str, part: Path, num_bytes: int, bar: tqdm) -> str:
    """Ask once for what `part` lacks, append what comes, and say why it ended."""
    have = _size(part)
    headers = {"User-Agent": "radin"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with _network():
            response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
        with response:
            start = _start(response, url, have, num_bytes)
            with open(part, "ab") as file:
                file.truncate(start)
                bar.update(start - bar.n)
                while file.tell() <= num_bytes and (chunk := _next_chunk(response)):
                    file.write(chunk)
                    bar.update(len(chunk))
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise DataError(f"{url}: the server answers {error.code} {error.reason}.") from error
        part.unlink()  # it has no such range: what is here cannot be the beginning of its file
        return _receive(url, part, num_bytes, bar)
    except urllib.error.URLError as error:
        return str(error.reason)
    return "the connection broke off"


def _next_chunk(response: HTTPResponse) -> bytes:
    with _network():
        return response.read1(CHUNK)


@contextmanager
def _network() -> Iterator[None]:
    """Give every failure of the network one type, which tells it from a disk that is full."""
    try:
        yield
    except urllib.error.URLError:
        raise
    except (OSError, HTTPException) as error:
        raise urllib.error.URLError(error) from error


def _start(response: HTTPResponse, url: str, have: int, num_bytes: int) -> int:
    """Where the answer begins in the file: after the `have` bytes, or at 0 when the server sends all of it again."""
    start, total = 0, response.headers.get("Content-Length")
    if response.status == 206:
        sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if sent is None or int(sent[1]) != have:
            raise DataError(f"{url}: the server sent another range than the one asked for; try again later.")
        start, total = have, sent[2].replace("*", "")
    if total and int(total) != num_bytes:
        raise DataError(f"{url}: the file there has {total} bytes and the official one {num_bytes}; it has changed.")
    return start


# Processes --------------------------------------------------------------------------------------


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Let one process at a time into the block; the system opens the lock of one that is killed."""
    with open(lock, "w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"radin: waiting for another process that fetches the same ({lock})", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:  # a file system without locks
                pass
        yield
