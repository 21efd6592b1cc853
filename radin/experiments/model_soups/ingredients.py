"""The 72 published ingredients of Model soups (Wortsman et al. 2022); `radin.experiments.model_soups.results` has what they score."""

from __future__ import annotations

import json
import re
import shutil
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from radin.data.download.transfer import download, offline, only_one, remote_size
from radin.errors import DataError, ParameterError
from radin.experiments.model_soups.results import FOLDER, NUM_INGREDIENTS, PAGE, place_of, writing
from radin.files import atomic_path, hash_file

RELEASE = f"{PAGE}/releases/download/v0.0.2"
RECORD = "hashes.json"
# 113,961,705 numbers in single precision are 455.8 MB. What is much smaller is no ingredient.
LEAST_BYTES, USUAL_BYTES = 450_000_000, 456_500_000


def fetch_ingredients(
    ids: str | Iterable[int] = "all", folder: str | Path | None = None, progress: bool = True
) -> list[Path]:
    """The checkpoints `model_<i>.pt`, downloaded one after another where they are not there: about 456 MB each.

    Nobody publishes checksums of them, so size and SHA-256 of each are recorded in `hashes.json` beside them the
    first time, and everything that is there is checked against that record ever after. A download that broke off goes
    on where it stopped. With RADIN_OFFLINE=1 in the environment nothing is downloaded.

    Args:
        ids: "all", numbers and ranges such as "0-12,43", or whole numbers; 0 .. 71, of which 0 is the initialisation.
        folder: where they lie; `model-soups` in `RADIN_DATA` or the user's cache directory when not given.
        progress: whether to show bars.

    Returns: their paths, in the order asked for.

    Raises:
        ParameterError: ids that are not there, or twice.
        DataError: files that differ from their record or are no ingredients, too little disk, or a failed download.
    """
    numbers = ingredient_ids(ids)
    place = place_of(folder)
    paths = {number: place / f"model_{number}.pt" for number in numbers}
    missing = [number for number, path in paths.items() if not path.exists()]
    if missing and offline():
        raise DataError(
            f"{_several(paths[number].name for number in missing)} not in {place}, and RADIN_OFFLINE forbids "
            f"downloading; get {RELEASE}/{paths[missing[0]].name} by hand, and the others like it, and put them there."
        )
    with writing(place), only_one(place / ".lock"):
        missing = [
            number for number, path in paths.items() if not path.exists()
        ]  # others may have fetched since
        record = _read_record(place)
        _check_there(
            {number: path for number, path in paths.items() if number not in missing},
            record,
            progress,
        )
        if missing:
            _check_space(place, missing)
            size = f"{len(missing)} files, about {len(missing) * USUAL_BYTES / 1e9:.1f} GB"
            print(
                f"radin: downloading the ingredients of Model soups from {RELEASE} ({size}) into {place}",
                file=sys.stderr,
            )
        for position, number in enumerate(missing, start=1):
            label = f"{paths[number].name} ({position} of {len(missing)})"
            _fetch_one(paths[number], record, progress, label)
    return list(paths.values())


def ingredient_ids(ids: str | Iterable[int]) -> list[int]:
    """The numbers that an answer such as "0-12,43" stands for, in its order; "all" is 0 .. 71.

    Raises ParameterError for anything else, a number outside, or one that comes twice.
    """
    if ids == "all":
        return list(range(NUM_INGREDIENTS))
    numbers: list[int] = []
    for part in ids.split(",") if isinstance(ids, str) else map(str, ids):
        match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part.strip())
        if match is None:
            raise ParameterError(
                f"{part!r} names no ingredients; write all, or numbers and ranges such as 0-12,43."
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= NUM_INGREDIENTS or first > last:
            raise ParameterError(
                f"{part.strip()!r} names no ingredients; they are 0 to {NUM_INGREDIENTS - 1}, a range runs upwards."
            )
        numbers += range(first, last + 1)
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice or not numbers:
        named = f"name {twice[0]} twice" if twice else "name none"
        raise ParameterError(
            f"The ids {named}; write all, or each ingredient once, such as 0-12,43."
        )
    return numbers


def _fetch_one(path: Path, record: dict[str, dict[str, Any]], progress: bool, label: str) -> None:
    url, known = f"{RELEASE}/{path.name}", record.get(path.name, {})
    try:
        download(url, path, known.get("bytes"), known.get("sha256"), progress, label)
    except DataError as error:
        raise DataError(f"{error} What was fetched before it is kept (see {PAGE}).") from error
    if path.stat().st_size < LEAST_BYTES:
        size = path.stat().st_size
        path.unlink()
        raise DataError(
            f"{url}: what came has {size} bytes, too few for an ingredient, and was deleted; see {PAGE}."
        )
    record[path.name] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
    _write_record(path.parent, record)


def _check_there(
    paths: Mapping[int, Path], record: dict[str, dict[str, Any]], progress: bool
) -> None:
    """Compare what lies there with the record, and record what is not in it yet: sizes first, which cost nothing."""
    wrong = {
        number: reason
        for number, path in paths.items()
        if (reason := _wrong_size(path, record.get(path.name)))
    }
    if not wrong:
        for number, path in tqdm(
            paths.items(), desc="checking", unit=" files", disable=not progress or not paths
        ):
            known, found = record.get(path.name), hash_file(path)
            if known is None:
                record[path.name] = {"bytes": path.stat().st_size, "sha256": found}
                _write_record(path.parent, record)
            elif found != known["sha256"]:
                wrong[number] = f"its content is not what {RECORD} says"
    if wrong:
        named = "; ".join(
            f"{paths[number]}: {reason}" for number, reason in list(wrong.items())[:8]
        )
        raise DataError(
            f"{named}{'; ...' if len(wrong) > 8 else ''}. Remove {'them' if len(wrong) > 1 else 'it'} and run: radin "
            f"fetch {FOLDER} --ids {','.join(map(str, wrong))}"
        )


def _wrong_size(path: Path, known: Mapping[str, Any] | None) -> str:
    """Why a file cannot be the ingredient, as far as its size tells; "" when it can."""
    size = path.stat().st_size
    if known is not None:
        return (
            ""
            if size == known["bytes"]
            else f"it has {size} bytes, and {RECORD} says {known['bytes']}"
        )
    if size < LEAST_BYTES:
        return f"it has {size} bytes, too few for an ingredient"
    with open(path, "rb") as file:
        packed = file.read(2) == b"PK"
    if packed and not zipfile.is_zipfile(path):  # the table of contents stands at the end
        return "it is cut short"
    official = None if offline() else remote_size(f"{RELEASE}/{path.name}")
    return (
        ""
        if official in (None, size)
        else f"it has {size} bytes, and the published file {official}"
    )


def _check_space(place: Path, missing: list[int]) -> None:
    parts = (place / f"model_{number}.pt.part" for number in missing)
    needed = len(missing) * USUAL_BYTES - sum(
        part.stat().st_size for part in parts if part.exists()
    )
    free = shutil.disk_usage(place).free
    if free < needed:
        raise DataError(
            f"{place}: {needed / 1e9:.1f} GB are still to come and {free / 1e9:.1f} GB are free; free some, choose "
            "fewer with --ids, or another folder with --to."
        )


def _read_record(place: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file by name, as they were when it was fetched."""
    path = place / RECORD
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        for known in record.values():
            if type(known["bytes"]) is not int or not re.fullmatch("[0-9a-f]{64}", known["sha256"]):
                raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: no record of sizes and SHA-256 sums; remove it, and what lies beside it is recorded anew."
        ) from error
    return record


def _write_record(place: Path, record: Mapping[str, dict[str, Any]]) -> None:
    ordered = {name: record[name] for name in sorted(record, key=lambda name: (len(name), name))}
    with atomic_path(place / RECORD) as temporary:
        temporary.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


def _several(names: Iterable[str]) -> str:
    listed = list(names)
    return f"{', '.join(listed[:4])}{', ...' if len(listed) > 4 else ''} {'is' if len(listed) == 1 else 'are'}"
