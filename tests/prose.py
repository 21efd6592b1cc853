"""The text of all pages and notebooks, for tests that read it."""

from __future__ import annotations

from pathlib import Path

import nbformat

ASSIGNMENTS = "notebooks/assignments/"


def text_cells(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def notebooks(root: Path) -> list[Path]:
    """The chapters and the assignments' two versions, without what a class leaves there."""
    patterns = ("*.ipynb", "assignments/source/*/*.ipynb", "assignments/release/*/*.ipynb")
    return sorted(path for pattern in patterns for path in (root / "notebooks").glob(pattern))


def sources(root: Path) -> dict[str, str]:
    """The prose of every page, by the page's name in the table of contents."""
    pages = {path: path.read_text("utf-8") for path in sorted((root / "book").glob("*.md"))}
    pages |= {path: text_cells(path) for path in notebooks(root)}
    return {path.relative_to(root).with_suffix("").as_posix(): text for path, text in pages.items()}


def chapters_and_pages(root: Path) -> dict[str, str]:
    """`sources` less the assignments, which are read in Jupyter: it knows no {term}."""
    return {page: text for page, text in sources(root).items() if not page.startswith(ASSIGNMENTS)}
