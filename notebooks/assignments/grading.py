"""Use nbgrader: make student versions from the sources, and grade one submission at a time."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat

from limits import MEMORY_VARIABLE, memory_per_process, write_startup
from radin.experiments.notebook import write_kernel
from radin.files import expand_path, hash_file, hash_text
from sandbox import sandbox_environment, wrap
from submissions import HERE, ClassroomError, Problem, grade_id, graded_cells

TIMED_OUT = "no answer in the time allowed for a cell: is there a loop without end?"
# Each course folder holds one student of this name, so no student's own name becomes a path there.
STUDENT = "student"
NO_MEMORY = "the memory allowed for a cell is used up: is there a list that grows without end?"
NOT_INTERRUPTED = f"{TIMED_OUT} It could not be interrupted either"
# Once a cell of a notebook has taken too long, each other cell has this share of the time: most of
# them call the same loop again, and all others end within seconds.
SHARE_AFTER_TIMEOUT = 0.25
SANDBOX_VARIABLE = "RADIN_SANDBOX"  # its name, in the environment of kernels, or empty
TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
REASON = re.compile(r"^\s*((?:\w+\.)*\w*(?:Error|Exception|Interrupt): .+)$", re.MULTILINE)
SCHEME = re.compile(
    r"BEGIN (?:SOLUTION|MARK SCHEME)[^\n]*\n(.*?)\n[^\n]*END (?:SOLUTION|MARK SCHEME)",
    re.DOTALL,
)

Result = dict[str, Any]  # of one grading: "parts", "errors" and "failed"


def default_timeout() -> int:
    """The seconds for one cell in nbgrader_config.py."""
    return int(_config().Execute.timeout)


def _config() -> Any:
    from traitlets.config import PyFileConfigLoader

    return PyFileConfigLoader("nbgrader_config.py", path=str(HERE)).load_config()


def nbgrader_api(course: Path, timeout: int | None = None) -> Any:
    """nbgrader on a course folder, with the settings of nbgrader_config.py.

    Args:
        timeout: seconds for one cell, that of the settings when not given.
    """
    from nbgrader.apps import NbGraderAPI

    # nbgrader starts `alembic`, a program beside this interpreter, to make a gradebook.
    folder = os.path.dirname(sys.executable)
    if folder not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = folder + os.pathsep + os.environ.get("PATH", "")
    config = _config()
    config.CourseDirectory.root = str(course)
    config.NbGraderAPI.log_level = "ERROR"
    # The exchange is not used, but nbgrader warns about its default folder.
    config.Exchange.root = str(course)
    if timeout is not None:
        config.Execute.timeout = timeout
    config.Execute.timeout_func = _CellTime(config.Execute.timeout)
    if os.environ.get(SANDBOX_VARIABLE):
        # There is no network inside: sockets in this folder, the only one that the kernel shares.
        (course / "kernel").mkdir(exist_ok=True)
        config.KernelManager.transport = "ipc"
        config.KernelManager.connection_file = str(course / "kernel" / "connection.json")
    api = NbGraderAPI(config=config)
    api.log.propagate = False  # what it logs is also in what it returns
    api.log.handlers = []
    return api


class _CellTime:
    """The seconds that each cell of a notebook may take, in turn."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self.shorter = max(1, round(SHARE_AFTER_TIMEOUT * seconds))
        self.cell: Any = None

    def __call__(self, cell: Any) -> int:
        if self.cell is not None and TIMED_OUT in failure_message(self.cell):
            self.seconds = self.shorter
        self.cell = cell
        return self.seconds


def prepare_course(course: Path, name: str, source: Path) -> Path:
    """Make `course` a course folder with one assignment.

    Returns:
        The student version, beside which are the source and the gradebook.

    Raises:
        ClassroomError: nbgrader cannot make a student version; with its reason.
    """
    shutil.copytree(source / name, course / "source" / name, ignore=shutil.ignore_patterns(".*"))
    answer = nbgrader_api(course).generate_assignment(name)
    if not answer["success"]:
        raise ClassroomError(
            f"{source / name}: nbgrader makes no student version of it: {find_reason(answer)}"
        )
    return course / "release" / name / f"{name}.ipynb"


def make_release(name: str, source: Path) -> bytes:
    """The student version of an assignment as bytes, the same every time."""
    with tempfile.TemporaryDirectory() as folder:
        path = prepare_course(Path(folder), name, source)
        notebook = json.loads(path.read_text("utf-8"))
    for cell in notebook["cells"]:  # where hidden tests were, blank lines are left
        cell["source"] = "".join(cell["source"]).strip("\n").splitlines(keepends=True)
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def find_reason(answer: Mapping[str, Any]) -> str:
    """The reason in what nbgrader logged: the first error message, else the last line."""
    text = answer.get("log") or answer.get("error") or "it does not say why"
    text = TERMINAL_COLOUR.sub("", text).strip()
    reasons = REASON.findall(text)
    return reasons[0] if reasons else text.splitlines()[-1]


# ---------------------------------------------------------------- one submission


def threads_per_process(workers: int) -> str:
    """How many threads each of so many processes may use, as an environment variable."""
    return os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def kernel_environment(
    folder: Path, *, workers: int, hidden_seed: int, sandbox: str = ""
) -> dict[str, str]:
    """The environment variables of the kernels that run submissions.

    Args:
        folder: for the files that the environment names.
        workers: how many kernels share the cores.
        hidden_seed: of the hidden tests.
        sandbox: in which kernels run; one of `sandbox.SANDBOXES`, or none.
    """
    environment = write_kernel(folder)
    if sandbox:
        _put_in_sandbox(folder / "jupyter" / "kernels" / "python3" / "kernel.json", sandbox)
    write_startup(Path(environment["IPYTHONDIR"]))
    environment |= {
        MEMORY_VARIABLE: str(memory_per_process(workers)),
        "OMP_NUM_THREADS": threads_per_process(workers),
        "PYTHONWARNINGS": "ignore",  # nbgrader takes a warning in a test for a failure
        "RADIN_HIDDEN_SEED": str(hidden_seed),
        SANDBOX_VARIABLE: sandbox,
    }
    if os.environ.get("RADIN_CACHE"):
        environment["RADIN_CACHE"] = os.path.abspath(expand_path(os.environ["RADIN_CACHE"]))
    return environment | (sandbox_environment() if sandbox else {})


def _put_in_sandbox(path: Path, sandbox: str) -> None:
    """Change a kernel's file so that it starts in a sandbox."""
    kernel = json.loads(path.read_text("utf-8"))
    kernel["argv"] = wrap(sandbox, "{connection_file}", kernel["argv"])
    kernel["interrupt_mode"] = "message"  # a signal would reach the sandbox, not the kernel
    path.write_text(json.dumps(kernel), "utf-8")


def grading_key(
    path: Path,
    template: Path,
    name: str,
    *,
    hidden_seed: int,
    timeout: int | None = None,
    sandbox: str = "",
) -> str:
    """A hash of everything that a grading depends on. Its result can be used again."""
    scripts = ("grading.py", "limits.py", "submissions.py", "nbgrader_config.py")
    return hash_text(
        hash_file(path),
        hash_file(template / "source" / name / f"{name}.ipynb"),
        str(hidden_seed),
        str(timeout),
        sandbox,
        *(hash_file(HERE / script) for script in scripts),
    )


def timed_out(result: Result) -> bool:
    """Whether a cell took too long, perhaps only because the machine was busy."""
    messages = [part["message"] for part in result["parts"]]
    messages += [result["failed"], *(message for _, message in result["errors"])]
    return any(TIMED_OUT in message for message in messages)


def grade(
    notebook: Any,
    name: str,
    template: Path,
    *,
    environment: dict[str, str],
    timeout: int | None = None,
) -> Result:
    """Autograde one notebook.

    Args:
        notebook: as `submissions.compare_with_release` returns it.
        name: of the assignment.
        template: a course folder from `prepare_course`, which is not changed.
        environment: from `kernel_environment`. It is added to this process's own.
        timeout: seconds for one cell, that of nbgrader_config.py when not given.

    Returns:
        "parts", a list of what each graded cell earned; "errors", the problems of cells that are
        not graded but failed; and "failed", why nothing could be graded, or an empty text.
    """
    os.environ.update(environment)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbgrader warns about its own database
        course = Path(folder)
        shutil.copytree(template / "source", course / "source")
        shutil.copy2(template / "gradebook.db", course)
        submitted = course / "submitted" / STUDENT / name / f"{name}.ipynb"
        submitted.parent.mkdir(parents=True)
        nbformat.write(notebook, submitted)
        api = nbgrader_api(course, timeout)
        answer = api.autograde(name, STUDENT)
        if not answer["success"]:
            return no_points(notebook, _explain_failure(answer))
        parts, errors = _read_grades(api, course, name)
        return {"parts": parts, "errors": errors, "failed": ""}


def _explain_failure(answer: Mapping[str, Any]) -> str:
    reason = find_reason(answer)
    log = answer.get("log", "")
    if "DeadKernelError" in log or "Kernel died" in log:
        reason = "a cell ended Python itself (exit(), too much memory)"
    elif "CellTimeoutError" in log:
        reason = NOT_INTERRUPTED
    return (
        f"could not be run to its end: {reason}; run every cell, in order, after a restart of the "
        "kernel"
    )


def no_points(notebook: Any, why: str) -> Result:
    """The result of a notebook that could not be graded: no points for any part."""
    cells = [cell for cell in graded_cells(notebook).values() if cell.metadata.nbgrader.grade]
    parts = [
        _part(grade_id(cell), points=0, maximum=cell.metadata.nbgrader.points) for cell in cells
    ]
    return {"parts": parts, "errors": [], "failed": why}


def _part(
    name: str, *, points: float | None, maximum: float, message: str = "", answer: str = ""
) -> dict[str, Any]:
    return {"part": name, "points": points, "of": maximum, "message": message, "answer": answer}


def _read_grades(api: Any, course: Path, name: str) -> tuple[list[dict[str, Any]], list[Problem]]:
    path = course / "autograded" / STUDENT / name / f"{name}.ipynb"
    cells = graded_cells(nbformat.read(path, as_version=4))
    with api.gradebook as gradebook:
        grades = {
            each.name: (each.auto_score, each.max_score)
            for each in gradebook.find_submission_notebook(name, name, STUDENT).grades
        }
    parts = []
    for part, cell in cells.items():
        if part in grades:
            points, maximum = grades[part]
            # A written answer without points waits for a person to mark it.
            waits = cell.metadata.nbgrader.solution and points is None
            answer = cell.source if waits else ""
            message = failure_message(cell)
            parts.append(
                _part(part, points=points, maximum=maximum, message=message, answer=answer)
            )
    return parts, list(_errors(cells, grades))


def _errors(cells: Mapping[str, Any], grades: Mapping[str, Any]) -> Iterator[Problem]:
    """The problems of answers that stop with an error, and of set-up cells.

    Set-up cells are those before the first test.
    """
    before_tests = True
    for name, cell in cells.items():
        before_tests = before_tests and name not in grades
        message = failure_message(cell)
        if message and name not in grades and (before_tests or cell.metadata.nbgrader.solution):
            yield name, f"stops with an error: {message}"


def failure_message(cell: Any) -> str:
    """Why a cell failed, in one line; empty when it did not fail."""
    outputs = cell.get("outputs", [])
    for output in outputs:
        if output.output_type == "error":
            return _describe_error(output)
    streams = [
        output for output in outputs if output.output_type == "stream" and output.name == "stderr"
    ]
    if streams and cell.get("metadata", {}).get("nbgrader", {}).get("grade"):
        last = streams[0].text.strip().splitlines()[-1]
        return f"wrote to stderr, which nbgrader takes for a failure: {last}"
    return ""


def _describe_error(output: Any) -> str:
    kind = TERMINAL_COLOUR.sub("", output.ename)
    if "Timeout" in kind or kind == "KeyboardInterrupt":  # these end a cell that takes too long
        return TIMED_OUT
    if kind == "MemoryError":
        return NO_MEMORY
    lines = TERMINAL_COLOUR.sub("", output.evalue or "").strip().splitlines()
    return " ".join(lines if kind == "AssertionError" else [f"{kind}:", *lines[:1]]) or kind


def rubrics(source: Path, name: str) -> dict[str, tuple[str, float, str]]:
    """Question, points and marking scheme of each part that a person marks, from the source."""
    notebook = nbformat.read(source / name / f"{name}.ipynb", as_version=4)
    found = {}
    for part, cell in graded_cells(notebook).items():
        marks = cell.metadata.nbgrader
        if (marks.grade and marks.solution) or marks.get("task"):
            match = SCHEME.search(cell.source)
            question = cell.source[: match.start()] if match else cell.source
            question = "\n".join(line for line in question.split("\n") if line.strip(" #="))
            scheme = match[1].strip() if match else ""
            found[part] = (question.strip(), float(marks.points), scheme)
    return found
