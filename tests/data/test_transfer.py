"""radin/data/download/transfer.py: broken connections, wrong answers, and the files on disk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import files_below, finish, run_python
from local_server import LocalServer, serve
from radin.data.download.transfer import (
    check_sha256,
    download,
    offline,
    one_process_at_a_time,
    remote_size,
)
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
    return download(
        f"{server.url}/file.bin",
        folder / "file.bin",
        num_bytes=len(content),
        sha256=digest,
        **options,
    )


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
    with pytest.raises(
        DataError, match=r"broke off\); 1000 of 20000 bytes are kept in .*file\.bin\.part, so call"
    ):
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
    with pytest.raises(
        DataError, match="does not have the checksum of the official file, so it was deleted"
    ):
        get(server, tmp_path)
    assert files_below(tmp_path) == []
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_an_altered_file_is_refused(server, tmp_path):
    server.files["file.bin"] = CONTENT[::-1]
    with pytest.raises(
        DataError, match=r"/file\.bin: the file that arrived does not have the checksum"
    ):
        get(server, tmp_path)
    assert files_below(tmp_path) == []


def test_a_file_of_another_size_is_refused_before_it_is_taken(server, tmp_path):
    server.files["file.bin"] = b"<html>please log in</html>"
    with pytest.raises(
        DataError, match="the file there has 26 bytes and the official one 20000; it has changed"
    ):
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


@pytest.mark.parametrize(
    ("status", "answer"), [(404, "404 Not Found"), (403, "403 Forbidden"), (503, "503 Service")]
)
def test_a_refusal_is_reported(server, tmp_path, status, answer):
    server.status["file.bin"] = status
    with pytest.raises(DataError, match=rf"{server.url}/file\.bin: the server answers {answer}"):
        get(server, tmp_path)
    assert files_below(tmp_path) == []


def test_no_server(server, tmp_path):
    nobody = LocalServer(url="http://127.0.0.1:1")
    with pytest.raises(DataError, match=r"could not be downloaded \(.*refused\)\.$"):
        get(nobody, tmp_path)


def test_a_silent_server(server, tmp_path, monkeypatch):
    monkeypatch.setattr("radin.data.download.transfer.TIMEOUT_SECONDS", 0.1)
    server.delay = 0.5
    with pytest.raises(DataError, match=r"could not be downloaded \(timed out\)\."):
        get(server, tmp_path)


def test_a_network_that_goes_down(server, tmp_path, monkeypatch):
    def down(*_: object) -> bytes:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("http.client.HTTPResponse.read1", down)
    with pytest.raises(
        DataError, match=r"could not be downloaded \(\[Errno 101\] Network is unreachable\)"
    ):
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


# Files whose size or checksum is not given -------------------------------------------------------


def get_unknown(server: LocalServer, folder: Path, **given: object) -> Path:
    return download(f"{server.url}/file.bin", folder / "file.bin", progress=False, **given)


def test_a_file_without_size_or_checksum(server, tmp_path, capfd):
    path = tmp_path / "file.bin"
    assert download(f"{server.url}/file.bin", path, label="one (1 of 1)") == path
    assert path.read_bytes() == CONTENT
    assert files_below(tmp_path) == ["file.bin"]
    assert server.asked == [("file.bin", None)]
    bar = capfd.readouterr().err
    assert "one (1 of 1): 100%" in bar
    assert "20.0k/20.0k" in bar


@pytest.mark.parametrize("tag", [None, '"v1"', 'W/"v1"'])
def test_the_rest_of_a_file_without_size_or_checksum(server, tmp_path, tag):
    server.tags = {"file.bin": tag} if tag else {}
    server.cuts = [1000, 0]
    with pytest.raises(
        DataError, match=r"broke off\); 1000 of 20000 bytes are kept in .*file\.bin\.part, so call"
    ):
        get_unknown(server, tmp_path)
    assert files_below(tmp_path) == ["file.bin.part", "file.bin.part.json"]
    assert get_unknown(server, tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, *["bytes=1000-"] * 2]
    asked = tag if tag == '"v1"' else None  # a weak tag is no promise that the bytes are the same
    assert server.if_range == [None, asked, asked]
    assert files_below(tmp_path) == ["file.bin"]


def half_of_another(server: LocalServer, folder: Path, tag: str | None, content: bytes) -> None:
    """Leave a part of a file that has changed when the next call comes."""
    server.files["file.bin"] = content
    server.tags = {"file.bin": tag} if tag else {}
    server.cuts = [1000, 0]
    with pytest.raises(DataError, match="1000 of"):
        get_unknown(server, folder)
    server.files["file.bin"] = CONTENT
    server.tags = {"file.bin": '"new"'} if tag else {}
    server.asked.clear()


@pytest.mark.parametrize("conditions", [True, False])
@pytest.mark.parametrize("tag", ['"old"', 'W/"old"'])
def test_a_file_that_changed_in_between_is_begun_anew(server, tmp_path, tag, conditions):
    half_of_another(server, tmp_path, tag, CONTENT[::-1])
    server.conditions = (
        conditions  # else the server sends a range, and only its tag shows that the file is another
    )
    assert get_unknown(server, tmp_path).read_bytes() == CONTENT
    seen = conditions and tag == '"old"'
    assert [wanted for _, wanted in server.asked] == ["bytes=1000-", *([] if seen else [None])]


def test_without_tags_the_size_shows_that_a_file_changed(server, tmp_path):
    half_of_another(server, tmp_path, None, CONTENT[:-1])
    assert get_unknown(server, tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == ["bytes=1000-", None]


def test_without_ranges_it_begins_anew(server, tmp_path):
    half_of_another(server, tmp_path, '"old"', CONTENT[::-1] + b"more")
    server.ranges = False
    assert get_unknown(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("note", [None, "", "{}", "[1]", '{"num_bytes": "many", "tag": ""}'])
def test_a_part_of_an_unknown_file_is_not_continued(server, tmp_path, note):
    (tmp_path / "file.bin.part").write_bytes(CONTENT[::-1][:700])
    if note is not None:
        (tmp_path / "file.bin.part.json").write_text(note)
    assert get_unknown(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [("file.bin", None)]


def test_a_part_longer_than_its_file_is_thrown_away(server, tmp_path):
    server.cuts = [1000, 0]
    with pytest.raises(DataError, match="1000 of 20000"):
        get_unknown(server, tmp_path)
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"and more")
    with pytest.raises(
        DataError, match="more arrived than the 20000 bytes of the file, so it was deleted"
    ):
        get_unknown(server, tmp_path)
    assert get_unknown(server, tmp_path).read_bytes() == CONTENT


def test_a_length_that_is_too_long_is_a_connection_that_broke_off(server, tmp_path):
    server.extra_length = 5
    with pytest.raises(DataError, match=r"broke off\); 20000 of 20005 bytes are kept"):
        get_unknown(server, tmp_path)
    assert "file.bin" not in files_below(tmp_path)


def test_a_file_without_a_length_is_refused(server, tmp_path):
    server.says_length = False
    with pytest.raises(
        DataError, match="does not say how large the file is, .* get the file by hand"
    ):
        get_unknown(server, tmp_path)
    assert "file.bin" not in files_below(tmp_path)
    server.says_length = True
    assert get_unknown(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 503])
def test_a_refusal_of_the_rest_keeps_what_there_is(server, tmp_path, status):
    server.cuts = [1000, 0]
    with pytest.raises(DataError, match="1000 of 20000"):
        get_unknown(server, tmp_path)
    server.status["file.bin"] = status
    with pytest.raises(DataError, match=f"the server answers {status}"):
        get_unknown(server, tmp_path)
    server.status.clear()
    assert get_unknown(server, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == ("file.bin", "bytes=1000-")


def test_size_or_checksum_may_be_given(server, tmp_path):
    digest = hashlib.sha256(CONTENT).hexdigest()
    server.cuts = [1000, 0]
    with pytest.raises(DataError, match="1000 of 20000"):
        get_unknown(server, tmp_path, sha256=digest)
    assert get_unknown(server, tmp_path, sha256=digest).read_bytes() == CONTENT
    with pytest.raises(DataError, match="does not have the checksum"):
        get_unknown(server, tmp_path, sha256="0" * 64)
    with pytest.raises(
        DataError, match="the file there has 20000 bytes and the official one 19999"
    ):
        get_unknown(server, tmp_path, num_bytes=19_999)
    assert get_unknown(server, tmp_path, num_bytes=20_000).read_bytes() == CONTENT
    server.says_length = False
    assert get_unknown(server, tmp_path, num_bytes=20_000).read_bytes() == CONTENT


def test_an_empty_file(server, tmp_path):
    server.files["file.bin"] = b""
    assert get_unknown(server, tmp_path).read_bytes() == b""


@given(data=st.data(), length=st.integers(1, 3000), ranges=st.booleans(), tag=st.booleans())
@settings(max_examples=40)
def test_any_cuts_and_a_change_end_in_the_file_that_is_there(
    tmp_path_factory, running, data, length, ranges, tag
):
    """Without a tag only a change of the size can be seen, so the size changes then."""
    folder = tmp_path_factory.mktemp("cuts")
    old, new = CONTENT[:length], CONTENT[::-1][: length if tag else length + 1]
    running.reset()
    running.files["file.bin"], running.ranges = old, ranges
    running.tags = {"file.bin": '"old"'} if tag else {}
    running.conditions = data.draw(st.booleans())
    running.cuts = data.draw(st.lists(st.integers(0, length), min_size=1, max_size=5))
    changes = data.draw(st.integers(0, 4))
    for k in range(9):  # each failure has used up a cut
        if k == changes:
            running.files["file.bin"], running.tags = new, {"file.bin": '"new"'} if tag else {}
        wanted = running.files["file.bin"]
        try:
            assert get_unknown(running, folder).read_bytes() == wanted
            break
        except DataError as error:
            assert "could not be downloaded" in str(error)
    assert files_below(folder) == ["file.bin"]


def test_the_size_of_a_file_elsewhere(server):
    assert remote_size(f"{server.url}/file.bin") == len(CONTENT)
    assert server.head_requests == ["file.bin"]
    assert remote_size(f"{server.url}/none.bin") is None
    assert remote_size("http://127.0.0.1:1/file.bin") is None
    server.says_length = False
    assert remote_size(f"{server.url}/file.bin") is None
    assert server.asked == []


@pytest.mark.parametrize(
    ("value", "forbidden"), [(None, False), ("", False), ("0", False), ("1", True), ("yes", True)]
)
def test_the_environment_forbids_downloads(monkeypatch, value, forbidden):
    monkeypatch.delenv("RADIN_OFFLINE", raising=False)
    if value is not None:
        monkeypatch.setenv("RADIN_OFFLINE", value)
    assert offline() == forbidden


# Local files, and processes ----------------------------------------------------------------------


def test_the_checksum_of_a_local_file(tmp_path):
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
from radin.data.download.transfer import one_process_at_a_time
with one_process_at_a_time(Path(sys.argv[1])):
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
    with one_process_at_a_time(tmp_path / "lock"):
        pass
