"""A class to try the grading on: right answers, typical mistakes, and damaged notebooks.

    python tests/assignments/make_class.py soups --students 100 --loops 5 --out _build/class
    make grade SUBMISSIONS=_build/class

One student in three makes no mistake. The others make one or two, hand in the untouched student
version, delete or copy a cell, change a test, take the wrong file, or hand in a PDF. With --loops
so many students hand in an answer that never ends.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "notebooks" / "assignments")]

from samples import (  # noqa: E402
    hand_in,
    is_answer,
    is_written,
    side_by_side,
    solved,
    student_version,
    with_copy,
    with_mistakes,
    without,
)
from submissions import assignment_names, graded_cells  # noqa: E402


def notebook_of(name: str, number: int, dice: random.Random) -> Any:
    """What student `number` hands in, as a notebook or as text."""
    tests = [
        part for part, cell in graded_cells(solved(name)).items() if cell.metadata.nbgrader.locked
    ]
    kind = number % 12
    if kind < 4:
        return answer_questions(solved(name))
    if kind < 7:
        group = side_by_side(name)[0]
        return answer_questions(
            with_mistakes(name, dice.sample(group, min(len(group), dice.choice((1, 2)))))
        )
    if kind == 7:
        return student_version(name)
    if kind == 8:
        return without(solved(name), dice.choice(tests))
    if kind == 9:
        return with_copy(solved(name), dice.choice(tests))
    if kind == 10:
        notebook = solved(name)
        graded_cells(notebook)[tests[-1]].source = "assert True"
        return notebook
    return (
        "%PDF-1.7"
        if number % 24 < 12
        else solved(next(other for other in assignment_names() if other != name))
    )


def with_endless_loop(name: str) -> Any:
    """Right answers, but for the first one, which never ends."""
    notebook = answer_questions(solved(name))
    first = next(cell for cell in notebook.cells if is_answer(cell) and not is_written(cell))
    first.source += "\n\nwhile True:\n    pass"
    return notebook


def answer_questions(notebook: Any) -> Any:
    for cell in notebook.cells:
        if is_written(cell):
            cell.source = "Because the average of the logits is close to the logits of the average."
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("assignment", choices=assignment_names())
    parser.add_argument("--students", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("_build/class"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loops", type=int, default=0, help="students whose answer never ends")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    endless = set(dice.sample(range(options.students), options.loops)) if options.loops else set()
    for number in range(options.students):
        if number in endless:
            notebook = with_endless_loop(options.assignment)
        else:
            notebook = notebook_of(options.assignment, number, dice)
        hand_in(options.out, f"student{number + 1:02d}", options.assignment, notebook)
    print(options.out)


if __name__ == "__main__":
    main()
