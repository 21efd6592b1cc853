"""The classroom: student versions, grading, a student's own check, and the leaderboard.

    python notebooks/assignments/classroom.py generate                 # make assignments
    python notebooks/assignments/classroom.py grade submissions        # make grade SUBMISSIONS=submissions
    python notebooks/assignments/classroom.py leaderboard submissions  # make leaderboard SUBMISSIONS=submissions
    python notebooks/assignments/classroom.py check my.ipynb           # for students; needs no nbgrader

A folder of submissions holds one folder for each student, and there <name>.ipynb or <name>/<name>.ipynb. It is only
read; what the commands make lies under `_build/classroom`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from tqdm import tqdm

import reports
from grading import (
    TIMED_OUT,
    complaint,
    grade,
    kernel_environment,
    key_of,
    lost,
    prepare,
    release,
    rubrics,
    timed_out,
)
from leaderboard import leaderboard
from radin.files import atomic_path, hash_text
from submissions import (
    RELEASE,
    SOURCE,
    ClassroomError,
    Submission,
    compare,
    find,
    grade_id,
    names,
    read_cells,
    recognise,
    releases,
)

OUT = SOURCE.parents[2] / "_build" / "classroom"
MOST_SEED = 1_000_000  # the tests reckon with multiples of the seed, and torch wants 64 bits


# ---------------------------------------------------------------- student versions


def generate(source: Path = SOURCE, target: Path = RELEASE) -> list[Path]:
    """Write the student version of every assignment; returns their paths."""
    written = []
    for name in tqdm(names(source), desc="student versions"):
        path = target / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(release(name, source))
        written.append(path)
    return written


# ---------------------------------------------------------------- grading


def grade_all(
    folder: Path,
    out: Path = OUT,
    source: Path = SOURCE,
    workers: int | None = None,
    hidden_seed: int = 0,
    timeout: int | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Grade every submission below a folder, several at once, and write the tables to `out`.

    A submission that was graded before, with the same tests and hidden seed, is taken from `out`. One that cannot be
    graded is a row with a message, like any other.

    Args:
        workers: how many at once; as many as there are cores when not given.
        hidden_seed: of the hidden tests' random inputs.
        timeout: seconds for one cell.

    Returns: a row for each submission: student, assignment, parts, problems (sentences), failed (empty or why).
    """
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    found = find(folder, names(source))
    reports.read_marks(out / "marks.csv")  # a slip there is told now, not after the grading
    workers = workers or os.cpu_count() or 1
    rows = []
    waiting: list[tuple[dict[str, Any], Path, str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        environment = kernel_environment(Path(scratch), workers, hidden_seed)
        templates = {
            name: Path(scratch) / name
            for name in sorted({each.assignment for each in found} - {""})
        }
        made = {
            name: nbformat.read(prepare(place, name, source), 4)
            for name, place in templates.items()
        }
        known = (releases() if source == SOURCE else {}) | made
        calls: list[Any] = []
        for each in found:
            name, page = (
                each.assignment,
                out / "feedback" / each.student / f"{each.assignment}.html",
            )
            row = _before(each, known)
            rows.append(row)
            if row["failed"]:
                if name:
                    page.unlink(missing_ok=True)  # of another file, handed in before
                continue
            kept = out / "graded" / f"{hash_text(each.student, name)[:24]}.json"
            key = key_of(each.path, templates[name], name, hidden_seed, timeout)
            if (former := _kept(kept, key)) is not None and page.is_file():
                row |= former
                continue
            page.unlink(missing_ok=True)
            waiting.append((row, kept, key))
            calls.append(
                delayed(_one)(
                    len(calls),
                    row.pop("notebook"),
                    name,
                    templates[name],
                    page,
                    environment,
                    timeout,
                )
            )
        done = Parallel(
            n_jobs=min(workers, len(calls) or 1),
            return_as="generator_unordered",
        )(calls)
        try:
            for index, result in tqdm(
                done,
                total=len(calls),
                desc="grading",
                disable=not (progress and calls),
            ):
                row, kept, key = waiting[index]
                row |= result
                if not result["failed"] and not timed_out(
                    result
                ):  # a machine too busy may have been the reason
                    _keep(kept, key, result)
        except TerminatedWorkerError:
            raise ClassroomError(
                "the system ended a process that was grading, most likely for want of memory; what was graded is kept: "
                f"go on there by `{Path(__file__).name} grade {folder} --workers {max(1, workers // 2)}`"
            ) from None
    table = [_after(row) for row in rows]
    reports.write(table, {name: rubrics(source, name) for name in templates}, out)
    return table


def _one(number: int, notebook: Any, *rest: Any) -> tuple[int, dict[str, Any]]:
    """`grade` for one of many: whatever goes wrong is this submission's affair alone."""
    try:
        return number, grade(notebook, *rest)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return number, lost(notebook, f"could not be graded: {type(error).__name__}: {reason}")


def _before(each: Submission, known: dict[str, Any]) -> dict[str, Any]:
    """The row of a submission before it is graded; with its notebook where it can be."""
    row: dict[str, Any] = {
        "student": each.student,
        "assignment": each.assignment,
        "parts": [],
        "errors": [],
        "problems": [],
        "failed": "",
    }
    try:
        if each.problem:
            raise ClassroomError(each.problem)
        row["notebook"], row["problems"] = compare(each.path, each.assignment, known)
    except ClassroomError as error:
        row["failed"] = str(error)
        if each.assignment:
            row |= lost(known[each.assignment], str(error))
    return row


def _after(row: dict[str, Any]) -> dict[str, Any]:
    """The finished row: everything that was wrong as sentences that name student, assignment and cell."""
    who = f"{row['student']}, {row['assignment']}" if row["assignment"] else row["student"]
    told = [f"{who}, cell {cell} {says}." for cell, says in [*row["problems"], *row["errors"]]]
    if row["failed"]:
        told.insert(0, f"{who}: {row['failed']}.")
    return {key: row[key] for key in ("student", "assignment", "parts", "failed")} | {
        "problems": told
    }


def _kept(path: Path, key: str) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return dict(content["result"]) if content.get("key") == key else None


def _keep(path: Path, key: str, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"key": key, "result": result}), "utf-8")


# ---------------------------------------------------------------- a student's own check


def check(path: Path, root: Path = RELEASE, timeout: int = 120) -> list[str]:
    """What a teacher would be told of this notebook, and which of the tests in it fail; empty when all is well.

    `timeout` is of one cell, in seconds. Raises ClassroomError when the notebook cannot be run to its end.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    if not path.is_file():
        raise ClassroomError(f"{path}: no such file")

    def asked_to_exit(cell: Any, cell_index: int, execute_reply: dict[str, Any]) -> None:
        # The kernel ends a moment after exit(): how many cells it still runs would be left to chance.
        if any(
            each.get("source") == "ask_exit" for each in execute_reply["content"].get("payload", [])
        ):
            raise DeadKernelError

    known = releases(root)
    name = recognise(read_cells(path), known)
    if not name:
        raise ClassroomError(
            f"{path} has the cells of no assignment; the assignments are {', '.join(known)}"
        )
    notebook, problems = compare(path, name, known)
    told = [f"cell {cell} {says}" for cell, says in problems]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(kernel_environment(Path(folder), workers=1, hidden_seed=0))
        client = NotebookClient(
            notebook,
            timeout=timeout,
            interrupt_on_timeout=True,
            allow_errors=True,
            kernel_name="python3",
            resources={},
            on_cell_executed=asked_to_exit,
        )
        try:
            client.execute(cwd=folder)
        except DeadKernelError:
            raise ClassroomError(
                f"{path}: a cell ended Python itself (exit(), too much memory); take that out, and run every cell, in "
                "order, after a restart of the kernel"
            ) from None
        except CellTimeoutError:
            raise ClassroomError(
                f"{path}: {TIMED_OUT} It could not be interrupted either"
            ) from None
    for cell in notebook.cells:
        if grade_id(cell) and (says := complaint(cell)):
            told.append(f"cell {grade_id(cell)}: {says}")
    return told


# ---------------------------------------------------------------- the command line


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="classroom.py", description=(__doc__ or "").splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("generate", help="write the student versions")
    for name, says in (
        ("grade", "grade a folder of submissions"),
        ("leaderboard", "rank a folder of submissions"),
    ):
        command = commands.add_parser(name, help=says)
        command.add_argument(
            "submissions",
            type=Path,
            help="one folder for each student, with <name>.ipynb in it",
        )
        command.add_argument(
            "--out",
            type=Path,
            default=OUT,
            help="where the tables go (default: _build/classroom)",
        )
        command.add_argument(
            "--hidden-seed",
            default="0",
            help="of the hidden tests (default: 0)",
        )
        command.add_argument(
            "--workers",
            type=int,
            default=None,
            help="how many at once (default: one for each core)",
        )
        command.add_argument(
            "--timeout",
            type=int,
            default=None,
            help="seconds for a cell, or for a recipe",
        )
    commands.add_parser("check", help="check your own notebook").add_argument("notebook", type=Path)
    options = parser.parse_args(argv)
    try:
        if "hidden_seed" in options:
            options.hidden_seed = seed_of(options.hidden_seed)
        return COMMANDS[options.command](options)
    except ClassroomError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted; what was graded is kept, and the same command goes on there",
            file=sys.stderr,
        )
        return 130


def seed_of(text: str) -> int:
    """The hidden seed that was asked for."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) <= MOST_SEED):
        raise ClassroomError(f"HIDDEN_SEED is a whole number from 0 to {MOST_SEED}, not {text!r}")
    return int(text)


def _generate(options: argparse.Namespace) -> int:
    print("\n".join(str(path) for path in generate()))
    return 0


def _grade(options: argparse.Namespace) -> int:
    out = options.out.resolve()
    table = grade_all(
        options.submissions,
        out,
        SOURCE,
        options.workers,
        options.hidden_seed,
        options.timeout,
    )
    print(reports.summary(table))
    print(f"\ntables, answers to mark by hand and feedback: {out}")
    return 0


def _leaderboard(options: argparse.Namespace) -> int:
    out = options.out.resolve()
    rows = leaderboard(
        find(options.submissions, names()),
        out,
        options.workers,
        options.hidden_seed,
        options.timeout,
    )
    print(rows)
    return 0


def _check(options: argparse.Namespace) -> int:
    told = check(options.notebook)
    print(
        "\n".join(told) if told else "All cells are there, and every test that you can see passes."
    )
    return 1 if told else 0


COMMANDS = {
    "generate": _generate,
    "grade": _grade,
    "leaderboard": _leaderboard,
    "check": _check,
}


if __name__ == "__main__":
    sys.exit(main())
