"""Every name `radin.something` and every path that a text of the project gives exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

# A dotted name below radin, which is not part of a longer path or address.
DOTTED = re.compile(r"(?<![\w./-])radin(?:\.[A-Za-z_]\w*)+(?![\w-])")
PATH = re.compile(
    r"(?<![\w./*-])(?:radin|book|tests|notebooks)/[\w/-]+\.(?:py|md|ipynb|json|js|bib|yml)\b"
)
MADE = (  # the build writes them
    "book/explorer.md",
    "book/forest_plot.md",
    "book/recipe_editor.md",
    "book/moving_gap.md",
    "book/moving_path.md",
    "notebooks/out.ipynb",
)
FILES = re.compile(r"\.(safetensors|sbatch|egg)$")
SUFFIXES = {".py", ".md", ".ipynb", ".toml", ".js"}


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def texts(root: Path) -> list[Path]:
    folders = [root / "radin", root / "book", root / "notebooks"]
    below = [path for folder in folders for path in folder.rglob("*") if path.suffix in SUFFIXES]
    return [*below, *(root / name for name in ("README.md", "CONTRIBUTING.md", "pyproject.toml"))]


def test_every_name_below_radin_exists(root):
    named = {}
    for path in texts(root):
        for name in DOTTED.findall(path.read_text("utf-8")):
            if not FILES.search(name):
                named.setdefault(name, path.relative_to(root).as_posix())
    assert len(named) > 100
    assert {name: path for name, path in named.items() if not resolves(name)} == {}


def test_every_path_exists(root):
    heads = {
        path: path.read_text("utf-8").split("\n", 1)[0] for path in (root / "tests").rglob("*.py")
    }
    given = {}
    for path, text in ({path: path.read_text("utf-8") for path in texts(root)} | heads).items():
        for each in PATH.findall(text):
            given.setdefault(each, path.relative_to(root).as_posix())
    assert len(given) > 50
    missing = {each: path for each, path in given.items() if not (root / each).is_file()}
    assert {each: path for each, path in missing.items() if each not in MADE} == {}


@pytest.mark.parametrize(
    ("name", "exists"),
    [
        ("radin.craft", True),
        ("radin.ranking.rank.fast_estimate", True),
        ("radin.LogitBank.load", True),
        ("radin.kernels", False),
        ("radin.ranking.rank.no_such_name", False),
    ],
)
def test_names_are_looked_up(name, exists):
    assert resolves(name) is exists
