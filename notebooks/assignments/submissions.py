"""Find submissions, compare them with the student version, and repair them where that is safe.

Nothing here runs a student's code, and nothing needs nbgrader.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from radin.data.listing import is_service_name
from radin.errors import list_names

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "source"
RELEASE = HERE / "release"

Problem = tuple[
    str, str
]  # the name of a cell, and a sentence on it without a subject; "": the file
PLACEHOLDER = "YOUR ANSWER HERE"  # nbgrader_config.py puts it into written questions
MAX_NOTEBOOK_BYTES = 100_000_000
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")
# What browsers, Jupyter, Drive and file managers add to the name of a copy.
COPY_MARKS = re.compile(
    r"\s*\(\d+\)$|[\s_-]*(copy|copie|copia|kopie)\s*\d*$|^(copy of|copie de|copia de|kopie von)\s+"
    r"|\s+\d+$"
)
_UNPACK = "put what it holds into a folder with the student's name"


class ClassroomError(Exception):
    """A command cannot go on. The message is one sentence that says what to do."""


@dataclass(frozen=True)
class Submission:
    """One student's file for one assignment.

    Attributes:
        problem: why it cannot be graded, if so.
        note: what is unusual about it, if so; it is graded all the same.
    """

    student: str
    assignment: str
    path: Path
    problem: str = ""
    note: str = ""


# ---------------------------------------------------------------- files


def assignment_names(root: Path = SOURCE) -> list[str]:
    """The assignments below a folder of the form <name>/<name>.ipynb."""
    return sorted(path.stem for path in root.glob("*/*.ipynb") if path.stem == path.parent.name)


def find_submissions(folder: Path, assignments: list[str]) -> list[Submission]:
    """Every submission below a folder: <student>/<name>/<name>.ipynb, <student>/<name>.ipynb.

    Where there is none of these, a file of that name in another folder of the student counts, or
    one whose name a browser or a copy has changed, such as `<name> (1).ipynb`; a note says so. A
    notebook with another name, a student without a notebook, and a file beside the students'
    folders are submissions with a problem. Hidden files and those of a system are left out.

    Raises:
        ClassroomError: the folder does not exist, cannot be read, or holds no student.
    """
    if not os.path.isdir(folder):
        raise ClassroomError(
            f"{folder}: no such folder; SUBMISSIONS=folder holds one folder for each student"
        )
    try:
        paths = [folder / name for name in sorted(os.listdir(folder)) if not is_service_name(name)]
    except OSError as error:
        raise ClassroomError(f"{folder}: could not be read ({error.strerror})") from None
    students = [path for path in paths if os.path.isdir(path)]
    if not students:
        raise ClassroomError(
            f"{folder} holds no folder of a student; put {assignments[0]}.ipynb of each student in "
            f"{folder}/<student>/"
        )
    found = [each for student in students for each in _find_of_student(student, assignments)]
    strays = [
        Submission(path.name, "", path, f"{path} lies beside the students' folders; {_UNPACK}")
        for path in paths
        if path not in students and path.name.lower().endswith((".ipynb", *ARCHIVES))
    ]
    return [*found, *strays]


find = find_submissions  # its name in version 0.1


def _find_of_student(folder: Path, assignments: list[str]) -> Iterator[Submission]:
    student = folder.name
    expected = ", ".join(f"{name}.ipynb" for name in assignments)
    try:
        files = _files_below(folder)
    except OSError as error:
        problem = f"{error.filename or folder} could not be read ({error.strerror or error})"
        yield Submission(student, "", folder, f"{problem}; set its permissions")
        return
    assignment_of = {path: _assignment_of(path.name, assignments) for path in files}
    for name in assignments:
        paths = [path for path in files if assignment_of[path] == name]
        if paths:
            yield _choose(student, folder, name, paths)
    others = [
        path for path in files if path.name.lower().endswith(".ipynb") and not assignment_of[path]
    ]
    for path in others:
        problem = f"{path} does not have the name of an assignment; rename it to one of {expected}"
        yield Submission(student, "", path, problem)
    if not others and not any(assignment_of.values()):
        yield Submission(student, "", folder, _describe_missing(folder, files, expected))


def _files_below(folder: Path) -> list[Path]:
    """All files of a student, sorted, without hidden ones and those of a system."""

    def stop(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, names in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not is_service_name(name)]
        found += [Path(parent, name) for name in names if not is_service_name(name)]
    return sorted(path for path in found if os.path.isfile(path))  # no pipes, which would block


def _assignment_of(name: str, assignments: Iterable[str]) -> str:
    """The assignment that a file name means, without what browsers and copies add; or empty."""
    match = re.fullmatch(r"(.+?)((\.ipynb)?(\.txt|\.json)|\.ipynb)", name.lower())
    if match is None:
        return ""
    by_letters = {_letters(each.lower()): each for each in assignments}
    stem = unicodedata.normalize("NFC", match[1])
    shorter = ""
    while stem != shorter:
        if found := by_letters.get(_letters(stem)):
            return found
        shorter, stem = stem, COPY_MARKS.sub("", stem)
    return ""


def _letters(stem: str) -> str:
    return re.sub(r"[\s_-]+", "", stem)


def _choose(student: str, folder: Path, name: str, paths: list[Path]) -> Submission:
    """The file of a student to grade for one assignment, of all that may be meant."""
    file = f"{name}.ipynb"
    usual = [path for path in paths if path in (folder / file, folder / name / file)]
    named = [path for path in paths if path.name == file]
    best = usual or named or paths
    if len(best) > 1:
        count = "two" if len(best) == 2 else str(len(best))
        listed = " and ".join([", ".join(map(str, best[:-1])), str(best[-1])])
        return Submission(student, name, best[0], f"there are {count}, {listed}; delete one")
    notes = []
    if not usual:
        notes.append(f"{best[0].relative_to(folder)} was graded as {file}; give it that name there")
    if rest := [path for path in paths if path not in best]:
        listed = ", ".join(str(path.relative_to(folder)) for path in rest)
        notes.append(f"not graded, because {best[0].relative_to(folder)} is there: {listed}")
    return Submission(student, name, best[0], note="; ".join(notes))


def _describe_missing(folder: Path, files: list[Path], expected: str) -> str:
    """The problem of a student's folder without a notebook; it names what lies there instead."""
    names = [str(path.relative_to(folder)) for path in files]
    instead = f" but {list_names(names, most=4)}" if names else ""
    archives = [name for name in names if name.lower().endswith(ARCHIVES)]
    advice = f"unpack {archives[0]}, or " if archives else ""
    return f"{folder} holds no notebook{instead}; {advice}put one of {expected} there"


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
    return _read_notebook(path)[0]


def _read_notebook(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The cells, and the encoding of the file where it is not UTF-8."""
    try:
        if (num_bytes := path.stat().st_size) > MAX_NOTEBOOK_BYTES:
            raise ClassroomError(
                f"{path.name} has {num_bytes / 1e6:,.0f} MB; clear its outputs and hand it in again"
            )
        content, encoding = _decode(path.read_bytes())
    except OSError as error:
        raise ClassroomError(f"{path.name} could not be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise ClassroomError(
            f"{path.name} is not a notebook (it is not JSON); hand in the .ipynb file itself, not "
            "a page or a PDF"
        ) from None
    cells = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise ClassroomError(
            f"{path.name} is not a notebook of today's format; open and save it in JupyterLab"
        )
    return cells, encoding


def _decode(content: bytes) -> tuple[Any, str]:
    """A JSON text of any encoding, and the name of the encoding where it is not UTF-8.

    Raises:
        ValueError: it is no JSON.
    """
    encoding: str = json.detect_encoding(content)
    try:
        text = content.decode(encoding, "surrogatepass")
    except UnicodeDecodeError:
        encoding = "cp1252"
        text = content.decode(encoding, "replace")
    return json.loads(text), "" if encoding.startswith("utf-8") else encoding


def cell_text(cell: Mapping[str, Any]) -> str:
    """The source of a cell, which a file may hold as one string or as lines."""
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(map(str, source))


def answer_text(source: str, stub: str) -> str:
    """What a student wrote in the cell of a question, without the question itself.

    Args:
        source: of the student's cell.
        stub: the same cell of the student version: the question and `PLACEHOLDER`.
    """
    question = stub.replace(PLACEHOLDER, "").split()
    match = re.match(r"\s*" + r"\s+".join(map(re.escape, question)), source)
    answer = source[match.end() :] if match and question else source
    return answer.replace(PLACEHOLDER, "").strip()


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
    cells, encoding = _read_notebook(path)
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
        *_encoded(path, encoding),
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


def _encoded(path: Path, encoding: str) -> Iterator[Problem]:
    if encoding:
        unusual = f"{path.name} is not in UTF-8 and was read as {encoding}"
        yield "", f"{unusual}: letters such as é may be wrong; open and save it in JupyterLab"


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
