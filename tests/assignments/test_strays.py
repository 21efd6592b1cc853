"""Submissions as students hand them in: encodings, stray files, copies, floods, and worse."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import v4

import classroom
import limits
import reports
from submissions import ClassroomError, Submission, compare_with_release, find_submissions

KNOWN = ["triple", "hw 2"]


def put(folder: Path, name: str, content: bytes | str = "{}") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def found(folder: Path) -> list[Submission]:
    return find_submissions(folder, KNOWN)


# Which files count -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("triple.ipynb", "triple/triple.ipynb", "attempt1/triple.ipynb", "a/b/c/triple.ipynb"),
        *("TRIPLE.IPYNB", "triple.ipynb.txt", "triple.ipynb.json", "triple.json", "Triple.ipynb"),
        *("triple (1).ipynb", "triple(2).ipynb", "triple-Copy1.ipynb", "triple - Copy.ipynb"),
        *("Copy of triple.ipynb", "triple copy 2.ipynb", "triple 2.ipynb", "triple (1) (1).ipynb"),
        *("Kopie von triple.ipynb", " triple .ipynb", "triple - Kopie (2).ipynb"),
    ],
)
def test_a_file_that_can_mean_one_assignment_only_is_graded_and_said(tmp_path, name):
    path = put(tmp_path / "ann", name)
    (submission,) = found(tmp_path)
    assert (submission.assignment, submission.path, submission.problem) == ("triple", path, "")
    usual = name in ("triple.ipynb", "triple/triple.ipynb")
    assert submission.note == (
        "" if usual else f"{name} was graded as triple.ipynb; give it that name there"
    )


@pytest.mark.parametrize("name", ["hw 2.ipynb", "hw2.ipynb", "HW_2 (1).ipynb", "hw-2.ipynb"])
def test_a_number_that_belongs_to_the_name_stays(tmp_path, name):
    put(tmp_path / "ann", name)
    assert found(tmp_path)[0].assignment == "hw 2"


@pytest.mark.parametrize(
    "name", ["tripled.ipynb", "hw 3.ipynb", "my triple work.ipynb", "(1).ipynb"]
)
def test_a_name_that_means_nothing_is_one_message(tmp_path, name):
    put(tmp_path / "ann", name)
    (submission,) = found(tmp_path)
    assert "does not have the name of an assignment; rename it" in submission.problem


def test_the_usual_place_goes_first_and_the_rest_is_named(tmp_path):
    path = put(tmp_path / "ann", "triple.ipynb")
    put(tmp_path / "ann", "old/triple.ipynb")
    put(tmp_path / "ann", "triple (1).ipynb")
    (submission,) = found(tmp_path)
    assert (submission.path, submission.problem) == (path, "")
    assert submission.note == (
        "not graded, because triple.ipynb is there: old/triple.ipynb, triple (1).ipynb"
    )


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (["triple.ipynb", "triple/triple.ipynb"], "two"),
        (["try1/triple.ipynb", "try2/triple.ipynb", "try3/triple.ipynb"], "3"),
        (["triple (1).ipynb", "triple (2).ipynb"], "two"),
    ],
)
def test_several_that_are_alike_are_one_message(tmp_path, names, count):
    paths = [put(tmp_path / "ann", name) for name in names]
    (submission,) = found(tmp_path)
    assert submission.problem.startswith(f"there are {count}, ")
    assert all(str(path) in submission.problem for path in paths)
    assert submission.problem.endswith("; delete one")


def test_what_systems_leave_behind_is_no_submission_and_no_student(tmp_path):
    put(tmp_path / "ann", "triple.ipynb")
    for name in ("__MACOSX/._triple.ipynb", "._triple.ipynb", ".git/triple.ipynb",
                 ".ipynb_checkpoints/triple-checkpoint.ipynb", "@eaDir/triple.ipynb"):  # fmt: skip
        put(tmp_path / "ann", name, b"\0\5\x16\7")
    put(tmp_path / "__MACOSX", "ann/._triple.ipynb")
    put(tmp_path, ".DS_Store")
    put(tmp_path, "grades.xlsx")
    assert [(each.student, each.note) for each in found(tmp_path)] == [("ann", "")]


def test_archives_and_other_files_are_named(tmp_path):
    put(tmp_path / "ann", "work.zip", b"PK")
    put(tmp_path / "bob", "triple.pdf", b"%PDF")
    put(tmp_path, "cem.zip", b"PK")
    put(tmp_path, "dora.ipynb")
    ann, bob, cem, dora = found(tmp_path)
    assert "holds no notebook but work.zip; unpack work.zip, or put one of triple" in ann.problem
    assert "holds no notebook but triple.pdf; put one of triple.ipynb, hw 2.ipynb" in bob.problem
    for each, name in ((cem, "cem.zip"), (dora, "dora.ipynb")):
        assert each.student == name
        assert f"{name} lies beside the students' folders; put" in each.problem


def test_pipes_and_loops_of_links_do_not_block(tmp_path):
    put(tmp_path / "ann", "triple.ipynb")
    (tmp_path / "ann" / "loop").symlink_to(tmp_path / "ann")
    (tmp_path / "bob").mkdir()
    os.mkfifo(tmp_path / "bob" / "triple.ipynb")
    assert [bool(each.problem) for each in found(tmp_path)] == [False, True]


def test_a_folder_that_may_not_be_read_is_one_message(tmp_path, monkeypatch):
    for student in ("ann", "bob"):
        put(tmp_path / student, "triple.ipynb")
    scandir = os.scandir

    def locked(folder: Any) -> Any:
        if Path(folder).name == "ann":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", locked)
    ann, bob = found(tmp_path)
    assert "ann could not be read (Permission denied); set its permissions" in ann.problem
    assert bob.problem == ""


# What a file holds -------------------------------------------------------------------------------


def cell(kind: str, text: str, name: str, **marks: Any) -> Any:
    made = v4.new_code_cell(text) if kind == "code" else v4.new_markdown_cell(text)
    made.id = name
    made.metadata.nbgrader = {"grade": False, "locked": False, "solution": False, "task": False,
                              "schema_version": 3, "grade_id": name, **marks}  # fmt: skip
    return made


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A course of one assignment that needs no more than Python."""
    root = tmp_path_factory.mktemp("course")
    cells = [
        cell("code", "import math", "setup", locked=True),
        cell("code", "### BEGIN SOLUTION\ntriple = lambda x: 3 * x\n### END SOLUTION", "answer",
             solution=True),
        cell("code", "assert triple(2) == 6, 'triple(2) must be 6.'", "test", grade=True,
             locked=True, points=2),
        cell("markdown", "Why?\n\n### BEGIN SOLUTION\nSo.\n### END SOLUTION", "why", grade=True,
             solution=True, points=1),
    ]  # fmt: skip
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = v4.new_notebook(cells=cells, metadata=kernel)
    (root / "source" / "triple").mkdir(parents=True)
    nbformat.write(notebook, root / "source" / "triple" / "triple.ipynb")
    classroom.generate(root / "source", root / "release")
    return root


def answered(course: Path, code: str = "triple = lambda x: 3 * x", why: str = "Très bien.") -> str:
    content = json.loads((course / "release" / "triple" / "triple.ipynb").read_text("utf-8"))
    for each in content["cells"]:
        if each["metadata"]["nbgrader"]["grade_id"] in ("answer", "why"):
            each["source"] = code if each["cell_type"] == "code" else why
    return json.dumps(content, ensure_ascii=False)


def releases(course: Path) -> dict[str, Any]:
    return {"triple": nbformat.read(course / "release" / "triple" / "triple.ipynb", 4)}


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        *(("utf-8", ""), ("utf-8-sig", ""), ("utf-16", "utf-16"), ("utf-16-le", "utf-16-le")),
        *(("utf-16-be", "utf-16-be"), ("utf-32", "utf-32"), ("latin-1", "cp1252")),
        ("cp1252", "cp1252"),
    ],
)
def test_every_encoding_is_read_and_said(course, tmp_path, encoding, told):
    path = put(tmp_path, "triple.ipynb", answered(course).encode(encoding))
    notebook, problems = compare_with_release(path, "triple", releases(course))
    assert notebook.cells[-1].source == "Très bien."
    assert [cell for cell, _ in problems] == ([""] if told else [])
    assert all(f"is not in UTF-8 and was read as {told}: " in text for _, text in problems)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[" * 100_000, "is not a notebook"),
        (b"\xff\xfe", "is not a notebook"),
        (b"\0" * 100, "is not a notebook"),
        (b"\x81\x8d", "is not a notebook"),
        (b'{"cells": [{"source": 3, "metadata": {"nbgrader": {"grade_id": "why"}}}]}', "TypeError"),
    ],
)
def test_what_cannot_be_compared_is_a_row_with_a_message(course, tmp_path, content, sentence):
    path = put(tmp_path / "ann", "triple.ipynb", content)
    row, notebook = classroom._new_row(Submission("ann", "triple", path), releases(course))
    assert notebook is None
    assert sentence in row["failed"]
    assert [part["points"] for part in row["parts"]] == [0, 0]


def test_a_notebook_of_many_megabytes_is_not_read(course, tmp_path, monkeypatch):
    monkeypatch.setattr("submissions.MAX_NOTEBOOK_BYTES", 1_000)
    path = put(tmp_path, "triple.ipynb", answered(course) + " " * 3_000_000)
    with pytest.raises(ClassroomError, match="has 3 MB; clear its outputs"):
        compare_with_release(path, "triple", releases(course))


# What the cells do -------------------------------------------------------------------------------

FLOODS = {
    "printing": "print('x' * 1000)",
    "at once": "print('x' * 200_000_000)",
    "short lines": "print('x' * 40)",  # not so short that the time ends before the characters
    "displays": "display('x' * 100_000)",
}


@pytest.fixture(scope="module")
def graded(course: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The rows of a class whose notebooks do what they should not, by student."""
    folder, out = tmp_path_factory.mktemp("class"), tmp_path_factory.mktemp("out")
    right = "triple = lambda x: 3 * x\n"
    codes = {name: f"{right}while True:\n    {flood}" for name, flood in FLOODS.items()}
    codes["a result"] = f"{right}'x' * 20_000_000"
    codes["an error"] = f"{right}raise ValueError('x' * 20_000_000)"
    codes["memory"] = f"{right}kept = bytearray(1 << 42)"
    codes["well"] = f"{right}print('x' * 1000)"
    codes["names"] = f"{right}assert 'install' not in dir() and 'runpy' not in dir()"
    for student, code in codes.items():
        put(folder / student, "triple.ipynb", answered(course, code))
    put(folder / os.fsdecode(b"b\xe4r"), "triple.ipynb", answered(course))
    put(folder / "surrogate", "triple.ipynb", answered(course, why="\\ud800"))
    put(folder / "upper", "TRIPLE.IPYNB", answered(course))
    put(folder / "broken", "triple.ipynb", b"[" * 100_000)
    # Nothing here waits for its time to end: it is long enough for a busy machine.
    options = {"workers": 2, "timeout": 120, "progress": False}
    table = classroom.grade_all(folder, out, course / "source", **options)
    # Now with marks.csv, which has every name.
    again = classroom.grade_all(folder, out, course / "source", **options)
    assert [row["student"] for row in again] == [row["student"] for row in table]
    marks = (out / "marks.csv").read_text("utf-8-sig")
    assert "b\\udce4r,triple,why,1," in marks
    assert len(marks.splitlines()) == len(set(marks.splitlines()))
    return {row["student"]: row for row in table}


@pytest.mark.parametrize("student", [*FLOODS, "a result"])
def test_a_flood_of_output_is_cut_off_and_said(graded, student):
    row = graded[student]
    (problem,) = row["problems"]
    assert problem == (
        f"{student}, triple, cell answer stops with an error: OutputLimitError: the cell prints or "
        f"shows more than {limits.MAX_OUTPUT_CHARACTERS:,} characters; print less."
    )
    assert [part["points"] for part in row["parts"]] == [2, None]


def test_a_long_error_and_a_lack_of_memory_are_one_line(graded):
    (error,) = graded["an error"]["problems"]
    assert error.startswith("an error, triple, cell answer stops with an error: ValueError: xxx")
    assert len(error) < 2_000
    (memory,) = graded["memory"]["problems"]
    assert memory == (
        "memory, triple, cell answer stops with an error: the memory allowed for a cell is used "
        "up: is there a list that grows without end?."
    )


def test_nothing_that_one_student_hands_in_stops_the_others(graded):
    for student in ("well", "names", os.fsdecode(b"b\xe4r"), "surrogate"):
        assert [part["points"] for part in graded[student]["parts"]] == [2, None], student
        assert graded[student]["problems"] == []
    assert graded["upper"]["parts"][0]["points"] == 2
    assert graded["upper"]["problems"] == [
        "upper, triple: TRIPLE.IPYNB was graded as triple.ipynb; give it that name there."
    ]
    assert "is not a notebook" in graded["broken"]["problems"][0]


def test_a_process_has_a_share_of_the_memory_but_enough():
    assert limits.memory_per_process(10**6) == limits.MIN_MEMORY_BYTES
    assert limits.memory_per_process(1) >= limits.memory_per_process(2)


def test_names_that_a_spreadsheet_changed_find_their_students():
    student_of = reports.match_students(["007", "zo\u00eb", "70"])
    assert [student_of(name) for name in ("7", "zoe\u0308", "70")] == ["007", "zo\u00eb", "70"]
    student_of = reports.match_students(["07", "007", "x"])
    assert [student_of(name) for name in ("7", "y")] == ["7", "y"]  # which of them is open
