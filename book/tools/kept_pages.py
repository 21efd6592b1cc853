"""The executed notebooks that `make book` keeps: found again while what made them is the same.

Each is one file, RADIN_CACHE/notebooks/<chapter>/<key>.ipynb. A page is its source as it is now,
with the outputs of the kept execution: a change of prose runs nothing.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat

from fingerprint import digest
from parameters import Parameters
from radin.files import atomic_path, cache_root

KEY = "radin_execution"  # where the metadata of an executed notebook say what made it
MAX_KEPT = 8  # executions of one chapter, with other parameters or older sources
KERNEL = ("kernelspec", "language_info")
OUTPUTS = ("outputs", "execution_count")


def kept_path(chapter: str, mark: Parameters) -> Path:
    """Where an execution of a chapter is kept."""
    key = digest(json.dumps(mark, sort_keys=True))
    return cache_root() / "notebooks" / chapter / f"{key}.ipynb"


def find(chapter: str, mark: Parameters) -> Any | None:
    """The kept execution with this mark, which counts as used now; None where there is none."""
    path = kept_path(chapter, mark)
    try:
        notebook = nbformat.read(path, as_version=4)
        os.utime(path)
    except (OSError, ValueError, nbformat.ValidationError):
        return None
    return notebook if KEY in notebook.metadata else None


def keep(chapter: str, notebook: Any, mark: Parameters, execution: Parameters) -> Any:
    """Keep an executed notebook and the facts of its execution; drop those unused the longest."""
    notebook.metadata[KEY] = execution
    path = kept_path(chapter, mark)
    with atomic_path(path) as temporary:
        nbformat.write(notebook, temporary)
    for old in surplus(path.parent.glob("*.ipynb")):
        old.unlink(missing_ok=True)
    return notebook


def surplus(kept: Iterable[Path]) -> list[Path]:
    """Of what is kept, all but the last used."""
    return sorted(kept, key=last_use, reverse=True)[MAX_KEPT:]


def last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another build has just dropped it
        return 0.0


def merge(source: Any, executed: Any, given: Parameters) -> Any:
    """The source with the outputs of its execution, which ran the same code in the same order."""
    page = copy.deepcopy(source)
    done = [cell for cell in executed.cells if cell.cell_type == "code"]
    added = [cell for cell in done if is_added(cell)]
    own = [cell for cell in page.cells if cell.cell_type == "code"]
    for cell, twin in zip(own, [cell for cell in done if not is_added(cell)], strict=True):
        cell.update({name: twin[name] for name in OUTPUTS})
    if given and added:
        tags = [cell.metadata.get("tags", []) for cell in page.cells]
        index = next((k for k, found in enumerate(tags) if "parameters" in found), -1)
        page.cells[index + 1 : index + 1] = added
    page.metadata.update(
        {key: executed.metadata[key] for key in KERNEL if key in executed.metadata}
    )
    return page


def is_added(cell: Any) -> bool:
    """Whether papermill added the cell, to set the parameters that were given."""
    return "injected-parameters" in cell.metadata.get("tags", [])
