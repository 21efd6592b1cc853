"""What a teacher reads after grading: tables, messages, and the written answers with their marking schemes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from radin.files import atomic_path, hash_text
from submissions import ClassroomError

Row = dict[str, Any]
Key = tuple[str, str, str]  # student, assignment, part
Mark = tuple[
    float, str, float | None
]  # the most points, a hash of the answer that was read, points
MARKS = ("student", "assignment", "part", "of", "answer", "points")


def write(
    table: list[Row],
    rubrics: Mapping[str, Mapping[str, tuple[str, float, str]]],
    out: Path,
) -> None:
    """Write grades.csv, parts.csv, grades.md, by_hand.md and marks.csv to `out`.

    What a teacher filled in in marks.csv stays there, and counts: it fills the parts that wait for a reader. An answer
    that changed since waits again, which is one of the row's problems.
    """
    marks = read_marks(out / "marks.csv")
    waiting = [(row, part) for row in table for part in row["parts"] if part["points"] is None]
    for row, part in waiting:
        key, answer = (row["student"], row["assignment"], part["part"]), _hash(part["answer"])
        of, read, mark = marks.get(key, (part["of"], "", None))
        if mark is not None and read not in ("", answer):
            row["problems"].append(
                f"{row['student']}, {row['assignment']}: the answer to {part['part']} changed after it was given "
                f"{mark:g} points; mark it again."
            )
            mark = None
        marks[key] = (of, answer, mark)
        if mark is not None and mark > part["of"]:
            raise ClassroomError(
                f"{out / 'marks.csv'}: {row['student']} has {mark:g} points for {part['part']} of {row['assignment']}, "
                f"and {part['of']:g} is the most"
            )
    write_text(out / "by_hand.md", by_hand(waiting, rubrics))
    for row, part in waiting:
        part["points"] = marks[row["student"], row["assignment"], part["part"]][2]
    write_text(
        out / "marks.csv",
        to_csv(
            MARKS,
            (
                (*key, f"{of:g}", answer, _text(points))
                for key, (of, answer, points) in marks.items()
            ),
        ),
    )
    parts = [
        (
            row["student"],
            row["assignment"],
            part["part"],
            _text(part["points"]),
            f"{part['of']:g}",
            part["says"],
        )
        for row in table
        for part in row["parts"]
    ]
    write_text(
        out / "parts.csv",
        to_csv(
            ("student", "assignment", "part", "points", "of", "message"),
            parts,
        ),
    )
    header = ("student", "assignment", "points", "of", "to mark", "messages")
    write_text(
        out / "grades.csv",
        to_csv(
            header,
            ((*totals(row), " ".join(row["problems"])) for row in table),
        ),
    )
    write_text(out / "grades.md", "# Grades\n\n" + summary(table) + "\n")


def totals(row: Row) -> tuple[str, str, str, str, str]:
    """Student, assignment, points so far, points there are, points that wait for a reader."""
    points = sum(part["points"] or 0 for part in row["parts"])
    waiting = sum(part["of"] for part in row["parts"] if part["points"] is None)
    return (
        row["student"],
        row["assignment"],
        f"{points:g}",
        f"{sum(p['of'] for p in row['parts']):g}",
        f"{waiting:g}",
    )


def summary(table: list[Row]) -> str:
    """The grades as a table, then every message, in Markdown that reads well as it is."""
    rows = [
        (
            *totals(row),
            ", ".join(part["part"] for part in row["parts"] if part["says"])
            or ("" if row["parts"] else "-"),
        )
        for row in table
    ]
    text = markdown(
        ("student", "assignment", "points", "of", "to mark", "failed tests"),
        rows,
    )
    told = [f"- {sentence}" for row in table for sentence in row["problems"]]
    return text + ("\n\nMessages:\n\n" + "\n".join(told) if told else "")


def by_hand(
    waiting: Sequence[tuple[Row, Row]],
    rubrics: Mapping[str, Mapping[str, tuple[str, float, str]]],
) -> str:
    """Every question that a person marks: its marking scheme, then the answers."""
    text = [
        "# To be marked by hand",
        "Write the points into marks.csv beside this file and grade again.",
    ]
    for name, questions in rubrics.items():
        for part, (question, most, scheme) in questions.items():
            text += [f"## {name}, {part}: {most:g} points", question, scheme]
            answers = [
                (r["student"], p["answer"])
                for r, p in waiting
                if (r["assignment"], p["part"]) == (name, part)
            ]
            text += [f"### {student}\n\n{answer}" for student, answer in answers] or [
                "*No answer waits.*"
            ]
    return "\n\n".join(text) + "\n"


def read_marks(path: Path) -> dict[Key, Mark]:
    """Points that a person gave, by student, assignment and part: (of, answer, points or None)."""
    if not path.is_file():
        return {}
    found: dict[Key, Mark] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, line in enumerate(csv.DictReader(file), start=2):
            try:
                given = (line["points"] or "").strip().replace(",", ".")
                points = float(given) if given else None
                found[line["student"], line["assignment"], line["part"]] = (
                    float(line["of"]),
                    (line.get("answer") or "").strip(),
                    points,
                )
                if points is not None and not points >= 0:
                    raise ValueError
            except (KeyError, TypeError, ValueError):
                raise ClassroomError(
                    f"{path}, line {number}: needs {', '.join(MARKS)}, the points a number of 0 or more, or empty"
                ) from None
    return found


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns stand below each other."""
    lines = [
        list(header),
        *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows),
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def to_csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()


def _hash(answer: str) -> str:
    """Names an answer; a spreadsheet takes it for no number."""
    return "a" + hash_text(answer)[:8]


def _text(points: float | None) -> str:
    return "" if points is None else f"{points:g}"


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text, "utf-8")
