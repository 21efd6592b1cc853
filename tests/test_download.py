"""radin/download.py: connections that break, servers that lie, and what is left on disk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import files_below, finish, run_python
from hypothesis import given, settings
from hypothesis import strategies as st
from local_server import LocalServer, serve

from radin.download import check_sha256, download, only_one
from radin.errors import DataError

CONTENT = hashlib.shake_256(b"radin").digest(20_000)


@pytest.fixture(scope="module")
def running() -> Iterator[LocalServer]:
    with serve() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "*")
        yield server


@pytest.fixture
def server(running) -> LocalServer:
    running.reset()
    running.files["file.bin"] = CONTENT
    return running


def get(server: LocalServer, folder: Path, content: bytes = CONTENT, **options: bool) -> Path:
    """Download `file.bin`, expected to hold `content`."""
    digest = hashlib.sha256(content).hexdigest()
    options = {"progress": False} | options
    return download(f"{server.url}/file.bin", folder / "file.bin", len(content), digest, **options)


def test_a_whole_file(server, tmp_path, capfd):
    assert get(server, tmp_path, progress=True).read_bytes() == CONTENT
    assert files_below(tmp_path) == ["file.bin"]
    assert server.asked == [("file.bin", None)]
    bar = capfd.readouterr().err
    assert "file.bin: 100%" in bar
    assert "20.0k/20.0k" in bar


def test_a_cut_connection_is_opened_again_for_the_rest(server, tmp_path):
    server.cuts = [1000, 2500]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=1000-", "bytes=3500-"]


def test_what_arrived_is_kept_for_the_next_call(server, tmp_path):
    server.cuts = [1000, 0]
    with pytest.raises(DataError, match=r"broke off\); 1000 of 20000 bytes are kept in .*file\.bin\.part, so call"):
        get(server, tmp_path)
    assert files_below(tmp_path) == ["file.bin.part"]
    server.asked.clear()
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [("file.bin", "bytes=1000-")]


def test_a_server_that_ignores_ranges_starts_afresh(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:700])
    assert get(server, tmp_path).read_bytes() == CONTENT
    server.cuts = [500, 400]  # it never gets further than it was
    (tmp_path / "file.bin").unlink()
    with pytest.raises(DataError, match="400 of 20000 bytes are kept"):
        get(server, tmp_path)


def test_a_server_that_has_no_such_range_starts_afresh(server, tmp_path):
    server.status["file.bin"] = 416
    (tmp_path / "file.bin.part").write_bytes(b"of another file")
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == ["bytes=15-", None]


@pytest.mark.parametrize("part", [b"rotten", CONTENT[:-1] + b"x", CONTENT + b"and more"])
def test_a_wrong_checksum_deletes_the_file_and_says_so(server, tmp_path, part):
    (tmp_path / "file.bin.part").write_bytes(part)
    with pytest.raises(DataError, match="does not have the checksum of the official file, so it was deleted"):
        get(server, tmp_path)
    assert files_below(tmp_path) == []
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_an_altered_file_is_refused(server, tmp_path):
    server.files["file.bin"] = CONTENT[::-1]
    with pytest.raises(DataError, match=r"/file\.bin: what arrived does not have the checksum"):
        get(server, tmp_path)
    assert files_below(tmp_path) == []


def test_a_file_of_another_size_is_refused_before_it_is_taken(server, tmp_path):
    server.files["file.bin"] = b"<html>please log in</html>"
    with pytest.raises(DataError, match="the file there has 26 bytes and the official one 20000; it has changed"):
        get(server, tmp_path)
    assert files_below(tmp_path) == []


def test_a_file_without_end_is_not_taken(server, tmp_path):
    server.files["file.bin"] = CONTENT * 200
    server.says_length = False
    with pytest.raises(DataError, match="checksum"):
        get(server, tmp_path)
    assert files_below(tmp_path) == []


def test_another_range_than_asked_for(server, tmp_path):
    server.shift = 5
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:700])
    with pytest.raises(DataError, match="another range"):
        get(server, tmp_path)
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:700]


@pytest.mark.parametrize(("status", "words"), [(404, "404 Not Found"), (403, "403 Forbidden"), (503, "503 Service")])
def test_a_refusal_is_told(server, tmp_path, status, words):
    server.status["file.bin"] = status
    with pytest.raises(DataError, match=rf"{server.url}/file\.bin: the server answers {words}"):
        get(server, tmp_path)
    assert files_below(tmp_path) == []


def test_no_server(server, tmp_path):
    nobody = LocalServer(url="http://127.0.0.1:1")
    with pytest.raises(DataError, match=r"could not be downloaded \(.*refused\)\.$"):
        get(nobody, tmp_path)


def test_a_silent_server(server, tmp_path, monkeypatch):
    monkeypatch.setattr("radin.download.TIMEOUT", 0.1)
    server.delay = 0.5
    with pytest.raises(DataError, match=r"could not be downloaded \(timed out\)\."):
        get(server, tmp_path)


def test_a_network_that_goes_down(server, tmp_path, monkeypatch):
    def down(*_: object) -> bytes:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("http.client.HTTPResponse.read1", down)
    with pytest.raises(DataError, match=r"could not be downloaded \(\[Errno 101\] Network is unreachable\)"):
        get(server, tmp_path)
    monkeypatch.undo()
    assert get(server, tmp_path).read_bytes() == CONTENT


@given(data=st.data(), length=st.integers(1, 3000), ranges=st.booleans())
@settings(max_examples=40)
def test_any_cuts_end_in_the_file_or_a_clear_error(tmp_path_factory, running, data, length, ranges):
    folder = tmp_path_factory.mktemp("cuts")
    content = CONTENT[:length]
    running.reset()
    running.files["file.bin"], running.ranges = content, ranges
    running.says_length = data.draw(st.booleans())
    running.cuts = data.draw(st.lists(st.integers(0, length), max_size=5))
    (folder / "file.bin.part").write_bytes(content[: data.draw(st.integers(0, length))])
    for _ in range(7):  # each failure has used up a cut
        try:
            assert get(running, folder, content).read_bytes() == content
            break
        except DataError as error:
            assert "could not be downloaded" in str(error)
    assert files_below(folder) == ["file.bin"]


def test_a_checksum_of_a_file_at_hand(tmp_path):
    path = tmp_path / "mine.zip"
    path.write_bytes(b"mine")
    check_sha256(path, hashlib.sha256(b"mine").hexdigest())
    with pytest.raises(DataError, match=r"mine\.zip does not have the checksum"):
        check_sha256(path, "0" * 64)
    assert path.exists()


def test_one_process_at_a_time_and_a_killed_one_is_forgotten(tmp_path, capfd):
    pytest.importorskip("fcntl")
    hold = """
import sys, time
from pathlib import Path
from radin.download import only_one
with only_one(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""
    holder = run_python(hold, tmp_path / "lock")
    assert holder.stdout.readline() == "in\n"
    waiter = run_python(hold.replace("time.sleep(60)", "pass"), tmp_path / "lock")
    assert "waiting for another process" in waiter.stderr.readline()
    assert waiter.poll() is None
    holder.kill()
    holder.communicate()
    start = time.monotonic()
    assert finish(waiter) == "in\n"
    assert time.monotonic() - start < 30
    with only_one(tmp_path / "lock"):
        pass
