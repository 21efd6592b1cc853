"""The leaderboard of assignment 3: every student's recipe on sub-zoos, ranked by mean regret.

Each student's cells down to the recipe run in a process of their own, with a time limit. The tests
do not run.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat

import radin
import reports
from grading import threads_per_process
from limits import MEMORY_VARIABLE, limit_process, memory_per_process
from sandbox import check_sandbox, sandbox_environment, wrap
from submissions import (
    ClassroomError,
    Submission,
    compare_with_release,
    grade_id,
    graded_cells,
    load_releases,
)

League = Sequence[tuple[str, int, Sequence[int]]]  # bench, number of sub-zoos, their sizes
Recipe = Callable[[radin.LogitBank, Callable[[Any], float], int], Any]

ASSIGNMENT = "budget"
CELL = "recipe"
# The sub-zoos are drawn and used by the rules of the assignment's set-up cell. With another league
# or another hidden seed no student has seen them.
LEAGUE: League = (("cifar10", 20, (5, 6, 7)), ("cifar10-wild", 10, (4, 5)))
LEAGUE_SEED = 1000  # added to the hidden seed, whose own sub-zoos the hidden tests use
TIMEOUT_SECONDS = 300  # for a student's whole league
RECIPES_TO_COMPARE = ("radin", "greedy", "best_single", "uniform")


def load_rules(notebook: Any) -> dict[str, Any]:
    """The names that the assignment's set-up cells define.

    They say how sub-zoos are drawn, which budgets there are, and how evaluations are counted.
    """
    rules: dict[str, Any] = {"__name__": "rules"}
    for cell in graded_cells(notebook).values():
        marks = cell.metadata.nbgrader
        if marks.grade or marks.solution:
            break
        with contextlib.redirect_stdout(sys.stderr):
            exec(compile(cell.source, "set-up", "exec"), rules)
    return rules


def play(
    recipe: Recipe, rules: Mapping[str, Any], hidden_seed: int, league: League = LEAGUE
) -> list[float]:
    """The regret of a recipe for every sub-zoo and budget, in percentage points.

    Raises:
        ClassroomError: the recipe fails, spends too much, or returns weights that are no soup of
            the bench.
    """
    regrets = []
    for name, count, sizes in league:
        sub_zoos = rules["sub_zoos"](name, count, sizes, LEAGUE_SEED + hidden_seed)
        for number, zoo in enumerate(sub_zoos):
            for budget in rules["BUDGETS"]:
                evaluate, asked = rules["counting"](zoo.evaluator("val"), budget)
                try:
                    regrets.append(zoo.regret(recipe(zoo.val, evaluate, budget)))
                except Exception as error:
                    raise ClassroomError(
                        f"{CELL} fails on sub-zoo {number} of {name} with a budget of {budget}: "
                        f"{type(error).__name__}: {_first_line(error)}"
                    ) from error
                if len(asked) > budget:
                    raise ClassroomError(
                        f"{CELL} asks for {len(asked)} evaluations with a budget of {budget}"
                    )
    return regrets


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]


def load_recipe(notebook: Any) -> Recipe:
    """The function of the cell `recipe`, after every cell above it that is not a test.

    What the set-up locks is locked for the cells below it.

    Raises:
        ClassroomError: there is no such function.
    """
    ids = [grade_id(cell) for cell in notebook.cells]
    if CELL not in ids:
        raise ClassroomError(
            f"cell {CELL} is missing; copy it from the student version and answer there"
        )
    *above, recipe_cell = notebook.cells[: ids.index(CELL) + 1]
    # Magics (%matplotlib, !pip) do nothing here.
    namespace: dict[str, Any] = {"__name__": "__main__", "get_ipython": mock.MagicMock()}
    with contextlib.ExitStack() as lock:
        locked = False
        for cell in above:
            if cell.cell_type == "code" and not cell.metadata.get("nbgrader", {}).get("grade"):
                # A cell that fails may be one that the recipe does not need.
                with contextlib.suppress(Exception):
                    _run_cell(cell, namespace)
            if not locked and callable(namespace.get("locked")):
                locked = True
                lock.enter_context(namespace["locked"]())
        try:
            _run_cell(recipe_cell, namespace)
        except Exception as error:
            raise ClassroomError(
                f"cell {CELL} stops with an error: {type(error).__name__}: {error}"
            ) from error
    if not callable(namespace.get(CELL)):
        raise ClassroomError(f"cell {CELL} defines no function {CELL}(bank, evaluate, budget)")
    # While the set-up's own `yours` calls it, the benches and their test images are put away.
    recipe: Recipe = namespace.get("yours", namespace[CELL])
    return recipe


def _run_cell(cell: Any, namespace: dict[str, Any]) -> None:
    from IPython.core.inputtransformer2 import TransformerManager

    source = TransformerManager().transform_cell(cell.source)
    exec(compile(source, grade_id(cell) or "cell", "exec"), namespace)


def leaderboard(
    found: list[Submission],
    out: Path,
    *,
    workers: int | None = None,
    hidden_seed: int = 0,
    timeout: int | None = None,
    sandbox: str = "",
    progress: bool = True,
    league: League = LEAGUE,
) -> str:
    """Rank the students by mean regret, beside radin's own recipes, and write the table.

    A student whose recipe fails, or spends too much, is below the others with the reason.

    Args:
        found: the submissions.
        out: the folder of the table.
        workers: how many to run at once. One for each core when not given.
        hidden_seed: of the sub-zoos.
        timeout: seconds for one student.
        sandbox: in which the recipes run: docker, podman, bwrap, or none.
        progress: whether to show a progress bar.
        league: which sub-zoos to draw.

    Returns:
        The table, in Markdown.

    Raises:
        ClassroomError: no student handed in the assignment, or the sandbox does not start.
    """
    from joblib import Parallel, delayed
    from tqdm import tqdm

    entries = [each for each in found if each.assignment == ASSIGNMENT]
    if not entries:
        raise ClassroomError(f"no student handed in {ASSIGNMENT}.ipynb")
    if sandbox:
        check_sandbox(sandbox)
    releases = load_releases()
    workers = workers or os.cpu_count() or 1
    options = {
        "sandbox": sandbox,
        "hidden_seed": hidden_seed,
        "timeout": timeout or TIMEOUT_SECONDS,
        "league": league,
        "environment": os.environ
        | {
            "OMP_NUM_THREADS": threads_per_process(workers),
            "MPLBACKEND": "agg",
            MEMORY_VARIABLE: str(memory_per_process(workers)),
        }
        | (sandbox_environment() if sandbox else {}),
    }
    calls = (delayed(_play_entry)(each, releases, **options) for each in entries)
    results = Parallel(n_jobs=workers, return_as="generator", prefer="threads")(calls)
    rows = list(tqdm(results, total=len(entries), desc="the league", disable=not progress))
    rules = load_rules(releases[ASSIGNMENT])
    for name in RECIPES_TO_COMPARE:
        regrets = play(partial(_crafted, name), rules, hidden_seed, league)
        rows.append({"student": f"(radin's {name})", "regrets": regrets, "problem": ""})
    rows.sort(key=lambda row: (row["problem"] != "", _mean(row["regrets"]), row["student"]))
    return _write_table(rows, out, num_zoos=sum(count for _, count, _ in league))


def _crafted(
    name: str, bank: radin.LogitBank, evaluate: Callable[[Any], float], budget: int
) -> Any:
    return radin.craft(bank, evaluate, budget, recipe=name).weights


def _mean(regrets: list[float]) -> float:
    return sum(regrets) / len(regrets) if regrets else 0.0


def _play_entry(
    each: Submission,
    releases: Mapping[str, Any],
    *,
    hidden_seed: int,
    timeout: int,
    league: League,
    environment: Mapping[str, str],
    sandbox: str = "",
) -> dict[str, Any]:
    """One student's regrets, from a process of its own."""
    row: dict[str, Any] = {"student": each.student, "regrets": [], "problem": each.problem}
    if each.problem:
        return row
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "notebook.ipynb"
        result = Path(folder) / "result.json"
        arguments = [str(source), str(result), str(hidden_seed), json.dumps(league)]
        try:
            nbformat.write(compare_with_release(each.path, ASSIGNMENT, releases)[0], source)
            done = subprocess.run(
                wrap(sandbox, folder, [sys.executable, __file__, *arguments]),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # in memory, endless printing would fill it
                stderr=subprocess.DEVNULL,
                timeout=timeout,
                check=False,
                env=environment,
            )
            if not result.is_file():
                raise ClassroomError(
                    f"its process ended with status {done.returncode} before the league did"
                )
            row |= json.loads(result.read_text("utf-8"))
        except ClassroomError as error:
            row["problem"] = str(error)
        except subprocess.TimeoutExpired:
            row["problem"] = f"not done after {timeout} seconds; make {CELL} faster"
        except Exception as error:  # any error here is a message on this student only
            row["problem"] = (
                f"{each.student}'s {each.path.name} could not be entered: "
                f"{type(error).__name__}: {_first_line(error)}"
            )
    return row


def _write_table(rows: list[dict[str, Any]], out: Path, *, num_zoos: int) -> str:
    means = [
        round(_mean(row["regrets"]), 9)
        for row in rows
        if not row["problem"] and not _is_reference(row)
    ]
    lines = []
    for row in rows:
        if row["problem"]:
            lines.append(("", row["student"], "", "", row["problem"]))
            continue
        mean = round(_mean(row["regrets"]), 9)
        rank = "" if _is_reference(row) else str(1 + sum(other < mean for other in means))
        lines.append((rank, row["student"], f"{mean:.3f}", f"{max(row['regrets']):.2f}", ""))
    header = ("rank", "student", "mean regret", "worst", "message")
    table = reports.markdown_table(header, lines)
    title = (
        f"# Leaderboard\n\nMean regret over {num_zoos} sub-zoos, in percentage points of test "
        "accuracy."
    )
    reports.write_text(out / "leaderboard.md", f"{title}\n\n{table}\n")
    reports.write_text(out / "leaderboard.csv", reports.to_csv(header, lines))
    return table


def _is_reference(row: Mapping[str, Any]) -> bool:
    """Whether a row is that of a recipe of radin, which has no rank."""
    return str(row["student"]).startswith("(")


def main(source: str, target: str, hidden_seed: str, league: str) -> None:
    """Play one notebook's recipe and write the regrets to a file: the process of one student."""
    notebook = nbformat.read(source, as_version=4)
    limit_process()
    try:
        recipe = load_recipe(notebook)
        regrets = play(recipe, load_rules(notebook), int(hidden_seed), json.loads(league))
        found = {"regrets": regrets, "problem": ""}
    except ClassroomError as error:
        found = {"regrets": [], "problem": str(error)}
    Path(target).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
