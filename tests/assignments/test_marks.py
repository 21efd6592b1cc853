"""notebooks/assignments/marks.py: the table of marks as spreadsheets save it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marks import MARKS_HEADER, read_marks
from submissions import ClassroomError

TABLE = (
    "student,assignment,part,of,answer,points\nzoë,one,why,2,a6d70ccd0,1\nabe,one,why,2,a1,0.5\n"
)
MARKS = {("zoë", "one", "why"): (2, "a6d70ccd0", 1), ("abe", "one", "why"): (2, "a1", 0.5)}
GERMAN = TABLE.replace(",", ";").replace("0.5", "0,5")


def read(folder: Path, content: bytes | str) -> dict[tuple[str, str, str], tuple]:
    path = folder / "marks.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    marks = read_marks(path)
    assert marks.slips == []
    return marks.points


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode(),
        TABLE.encode("utf-8-sig"),
        TABLE.encode("cp1252"),
        TABLE.replace(",", "\t").encode("utf-16"),
        b"\xfe\xff" + TABLE.encode("utf-16-be"),
        GERMAN.encode("utf-8-sig"),
        GERMAN.encode("cp1252"),
        f"sep=;\r\n{GERMAN}".encode(),
        TABLE.replace("\n", "\r\n").encode(),
        TABLE.replace("\n", "\r").encode(),
        (TABLE + ",,,,,\n\n , ,,,,\n").encode(),
        b"\n" + TABLE.encode(),
        TABLE.replace("0.5", "25%").encode(),
        TABLE.replace("0.5", "25 %").encode(),
        TABLE.replace("0.5", '"0,5"').encode(),
        TABLE.replace("student,", "Student , ").replace("\nabe,", "\n abe ,").encode(),
        TABLE.replace("points\n", "points,remark\n").replace("0.5\n", "0.5,good\n").encode(),
        (TABLE + "abe,one,why,2,a1,\n").encode(),  # a second line without points
    ],
)
def test_every_way_to_save_it_gives_the_same_marks(tmp_path, content):
    assert read(tmp_path, content) == MARKS


def test_a_column_left_out_and_a_row_cut_short(tmp_path):
    table = "student;assignment;part;of;points\nabe;one;why;2\nzoë;one;why;2;1,5\n"
    assert read(tmp_path, table) == {
        ("abe", "one", "why"): (2, "", None),
        ("zoë", "one", "why"): (2, "", 1.5),
    }


def test_no_table_no_marks(tmp_path):
    assert read_marks(tmp_path / "marks.csv").points == {}
    assert read(tmp_path, "") == read(tmp_path, ",".join(MARKS_HEADER)) == {}


FIRST = TABLE.splitlines()[:2]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        *((f"abe,one,why,2,a1,{text}", "line 3 (abe, one, why): needs points that are empty or a")
          for text in ("many", "-1", "nan", "1_0", '"1.000,5"', "%", "01. Mai")),
        ("abe,one,why,2,a1,2.5", "line 3 (abe, one, why): gives 2.5 points, and 2 is the maximum"),
        ("abe,one,why,2,a1,0,5", "line 3 (abe, one, why): has more cells than the header; write"),
        (",one,why,2,a1,1", "line 3 (one, why): needs a student, an assignment and a part"),
        ("abe,one,why,,a1,1", "line 3 (abe, one, why): needs points"),
        ("zoë,one,why,2,a6d70ccd0,2", "(zoë, one, why): the lines of this part give 1 and 2"),
    ],
)  # fmt: skip
def test_a_slip_costs_no_other_mark_and_is_named_with_its_line(tmp_path, line, sentence):
    path = tmp_path / "marks.csv"
    path.write_text("\n".join([*FIRST, line, "cy,one,why,2,a1,1"]), "utf-8")
    marks = read_marks(path)
    assert marks.points["cy", "one", "why"] == (2, "a1", 1)
    assert marks.points["zoë", "one", "why"][2] == (None if line.startswith("zoë") else 1)
    assert marks.points.get(("abe", "one", "why"), (2, "a1", None))[2] is None
    assert sentence in marks.slips[-1].message
    # Written again, it is a slip again.
    file = io.StringIO()
    csv.writer(file).writerows([MARKS_HEADER, *(slip.cells for slip in marks.slips)])
    path.write_text(file.getvalue(), "utf-8")
    assert len(read_marks(path).slips) == len(marks.slips)


def test_the_assignment_knows_the_maximum_better_than_the_table(tmp_path):
    path = tmp_path / "marks.csv"
    path.write_text("student,assignment,part,of,points\nabe,one,why,9,5\nbo,one,why,,50%\n")
    marks = read_marks(path, {("one", "why"): 4.0})
    assert marks.points["bo", "one", "why"] == (4.0, "", 2.0)
    assert "gives 5 points, and 4 is the maximum" in marks.slips[0].message


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(ClassroomError, match="no column 'part'; its header is student,assignment"):
        read(tmp_path, "student,assignment,points\nabe,one,1\n")


def test_a_workbook_is_called_one(tmp_path):
    with pytest.raises(ClassroomError, match="a workbook, not a table; save it as CSV"):
        read(tmp_path, b"PK\x03\x04")


NAMES = st.text(st.characters(codec="cp1252", exclude_categories=["Cc", "Zs"]), min_size=1)


@given(
    keys=st.lists(st.tuples(NAMES, NAMES, NAMES), max_size=5, unique=True),
    points=st.lists(st.none() | st.floats(0, 100), min_size=5, max_size=5),
    delimiter=st.sampled_from(",;\t"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    comma=st.booleans(),
)
def test_any_marks_survive_any_spreadsheet(
    tmp_path_factory, keys, points, delimiter, encoding, comma
):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(MARKS_HEADER)
    wanted = {}
    for key, number in zip(keys, points, strict=False):
        text = "" if number is None else repr(number)
        writer.writerow([*key, 100, "a1", text.replace(".", ",") if comma else text])
        wanted[key] = (100.0, "a1", number)
    assert read(tmp_path_factory.getbasetemp(), file.getvalue().encode(encoding)) == wanted
