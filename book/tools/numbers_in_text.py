"""Put the numbers of an executed notebook into its text, for readers outside the book.

    python book/tools/numbers_in_text.py out.ipynb

In the book a number of the text is `` {glue:text}`name:.1f` ``, and Jupyter would show just that. A
notebook that `make rerun` keeps has been through this; one of papermill goes through it by this
command.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import nbformat

from kept_runs import glued

GLUED = re.compile(r"\{glue:text\}`(?:[^`]*::)?([^`:]+)(?::([^`]*))?`")
WITH_TITLE = re.compile(r"\{(?:term|ref|doc)\}`([^`<]+?)\s*<[^`]*>`")
ALONE = re.compile(r"\{(?:term|ref|doc)\}`([^`<]+)`")


def with_numbers(notebook: Any, others: dict[str, Any] | None = None) -> Any:
    """The same notebook with values in the place of their names; a name without a value stays.

    Args:
        notebook: an executed one.
        others: values of other chapters by their names.
    """
    values = (others or {}) | glued(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = plain_roles(insert_values(cell.source, values))
    return notebook


def insert_values(text: str, values: dict[str, Any]) -> str:
    """The text with each glued value in its format."""

    def shown(found: re.Match[str]) -> str:
        name, spec = found[1], found[2] or ""
        return format(values[name], spec) if name in values else found[0]

    return GLUED.sub(shown, text)


def plain_roles(text: str) -> str:
    """The text with the words of terms and references, which lead nowhere outside the book."""
    return ALONE.sub(r"\1", WITH_TITLE.sub(r"\1", text))


def main(arguments: list[str] | None = None) -> int:
    paths = [Path(name) for name in (sys.argv[1:] if arguments is None else arguments)]
    if not paths:
        print("error: name the notebooks that papermill wrote", file=sys.stderr)
        return 2
    for path in paths:
        try:
            notebook = nbformat.read(path, as_version=4)
        except (OSError, ValueError, nbformat.ValidationError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            print(f"error: {path} is no notebook: {reason}", file=sys.stderr)
            return 1
        nbformat.write(with_numbers(notebook), path)
        print(f"{path}: the numbers are in the text")
    return 0


if __name__ == "__main__":
    sys.exit(main())
