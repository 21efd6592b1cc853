"""Find answers that two students share, or that are the published solution."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import Any

from radin.errors import list_names
from submissions import answer_text, graded_cells

MIN_CODE_CHARACTERS = (
    200  # of the normal form; two students write the same short function by chance
)
MIN_TEXT_CHARACTERS = 80
MAX_NAMES = 4
# What surrounds the answer in the source of a written question.
MARKING = re.compile(r"^###.*$|\*\*Reference answer\.\*\*|^\*\*Rubric(.|\n)*", re.M)
SOLUTION = "the published solution"


def describe_same_answers(
    notebooks: Iterable[tuple[str, Any]], release: Any, solution: Any
) -> dict[str, list[str]]:
    """By student, a sentence for each set of others who have the same answers.

    Code is the same if it differs only in comments, blanks and the names of its variables; text if
    it differs only in capitals, blanks and punctuation. Short answers are not compared.

    Args:
        notebooks: student and notebook, of one assignment.
        release: the student version, whose stubs are no answers.
        solution: the source with the reference answers.
    """
    stubs = normal_answers(release, release)
    found: dict[tuple[str, str], list[str]] = {}
    for student, notebook in [(SOLUTION, solution), *notebooks]:
        for part, text in normal_answers(notebook, release).items():
            if text and text != stubs.get(part):
                found.setdefault((part, text), []).append(student)
    shared: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for (part, _), students in found.items():
        for student in students:
            others = tuple(other for other in students if other != student)
            if others and student != SOLUTION:
                shared.setdefault(student, {}).setdefault(others, []).append(part)
    return {
        student: [_sentence(parts, others) for others, parts in groups.items()]
        for student, groups in shared.items()
    }


def _sentence(parts: list[str], others: tuple[str, ...]) -> str:
    whose = list_names(others, most=MAX_NAMES)
    return f"the same answer to {', '.join(parts)} as {whose}; compare them yourself"


def normal_answers(notebook: Any, release: Any) -> dict[str, str]:
    """The normal form of each answer; empty for one that is short or cannot be read."""
    stubs = graded_cells(release)
    found = {}
    for name, cell in graded_cells(notebook).items():
        if cell.metadata.nbgrader.solution:
            code = cell.cell_type == "code"
            written = answer_text(cell.source, stubs[name].source)
            text = normal_code(cell.source) if code else normal_text(MARKING.sub("", written))
            least = MIN_CODE_CHARACTERS if code else MIN_TEXT_CHARACTERS
            found[name] = text if len(text) >= least else ""
    return found


def normal_text(source: str) -> str:
    """The words of a text, in small letters."""
    return " ".join(re.findall(r"\w+", source.lower()))


def normal_code(source: str) -> str:
    """Python code without comments and docstrings, its variables numbered; empty for a mistake."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    names = _Names()
    for node in ast.walk(tree):
        names.collect(node)
    try:
        return ast.unparse(names.visit(tree))
    except RecursionError:
        return ""


class _Names(ast.NodeTransformer):
    """Number the variables that a cell binds, in the order in which they appear."""

    def __init__(self) -> None:
        self.number: dict[str, str] = {}

    def collect(self, node: ast.AST) -> None:
        name = ""
        if isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        if name:
            self.number.setdefault(name, f"v{len(self.number)}")

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Name(self.number.get(node.id, node.id), node.ctx), node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.copy_location(ast.arg(self.number[node.arg]), node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else self.generic_visit(node)
