"""Images that two parts share: copies, links, and what was put into both by mistake."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from radin.files import hash_file

MAX_COMPARED_IMAGES = 200_000  # of two parts together: to look at more would take minutes


def find_copies(images: Sequence[Path], others: Sequence[Path]) -> list[tuple[Path, Path]]:
    """The images that are among the others, byte for byte, each with its copy there.

    Only files whose size occurs on both sides are read.
    """
    with ThreadPoolExecutor(thread_name_prefix="compare") as pool:
        sizes = list(pool.map(_size, images))
        other_sizes = list(pool.map(_size, others))
        shared = (set(sizes) & set(other_sizes)) - {0}
        candidates = [path for path, size in zip(images, sizes, strict=True) if size in shared]
        of_others = [path for path, size in zip(others, other_sizes, strict=True) if size in shared]
        by_hash = dict(zip(pool.map(_hash, of_others), of_others, strict=True))
        hashes = pool.map(_hash, candidates)
        return [
            (path, by_hash[digest])
            for path, digest in zip(candidates, hashes, strict=True)
            if digest in by_hash
        ]


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
                f"not compared with the {len(others):,} images of {name}, which are too many"
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


def _size(path: Path) -> int:
    """Bytes of a file; 0 where it is gone, which is reported when it is read as an image."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _hash(path: Path) -> str:
    """The hash of a file; that of no other where it cannot be read."""
    try:
        return hash_file(path)
    except OSError:
        return f"unreadable: {path}"
