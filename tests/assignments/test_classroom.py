"""Grading, with nbgrader itself: right and wrong answers, untouched and damaged notebooks."""

from __future__ import annotations

import ast
import codecs
import csv
import json
import os
import re
import subprocess
import sys
from collections import ChainMap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError
from nbformat import v4

import classroom
import grading
import leaderboard
import submissions
from grading import grading_key, make_release, rubrics
from samples import (
    hand_in,
    is_answer,
    is_written,
    right_answers,
    side_by_side,
    solved,
    source,
    student_version,
    with_copy,
    with_mistakes,
    without,
    wrong_answers,
)
from submissions import (
    SOURCE,
    ClassroomError,
    assignment_names,
    compare_with_release,
    find_submissions,
    grade_id,
    graded_cells,
    load_releases,
)

ASSIGNMENTS = ("soups", "first_order", "budget")
# Each run of the tests has all of the first assignment; of the others, one mistake in each answer.
# `make test ALL=1` has the rest.
SHORT = ASSIGNMENTS[0]
GRADED = [SHORT, *(pytest.param(name, marks=pytest.mark.whole) for name in ASSIGNMENTS[1:])]


def is_quick(name: str, mistake: str) -> bool:
    """Whether a mistake is tried in each run of the tests."""
    return name == SHORT or mistake in side_by_side(name)[0]


MISTAKES = [
    pytest.param(name, mistake, marks=() if is_quick(name, mistake) else pytest.mark.whole)
    for name in ASSIGNMENTS
    for mistake in wrong_answers(name)
]
Row = dict[str, Any]


@pytest.fixture(scope="module")
def grades(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Row]]:
    """The rows of all submissions of an assignment, by student, from one call of `grade_all`."""

    @cache
    def rows(name: str) -> dict[str, Row]:
        folder, out = tmp_path_factory.mktemp(name), tmp_path_factory.mktemp(f"{name}-graded")
        hand_in(folder, "reference", name, solved(name))
        hand_in(folder, "untouched", name, student_version(name))
        hand_in(folder, "mistaken", name, with_mistakes(name, side_by_side(name)[0]))
        first_test = next(iter(coded_parts(name)))
        meddled = without(with_copy(solved(name), next(iter(answers_of(name)))), first_test)
        hand_in(folder, "meddled", name, meddled)
        table = classroom.grade_all(folder, out, progress=False)
        assert (out / "feedback" / "reference" / f"{name}.html").is_file()
        return {row["student"]: row for row in table}

    return rows


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str], dict[str, dict[str, str]]]:
    """Of one assignment the tests that fail with each mistake alone, by mistake."""

    @cache
    def failed(name: str) -> dict[str, dict[str, str]]:
        every = request.config.getoption("--all")
        mistakes = [each for each in wrong_answers(name) if every or is_quick(name, each)]
        return run_cells(tmp_path_factory.mktemp(f"{name}-alone"), name, *mistakes)

    return failed


def run_cells(
    folder: Path, name: str, *mistakes: str, **environment: str
) -> dict[str, dict[str, str]]:
    command = [
        sys.executable,
        str(Path(__file__).with_name("run_cells.py")),
        name,
        str(folder / "result.json"),
        *mistakes,
    ]
    environment = os.environ | {"MPLBACKEND": "agg", "TQDM_DISABLE": "1"} | environment
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "result.json").read_text("utf-8"))


def coded_parts(name: str) -> dict[str, float]:
    """The coded parts of an assignment, with their points."""
    return {
        cell: graded.metadata.nbgrader.points
        for cell, graded in graded_cells(source(name)).items()
        if graded.metadata.nbgrader.grade and not is_answer(graded)
    }


def answers_of(name: str) -> dict[str, Any]:
    return {
        cell: found
        for cell, found in graded_cells(source(name)).items()
        if is_answer(found) and not is_written(found)
    }


def points(row: Row) -> dict[str, float | None]:
    return {part["part"]: part["points"] for part in row["parts"]}


def messages(row: Row) -> dict[str, str]:
    return {part["part"]: part["message"] for part in row["parts"] if part["message"]}


# ---------------------------------------------------------------- sources and student versions


def test_all_three_assignments_are_there():
    assert set(assignment_names()) == set(ASSIGNMENTS)
    assert set(assignment_names(submissions.RELEASE)) == set(ASSIGNMENTS)


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_each_assignment_has_points_rubrics_and_at_least_four_mistakes(name):
    assert all(points > 0 and points == int(points) for points in coded_parts(name).values())
    assert len(wrong_answers(name)) >= 4
    written = rubrics(SOURCE, name)
    assert 2 <= len(written) <= 3
    for question, maximum, scheme in written.values():
        assert question.strip()
        assert "Rubric" in scheme
        assert sum(int(n) for n in re.findall(r"^- (\d+)\b", scheme, re.M)) == maximum
    ids = [grade_id(cell) for cell in source(name).cells if grade_id(cell)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_the_student_version_is_current(name):
    path = submissions.RELEASE / name / f"{name}.ipynb"
    assert path.read_bytes() == make_release(name, SOURCE), "run `make assignments`"


# The student's own functions that a test may replace, so that no mistake costs points twice.
SWAPPED = {
    "soups": set(),
    "first_order": {"coefficients", "directional", "soup_and_ensemble"},
    "budget": {"estimate", "ranking", "spend"},
}


def bound_by(node: ast.AST) -> set[str]:
    """The names that a statement binds in its own scope, not within a function."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        return set()
    if isinstance(node, ast.alias):
        return {(node.asname or node.name).split(".")[0]}
    own = {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
    return own.union(*(bound_by(child) for child in ast.iter_child_nodes(node)))


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_tests_replace_no_name_of_a_student(name):
    cells = graded_cells(source(name))
    bound = {part: bound_by(ast.parse(cells[part].source)) for part in coded_parts(name)}
    taken = {
        part: {each for each in names if not each.startswith("_")} for part, names in bound.items()
    }
    assert set().union(*taken.values()) == SWAPPED[name], taken
    assert set(answers_of(name)) >= SWAPPED[name]


def secret_lines(text: str) -> set[str]:
    """Lines of solutions, hidden tests and marking schemes that are nowhere else in a source."""
    inside, secret, public = False, set(), set()
    for line in text.splitlines():
        if re.search(r"BEGIN (SOLUTION|HIDDEN TESTS|MARK SCHEME)", line):
            inside = True
        elif re.search(r"END (SOLUTION|HIDDEN TESTS|MARK SCHEME)", line):
            inside = False
        elif len(line.strip()) > 12:
            (secret if inside else public).add(line.strip())
    return secret - public


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_the_student_version_holds_no_solutions(name):
    text = "\n".join(cell.source for cell in source(name).cells)
    secret = secret_lines(text)
    assert len(secret) > 40
    shown = "\n".join(cell.source for cell in student_version(name).cells)
    assert not re.search(r"(BEGIN|END) (SOLUTION|HIDDEN|MARK)|[Rr]ubric|Reference answer", shown)
    assert not [line for line in shown.splitlines() if line.strip() in secret]
    assert not any(cell.get("outputs") for cell in student_version(name).cells)


# ---------------------------------------------------------------- grades


@pytest.mark.parametrize("name", GRADED)
def test_the_reference_solution_earns_every_point(grades, name):
    row = grades(name)["reference"]
    assert row["problems"] == []
    assert messages(row) == {}
    found = points(row)
    assert {part: found[part] for part in coded_parts(name)} == coded_parts(name)
    assert [found[part] for part in rubrics(SOURCE, name)] == [None] * len(rubrics(SOURCE, name))


@pytest.mark.parametrize("name", GRADED)
def test_an_untouched_student_version_earns_nothing_and_gets_reasons(grades, name):
    row = grades(name)["untouched"]
    assert set(points(row).values()) == {0}
    assert row["problems"] == []
    for part in coded_parts(name):
        assert re.search(r"(\w+) is not written yet: replace", messages(row)[part]), part
        assert re.search(r"(\w+) is not written yet", messages(row)[part])[1] in answers_of(name)


@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_a_typical_mistake_costs_exactly_its_points(alone, name, mistake):
    failed = alone(name)[mistake]
    assert {part: coded_parts(name).get(part) for part in failed} == wrong_answers(name)[mistake][
        1
    ], failed
    for (
        text
    ) in failed.values():  # a sentence, no traceback from nowhere; radin's own BudgetError is one
        assert " " in text
        assert "Error:" not in text.removeprefix("BudgetError:")


def test_other_right_answers_lose_nothing(tmp_path):
    variants = list(right_answers("soups"))
    assert run_cells(tmp_path, "soups", *variants) == {variant: {} for variant in variants}


@pytest.mark.parametrize("name", GRADED)
def test_mistakes_in_one_submission_cost_the_points_of_each(grades, name):
    row, mistakes = grades(name)["mistaken"], side_by_side(name)[0]
    assert len(mistakes) >= 4
    lost = {
        part: maximum - points(row)[part]
        for part, maximum in coded_parts(name).items()
        if points(row)[part] != maximum
    }
    assert lost == dict(ChainMap(*(wrong_answers(name)[mistake][1] for mistake in mistakes))), (
        messages(row)
    )
    assert set(messages(row)) == set(lost)


@pytest.mark.parametrize("name", GRADED)
def test_a_deleted_test_and_a_copied_answer_are_named_and_cost_nothing(grades, name):
    row = grades(name)["meddled"]
    answer, test = next(iter(answers_of(name))), next(iter(coded_parts(name)))
    assert row["problems"] == [
        (
            f"meddled, {name}, cell {answer} is there 2 times, and only the last one counts; "
            "delete the others."
        ),
        (
            f"meddled, {name}, cell {test} is missing and was put back to grade; "
            "copy the cell from the student version."
        ),
    ]
    assert {part: points(row)[part] for part in coded_parts(name)} == coded_parts(name)


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_another_hidden_seed_passes_the_right_answers(name, tmp_path):
    assert run_cells(tmp_path, name, "reference", RADIN_HIDDEN_SEED="7") == {"reference": {}}


# ---------------------------------------------------------------- mangled notebooks, compared only


def problems(tmp_path: Path, notebook: Any, name: str = "soups") -> list[tuple[str, str]]:
    return compare_with_release(hand_in(tmp_path, "ann", name, notebook), name, load_releases())[1]


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_an_honest_notebook_has_no_problems(tmp_path, name):
    for notebook in (student_version(name), solved(name)):
        notebook.cells.insert(3, v4.new_code_cell("my_own = 1"))
        found, issues = compare_with_release(
            hand_in(tmp_path, "ann", name, notebook), name, load_releases()
        )
        assert issues == []
        assert [cell.source for cell in found.cells] == [cell.source for cell in notebook.cells]


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("soup", "is missing, with what was written in it"),
        ("test_soup", "is missing and was put back to grade"),
        ("setup", "is missing and was put back to grade"),
        ("question_cost", "is missing, so the question counts as not answered"),
    ],
)
def test_a_deleted_cell_is_one_message(tmp_path, cell, sentence):
    (issue,) = problems(tmp_path, without(solved("soups"), cell))
    assert issue[0] == cell
    assert sentence in issue[1]
    assert "copy the cell from the student version" in issue[1]


def test_a_deleted_cell_is_put_back_where_it_was(tmp_path):
    notebook = without(without(solved("soups"), "test_soup"), "test_soup_half")
    path = hand_in(tmp_path, "ann", "soups", notebook)
    repaired, _ = compare_with_release(path, "soups", load_releases())
    assert list(graded_cells(repaired)) == list(graded_cells(student_version("soups")))


def test_an_answer_in_another_cell_is_not_hidden_by_its_stub(tmp_path):
    notebook = solved("soups")
    own = graded_cells(notebook)["soup"]
    own.metadata = {}
    repaired, issues = compare_with_release(
        hand_in(tmp_path, "ann", "soups", notebook), "soups", load_releases()
    )
    assert [cell for cell, _ in issues] == ["soup"]
    assert [cell.source for cell in repaired.cells].count(own.source) == 1
    assert "soup" not in graded_cells(repaired)


@pytest.mark.parametrize("cell", ["soup", "test_soup", "question_cost"])
def test_a_copied_cell_is_one_message_and_the_last_counts(tmp_path, cell):
    notebook = with_copy(solved("soups"), cell)
    path = hand_in(tmp_path, "ann", "soups", notebook)
    repaired, issues = compare_with_release(path, "soups", load_releases())
    assert issues == [(cell, "is there 2 times, and only the last one counts; delete the others")]
    assert [grade_id(found) for found in repaired.cells].count(cell) == 1
    at = [i for i, found in enumerate(notebook.cells) if grade_id(found) == cell]
    assert grade_id(repaired.cells[at[1]]) == cell


def test_a_changed_test_is_one_message_and_changed_back(tmp_path):
    notebook = solved("soups")
    graded_cells(notebook)["test_soup"].source = "assert True"
    repaired, issues = compare_with_release(
        hand_in(tmp_path, "ann", "soups", notebook), "soups", load_releases()
    )
    assert [cell for cell, _ in issues] == ["test_soup"]
    assert "was changed and is graded as it was given" in issues[0][1]
    assert (
        graded_cells(repaired)["test_soup"].source
        == graded_cells(student_version("soups"))["test_soup"].source
    )


def test_points_and_marks_cannot_be_changed(tmp_path):
    notebook = solved("soups")
    marks = graded_cells(notebook)["test_soup"].metadata.nbgrader
    marks.points, marks.locked, marks.schema_version = 300, False, "x"
    repaired, issues = compare_with_release(
        hand_in(tmp_path, "ann", "soups", notebook), "soups", load_releases()
    )
    assert issues == []
    assert (
        graded_cells(repaired)["test_soup"].metadata
        == graded_cells(student_version("soups"))["test_soup"].metadata
    )


def test_a_test_above_its_answer_is_one_message(tmp_path):
    notebook = solved("soups")
    ids = [grade_id(cell) for cell in notebook.cells]
    i, j = ids.index("ensemble"), ids.index("test_ensemble")
    notebook.cells[i], notebook.cells[j] = notebook.cells[j], notebook.cells[i]
    assert ("test_ensemble", "is above ensemble, which it needs; move it below") in problems(
        tmp_path, notebook
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "%PDF-1.7",
            "soups.ipynb is not a notebook (it is not JSON); hand in the .ipynb file itself",
        ),
        ("", "is not a notebook (it is not JSON)"),
        ("[]", "not a notebook of today's format"),
        ('{"cells": [3]}', "not a notebook of today's format"),
        ('{"worksheets": []}', "not a notebook of today's format"),
        ('{"cells": [{"cell_type": "code", "source": ["1"]}]}', "has none of the cells of soups"),
        (
            '{"cells": [{"metadata": {"nbgrader": {"grade_id": 3}}}, {"metadata": 3}]}',
            "has none of the cells of soups",
        ),
    ],
)
def test_a_file_that_is_not_a_notebook_is_reported_in_one_sentence(tmp_path, content, sentence):
    path = hand_in(tmp_path, "ann", "soups", content)
    with pytest.raises(ClassroomError, match=re.escape(sentence)):
        compare_with_release(path, "soups", load_releases())


def test_another_assignments_file_is_recognised(tmp_path):
    path = hand_in(tmp_path, "ann", "soups", solved("budget"))
    with pytest.raises(
        ClassroomError, match="is a submission of budget, not of soups; rename it to budget.ipynb"
    ):
        compare_with_release(path, "soups", load_releases())


def test_both_layouts_stray_names_and_empty_folders(tmp_path):
    hand_in(tmp_path, "ann", "soups", student_version("soups"))
    hand_in(tmp_path / "bob", "soups", "soups", student_version("soups"))
    hand_in(tmp_path, "cem", "soups (1)", student_version("soups"))
    (tmp_path / "dora").mkdir()
    hand_in(tmp_path, "eli", "mine", student_version("soups"))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "ann" / ".ipynb_checkpoints").mkdir()
    hand_in(tmp_path / "ann", ".ipynb_checkpoints", "soups-checkpoint", "{}")
    found = find_submissions(tmp_path, ["soups", "budget"])
    assert [(each.student, each.assignment, bool(each.problem)) for each in found] == [
        ("ann", "soups", False),
        ("bob", "soups", False),
        ("cem", "soups", False),
        ("dora", "", True),
        ("eli", "", True),
    ]
    assert found[2].note == "soups (1).ipynb was graded as soups.ipynb; give it that name there"
    assert "holds no notebook" in found[3].problem
    assert (
        "mine.ipynb does not have the name of an assignment; "
        "rename it to one of soups.ipynb, budget.ipynb" in found[4].problem
    )


@pytest.mark.parametrize("command", ["grade", "leaderboard"])
@pytest.mark.parametrize("seconds", ["", "0", "-1", "1.5", "x", "86401", "²"])
def test_an_impossible_timeout_is_reported_in_one_sentence(tmp_path, capsys, command, seconds):
    assert classroom.main([command, str(tmp_path), f"--timeout={seconds}"]) == 1
    message = f"error: TIMEOUT is a whole number of seconds from 1 to 86400, not {seconds!r}\n"
    assert capsys.readouterr().err == message


def test_each_student_can_have_a_hidden_seed_of_their_own(small, tmp_path):
    seeds = [classroom.student_seed(7, name) for name in ("zoë", "zoe\u0308", "ann", "b\udce4r")]
    assert seeds[0] == seeds[1]  # two ways to write one name
    assert len(set(seeds)) == 3
    assert all(0 <= seed <= classroom.MAX_HIDDEN_SEED for seed in seeds)
    assert classroom.student_seed(8, "ann") != classroom.student_seed(7, "ann")
    tell = f"import os\n{RIGHT}\nraise ValueError(os.environ['RADIN_HIDDEN_SEED'])"
    for student in ("ann", "bob"):
        hand_in(tmp_path / "class", student, "one", answered(small, "one", tell))
    for by_student in (False, True):
        rows = classroom.grade_all(
            tmp_path / "class",
            tmp_path / "out",
            small / "source",
            hidden_seed=7,
            by_student=by_student,
            progress=False,
        )
        seen = [re.search(r"ValueError: (\d+)", row["problems"][0])[1] for row in rows]
        wanted = [classroom.student_seed(7, row["student"]) for row in rows]
        assert seen == (list(map(str, wanted)) if by_student else ["7", "7"])


@pytest.mark.parametrize("command", ["grade", "leaderboard"])
@pytest.mark.parametrize("seed", ["", "-1", "1.5", "x", "1000001", "²"])
def test_an_impossible_hidden_seed_is_reported_in_one_sentence(tmp_path, capsys, command, seed):
    assert classroom.main([command, str(tmp_path), f"--hidden-seed={seed}"]) == 1
    message = f"error: HIDDEN_SEED is a whole number from 0 to 1000000, not {seed!r}\n"
    assert capsys.readouterr().err == message


def test_a_missing_or_empty_folder_is_refused(tmp_path, capsys):
    assert classroom.main(["grade", str(tmp_path / "none")]) == 1
    assert (
        "no such folder; SUBMISSIONS=folder holds one folder for each student"
        in capsys.readouterr().err
    )
    assert classroom.main(["grade", str(tmp_path)]) == 1
    assert "holds no folder of a student" in capsys.readouterr().err


# ---------------------------------------------------------------- a class on a small assignment


def marked(kind: str, text: str, name: str, **marks: Any) -> Any:
    cell = v4.new_code_cell(text) if kind == "code" else v4.new_markdown_cell(text)
    cell.id = name
    cell.metadata.nbgrader = {
        "grade": False, "locked": False, "solution": False, "task": False, "schema_version": 3,
        "grade_id": name, **marks,
    }  # fmt: skip
    return cell


def small_assignment(folder: Path, name: str) -> None:
    """The source of an assignment that needs no more than Python."""
    cells = [
        marked("code", "import os", f"{name}_setup", locked=True),
        v4.new_markdown_cell("## Doubling", id="heading"),
        marked(
            "code",
            "def double(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION",
            f"{name}_double", solution=True,
        ),
        marked(
            "code",
            "try:\n    double\nexcept NameError:\n"
            "    raise AssertionError('There is no double.') from None\n"
            "assert double(2) == 4, 'double(2) must be 4.'\n"
            "### BEGIN HIDDEN TESTS\nassert double(-3) == -6, 'double(-3) must be -6.'\n"
            "### END HIDDEN TESTS",
            f"{name}_test", grade=True, locked=True, points=3,
        ),
        marked(
            "markdown",
            "Why?\n\n### BEGIN SOLUTION\nBecause.\n\n**Rubric**\n- 2: because\n### END SOLUTION",
            f"{name}_why", grade=True, solution=True, points=2,
        ),
    ]  # fmt: skip
    metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    hand_in(folder, name, name, v4.new_notebook(cells=cells, metadata=metadata))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A course of two small assignments: `source`, `release`."""
    root = tmp_path_factory.mktemp("course")
    for name in ("one", "two"):
        small_assignment(root / "source", name)
    classroom.generate(root / "source", root / "release")
    return root


def answered(root: Path, name: str, code: str, why: str = "") -> Any:
    notebook = load_releases(root / "release")[name]
    cells = graded_cells(notebook)
    cells[f"{name}_double"].source = code
    cells[f"{name}_why"].source = why or cells[f"{name}_why"].source
    return notebook


RIGHT = "def double(x):\n    return x + x"
CLASS = {
    "amy": (RIGHT, ["3", "None"], []),
    "ben": ("def double(x):\n    return abs(x + x)", ["0", "0"], []),
    "cleo": (
        "def double(x):\n    while True:\n        pass",
        ["0", "0"],
        ["cleo, one: a cell took longer than 8 seconds; this result stays, and TIMEOUT=16 grades"],
    ),
    "dan": ("import os\nos._exit(1)", ["0", "0"], ["dan, one: could not be run to its end"]),
    "eve": (
        "def double(x)\n    return",
        ["0", "0"],
        ["eve, one, cell one_double stops with an error: SyntaxError"],
    ),
    "åse o'neil": (RIGHT + "\nimport sys\nprint('noise', file=sys.stderr)", ["3", "0"], []),
}


@pytest.fixture(scope="module")
def class_of_six(
    small: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, list[Row]]:
    folder, out = tmp_path_factory.mktemp("class"), tmp_path_factory.mktemp("graded")
    for student, (code, _, _) in CLASS.items():
        hand_in(
            folder,
            student,
            "one",
            answered(small, "one", code, "Because I say so." if student == "amy" else ""),
        )
    hand_in(folder, "fay", "one", answered(small, "two", RIGHT))
    hand_in(folder, "gus", "one", "%PDF")
    hand_in(folder, "hal", "two", answered(small, "two", RIGHT))
    table = classroom.grade_all(folder, out, small / "source", workers=2, timeout=8, progress=False)
    return folder, out, table


@pytest.mark.parametrize("student", CLASS)
def test_no_submission_stops_the_others(class_of_six, student):
    row = next(row for row in class_of_six[2] if row["student"] == student)
    _, wanted, starts = CLASS[student]
    assert [f"{p:g}" if p is not None else "None" for p in points(row).values()] == wanted
    assert len(row["problems"]) == len(starts)
    assert all(
        found.startswith(start) for found, start in zip(row["problems"], starts, strict=True)
    )


def test_failed_tests_say_why(class_of_six):
    reasons = {row["student"]: messages(row).get("one_test", "") for row in class_of_six[2]}
    assert reasons["ben"] == "double(-3) must be -6."
    assert "is there a loop without end?" in reasons["cleo"]
    assert reasons["eve"] == "There is no double."
    assert reasons["amy"] == ""


def test_the_tables_hold_every_student_and_message(class_of_six):
    folder, out, _ = class_of_six
    with (out / "grades.csv").open(encoding="utf-8", newline="") as file:
        grades = {(row["student"], row["assignment"]): row for row in csv.DictReader(file)}
    assert len(grades) == 9
    assert (
        grades["amy", "one"]["points"],
        grades["amy", "one"]["of"],
        grades["amy", "one"]["to mark"],
    ) == (
        "3",
        "5",
        "2",
    )
    assert "is a submission of two, not of one" in grades["fay", "one"]["messages"]
    assert "is not a notebook" in grades["gus", "one"]["messages"]
    assert grades["gus", "one"]["points"] == "0"
    assert grades["hal", "two"]["points"] == "3"
    text = (out / "grades.md").read_text("utf-8")
    assert "| ben " in text
    assert "gus, one: one.ipynb is not a notebook" in text
    by_hand = (out / "by_hand.md").read_text("utf-8")
    assert "**Rubric**\n- 2: because" in by_hand
    assert "### amy\n\nBecause I say so." in by_hand
    assert "### ben" not in by_hand
    assert sorted(path.name for path in folder.iterdir()) == sorted([*CLASS, "fay", "gus", "hal"])
    kept = [json.loads(path.read_text("utf-8")) for path in (out / "graded").iterdir()]
    assert len(kept) == 6  # cleo's, too; not dan's, whose kernel died, nor fay's and gus's
    assert "no answer in the time" in json.dumps(kept)


def feedback_of(out: Path, student: str) -> str:
    return (out / "feedback" / student / "one.html").read_text("utf-8")


def test_feedback_names_the_parts_says_what_is_not_marked_and_hides_hidden_tests(class_of_six):
    out = class_of_six[1]
    amy, ben = feedback_of(out, "amy"), feedback_of(out, "ben")
    assert '<td>Doubling (one test)</td><td class="points">3 of 3</td>' in amy
    assert '<td>Doubling (one why)</td><td class="points">not yet marked (of 2)</td>' in amy
    assert "3 of 3 points; the parts that are not yet marked give up to 2 more." in amy
    assert "Because I say so." in amy
    assert "return x + x" in amy
    assert '<p>double(-3) must be -6.</p></td><td class="points">0 of 3</td>' in ben
    assert "no answer in the time" in feedback_of(out, "cleo")
    assert "could not be run to its end" in feedback_of(out, "dan")
    assert "is not a notebook" in feedback_of(out, "gus")
    for page in (path.read_text("utf-8") for path in (out / "feedback").rglob("*.html")):
        assert "assert" not in page  # a test, hidden or not
        assert "Because.\n" not in page
        assert not re.search(r"https?:|<script|<link|<img|@import|url\(", page)


def test_the_gradebooks_have_a_column_for_each_assignment(class_of_six):
    def table(name: str) -> list[list[str]]:
        with (class_of_six[1] / name).open(encoding="utf-8-sig", newline="") as file:
            return list(csv.reader(file))

    moodle, canvas = table("moodle.csv"), table("canvas.csv")
    assert moodle[0] == ["username", "one", "two"]
    grades = {name: cells for name, *cells in moodle[1:]}
    # Amy's answer waits for its mark, Dan's and Gus's notebooks could not be graded.
    assert grades == {
        "amy": ["", ""],
        "ben": ["0", ""],
        "cleo": ["0", ""],
        "dan": ["", ""],
        "eve": ["0", ""],
        "fay": ["", ""],
        "gus": ["", ""],
        "hal": ["", "3"],
        "åse o'neil": ["3", ""],
    }
    header = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "one", "two"]
    assert canvas[:2] == [header, ["Points Possible", "", "", "", "", "5", "5"]]
    assert ["hal", "", "", "hal", "", "", "3"] in canvas


def test_after_a_loop_the_other_cells_get_less_time():
    late = v4.new_code_cell(outputs=[v4.new_output("error", ename="CellTimeoutError", evalue="")])
    limit = grading._CellTime(120)
    assert [limit(v4.new_code_cell()), limit(late), limit(v4.new_code_cell())] == [120, 120, 30]
    assert limit(v4.new_code_cell()) == 30
    assert grading.default_timeout() == 120


def test_the_key_of_a_grading_includes_the_time_limit(small, tmp_path):
    path = hand_in(tmp_path, "ann", "one", answered(small, "one", RIGHT))
    keys = {
        grading_key(path, small, "one", hidden_seed=seed, timeout=timeout)
        for seed in (0, 1)
        for timeout in (None, 5, 6)
    }
    assert len(keys) == 6


def stored(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "graded").iterdir()}


def test_results_are_stored_and_marks_by_hand_are_added(small, class_of_six, capsys):
    folder, out, _ = class_of_six

    def grade() -> dict[str, Row]:
        (folder / "dan" / "one.ipynb").unlink(missing_ok=True)  # its kernel ends each time
        rows = classroom.grade_all(folder, out, small / "source", timeout=8, progress=False)
        return {row["student"]: row for row in rows}

    before = stored(out)
    marks = out / "marks.csv"
    assert marks.read_bytes().startswith(codecs.BOM_UTF8)  # for Excel
    header, line = marks.read_text("utf-8-sig").splitlines()
    assert header == "student,assignment,part,of,answer,points"
    assert re.fullmatch(r"amy,one,one_why,2,a[0-9a-f]{8},", line)
    marks.write_text(f"{header}\n{line}1.5\n", "utf-8")
    hand_in(folder, "ben", "one", answered(small, "one", RIGHT))
    table = grade()
    # Only Ben's was run again, not Cleo's with its loop.
    assert len(before.items() - stored(out).items()) == 1
    assert points(table["amy"]) == {"one_test": 3, "one_why": 1.5}
    assert points(table["ben"])["one_test"] == 3
    assert "no answer in the time" in messages(table["cleo"])["one_test"]
    assert marks.read_text("utf-8-sig") == f"{header}\n{line}1.5\n"
    assert '<td class="points">1.5 of 2</td>' in feedback_of(out, "amy")
    with (out / "moodle.csv").open(encoding="utf-8-sig", newline="") as file:
        assert {row["username"]: row["one"] for row in csv.DictReader(file)}["amy"] == "4.5"
    hand_in(folder, "amy", "one", answered(small, "one", RIGHT, "Because I changed my mind."))
    hand_in(folder, "ben", "one", "no JSON any more")
    table = grade()
    assert (
        "amy, one: the answer to one_why changed after it was given 1.5 points; mark it again."
        in table["amy"]["problems"]
    )
    assert points(table["amy"]) == {"one_test": 3, "one_why": None}
    assert "Because I changed my mind." in (out / "by_hand.md").read_text("utf-8")
    assert "x + x" not in feedback_of(out, "ben")  # of a notebook that no longer exists
    capsys.readouterr()
    for wrong, sentence in (("7", "2 is the maximum"), ("many", "not 'many'")):
        marks.write_text(f"{header}\namy,one,one_why,2,,{wrong}\n", "utf-8")
        table = grade()
        assert points(table["amy"])["one_why"] is None
        assert sentence in capsys.readouterr().err
        assert sentence in table["amy"]["problems"][-1]
        assert table["hal"]["problems"] == []
        assert sentence in (out / "grades.csv").read_text("utf-8")
        assert f"amy,one,one_why,2,,{wrong}\n" in marks.read_text("utf-8-sig")
    marks.write_text("name,mark\namy,2\n", "utf-8")
    with pytest.raises(ClassroomError, match="no column 'student'"):
        grade()


def test_marks_are_checked_before_anything_runs(small, tmp_path, monkeypatch, capsys):
    hand_in(tmp_path / "class", "ann", "one", answered(small, "one", RIGHT))
    (tmp_path / "marks.csv").write_text("student,assignment,part,points\nann,one,one_why,3\n")

    def run(*_: Any, **__: Any) -> None:
        raise RuntimeError("too late")

    monkeypatch.setattr(classroom, "_run_tasks", run)
    with pytest.raises(RuntimeError, match="too late"):
        classroom.grade_all(tmp_path / "class", tmp_path, small / "source", progress=False)
    assert "line 2 (ann, one, one_why): gives 3 points, and 2 is" in capsys.readouterr().err


def test_a_process_that_the_system_ends_is_one_message_on_one_student(small, tmp_path, monkeypatch):
    """Ann's notebook ends the process that grades it: Bob's is graded in another one."""

    def parallel(**_: Any) -> Callable[[Any], Any]:
        def results(calls: list[Any]) -> Any:
            for function, arguments, options in calls:
                if arguments[0] == 0:
                    raise TerminatedWorkerError
                yield function(*arguments, **options)

        return results

    for student in ("ann", "bob"):
        hand_in(tmp_path / "class", student, "one", answered(small, "one", RIGHT))
    monkeypatch.setattr("joblib.Parallel", parallel)
    ann, bob = classroom.grade_all(
        tmp_path / "class", tmp_path / "out", small / "source", workers=4, progress=False
    )
    assert points(ann) == {"one_test": 0, "one_why": 0}
    assert ann["problems"] == [f"ann, one: {classroom.ENDED}."]
    assert points(bob)["one_test"] == 3


def test_students_check_their_own_notebook(small, tmp_path):
    root = small / "release"
    good = hand_in(tmp_path, "good", "mine", answered(small, "one", RIGHT))
    assert classroom.check(good, root) == []
    bad = hand_in(
        tmp_path,
        "bad",
        "mine",
        with_copy(answered(small, "one", "def double(x):\n    return x"), "one_double"),
    )
    assert classroom.check(bad, root) == [
        "cell one_double is there 2 times, and only the last one counts; delete the others",
        "cell one_test: double(2) must be 4.",
    ]
    other = hand_in(tmp_path, "other", "mine", v4.new_notebook(cells=[v4.new_code_cell("1")]))
    with pytest.raises(ClassroomError, match="the cells of no assignment"):
        classroom.check(other, root)
    endless = hand_in(tmp_path, "endless", "mine", answered(small, "one", "while True:\n    pass"))
    assert classroom.check(endless, root, timeout=2)[0] == (
        "cell one_double: no answer in the time allowed for a cell: is there a loop without end?"
    )
    for ends in ("import os\nos._exit(1)", "exit()"):
        ended = hand_in(tmp_path, "ended", "mine", answered(small, "one", ends))
        with pytest.raises(ClassroomError, match="a cell ended Python itself"):
            classroom.check(ended, root)


# ---------------------------------------------------------------- the leaderboard


@pytest.mark.whole
def test_the_leaderboard_ranks_recipes_and_names_those_that_fail(tmp_path):
    folder = tmp_path / "class"
    hand_in(folder, "ann", "budget", solved("budget"))
    head = "def recipe(bank, evaluate, budget):\n"
    for student, body in {
        "bob": f"import torch\n\n{head}    return torch.eye(bank.num_models)[0]",
        "cem": f"{head}    while True:\n        evaluate(torch.eye(bank.num_models)[0])",
        "eli": "import os\nos._exit(3)",
        "fay": "def recipes():\n    pass",
        "ivy": f"import radin\n\n{head}    return radin.SoupBench.load('cifar10').oracle[0]",
        "jan": f"from radin import craft\n\n{head}    return craft(bank, evaluate, budget).weights",
        "kim": "def recipe(bank, *_):\n    return practice['wild'].oracle[0]",
    }.items():
        notebook = solved("budget")
        graded_cells(notebook)["recipe"].source = body
        hand_in(folder, student, "budget", notebook)
    helped = solved("budget")
    at = [grade_id(cell) for cell in helped.cells].index("recipe")
    helper = "%matplotlib inline\ndef first_of(bank):\n    return torch.eye(bank.num_models)[0]"
    helped.cells[at:at] = [v4.new_code_cell("raise ValueError"), v4.new_code_cell(helper)]
    helped.cells[at + 2].source = "def recipe(bank, evaluate, budget):\n    return first_of(bank)"
    hand_in(folder, "dee", "budget", helped)  # the same as bob's
    hand_in(folder, "gus", "budget", without(solved("budget"), "recipe"))
    hand_in(folder, "hal", "budget", "no JSON")
    league = [["cifar10-wild", 2, [3, 4]]]
    table = leaderboard.leaderboard(
        find_submissions(folder, assignment_names()),
        tmp_path / "out",
        workers=2,
        progress=False,
        league=league,
    )
    with (tmp_path / "out" / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert rows["bob"]["rank"] == rows["dee"]["rank"], rows["dee"]
    assert sorted(rows[student]["rank"] for student in ("ann", "bob", "dee")) in (
        ["1", "2", "2"],
        ["1", "1", "3"],
    )
    assert rows["bob"]["mean regret"] == rows["dee"]["mean regret"]
    regrets = [float(row["mean regret"]) for row in rows.values() if row["mean regret"]]
    assert regrets == sorted(regrets)
    assert "BudgetError: The budget of" in rows["cem"]["message"]
    assert "ended with status 3" in rows["eli"]["message"]
    assert "defines no function recipe" in rows["fay"]["message"]
    assert "cell recipe is missing" in rows["gus"]["message"]
    assert "is not a notebook" in rows["hal"]["message"]
    for student in ("ivy", "jan", "kim"):
        assert "no other bench (SoupBench.load, practice)" in rows[student]["message"]
    assert "(radin's greedy)" in table
    slow = leaderboard.leaderboard(
        find_submissions(folder, assignment_names())[:1],
        tmp_path / "out",
        timeout=1,
        progress=False,
        league=[["cifar10-wild", 1, [3]]],
    )
    assert "not done after 1 seconds; make recipe faster" in slow
    with pytest.raises(ClassroomError, match=r"no student handed in budget.ipynb"):
        leaderboard.leaderboard([], tmp_path / "out")


def test_an_error_with_an_entry_is_one_row(tmp_path, monkeypatch):
    path = hand_in(tmp_path, "ann", "budget", solved("budget"))

    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(leaderboard, "compare_with_release", full)
    row = leaderboard._play_entry(
        submissions.Submission("ann", "budget", path),
        {},
        hidden_seed=0,
        timeout=1,
        league=[],
        environment={},
    )
    assert row == {
        "student": "ann",
        "regrets": [],
        "problem": "ann's budget.ipynb could not be entered: OSError: no space left",
    }


# ---------------------------------------------------------------- the teacher's page


def test_the_teachers_page_lists_every_part_with_its_points(root):
    page = (root / "book" / "teach.md").read_text("utf-8")
    listed = {
        (name, part): int(maximum)
        for name, part, maximum in re.findall(r"^\* - `(\w+)`\n  - `(\w+)`\n  - (\d+)$", page, re.M)
    }
    wanted = {
        (name, part): int(maximum)
        for name in ASSIGNMENTS
        for part, maximum in coded_parts(name).items()
    }
    wanted |= {
        (name, part): int(rubric[1])
        for name in ASSIGNMENTS
        for part, rubric in rubrics(SOURCE, name).items()
    }
    assert listed == wanted


def test_notebooks_are_json_with_small_diffs():
    for folder in (SOURCE, submissions.RELEASE):
        for name in ASSIGNMENTS:
            path = folder / name / f"{name}.ipynb"
            content = path.read_text("utf-8")
            assert (
                content == json.dumps(json.loads(content), indent=1, ensure_ascii=False) + "\n"
            ), path
            assert nbformat.read(path, as_version=4).cells[0].id == "cell-00"
