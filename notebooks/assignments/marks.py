"""The table of points that a person gives, as this software or a spreadsheet has written it."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from submissions import ClassroomError

Key = tuple[str, str, str]  # student, assignment, part
Mark = tuple[float, str, float | None]  # maximum, hash of the answer that was marked, points
MARKS_HEADER = ("student", "assignment", "part", "of", "answer", "points")
REQUIRED_COLUMNS = ("student", "assignment", "part", "points")
DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Slip:
    """A line whose points cannot be used. It stays in the table as it was written.

    Attributes:
        key: student, assignment and part, as far as the line names them.
        cells: of the line, in the order of `MARKS_HEADER`.
        message: a sentence with the number of the line and what to do.
    """

    key: Key
    cells: tuple[str, ...]
    message: str


class Marks(NamedTuple):
    """What a table of marks holds. A mark with a slip in one of its lines has no points."""

    points: dict[Key, Mark]
    slips: list[Slip]


class _Line(NamedTuple):
    number: int
    key: Key
    cells: tuple[str, ...]
    text: str  # of its points; not empty when there is a fault
    maximum: float
    answer: str
    points: float | None
    fault: str  # why the points cannot be used, or empty


def read_marks(path: Path, maxima: Mapping[tuple[str, str], float] | None = None) -> Marks:
    """The points that a person gave, by student, assignment and part.

    The table may have been saved by a spreadsheet: in UTF-8, UTF-16 or Windows-1252, with commas,
    semicolons or tabs between its columns, with empty rows, decimal commas and percent signs. 50%
    is half of the maximum.

    Args:
        path: of the table. Without such a file there are no marks.
        maxima: the most points for an assignment and part. Others have theirs in the table.

    Raises:
        ClassroomError: the file is not a table, or a column is missing.
    """
    if not path.is_file():
        return Marks({}, [])
    lines: dict[Key, list[_Line]] = {}
    for number, row, too_many in _rows(path):
        line = _read_line(row, number, too_many, maxima or {})
        lines.setdefault(line.key, []).append(line)
    marks = Marks({}, [])
    for key, same in lines.items():
        given = {line.points for line in same if line.points is not None}
        fault = next((line.fault for line in same if line.fault), "")
        if len(given) > 1:
            listed = " and ".join(f"{points:g}" for points in sorted(given))
            fault = f"the lines of this part give {listed} points; keep one of them"
        if fault:
            marks.slips.extend(_slip(path, line, line.fault or fault) for line in same if line.text)
        if all(key):
            points = None if fault or not given else given.pop()
            marks.points[key] = (same[-1].maximum, same[-1].answer, points)
    return marks


def _read_line(
    row: Mapping[str, str], number: int, too_many: bool, maxima: Mapping[tuple[str, str], float]
) -> _Line:
    student, assignment, part = (row[name] for name in MARKS_HEADER[:3])
    text = row["points"]
    fault = ""
    maximum, points = 0.0, None
    try:
        maximum = maxima.get((assignment, part)) or _number(row.get("of", ""))
        points = _points(text, maximum)
    except ValueError:
        fault = f"needs points that are empty or a number of at least 0, not {text!r}"
    if points is not None and points > maximum:
        fault = f"gives {points:g} points, and {maximum:g} is the maximum"
    if not (student and assignment and part):
        fault = "needs a student, an assignment and a part"
    if too_many:
        fault = (
            "has more cells than the header; write a decimal point, or put a number with a comma "
            "in quotation marks"
        )
    return _Line(
        number=number,
        key=(student, assignment, part),
        cells=tuple(row.get(name, "") for name in MARKS_HEADER),
        text=text or fault,
        maximum=maximum,
        answer=row.get("answer", ""),
        points=None if fault else points,
        fault=fault,
    )


def _slip(path: Path, line: _Line, fault: str) -> Slip:
    who = ", ".join(filter(None, line.key))
    message = f"{path}, line {line.number}{f' ({who})' if who else ''}: {fault}"
    return Slip(line.key, line.cells, f"{message}; until then these points do not count")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str], bool]]:
    """The number of each line that is not empty, its cells by name, and whether it has too many."""
    lines = _decode(path).splitlines(keepends=True)
    skipped = 0
    # Excel's own hint of the delimiter, and empty lines, may come before the header.
    while skipped < len(lines) and (
        not lines[skipped].strip() or lines[skipped].lower().startswith("sep=")
    ):
        skipped += 1
    header = lines[skipped] if len(lines) > skipped else ""
    delimiter = max(DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO("".join(lines[skipped:]), newline=""), delimiter=delimiter)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        if missing := [name for name in REQUIRED_COLUMNS if names and name not in names]:
            raise ClassroomError(
                f"{path}: no column {missing[0]!r}; its header is {','.join(MARKS_HEADER)}"
            )
        for cells in reader:
            texts = [cell.strip() for cell in cells]
            number = reader.line_num + skipped
            extra = " ".join(filter(None, texts[len(names) :]))
            if any(texts):
                texts += [""] * (len(names) - len(texts))
                row = dict(zip(names, texts, strict=False))
                if extra:  # so that the line, written again, is no number either
                    row["points"] += f" {extra}"
                yield number, row, bool(extra)
    except csv.Error as error:
        raise ClassroomError(f"{path}: not a table ({error}); save it as CSV") from None


def _decode(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ClassroomError(f"{path}: could not be read ({error.strerror})") from None
    if content.startswith(b"PK"):
        raise ClassroomError(f"{path}: a workbook, not a table; save it as CSV")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:  # what Excel calls CSV
        return content.decode("cp1252", "replace")


def _points(text: str, maximum: float) -> float | None:
    if not text:
        return None
    points = _number(text.removesuffix("%"))
    if text.endswith("%"):
        points = points / 100 * maximum
    if not points >= 0:  # NaN fails this too
        raise ValueError
    return points


def _number(text: str) -> float:
    """A number with a decimal point or comma."""
    if "_" in text:  # float() takes it between digits
        raise ValueError
    return float(text.strip().replace(",", "."))
