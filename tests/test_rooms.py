"""The floors of the module: no room imports one on its own floor or above, and names stay clear."""

from __future__ import annotations

import ast
import importlib

import pytest

from architecture import FLOOR, imported_rooms, room_of_file


def forbidden(room: str, source: str) -> list[str]:
    """The imports in a source of one room that lead to another room on its floor or above."""
    return [
        f"line {line}: {room} imports {other}"
        for line, other in imported_rooms(source)
        if other != room and FLOOR[other] >= FLOOR[room]
    ]


def test_ranking_and_experiments_are_where_they_must_be():
    assert {room for room in FLOOR if FLOOR[room] < FLOOR["ranking"]} == {"errors", "files"}
    above = {room for room in FLOOR if FLOOR[room] > FLOOR["experiments"]}
    assert above == {"cli", "__init__"}


def test_no_room_imports_upwards(root):
    package = root / "radin"
    files = sorted(package.rglob("*.py"))
    assert len(files) > 60
    assert {room_of_file(path, package) for path in files} == set(FLOOR)
    for path in files:
        wrong = forbidden(room_of_file(path, package), path.read_text("utf-8"))
        assert not wrong, f"{path.relative_to(root)}, {wrong}"


def test_no_package_exports_a_name_of_its_modules(root):
    for init in sorted((root / "radin").rglob("__init__.py")):
        modules = {path.stem for path in init.parent.iterdir() if path.stem != "__init__"}
        package = ".".join(init.parent.relative_to(root).parts)
        exported = exported_names(init.read_text("utf-8"))
        exported |= set(getattr(importlib.import_module(package), "__all__", ()))
        assert not exported & modules, f"{package} hides its module {exported & modules}"


def exported_names(source: str) -> set[str]:
    """What the imports, definitions and assignments at the top of a source name."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("errors", "import radin.files"),
        ("files", "from radin.ranking.bank import LogitBank"),
        ("ranking", "from radin.checkpoints.zoo import Zoo"),
        ("ranking", "from radin import soup"),
        ("checkpoints", "from radin.ranking import bank"),
        ("soup", "def load():\n    from radin.data.load import load_split"),
        ("data", "if TYPE_CHECKING:\n    from radin.soup.average import average"),
        ("recipes", "import torch, radin.experiments.synthetic as synthetic"),
        ("recipes", "import radin"),
        ("inference", "from radin import craft"),
        ("experiments", "from radin.cli import main"),
        ("cli", "from radin import Zoo"),
    ],
)
def test_the_check_finds(room, source):
    assert len(forbidden(room, source)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("data", "from radin.ranking.projection import Projection"),
        ("soup", "from radin.ranking import bank\nfrom radin.checkpoints.zoo import Zoo"),
        ("soup", "from radin.soup.save import save_soup"),
        ("experiments", "from radin import files\nimport torch, radinette"),
        ("__init__", "from radin.experiments.synthetic import synthetic_bank"),
        ("cli", "from radin.experiments.bench.bench import SoupBench"),
    ],
)
def test_the_check_lets_pass(room, source):
    assert forbidden(room, source) == []


def test_a_relative_import_is_refused():
    with pytest.raises(ValueError, match="line 2: write the import with its full name"):
        imported_rooms("import torch\nfrom .bank import LogitBank")
