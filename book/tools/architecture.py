"""The map of the module: which room of `radin` imports which, drawn from the imports themselves.

A room is a folder or a file directly below `radin`. `FLOORS` is their order, the lowest first.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

from generated import fill

FLOORS = (
    ("errors",),
    ("files",),
    ("checkpoints", "ranking"),
    ("soup", "data"),
    ("inference",),
    ("theory",),
    ("recipes",),
    ("experiments",),
    ("cli", "__init__"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
OLD_PLACES = ("images",)  # modules of version 0.1 that lead to their new home
FLOOR_INCHES = 0.85
PICTURE = Path("figures") / "architecture.svg"
CAPTION = (
    "The rooms of `radin`, drawn from the imports of the module. An arrow leads from a room to one "
    "that it imports. An arrow is left out where a chain of other arrows leads to the same room."
)


# ---------------------------------------------------------------- reading the imports


def imported_rooms(source: str) -> list[tuple[int, str]]:
    """The line and the room of each import of `radin`, also inside functions and TYPE_CHECKING."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"line {node.lineno}: write the import with its full name")
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [(node.lineno, room_of(name)) for name in names if name.split(".")[0] == "radin"]
    return sorted(set(found))


def room_of(name: str) -> str:
    """The room of a dotted name: `radin.soup.save` is in `soup`, `radin.craft` is in `__init__`."""
    room = f"{name}.".split(".")[1]
    return room if room in FLOOR else "__init__"


def room_of_file(path: Path, package: Path) -> str:
    """The room of a file below the package."""
    room = path.relative_to(package).parts[0].removesuffix(".py")
    return "__init__" if room in OLD_PLACES else room


def arrows(package: Path) -> dict[str, set[str]]:
    """For each room the other rooms that it imports."""
    found: dict[str, set[str]] = {room: set() for room in FLOOR}
    for path in package.rglob("*.py"):
        room = room_of_file(path, package)
        found[room] |= {other for _, other in imported_rooms(path.read_text("utf-8"))} - {room}
    return found


def without_detours(found: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows less those to a room that a chain of other arrows reaches, too."""

    def reached(rooms: Iterable[str]) -> set[str]:
        return {end for room in rooms for end in {*found[room], *reached(found[room])}}

    return {room: others - reached(others) for room, others in found.items()}


def sentences(package: Path) -> dict[str, str]:
    """The first sentence of each room, as its own docstring says it."""
    texts = {}
    for room in FLOOR:
        path = package / room
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
        if not docstring:
            raise ValueError(f"{path} has no docstring")
        texts[room] = " ".join(docstring.split("\n\n")[0].split())
    return texts


# ---------------------------------------------------------------- the page


def write_architecture(stage: Path, package: Path) -> None:
    """Draw the map into the staged book and fill its page; a book without the page does without."""
    page = stage / "book" / "architecture.md"
    if not page.is_file():
        return
    drawn = without_detours(arrows(package))
    draw(drawn, page.parent / PICTURE)
    options = f":name: fig-architecture\n:width: 480px\n:alt: {described(drawn)}"
    figure = f"```{{figure}} {PICTURE.as_posix()}\n{options}\n\n{CAPTION}\n```"
    fill(page, "map of the rooms", figure)
    fill(page, "list of the rooms", listed(sentences(package)))


def shown(room: str) -> str:
    """The name of a room as the page shows it."""
    return "radin" if room == "__init__" else room


def described(drawn: dict[str, set[str]]) -> str:
    """The arrows as a text, for those who do not see the picture."""
    parts = []
    for room in reversed(FLOOR):
        others = " and ".join(sorted(drawn[room], key=lambda other: (-FLOOR[other], other)))
        parts.append(f"{shown(room)} imports {others or 'no other room'}")
    return "Boxes and arrows, from the top floor down: " + "; ".join(parts) + "."


def listed(texts: dict[str, str]) -> str:
    """The rooms from the top floor down, one sentence each."""
    return "\n".join(f"- **`{shown(room)}`**: {texts[room]}" for room in reversed(FLOOR))


# ---------------------------------------------------------------- the picture


def draw(drawn: dict[str, set[str]], path: Path) -> None:
    """Write the map as an SVG file, which is the same for the same arrows."""
    import matplotlib
    import matplotlib.pyplot as plt

    from radin.experiments.plots.drawing import arrow, box, canvas

    width = 4.4
    figure, axes = canvas(width, FLOOR_INCHES * len(FLOORS))
    boxes = {}
    for floor, rooms in enumerate(FLOORS):
        for column, room in enumerate(rooms, start=1):
            x = width * column / (len(rooms) + 1)
            boxes[room] = box(axes, x, FLOOR_INCHES * (floor + 0.5), shown(room), size=14)
    for room, others in drawn.items():
        for other in sorted(others):
            arrow(axes, boxes[room], boxes[other])
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "radin"}):
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
