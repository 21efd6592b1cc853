"""book/tools/rerun_grid.py: a tiny chapter interrupted, resumed and compared; a real one."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

import execution
import rerun_grid
from conftest import run_make_book
from kept_runs import kept_mark, read_runs
from parameters import BuildError

SETUP = 'quick = False  # "True" for less\nbudget = 4  # evaluations\nprior = 1.0  # lambda\n'
WORK = """\
import torch
from radin.experiments.notebook import check_parameters, glue, record
check_parameters(budget=budget, prior=prior, quick=quick)
from pathlib import Path
if budget == 3 and Path("../broken").exists():
    raise ValueError("three is no good")
images = torch.arange(200)
soup = images < 100 + 8 * budget + 4 * prior
record({"radin": soup, "uniform": images < 120}, images % 10)
glue("tiny_spent", budget)
glue("tiny_same", 7)
"""
TEXT = "It spent {glue:text}`tiny_spent:d` of it."
SLOW = """\
import time
from pathlib import Path
with open("../log", "a") as log:
    log.write(f"{n}\\n")
until = time.monotonic() + 180
while n and Path("../hold").exists() and time.monotonic() < until:
    time.sleep(0.05)
"""
CONFIG = 'title: Small\nonly_build_toc_files: true\nexecute: {execute_notebooks: "off"}\n'
CONFIG += "parse: {myst_enable_extensions: [colon_fence, deflist]}\n"
CONFIG += "sphinx: {config: {numfig: true, html_show_copyright: false}}\n"
TOC = """\
format: jb-book
root: book/index
parts:
- caption: A part
  chapters:
  - file: notebooks/tiny
  - file: book/rerun
  - file: book/reruns
  - file: book/times
"""
PAGES = {
    "index": "# Small\n\n```{glossary}\npaired interval\n  Of one set of images.\n```\n",
    "rerun": "# Rerun\n\n% parameters of the notebooks\n",
    "reruns": "# Compare\n\nNothing yet.\n",
    "times": "# Times\n\n% execution times\n",
}


def write_notebook(path: Path, *sources: str, text: str = "") -> None:
    path.parent.mkdir(exist_ok=True)
    first, *others = sources
    cells = [
        v4.new_markdown_cell(f"# Tiny\n\n{text}", id="cell-00"),
        v4.new_code_cell(first, id="cell-01", metadata={"tags": ["parameters"]}),
        *(v4.new_code_cell(source, id=f"cell-{k:02d}") for k, source in enumerate(others, start=2)),
    ]
    nbformat.write(v4.new_notebook(cells=cells), path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A repository in little: the build's scripts, a tiny chapter and a slow one."""
    folder = tmp_path_factory.mktemp("small book")
    (folder / "book" / "tools").mkdir(parents=True)
    for script in (root / "book" / "tools").glob("*.py"):
        shutil.copy(script, folder / "book" / "tools")
    write_notebook(folder / "notebooks" / "tiny.ipynb", SETUP, WORK, text=TEXT)
    write_notebook(folder / "notebooks" / "slow.ipynb", "n = 0\n", SLOW)
    return folder


def command(small: Path, *words: str) -> list[str]:
    return [sys.executable, str(small / "book" / "tools" / "rerun_grid.py"), *words]


def run(small: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(small, *words), capture_output=True, text=True, check=False)


# ---------------------------------------------------------------- what is asked for


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1 2 4", ["1", "2", "4"]),
        ("1,2, 4", ["1", "2", "4"]),
        ("0-12,43;all", ["0-12,43", "all"]),
        ("", []),
    ],
)
def test_values_are_split(text, values):
    assert rerun_grid.split_values(text) == values


def test_a_grid_is_every_combination_named_by_what_was_given():
    declared = {"budget": 4, "prior": 1.0, "quick": False}
    axes = rerun_grid.parse_axes(
        [("prior", ["0", "0.0", "1"]), ("budget", ["1", "2"])], declared, "tiny"
    )
    runs = rerun_grid.all_runs(axes, declared)
    assert [name for name, _ in runs] == [
        "budget=1,prior=0.0",
        "budget=2,prior=0.0",
        "budget=1,prior=1.0",
        "budget=2,prior=1.0",
    ]
    assert runs[0][1] == {"budget": 1, "prior": 0.0}
    assert rerun_grid.all_runs({}, declared) == [("defaults", {})]


def test_names_of_files_hold_any_value():
    name = rerun_grid.run_name({"data_root": "/data/my images", "zoo": "a,b"})
    assert name == "data_root=%2Fdata%2Fmy images,zoo=a%2Cb"
    long = [rerun_grid.run_name({"data_root": "/" + "x" * 300 + end}) for end in "ab"]
    assert max(map(len, long)) < 200
    assert long[0] != long[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["04_cifra10"], "there is no chapter '04_cifra10'; CHAPTER is one of slow, tiny"),
        ([""], "CHAPTER is one of slow, tiny"),
        (
            ["tiny", "--bugdet", "4"],
            "tiny has no parameter 'bugdet'; did you mean budget? It has quick, budget, prior",
        ),
        (["tiny", "--n", "4"], "tiny has no parameter 'n'; it has quick, budget, prior"),
        (
            ["tiny", "--grid", "bugdet=4"],
            "did you mean budget? It has quick, budget, prior",
        ),
        (["tiny", "--vary", "budget", "1 2", "--budget", "4"], "budget is given twice"),
        (
            ["tiny", "--vary", "budget", "1 0"],
            "tiny: budget must be a whole number of at least 1, not 0",
        ),
        (["tiny", "--vary", "prior", "1 -2"], "prior must be a finite number of at least 0"),
        (
            ["tiny", "--vary", "budget", "1 eight"],
            "budget must be a whole number, as in the notebooks' budget = 4",
        ),
        (["tiny", "--vary", "budget", " "], "budget has no value"),
        (["tiny", "--grid", "budget"], "GRID needs name=value,value"),
        (["tiny", "--grid", "budget='1"], "cannot be read"),
        (
            ["tiny", "--budget", "1", "--jobs", "none"],
            "JOBS must be a whole number of at least 1, not 'none'",
        ),
        (
            ["tiny", "--budget", "0", "--jobs", "0"],
            "JOBS must be a whole number of at least 1, not '0'",
        ),
        (["tiny", "4"], "'4' belongs to no option"),
    ],
)
def test_an_impossible_grid_stops_before_any_run_in_one_sentence(small, tmp_path, words, sentence):
    with pytest.raises(BuildError) as caught:
        rerun_grid.rerun([*words, "--out", str(tmp_path)], small)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.rglob("*.ipynb")) == []


def test_make_passes_lists_and_single_values_on(root):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    words = [
        "rerun",
        "CHAPTER=04_cifar10",
        "BUDGETS=1 2",
        "PRIORS=0 1",
        "QUICK=1",
        "GRID=seeds=2,3",
        "JOBS=2",
    ]
    quiet = ["make", "-n", "--no-print-directory"]  # `make test` itself may have started this
    done = subprocess.run([*quiet, *words], cwd=root, capture_output=True, text=True, check=False)
    line = " ".join(done.stdout.splitlines()[-1].split())
    assert line.endswith(
        "'04_cifar10' --quick '1' --vary budget '1 2' --vary prior '0 1'"
        " --grid 'seeds=2,3' --jobs '2'"
    )
    done = subprocess.run(
        ["make", "-n", "book", "BUDGETS=1 2"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "BUDGETS belongs to make rerun" in done.stderr


def test_no_more_runs_at_once_than_memory_allows(monkeypatch, capsys):
    monkeypatch.setattr("radin.inference.devices.network_memory_bytes", lambda: 3 * 2**30)
    assert execution.jobs_at_once(8, 10) == 3
    assert "3 runs at a time instead of 8" in capsys.readouterr().out
    assert execution.jobs_at_once(2, 10) == 2
    assert execution.jobs_at_once(2, 1) == 1
    monkeypatch.setattr("radin.inference.devices.network_memory_bytes", lambda: 2**20)
    assert execution.jobs_at_once(None, 10) == 1


# ---------------------------------------------------------------- real runs


@pytest.mark.whole
def test_a_grid_runs_fails_resumes_and_becomes_a_page(small):
    """All in one test, for each run starts a kernel."""
    kept = small / "_build" / "reruns" / "tiny"
    source = small / "notebooks" / "tiny.ipynb"

    (small / "broken").touch()
    done = run(small, "tiny", "--vary", "budget", "1 3", "--prior", "0")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert (
        "budget=3,prior=0.0, cell [3]: ValueError: three is no good (as it failed: " in done.stderr
    )
    assert (kept / "budget=3,prior=0.0.unfinished.ipynb").exists()
    first = kept / "budget=1,prior=0.0.ipynb"
    assert kept_mark(first)["parameters"] == {"quick": False, "budget": 1, "prior": 0.0}
    stamp = first.stat().st_mtime_ns

    (small / "broken").unlink()
    log = kept / "kernels.log"
    log.write_text("of the command before\n")
    done = run(small, "tiny", "--grid", "budget=1,2,3 prior=0")
    assert "of the command before" not in log.read_text("utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tiny: 3 runs, 1 of them there already\n")
    assert first.stat().st_mtime_ns == stamp
    assert not (kept / "budget=3,prior=0.0.unfinished.ipynb").exists()
    table = [line.split() for line in done.stdout.splitlines() if line.strip()[:1].isdigit()]
    assert [line[:2] for line in table][:3] == [["1", "54.00"], ["2", "58.00"], ["3", "62.00"]]
    assert "`make book` puts it into the book" in done.stdout
    assert "tiny_spent" not in nbformat.read(first, as_version=4).cells[0].source
    assert "spent 1 of it" in nbformat.read(first, as_version=4).cells[0].source
    assert "test: less the run with" in done.stdout
    assert "<table>" in (kept / "comparison.html").read_text("utf-8")
    page = (kept / "comparison.md").read_text("utf-8")
    assert (
        "papermill notebooks/tiny.ipynb out.ipynb -p quick False -p budget 2 -p prior 0.0" in page
    )
    assert "| `tiny_spent` | 1 | 2 | 3 |" in page
    assert "tiny_same" not in page
    assert len((kept / "comparison.csv").read_text("utf-8").splitlines()) == 1 + 3 * 2

    done = run(
        small, "tiny", "--budget", "1", "--prior", "0", "--jobs", "none"
    )  # nothing is left to run
    assert done.stderr == "error: JOBS must be a whole number of at least 1, not 'none'\n"
    assert done.stdout == ""

    (small / "_config.yml").write_text(CONFIG)
    (small / "_toc.yml").write_text(TOC)
    for name, text in PAGES.items():
        (small / "book" / f"{name}.md").write_text(text)
    done = run_make_book(small / "_build", root=small)
    assert done.returncode == 0, done.stdout + done.stderr
    html = small / "_build" / "html"
    assert "62.00 [55." in (html / "reruns" / "tiny.html").read_text("utf-8")
    assert re.search(r"\d\d:\d\d UTC", (html / "book" / "times.html").read_text("utf-8"))
    assert "a whole number of at least 1" in (html / "book" / "rerun.html").read_text("utf-8")
    chapter = (html / "notebooks" / "tiny.html").read_text("utf-8")
    assert "a finite number of at least 0" in chapter
    assert "book/times.html" in chapter

    write_notebook(source, SETUP, WORK + "\n", text=TEXT)
    assert read_runs(source, kept) == ([], 3)  # all outdated


def wait_for(happened: Callable[[], bool], seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, "this never happened"
        time.sleep(0.05)


@pytest.mark.whole
@pytest.mark.skipif(os.name == "nt", reason="groups of processes and their signals")
@pytest.mark.parametrize(
    "ctrl_c",
    [
        pytest.param(True, id="Ctrl-C in a terminal: all get it"),
        pytest.param(False, id="the master killed: its workers live on"),
    ],
)
def test_what_was_done_before_the_end_is_not_done_again(small, tmp_path, monkeypatch, ctrl_c):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # a killed command cannot clear up
    words = ("slow", "--vary", "n", "0 1 2", "--jobs", "2", "--out", str(tmp_path))
    kept, log, hold = tmp_path / "reruns" / "slow", small / "log", small / "hold"
    log.unlink(missing_ok=True)
    hold.touch()  # until this goes, only n = 0 comes to its end
    first = subprocess.Popen(
        command(small, *words),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: (kept / "n=0.ipynb").exists() and {"1", "2"} <= set(log.read_text().split()))
    if not ctrl_c:
        first.kill()
        first.wait()
    else:
        os.killpg(first.pid, signal.SIGINT)
        said = first.communicate(timeout=120)[1]
        assert first.returncode == 130
        assert said.splitlines() == [
            "interrupted; the runs that were done are kept, and the same command goes on from there"
        ]
    again = subprocess.Popen(
        command(small, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(
        lambda: log.read_text().split().count("1") == 2
    )  # beside a worker that outlived the first command
    hold.unlink()
    said, errors = again.communicate(timeout=180)
    assert again.returncode == 0, errors
    assert said.startswith("slow: 3 runs, 1 of them there already\n")
    assert sorted(log.read_text().split()) == ["0", "1", "1", "2", "2"]
    names = ["n=0.ipynb", "n=1.ipynb", "n=2.ipynb"]
    wait_for(lambda: sorted(path.name for path in kept.glob("*.ipynb")) == names)
    assert all(kept_mark(kept / name) for name in names)


class Deadly:
    """Ends the process that receives it, as the system does for memory."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return os._exit, (1,)


def test_runs_that_the_system_kills_are_one_sentence(small, tmp_path):
    runs, marks = [("n=0", {"n": 0}), ("n=1", {"n": 1})], [{"fingerprint": Deadly()}] * 2
    with pytest.raises(
        BuildError,
        match="the system killed a run, most likely for memory: try again with fewer JOBS",
    ):
        rerun_grid.run_all(small / "notebooks" / "slow.ipynb", tmp_path, runs, marks, 2, True)


def test_only_what_dead_processes_left_is_removed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead = tmp_path / f".prior=0.5.{process.pid}.unfinished.ipynb"
    alive = tmp_path / f".prior=0.5.{os.getpid()}.unfinished.ipynb"
    failed = tmp_path / f"prior=0.{process.pid}.unfinished.ipynb"
    for path in (dead, alive, failed):
        path.touch()
    rerun_grid.remove_leftovers(tmp_path)
    assert not dead.exists()
    assert alive.exists()
    assert failed.exists()


@pytest.mark.whole
def test_a_real_chapter_records_what_its_soups_have_right(root, tmp_path):
    done = run(
        root,
        "05_domain_shift",
        "--vary",
        "budget",
        "1 2",
        "--quick",
        "1",
        "--seeds",
        "3",
        "--out",
        str(tmp_path),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "reruns" / "05_domain_shift" / "comparison.md").read_text("utf-8")
    assert "## Accuracy on the left-out domains" in page
    assert "### Against one run" in page
    assert "other images" not in page
