"""What several test files share: the repository's folder, one cache, the book built once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from browser import browser, server, visit  # noqa: F401  (fixtures)
from browser_python import NotFetchedError, fetch_python
from local_server import LocalServer, serve

# A test that is slow on a busy machine is not wrong.
settings.register_profile("radin", deadline=None)
settings.load_profile("radin")

# One thread for each test and for each process that it starts: programs side by side that all ask
# for every core slow each other down up to tenfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

ROOT = Path(__file__).resolve().parent.parent

EXECUTED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC, in \d+ s")
QUICK_BOOK = ("--quick", "1", "--budget", "3")

# The longest first, so that no process is left alone with one of them at the end. The first builds
# the book; another process has long work of its own before a file asks for the book, too.
LONG_FILES = (
    "test_rerun.py",
    "test_classroom.py",
    "test_rerun_grid.py",
    "test_cluster.py",
    "test_pages.py",
    "test_accessibility.py",
    "test_explorer.py",
    "test_recipe_editor.py",
    "test_chapters.py",
)

# The real book, classes that are graded by notebooks, and a cluster of several nodes.
LONG_FIXTURES = frozenset(("book", "class_of_six", "graded", "ray_nodes"))


# ---------------------------------------------------------------- which tests run, and where


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--all`, which `make test ALL=1` gives."""
    parser.addoption("--all", action="store_true", help="also the tests marked `whole`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what takes too long for every day, and begin with the longest files."""
    for item in items:
        if takes_minutes(item) and not config.getoption("--all"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: make test ALL=1 runs it"))
    items.sort(key=lambda item: position(item.path.name))


def takes_minutes(item: pytest.Item) -> bool:
    """Whether a test is marked `whole`, or needs what takes most of a minute to make."""
    fixtures = getattr(item, "fixturenames", ())
    return bool(item.get_closest_marker("whole")) or not LONG_FIXTURES.isdisjoint(fixtures)


def position(name: str) -> int:
    """Where the tests of a file come in the order of all."""
    return LONG_FILES.index(name) if name in LONG_FILES else len(LONG_FILES)


# ---------------------------------------------------------------- what tests share


@pytest.fixture(scope="session")
def root() -> Path:
    """The top folder of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder for all processes that run these tests side by side."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def radin_cache(shared_folder: Path) -> Path:
    """Where trained zoos are kept: RADIN_CACHE, as `make` sets it, or a folder for these tests."""
    cache = Path(os.environ.setdefault("RADIN_CACHE", str(shared_folder / "cache")))
    return cache.absolute()


@pytest.fixture(scope="session", autouse=True)
def no_network() -> None:
    """No test downloads a data set; tests of downloads use a local server and change this."""
    os.environ["RADIN_OFFLINE"] = "1"


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """Restore the environment after each file: engines for clusters set thread counts there."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def running() -> Iterator[LocalServer]:
    """A server on this machine instead of those that data sets and checkpoints come from."""
    with serve() as local:
        yield local


def run_make_book(out: Path, *options: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the build of `root` into `out`, and capture its output."""
    command = [sys.executable, root / "book" / "tools" / "make.py", "--out", out, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def read_without_time(page: Path) -> str:
    """The text of a page of the book without the time and the duration of its execution."""
    return EXECUTED.sub("", page.read_text("utf-8"))


def jobs_of_a_build() -> int:
    """How many notebooks a build may run at a time: its process has that many cores for itself."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


@pytest.fixture(scope="session")
def missing_python(radin_cache: Path, no_network: None, shared_folder: Path) -> str:
    """Why Python for the browser is not to be had here; empty where the cache holds it."""
    with FileLock(shared_folder / "python.lock"), pytest.MonkeyPatch.context() as patch:
        patch.delenv("RADIN_OFFLINE")  # it comes from where the packages of these tests come from
        try:
            fetch_python()
        except NotFetchedError as error:
            return str(error)
    return ""


@pytest.fixture(scope="session")
def book(shared_folder: Path, missing_python: str) -> Path:
    """The real book, built once with quick parameters: the folder that holds `index.html`.

    Where Python for the browser is not to be had, it is the book without the editor.
    """
    out, log = shared_folder / "book", shared_folder / "book.log"
    with FileLock(shared_folder / "book.lock"):
        if not log.exists():
            done = run_make_book(out, *QUICK_BOOK, "--jobs", str(jobs_of_a_build()))
            log.write_text(done.stdout + done.stderr, "utf-8")
    assert (out / "html" / "index.html").is_file(), log.read_text("utf-8")
    return out / "html"
