"""nbgrader at work: student versions from the sources, and one submission graded in a course folder of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

from radin.experiments.notebook import own_kernel
from radin.files import atomic_path, hash_file, hash_text
from submissions import HERE, ClassroomError, grade_id, graded_cells

TIMED_OUT = "no answer in the time allowed for a cell: is there a loop without end?"
STUDENT = "student"  # each course folder holds one; his own name, whatever is in it, never becomes a path there
TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
REASON = re.compile(r"^\s*((?:\w+\.)*\w*(?:Error|Exception|Interrupt): .+)$", re.MULTILINE)
SCHEME = re.compile(
    r"BEGIN (?:SOLUTION|MARK SCHEME)[^\n]*\n(.*?)\n[^\n]*END (?:SOLUTION|MARK SCHEME)",
    re.DOTALL,
)


def api(course: Path, timeout: int | None = None) -> Any:
    """nbgrader on a course folder, with this folder's settings."""
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import PyFileConfigLoader

    # nbgrader starts `alembic`, a program beside this interpreter, to make a gradebook.
    folder = os.path.dirname(sys.executable)
    if folder not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = folder + os.pathsep + os.environ.get("PATH", "")
    config = PyFileConfigLoader("nbgrader_config.py", path=str(HERE)).load_config()
    config.CourseDirectory.root = str(course)
    config.NbGraderAPI.log_level = "ERROR"
    config.Exchange.root = str(
        course
    )  # not used; nbgrader complains of a folder of the system otherwise
    if timeout is not None:
        config.Execute.timeout = timeout
    found = NbGraderAPI(config=config)
    found.log.propagate, found.log.handlers = (
        False,
        [],
    )  # what it says is in what it returns
    return found


def prepare(course: Path, name: str, source: Path) -> Path:
    """Make `course` a course folder with one assignment: its source, student version and gradebook.

    Returns the student version. Raises ClassroomError in the words of nbgrader.
    """
    shutil.copytree(
        source / name,
        course / "source" / name,
        ignore=shutil.ignore_patterns(".*"),
    )
    done = api(course).generate_assignment(name)
    if not done["success"]:
        raise ClassroomError(
            f"{source / name}: nbgrader makes no student version of it: {last_line(done)}"
        )
    return course / "release" / name / f"{name}.ipynb"


def release(name: str, source: Path) -> bytes:
    """The student version of an assignment as bytes, the same every time."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = json.loads(prepare(Path(folder), name, source).read_text("utf-8"))
    for cell in notebook["cells"]:  # where hidden tests were, blank lines are left
        cell["source"] = "".join(cell["source"]).strip("\n").splitlines(keepends=True)
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def last_line(done: dict[str, Any]) -> str:
    """The reason in what nbgrader logged: the first error that a traceback ends with."""
    text = TERMINAL_COLOUR.sub(
        "", done.get("log") or done.get("error") or "it does not say why"
    ).strip()
    reasons = REASON.findall(text)
    return reasons[0] if reasons else text.splitlines()[-1]


# ---------------------------------------------------------------- one submission


def threads_of_each(workers: int) -> str:
    """How many threads each of so many processes may use, as the environment wants it."""
    return os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def kernel_environment(folder: Path, workers: int, hidden_seed: int) -> dict[str, str]:
    """What the kernels are to find in the environment: this interpreter, no progress bars, their share of the cores,
    the hidden tests' seed. `folder` holds what it names.
    """
    found = own_kernel(folder) | {
        "OMP_NUM_THREADS": threads_of_each(workers),
        "PYTHONWARNINGS": "ignore",  # nbgrader takes a warning in a test for a failure
        "RADIN_HIDDEN_SEED": str(hidden_seed),
    }
    if "RADIN_CACHE" in os.environ:
        found["RADIN_CACHE"] = os.path.abspath(os.environ["RADIN_CACHE"])
    return found


def key_of(
    path: Path, template: Path, name: str, hidden_seed: int, timeout: int | None = None
) -> str:
    """Names a grading: the same file against the same tests, in the same time, need not be graded again."""
    here = [
        hash_file(HERE / script)
        for script in ("grading.py", "submissions.py", "nbgrader_config.py")
    ]
    return hash_text(
        hash_file(path),
        hash_file(template / "source" / name / f"{name}.ipynb"),
        str(hidden_seed),
        str(timeout),
        *here,
    )


def timed_out(result: dict[str, Any]) -> bool:
    """Whether a cell took too long: perhaps only because the machine was busy."""
    says = [part["says"] for part in result["parts"]] + [says for _, says in result["errors"]]
    return any(TIMED_OUT in each for each in says)


def grade(
    notebook: Any,
    name: str,
    template: Path,
    page: Path,
    environment: dict[str, str],
    timeout: int | None = None,
) -> dict[str, Any]:
    """Autograde one notebook and write nbgrader's page of feedback to `page`.

    Args:
        notebook: as `submissions.compare` returns it.
        template: a course folder from `prepare`, which is not written to.
        environment: from `kernel_environment`; put into this process's.
        timeout: seconds for one cell; nbgrader_config.py's when not given.

    Returns: "parts", a list of what each graded cell earned; "errors", (cell, sentence) pairs of cells that are not
    graded but failed; "failed", empty or why nothing could be graded.
    """
    os.environ.update(environment)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        course = Path(folder)
        shutil.copytree(template / "source", course / "source")
        shutil.copy2(template / "gradebook.db", course)
        place = course / "submitted" / STUDENT / name
        place.mkdir(parents=True)
        nbformat.write(notebook, place / f"{name}.ipynb")
        warnings.simplefilter("ignore")  # nbgrader's own, of its database
        nbgrader = api(course, timeout)
        done = nbgrader.autograde(name, STUDENT)
        if not done["success"]:
            return lost(notebook, _why(done))
        parts, errors = _read(nbgrader, course, name)
        nbgrader.generate_feedback(name, STUDENT)
        made = course / "feedback" / STUDENT / name / f"{name}.html"
        if made.is_file():
            page.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(page) as temporary:
                shutil.copy(made, temporary)
        return {"parts": parts, "errors": errors, "failed": ""}


def _why(done: dict[str, Any]) -> str:
    reason = last_line(done)
    log = done.get("log", "")
    if "DeadKernelError" in log or "Kernel died" in log:
        reason = "a cell ended Python itself (exit(), too much memory)"
    return f"could not be run to its end: {reason}; run every cell, in order, after a restart of the kernel"


def lost(notebook: Any, why: str) -> dict[str, Any]:
    """The result of a notebook that could not be graded: no points for any part."""
    cells = [cell for cell in graded_cells(notebook).values() if cell.metadata.nbgrader.grade]
    parts = [_part(grade_id(cell), 0, cell.metadata.nbgrader.points) for cell in cells]
    return {"parts": parts, "errors": [], "failed": why}


def _part(
    name: str,
    points: float | None,
    most: float,
    says: str = "",
    answer: str = "",
) -> dict[str, Any]:
    return {
        "part": name,
        "points": points,
        "of": most,
        "says": says,
        "answer": answer,
    }


def _read(
    nbgrader: Any, course: Path, name: str
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    graded = nbformat.read(course / "autograded" / STUDENT / name / f"{name}.ipynb", as_version=4)
    cells = graded_cells(graded)
    with nbgrader.gradebook as gradebook:
        grades = {
            each.name: (each.auto_score, each.max_score)
            for each in gradebook.find_submission_notebook(name, name, STUDENT).grades
        }
    parts = []
    for part, cell in cells.items():
        if part in grades:
            points, most = grades[part]
            asked = (
                cell.metadata.nbgrader.solution
            )  # a written answer; without points it waits for a reader
            parts.append(
                _part(
                    part,
                    points,
                    most,
                    complaint(cell),
                    cell.source if asked and points is None else "",
                )
            )
    return parts, list(_errors(cells, grades))


def _errors(cells: dict[str, Any], grades: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Answers that fail by themselves, and set-up cells: those before the first test."""
    before_tests = True
    for name, cell in cells.items():
        before_tests = before_tests and name not in grades
        says = complaint(cell)
        if says and name not in grades and (before_tests or cell.metadata.nbgrader.solution):
            yield name, f"stops with an error: {says}"


def complaint(cell: Any) -> str:
    """What a cell says in failing, in one line; empty when it did not fail."""
    for output in cell.get("outputs", []):
        if output.output_type == "error":
            kind = TERMINAL_COLOUR.sub("", output.ename)
            lines = TERMINAL_COLOUR.sub("", output.evalue or "").strip().splitlines()
            if (
                "Timeout" in kind or kind == "KeyboardInterrupt"
            ):  # what ends a cell that takes too long
                return TIMED_OUT
            return " ".join(lines if kind == "AssertionError" else [f"{kind}:", *lines[:1]]) or kind
    streams = [
        output
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stderr"
    ]
    if streams and cell.get("metadata", {}).get("nbgrader", {}).get("grade"):
        return f"wrote to stderr, which nbgrader takes for a failure: {streams[0].text.strip().splitlines()[-1]}"
    return ""


def rubrics(source: Path, name: str) -> dict[str, tuple[str, float, str]]:
    """Question, points and marking scheme of each part that a person marks, from the source."""
    notebook = nbformat.read(source / name / f"{name}.ipynb", as_version=4)
    found = {}
    for part, cell in graded_cells(notebook).items():
        marks = cell.metadata.nbgrader
        if (marks.grade and marks.solution) or marks.get("task"):
            scheme = SCHEME.search(cell.source)
            question = cell.source[: scheme.start()] if scheme else cell.source
            question = "\n".join(line for line in question.split("\n") if line.strip(" #="))
            found[part] = (
                question.strip(),
                float(marks.points),
                scheme[1].strip() if scheme else "",
            )
    return found
