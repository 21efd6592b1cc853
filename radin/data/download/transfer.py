"""Files from the network that are whole and right or absent, fetched by one process at a time."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from tqdm import tqdm

from radin.errors import DataError
from radin.files import atomic_path, lock

TIMEOUT = 30.0  # seconds without an answer
CHUNK = 1 << 18


def offline() -> bool:
    """Whether RADIN_OFFLINE in the environment forbids downloads."""
    return os.environ.get("RADIN_OFFLINE", "0") not in ("", "0")


def download(
    url: str,
    path: Path,
    num_bytes: int | None = None,
    sha256: str | None = None,
    progress: bool = True,
    label: str | None = None,
) -> Path:
    """Fetch `url` into `path`, which appears only once it is whole and, if that is known, has the right checksum.

    What has arrived is kept beside it as `.part`, and the next call asks the server for the rest only. Where no
    checksum would show that the rest is of another file, the size and the tag that the server gave are kept too, as
    `.part.json`: a part of a file that has changed since is thrown away.

    Args:
        num_bytes: its size, beyond which nothing is taken; the server's word for it when not given.
        sha256: hex, of the whole file, if anybody publishes it.
        progress: whether to show a bar.
        label: what the bar is called; the name of the file when not given.

    Raises DataError when the server cannot be reached, refuses, breaks off, sends another file, or does not say how
    large it is where nobody else does.
    """
    part = path.with_name(path.name + ".part")
    whole = _Whole(math.inf if num_bytes is None else num_bytes, official=num_bytes is not None)
    if num_bytes is None or sha256 is None:
        whole.note = part.with_name(part.name + ".json")
        whole.recall(part)
    reason, furthest = "", -1
    with tqdm(
        total=num_bytes, desc=label or path.name, unit="B", unit_scale=True, disable=not progress
    ) as bar:
        while (have := _size(part)) < whole.num_bytes:
            if (
                have <= furthest
            ):  # a connection that broke off is opened again as long as it brings something
                kept = f"; {have} of {whole.num_bytes} bytes are kept in {part}, so call again for the rest"
                raise DataError(f"{url}: could not be downloaded ({reason}){kept if have else ''}.")
            furthest = have
            reason = _receive(url, part, whole, bar)
    if sha256 is not None and _sha256(part) != sha256:
        part.unlink()
        raise DataError(
            f"{url}: what arrived does not have the checksum of the official file, so it was deleted. Call again; if "
            "that does not help, the file has changed there or is changed on its way."
        )
    if _size(part) != whole.num_bytes:
        part.unlink()
        raise DataError(
            f"{url}: more arrived than the {whole.num_bytes} bytes of the file, so it was deleted; call again."
        )
    part.replace(path)
    whole.forget()
    return path


def check_sha256(path: Path, sha256: str) -> None:
    """Raise DataError unless the file has this checksum."""
    if _sha256(path) != sha256:
        raise DataError(
            f"{path} does not have the checksum of the official file; replace or remove it."
        )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@dataclass
class _Whole:
    """What is known of the file at the other end.

    Attributes:
        num_bytes: its size; infinite until the server has said it.
        official: whether the caller gave the size, so that another one is an error and not just a newer file.
        note: the file that keeps size and tag for the next call, if nobody else knows what the whole must be.
        tag: the server's ETag of this version of the file, "" when there is none.
    """

    num_bytes: float
    official: bool
    note: Path | None = None
    tag: str = ""

    def recall(self, part: Path) -> None:
        """Learn from the note what `part` is a part of, and remove it if that is not known."""
        try:
            said = json.loads(self.note.read_text(encoding="utf-8")) if self.note else {}
            num_bytes, self.tag = int(said["num_bytes"]), str(said["tag"])
        except (OSError, ValueError, KeyError, TypeError):
            part.unlink(missing_ok=True)
            return
        if self.official and num_bytes != self.num_bytes:
            part.unlink(missing_ok=True)
        elif part.exists():
            self.num_bytes = num_bytes

    def learn(self, response: HTTPResponse, url: str) -> None:
        """Take size and tag from an answer that sends the whole file."""
        if not self.official:
            length = response.headers.get("Content-Length") or ""
            if not length.isdecimal():
                raise DataError(
                    f"{url}: the server does not say how large the file is, so a broken connection could not be told "
                    "from its end; get the file by hand."
                )
            self.num_bytes = int(length)
        if self.note is not None:
            self.tag = response.headers.get("ETag") or ""
            with atomic_path(self.note) as temporary:
                temporary.write_text(
                    json.dumps({"num_bytes": self.num_bytes, "tag": self.tag}), encoding="utf-8"
                )

    def forget(self) -> None:
        if self.note is not None:
            self.note.unlink(missing_ok=True)


def _receive(url: str, part: Path, whole: _Whole, bar: tqdm) -> str:
    """Ask once for what `part` lacks, append what comes, and say why it ended."""
    have = _size(part)
    headers = {"User-Agent": "radin"} | ({"Range": f"bytes={have}-"} if have else {})
    if have and whole.tag.startswith('"'):  # a weak tag (W/...) does not promise the same bytes
        headers["If-Range"] = whole.tag
    try:
        with _network():
            response = urllib.request.urlopen(
                urllib.request.Request(url, headers=headers), timeout=TIMEOUT
            )
        with response:
            start = _start(response, url, have, whole)
            if start is not None:
                with open(part, "ab") as file:
                    file.truncate(start)
                    if not start:
                        whole.learn(response, url)
                    bar.total = whole.num_bytes
                    bar.update(start - bar.n)
                    while file.tell() <= whole.num_bytes and (chunk := _next_chunk(response)):
                        file.write(chunk)
                        bar.update(len(chunk))
                return "the connection broke off"
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise DataError(f"{url}: the server answers {error.code} {error.reason}.") from error
    except urllib.error.URLError as error:
        return str(error.reason)
    part.unlink()  # what is here cannot be the beginning of the file that is there
    return _receive(url, part, whole, bar)


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


def _start(response: HTTPResponse, url: str, have: int, whole: _Whole) -> int | None:
    """Where the answer begins in the file: after the `have` bytes, or at 0 when the server sends all of it again.

    None when those bytes are of another file than the one that is there now.
    """
    start, total = 0, response.headers.get("Content-Length", "")
    if response.status == 206:
        sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if sent is None or int(sent[1]) != have:
            raise DataError(
                f"{url}: the server sent another range than the one asked for; try again later."
            )
        start, total = have, sent[2].replace("*", "")
    other = total.isdecimal() and int(total) != whole.num_bytes
    if other and whole.official:
        raise DataError(
            f"{url}: the file there has {total} bytes and the official one {whole.num_bytes}; it has changed."
        )
    if start and (other or (whole.tag and response.headers.get("ETag", whole.tag) != whole.tag)):
        return None
    return start


def remote_size(url: str) -> int | None:
    """The size in bytes that a server gives for a file; None when it cannot be asked or does not say."""
    request = urllib.request.Request(url, headers={"User-Agent": "radin"}, method="HEAD")
    try:
        with _network(), urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            length = response.headers.get("Content-Length", "")
    except urllib.error.URLError:
        return None
    return int(length) if length.isdecimal() else None


# Processes --------------------------------------------------------------------------------------


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Let one process at a time into the block; the system opens the lock at `path` of one that is killed."""
    with open(path, "w") as file:
        if lock(file, wait=False) is False:
            print(
                f"radin: waiting for another process that fetches the same ({path})",
                file=sys.stderr,
            )
            lock(file, wait=True)
        yield
