"""Making all zoos of the plan: in parallel, and resumable zoo by zoo."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from radin.errors import DataError
from radin.experiments.bench.shipped import shipped_benches
from radin.experiments.collection.designs import DESIGNS
from radin.experiments.collection.make import make_zoo
from radin.experiments.collection.measure import (
    SHIPPED_DESIGN,
    Row,
    measure,
    measure_shipped,
)
from radin.experiments.collection.measure_passes import measure_passes, measure_passes_shipped
from radin.experiments.collection.passes import planned_pass_zoos
from radin.experiments.collection.plan import planned_zoos
from radin.experiments.collection.table import PASS_TABLES, VERDICT_TABLES, table_rows
from radin.files import atomic_path

_FORMAT = "radin-zoo-rows-1"
Tables = dict[str, list[Row]]


@dataclass(frozen=True)
class Study:
    """One question to the collection: which zoos are made for it, and what is kept of each.

    Attributes:
        name: of the study.
        tables: their names.
        zoos: gives the names of the zoos, round by round.
        measure: gives the rows of a zoo; `seconds` is the processor time that making it took.
        measure_shipped: gives the rows of a bench that comes with the module, by its name.
    """

    name: str
    tables: tuple[str, ...]
    zoos: Callable[[], list[str]]
    measure: Callable[..., Tables]
    measure_shipped: Callable[[str], Tables]


VERDICTS = Study("verdicts", VERDICT_TABLES, lambda: planned_zoos(), measure, measure_shipped)
PASSES = Study(
    "passes", PASS_TABLES, lambda: planned_pass_zoos(), measure_passes, measure_passes_shipped
)
STUDIES = {study.name: study for study in (VERDICTS, PASSES)}


def run(
    folder: Path,
    study: Study = VERDICTS,
    *,
    names: Sequence[str] | None = None,
    workers: int = 2,
    progress: bool = True,
) -> None:
    """Make zoos and write one file of rows for each; those that have a file are left alone.

    Args:
        folder: of the files.
        study: what is kept of each zoo.
        names: of the zoos, in the order in which they are made; the plan's when not given.
        workers: processes.
        progress: show a bar.
    """
    from joblib import Parallel, delayed

    folder.mkdir(parents=True, exist_ok=True)
    names = study.zoos() if names is None else names
    missing = [name for name in names if not row_path(folder, name).exists()]
    # One waits for each that runs: the zoos of a round are begun before those of the next.
    parallel = Parallel(n_jobs=workers, return_as="generator_unordered", pre_dispatch=workers)
    made = parallel(delayed(write_rows)(name, folder, study.name) for name in missing)
    with tqdm(total=len(names), initial=len(names) - len(missing), disable=not progress) as bar:
        for name in made:
            bar.set_postfix_str(name)
            bar.update()


def write_rows(name: str, folder: Path, study: str = VERDICTS.name) -> str:
    """Make one zoo and write its rows; returns its name.

    A zoo whose training diverges has a file with the reason and no rows.
    """
    started = time.process_time()
    content: dict[str, Any] = {"format": _FORMAT, "zoo": name}
    try:
        zoo = make_zoo(name)
        content["tables"] = STUDIES[study].measure(zoo, seconds=time.process_time() - started)
    except DataError as error:
        content["failed"] = str(error)
    _write(row_path(folder, name), content)
    return name


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        Path(temporary).write_text(json.dumps(content), "utf-8")


def row_path(folder: Path, name: str) -> Path:
    """The file of one zoo's rows."""
    return folder / f"{name}.json"


def collect(folder: Path, study: Study = VERDICTS) -> tuple[Tables, list[str]]:
    """The rows of all complete rounds and of the shipped benches.

    A round is complete when each design has its zoo, so that the designs have equally many.

    Args:
        folder: where `run` has written.
        study: whose rows they are.

    Returns:
        The tables, and what to know about them, in sentences.

    Raises:
        DataError: no round is complete, or a file is not one of `run`'s.
    """
    tables: Tables = {name: [] for name in study.tables}
    notes: list[str] = []
    names = _complete_rounds(folder, study)
    if not names:
        raise DataError(f"{folder}: no round of zoos is complete; run the plan first.")
    notes.append(f"{len(names) // len(DESIGNS)} complete rounds of {len(DESIGNS)} designs.")
    for name in names:
        content = read_rows(row_path(folder, name))
        if "failed" in content:
            notes.append(f"{name} has no rows: {content['failed']}")
            continue
        _extend(tables, content["tables"])
    for name in shipped_benches(complete=True):
        _extend(tables, study.measure_shipped(name))
    return tables, notes


def with_new_benches(folder: Path, study: Study = VERDICTS) -> tuple[Tables, list[str]]:
    """The shipped tables with the rows of the shipped benches that they lack; no zoo is made again.

    Args:
        folder: of the tables.
        study: whose tables they are.

    Returns:
        The tables, with the benches in the order of `collect`, and the names of those added.
    """
    tables: Tables = {name: list(table_rows(name, folder)) for name in study.tables}
    rows = tables[study.tables[0]]
    known = {row["zoo"] for row in rows if row["design"] == SHIPPED_DESIGN}
    benches = shipped_benches(complete=True)
    added = [bench for bench in benches if bench not in known]
    for bench in added:
        _extend(tables, study.measure_shipped(bench))
    place = {bench: number for number, bench in enumerate(benches)}
    for rows in tables.values():
        rows.sort(key=lambda row: place.get(row["zoo"], -1))  # stable: zoos stay in front
    return tables, added


def unpack(folder: Path, tables: Path, study: Study = VERDICTS) -> list[str]:
    """Write the rows of tables as one file for each zoo, so that `run` makes only further zoos.

    Args:
        folder: of the files, as for `run`. A zoo that has a file is left alone.
        tables: the folder of the tables.
        study: whose tables they are.

    Returns:
        The names of the zoos that got a file.
    """
    by_zoo: dict[str, Tables] = {}
    for name in study.tables:
        for row in table_rows(name, tables):
            if row["design"] != SHIPPED_DESIGN:
                by_zoo.setdefault(row["zoo"], {each: [] for each in study.tables})[name].append(row)
    folder.mkdir(parents=True, exist_ok=True)
    new = [name for name in by_zoo if not row_path(folder, name).exists()]
    for name in new:
        _write(row_path(folder, name), {"format": _FORMAT, "zoo": name, "tables": by_zoo[name]})
    return new


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


def _complete_rounds(folder: Path, study: Study) -> list[str]:
    return [name for names in rounds(study) for name in names if _is_there(folder, names)]


def _is_there(folder: Path, names: Sequence[str]) -> bool:
    return all(row_path(folder, name).exists() for name in names)


def rounds(study: Study) -> Iterator[list[str]]:
    """The planned zoos, one of each design at a time."""
    names = study.zoos()
    for start in range(0, len(names), len(DESIGNS)):
        yield names[start : start + len(DESIGNS)]


def _extend(tables: Tables, more: Tables) -> None:
    for name, rows in more.items():
        tables[name].extend(rows)
