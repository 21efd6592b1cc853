"""Find submissions, compare them with the student version, and repair them where that is safe.

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
SOURCE = HERE / "source"
RELEASE = HERE / "release"

Problem = tuple[str, str]  # the name of a cell, and a sentence on it without a subject


class ClassroomError(Exception):
    """A command cannot go on. The message is one sentence that says what to do."""


@dataclass(frozen=True)
class Submission:
    """One student's file for one assignment. `problem` says why it cannot be graded, if so."""

    student: str
    assignment: str
    path: Path
    problem: str = ""


# ---------------------------------------------------------------- files


def assignment_names(root: Path = SOURCE) -> list[str]:
    """The assignments below a folder of the form <name>/<name>.ipynb."""
    return sorted(path.stem for path in root.glob("*/*.ipynb") if path.stem == path.parent.name)


def find_submissions(folder: Path, assignments: list[str]) -> list[Submission]:
    """Every submission below a folder, as <student>/<name>/<name>.ipynb or <student>/<name>.ipynb.

    A notebook with another name, and a student without a notebook, are submissions with a problem.

    Raises:
        ClassroomError: the folder does not exist, or holds no student.
    """
    if not folder.is_dir():
        raise ClassroomError(
            f"{folder}: no such folder; SUBMISSIONS=folder holds one folder for each student"
        )
    students = sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if not students:
        raise ClassroomError(
            f"{folder} holds no folder of a student; put {assignments[0]}.ipynb of each student in "
            f"{folder}/<student>/"
        )
    return [found for student in students for found in _find_of_student(student, assignments)]


def _find_of_student(folder: Path, assignments: list[str]) -> Iterator[Submission]:
    student = folder.name
    files = ", ".join(f"{name}.ipynb" for name in assignments)
    named: set[Path] = set()
    for name in assignments:
        candidates = (folder / name / f"{name}.ipynb", folder / f"{name}.ipynb")
        paths = [path for path in candidates if path.is_file()]
        named.update(paths)
        if paths:
            twice = len(paths) == 2
            problem = f"there are two, {paths[0]} and {paths[1]}; delete one" if twice else ""
            yield Submission(student, name, paths[0], problem)
    others = [
        path
        for path in sorted(folder.rglob("*.ipynb"))
        if path not in named and ".ipynb_checkpoints" not in path.parts
    ]
    for path in others:
        problem = f"{path} does not have the name of an assignment; rename it to one of {files}"
        yield Submission(student, "", path, problem)
    if not named and not others:
        problem = f"{folder} holds no notebook; put one of {files} there"
        yield Submission(student, "", folder, problem)


def load_releases(root: Path = RELEASE) -> dict[str, Any]:
    """The student version of every assignment, by name."""
    return {
        name: nbformat.read(root / name / f"{name}.ipynb", as_version=4)
        for name in assignment_names(root)
    }


# ---------------------------------------------------------------- cells


def grade_id(cell: Mapping[str, Any]) -> str:
    """nbgrader's name of a cell; empty where it has none."""
    metadata = cell.get("metadata")
    marks = metadata.get("nbgrader") if isinstance(metadata, Mapping) else None
    name = marks.get("grade_id") if isinstance(marks, Mapping) else None
    return name if isinstance(name, str) else ""


def graded_cells(notebook: Any) -> dict[str, Any]:
    """The cells with a name of nbgrader, by that name, in order."""
    return {grade_id(cell): cell for cell in notebook.cells if grade_id(cell)}


def read_cells(path: Path) -> list[dict[str, Any]]:
    """The cells of a student's notebook.

    Raises:
        ClassroomError: the file is not a notebook.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        raise ClassroomError(
            f"{path.name} is not a notebook (it is not JSON); hand in the .ipynb file itself, not "
            "a page or a PDF"
        ) from None
    cells = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise ClassroomError(
            f"{path.name} is not a notebook of today's format; open and save it in JupyterLab"
        )
    return cells


def cell_text(cell: Mapping[str, Any]) -> str:
    """The source of a cell, which a file may hold as one string or as lines."""
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(map(str, source))


def recognise_assignment(cells: list[dict[str, Any]], releases: Mapping[str, Any]) -> str:
    """The assignment that most of these cells belong to; empty when none belongs to any."""
    found = {grade_id(cell) for cell in cells}
    shared = {
        name: len(found & graded_cells(notebook).keys()) for name, notebook in releases.items()
    }
    best = max(shared, key=lambda name: shared[name], default="")
    return best if best and shared[best] else ""


def compare_with_release(
    path: Path, name: str, releases: Mapping[str, Any]
) -> tuple[Any, list[Problem]]:
    """Compare a submission with the student version, and repair it so that it can be graded.

    Args:
        path: of the submission.
        name: of the assignment.
        releases: the student versions, by name.

    Returns:
        The notebook, and what was wrong with it. The notebook has the student's cells without
        outputs. Tests and set-up cells are those of the student version, missing ones are put
        back, and of several copies only the last is graded.

    Raises:
        ClassroomError: the file is not a notebook, or not one of this assignment.
    """
    cells = read_cells(path)
    wanted = graded_cells(releases[name])
    recognised = recognise_assignment(cells, releases)
    if recognised != name:
        raise ClassroomError(
            f"{path.name} is a submission of {recognised}, not of {name}; rename it to "
            f"{recognised}.ipynb"
            if recognised
            else f"{path.name} has none of the cells of {name}; answer in the student version"
        )
    last = {grade_id(cell): index for index, cell in enumerate(cells)}
    originals = [
        wanted.get(grade_id(cell)) if last[grade_id(cell)] == i else None
        for i, cell in enumerate(cells)
    ]
    repaired = [_clean(cell, original) for cell, original in zip(cells, originals, strict=True)]
    copied = dict(_copied(cells, wanted))
    unique = {cell: index for cell, index in last.items() if cell not in copied}
    problems = [
        *copied.items(),
        *_changed(cells, last, wanted),
        *_misplaced(unique, wanted),
        *_put_back(repaired, wanted),
    ]
    for index, cell in enumerate(repaired):
        cell.id = f"cell-{index:02d}"
    metadata = releases[name].metadata
    return nbformat.v4.new_notebook(cells=repaired, metadata=metadata), problems


def _clean(cell: Mapping[str, Any], original: Any) -> Any:
    """A cell without outputs, with the metadata of the student version or with none."""
    kind = original.cell_type if original is not None else cell.get("cell_type")
    makers = {"code": nbformat.v4.new_code_cell, "raw": nbformat.v4.new_raw_cell}
    make = makers.get(str(kind), nbformat.v4.new_markdown_cell)
    if original is None:
        return make(cell_text(cell))
    source = original.source if original.metadata.nbgrader.locked else cell_text(cell)
    return make(source, metadata=original.metadata)


def _copied(cells: list[dict[str, Any]], wanted: Mapping[str, Any]) -> Iterator[Problem]:
    for name in wanted:
        count = sum(grade_id(cell) == name for cell in cells)
        if count > 1:
            yield (
                name,
                f"is there {count} times, and only the last one counts; delete the others",
            )


def _changed(
    cells: list[Any], last: Mapping[str, int], wanted: Mapping[str, Any]
) -> Iterator[Problem]:
    for name, original in wanted.items():
        locked = name in last and original.metadata.nbgrader.locked
        if locked and _significant_lines(cell_text(cells[last[name]])) != _significant_lines(
            original.source
        ):
            advice = "leave it, and write in the answer cells"
            yield name, f"was changed and is graded as it was given; {advice}"


def _significant_lines(source: str) -> list[str]:
    """The lines of a cell, without blanks at their ends and blank lines around them."""
    return [line.rstrip() for line in source.strip("\n").split("\n")]


def _misplaced(last: Mapping[str, int], wanted: Mapping[str, Any]) -> Iterator[Problem]:
    present = [name for name in wanted if name in last]
    for before, after in itertools.pairwise(present):
        if last[before] > last[after]:
            yield after, f"is above {before}, which it needs; move it below"


def _put_back(cells: list[Any], wanted: Mapping[str, Any]) -> Iterator[Problem]:
    """Insert each missing cell after the cell that it follows in the student version.

    A missing answer in code is not inserted: its stub could replace a function that the student
    wrote in another cell.
    """
    before = ""
    for name, original in wanted.items():
        if all(grade_id(cell) != name for cell in cells):
            marks = original.metadata.nbgrader
            advice = "copy the cell from the student version"
            if marks.solution and not marks.grade:
                yield name, f"is missing, with what was written in it; {advice} and answer there"
                continue
            ids = [grade_id(cell) for cell in cells]
            index = ids.index(before) + 1 if before and before in ids else 0
            cells.insert(index, _clean(original, original))
            unanswered = "is missing, so the question counts as not answered"
            put_back = "is missing and was put back to grade"
            yield name, f"{unanswered if marks.solution else put_back}; {advice}"
        before = name
