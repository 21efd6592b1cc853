"""Each typical mistake alone: run the cells of a source with one wrong answer.

    python tests/assignments/run_cells.py soups result.json            # every mistake
    python tests/assignments/run_cells.py soups result.json reference  # the right answers

The set-up runs once, and every mistake runs in a copy of that process, so that dozens of them take
a minute and not ten. The result says for each mistake which tests failed, and how:
{mistake: {test: message}}.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "notebooks" / "assignments")]

from samples import is_written, right_answers, source, wrong_answers  # noqa: E402
from submissions import graded_cells  # noqa: E402

SPACE: dict[str, Any] = {"__name__": "__main__"}


def code_cells(name: str) -> list[tuple[str, str, bool, bool]]:
    """Name, text, whether graded and whether an answer, of every code cell with a grade id."""
    cells = graded_cells(source(name)).items()
    return [
        (
            part,
            cell.source,
            bool(cell.metadata.nbgrader.grade),
            bool(cell.metadata.nbgrader.solution),
        )
        for part, cell in cells
        if cell.cell_type == "code" and not is_written(cell)
    ]


def answers_of(name: str, mistake: str) -> dict[str, str]:
    """The answers of a mistake or a right variant; none for another name."""
    return right_answers(name).get(mistake) or wrong_answers(name).get(mistake, ({}, {}))[0]


def failures(name: str, mistake: str) -> dict[str, str]:
    """The tests that fail with a mistake, and what they say."""
    answers = answers_of(name, mistake)
    failed = {}
    for part, text, graded, answer in code_cells(name)[num_setup(name) :]:
        if graded or answer:
            try:
                exec(compile(answers.get(part, text), part, "exec"), SPACE)
            except Exception as error:
                kind = type(error).__name__
                failed[part] = str(error) if kind == "AssertionError" else f"{kind}: {error}"
    return failed


def num_setup(name: str) -> int:
    """How many cells come before the first answer."""
    return next(i for i, (_, _, _, answer) in enumerate(code_cells(name)) if answer)


def main(name: str, result: str, *mistakes: str) -> None:
    import torch

    torch.set_num_threads(1)  # threads do not survive the copying of a process
    for part, text, _, _ in code_cells(name)[: num_setup(name)]:
        exec(compile(text, part, "exec"), SPACE)
    mistakes = mistakes or tuple(wrong_answers(name))
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        found = pool.starmap(failures, [(name, mistake) for mistake in mistakes], chunksize=1)
    Path(result).write_text(json.dumps(dict(zip(mistakes, found, strict=True))), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
