"""No cell of the book asserts what cannot fail, and no page but the home of verdicts makes one.

A program sees only some of these faults; each kind below has a made-up cell that shows it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

PURE = {"abs", "all", "any", "len", "list", "max", "min", "range", "round", "set", "sorted", "sum"}
PURE |= {"tuple", "Rational", "Fraction"}
RUNNING = {"cummax", "cummin", "accumulate", "sort", "sort_values", "sorted"}
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


def code_of(notebook: Path) -> str:
    """The code of a notebook less its parameters, which are whatever a reader wants."""
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n".join(
        cell.source
        for cell in cells
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
    )


def plain_python(code: str) -> str:
    """Code without Jupyter's own commands."""
    return re.sub(r"^[%!].*$", "", code, flags=re.M)


def sources(root: Path) -> dict[str, str]:
    """The Python of every notebook and page."""
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    found = {path.name: code_of(path) for path in notebooks}
    for page in sorted((root / "book").glob("*.md")):
        blocks = PYTHON_BLOCK.findall(page.read_text("utf-8"))
        found |= {f"{page.name}, block {k}": block for k, block in enumerate(blocks)}
    return {name: plain_python(code) for name, code in found.items()}


# ---------------------------------------------------------------- assertions that cannot fail


def same(a: ast.AST, b: ast.AST) -> bool:
    return ast.dump(a) == ast.dump(b)


def name_of(call: ast.AST) -> str:
    """The name of the function or method that is called; empty where nothing is."""
    if not isinstance(call, ast.Call):
        return ""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def held_by(call: ast.Call) -> list[ast.expr]:
    """What an extreme is taken over, as far as it is written out."""
    if len(call.args) == 1 and isinstance(call.args[0], ast.List | ast.Tuple | ast.Set):
        return call.args[0].elts
    return call.args if len(call.args) > 1 else []


def is_among(value: ast.expr, call: ast.Call) -> bool:
    """Whether an extreme is taken over a set that holds the value."""
    if any(same(value, each) for each in held_by(call)):
        return True
    over = call.args[0] if call.args else getattr(call.func, "value", None)
    if isinstance(over, ast.Call) and name_of(over) == "values":
        over = getattr(over.func, "value", None)
    return isinstance(value, ast.Subscript) and over is not None and same(value.value, over)


def never_false(left: ast.expr, op: ast.cmpop, right: ast.expr) -> bool:
    """Whether left <= right or left >= right holds whatever the values are."""
    if isinstance(op, ast.Eq | ast.LtE | ast.GtE | ast.Is) and same(left, right):
        return True
    if isinstance(op, ast.GtE) and isinstance(right, ast.Constant):
        return name_of(left) in {"abs", "len"} and right.value == 0
    if isinstance(right, ast.Call) and name_of(right) in {"max", "min"}:
        wanted = ast.LtE if name_of(right) == "max" else ast.GtE
        return isinstance(op, wanted) and is_among(left, right)
    if isinstance(left, ast.Call) and name_of(left) in {"max", "min"}:
        wanted = ast.GtE if name_of(left) == "max" else ast.LtE
        return isinstance(op, wanted) and is_among(right, left)
    return False


def depends_on_nothing(node: ast.expr, constants: set[str]) -> bool:
    """Whether an expression is made of numbers written in the cells alone."""
    allowed = (ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.Constant, ast.Name, ast.Call)
    allowed += (ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Subscript, ast.Slice)
    allowed += (ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.expr_context)
    for part in ast.walk(node):
        if not isinstance(part, allowed):
            return False
        if isinstance(part, ast.Call) and not (
            isinstance(part.func, ast.Name) and part.func.id in PURE
        ):
            return False
        if isinstance(part, ast.Name) and part.id not in constants | PURE:
            return False
    return True


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """All statements in their order, those of loops and functions too."""
    for each in body:
        yield each
        for field in ("body", "orelse", "finalbody"):
            yield from statements(getattr(each, field, []))


def cannot_fail(code: str) -> list[str]:
    """The assertions of some cells that hold whatever the experiments give."""
    found = []
    constants: set[str] = set()
    assigned: dict[str, ast.expr] = {}
    for each in statements(ast.parse(code).body):
        if isinstance(each, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.For):
            value = getattr(each, "value", None)
            fixed = isinstance(each, ast.Assign) and depends_on_nothing(each.value, constants)
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            for target in targets:
                for name in (n.id for n in ast.walk(target) if isinstance(n, ast.Name)):
                    (constants.add if fixed else constants.discard)(name)
                    assigned.pop(name, None)
                    if isinstance(target, ast.Name) and value is not None:
                        assigned[name] = value
        if isinstance(each, ast.Assert) and holds_always(each.test, constants, assigned):
            found.append(ast.unparse(each))
    return found


def holds_always(test: ast.expr, constants: set[str], assigned: dict[str, ast.expr]) -> bool:
    """Whether a program sees that an assertion cannot fail."""
    if isinstance(test, ast.Tuple) and test.elts:
        return True
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        return any(holds_always(each, constants, assigned) for each in test.values)
    if name_of(test) == "all" and isinstance(test, ast.Call) and not test.args:
        return holds_always(test.func.value, constants, assigned)  # type: ignore[attr-defined]
    if isinstance(test, ast.Attribute) and test.attr.startswith("is_monotonic"):
        made = assigned.get(getattr(test.value, "id", ""), test.value)
        return name_of(made) in RUNNING
    if depends_on_nothing(test, constants) and not is_worked(test):
        return True
    if not isinstance(test, ast.Compare):
        return False
    sides = [test.left, *test.comparators]
    pairs = list(zip(sides, test.ops, sides[1:], strict=False))
    return all(
        never_false(left, op, right)
        or (isinstance(op, ast.Eq) and was_set_to(left, right, assigned))
        for left, op, right in pairs
    )


def is_worked(test: ast.expr) -> bool:
    """Whether it holds an exercise's arithmetic to a result that is written out."""
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.ops[0], ast.Eq)
        and isinstance(test.comparators[0], ast.Constant)
        and not isinstance(test.left, ast.Constant)
    )


def was_set_to(left: ast.expr, right: ast.expr, assigned: dict[str, ast.expr]) -> bool:
    """Whether one side is a name and the other what it was set to."""
    return any(
        isinstance(name, ast.Name) and name.id in assigned and same(assigned[name.id], value)
        for name, value in ((left, right), (right, left))
    )


def test_no_assertion_of_the_book_cannot_fail(root):
    found = {name: cannot_fail(code) for name, code in sources(root).items()}
    assert sum("assert" in code for code in sources(root).values()) > 8
    assert {name: faults for name, faults in found.items() if faults} == {}


@pytest.mark.parametrize(
    "cell",
    [
        "assert top['both'] <= max(top.values())",
        "assert max(top.values()) >= top['both']",
        "assert accuracies[3] >= accuracies.min()",
        "assert best >= min(best, other)",
        "assert best <= max([first, best])",
        "assert (regret <= regret).all()",
        "assert soup == soup",
        "assert abs(gap) >= 0",
        "assert len(rows) >= 0",
        "assert (low > 0, 'above zero')",
        "assert low > 0 or True",
        "assert 3 == 3",
        "gaps = [1, 2, 6]\nthree = 4 * sum(gaps) / 9\nassert three == 4 / 3 * sum(gaps) / 3",
        "ranks = found.rank()\nassert ranks == found.rank()",
        "best = values.cummax()\nassert best.is_monotonic_increasing",
        "for k in range(3):\n    if k:\n        assert k == k",
    ],
)
def test_the_check_of_assertions_finds(cell):
    assert len(cannot_fail(cell)) == 1


@pytest.mark.parametrize(
    "cell",
    [
        "assert top['both'] <= max(others.values())",
        "assert best >= max(first, second)",
        "assert top['both'] >= max(top.values())",  # says which is the best
        "assert low < high",
        "assert (errors >= 0).all()",
        "by_rate = measured()\nassert by_rate['cosine'].is_monotonic_decreasing",
        "gaps = measured()\nassert sum(gaps) == 9",
        "x = 1\nx = draw()\nassert x == 1",
        "passes = 8\nassert 3 * passes == 24",
        "a, b = pair()\nassert a == pair()",
        "assert all(value < 1 for value in found)",
    ],
)
def test_the_check_of_assertions_lets_pass(cell):
    assert cannot_fail(cell) == []


# ---------------------------------------------------------------- one home for verdicts


def above(test: ast.AST) -> bool:
    return compares_with_zero(test, ast.Gt)


def below(test: ast.AST) -> bool:
    return compares_with_zero(test, ast.Lt)


def compares_with_zero(test: ast.AST, operator: type[ast.cmpop]) -> bool:
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.ops[0], operator)
        and isinstance(test.comparators[0], ast.Constant)
        and test.comparators[0].value == 0
    )


def verdicts_made(code: str) -> list[str]:
    """Choices of one answer above zero, another below it and a third between the two."""
    found = []
    tree = ast.parse(code)
    for each in ast.walk(tree):
        if isinstance(each, ast.IfExp) and isinstance(each.orelse, ast.IfExp):
            first, second = each.test, each.orelse.test
        elif isinstance(each, ast.If) and len(each.orelse) == 1:
            inner = each.orelse[0]
            choice = inner.value if isinstance(inner, ast.Return) else inner
            if not isinstance(choice, ast.If | ast.IfExp):
                continue
            first, second = each.test, choice.test
        else:
            continue
        if (above(first) and below(second)) or (below(first) and above(second)):
            found.append(ast.unparse(each))
    for body in (getattr(each, "body", None) for each in ast.walk(tree)):
        for one, two in pairwise(body) if isinstance(body, list) else ():
            after = two.value if isinstance(two, ast.Return) else two
            if (
                isinstance(one, ast.If)
                and isinstance(one.body[-1], ast.Return)
                and isinstance(after, ast.If | ast.IfExp)
                and above(one.test)
                and below(after.test)
            ):
                found.append(ast.unparse(one))
    return found


HOME = "radin/experiments/intervals.py"


def test_verdicts_have_one_home(root):
    """`in_words` and what stands beside it: a change of the words changes every page."""
    texts = {name: code for name, code in sources(root).items() if name.endswith(".ipynb")}
    for folder in (root / "radin" / "experiments", root / "book" / "tools"):
        texts |= {str(p.relative_to(root)): p.read_text("utf-8") for p in folder.rglob("*.py")}
    found = {name: verdicts_made(code) for name, code in texts.items()}
    assert [name for name, verdicts in found.items() if verdicts] == [HOME]


@pytest.mark.parametrize(
    "cell",
    [
        "said = 'ahead' if low > 0 else 'behind' if high < 0 else 'open'",
        "said = 'behind' if high < 0 else 'ahead' if low > 0 else 'open'",
        "def say(low, high):\n if low > 0:\n  return 'yes'\n return 'no' if high < 0 else 'open'",
        "if low > 0:\n    said = 'ahead'\nelif high < 0:\n    said = 'behind'",
    ],
)
def test_the_check_of_homes_finds(cell):
    assert len(verdicts_made(cell)) == 1


@pytest.mark.parametrize(
    "cell",
    [
        "said = in_words(interval, 'it helps', 'it harms', 'open')",
        "sign = 1 if low > 0 else 0",
        "count = sum(low > 0 for low in lows)",
    ],
)
def test_the_check_of_homes_lets_pass(cell):
    assert verdicts_made(cell) == []
