"""Archives read without being trusted, and sorted into folders of images."""

from __future__ import annotations

import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from radin.data.download import class_names
from radin.errors import DataError

LARGEST_MEMBER = (
    1 << 26
)  # bytes of one file in an archive: twice the largest that the known ones hold
LARGEST_GROWTH = 20  # times the archive's own size; images hardly shrink, so more is a bomb
_DAMAGE = (  # what the readers of archives raise: OSError from gzip, RuntimeError for a password
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


def members(archive: Path, pattern: str) -> Iterator[tuple[re.Match[str], bytes]]:
    """The files of a tar or zip archive whose whole name fits a pattern: the match and the content.

    Nothing is written: where a file goes is for the caller to say, from the groups of the match.

    Raises DataError when the archive is damaged, or made to do harm: a name that leads out of the folder, a link, a
    device, or far more content than its size allows.
    """
    left = LARGEST_GROWTH * archive.stat().st_size + LARGEST_MEMBER
    for name, size, ordinary, read in _entries(archive):
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in name or not ordinary:
            raise DataError(
                f"{archive}: {name!r} leads out of the archive, so nothing of it is used; get it anew."
            )
        left -= size
        if size > LARGEST_MEMBER or left < 0:
            raise DataError(
                f"{archive}: {name!r} is larger than anything it should hold; get it anew."
            )
        if match := re.fullmatch(pattern, name):
            with _damage_named(archive):
                content = read()
            yield match, content


def _entries(archive: Path) -> Iterator[tuple[str, int, bool, Callable[[], bytes]]]:
    """Of each file in an archive: name, size, whether it is neither link nor device, and how to read it."""
    with _damage_named(archive):
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                for info in zipped.infolist():
                    ordinary = stat.S_IFMT(info.external_attr >> 16) in (
                        0,
                        stat.S_IFREG,
                        stat.S_IFDIR,
                    )
                    if not (ordinary and info.is_dir()):
                        yield info.filename, info.file_size, ordinary, partial(zipped.read, info)
            return
        with tarfile.open(archive) as tar:
            for entry in tar:
                if not entry.isdir():
                    yield entry.name, entry.size, entry.isreg(), partial(_read_entry, tar, entry)


def _read_entry(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(entry)
    assert file is not None  # links and devices are refused before
    return file.read()


@contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise DataError(
            f"{archive}: a damaged archive ({error}); remove it and get it anew."
        ) from error


# Into folders of images --------------------------------------------------------------------------

_CIFAR10_RECORD = (
    1 + 3 * 32 * 32
)  # bytes: a label, then the red, the green and the blue pixels, row by row


def arrange_cifar10(archive: Path, folder: Path, progress: bool) -> None:
    """The records of the binary version as PNGs (the Python version is a pickle, which can run code)."""
    from PIL import Image

    pattern = r"cifar-10-batches-bin/(data_batch_[1-5]|test_batch)\.bin"
    batches = {match[1]: content for match, content in members(archive, pattern)}
    count: dict[Path, int] = {}
    for batch in tqdm(sorted(batches), desc="unpacking cifar10", disable=not progress):
        if len(batches[batch]) % _CIFAR10_RECORD:
            raise DataError(
                f"{archive}: {batch}.bin is no sequence of CIFAR-10 records; get the archive anew."
            )
        for record in np.frombuffer(batches[batch], dtype=np.uint8).reshape(-1, _CIFAR10_RECORD):
            if record[0] >= len(class_names.CIFAR10):
                raise DataError(
                    f"{archive}: {batch}.bin holds the label {record[0]}; get the archive anew."
                )
            place = (
                folder
                / ("test" if batch == "test_batch" else "train")
                / class_names.CIFAR10[record[0]]
            )
            place.mkdir(parents=True, exist_ok=True)
            number = count[place] = count.get(place, -1) + 1
            Image.fromarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0)).save(
                place / f"{number:04d}.png"
            )


def arrange_tiny_imagenet(archive: Path, folder: Path, progress: bool) -> None:
    """The JPEGs as they are; those of `val` go to the class that a list in the archive names."""
    lists = members(archive, r"tiny-imagenet-200/val/val_annotations\.txt")
    lines = [
        line.split("\t")
        for _, content in lists
        for line in content.decode("utf-8", "replace").splitlines()
    ]
    wnids = {line[0]: line[1] for line in lines if len(line) > 1}
    pattern = r"tiny-imagenet-200/(?:train/(n\d+)/images|val/images)/(\w+\.JPEG)"
    for match, content in tqdm(
        members(archive, pattern), desc="unpacking tiny-imagenet", disable=not progress
    ):
        wnid = match[1] or wnids.get(match[2], "")
        if wnid not in class_names.TINY_IMAGENET:
            raise DataError(f"{archive}: {match[0]} is of no known class; get the archive anew.")
        _write(folder / ("train" if match[1] else "val") / wnid / match[2], content)


def arrange_domainnet(archive: Path, folder: Path, progress: bool) -> None:
    """The images of one domain as they are."""
    pattern = r"(clipart|infograph|painting|quickdraw|real|sketch)/([\w-]+)/([\w-]+\.(?:jpe?g|png))"
    for match, content in tqdm(
        members(archive, pattern), desc=f"unpacking {archive.name}", disable=not progress
    ):
        _write(folder / match[1] / match[2] / match[3], content)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
