"""How long each notebook took, and on what: only this page and the search index differ from build to build."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from notebook_page import device_in_use, installed_version
from parameters import list_table
from radin.inference.devices import machine_memory_bytes


class Times:
    """Seconds that each notebook ran, and how many files it had to make that a later run finds again."""

    def __init__(self, cache: Path):
        self.cache = cache
        self.rows: list[tuple[str, float, int]] = []

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Measure the block; one that fails leaves no row."""
        before, started = count_files(self.cache), time.monotonic()
        yield
        self.rows.append((name, time.monotonic() - started, count_files(self.cache) - before))

    def page(self) -> str:
        """Hardware and times as Markdown, for the foot of the page."""
        rows = [
            [f"[](../{name})", f"{seconds:.0f}", cache_words(made)]
            for name, seconds, made in self.rows
        ]
        total = sum(seconds for _, seconds, _ in self.rows)
        rows.append(["**All notebooks**", f"**{total:.0f}**", ""])
        head = ["Page", "Seconds", "What the page needed of earlier work"]
        return f"{hardware()}\n\n{list_table([head, *rows], 'Execution times of this build', 'tab-times')}\n"


def cache_words(made: int) -> str:
    return (
        "found it all"
        if made <= 0
        else f"made {made} file{'s' * (made > 1)} that the next build finds"
    )


def count_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def hardware() -> str:
    """This machine in a definition list."""
    import torch

    facts = {
        "Processor": processor(),
        "Threads": f"{os.cpu_count()} in the machine, {torch.get_num_threads()} used by torch",
        "Memory": memory(),
        "Device": device_in_use("auto"),
        "System": f"{platform.system()}, Python {platform.python_version()}",
        "Versions": ", ".join(
            f"{package} {installed_version(package)}" for package in ("torch", "numpy", "radin")
        ),
    }
    return "\n\n".join(f"{name}\n: {value}" for name, value in facts.items())


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        named = re.search(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE
        )
    except OSError:  # not Linux
        named = None
    return named[1] if named else platform.processor() or platform.machine()


def memory() -> str:
    known = machine_memory_bytes()
    return f"{known / 2**30:.0f} GiB" if known else "unknown"
