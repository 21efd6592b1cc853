"""The notebooks of the book: execute what is not kept, and make each of them a page."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

import kept_pages
from execution import (
    jobs_at_once,
    kernels_speak_to,
    run_notebook,
    set_threads,
    side_by_side,
    threads_of_each,
)
from fingerprint import data_fingerprint, make_mark
from generated import way_to_times
from moving_pictures import save_moving_pictures
from night_figures import save_night_figures
from notebook_page import describe_execution, finish_notebook
from parameters import BuildError, Parameters, declared_parameters
from pictures import save_glued_pictures

# They start first.
LONG_CHAPTERS = ("13_when_it_breaks", "02_soup_on_digits", "14_questions", "15_more_questions")


@dataclass(frozen=True)
class Chapter:
    """A notebook of the book with the parameters of this build."""

    path: Path  # of its source
    name: str  # below the root, as in notebooks/04_cifar10.ipynb
    declared: Parameters
    given: Parameters

    @property
    def parameters(self) -> Parameters:
        return self.declared | self.given

    @property
    def stem(self) -> str:
        return self.path.stem


def read_chapters(root: Path, names: list[Path]) -> list[Chapter]:
    """The notebooks of these names, with no parameter given yet."""
    return [
        Chapter(root / name, name.as_posix(), declared_parameters(root / name), {})
        for name in names
    ]


def execute_chapters(
    chapters: list[Chapter], stage: Path, log: Path, *, root: Path, fresh: bool, jobs: int | None
) -> list[Any]:
    """The executed notebooks of the chapters; those that are kept do not run."""
    marks = [make_mark(stage / chapter.name, chapter.parameters) for chapter in chapters]
    executed = [
        None if fresh else kept_pages.find(chapter.stem, mark)
        for chapter, mark in zip(chapters, marks, strict=True)
    ]
    missing = [number for number, notebook in enumerate(executed) if notebook is None]
    missing.sort(key=lambda number: chapters[number].stem not in LONG_CHAPTERS)
    jobs = jobs_at_once(jobs, len(missing))
    side = f", {jobs} at a time" if jobs > 1 else ""
    print(
        f"notebooks: {len(chapters) - len(missing)} kept, {len(missing)} to run{side}", flush=True
    )
    threads = threads_of_each(jobs)
    tasks = [(number, chapters[number], stage, log, threads) for number in missing]
    for number, problem, seconds in side_by_side(execute_chapter, tasks, jobs):
        if problem:
            raise BuildError(problem)
        chapter = chapters[number]
        print(f"{chapter.name} ... {seconds:.0f} s", flush=True)
        execution = describe_execution(chapter.parameters, root, seconds=seconds, threads=threads)
        mark = marks[number] | {"data": data_fingerprint(chapter.parameters)}
        notebook = nbformat.read(staged_execution(stage, chapter), as_version=4)
        executed[number] = kept_pages.keep(chapter.stem, notebook, mark, execution)
    return executed


def staged_execution(stage: Path, chapter: Chapter) -> Path:
    """Where a notebook is executed: beside its source, which becomes the page."""
    return (stage / chapter.name).with_suffix(".executed.ipynb")


def execute_chapter(
    number: int, chapter: Chapter, stage: Path, log: Path, threads: int
) -> tuple[int, str, float]:
    """Execute a staged notebook; returns the number, what went wrong, and the seconds."""
    set_threads(threads)
    started = time.monotonic()
    problem = ""
    with kernels_speak_to(log):
        try:
            target = staged_execution(stage, chapter)
            run_notebook(stage / chapter.name, chapter.name, chapter.given, target)
        except BuildError as error:
            problem = str(error)
    return number, problem, time.monotonic() - started


def finish_chapters(
    chapters: list[Chapter], stage: Path, executed: list[Any]
) -> list[tuple[str, Parameters]]:
    """Make each staged notebook a page; returns the names of all with what made them."""
    executions = []
    for chapter, notebook in zip(chapters, executed, strict=True):
        page = stage / chapter.name
        source = nbformat.read(page, as_version=4)
        nbformat.write(kept_pages.merge(source, notebook, chapter.given), page)
        staged_execution(stage, chapter).unlink(missing_ok=True)
        execution = notebook.metadata[kept_pages.KEY]
        times = way_to_times(stage, Path(chapter.name))
        finish_notebook(page, chapter.name, chapter.declared, chapter.given, execution, times=times)
        save_night_figures(page, stage / "book" / "_static" / "night")
        save_glued_pictures(page, stage / "book" / "figures")
        save_moving_pictures(page, stage / "book")
        executions.append((chapter.name, execution))
    return executions
