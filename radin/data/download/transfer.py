"""Files from the network: complete and correct or absent, downloaded by one process at a time."""

from __future__ import annotations

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
from radin.files import atomic_path, hash_file, lock

TIMEOUT_SECONDS = 30.0  # how long a server may be silent
_CHUNK_BYTES = 1 << 18


def offline() -> bool:
    """Whether RADIN_OFFLINE in the environment forbids downloads."""
    return os.environ.get("RADIN_OFFLINE", "0") not in ("", "0")


def download(
    url: str,
    path: Path,
    *,
    num_bytes: int | None = None,
    sha256: str | None = None,
    progress: bool = True,
    label: str | None = None,
) -> Path:
    """Download `url` to `path`, which appears only when it is complete and its checksum is right.

    The bytes that have arrived are kept beside it as `.part`, and the next call asks the server
    only for the rest. Without a checksum, the size and the tag that the server gave are kept too,
    as `.part.json`: a part of a file that has changed since then is deleted.

    Args:
        num_bytes: its size, beyond which nothing is read; when not given, the server is asked.
        sha256: hex, of the complete file, if somebody publishes it.
        progress: whether to show a bar.
        label: the title of the bar; the name of the file when not given.

    Returns:
        `path`.

    Raises:
        DataError: the server cannot be reached, refuses, breaks off, sends another file, or does
            not give the size of a file whose size nobody else gives.
    """
    part = path.with_name(path.name + ".part")
    remote = _RemoteFile(math.inf if num_bytes is None else num_bytes, num_bytes is not None)
    if num_bytes is None or sha256 is None:
        remote.record = part.with_name(part.name + ".json")
        remote.read_record(part)
    with tqdm(
        total=num_bytes, desc=label or path.name, unit="B", unit_scale=True, disable=not progress
    ) as bar:
        _receive_all(url, part, remote, bar)
    if sha256 is not None and hash_file(part) != sha256:
        part.unlink()
        raise DataError(
            f"{url}: the file that arrived does not have the checksum of the official file, so it "
            "was deleted. Call again; if that does not help, the file has changed at its source, "
            "or something on the way changes it."
        )
    if _size(part) != remote.num_bytes:
        part.unlink()
        raise DataError(
            f"{url}: more arrived than the {remote.num_bytes} bytes of the file, so it was "
            "deleted; call again."
        )
    part.replace(path)
    remote.remove_record()
    return path


def check_sha256(path: Path, sha256: str) -> None:
    """Raise DataError unless the file has this checksum."""
    if hash_file(path) != sha256:
        raise DataError(
            f"{path} does not have the checksum of the official file; replace or remove it."
        )


def remote_size(url: str) -> int | None:
    """The size in bytes that a server gives for a file; None when there is no answer."""
    request = urllib.request.Request(url, headers={"User-Agent": "radin"}, method="HEAD")
    try:
        with (
            _network_errors(),
            urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response,
        ):
            length = response.headers.get("Content-Length", "")
    except urllib.error.URLError:
        return None
    return int(length) if length.isdecimal() else None


@dataclass
class _RemoteFile:
    """The file on the server.

    Attributes:
        num_bytes: its size; infinite until the server has given it.
        official: whether the caller gave the size. Another size is then an error, and otherwise
            a newer file.
        record: the file that keeps size and tag for the next call, where no caller gave both the
            size and the checksum.
        tag: the server's ETag of this version of the file, "" when there is none.
    """

    num_bytes: float
    official: bool
    record: Path | None = None
    tag: str = ""

    def read_record(self, part: Path) -> None:
        """Learn the size and tag of the file that `part` belongs to; delete `part` if unknown."""
        try:
            kept = json.loads(self.record.read_text(encoding="utf-8")) if self.record else {}
            num_bytes = int(kept["num_bytes"])
            self.tag = str(kept["tag"])
        except (OSError, ValueError, KeyError, TypeError):
            part.unlink(missing_ok=True)
            return
        if self.official and num_bytes != self.num_bytes:
            part.unlink(missing_ok=True)
        elif part.exists():
            self.num_bytes = num_bytes

    def read_headers(self, response: HTTPResponse, url: str) -> None:
        """Learn size and tag from an answer that sends the complete file, and keep them."""
        if not self.official:
            length = response.headers.get("Content-Length") or ""
            if not length.isdecimal():
                raise DataError(
                    f"{url}: the server does not say how large the file is, so a broken connection "
                    "would look like the end of the file; get the file by hand."
                )
            self.num_bytes = int(length)
        if self.record is not None:
            self.tag = response.headers.get("ETag") or ""
            content = json.dumps({"num_bytes": self.num_bytes, "tag": self.tag})
            with atomic_path(self.record) as temporary:
                temporary.write_text(content, encoding="utf-8")

    def remove_record(self) -> None:
        if self.record is not None:
            self.record.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive_all(url: str, part: Path, remote: _RemoteFile, bar: tqdm) -> None:
    """Ask for the rest of the file until `part` is complete or a request brings nothing new."""
    reason = ""
    furthest = -1
    while (have := _size(part)) < remote.num_bytes:
        if have <= furthest:
            kept = (
                f"; {have} of {remote.num_bytes} bytes are kept in {part}, so call again for the "
                "rest"
            )
            raise DataError(f"{url}: could not be downloaded ({reason}){kept if have else ''}.")
        furthest = have
        reason = _receive(url, part, remote, bar)


def _receive(url: str, part: Path, remote: _RemoteFile, bar: tqdm) -> str:
    """Ask once for what `part` lacks, append what arrives, and return why it ended."""
    have = _size(part)
    headers = {"User-Agent": "radin"} | ({"Range": f"bytes={have}-"} if have else {})
    if have and remote.tag.startswith('"'):  # a weak tag (W/...) does not promise the same bytes
        headers["If-Range"] = remote.tag
    request = urllib.request.Request(url, headers=headers)
    try:
        with _network_errors():
            response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
        with response:
            start = _first_byte(response, url, have, remote)
            if start is not None:
                _append(response, part, start, url=url, remote=remote, bar=bar)
                return "the connection broke off"
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise DataError(f"{url}: the server answers {error.code} {error.reason}.") from error
    except urllib.error.URLError as error:
        return str(error.reason)
    part.unlink()  # these bytes cannot be the beginning of the file on the server
    return _receive(url, part, remote, bar)


def _append(
    response: HTTPResponse, part: Path, start: int, *, url: str, remote: _RemoteFile, bar: tqdm
) -> None:
    """Write an answer into `part` from byte `start` on."""
    with open(part, "ab") as file:
        file.truncate(start)
        if not start:
            remote.read_headers(response, url)
        bar.total = remote.num_bytes
        bar.update(start - bar.n)
        while file.tell() <= remote.num_bytes and (chunk := _next_chunk(response)):
            file.write(chunk)
            bar.update(len(chunk))


def _next_chunk(response: HTTPResponse) -> bytes:
    with _network_errors():
        return response.read1(_CHUNK_BYTES)


@contextmanager
def _network_errors() -> Iterator[None]:
    """Raise every failure of the network as a URLError, to tell it from a full disk."""
    try:
        yield
    except urllib.error.URLError:
        raise
    except (OSError, HTTPException) as error:
        raise urllib.error.URLError(error) from error


def _first_byte(response: HTTPResponse, url: str, have: int, remote: _RemoteFile) -> int | None:
    """The position in the file where the answer begins: `have`, or 0 for the complete file.

    None when the `have` bytes belong to another file than the one that the server has now.
    """
    start = 0
    total = response.headers.get("Content-Length", "")
    if response.status == 206:
        sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if sent is None or int(sent[1]) != have:
            raise DataError(
                f"{url}: the server sent another range than the one asked for; try again later."
            )
        start = have
        total = sent[2].replace("*", "")
    other_size = total.isdecimal() and int(total) != remote.num_bytes
    if other_size and remote.official:
        raise DataError(
            f"{url}: the file there has {total} bytes and the official one {remote.num_bytes}; "
            "it has changed."
        )
    other_tag = remote.tag and response.headers.get("ETag", remote.tag) != remote.tag
    return None if start and (other_size or other_tag) else start


# Processes ---------------------------------------------------------------------------------------


@contextmanager
def one_process_at_a_time(path: Path) -> Iterator[None]:
    """Let one process at a time into the block.

    The lock is the file `path`. The system releases the lock of a process that is killed.
    """
    with open(path, "w") as file:
        if lock(file, wait=False) is False:
            print(
                f"radin: waiting for another process that downloads the same ({path})",
                file=sys.stderr,
            )
            lock(file, wait=True)
        yield
