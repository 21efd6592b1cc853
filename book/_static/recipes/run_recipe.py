"""Run what a reader wrote on a bench: a table beside RADIN and greedy, or one readable message.

The worker of the page calls `run_as_json` (book/_static/recipes/worker.js). The reader's file finds
`radin_lite` under the name `radin`.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import radin_lite
from page_bench import SoupBench

FILE = "recipe.py"  # what the reader's text is called in messages
NAME = "recipe"  # of the function that is run
RIVALS = {"RADIN": "radin", "greedy": "greedy"}
MOST_CHARACTERS = 10_000  # of what a recipe prints
NUM_ARGUMENTS_OF_ASSIGNMENT = 3  # bank, evaluate, budget


def run(source: str, bench: SoupBench, budget: int) -> dict[str, Any]:
    """Run the recipe in a text, on a copy of the bank, which it may change.

    Returns: "printed", and either "rows", one for the recipe and each rival, or "error", a message
    that names the line, and "line" itself (None where the error is in no line of the text).
    """
    printed = io.StringIO()
    try:
        with as_radin(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            recipe = find_recipe(source)
            bank = radin_lite.LogitBank(bench.val.logits.copy(), bench.val.labels.copy())
            soup = radin_lite.craft(bank, bench.evaluator(), budget, recipe)
            bench.row(soup.weights)  # one ingredient or a soup of the bench
    except BaseException as error:  # sys.exit() in a recipe must not end the page's Python either
        found = describe(error)
    else:
        found = {"rows": table(bench, soup, budget)}
    return found | {"printed": shorten(printed.getvalue())}


def run_as_json(source: str, path: str, budget: int) -> str:
    """What `run` returns for the bench in a file, as text."""
    return json.dumps(run(source, read_bench(path), budget))


@cache
def read_bench(path: str) -> SoupBench:
    """A bench, read once."""
    with open(path, "rb") as file:
        return SoupBench.read(file)


@contextlib.contextmanager
def as_radin() -> Iterator[None]:
    """Inside, `import radin` gives `radin_lite`."""
    before = sys.modules.get("radin")
    sys.modules["radin"] = radin_lite
    try:
        yield
    finally:
        del sys.modules["radin"]
        if before is not None:
            sys.modules["radin"] = before


def find_recipe(source: str) -> Callable[..., Any]:
    """The function `recipe` of a text, as `radin.craft` takes it.

    Raises:
        ParameterError: the text has none, or one with other arguments.
    """
    linecache.cache[FILE] = (len(source), None, source.splitlines(keepends=True), FILE)
    names: dict[str, Any] = {"__name__": "recipe_of_the_page"}
    exec(compile(source, FILE, "exec"), names)
    function = names.get(NAME)
    if not callable(function):
        raise radin_lite.ParameterError(
            f"There is no function {NAME}: write `def {NAME}(bank, ledger):`, and let it return "
            "mixing weights."
        )
    count = len(inspect.signature(function).parameters)
    if count == NUM_ARGUMENTS_OF_ASSIGNMENT:
        return of_assignment(function)
    if count != 2:
        raise radin_lite.ParameterError(
            f"{NAME} must take (bank, ledger), or (bank, evaluate, budget) as in assignment 3; "
            f"this one takes {count} arguments."
        )
    return function


def of_assignment(function: Callable[..., Any]) -> radin_lite.RecipeFunction:
    """A recipe of assignment 3, which takes (bank, evaluate, budget)."""

    def recipe(bank: radin_lite.LogitBank, ledger: radin_lite.Ledger) -> Any:
        return function(bank, ledger.spend, ledger.budget)

    return recipe


def table(bench: SoupBench, soup: radin_lite.Soup, budget: int) -> list[dict[str, Any]]:
    """The recipe's soup and those of its rivals at the same budget."""
    rivals = {
        title: radin_lite.craft(bench.val, bench.evaluator(), budget, name)
        for title, name in RIVALS.items()
    }
    soups = {"yours": soup} | rivals
    return [
        {
            "recipe": title,
            "members": each.members,
            "evaluations": each.evaluations,
            "val": each.accuracy,
            "test": float(bench.soup_test[bench.row(each.weights)]),
            "regret": bench.regret(each.weights),
            "minus_radin": None
            if title == "RADIN"
            else bench.difference(each.weights, rivals["RADIN"].weights),
        }
        for title, each in soups.items()
    ]


def describe(error: BaseException) -> dict[str, Any]:
    """One message, with the line of the reader's text."""
    kind = type(error).__name__
    if isinstance(error, SyntaxError) and error.filename == FILE:
        shown = (error.text or "").strip()
        return {"error": message(kind, error.msg, error.lineno, shown), "line": error.lineno}
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == FILE
    ]
    what = str(error)
    if isinstance(error, ModuleNotFoundError):
        what += "; this page has NumPy and radin, and the standard library of Python"
    if not frames:
        return {"error": message(kind, what, None, ""), "line": None}
    last = frames[-1]
    return {"error": message(kind, what, last.lineno, last.line or ""), "line": last.lineno}


def message(kind: str, what: str, line: int | None, shown: str) -> str:
    """Such as "Line 7: BudgetError: The budget is spent.", and below it that line."""
    where = "" if line is None else f"Line {line}: "
    return f"{where}{kind}{f': {what}' if what else ''}" + (f"\n    {shown}" if shown else "")


def shorten(text: str) -> str:
    """The beginning of a long text."""
    rest = len(text) - MOST_CHARACTERS
    return text if rest <= 0 else f"{text[:MOST_CHARACTERS]}\n... and {rest:,} more characters"
