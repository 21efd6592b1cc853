"""The leaderboard of assignment 3: every student's recipe on sub-zoos drawn for it, by mean regret.

Each student's cells down to the recipe run in a process of their own, with a time limit; tests do not.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat

import radin
import reports
from grading import threads_of_each
from submissions import ClassroomError, Submission, compare, grade_id, graded_cells, releases

League = Sequence[tuple[str, int, Sequence[int]]]
ASSIGNMENT, CELL = "budget", "recipe"
# The league: bench, sub-zoos, their sizes; drawn and played by the rules of the assignment's set-up cell. A teacher who
# changes these, or takes another hidden seed, has sub-zoos that no student has seen.
LEAGUE: League = (("cifar10", 20, (5, 6, 7)), ("cifar10-wild", 10, (4, 5)))
LEAGUE_SEED = 1000  # the hidden tests' own sub-zoos are those of the hidden seed itself
TIMEOUT = 300  # seconds for a student's whole league
Recipe = Callable[[radin.LogitBank, Callable[[Any], float], int], Any]


def rules_of(notebook: Any) -> dict[str, Any]:
    """What the assignment's set-up cells define: how sub-zoos are drawn, budgets, how evaluations are counted."""
    rules: dict[str, Any] = {"__name__": "rules"}
    for cell in graded_cells(notebook).values():
        marks = cell.metadata.nbgrader
        if marks.grade or marks.solution:
            break
        with contextlib.redirect_stdout(sys.stderr):
            exec(compile(cell.source, "set-up", "exec"), rules)
    return rules


def play(
    recipe: Recipe, rules: dict[str, Any], hidden_seed: int, league: League = LEAGUE
) -> list[float]:
    """Regret of a recipe for every sub-zoo and budget, in percentage points.

    Raises ClassroomError when it fails on one, spends too much, or returns what is no soup of the bench.
    """
    regrets = []
    for name, count, sizes in league:
        for number, zoo in enumerate(
            rules["sub_zoos"](name, count, sizes, LEAGUE_SEED + hidden_seed)
        ):
            for budget in rules["BUDGETS"]:
                evaluate, asked = rules["counting"](zoo.evaluator("val"), budget)
                try:
                    regrets.append(zoo.regret(recipe(zoo.val, evaluate, budget)))
                except Exception as error:
                    reason = (str(error).strip() or "no message").splitlines()[0]
                    raise ClassroomError(
                        f"{CELL} fails on sub-zoo {number} of {name} with a budget of {budget}: "
                        f"{type(error).__name__}: {reason}"
                    ) from error
                if len(asked) > budget:
                    raise ClassroomError(
                        f"{CELL} asks for {len(asked)} evaluations with a budget of {budget}"
                    )
    return regrets


def recipe_of(notebook: Any) -> Recipe:
    """The function of the cell `recipe`, after every cell above it that is no test; ClassroomError without one.

    What the set-up locks is locked for the cells below it.
    """
    from IPython.core.inputtransformer2 import TransformerManager

    ids = [grade_id(cell) for cell in notebook.cells]
    if CELL not in ids:
        raise ClassroomError(
            f"cell {CELL} is missing; copy it from the student version and answer there"
        )
    # Magics (%matplotlib, !pip) do nothing here.
    space: dict[str, Any] = {"__name__": "__main__", "get_ipython": mock.MagicMock()}

    def run(cell: Any) -> None:
        exec(
            compile(
                TransformerManager().transform_cell(cell.source), grade_id(cell) or "cell", "exec"
            ),
            space,
        )

    with contextlib.ExitStack() as lock:
        locked = False
        for cell in notebook.cells[: ids.index(CELL)]:
            if cell.cell_type == "code" and not cell.metadata.get("nbgrader", {}).get("grade"):
                with contextlib.suppress(
                    Exception
                ):  # a part that fails need not be one that the recipe calls
                    run(cell)
            if not locked and callable(space.get("locked")):
                locked = True
                lock.enter_context(space["locked"]())
        try:
            run(notebook.cells[ids.index(CELL)])
        except Exception as error:
            raise ClassroomError(
                f"cell {CELL} stops with an error: {type(error).__name__}: {error}"
            ) from error
    if not callable(space.get(CELL)):
        raise ClassroomError(f"cell {CELL} defines no function {CELL}(bank, evaluate, budget)")
    # The set-up's own `yours` puts the benches, and with them the test images, aside while it calls it.
    recipe: Recipe = space.get("yours", space[CELL])
    return recipe


def leaderboard(
    found: list[Submission],
    out: Path,
    workers: int | None = None,
    hidden_seed: int = 0,
    timeout: int | None = None,
    progress: bool = True,
    league: League = LEAGUE,
) -> str:
    """Rank the students by mean regret, beside radin's own recipes; returns the table and writes it to `out`.

    Whose recipe fails, or spends too much, stands below the others with the reason. Raises ClassroomError when nobody
    handed in the assignment.
    """
    from joblib import Parallel, delayed
    from tqdm import tqdm

    entered = [each for each in found if each.assignment == ASSIGNMENT]
    if not entered:
        raise ClassroomError(f"no student handed in {ASSIGNMENT}.ipynb")
    known, limit, workers = releases(), timeout or TIMEOUT, workers or os.cpu_count() or 1
    environment = os.environ | {"OMP_NUM_THREADS": threads_of_each(workers), "MPLBACKEND": "agg"}
    calls = (
        delayed(_enter)(each, known, hidden_seed, limit, league, environment) for each in entered
    )
    results = Parallel(n_jobs=workers, return_as="generator", prefer="threads")(calls)
    rows = list(tqdm(results, total=len(entered), desc="the league", disable=not progress))
    rules = rules_of(known[ASSIGNMENT])
    for name in ("radin", "greedy", "best_single", "uniform"):
        regrets = play(partial(_crafted, name), rules, hidden_seed, league)
        rows.append({"student": f"(radin's {name})", "regrets": regrets, "problem": ""})
    rows.sort(key=lambda row: (row["problem"] != "", _mean(row["regrets"]), row["student"]))
    return _write(rows, out, sum(count for _, count, _ in league))


def _crafted(
    name: str, bank: radin.LogitBank, evaluate: Callable[[Any], float], budget: int
) -> Any:
    return radin.craft(bank, evaluate, budget, recipe=name).weights


def _mean(regrets: list[float]) -> float:
    return sum(regrets) / len(regrets) if regrets else 0.0


def _enter(
    each: Submission,
    known: dict[str, Any],
    hidden_seed: int,
    timeout: int,
    league: League,
    environment: dict[str, str],
) -> dict[str, Any]:
    """One student's regrets, from a process of his own."""
    row: dict[str, Any] = {"student": each.student, "regrets": [], "problem": each.problem}
    if each.problem:
        return row
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "notebook.ipynb", Path(folder) / "result.json"
        try:
            nbformat.write(compare(each.path, ASSIGNMENT, known)[0], source)
            command = [
                sys.executable,
                __file__,
                str(source),
                str(result),
                str(hidden_seed),
                json.dumps(league),
            ]
            done = subprocess.run(
                command,
                cwd=folder,
                capture_output=True,
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
        except Exception as error:  # whatever it is, it is this student's affair alone
            reason = (str(error).strip() or "no message").splitlines()[0]
            row["problem"] = (
                f"{each.student}'s {each.path.name} could not be entered: {type(error).__name__}: {reason}"
            )
    return row


def _write(rows: list[dict[str, Any]], out: Path, zoos: int) -> str:
    header, lines = ("rank", "student", "mean regret", "worst", "message"), []
    students = [
        round(_mean(row["regrets"]), 9)
        for row in rows
        if not row["problem"] and not row["student"].startswith("(")
    ]
    for row in rows:
        if row["problem"]:
            lines.append(("", row["student"], "", "", row["problem"]))
            continue
        mean = round(_mean(row["regrets"]), 9)
        rank = (
            ""
            if row["student"].startswith("(")
            else str(1 + sum(other < mean for other in students))
        )
        lines.append((rank, row["student"], f"{mean:.3f}", f"{max(row['regrets']):.2f}", ""))
    table = reports.markdown(header, lines)
    title = (
        f"# Leaderboard\n\nMean regret over {zoos} sub-zoos, in percentage points of test accuracy."
    )
    reports.write_text(out / "leaderboard.md", f"{title}\n\n{table}\n")
    reports.write_text(out / "leaderboard.csv", reports.to_csv(header, lines))
    return table


def main(source: str, target: str, hidden_seed: str, league: str) -> None:
    notebook = nbformat.read(source, as_version=4)
    try:
        regrets = play(
            recipe_of(notebook), rules_of(notebook), int(hidden_seed), json.loads(league)
        )
        found = {"regrets": regrets, "problem": ""}
    except ClassroomError as error:
        found = {"regrets": [], "problem": str(error)}
    Path(target).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
