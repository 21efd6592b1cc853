"""Logits that arrive batch by batch, kept on disk as they come, so that a killed run goes on where it stopped."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from radin.errors import RadinError
from radin.files import lock

_HEAD = 8  # bytes that say how many classes a row has


class Rows:
    """Logits and labels of one network on the first images of a split.

    A row is appended as soon as it is known; one that a killed run has cut short does not count. One process writes
    a file at a time: a second one, and a run without a file, keep theirs in memory.

    Args:
        path: of the file; None keeps the rows in memory.
        dtype: of the logits, torch.float32 or torch.float16.

    Raises RadinError, naming the file, when the system refuses to write; the rows before stay.
    """

    def __init__(self, path: Path | None, dtype: torch.dtype) -> None:
        self.path, self.dtype = path, dtype
        self._file: BinaryIO = io.BytesIO()
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (`close` closes it)
            except OSError as error:
                raise RadinError(
                    f"{path}: could not be opened ({error.strerror}); choose another place."
                ) from error
            if lock(self._file, wait=False) is False:
                self._file.close()
                self.path, self._file = None, io.BytesIO()
        head = self._read(0, _HEAD)
        self._classes = int.from_bytes(head, "little") if len(head) == _HEAD else 0

    def __len__(self) -> int:
        """Whole rows that are there."""
        size = self._file.seek(0, io.SEEK_END)
        return (size - _HEAD) // self._row().itemsize if self._classes else 0

    def append(self, logits: Tensor, labels: Tensor) -> None:
        """Add logits (batch, C) and labels (batch,)."""
        rows = len(self)
        try:
            if rows == 0:
                self.cut(0)
                self._classes = logits.shape[1]
                self._file.write(self._classes.to_bytes(_HEAD, "little"))
            block = np.empty(len(labels), self._row())
            block["label"] = labels.numpy()
            block["logits"] = logits.to("cpu", self.dtype).numpy()
            if rows:
                self.cut(rows)
            content = memoryview(block.tobytes())
            while len(content):  # a system may take less than it is given at once
                content = content[self._file.write(content) :]
        except OSError as error:
            raise self._refused(error) from error

    def cut(self, count: int) -> None:
        """Keep the first rows only, and go on behind them."""
        end = _HEAD + count * self._row().itemsize if count else 0
        self._classes = self._classes if count else 0  # the next rows may have another number
        self._file.truncate(end)
        self._file.seek(end)

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """Logits (count, C) and labels (count,) of the first rows."""
        row = self._row()
        block = np.frombuffer(self._read(_HEAD, count * row.itemsize), row)
        return torch.from_numpy(block["logits"].copy()), torch.from_numpy(block["label"].copy())

    def close(self) -> None:
        """Let go of the file, so that other processes may go on with it; one without a row is removed."""
        if self.path is not None and not self._file.closed and len(self) == 0:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def discard(self) -> None:
        """Close and remove the file."""
        if self.path is not None and not self._file.closed:
            self.path.unlink(
                missing_ok=True
            )  # while it is locked: afterwards it might be another process's
        self._file.close()

    def _row(self) -> np.dtype:
        return np.dtype(
            [
                ("label", "<i8"),
                ("logits", "<f2" if self.dtype == torch.float16 else "<f4", self._classes),
            ]
        )

    def _read(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        parts = []
        while length and (
            part := self._file.read(length)
        ):  # a system may give less than asked for, as 2 GB and more
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _refused(self, error: OSError) -> RadinError:
        return RadinError(
            f"{self.path}: could not be written ({error.strerror}); free some space or choose another place. What has "
            "been predicted is kept, so the same call goes on from there."
        )
