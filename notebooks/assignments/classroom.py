"""The classroom: student versions, grading, a student's own check, and the leaderboard.

    python notebooks/assignments/classroom.py generate                 # make assignments
    python notebooks/assignments/classroom.py grade submissions        # make grade
    python notebooks/assignments/classroom.py leaderboard submissions  # make leaderboard
    python notebooks/assignments/classroom.py check my.ipynb           # for students

The `make` commands take SUBMISSIONS=submissions. `check` needs no nbgrader. A folder of submissions
holds one folder for each student, and in it <name>.ipynb or <name>/<name>.ipynb. The commands only
read it. They write below `_build/classroom`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import nbformat
from tqdm import tqdm

import feedback
import reports
from grading import (
    NOT_INTERRUPTED,
    Result,
    default_timeout,
    failure_message,
    grade,
    grading_key,
    kernel_environment,
    make_release,
    no_points,
    prepare_course,
    rubrics,
    timed_out,
)
from leaderboard import leaderboard, load_rules
from marks import read_marks
from radin.errors import RadinError
from radin.files import atomic_path, expand_path, hash_text
from same_answers import describe_same_answers
from sandbox import check_sandbox
from submissions import (
    RELEASE,
    SOURCE,
    ClassroomError,
    Submission,
    assignment_names,
    compare_with_release,
    find_submissions,
    grade_id,
    load_releases,
    read_cells,
    recognise_assignment,
)

OUT = SOURCE.parents[2] / "_build" / "classroom"
ENDED = (
    "could not be graded: the system ended the process that graded it, most likely because memory "
    "ran out"
)
MAX_HIDDEN_SEED = 1_000_000  # the tests multiply the seed, and torch takes 64 bits
MAX_TIMEOUT_SECONDS = 86_400


# ---------------------------------------------------------------- student versions


def generate(source: Path = SOURCE, target: Path = RELEASE) -> list[Path]:
    """Write the student version of every assignment.

    Returns:
        Their paths.
    """
    written = []
    for name in tqdm(assignment_names(source), desc="student versions"):
        path = target / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(make_release(name, source))
        written.append(path)
    return written


# ---------------------------------------------------------------- grading


@dataclass(frozen=True)
class _Task:
    """The grading of one submission.

    Attributes:
        row: of the submission. It gets the result.
        notebook: to grade, or None when there is none.
        template: the course folder of the assignment.
        out: the folder of the results.
        hidden_seed: of the hidden tests' random inputs.
        timeout: seconds for one cell.
        sandbox: in which the notebook runs, or empty.
    """

    submission: Submission
    row: dict[str, Any]
    notebook: Any
    template: Path
    out: Path
    hidden_seed: int
    timeout: int
    sandbox: str

    @property
    def stored(self) -> Path:
        """The file of the stored result."""
        name = hash_text(self.submission.student, self.submission.assignment)[:24]
        return self.out / "graded" / f"{name}.json"

    @cached_property
    def key(self) -> str:
        """A hash of everything that the result depends on."""
        return grading_key(
            self.submission.path,
            self.template,
            self.submission.assignment,
            hidden_seed=self.hidden_seed,
            timeout=self.timeout,
            sandbox=self.sandbox,
        )

    def must_run(self) -> bool:
        """Whether the notebook has to be run. If not, the row gets the stored result."""
        if self.notebook is None:
            return False
        result = _read_result(self.stored, self.key)
        self.row.update(result or {})
        return result is None


def grade_all(
    folder: Path,
    out: Path = OUT,
    source: Path = SOURCE,
    *,
    workers: int | None = None,
    hidden_seed: int = 0,
    by_student: bool = False,
    timeout: int | None = None,
    sandbox: str = "",
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Grade every submission below a folder, several at once, and write the tables to `out`.

    The result of a submission that was graded before, with the same tests, hidden seed and timeout,
    is taken from `out`. A submission that cannot be graded is a row with a message, and so is a
    line of marks.csv that cannot be used.

    Args:
        folder: of submissions.
        out: for the tables.
        source: of the assignments.
        workers: how many to grade at once. One for each core when not given.
        hidden_seed: of the hidden tests' random inputs.
        by_student: whether each student gets a hidden seed of their own, from it and the name.
        timeout: seconds for one cell, that of nbgrader_config.py when not given.
        sandbox: in which the notebooks run: docker, podman, bwrap, or none.
        progress: whether to show a progress bar.

    Returns:
        A row for each submission: student, assignment, parts, problems (sentences), for_teacher
        (more sentences), and failed (why it could not be graded, or empty).

    Raises:
        ClassroomError: the folder holds no submissions, marks.csv is not a table, or the sandbox
            does not start.
    """
    if sandbox:
        check_sandbox(sandbox)
    found = find_submissions(folder, assignment_names(source))
    questions = {name: rubrics(source, name) for name in assignment_names(source)}
    marks = read_marks(out / "marks.csv", _maxima(questions))  # a mistake is reported at once
    for slip in marks.slips:
        print(f"{slip.message}.", file=sys.stderr)
    workers = workers or os.cpu_count() or 1
    timeout = timeout or default_timeout()
    with tempfile.TemporaryDirectory() as scratch:
        environment = kernel_environment(
            Path(scratch), workers=workers, hidden_seed=hidden_seed, sandbox=sandbox
        )
        names = sorted({each.assignment for each in found} - {""})
        templates = {name: Path(scratch) / name for name in names}
        releases = load_releases() if source == SOURCE else {}
        for name, template in templates.items():
            releases[name] = nbformat.read(prepare_course(template, name, source), 4)
            if sandbox:  # the zoo is trained here: inside, the cache can only be read
                load_rules(releases[name])
        tasks = []
        for each in found:
            row, notebook = _new_row(each, releases)
            template = templates.get(each.assignment, Path())
            seed = student_seed(hidden_seed, each.student) if by_student else hidden_seed
            tasks.append(_Task(each, row, notebook, template, out, seed, timeout, sandbox))
        waiting = [task for task in tasks if task.must_run()]
        _run_tasks(waiting, environment=environment, workers=workers, progress=progress)
    table = [_finish_row(task.row, timeout) for task in tasks]
    _add_same_answers(table, tasks, releases, source)
    reports.write_reports(table, {name: questions[name] for name in names}, out, marks)
    for row, task in zip(table, tasks, strict=True):
        if row["assignment"]:
            text = feedback.page(row, task.notebook, releases[row["assignment"]])
            reports.write_text(
                out / "feedback" / row["student"] / f"{row['assignment']}.html", text
            )
    return table


def _maxima(
    questions: Mapping[str, Mapping[str, reports.Rubric]],
) -> dict[tuple[str, str], float]:
    """The most points for each part that a person marks, by assignment and part."""
    return {
        (name, part): maximum
        for name, parts in questions.items()
        for part, (_, maximum, _) in parts.items()
    }


def student_seed(hidden_seed: int, student: str) -> int:
    """A hidden seed for one student: nobody can tell it without the class's own."""
    name = unicodedata.normalize("NFC", student).encode("utf-8", "backslashreplace").decode()
    return int(hash_text(str(hidden_seed), name)[:12], 16) % (MAX_HIDDEN_SEED + 1)


def _add_same_answers(
    table: list[dict[str, Any]], tasks: list[_Task], releases: Mapping[str, Any], source: Path
) -> None:
    """Tell the teacher, row by row, whose answers are the same."""
    for name, release in releases.items():
        handed_in = [
            (task.submission.student, task.notebook)
            for task in tasks
            if task.notebook is not None and task.submission.assignment == name
        ]
        solution = nbformat.read(source / name / f"{name}.ipynb", 4)
        same = describe_same_answers(handed_in, release, solution)
        for row in table:
            if row["assignment"] == name:
                who = f"{row['student']}, {name}"
                row["for_teacher"] = [f"{who}: {text}." for text in same.get(row["student"], [])]


def _run_tasks(
    tasks: list[_Task], *, environment: dict[str, str], workers: int, progress: bool
) -> None:
    """Grade, several at once, and store each result as soon as it is there."""
    from joblib import Parallel
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    waiting = dict(enumerate(tasks))

    def run(numbers: list[int], num_jobs: int) -> None:
        calls = [_call(number, waiting[number], environment) for number in numbers]
        for number, result in Parallel(n_jobs=num_jobs, return_as="generator_unordered")(calls):
            _finish(waiting.pop(number), result)
            bar.update()

    with tqdm(total=len(tasks), desc="grading", disable=not (progress and tasks)) as bar:
        try:
            run(list(waiting), min(workers, len(tasks) or 1))
        except TerminatedWorkerError:
            # Memory ran out, or a notebook ended the process that grades it. Alone, only that
            # notebook is lost. With two jobs, joblib does not run it in this process.
            for number, task in sorted(waiting.items()):
                try:
                    run([number], 2)
                except TerminatedWorkerError:
                    task.row.update(no_points(task.notebook, ENDED))
                    bar.update()


def _call(number: int, task: _Task, environment: dict[str, str]) -> Any:
    from joblib import delayed

    return delayed(_grade_one)(
        number,
        task.notebook,
        task.submission.assignment,
        task.template,
        environment=environment | {"RADIN_HIDDEN_SEED": str(task.hidden_seed)},
        timeout=task.timeout,
    )


def _finish(task: _Task, result: Result) -> None:
    task.row.update(result)
    # A loop without end costs its time once. What fails otherwise may be for want of memory.
    if not result["failed"] or timed_out(result):
        _store_result(task.stored, task.key, result)


def _grade_one(
    number: int, notebook: Any, name: str, template: Path, **options: Any
) -> tuple[int, Result]:
    """`grade` for one of many. An error here is a message on this submission only."""
    try:
        return number, grade(notebook, name, template, **options)
    except Exception as error:
        return number, no_points(notebook, _describe_error(error))


def _describe_error(error: Exception) -> str:
    reason = (str(error).strip() or "no message").splitlines()[0]
    return f"could not be graded: {type(error).__name__}: {reason}"


def _new_row(each: Submission, releases: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """The row of a submission before it is graded, and its notebook, or None without one."""
    row: dict[str, Any] = {
        "student": each.student,
        "assignment": each.assignment,
        "parts": [],
        "errors": [],
        "problems": [],
        "failed": "",
        "stray": each.path.name == each.student and each.path.is_file(),
    }
    try:
        if each.problem:
            raise ClassroomError(each.problem)
        notebook, problems = compare_with_release(each.path, each.assignment, releases)
        row["problems"] = [*([("", each.note)] if each.note else []), *problems]
        return row, notebook
    except Exception as error:  # any error here is a message on this submission only
        why = str(error) if isinstance(error, ClassroomError) else _describe_error(error)
        row["failed"] = why
        if each.assignment:
            row |= no_points(releases[each.assignment], why)
        return row, None


def _finish_row(row: dict[str, Any], timeout: int) -> dict[str, Any]:
    """The finished row. Its problems are sentences that name student, assignment and cell."""
    who = f"{row['student']}, {row['assignment']}" if row["assignment"] else row["student"]
    problems = [f"{who}: {row['failed']}."] if row["failed"] else []
    problems += [
        f"{who}, cell {cell} {problem}." if cell else f"{who}: {problem}."
        for cell, problem in [*row["problems"], *row["errors"]]
    ]
    if timed_out(row):
        problems.append(
            f"{who}: a cell took longer than {timeout} seconds; this result stays, and "
            f"TIMEOUT={2 * timeout} grades the notebook again."
        )
    shared = {key: row[key] for key in ("student", "assignment", "parts", "failed", "stray")}
    return shared | {"problems": problems, "for_teacher": []}


def _read_result(path: Path, key: str) -> Result | None:
    """The stored result of a grading with this key; None without one."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return dict(content["result"]) if content.get("key") == key else None


def _store_result(path: Path, key: str, result: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"key": key, "result": result}), "utf-8")


# ---------------------------------------------------------------- a student's own check


def check(path: Path, root: Path = RELEASE, *, timeout: int = 120) -> list[str]:
    """The messages that a teacher would get on this notebook, and the visible tests that fail.

    Args:
        path: of the student's notebook.
        root: of the student versions.
        timeout: seconds for one cell.

    Returns:
        Messages; none when everything is right.

    Raises:
        ClassroomError: the notebook cannot be run to its end.
    """
    if not os.path.isfile(path):
        raise ClassroomError(f"{path}: no such file")
    releases = load_releases(root)
    name = recognise_assignment(read_cells(path), releases)
    if not name:
        raise ClassroomError(
            f"{path} has the cells of no assignment; the assignments are {', '.join(releases)}"
        )
    notebook, problems = compare_with_release(path, name, releases)
    messages = [f"cell {cell} {problem}" if cell else problem for cell, problem in problems]
    _run_notebook(notebook, path, timeout)
    for cell in notebook.cells:
        if grade_id(cell) and (message := failure_message(cell)):
            messages.append(f"cell {grade_id(cell)}: {message}")
    return messages


def _run_notebook(notebook: Any, path: Path, timeout: int) -> None:
    """Run every cell, in place; ClassroomError when that is not possible."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    def stop_at_exit(cell: Any, cell_index: int, execute_reply: dict[str, Any]) -> None:
        # The kernel ends some time after exit(), so how many more cells it runs would be random.
        payload = execute_reply["content"].get("payload", [])
        if any(each.get("source") == "ask_exit" for each in payload):
            raise DeadKernelError

    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(kernel_environment(Path(folder), workers=1, hidden_seed=0))
        client = NotebookClient(
            notebook,
            timeout=timeout,
            interrupt_on_timeout=True,
            allow_errors=True,
            kernel_name="python3",
            resources={},
            on_cell_executed=stop_at_exit,
        )
        try:
            client.execute(cwd=folder)
        except DeadKernelError:
            raise ClassroomError(
                f"{path}: a cell ended Python itself (exit(), too much memory); take that out, and "
                "run every cell, in order, after a restart of the kernel"
            ) from None
        except CellTimeoutError:
            raise ClassroomError(f"{path}: {NOT_INTERRUPTED}") from None


# ---------------------------------------------------------------- the command line


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    if isinstance(sys.stdout, TextIOWrapper):  # names and answers need not be text in its encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _expand_paths(options)
        if "hidden_seed" in options:
            options.hidden_seed = parse_hidden_seed(options.hidden_seed)
            options.timeout = parse_timeout(options.timeout)
        return COMMANDS[options.command](options)
    except (ClassroomError, RadinError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a file that changed, a disk that is full
        print(f"error: {error.filename}: could not be used ({error.strerror})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted; the results so far are stored, and the same command continues",
            file=sys.stderr,
        )
        return 130


def _expand_paths(options: argparse.Namespace) -> None:
    """Put the home folder in the place of ~, where the shell has left it."""
    for name in ("submissions", "out", "notebook"):
        if name in options:
            setattr(options, name, expand_path(getattr(options, name)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="classroom.py", description=(__doc__ or "").splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("generate", help="write the student versions")
    for name, purpose in (
        ("grade", "grade a folder of submissions"),
        ("leaderboard", "rank a folder of submissions"),
    ):
        command = commands.add_parser(name, help=purpose)
        command.add_argument(
            "submissions",
            type=Path,
            help="one folder for each student, with <name>.ipynb in it",
        )
        command.add_argument(
            "--out",
            type=Path,
            default=OUT,
            help="folder of the tables (default: _build/classroom)",
        )
        command.add_argument("--hidden-seed", default="0", help="of the hidden tests (default: 0)")
        command.add_argument(
            "--workers", type=int, help="how many at once (default: one for each core)"
        )
        command.add_argument("--timeout", help="seconds for a cell, or for a recipe")
        command.add_argument("--sandbox", default="", help="docker, podman or bwrap")
        if name == "grade":
            command.add_argument(
                "--by-student", action="store_true", help="another hidden seed for each student"
            )
    commands.add_parser("check", help="check your own notebook").add_argument("notebook", type=Path)
    return parser


def parse_hidden_seed(text: str) -> int:
    """The hidden seed that the command line gives."""
    # isascii and the length come first, because int() takes other digits and any length.
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) <= MAX_HIDDEN_SEED):
        raise ClassroomError(
            f"HIDDEN_SEED is a whole number from 0 to {MAX_HIDDEN_SEED}, not {text!r}"
        )
    return int(text)


def parse_timeout(text: str | None) -> int | None:
    """The seconds that the command line gives, if it does."""
    if text is None:
        return None
    fits = text.isascii() and text.isdigit() and len(text) <= 9
    if not (fits and 1 <= int(text) <= MAX_TIMEOUT_SECONDS):
        raise ClassroomError(
            f"TIMEOUT is a whole number of seconds from 1 to {MAX_TIMEOUT_SECONDS}, not {text!r}"
        )
    return int(text)


def _generate(options: argparse.Namespace) -> int:
    print("\n".join(str(path) for path in generate()))
    return 0


def _grade(options: argparse.Namespace) -> int:
    out = options.out.resolve()
    table = grade_all(
        options.submissions,
        out,
        workers=options.workers,
        hidden_seed=options.hidden_seed,
        by_student=options.by_student,
        timeout=options.timeout,
        sandbox=options.sandbox,
    )
    print(reports.summary(table))
    print(f"\ntables, answers to mark by hand and feedback: {out}")
    return 0


def _leaderboard(options: argparse.Namespace) -> int:
    table = leaderboard(
        find_submissions(options.submissions, assignment_names()),
        options.out.resolve(),
        workers=options.workers,
        hidden_seed=options.hidden_seed,
        timeout=options.timeout,
        sandbox=options.sandbox,
    )
    print(table)
    return 0


def _check(options: argparse.Namespace) -> int:
    messages = check(options.notebook)
    all_well = "All cells are there, and every test that you can see passes."
    print("\n".join(messages) or all_well)
    return 1 if messages else 0


COMMANDS = {
    "generate": _generate,
    "grade": _grade,
    "leaderboard": _leaderboard,
    "check": _check,
}


if __name__ == "__main__":
    sys.exit(main())
