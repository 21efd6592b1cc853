"""Load what the authors of Model soups (Wortsman et al. 2022) measured and published."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radin.data.download.transfer import check_sha256, download, offline, one_process_at_a_time
from radin.errors import DataError
from radin.files import data_root, expand_path

if TYPE_CHECKING:
    from pandas import DataFrame

MODEL_SOUPS = "model-soups"  # the folder below the root of the data sets
REPOSITORY_URL = "https://github.com/mlfoundations/model-soups"
RESULTS_URL = "https://raw.githubusercontent.com/mlfoundations/model-soups/main"
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
RESULT_FILES = {  # size in bytes and SHA-256
    _INGREDIENTS_FILE: (
        16_732,
        "01100518a5c3f7ee47fdb010f39c010dd332c1cc0673ebb1da2b9da39ed800cf",
    ),
    "uniform_soup_results.jsonl": (
        235,
        "5d8d52d87f707c1064527847f75f3ec1c599bfbb4751e5a5badc39f0bd29c62a",
    ),
    "greedy_soup_results.jsonl": (
        244,
        "cf0bba318c465f25395e1edf02abd3b0033fcbe980c2b29647264529d4e73185",
    ),
    "ensemble_results.jsonl": (
        229,
        "9ead2c92c528bbff4b64d8f84d4656f5baa1a76793597d20c72819950992eb1d",
    ),
    _HYPERPARAMETERS_FILE: (
        10_351,
        "1160d7ea4471ce2c61462884f9adfe9fa231b438d172e37277628278609754c1",
    ),
}
_HYPERPARAMETER_NAMES = ("aug", "lr", "wd", "mix", "smoothing", "epochs")


def model_soups_folder(folder: str | Path | None = None) -> Path:
    """The folder of the published files: `model-soups` in `RADIN_DATA` when none is given."""
    return data_root() / MODEL_SOUPS if folder is None else expand_path(folder)


@contextmanager
def writable_folder(folder: Path) -> Iterator[None]:
    """Make the folder for the time of a `with` block.

    Raises:
        DataError: the system refuses to write a file in the block. The message names the file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: could not be written ({error.strerror}); free some space "
            "or choose another folder."
        ) from error


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


def load_results(
    folder: str | Path | None = None, *, may_download: bool = True
) -> PublishedResults:
    """The published accuracies of 72 ingredients, two soups and an ensemble on seven test sets.

    Args:
        folder: of the five files. When not given, `model-soups` in `RADIN_DATA` or the user's cache
            directory.
        may_download: whether to download missing files (28 kB) from the authors' repository.
            RADIN_OFFLINE=1 forbids it too.

    Raises:
        DataError: a file is missing and cannot be downloaded, is not the official one, or holds
            impossible values.
    """
    import pandas as pd

    folder = model_soups_folder(folder)
    paths = {name: _find_or_download(name, folder, may_download) for name in RESULT_FILES}
    names = [f"model_{number}" for number in range(NUM_INGREDIENTS)]
    soups = {soup: _accuracies(paths[name], [row]).iloc[0] for soup, (name, row) in _SOUPS.items()}
    return PublishedResults(
        _accuracies(paths[_INGREDIENTS_FILE], names),
        pd.DataFrame(soups).T,
        _hyperparameters(paths[_HYPERPARAMETERS_FILE], names),
    )


def _find_or_download(name: str, folder: Path, may_download: bool) -> Path:
    path = folder / name
    num_bytes, sha256 = RESULT_FILES[name]
    if path.is_file():
        check_sha256(path, sha256)
        return path
    if offline() or not may_download:
        reason = "RADIN_OFFLINE forbids downloading it" if offline() else "may_download is False"
        raise DataError(
            f"{path} is missing, and {reason}; get {RESULTS_URL}/{name} and put it there, or set "
            f"RADIN_DATA to the folder that holds {MODEL_SOUPS}/{name}."
        )
    lock = folder / f".{name}.lock"
    with writable_folder(folder):
        try:
            with one_process_at_a_time(lock):
                if not path.is_file():
                    download(
                        f"{RESULTS_URL}/{name}",
                        path,
                        num_bytes=num_bytes,
                        sha256=sha256,
                        progress=False,
                    )
        except DataError as error:
            raise DataError(
                f"{error} By hand: get {RESULTS_URL}/{name} and put it into {folder}."
            ) from error
        lock.unlink(missing_ok=True)
    return path


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
                "download it again."
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
            "images; download it again."
        )
    return float(100 * share)


def _lines_of(path: Path, names: list[str]) -> Iterable[tuple[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) != len(names):
        raise DataError(f"{path}: {len(lines)} lines, not {len(names)}; download it again.")
    return zip(lines, names, strict=True)


def _hyperparameters(path: Path, names: list[str]) -> DataFrame:
    import pandas as pd

    table = _parse_json(path, path.read_text(encoding="utf-8"))
    if not isinstance(table, dict) or list(table) != names:
        raise DataError(f"{path}: does not describe {names[0]} .. {names[-1]}; download it again.")
    for name in names[1:]:  # the first is the initialisation, which has none
        row = table[name]
        if not isinstance(row, dict) or row.keys() != set(_HYPERPARAMETER_NAMES):
            raise DataError(
                f"{path}: {name} lacks one of {', '.join(_HYPERPARAMETER_NAMES)}, or has more; "
                "download it again."
            )
        numbers = [row[key] for key in _HYPERPARAMETER_NAMES[1:]]
        if not all(_is_number(number) and number >= 0 for number in numbers):
            raise DataError(
                f"{path}: {name} has a hyper-parameter that is not a number of at least 0; "
                "download it again."
            )
    rows = {name: row if name != names[0] else {} for name, row in table.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(_HYPERPARAMETER_NAMES))


def _parse_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); download it again.") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
