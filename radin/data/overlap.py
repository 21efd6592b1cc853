"""Images that two parts share: copies, links, and what was put into both by mistake."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from radin.files import hash_file

MAX_COMPARED_IMAGES = 100_000  # of two parts together: to look at more would take minutes
_PATHS_PER_TASK = 256
_NUM_LAST_BYTES = 64  # of compressed pixels, which differ between images


def find_copies(images: Sequence[Path], others: Sequence[Path]) -> list[tuple[Path, Path]]:
    """The images that are among the others, byte for byte, each with its copy there.

    Few files are read: those whose size occurs on both sides, and in full only those whose last
    bytes do, too.
    """
    for key in (_size, _last_bytes, _hash):
        keys = _in_threads(key, images)
        other_keys = _in_threads(key, others)
        shared = set(keys) & set(other_keys) - {None}
        images = [path for path, each in zip(images, keys, strict=True) if each in shared]
        of_key = {k: path for path, k in zip(others, other_keys, strict=True) if k in shared}
        others = [path for path, each in zip(others, other_keys, strict=True) if each in shared]
    found = [each for each in keys if each in shared]
    return [(path, of_key[digest]) for path, digest in zip(images, found, strict=True)]


def _in_threads(function: Callable[[Path], Hashable], paths: Sequence[Path]) -> list[Hashable]:
    """The function of each path. A shared file system is slow for a single reader."""
    chunks = [paths[k : k + _PATHS_PER_TASK] for k in range(0, len(paths), _PATHS_PER_TASK)]
    with ThreadPoolExecutor(thread_name_prefix="compare") as pool:
        results = pool.map(lambda chunk: [function(path) for path in chunk], chunks)
        return [each for result in results for each in result]


def find_same_files(images: Iterable[Path], others: Iterable[Path]) -> list[Path]:
    """The images that are among the others under any name: links lead to one file."""
    of_others = {_identity(path) for path in others} - {None}
    return [path for path in images if _identity(path) in of_others]


def describe_copies(images: Sequence[Path], parts: Mapping[str, Sequence[Path]]) -> list[str]:
    """A text for each other part that holds copies of these images.

    Args:
        images: of one part.
        parts: the images of the others, by the names that the texts give them.
    """
    texts = []
    for name, others in parts.items():
        if len(images) + len(others) > MAX_COMPARED_IMAGES:
            texts.append(
                f"not compared with {name}: more than {MAX_COMPARED_IMAGES:,} images together"
            )
            continue
        if copies := find_copies(images, others):
            one, other = copies[0]
            texts.append(
                f"{len(copies):,} of these images are in {name}, too, such as {one} and {other}"
            )
    return texts


def _identity(path: Path) -> tuple[int, int] | None:
    """What two names of one file have in common; None where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


# Keys that files of equal content share. They are None for a file that is empty or cannot be read,
# which is reported when it is read as an image.


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size or None
    except OSError:
        return None


def _last_bytes(path: Path) -> tuple[int, bytes] | None:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _NUM_LAST_BYTES))
            return size, file.read(_NUM_LAST_BYTES)
    except OSError:
        return None


def _hash(path: Path) -> str | None:
    try:
        return hash_file(path)
    except OSError:
        return None
