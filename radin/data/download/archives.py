"""Archives, read without trusting them, and sorted into folders of images."""

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

from radin.data.download.classes import class_names
from radin.errors import DataError

MAX_MEMBER_BYTES = 1 << 26  # of one file in an archive: twice the largest in the official ones
MAX_GROWTH = 20  # times the archive's own size; images hardly shrink, so more is an attack
_DAMAGE_ERRORS = (  # what readers of archives raise: gzip an OSError, a password a RuntimeError
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
    """The files of a tar or zip archive whose whole name matches a pattern: match and content.

    Nothing is written: the caller decides from the groups of the match where a file goes.

    Raises:
        DataError: the archive is damaged or made to do harm: a name that leads out of the folder,
            a link, a device, or far more content than its size allows.
    """
    bytes_left = MAX_GROWTH * archive.stat().st_size + MAX_MEMBER_BYTES
    for name, num_bytes, is_file, read in _entries(archive):
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in name or not is_file:
            raise DataError(
                f"{archive}: {name!r} leads out of the archive, so the archive is not used; "
                "download it again."
            )
        bytes_left -= num_bytes
        if num_bytes > MAX_MEMBER_BYTES or bytes_left < 0:
            raise DataError(
                f"{archive}: {name!r} is larger than any file of the official archive; download "
                "it again."
            )
        if match := re.fullmatch(pattern, name):
            with _damage_errors(archive):
                content = read()
            yield match, content


def _entries(archive: Path) -> Iterator[tuple[str, int, bool, Callable[[], bytes]]]:
    """Of each entry but folders: name, bytes, whether it is a plain file, and how to read it."""
    with _damage_errors(archive):
        if zipfile.is_zipfile(archive):
            yield from _zip_entries(archive)
        else:
            yield from _tar_entries(archive)


def _zip_entries(archive: Path) -> Iterator[tuple[str, int, bool, Callable[[], bytes]]]:
    plain_modes = (0, stat.S_IFREG, stat.S_IFDIR)  # 0: made on a system without modes
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            is_plain = stat.S_IFMT(info.external_attr >> 16) in plain_modes
            if not (is_plain and info.is_dir()):
                yield info.filename, info.file_size, is_plain, partial(zipped.read, info)


def _tar_entries(archive: Path) -> Iterator[tuple[str, int, bool, Callable[[], bytes]]]:
    with tarfile.open(archive) as tar:
        for entry in tar:
            if not entry.isdir():
                yield entry.name, entry.size, entry.isreg(), partial(_read_entry, tar, entry)


def _read_entry(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(entry)
    assert file is not None  # links and devices are refused before
    return file.read()


@contextmanager
def _damage_errors(archive: Path) -> Iterator[None]:
    """Raise what the readers of archives raise as a DataError that names the archive."""
    try:
        yield
    except _DAMAGE_ERRORS as error:
        raise DataError(
            f"{archive}: a damaged archive ({error}); remove it and download it again."
        ) from error


# Into folders of images --------------------------------------------------------------------------

_CIFAR10_RECORD_BYTES = 1 + 3 * 32 * 32  # a label, then the red, green and blue pixels row by row


def arrange_cifar10(archive: Path, folder: Path, progress: bool) -> None:
    """The records of the binary version as PNGs (the Python version is a pickle, hence code)."""
    from PIL import Image

    pattern = r"cifar-10-batches-bin/(data_batch_[1-5]|test_batch)\.bin"
    batches = {match[1]: content for match, content in members(archive, pattern)}
    classes = class_names("cifar10")
    num_saved: dict[Path, int] = {}
    for batch in tqdm(sorted(batches), desc="unpacking cifar10", disable=not progress):
        part = "test" if batch == "test_batch" else "train"
        for record in _cifar10_records(archive, batch, batches[batch]):
            class_folder = folder / part / classes[record[0]]
            class_folder.mkdir(parents=True, exist_ok=True)
            number = num_saved.get(class_folder, 0)
            num_saved[class_folder] = number + 1
            pixels = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
            Image.fromarray(pixels).save(class_folder / f"{number:04d}.png")


def _cifar10_records(archive: Path, batch: str, content: bytes) -> np.ndarray:
    """The records of a batch, (n, 3073) bytes, with labels that have a class."""
    if len(content) % _CIFAR10_RECORD_BYTES:
        raise DataError(
            f"{archive}: {batch}.bin is no sequence of CIFAR-10 records; download the archive "
            "again."
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, _CIFAR10_RECORD_BYTES)
    if len(records) and (label := records[:, 0].max()) >= len(class_names("cifar10")):
        raise DataError(
            f"{archive}: {batch}.bin holds the label {label}; download the archive again."
        )
    return records


def arrange_tiny_imagenet(archive: Path, folder: Path, progress: bool) -> None:
    """The JPEGs as they are; those of `val` go to the class that a list in the archive names."""
    lists = members(archive, r"tiny-imagenet-200/val/val_annotations\.txt")
    lines = [
        line.split("\t")
        for _, content in lists
        for line in content.decode("utf-8", "replace").splitlines()
    ]
    wnids = {line[0]: line[1] for line in lines if len(line) > 1}
    classes = class_names("tiny-imagenet")
    pattern = r"tiny-imagenet-200/(?:train/(n\d+)/images|val/images)/(\w+\.JPEG)"
    for match, content in tqdm(
        members(archive, pattern), desc="unpacking tiny-imagenet", disable=not progress
    ):
        wnid = match[1] or wnids.get(match[2], "")
        if wnid not in classes:
            raise DataError(
                f"{archive}: {match[0]} is of none of the 200 classes; download the archive again."
            )
        _write(folder / ("train" if match[1] else "val") / wnid / match[2], content)


def arrange_domainnet(archive: Path, folder: Path, progress: bool) -> None:
    """The images of one domain as they are."""
    domains = "clipart|infograph|painting|quickdraw|real|sketch"
    pattern = rf"({domains})/([\w-]+)/([\w-]+\.(?:jpe?g|png))"
    for match, content in tqdm(
        members(archive, pattern), desc=f"unpacking {archive.name}", disable=not progress
    ):
        _write(folder / match[1] / match[2] / match[3], content)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
