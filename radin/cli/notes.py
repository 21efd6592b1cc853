"""Notes and errors of the command line, and when it shows progress. Nothing heavy is imported."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from radin.cli.wording import in_options


def show_progress() -> bool:
    """Whether to show progress bars: only where somebody sees them."""
    return sys.stderr.isatty()


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Print each warning of the module as a note, once, and without a line of its source."""
    shown: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *where: Any, **others: Any) -> None:
        if not issubclass(category, UserWarning | RuntimeWarning):
            show_as_before(message, category, *where, **others)
        elif str(message) not in shown:
            shown.add(str(message))
            print_notes(f"note: {str(message).removesuffix('.')}.")

    with warnings.catch_warnings():
        show_as_before = warnings.showwarning
        warnings.showwarning = show
        yield


def print_notes(*lines: str) -> None:
    for line in lines:
        print(escape_names(in_options(line)), file=sys.stderr)


def escape_names(text: str) -> str:
    """The text with escapes for the bytes of file names that are no UTF-8: any stream takes it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
