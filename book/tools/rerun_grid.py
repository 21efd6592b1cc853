"""Run one chapter with many parameters: `make rerun CHAPTER=04_cifar10 BUDGETS="1 2 4 8"`.

    python book/tools/rerun_grid.py 04_cifar10 --vary budget "1 2 4 8" --grid "prior=0,1" --quick 1

Each executed notebook is kept under `_build/reruns/<chapter>`, named after its parameters. One that
was made by the same code, packages and data is not run again, so a grid that was interrupted, or
that grew, only runs what is missing. `make book` shows the comparison.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import joblib
import nbformat
import psutil  # comes with ipykernel
from tqdm import tqdm

import comparison
import kept_runs
from comparison_page import write_page
from execution import (
    jobs_at_once,
    kernels_speak_to,
    parse_jobs,
    prepare_environment,
    run_notebook,
    set_threads,
    side_by_side,
    threads_of_each,
)
from fingerprint import data_fingerprint, make_mark
from make import ROOT, OptionParser, only_build_in
from numbers_in_text import with_numbers
from parameters import BuildError, Parameters, check_given, declared_parameters, parse_value
from radin.errors import ParameterError
from radin.experiments.notebook import check_names

Run = tuple[
    str, Parameters
]  # the name of its file, and the parameters that are not the chapter's own
LONGEST_NAME = 150  # letters; a file system takes 255, less what is put around
AT_WORK = re.compile(
    r"\..*\.(?P<pid>\d+)\.unfinished\.ipynb"
)  # and no failed run: those have no dot in front


# ---------------------------------------------------------------- what to run


def find_chapter(chapter: str, root: Path) -> Path:
    """The notebook that a name such as 04_cifar10 means."""
    there = {path.stem: path for path in sorted((root / "notebooks").glob("*.ipynb"))}
    name = Path(chapter).stem if chapter.endswith(".ipynb") else chapter
    if name not in there:
        raise BuildError(f"there is no chapter {chapter!r}; CHAPTER is one of {', '.join(there)}")
    return there[name]


def split_values(text: str) -> list[str]:
    """The values in "1,2 4": divided by commas and blanks; by semicolons if there is one."""
    return (
        [part.strip() for part in text.split(";")]
        if ";" in text
        else text.replace(",", " ").split()
    )


def split_grid(text: str) -> Iterator[tuple[str, list[str]]]:
    """Name and values of each axis in "budget=1,2 prior=0,1"."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise BuildError(f"GRID={text!r} cannot be read: {error}") from error
    for word in words:
        name, equals, values = word.partition("=")
        if not equals:
            raise BuildError(
                f"GRID needs name=value,value as in GRID='budget=1,2 prior=0,1'; {word!r} is none"
            )
        yield name, split_values(values)


def parse_axes(
    given: Iterable[tuple[str, list[str]]], declared: Parameters, chapter: str
) -> dict[str, list[Any]]:
    """The values of each axis, each once, of the type of the chapter's own default."""
    axes: dict[str, list[Any]] = {}
    for name, texts in given:
        try:
            check_names([name], declared, chapter)
        except ParameterError as error:
            raise BuildError(str(error).rstrip(".")) from error
        if name in axes:
            raise BuildError(f"{name} is given twice; put all its values into one list")
        if not texts:
            raise BuildError(
                f"{name} has no value; write one or several, as in GRID='{name}={declared[name]}'"
            )
        axes[name] = list(dict.fromkeys(parse_value(name, text, declared[name]) for text in texts))
    return axes


def all_runs(axes: dict[str, list[Any]], declared: Parameters) -> list[Run]:
    """Every combination of the axes' values, with the name of its file."""
    runs = []
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        given = {name: chosen[name] for name in declared if name in chosen}
        runs.append((run_name(given), given))
    return runs


def run_name(given: Parameters) -> str:
    """budget=1,prior=0.0: what a file system takes and a person reads."""
    name = (
        ",".join(f"{key}={quote(str(value), safe=' ')}" for key, value in given.items())
        or "defaults"
    )
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}...{joblib.hash(name)[:8]}"


# ---------------------------------------------------------------- running


def run_one(
    source: Path, folder: Path, run: Run, mark: Parameters, threads: int
) -> tuple[str, str, float]:
    """Run the notebook and keep it; returns the run's name, what went wrong, and the seconds.

    Until it is done, its name has the number of this process: a worker that outlives its master may
    be at the same run. Then it moves to its name, or to NAME.unfinished.ipynb if a cell fails.
    """
    name, given = run
    at_work = folder / f".{name}.{os.getpid()}{kept_runs.UNFINISHED}"
    failed = folder / f"{name}{kept_runs.UNFINISHED}"
    set_threads(threads)
    problem, started = "", time.monotonic()
    with kernels_speak_to(folder / "kernels.log"):
        try:
            notebook = with_numbers(run_notebook(source, name, given, at_work))
            notebook.metadata[kept_runs.KEY] = {
                **mark,
                "data": data_fingerprint(
                    mark["parameters"]
                ),  # it may have downloaded what it reads
                "seconds": round(time.monotonic() - started, 1),
            }
            nbformat.write(notebook, at_work)
            os.replace(at_work, folder / f"{name}.ipynb")
            failed.unlink(missing_ok=True)
        except BuildError as error:
            problem = str(error).replace(str(at_work), str(failed))
            if at_work.exists():  # a kernel that never came up leaves none
                os.replace(at_work, failed)
        except OSError as error:
            problem = f"{name} could not be kept: {error}"
    return name, problem, time.monotonic() - started


def remove_leftovers(folder: Path) -> None:
    """Remove the notebooks that killed processes left; one whose process is alive is in use."""
    for path in folder.glob(f".*{kept_runs.UNFINISHED}"):
        name = AT_WORK.fullmatch(path.name)
        if name and not psutil.pid_exists(int(name["pid"])):
            path.unlink(missing_ok=True)


def run_all(
    source: Path, folder: Path, runs: list[Run], marks: list[Parameters], jobs: int, quiet: bool
) -> list[str]:
    """Run the notebooks, some at a time; returns one sentence for each that failed."""
    failed = []
    threads = threads_of_each(jobs)
    tasks = [(source, folder, *each, threads) for each in zip(runs, marks, strict=True)]
    with tqdm(total=len(runs), unit="run", disable=quiet) as bar:
        for name, problem, seconds in side_by_side(run_one, tasks, jobs):
            bar.update()
            bar.write(f"{name}: {'failed' if problem else 'done'} after {seconds:.0f} s")
            sys.stdout.flush()
            failed += [problem] * bool(problem)
    return failed


# ---------------------------------------------------------------- the command


def single_values(words: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Name and value of each `--num-candidates 50` or `--quick=1`; the value may hold anything."""
    left = iter(words)
    for word in left:
        if not word.startswith("--"):
            raise BuildError(
                f"{word!r} belongs to no option; book/tools/rerun_grid.py --help lists them"
            )
        name, equals, value = word[2:].partition("=")
        yield name.replace("-", "_"), [value if equals else next(left, "")]


def rerun(argv: list[str] | None, root: Path = ROOT) -> list[str]:
    """Run what is missing of a grid, and compare all runs of the chapter.

    Returns one sentence for each run that failed.
    """
    parser = OptionParser(
        prog="book/tools/rerun_grid.py",
        allow_abbrev=False,
        description="Run one chapter over a grid.",
    )
    parser.add_argument(
        "chapter", help="such as 04_cifar10; then --NAME VALUE for each parameter with one value"
    )
    parser.add_argument("--vary", nargs=2, action="append", default=[], metavar=("NAME", "VALUES"))
    parser.add_argument("--grid", default="", help="several axes: 'budget=1,2 prior=0,1'")
    parser.add_argument(
        "--jobs", default="", help="how many runs at a time (default: one for each core)"
    )
    parser.add_argument(
        "--out", type=Path, default=root / "_build", help="where to keep the runs (default: _build)"
    )
    options, rest = parser.parse_known_args(argv)
    asked = parse_jobs(options.jobs)
    source = find_chapter(options.chapter, root)
    declared = declared_parameters(source)
    several = [(name, split_values(values)) for name, values in options.vary]
    axes = parse_axes(
        [*single_values(rest), *several, *split_grid(options.grid)], declared, source.stem
    )
    runs = all_runs(axes, declared)
    for _, given in runs:
        check_given(source, source.stem, given)
    quiet = bool(os.environ.get("TQDM_DISABLE")) or not sys.stderr.isatty()

    out = options.out.resolve()
    folder = out / "reruns" / source.stem
    # The kernels' set-up is outside the folder: a run that outlives this command may still read it.
    kernels = tempfile.TemporaryDirectory(prefix="radin-rerun-", ignore_cleanup_errors=True)
    with only_build_in(folder), kernels as setup:
        os.environ.setdefault("RADIN_CACHE", str(out / "cache"))
        prepare_environment(Path(setup))
        remove_leftovers(folder)
        (folder / "kernels.log").unlink(missing_ok=True)
        marks = {name: make_mark(source, declared | given) for name, given in runs}
        missing = [
            run
            for run in runs
            if not kept_runs.is_current(folder / f"{run[0]}.ipynb", marks[run[0]])
        ]
        print(
            f"{source.stem}: {len(runs)} runs, {len(runs) - len(missing)} of them there already",
            flush=True,
        )
        failed = []
        if missing:
            jobs = jobs_at_once(asked, len(missing))
            failed = run_all(
                source, folder, missing, [marks[name] for name, _ in missing], jobs, quiet
            )
        report(source, folder)
    return failed


def report(source: Path, folder: Path) -> None:
    """Compare the chapter's runs on the terminal and in files."""
    runs, left_out = kept_runs.read_runs(source, folder)
    if left_out:
        print(f"left out: {left_out} kept runs whose code, packages or data are no longer the same")
    if runs:
        blocks = comparison.write(source, runs, folder / "comparison.md", left_out)
        page = write_page(f"Reruns of {source.stem}", blocks, folder / "comparison.html")
        print(f"\n{comparison.short_table(runs)}")
        if differences := comparison.short_differences(runs, declared_parameters(source)):
            print(f"\n{differences}")
        print(f"\n{page} (.csv beside it); `make book` puts it into the book")


def main(argv: list[str] | None = None) -> int:
    try:
        failed = rerun(argv)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted; the runs that were done are kept, "
            "and the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    for problem in failed:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
