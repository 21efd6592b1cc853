"""What several test files share: where the repository is, one cache for all, the book built once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from browser import browser, server, visit  # noqa: F401  (fixtures)
from local_server import LocalServer, serve

# A test that is slow on a busy machine is not wrong.
settings.register_profile("radin", deadline=None)
settings.load_profile("radin")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The top folder of the repository."""
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def radin_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where trained zoos are kept: RADIN_CACHE, as `make` sets it, else a folder for these tests."""
    cache = Path(os.environ.setdefault("RADIN_CACHE", str(tmp_path_factory.mktemp("cache"))))
    return cache.absolute()


@pytest.fixture(scope="session", autouse=True)
def no_network() -> None:
    """No test downloads a data set; those of downloads talk to a server of their own and lift this."""
    os.environ["RADIN_OFFLINE"] = "1"


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """What a file leaves in the environment is gone after it: engines for clusters set the number of threads there."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def running() -> Iterator[LocalServer]:
    """A server on this machine, in the place of those that data sets and checkpoints come from."""
    with serve() as local:
        yield local


def run_make_book(out: Path, *options: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the build of `root` into `out`, with its words captured."""
    command = [sys.executable, root / "book" / "tools" / "make.py", "--out", out, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real book, built once with quick parameters: the folder that holds `index.html`."""
    out = tmp_path_factory.mktemp("book")
    done = run_make_book(out, "--quick", "1", "--budget", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "html"
