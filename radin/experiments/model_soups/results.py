"""What the authors of Model soups (Wortsman et al. 2022) measured and published, and what can be told from it alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radin.data.download.transfer import check_sha256, download, offline, only_one
from radin.errors import DataError
from radin.files import data_root

if TYPE_CHECKING:
    from pandas import DataFrame

FOLDER = "model-soups"  # under the root of the data sets
SHARED = (
    Path(__file__).resolve().parent.parent.parent / "shared" / "data" / FOLDER
)  # beside a clone
PAGE = "https://github.com/mlfoundations/model-soups"
RESULTS = "https://raw.githubusercontent.com/mlfoundations/model-soups/main"
NUM_INGREDIENTS = 72

# The test sets and how many images each has. ImageNet2p is validation: 2% of the training images, held out.
TEST_SETS = {
    "ImageNet2p": 26_000,
    "ImageNet": 50_000,
    "ImageNetV2": 10_000,
    "ImageNetSketch": 50_889,
    "ImageNetR": 30_000,
    "ObjectNet": 18_574,
    "ImageNetA": 7_500,
}
_INDIVIDUAL, _HYPERPARAMETERS = "individual_model_results.jsonl", "hparam_info.json"
_SOUPS = {
    "uniform": ("uniform_soup_results.jsonl", "uniform_soup"),
    "greedy": ("greedy_soup_results.jsonl", "greedy_soup"),
    "ensemble": ("ensemble_results.jsonl", "ensemble"),
}
FILES = {  # of the results: size and SHA-256
    _INDIVIDUAL: (16_732, "01100518a5c3f7ee47fdb010f39c010dd332c1cc0673ebb1da2b9da39ed800cf"),
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
    _HYPERPARAMETERS: (10_351, "1160d7ea4471ce2c61462884f9adfe9fa231b438d172e37277628278609754c1"),
}
_KNOBS = ("aug", "lr", "wd", "mix", "smoothing", "epochs")


def place_of(folder: str | Path | None = None) -> Path:
    """Where the published files lie: `folder`, else `model-soups` in the root of the data sets."""
    return data_root() / FOLDER if folder is None else Path(folder).expanduser()


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Make the folder, and raise DataError, naming the file, where the system refuses to write into it."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename or place}: could not be written ({error.strerror}); free some space or choose another "
            "folder."
        ) from error


@dataclass(frozen=True)
class Published:
    """What the authors of Model soups measured and published; all accuracies are in percent.

    Attributes:
        ingredients: a row for each of model_0 .. model_71, a column for each of `TEST_SETS`.
        soups: rows uniform, greedy, ensemble (of all 72, logits averaged); the same columns.
        hyperparameters: the sweep: aug, lr, wd, mix, smoothing, epochs; the row of model_0, the initialisation, is
            empty.
    """

    ingredients: DataFrame
    soups: DataFrame
    hyperparameters: DataFrame


def published(folder: str | Path | None = None, download: bool = True) -> Published:
    """The published results of Model soups: seven test sets for 72 ingredients, two soups and an ensemble.

    Args:
        folder: where the five files lie; when not given, `model-soups` in `RADIN_DATA` or the user's cache directory,
            else in `shared/data` beside the clone, where a team may keep what it does not commit.
        download: whether to get from the authors' repository (28 kB) what is not there; RADIN_OFFLINE=1 forbids it.

    Raises DataError when a file is neither there nor to be had, is not the official one, or holds what cannot be.
    """
    import pandas as pd

    place = place_of(folder)
    if folder is None and not (place / _INDIVIDUAL).is_file() and (SHARED / _INDIVIDUAL).is_file():
        place = SHARED
    paths = {name: _results_file(name, place, download) for name in FILES}
    names = [f"model_{number}" for number in range(NUM_INGREDIENTS)]
    soups = {soup: _accuracies(paths[name], [row]).iloc[0] for soup, (name, row) in _SOUPS.items()}
    return Published(
        _accuracies(paths[_INDIVIDUAL], names),
        pd.DataFrame(soups).T,
        _hyperparameters(paths[_HYPERPARAMETERS], names),
    )


def _results_file(name: str, place: Path, may_download: bool) -> Path:
    path, (num_bytes, sha256) = place / name, FILES[name]
    if path.is_file():
        check_sha256(path, sha256)
        return path
    if offline() or not may_download:
        why = "RADIN_OFFLINE forbids downloading it" if offline() else "it is not to be downloaded"
        raise DataError(
            f"{path} is not there, and {why}; get {RESULTS}/{name} and put it there, or point RADIN_DATA at the folder "
            f"that holds {FOLDER}/{name}."
        )
    lock = place / f".{name}.lock"
    with writing(place):
        try:
            with only_one(lock):
                if not path.is_file():
                    download(f"{RESULTS}/{name}", path, num_bytes, sha256, progress=False)
        except DataError as error:
            raise DataError(
                f"{error} By hand: get {RESULTS}/{name} and put it into {place}."
            ) from error
        lock.unlink(missing_ok=True)
    return path


def _accuracies(path: Path, names: list[str]) -> DataFrame:
    """The rows of a file of results, which must be these, in percent."""
    import pandas as pd

    rows = []
    for number, (line, name) in enumerate(_pairs(path, names), start=1):
        row = _json(path, line)
        if (
            not isinstance(row, dict)
            or row.keys() != {"model_name", *TEST_SETS}
            or row["model_name"] != name
        ):
            raise DataError(
                f"{path}: line {number} is not the result of {name} on {', '.join(TEST_SETS)}; get it anew."
            )
        for test_set, num_images in TEST_SETS.items():
            right = row[test_set] * num_images if _is_number(row[test_set]) else math.nan
            if not (0 <= right <= num_images and abs(right - round(right)) < 1e-6):
                raise DataError(
                    f"{path}: {name} has {row[test_set]!r} on {test_set}, which is no share of its {num_images} "
                    "images; get it anew."
                )
        rows.append([100 * row[test_set] for test_set in TEST_SETS])
    return pd.DataFrame(rows, index=names, columns=list(TEST_SETS))


def _pairs(path: Path, names: list[str]) -> Iterable[tuple[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) != len(names):
        raise DataError(f"{path}: {len(lines)} lines, not {len(names)}; get it anew.")
    return zip(lines, names, strict=True)


def _hyperparameters(path: Path, names: list[str]) -> DataFrame:
    import pandas as pd

    table = _json(path, path.read_text(encoding="utf-8"))
    if not isinstance(table, dict) or list(table) != names:
        raise DataError(f"{path}: does not describe model_0 .. {names[-1]}; get it anew.")
    for name, row in list(table.items())[1:]:  # the first is the initialisation, which has none
        if not isinstance(row, dict) or row.keys() != set(_KNOBS):
            raise DataError(
                f"{path}: {name} lacks one of {', '.join(_KNOBS)}, or has more; get it anew."
            )
        if not all(_is_number(row[knob]) and row[knob] >= 0 for knob in _KNOBS[1:]):
            raise DataError(
                f"{path}: {name} has a hyper-parameter that is no number of at least 0; get it anew."
            )
    rows = {name: row if name != names[0] else {} for name, row in table.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(_KNOBS))


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); get it anew.") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# What can be told from them ---------------------------------------------------------------------
