"""Where mapped tensors are in their files (Linux).

Reading a file is faster than reading its memory mapping, and the pages it reads do not count as
this process's memory.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from bisect import bisect_right
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from radin.errors import CheckpointError

Array = np.ndarray[Any, Any]


class MappedFile(NamedTuple):
    """A range of this process's memory that shows a file.

    Attributes:
        start, stop: addresses.
        offset: of `start` in the file.
        inode, path: of the file.
    """

    start: int
    stop: int
    offset: int
    inode: int
    path: str


class FileRegion(NamedTuple):
    """An open file from an offset on."""

    path: str
    descriptor: int
    offset: int

    def read(self, start: int, target: Array) -> None:
        """Fill a flat array of bytes with the file's content from `offset + start` on.

        Raises:
            CheckpointError: the system cannot read the file, or it has become shorter.
        """
        num_read = 0
        while num_read < len(target):
            position = self.offset + start + num_read
            try:
                count = os.preadv(self.descriptor, [target[num_read:].data], position)
            except OSError as error:
                raise CheckpointError(
                    f"{self.path}: cannot be read ({error.strerror}); copy it again."
                ) from error
            if not count:
                raise CheckpointError(
                    f"{self.path}: has become shorter while it was read; copy or make it again."
                )
            num_read += count


class FileRegions:
    """Finds the file regions of tensors that are mapped when this is made.

    It is a context that closes the files. A tensor has no region if it is not mapped, or if its
    mapping was written to. On systems other than Linux no tensor has one.
    """

    def __init__(self) -> None:
        self._mapped = sorted(_mapped_files())
        self._starts = [mapped.start for mapped in self._mapped]
        self._descriptors: dict[MappedFile, int | None] = {}

    def __enter__(self) -> FileRegions:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors.values():
            if descriptor is not None:
                os.close(descriptor)
        self._descriptors.clear()

    def find(self, tensor: Tensor) -> FileRegion | None:
        """The region that begins with a contiguous tensor's first byte."""
        mapped = self._mapped_file(tensor)
        if mapped is None:
            return None
        if mapped not in self._descriptors:
            self._descriptors[mapped] = _open(mapped)
        descriptor = self._descriptors[mapped]
        if descriptor is None:
            return None
        offset = mapped.offset + tensor.data_ptr() - mapped.start
        return FileRegion(mapped.path, descriptor, offset)

    def release(self, tensor: Tensor) -> None:
        """Free the memory of everything that is mapped together with a tensor.

        Its content is read from the file again when it is used.
        """
        mapped = self._mapped_file(tensor)
        madvise = _madvise()
        if mapped is not None and madvise is not None:
            madvise(mapped.start, mapped.stop - mapped.start, mmap.MADV_DONTNEED)

    def _mapped_file(self, tensor: Tensor) -> MappedFile | None:
        i = bisect_right(self._starts, tensor.data_ptr()) - 1
        if i < 0 or not tensor.is_contiguous():
            return None
        mapped = self._mapped[i]
        return mapped if tensor.data_ptr() + tensor.nbytes <= mapped.stop else None


def _open(mapped: MappedFile) -> int | None:
    """The descriptor of a mapped file, or None if another file has its path now."""
    try:
        descriptor = os.open(mapped.path, os.O_RDONLY)
    except OSError:
        return None
    if os.fstat(descriptor).st_ino == mapped.inode:
        return descriptor
    os.close(descriptor)
    return None


def _mapped_files() -> list[MappedFile]:
    """The mapped files of this process.

    Without those of which a page was written to: this page belongs to the process, and the file
    does not have it.
    """
    mapped: list[MappedFile] = []
    is_file = False
    try:
        with open("/proc/self/smaps", "rb") as lines:
            for line in lines:
                name, _, rest = line.partition(b" ")
                if not name.endswith(b":"):  # start-stop, permissions, offset, device, inode, path
                    fields = rest.split(None, 4)
                    is_file = len(fields) == 5 and fields[3] != b"0"
                    if is_file:
                        start, stop = (int(address, 16) for address in name.split(b"-"))
                        offset = int(fields[1], 16)
                        path = os.fsdecode(fields[4].rstrip(b"\n"))
                        mapped.append(MappedFile(start, stop, offset, int(fields[3]), path))
                elif is_file and name in (b"Anonymous:", b"Swap:") and rest.split()[0] != b"0":
                    is_file = False
                    mapped.pop()
    except OSError:
        return []
    return mapped


@cache
def _madvise() -> Any:
    if sys.platform != "linux":
        return None
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return madvise
