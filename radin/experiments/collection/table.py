"""The tables that the collection is shipped as."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radin.errors import DataError, ParameterError
from radin.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd

VERDICT_TABLES = ("recipes", "facts", "validation_sizes")
PASS_TABLES = ("passes", "partial")
TABLES = VERDICT_TABLES + PASS_TABLES


def tables_root() -> Path:
    """The folder in the module that holds the shipped tables."""
    return Path(str(resources.files("radin.experiments.collection"))) / "tables"


def load_collection(table: str = "recipes") -> pd.DataFrame:
    """The collection of zoos: what each recipe returned in each zoo at each budget.

    Args:
        table: "recipes" has one row for each zoo, recipe and budget: "zoo", "design", "recipe",
            "budget", accuracies "val", "test" and "shifted" (the blurred test part) in percent, and
            "size", ingredients in the soup. Recipes that need no budget have the same row at each.
            `radin.experiments.collection.plan.RECIPES` says what each recipe is.
            "facts" has one row for each zoo, described in
            `radin.experiments.collection.measure.fact_row`.
            "validation_sizes" has one row for each zoo, recipe, budget and number of validation
            images: "val", "test" and "regret".
            "passes" has one row for each zoo, recipe and "budget" in forward passes over the
            validation images: accuracies "val" and "test" in percent, "size", and "spent", the
            passes that were needed. `radin.experiments.collection.passes.PASS_RECIPES` says what
            each recipe is, and its zoos are others than those of the tables above.
            "partial" compares soups on a share of the images with the same soups on all of them;
            see `radin.experiments.collection.measure_passes.partial_facts`.

    Returns:
        The table. Benches that the module ships whole have the design "shipped".

    Raises:
        ParameterError: another table.
        DataError: the table is not there.

    >>> import radin
    >>> table = radin.load_collection()
    >>> table.columns.tolist()
    ['zoo', 'design', 'recipe', 'budget', 'val', 'test', 'size', 'shifted']
    >>> table.duplicated(["zoo", "recipe", "budget"]).any().item()
    False
    """
    import pandas as pd

    if table not in TABLES:
        raise ParameterError(f"table must be one of {', '.join(TABLES)}, not {table!r}.")
    path = tables_root() / f"{table}.csv.gz"
    try:
        return pd.read_csv(path, keep_default_na=False, na_values=[""])
    except OSError as error:
        raise DataError(
            f"{path}: no such table; make it with python -m radin.experiments.collection."
        ) from error


def table_rows(table: str, folder: Path) -> list[dict[str, str]]:
    """The rows of a table that `write_tables` wrote, as text, so that they are written unchanged.

    Args:
        table: one of `TABLES`.
        folder: where it is.

    Raises:
        DataError: there is no such table, or it is damaged.
    """
    path = folder / f"{table}.csv.gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no readable table of the collection ({error}).") from error


def write_tables(tables: Mapping[str, Sequence[Mapping[str, Any]]], folder: Path) -> None:
    """Write tables as compressed CSV files; the same rows give the same bytes.

    Args:
        tables: name to rows.
        folder: where to write.
    """
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        text = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
        with (
            atomic_path(folder / f"{name}.csv.gz") as temporary,
            open(temporary, "wb") as file,
            # Neither the time nor the temporary name goes into the file.
            gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
        ):
            packed.write(text.encode())
