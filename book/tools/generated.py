"""What the build itself writes into the staged book: tables, and the pages of reruns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

import comparison
from kept_runs import read_runs
from parameters import BuildError


def fill(page: Path, mark: str, text: str) -> None:
    """Put `text` where a staged page has the line `% mark`; nothing happens without the page."""
    if not page.is_file():
        return
    before, line, after = page.read_text("utf-8").partition(f"\n% {mark}\n")
    if not line:
        raise BuildError(f"{page.name} has no line '% {mark}', where the build puts a table")
    page.write_text(f"{before}\n{text}\n{after}", "utf-8")


def add_reruns(stage: Path, notebooks: list[Path], kept: Path) -> None:
    """Add a page for each chapter that `make rerun` has run, if the contents have book/reruns."""
    toc = stage / "_toc.yml"
    contents = yaml.safe_load(toc.read_text("utf-8"))
    parent = find_entry(contents, "book/reruns")
    pages = []
    for path in notebooks:
        runs, left_out = read_runs(path, kept / path.stem)
        if parent is not None and left_out and not runs:  # with some runs left, their page says it
            many = "1 kept run is" if left_out == 1 else f"{left_out} kept runs are"
            print(
                f"{path.stem}: {many} outdated and left out; make rerun makes them again",
                flush=True,
            )
        if parent is not None and runs:
            comparison.write(path, runs, stage / "reruns" / f"{path.stem}.md", left_out)
            pages.append({"file": f"reruns/{path.stem}"})
    if parent is not None and pages:
        parent["sections"] = parent.get("sections", []) + pages
        toc.write_text(yaml.safe_dump(contents, sort_keys=False), "utf-8")


def way_to_times(stage: Path, page: Path) -> str:
    """The way from a page to the execution times; empty where the book has no such page."""
    times = stage / "book" / "times.md"
    return Path(os.path.relpath(times, (stage / page).parent)).as_posix() if times.is_file() else ""


def find_entry(contents: Any, file: str) -> dict[str, Any] | None:
    """The entry of the contents that names a file, however deep."""
    if isinstance(contents, dict):
        if contents.get("file") == file:
            return contents
        contents = list(contents.values())
    children = contents if isinstance(contents, list) else []
    return next(
        (found for child in children if (found := find_entry(child, file)) is not None), None
    )
