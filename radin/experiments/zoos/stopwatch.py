"""How long the making of a zoo takes, added up over runs that were interrupted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from radin.files import atomic_path


@contextmanager
def stopwatch(path: Path) -> Iterator[None]:
    """Add the wall-clock seconds of a block to the number in a file.

    Once the block has come to its end, the number stays: a later call finds its result and takes no
    time. The seconds of a process that is killed inside the block are lost.
    """
    if path.exists():
        yield
        return
    so_far = path.with_suffix(".part")
    started = time.monotonic()
    try:
        yield
    except BaseException:
        _write(so_far, read_seconds(so_far) + time.monotonic() - started)
        raise
    _write(path, read_seconds(so_far) + time.monotonic() - started)
    so_far.unlink(missing_ok=True)


def _write(path: Path, seconds: float) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(f"{seconds:.1f}\n", "utf-8")


def read_seconds(path: Path) -> float:
    """The seconds in a file that `stopwatch` wrote; 0 where there is none."""
    return float(path.read_text("utf-8")) if path.exists() else 0.0
