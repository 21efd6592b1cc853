"""Load what the authors of Model soups (Wortsman et al. 2022) measured and published."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radin.errors import DataError
from radin.files import data_root, expand_path

if TYPE_CHECKING:
    from pandas import DataFrame

MODEL_SOUPS = "model-soups"  # the folder below the root of the data sets
REPOSITORY_URL = "https://github.com/mlfoundations/model-soups"
NUM_INGREDIENTS = 72

# The number of images of each test set. ImageNet2p is validation: 2% of the training images.
TEST_SETS = {
    "ImageNet2p": 26_000,
    "ImageNet": 50_000,
    "ImageNetV2": 10_000,
    "ImageNetSketch": 50_889,
    "ImageNetR": 30_000,
    "ObjectNet": 18_574,
    "ImageNetA": 7_500,
}
_INGREDIENTS_FILE = "individual_model_results.jsonl"
_HYPERPARAMETERS_FILE = "hparam_info.json"
_SOUPS = {  # file of results, and the model's name in it
    "uniform": ("uniform_soup_results.jsonl", "uniform_soup"),
    "greedy": ("greedy_soup_results.jsonl", "greedy_soup"),
    "ensemble": ("ensemble_results.jsonl", "ensemble"),
}
_HYPERPARAMETER_NAMES = ("aug", "lr", "wd", "mix", "smoothing", "epochs")


def model_soups_folder(folder: str | Path | None = None) -> Path:
    """The folder of the published files: `model-soups` in `RADIN_DATA` when none is given."""
    return data_root() / MODEL_SOUPS if folder is None else expand_path(folder)


@dataclass(frozen=True)
class PublishedResults:
    """What the authors of Model soups measured and published. All accuracies are in percent.

    Attributes:
        ingredients: a row for each of model_0 .. model_71, a column for each of `TEST_SETS`.
        soups: the rows uniform, greedy and ensemble (of all 72, logits averaged), and the same
            columns.
        hyperparameters: of the sweep: aug, lr, wd, mix, smoothing and epochs. The row of model_0,
            the initialisation, is empty.
    """

    ingredients: DataFrame
    soups: DataFrame
    hyperparameters: DataFrame


def load_results(folder: str | Path | None = None) -> PublishedResults:
    """The published accuracies of 72 ingredients, two soups and an ensemble on seven test sets.

    The five files (28 kB) come with the module.

    Args:
        folder: of other files with these names, if not those of the module.

    Raises:
        DataError: a file is missing or holds impossible values.
    """
    import pandas as pd

    folder = shipped_results() if folder is None else expand_path(folder)
    names = [f"model_{number}" for number in range(NUM_INGREDIENTS)]
    soups = {
        soup: _accuracies(folder / name, [row]).iloc[0] for soup, (name, row) in _SOUPS.items()
    }
    return PublishedResults(
        _accuracies(folder / _INGREDIENTS_FILE, names),
        pd.DataFrame(soups).T,
        _hyperparameters(folder / _HYPERPARAMETERS_FILE, names),
    )


def shipped_results() -> Path:
    """The folder in the module that holds the published files."""
    return Path(str(resources.files("radin.experiments"))) / "results" / "model_soups"


def _accuracies(path: Path, names: list[str]) -> DataFrame:
    """The rows of a file of results, in percent. They must be the rows of these models."""
    import pandas as pd

    rows = []
    for number, (line, name) in enumerate(_lines_of(path, names), start=1):
        row = _parse_json(path, line)
        if (
            not isinstance(row, dict)
            or row.keys() != {"model_name", *TEST_SETS}
            or row["model_name"] != name
        ):
            raise DataError(
                f"{path}: line {number} is not the result of {name} on {', '.join(TEST_SETS)}; "
                "it is not as published."
            )
        rows.append([_percent(path, name, test_set, row[test_set]) for test_set in TEST_SETS])
    return pd.DataFrame(rows, index=names, columns=list(TEST_SETS))


def _percent(path: Path, name: str, test_set: str, share: Any) -> float:
    """The share of correct images in percent. It must belong to a whole number of images."""
    num_images = TEST_SETS[test_set]
    correct = share * num_images if _is_number(share) else math.nan
    if not (0 <= correct <= num_images and abs(correct - round(correct)) < 1e-6):
        raise DataError(
            f"{path}: {name} has {share!r} on {test_set}, which is no share of its {num_images} "
            "images; it is not as published."
        )
    return float(100 * share)


def _lines_of(path: Path, names: list[str]) -> Iterable[tuple[str, str]]:
    lines = _read(path).splitlines()
    if len(lines) != len(names):
        raise DataError(f"{path}: {len(lines)} lines, not {len(names)}; it is not as published.")
    return zip(lines, names, strict=True)


def _hyperparameters(path: Path, names: list[str]) -> DataFrame:
    import pandas as pd

    table = _parse_json(path, _read(path))
    if not isinstance(table, dict) or list(table) != names:
        raise DataError(
            f"{path}: does not describe {names[0]} .. {names[-1]}; it is not as published."
        )
    for name in names[1:]:  # the first is the initialisation, which has none
        row = table[name]
        if not isinstance(row, dict) or row.keys() != set(_HYPERPARAMETER_NAMES):
            raise DataError(
                f"{path}: {name} lacks one of {', '.join(_HYPERPARAMETER_NAMES)}, or has more; "
                "it is not as published."
            )
        numbers = [row[key] for key in _HYPERPARAMETER_NAMES[1:]]
        if not all(_is_number(number) and number >= 0 for number in numbers):
            raise DataError(
                f"{path}: {name} has a hyper-parameter that is not a number of at least 0; "
                "it is not as published."
            )
    rows = {name: row if name != names[0] else {} for name, row in table.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(_HYPERPARAMETER_NAMES))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: could not be read ({error}).") from error


def _parse_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); it is not as published.") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
