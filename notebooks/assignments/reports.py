"""What a teacher reads after grading: tables, messages, and answers with their marking schemes."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from marks import MARKS_HEADER, Key, Mark, read_marks
from radin.files import atomic_path, hash_text
from submissions import ClassroomError

Row = dict[str, Any]  # of one submission
Part = dict[str, Any]  # one graded cell of a submission
Rubric = tuple[str, float, str]  # question, maximum, marking scheme


def write_reports(table: list[Row], rubrics: Mapping[str, Mapping[str, Rubric]], out: Path) -> None:
    """Write grades.csv, parts.csv, grades.md, by_hand.md and marks.csv to `out`.

    The points that a teacher wrote in marks.csv stay there, and are given to the parts that wait
    for a mark. An answer that changed since then waits again, which is one of the row's problems.

    Args:
        table: a row for each submission. Its parts get the teacher's points.
        rubrics: by assignment and part.
        out: the folder.

    Raises:
        ClassroomError: marks.csv cannot be read, or gives more points than there are.
    """
    marks = match_students(read_marks(out / "marks.csv"), {_student(row) for row in table})
    waiting = [(row, part) for row in table for part in row["parts"] if part["points"] is None]
    for row, part in waiting:
        _update_mark(marks, row, part, out / "marks.csv")
    write_text(out / "by_hand.md", by_hand(waiting, rubrics))
    for row, part in waiting:
        part["points"] = marks[_student(row), row["assignment"], part["part"]][2]
    marked = [
        (*key, f"{maximum:g}", answer, _points_text(points))
        for key, (maximum, answer, points) in marks.items()
    ]
    # With a byte order mark, without which Excel reads the names in another encoding.
    write_text(out / "marks.csv", to_csv(MARKS_HEADER, marked), encoding="utf-8-sig")
    parts = [
        (
            row["student"],
            row["assignment"],
            part["part"],
            _points_text(part["points"]),
            f"{part['of']:g}",
            part["message"],
        )
        for row in table
        for part in row["parts"]
    ]
    header: tuple[str, ...] = ("student", "assignment", "part", "points", "of", "message")
    write_text(out / "parts.csv", to_csv(header, parts))
    header = ("student", "assignment", "points", "of", "to mark", "messages")
    grades = ((*totals(row), " ".join(row["problems"])) for row in table)
    write_text(out / "grades.csv", to_csv(header, grades))
    write_text(out / "grades.md", "# Grades\n\n" + summary(table) + "\n")


def _update_mark(marks: dict[Key, Mark], row: Row, part: Part, path: Path) -> None:
    """Add a part that waits for a mark, or take its points back when its answer has changed."""
    key = (_student(row), row["assignment"], part["part"])
    answer = _hash_answer(part["answer"])
    maximum, marked_answer, points = marks.get(key, (part["of"], "", None))
    if points is not None and marked_answer not in ("", answer):
        row["problems"].append(
            f"{row['student']}, {row['assignment']}: the answer to {part['part']} changed after it "
            f"was given {points:g} points; mark it again."
        )
        points = None
    marks[key] = (maximum, answer, points)
    if points is not None and points > part["of"]:
        raise ClassroomError(
            f"{path}: {row['student']} has {points:g} points for {part['part']} of "
            f"{row['assignment']}, and {part['of']:g} is the maximum"
        )


def totals(row: Row) -> tuple[str, str, str, str, str]:
    """Student, assignment, points so far, maximum, and the points that wait for a mark."""
    points = sum(part["points"] or 0 for part in row["parts"])
    maximum = sum(part["of"] for part in row["parts"])
    waiting = sum(part["of"] for part in row["parts"] if part["points"] is None)
    return row["student"], row["assignment"], f"{points:g}", f"{maximum:g}", f"{waiting:g}"


def summary(table: list[Row]) -> str:
    """The grades as a Markdown table, then every message."""
    rows = []
    for row in table:
        failed = ", ".join(part["part"] for part in row["parts"] if part["message"])
        rows.append((*totals(row), failed or ("" if row["parts"] else "-")))
    header = ("student", "assignment", "points", "of", "to mark", "failed tests")
    messages = [f"- {sentence}" for row in table for sentence in row["problems"]]
    text = markdown_table(header, rows)
    return text + ("\n\nMessages:\n\n" + "\n".join(messages) if messages else "")


def by_hand(
    waiting: Sequence[tuple[Row, Part]], rubrics: Mapping[str, Mapping[str, Rubric]]
) -> str:
    """Every question that a person marks, with its marking scheme and the answers."""
    text = [
        "# To be marked by hand",
        "Write the points into marks.csv beside this file and grade again.",
    ]
    for name, questions in rubrics.items():
        for part_name, (question, maximum, scheme) in questions.items():
            text += [f"## {name}, {part_name}: {maximum:g} points", question, scheme]
            answers = [
                f"### {row['student']}\n\n{part['answer']}"
                for row, part in waiting
                if (row["assignment"], part["part"]) == (name, part_name)
            ]
            text += answers or ["*No answer waits.*"]
    return "\n\n".join(text) + "\n"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [list(header), *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    padded = (
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def to_csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as the text of a CSV file."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()


def write_text(path: Path, text: str, *, encoding: str = "utf-8") -> None:
    """Write a file atomically, with its folder. What is no text is written as an escape."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding, "backslashreplace")


def match_students(marks: Mapping[Key, Mark], students: Iterable[str]) -> dict[Key, Mark]:
    """The marks under the names of the students, where a spreadsheet has changed such a name.

    It drops the zeros in front of a number, and may write accents in another way.
    """
    names = set(students)
    by_plain: dict[str, list[str]] = {}
    for name in names:
        by_plain.setdefault(_plain(name), []).append(name)
    matched = {}
    for (student, *rest), mark in marks.items():
        likely = by_plain.get(_plain(student), [])
        own = student if student in names or len(likely) != 1 else likely[0]
        matched[own, rest[0], rest[1]] = mark
    return matched


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip()).lstrip("0")


def _student(row: Row) -> str:
    """The student's name as files hold it: bytes that are no UTF-8 are escapes there."""
    return str(row["student"]).encode("utf-8", "backslashreplace").decode("utf-8")


def _hash_answer(answer: str) -> str:
    """A short name of an answer. It begins with a letter, so a spreadsheet keeps it as text."""
    return "a" + hash_text(answer)[:8]


def _points_text(points: float | None) -> str:
    return "" if points is None else f"{points:g}"
