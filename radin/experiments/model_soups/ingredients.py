"""Download the 72 published ingredients of Model soups (Wortsman et al. 2022).

`radin.experiments.model_soups.results` has their accuracies.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from radin.data.download.transfer import download, offline, one_process_at_a_time, remote_size
from radin.errors import DataError, ParameterError, list_names
from radin.experiments.model_soups.results import (
    MODEL_SOUPS,
    NUM_INGREDIENTS,
    REPOSITORY_URL,
    model_soups_folder,
)
from radin.files import atomic_path, hash_file

RELEASE_URL = f"{REPOSITORY_URL}/releases/download/v0.0.2"
RECORD_FILE = "hashes.json"
# 113,961,705 numbers in single precision are 455.8 MB. A much smaller file is not an ingredient.
MIN_BYTES = 450_000_000
TYPICAL_BYTES = 456_500_000
MAX_FILES_NAMED = 8  # in one message

Record = dict[str, dict[str, Any]]  # file name to {"bytes": size, "sha256": hex digits}


@contextmanager
def _writable_folder(folder: Path) -> Iterator[None]:
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


def fetch_ingredients(
    ids: str | Iterable[int] = "all",
    folder: str | Path | None = None,
    *,
    progress: bool = True,
) -> list[Path]:
    """Download the checkpoints `model_<i>.pt` that are missing, one after another: 456 MB each.

    The authors publish no checksums. So the size and SHA-256 of each file are recorded the first
    time, in `hashes.json` beside the files, and every later call checks the files against this
    record. An interrupted download continues where it stopped. With RADIN_OFFLINE=1 in the
    environment nothing is downloaded.

    Args:
        ids: "all", numbers and ranges such as "0-12,43", or whole numbers from 0 to 71. Ingredient
            0 is the initialisation.
        folder: of the files. When not given, `model-soups` in `RADIN_DATA` or the user's cache
            directory.
        progress: whether to show progress bars.

    Returns:
        The paths, in the order of the ids.

    Raises:
        ParameterError: an id does not exist, or comes twice.
        DataError: a file differs from its record or is not an ingredient, the disk has too little
            space, or a download failed.
    """
    numbers = ingredient_ids(ids)
    folder = model_soups_folder(folder)
    paths = {number: folder / f"model_{number}.pt" for number in numbers}
    missing = _missing(paths)
    if missing and offline():
        names = [path.name for path in missing.values()]
        raise DataError(
            f"{list_names(names, most=4)} {'is' if len(names) == 1 else 'are'} not in {folder}, "
            f"and RADIN_OFFLINE forbids downloading; get {RELEASE_URL}/{names[0]} by hand, and the "
            "others like it, and put them there."
        )
    with _writable_folder(folder), one_process_at_a_time(folder / ".lock"):
        missing = _missing(paths)  # another process may have downloaded some since
        record = _read_record(folder)
        present = {number: path for number, path in paths.items() if number not in missing}
        _check_present(present, record, progress=progress)
        if missing:
            _check_space(folder, missing.values())
            size = f"{len(missing)} files, about {len(missing) * TYPICAL_BYTES / 1e9:.1f} GB"
            print(
                f"radin: downloading the ingredients of Model soups from {RELEASE_URL} ({size}) "
                f"into {folder}",
                file=sys.stderr,
            )
        for count, path in enumerate(missing.values(), start=1):
            label = f"{path.name} ({count} of {len(missing)})"
            _fetch_one(path, record, label=label, progress=progress)
    return list(paths.values())


def _missing(paths: Mapping[int, Path]) -> dict[int, Path]:
    return {number: path for number, path in paths.items() if not path.exists()}


def ingredient_ids(ids: str | Iterable[int]) -> list[int]:
    """The numbers of ingredients that a text such as "0-12,43" names, in its order.

    Args:
        ids: "all" (0 .. 71), numbers and ranges such as "0-12,43", or whole numbers.

    Raises:
        ParameterError: the text has another form, or a number is out of range or comes twice.
    """
    if ids == "all":
        return list(range(NUM_INGREDIENTS))
    numbers: list[int] = []
    for part in ids.split(",") if isinstance(ids, str) else map(str, ids):
        numbers += _parse_range(part)
    repeated = sorted({number for number in numbers if numbers.count(number) > 1})
    if repeated or not numbers:
        problem = f"name {repeated[0]} twice" if repeated else "name none"
        raise ParameterError(
            f"The ids {problem}; write all, or each ingredient once, such as 0-12,43."
        )
    return numbers


def _parse_range(part: str) -> range:
    match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part.strip())
    if match is None:
        raise ParameterError(
            f"{part!r} names no ingredients; write all, or numbers and ranges such as 0-12,43."
        )
    first = int(match[1])
    last = int(match[2] or match[1])
    if last >= NUM_INGREDIENTS or first > last:
        raise ParameterError(
            f"{part.strip()!r} names no ingredients; they are 0 to {NUM_INGREDIENTS - 1}, and a "
            "range begins with the smaller number."
        )
    return range(first, last + 1)


def _fetch_one(path: Path, record: Record, *, label: str, progress: bool) -> None:
    url = f"{RELEASE_URL}/{path.name}"
    recorded = record.get(path.name, {})
    try:
        download(
            url,
            path,
            num_bytes=recorded.get("bytes"),
            sha256=recorded.get("sha256"),
            progress=progress,
            label=label,
        )
    except DataError as error:
        raise DataError(
            f"{error} The files downloaded before are kept (see {REPOSITORY_URL})."
        ) from error
    size = path.stat().st_size
    if size < MIN_BYTES:
        path.unlink()
        raise DataError(
            f"{url}: the download has {size} bytes, too few for an ingredient, and was deleted; "
            f"see {REPOSITORY_URL}."
        )
    _add_to_record(path, record)


def _add_to_record(path: Path, record: Record, sha256: str | None = None) -> None:
    record[path.name] = {"bytes": path.stat().st_size, "sha256": sha256 or hash_file(path)}
    _write_record(path.parent, record)


def _check_present(paths: Mapping[int, Path], record: Record, *, progress: bool) -> None:
    """Compare the files with the record, and add to it the files that it does not have.

    Sizes come first, because they cost nothing.

    Raises:
        DataError: a file differs, or cannot be an ingredient.
    """
    wrong: dict[int, str] = {}
    for number, path in paths.items():
        if problem := _size_problem(path, record.get(path.name)):
            wrong[number] = problem
    if not wrong:
        hidden = not progress or not paths
        for number, path in tqdm(paths.items(), desc="checking", unit=" files", disable=hidden):
            sha256 = hash_file(path)
            if path.name not in record:
                _add_to_record(path, record, sha256)
            elif sha256 != record[path.name]["sha256"]:
                wrong[number] = f"its content is not what {RECORD_FILE} says"
    if wrong:
        problems = [f"{paths[number]}: {problem}" for number, problem in wrong.items()]
        rest = "; ..." if len(problems) > MAX_FILES_NAMED else ""
        raise DataError(
            f"{'; '.join(problems[:MAX_FILES_NAMED])}{rest}. Remove "
            f"{'them' if len(wrong) > 1 else 'it'} and run: radin fetch {MODEL_SOUPS} "
            f"--ids {','.join(map(str, wrong))}"
        )


def _size_problem(path: Path, recorded: Mapping[str, Any] | None) -> str:
    """Why a file of this size cannot be the ingredient; empty when it can."""
    size = path.stat().st_size
    if recorded is not None:
        if size == recorded["bytes"]:
            return ""
        return f"it has {size} bytes, and {RECORD_FILE} says {recorded['bytes']}"
    if size < MIN_BYTES:
        return f"it has {size} bytes, too few for an ingredient"
    with open(path, "rb") as file:
        is_packed = file.read(2) == b"PK"
    if is_packed and not zipfile.is_zipfile(path):  # its table of contents is at the end
        return "it is cut short"
    official = None if offline() else remote_size(f"{RELEASE_URL}/{path.name}")
    if official in (None, size):
        return ""
    return f"it has {size} bytes, and the published file {official}"


def _check_space(folder: Path, missing: Iterable[Path]) -> None:
    needed = 0
    for path in missing:
        part = path.with_name(f"{path.name}.part")
        needed += TYPICAL_BYTES - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{folder}: {needed / 1e9:.1f} GB remain to be downloaded and {free / 1e9:.1f} GB are "
            "free; free some, choose fewer with --ids, or another folder with --to."
        )


def _read_record(folder: Path) -> Record:
    """Size and SHA-256 of each file by name, as they were when it was downloaded."""
    path = folder / RECORD_FILE
    if not path.exists():
        return {}
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        for entry in record.values():
            if type(entry["bytes"]) is not int or not re.fullmatch("[0-9a-f]{64}", entry["sha256"]):
                raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a record of sizes and SHA-256 sums; remove it, and the files beside it "
            "are recorded again."
        ) from error
    return record


def _write_record(folder: Path, record: Record) -> None:
    names = sorted(record, key=lambda name: (len(name), name))
    ordered = {name: record[name] for name in names}
    with atomic_path(folder / RECORD_FILE) as temporary:
        temporary.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
