"""Making all zoos of the plan: in parallel, and resumable zoo by zoo."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from radin.errors import DataError
from radin.experiments.bench.shipped import shipped_benches
from radin.experiments.collection.designs import DESIGNS
from radin.experiments.collection.make import make_zoo
from radin.experiments.collection.measure import Row, measure, measure_shipped
from radin.experiments.collection.plan import planned_zoos
from radin.experiments.collection.table import TABLES
from radin.files import atomic_path

_FORMAT = "radin-zoo-rows-1"


def run(
    folder: Path, *, names: Sequence[str] | None = None, workers: int = 2, progress: bool = True
) -> None:
    """Make zoos and write one file of rows for each; those that have a file are left alone.

    Args:
        folder: of the files.
        names: of the zoos, in the order in which they are made; the plan's when not given.
        workers: processes.
        progress: show a bar.
    """
    from joblib import Parallel, delayed

    folder.mkdir(parents=True, exist_ok=True)
    names = planned_zoos() if names is None else names
    missing = [name for name in names if not row_path(folder, name).exists()]
    # One waits for each that runs: the zoos of a round are begun before those of the next.
    parallel = Parallel(n_jobs=workers, return_as="generator_unordered", pre_dispatch=workers)
    made = parallel(delayed(write_rows)(name, folder) for name in missing)
    with tqdm(total=len(names), initial=len(names) - len(missing), disable=not progress) as bar:
        for name in made:
            bar.set_postfix_str(name)
            bar.update()


def write_rows(name: str, folder: Path) -> str:
    """Make one zoo and write its rows; returns its name.

    A zoo whose training diverges has a file with the reason and no rows.
    """
    started = time.process_time()
    content: dict[str, Any] = {"format": _FORMAT, "zoo": name}
    try:
        zoo = make_zoo(name)
        content["tables"] = measure(zoo, seconds=time.process_time() - started)
    except DataError as error:
        content["failed"] = str(error)
    with atomic_path(row_path(folder, name)) as temporary:
        Path(temporary).write_text(json.dumps(content), "utf-8")
    return name


def row_path(folder: Path, name: str) -> Path:
    """The file of one zoo's rows."""
    return folder / f"{name}.json"


def collect(folder: Path) -> tuple[dict[str, list[Row]], list[str]]:
    """The rows of all complete rounds and of the shipped benches.

    A round is complete when each design has its zoo, so that the designs have equally many.

    Args:
        folder: where `run` has written.

    Returns:
        The tables, and what to know about them, in sentences.

    Raises:
        DataError: no round is complete, or a file is not one of `run`'s.
    """
    tables: dict[str, list[Row]] = {name: [] for name in TABLES}
    notes: list[str] = []
    names = _complete_rounds(folder)
    if not names:
        raise DataError(f"{folder}: no round of zoos is complete; run the plan first.")
    notes.append(f"{len(names) // len(DESIGNS)} complete rounds of {len(DESIGNS)} designs.")
    for name in names:
        content = read_rows(row_path(folder, name))
        if "failed" in content:
            notes.append(f"{name} has no rows: {content['failed']}")
            continue
        _extend(tables, content["tables"])
    for name in shipped_benches():
        _extend(tables, measure_shipped(name))
    return tables, notes


def read_rows(path: Path) -> dict[str, Any]:
    """What `write_rows` wrote.

    Raises:
        DataError: the file cannot be read or is another.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable file of rows ({error}); remove it.") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise DataError(f"{path}: not a file of rows of format {_FORMAT!r}; remove it.")
    return content


def _complete_rounds(folder: Path) -> list[str]:
    return [name for names in _rounds() for name in names if _is_there(folder, names)]


def _is_there(folder: Path, names: Sequence[str]) -> bool:
    return all(row_path(folder, name).exists() for name in names)


def _rounds() -> Iterator[list[str]]:
    names = planned_zoos()
    for start in range(0, len(names), len(DESIGNS)):
        yield names[start : start + len(DESIGNS)]


def _extend(tables: dict[str, list[Row]], more: dict[str, list[Row]]) -> None:
    for name, rows in more.items():
        tables[name].extend(rows)
