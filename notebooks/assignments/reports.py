"""What a teacher reads after grading: tables, messages, and answers with their marking schemes."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from marks import MARKS_HEADER, Key, Mark, Marks, Slip
from radin.files import atomic_path, hash_text
from submissions import answer_text

Row = dict[str, Any]  # of one submission
Part = dict[str, Any]  # one graded cell of a submission
Rubric = tuple[str, float, str]  # question, maximum, marking scheme


def write_reports(
    table: list[Row], rubrics: Mapping[str, Mapping[str, Rubric]], out: Path, marks: Marks
) -> None:
    """Write grades.csv, parts.csv, grades.md, by_hand.md, marks.csv and the gradebooks to `out`.

    The points that a teacher wrote in marks.csv stay there, and are given to the parts that wait
    for a mark. An answer that changed since then waits again, and so does a part with a slip in
    marks.csv. Both are problems of the row.

    Args:
        table: a row for each submission. Its parts get the teacher's points.
        rubrics: by assignment and part.
        out: the folder.
        marks: from `marks.read_marks`.
    """
    student_of = match_students({_student(row) for row in table})
    points = {(student_of(key[0]), key[1], key[2]): mark for key, mark in marks.points.items()}
    slips: dict[Key, list[Slip]] = {}
    for slip in marks.slips:
        slips.setdefault((student_of(slip.key[0]), slip.key[1], slip.key[2]), []).append(slip)
    waiting = [(row, part) for row in table for part in row["parts"] if part["points"] is None]
    for row, part in waiting:
        key = (_student(row), row["assignment"], part["part"])
        row["problems"] += [f"{slip.message}." for slip in slips.get(key, ())]
        _update_mark(points, row, part)
    write_text(out / "by_hand.md", by_hand(waiting, rubrics))
    for row, part in waiting:
        part["points"] = points[_student(row), row["assignment"], part["part"]][2]
    _write_marks(out / "marks.csv", points, slips)
    _write_parts(out / "parts.csv", table)
    header = ("student", "assignment", "points", "of", "to mark", "messages")
    grades = ((*totals(row), " ".join(row_sentences(row))) for row in table)
    write_text(out / "grades.csv", to_csv(header, grades))
    write_text(out / "grades.md", "# Grades\n\n" + summary(table) + "\n")
    write_gradebooks(table, out)


def _write_marks(path: Path, points: Mapping[Key, Mark], slips: Mapping[Key, list[Slip]]) -> None:
    """The points, and each line with a slip as the teacher wrote it."""
    lines: list[tuple[str, ...]] = []
    for key, (maximum, answer, earned) in points.items():
        if key in slips:
            lines += [slip.cells for slip in slips[key]]
        else:
            lines.append((*key, f"{maximum:g}", answer, _points_text(earned)))
    lines += [slip.cells for key in slips.keys() - points.keys() for slip in slips[key]]
    # With a byte order mark, without which Excel reads the names in another encoding.
    write_text(path, to_csv(MARKS_HEADER, lines), encoding="utf-8-sig")


def _write_parts(path: Path, table: list[Row]) -> None:
    header = ("student", "assignment", "part", "points", "of", "message")
    lines = [
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
    write_text(path, to_csv(header, lines))


def _update_mark(marks: dict[Key, Mark], row: Row, part: Part) -> None:
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


def write_gradebooks(table: list[Row], out: Path) -> None:
    """Write moodle.csv and canvas.csv: a line for each student, a column for each assignment.

    A cell is empty until every part has points: without a submission, while an answer waits for
    its mark, and where nothing could be graded.
    """
    names = sorted({row["assignment"] for row in table} - {""})
    most = {row["assignment"]: sum(part["of"] for part in row["parts"]) for row in table}
    grades: dict[str, dict[str, str]] = {}
    for row in table:
        if row.get("stray"):
            continue
        cells = grades.setdefault(row["student"], {})
        complete = not row["failed"] and all(part["points"] is not None for part in row["parts"])
        cells[row["assignment"]] = totals(row)[2] if complete else ""
    lines = [
        [student, *(cells.get(name, "") for name in names)] for student, cells in grades.items()
    ]
    write_text(out / "moodle.csv", to_csv(("username", *names), lines), encoding="utf-8-sig")
    # https://community.canvaslms.com: a student is found by the login, the rest may be empty.
    canvas = [("Points Possible", "", "", "", "", *(f"{most[name]:g}" for name in names))]
    canvas += [(student, "", "", student, "", *cells) for student, *cells in lines]
    header = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section", *names)
    write_text(out / "canvas.csv", to_csv(header, canvas), encoding="utf-8-sig")


def row_sentences(row: Row) -> list[str]:
    """Every message on a row: the problems, and what only the teacher sees."""
    return [*row["problems"], *row.get("for_teacher", ())]


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
    messages = [f"- {sentence}" for row in table for sentence in row_sentences(row)]
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
                f"### {row['student']}\n\n{answer_text(part['answer'], question)}"
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


def match_students(students: Iterable[str]) -> Callable[[str], str]:
    """A function that gives the name of a student where a spreadsheet has changed it.

    It drops the zeros in front of a number, and may write accents in another way.
    """
    names = set(students)
    by_plain: dict[str, list[str]] = {}
    for name in names:
        by_plain.setdefault(_plain(name), []).append(name)

    def student_of(written: str) -> str:
        likely = by_plain.get(_plain(written), [])
        return written if written in names or len(likely) != 1 else likely[0]

    return student_of


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
