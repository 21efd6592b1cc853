"""`import radin` costs nothing, and the first use of a name torch and nothing more."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import radin
from helpers import finish, run_python

HEAVY = {
    "IPython",
    "PIL",
    "joblib",
    "matplotlib",
    "numba",
    "open_clip",
    "pandas",
    "ray",
    "scipy",
    "seaborn",
    "sklearn",
    "sympy",
    "torchvision",
    "transformers",
}
COST = """
import json, time
start = time.perf_counter()
MODULE
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted({name.split(".")[0] for name in sys.modules})]))
"""


HELP = """
from radin.cli import main
try:
    main(ARGUMENTS)
except SystemExit as end:
    assert end.code == 0
print()
"""


def cost(statements: str) -> tuple[float, set[str]]:
    """Seconds of some statements in a process of their own, and what is imported after them."""
    printed = finish(run_python(COST.replace("MODULE", statements)))
    seconds, modules = json.loads(printed.splitlines()[-1])
    return seconds, set(modules)


def test_the_first_use_of_a_name_brings_no_heavy_module(capsys):
    torch_seconds, with_torch = cost("import torch")
    radin_seconds, with_radin = cost("import radin; radin.craft")
    with capsys.disabled():
        print(f" import torch {torch_seconds:.2f} s, radin.craft {radin_seconds:.2f} s ", end="")
    assert not (with_radin - with_torch) & HEAVY
    assert {"radin", "torch"} <= with_radin


@pytest.mark.parametrize(
    "statements",
    [
        "import radin; radin.__version__, dir(radin)",
        HELP.replace("ARGUMENTS", '["--help"]'),
        HELP.replace("ARGUMENTS", '["craft", "--help"]'),
        HELP.replace("ARGUMENTS", '["fetch", "--help"]'),
    ],
)
def test_neither_import_nor_help_waits_for_torch(statements):
    seconds, modules = cost(statements)
    assert "radin" in modules
    assert not modules & {"torch", "numpy", *HEAVY}
    assert seconds < 1


def test_public_names_have_one_home():
    tree = ast.parse(Path(radin.__file__).read_text("utf-8"))
    imported = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and f"{node.module}".startswith("radin.")
        for alias in node.names
    }
    assert imported == radin._HOMES
    assert set(radin.__all__) == set(imported)


def test_a_room_comes_with_its_modules_and_an_unknown_name_is_refused():
    rooms = {path.stem for path in Path(radin.__file__).parent.iterdir()} - {"__init__", "images"}
    assert rooms - {"__pycache__"} == set(radin._ROOMS)
    assert json.loads(
        finish(
            run_python(
                "import radin\n"
                "radin.ranking.rank.rank\n"
                "assert {*radin.__all__, *radin._ROOMS} <= set(dir(radin))\n"
                "print(int(radin.craft is radin.recipes.craft.craft))"
            )
        )
    )
    with pytest.raises(AttributeError, match="no attribute 'crafft'"):
        radin.crafft  # noqa: B018


def test_every_public_name_is_there():
    assert all(hasattr(radin, name) for name in radin.__all__)
    assert all(getattr(radin, name).__doc__ for name in radin.__all__ if name != "RECIPES")


def test_everything_refused_is_one_family():
    found = [
        kind
        for kind in vars(radin.errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert len(found) > 3
    assert all(issubclass(kind, radin.RadinError) for kind in found)
    assert issubclass(radin.errors.ParameterError, ValueError)
