"""The table of points that a person gives, as this software or a spreadsheet has written it."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from pathlib import Path

from submissions import ClassroomError

Key = tuple[str, str, str]  # student, assignment, part
Mark = tuple[float, str, float | None]  # maximum, hash of the answer that was marked, points
MARKS_HEADER = ("student", "assignment", "part", "of", "answer", "points")
DELIMITERS = ",;\t"


def read_marks(path: Path) -> dict[Key, Mark]:
    """The points that a person gave, by student, assignment and part.

    The table may have been saved by a spreadsheet: in UTF-8, UTF-16 or Windows-1252, with commas,
    semicolons or tabs between its columns, with empty rows, decimal commas and percent signs. 50%
    is half of the maximum.

    Raises:
        ClassroomError: a line that cannot be read, or two lines that give different points.
    """
    if not path.is_file():
        return {}
    found: dict[Key, Mark] = {}
    for number, row in _rows(path):
        try:
            key = (row["student"], row["assignment"], row["part"])
            maximum = _number(row["of"])
            points = _points(row["points"], maximum)
            if not all(key):
                raise ValueError
        except (KeyError, ValueError):
            raise ClassroomError(
                f"{path}, line {number}: needs {', '.join(MARKS_HEADER)}; points must be empty or "
                "a number of at least 0"
            ) from None
        before = found.get(key, (maximum, "", None))[2]
        if before is not None and points is not None and before != points:
            raise ClassroomError(
                f"{path}, line {number}: {', '.join(key)} has {before:g} points in a line above "
                f"and {points:g} here; delete one of the lines"
            )
        found[key] = (maximum, row.get("answer", ""), before if points is None else points)
    return found


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The number of each line that is not empty, and its cells by the names in the header."""
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
        for cells in reader:
            texts = [cell.strip() for cell in cells]
            number = reader.line_num + skipped
            if any(texts[len(names) :]):
                raise ClassroomError(
                    f"{path}, line {number}: more cells than the header has; write a decimal "
                    "point, or put a number with a comma in quotation marks"
                )
            if any(texts):
                texts += [""] * (len(names) - len(texts))
                yield number, dict(zip(names, texts, strict=False))
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
