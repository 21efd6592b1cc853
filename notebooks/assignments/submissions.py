"""What students hand in: found in a folder, compared with the student version, and mended where that is safe.

Nothing here runs a student's code, and nothing needs nbgrader.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

HERE = Path(__file__).resolve().parent
SOURCE, RELEASE = HERE / "source", HERE / "release"


class ClassroomError(Exception):
    """What stops a command, as one sentence that says what to mend."""


@dataclass(frozen=True)
class Submission:
    """One student's file for one assignment; `problem` says why there is none to grade."""

    student: str
    assignment: str
    path: Path
    problem: str = ""


# ---------------------------------------------------------------- files


def names(root: Path = SOURCE) -> list[str]:
    """The assignments below a folder of the form <name>/<name>.ipynb."""
    return sorted(path.stem for path in root.glob("*/*.ipynb") if path.stem == path.parent.name)


def find(folder: Path, known: list[str]) -> list[Submission]:
    """Every submission below a folder, as <student>/<name>/<name>.ipynb or <student>/<name>.ipynb.

    A notebook of another name and a student without any are submissions with a problem. Raises ClassroomError when
    there is no folder, or no student in it.
    """
    if not folder.is_dir():
        raise ClassroomError(
            f"{folder}: no such folder; SUBMISSIONS=folder holds one folder for each student"
        )
    students = sorted(
        place for place in folder.iterdir() if place.is_dir() and not place.name.startswith(".")
    )
    if not students:
        raise ClassroomError(
            f"{folder} holds no folder of a student; put {known[0]}.ipynb of each student in {folder}/<student>/"
        )
    return [found for place in students for found in _find_of(place, known)]


def _find_of(place: Path, known: list[str]) -> Iterator[Submission]:
    taken, none = set(), True
    for name in known:
        both = [
            path
            for path in (
                place / name / f"{name}.ipynb",
                place / f"{name}.ipynb",
            )
            if path.is_file()
        ]
        taken.update(both)
        if both:
            none = False
            twice = f"there are two, {both[0]} and {both[1]}; delete one" if len(both) == 2 else ""
            yield Submission(place.name, name, both[0], twice)
    for path in sorted(place.rglob("*.ipynb")):
        if path not in taken and ".ipynb_checkpoints" not in path.parts:
            none = False
            yield Submission(
                place.name,
                "",
                path,
                f"{path} is named like no assignment; rename it to one of {_files(known)}",
            )
    if none:
        yield Submission(
            place.name,
            "",
            place,
            f"{place} holds no notebook; put one of {_files(known)} there",
        )


def _files(known: list[str]) -> str:
    return ", ".join(f"{name}.ipynb" for name in known)


def releases(root: Path = RELEASE) -> dict[str, Any]:
    """The student version of every assignment, by name."""
    return {
        name: nbformat.read(root / name / f"{name}.ipynb", as_version=4) for name in names(root)
    }


# ---------------------------------------------------------------- cells


def grade_id(cell: Mapping[str, Any]) -> str:
    """nbgrader's name of a cell, empty where it has none."""
    metadata = cell.get("metadata")
    marks = metadata.get("nbgrader") if isinstance(metadata, Mapping) else None
    name = marks.get("grade_id") if isinstance(marks, Mapping) else None
    return name if isinstance(name, str) else ""


def graded_cells(notebook: Any) -> dict[str, Any]:
    """The cells that nbgrader knows, by their name, in order."""
    return {grade_id(cell): cell for cell in notebook.cells if grade_id(cell)}


def read_cells(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook as a student may have left it; ClassroomError when there are none to be read."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        raise ClassroomError(
            f"{path.name} is no notebook (it is not JSON); hand in the .ipynb file itself, not a page or a PDF"
        ) from None
    cells = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise ClassroomError(
            f"{path.name} is no notebook of today's format; open and save it in JupyterLab"
        )
    return cells


def text_of(cell: Mapping[str, Any]) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(map(str, source))


def recognise(cells: list[dict[str, Any]], known: Mapping[str, Any]) -> str:
    """The assignment that these cells belong to most; empty when to none."""
    found = {grade_id(cell) for cell in cells}
    shared = {name: len(found & graded_cells(notebook).keys()) for name, notebook in known.items()}
    best = max(shared, key=lambda name: shared[name], default="")
    return best if best and shared[best] else ""


def compare(path: Path, name: str, known: Mapping[str, Any]) -> tuple[Any, list[tuple[str, str]]]:
    """The submission as it can be graded, and what is wrong with it as (cell, sentence) pairs.

    The notebook has the student's cells without outputs. Tests and set-up cells are as in the student version, those
    that are missing stand where they belong, and of copies the last one counts.

    Raises ClassroomError when nothing can be graded: no notebook, or none of this assignment.
    """
    cells = read_cells(path)
    wanted = graded_cells(known[name])
    belongs = recognise(cells, known)
    if belongs != name:
        raise ClassroomError(
            f"{path.name} is a submission of {belongs}, not of {name}; rename it to {belongs}.ipynb"
            if belongs
            else f"{path.name} has none of the cells of {name}; answer in the student version"
        )
    last = {grade_id(cell): index for index, cell in enumerate(cells)}
    originals = [
        wanted.get(grade_id(cell)) if last[grade_id(cell)] == i else None
        for i, cell in enumerate(cells)
    ]
    kept = [_clean(cell, original) for cell, original in zip(cells, originals, strict=True)]
    copied = dict(_copied(cells, wanted))
    once = {cell: index for cell, index in last.items() if cell not in copied}
    problems = [*copied.items(), *_changed(cells, last, wanted), *_misplaced(once, wanted)]
    problems += _put_back(kept, wanted)
    for index, cell in enumerate(kept):
        cell.id = f"cell-{index:02d}"
    return nbformat.v4.new_notebook(cells=kept, metadata=known[name].metadata), problems


def _clean(cell: Mapping[str, Any], original: Any) -> Any:
    """A cell without outputs: with the marks of the student version, or with none."""
    kind = original.cell_type if original is not None else cell.get("cell_type")
    makers = {"code": nbformat.v4.new_code_cell, "raw": nbformat.v4.new_raw_cell}
    make = makers.get(str(kind), nbformat.v4.new_markdown_cell)
    if original is None:
        return make(text_of(cell))
    source = original.source if original.metadata.nbgrader.locked else text_of(cell)
    return make(source, metadata=original.metadata)


def _copied(cells: list[dict[str, Any]], wanted: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in wanted:
        count = sum(grade_id(cell) == name for cell in cells)
        if count > 1:
            yield (
                name,
                f"is there {count} times, and only the last one counts; delete the others",
            )


def _changed(
    cells: list[Any], last: Mapping[str, int], wanted: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    for name, original in wanted.items():
        locked = name in last and original.metadata.nbgrader.locked
        if locked and _lines(text_of(cells[last[name]])) != _lines(original.source):
            yield (
                name,
                "was changed and is graded as it was given; leave it, and write in the answer cells",
            )


def _lines(source: str) -> list[str]:
    """What counts of a cell's text: no blanks at the end of a line, no blank lines around it."""
    return [line.rstrip() for line in source.strip("\n").split("\n")]


def _misplaced(last: Mapping[str, int], wanted: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    present = [name for name in wanted if name in last]
    for before, after in itertools.pairwise(present):
        if last[before] > last[after]:
            yield (
                after,
                f"stands before {before}, which it needs; move it below",
            )


def _put_back(kept: list[Any], wanted: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Insert what is missing behind its neighbour. An answer in code is not: its stub could hide the student's own."""
    before = ""
    for name, original in wanted.items():
        places = [index for index, cell in enumerate(kept) if grade_id(cell) == name]
        if not places:
            marks = original.metadata.nbgrader
            if marks.solution and not marks.grade:
                yield (
                    name,
                    "is missing, with what was written in it; copy the cell from the student version and answer there",
                )
                continue
            at = next(
                (
                    index + 1
                    for index, cell in enumerate(kept)
                    if before and grade_id(cell) == before
                ),
                0,
            )
            kept.insert(at, _clean(original, original))
            yield (
                name,
                "is missing, so the question counts as not answered; copy the cell from the student version"
                if marks.solution
                else "is missing and was put back to grade; copy the cell from the student version",
            )
        before = name
