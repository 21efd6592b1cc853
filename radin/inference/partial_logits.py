"""Logits written to disk batch by batch, so that a killed run continues where it stopped."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from radin.errors import RadinError
from radin.files import lock

_HEADER_BYTES = 8  # they hold the number of classes, and the width of targets above it
_WIDTH_SHIFT = 40  # bits of the number of classes


class PartialLogits:
    """Logits and labels of one network on the first images of a split: a row for each image.

    Labels are classes, or targets of regression in floating point: one number or a row of them.

    A row that a killed run has written in part does not count. One process writes a file at a
    time: a second process, and a run without a file, hold their rows in memory.

    Args:
        path: of the file; None holds the rows in memory.
        dtype: of the logits, torch.float32 or torch.float16.

    Raises:
        RadinError: the system refuses to open or write the file; earlier rows stay.
    """

    def __init__(self, path: Path | None, dtype: torch.dtype) -> None:
        self.path = path
        self.dtype = dtype
        self._file: BinaryIO = io.BytesIO()
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (`close` closes it)
            except OSError as error:
                raise RadinError(
                    f"{path}: could not be opened ({error.strerror}); choose another folder, "
                    "with RADIN_CACHE or cache=..."
                ) from error
            if lock(self._file, wait=False) is False:
                self._file.close()
                self.path = None
                self._file = io.BytesIO()
        header = self._read_bytes(0, _HEADER_BYTES)
        is_whole = len(header) == _HEADER_BYTES
        both = int.from_bytes(header, "little") if is_whole else 0
        self._num_classes = both % 2**_WIDTH_SHIFT
        # 0 for classes, 1 for one target of each image, D + 1 for a row of D targets
        self._target_width = both >> _WIDTH_SHIFT

    def __len__(self) -> int:
        """The number of whole rows."""
        size = self._file.seek(0, io.SEEK_END)
        return (size - _HEADER_BYTES) // self._row_dtype().itemsize if self._num_classes else 0

    def append(self, logits: Tensor, labels: Tensor) -> None:
        """Add logits (batch, C) and labels (batch,), or targets (batch,) or (batch, D)."""
        num_rows = len(self)
        try:
            if num_rows == 0:
                self.truncate(0)
                self._num_classes = logits.shape[1]
                self._target_width = _width_of(labels)
                both = (self._target_width << _WIDTH_SHIFT) + self._num_classes
                self._file.write(both.to_bytes(_HEADER_BYTES, "little"))
            rows = np.empty(len(labels), self._row_dtype())
            rows["label"] = labels.numpy()
            rows["logits"] = logits.to("cpu", self.dtype).numpy()
            if num_rows:
                self.truncate(num_rows)
            content = memoryview(rows.tobytes())
            while len(content):  # one call may write less than it is given
                content = content[self._file.write(content) :]
        except OSError as error:
            raise self._write_error(error) from error

    def truncate(self, count: int) -> None:
        """Keep the first `count` rows only; the next ones are appended after them."""
        end = _HEADER_BYTES + count * self._row_dtype().itemsize if count else 0
        self._num_classes = self._num_classes if count else 0  # later rows may have another number
        self._file.truncate(end)
        self._file.seek(end)

    def read(self, count: int) -> tuple[Tensor, Tensor]:
        """Logits (count, C) and labels (count,) of the first rows."""
        dtype = self._row_dtype()
        rows = np.frombuffer(self._read_bytes(_HEADER_BYTES, count * dtype.itemsize), dtype)
        return torch.from_numpy(rows["logits"].copy()), torch.from_numpy(rows["label"].copy())

    def close(self) -> None:
        """Release the file for other processes; a file without a row is removed."""
        if self.path is not None and not self._file.closed and len(self) == 0:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def discard(self) -> None:
        """Close and remove the file."""
        if self.path is not None and not self._file.closed:
            # While it is locked: after that it could be the file of another process.
            self.path.unlink(missing_ok=True)
        self._file.close()

    def _row_dtype(self) -> np.dtype:
        logits_dtype = "<f2" if self.dtype == torch.float16 else "<f4"
        label: tuple[Any, ...] = ("label", "<f8" if self._target_width else "<i8")
        if self._target_width > 1:
            label = (*label, (self._target_width - 1,))
        return np.dtype([label, ("logits", logits_dtype, (self._num_classes,))])

    def _read_bytes(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        parts = []
        # One call may read less than asked for, as with 2 GB and more.
        while length and (part := self._file.read(length)):
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _write_error(self, error: OSError) -> RadinError:
        return RadinError(
            f"{self.path}: could not be written ({error.strerror}); free some space or choose "
            "another folder. What has been predicted is kept, so the same call continues from "
            "there."
        )


def _width_of(labels: Tensor) -> int:
    """0 for classes (batch,), 1 for targets (batch,), D + 1 for targets (batch, D)."""
    if not labels.is_floating_point():
        return 0
    return 1 if labels.ndim == 1 else labels.shape[1] + 1
