"""The examples in the docstrings: each public name has one, and all of them run."""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path

import pytest

import radin

ROOT = Path(radin.__file__).resolve().parent.parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "radin").rglob("*.py")
    if path.name != "__main__.py"
)


def source(name: str) -> str:
    """The text of a module's file."""
    path = ROOT.joinpath(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path.read_text("utf-8")


WITH_EXAMPLES = [name for name in MODULES if ">>>" in source(name)]


def defining_module(name: str) -> str:
    """The module from which `radin` imports a public name."""
    for node in ast.walk(ast.parse(source("radin"))):
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            return str(node.module)
    raise LookupError(f"radin imports no {name}")


@pytest.mark.parametrize("name", radin.__all__)
def test_a_public_name_has_an_example(name):
    value = getattr(radin, name)
    # A constant has no docstring of its own: its module shows it.
    own = callable(value)
    text = value.__doc__ if own else importlib.import_module(defining_module(name)).__doc__
    examples = doctest.DocTestParser().get_examples(text or "")
    assert examples, f"{name} has no >>> example"
    assert own or any(name in example.source for example in examples)


def test_there_are_examples():
    assert len(MODULES) > 60
    assert len(WITH_EXAMPLES) > 8


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example that writes a file leaves nothing in the source tree
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed, "the output above says which example failed"


def test_a_wrong_example_fails():
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(verbose=False)
    (test,) = finder.find(type("Wrong", (), {"__doc__": ">>> 1 + 1\n3\n"}), "Wrong", module=False)
    assert runner.run(test, out=lambda text: None).failed == 1
