"""Submissions for tests: right answers, wrong answers, cells deleted and copied."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat

from submissions import SOURCE, grade_id, graded_cells, load_releases

Wrong = dict[str, tuple[dict[str, str], dict[str, float]]]


def source(name: str) -> Any:
    """The teacher's version, with solutions and hidden tests."""
    return nbformat.read(SOURCE / name / f"{name}.ipynb", as_version=4)


def student_version(name: str) -> Any:
    return copy.deepcopy(load_releases()[name])


def is_answer(cell: Any) -> bool:
    return bool(grade_id(cell) and cell.metadata.nbgrader.solution)


def is_written(cell: Any) -> bool:
    return is_answer(cell) and bool(cell.metadata.nbgrader.grade)


def solved(name: str) -> Any:
    """The student version with the reference answers: what a student without a mistake hands in."""
    notebook, answers = student_version(name), graded_cells(source(name))
    for cell in notebook.cells:
        if is_answer(cell):
            cell.source = answers[grade_id(cell)].source
    return notebook


def wrong_answers(name: str) -> Wrong:
    """Typical mistakes: what replaces which answers, and the points that each must lose."""
    return importlib.import_module(f"wrong_{name}").WRONG


def right_answers(name: str) -> dict[str, dict[str, str]]:
    """Right answers other than the reference's: what replaces which answers."""
    return getattr(importlib.import_module(f"wrong_{name}"), "RIGHT", {})


def with_mistakes(name: str, mistakes: Iterable[str]) -> Any:
    """`solved` with typical mistakes."""
    notebook = solved(name)
    cells = graded_cells(notebook)
    for mistake in mistakes:
        for cell, text in wrong_answers(name)[mistake][0].items():
            cells[cell].source = text.strip("\n")
    return notebook


def side_by_side(name: str) -> list[list[str]]:
    """The mistakes in groups without two mistakes in one answer; the largest group first."""
    groups: list[list[str]] = []
    wrong = wrong_answers(name)
    for mistake, (answers, _) in wrong.items():
        for group in groups:
            if not any(answers.keys() & wrong[other][0].keys() for other in group):
                group.append(mistake)
                break
        else:
            groups.append([mistake])
    return groups


def without(notebook: Any, name: str) -> Any:
    """The notebook with a cell deleted."""
    notebook.cells = [cell for cell in notebook.cells if grade_id(cell) != name]
    return notebook


def with_copy(notebook: Any, name: str) -> Any:
    """The notebook with a copy of a cell below it, as Jupyter makes one."""
    at = next(i for i, cell in enumerate(notebook.cells) if grade_id(cell) == name)
    twin = copy.deepcopy(notebook.cells[at])
    twin.id = "a-copy"
    notebook.cells.insert(at + 1, twin)
    return notebook


def hand_in(folder: Path, student: str, name: str, notebook: Any) -> Path:
    """Write a submission as <student>/<name>.ipynb."""
    path = folder / student / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(notebook, str):
        path.write_text(notebook, "utf-8")
    else:
        nbformat.write(notebook, path)
    return path
