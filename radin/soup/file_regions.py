"""Where in their files mapped tensors lie: a file is read faster than its mapping, and keeps no memory (Linux)."""

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


class Region(NamedTuple):
    """A stretch of this process's memory that is a file's content: from `start` to `stop`, the file from `offset`."""

    start: int
    stop: int
    offset: int
    inode: int
    path: str


class Places:
    """The places in their files of the tensors that are mapped when this is made; a context that closes the files.

    A tensor that was not mapped, or whose mapping was written into, has none; nor has any where the system is not
    Linux, or does not tell.
    """

    def __init__(self) -> None:
        self._regions = sorted(_regions())
        self._starts = [region.start for region in self._regions]
        self._files: dict[Region, int | None] = {}

    def __enter__(self) -> Places:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._files.values():
            if descriptor is not None:
                os.close(descriptor)
        self._files.clear()

    def find(self, tensor: Tensor) -> Place | None:
        """Where a contiguous tensor begins in its file."""
        region = self._region(tensor)
        if region is None:
            return None
        if region not in self._files:
            self._files[region] = _open(region)
        descriptor = self._files[region]
        if descriptor is None:
            return None
        return Place(region.path, descriptor, region.offset + tensor.data_ptr() - region.start)

    def release(self, tensor: Tensor) -> None:
        """Let go of the memory of all that is mapped together with a tensor; what is used again is read again."""
        region, madvise = self._region(tensor), _madvise()
        if region is not None and madvise is not None:
            madvise(region.start, region.stop - region.start, mmap.MADV_DONTNEED)

    def _region(self, tensor: Tensor) -> Region | None:
        at = bisect_right(self._starts, tensor.data_ptr()) - 1
        if at < 0 or not tensor.is_contiguous():
            return None
        region = self._regions[at]
        return region if tensor.data_ptr() + tensor.nbytes <= region.stop else None


class Place(NamedTuple):
    """A place in an open file."""

    path: str
    descriptor: int
    offset: int

    def read(self, start: int, target: Array) -> None:
        """Fill a flat array of bytes with what begins `start` bytes behind this place.

        Raises CheckpointError, naming the file, when the system cannot read it or it has become shorter.
        """
        done = 0
        while done < len(target):
            try:
                count = os.preadv(self.descriptor, [target[done:].data], self.offset + start + done)
            except OSError as error:
                raise CheckpointError(
                    f"{self.path}: cannot be read ({error.strerror}); copy it again."
                ) from error
            if not count:
                raise CheckpointError(
                    f"{self.path}: has become shorter while it was read; copy or make it again."
                )
            done += count


def _open(region: Region) -> int | None:
    """The file of a region, open for reading; None where another one has its name by now."""
    try:
        descriptor = os.open(region.path, os.O_RDONLY)
    except OSError:
        return None
    if os.fstat(descriptor).st_ino == region.inode:
        return descriptor
    os.close(descriptor)
    return None


def _regions() -> list[Region]:
    """The mapped files of this process, less those of which a page was written into and is the process's own."""
    regions: list[Region] = []
    mapped = False
    try:
        with open("/proc/self/smaps", "rb") as lines:
            for line in lines:
                name, _, rest = line.partition(b" ")
                if not name.endswith(b":"):  # start-stop, permissions, offset, device, inode, path
                    mapped = False
                    words = rest.split(None, 4)
                    if len(words) == 5 and words[3] != b"0":
                        mapped = True
                        start, stop = (int(word, 16) for word in name.split(b"-"))
                        path = os.fsdecode(words[4].rstrip(b"\n"))
                        regions.append(Region(start, stop, int(words[1], 16), int(words[3]), path))
                elif mapped and name in (b"Anonymous:", b"Swap:") and rest.split()[0] != b"0":
                    mapped = False
                    regions.pop()
    except OSError:
        return []
    return regions


@cache
def _madvise() -> Any:
    if sys.platform != "linux":
        return None
    found = ctypes.CDLL(None).madvise
    found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return found
